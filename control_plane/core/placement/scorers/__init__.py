"""Scorers: how good a worker is for a request, in [0, 1]."""
