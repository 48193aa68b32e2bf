"""Serving whole workloads: how many requests a second, how soon, and what adapters cost."""
