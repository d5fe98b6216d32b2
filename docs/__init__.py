"""Builds the documentation: `python -m docs`."""
