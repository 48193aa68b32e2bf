"""The engine: continuous batching, one step at a time."""
