"""Measurements: README.md lists the commands, results/README.md what they gave."""
