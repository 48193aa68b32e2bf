"""Placement: which worker gets a request. A policy is filters, weighted scorers and a picker.

To add one: write a file in `filters/`, `scorers/` or `pickers/`, and name it in `registry.py`.
"""
