"""Measures of what a model makes of held-out data, each with where it comes from."""
