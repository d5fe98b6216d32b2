"""The results' page says what the records hold."""

import shutil

import pytest

from bench import harness, report


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    environment = {"processor": "A processor", "device": "cpu", "threads": 1, "torch": "2.x", "isa": "some",
                   "commit": "abc", "date": "2026-01-01"}
    monkeypatch.setattr(harness, "environment", lambda device: dict(environment))
    rows = [{"model": "m", "method": "atlas", "batch": 4, "variant": "sweeps float32", "ms": 2.0, "ratio": 1.5}]
    harness.save("step", "cpu", rows, ("model", "method", "batch", "variant"))
    environment["commit"] = "def"
    harness.save("step", "cpu", [{**rows[0], "batch": 8, "ms": 3.0}], ("model", "method", "batch", "variant"))
    harness.save("profile", "cpu", [{"model": "m", "ms": 4.0, "kinds": {"sums": {"ms": 1.0, "launches": 2.0}}}],
                 ("model",))
    (tmp_path / "optimisations.md").write_text("## Optimisations\nkept\n")
    return tmp_path


def test_page(folder):
    text = report.page(folder)
    assert "| m | atlas | 4 | sweeps float32 | 2 | 1.5 | A |" in text
    assert "| m | atlas | 8 | sweeps float32 | 3 | 1.5 | B |" in text
    assert "- B: A processor, some, threads: 1, torch 2.x, commit def, 2026-01-01" in text
    assert "| m | sums | 1 | 0.25 | 2 | A |" in text and text.endswith("## Optimisations\nkept\n")
    assert "peak MiB" not in text  # a column that no row fills


def test_notes_stand_below_their_table(folder):
    harness.save("ranks", "cpu", [{"model": "m", "variant": "one", "ms": 1.0}], ("model", "variant"))
    assert report.NOTES["ranks"] in report.page(folder)


def test_check(folder, capsys):
    assert report.main(["--check"]) == 1 and "run python -m bench.report" in capsys.readouterr().out
    assert report.main([]) == 0 and report.main(["--check"]) == 0
    assert (folder / "README.md").read_text() == report.page(folder)


def test_the_repository_has_a_page_for_its_records(tmp_path):
    for path in (harness.FOLDER / "results").glob("*"):
        shutil.copy(path, tmp_path)
    text = report.page(tmp_path)
    for path in tmp_path.glob("*.json"):
        assert any(path.stem.startswith(name) for name in report.QUESTIONS), f"{path.name} is on no page"
    assert "## A training step: cpu" in text and "## Operations: cpu" in text
