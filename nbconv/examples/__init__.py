"""Whole programs built on nbconv; `python -m nbconv` runs them."""
