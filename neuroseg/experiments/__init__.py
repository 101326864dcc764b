"""Experiments over many networks: cross-validation, its tables and its figures."""
