"""Fuzz tests: the same inputs every time, and a count of them."""

import sys
from pathlib import Path

try:
    import hypothesis
except ImportError:
    collect_ignore_glob = ["test_*"]  # pip install ".[test]" brings it
else:
    hypothesis.settings.register_profile(
        "fuzz", derandomize=True, deadline=None, database=None, print_blob=True, max_examples=45,
        phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],  # it traces every line
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large])
    hypothesis.settings.load_profile("fuzz")

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib does not: `import strategies` in the tests


def pytest_terminal_summary(terminalreporter):
    judging = sys.modules.get("judging")
    if judging and judging.JUDGED:
        terminalreporter.write_line(f"fuzz: {sum(judging.JUDGED.values()):,} inputs were judged")
