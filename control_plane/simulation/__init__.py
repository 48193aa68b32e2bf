"""Policies tried on a trace in virtual time: the director itself, with workers that are cost models.

`compare` is the way in: a trace, policies and a fleet go in, an outcome for each policy comes out.
"""
