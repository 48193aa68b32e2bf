"""The unified page pool and what lies in it."""
