"""Benchmarks; each result stands beside its baseline from the same run."""
