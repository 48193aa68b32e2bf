"""The adapter walk: store, host memory, pool."""
