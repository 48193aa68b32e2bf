"""Placement: which worker gets a request."""
