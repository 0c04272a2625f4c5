"""Thin adapters to programs outside Jupyter: one optional dependency, one file."""
