"""Fuzz tests: the same inputs every time, and a count of them."""

import sys
from collections import Counter
from pathlib import Path

import pytest

hypothesis = pytest.importorskip("hypothesis")

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib does not: `import strategies` in the tests

hypothesis.settings.register_profile(
    "fuzz", derandomize=True, deadline=None, database=None, print_blob=True, max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large])
hypothesis.settings.load_profile("fuzz")

JUDGED = Counter()
"""Inputs that got the right answer or the right refusal: {test: number}. hypothesis' own retries count as it runs
them."""


@pytest.fixture(scope="session")
def judged() -> Counter:
    return JUDGED


def pytest_terminal_summary(terminalreporter):
    if JUDGED:
        terminalreporter.write_line(f"fuzz: {sum(JUDGED.values())} inputs were judged")
