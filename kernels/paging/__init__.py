"""Writes to the page pool."""
