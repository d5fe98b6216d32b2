"""Measurements: `pytest bench` (pytest-benchmark), `python -m bench.operations`, `python -m bench.step`."""
