"""Pickers: which of the scored workers gets the request."""
