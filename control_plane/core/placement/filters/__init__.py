"""Filters: which workers can take a request at all."""
