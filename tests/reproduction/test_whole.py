"""Tables and figures from real trainings of a few batches, run in this process: a start of torch takes seconds."""

import importlib
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from atlas_fast import reproduce
from atlas_fast.errors import run_cli
from atlas_fast.reproduction import execute

SMALL = ["--dataset", "digits", "--epochs", "2", "--max-batches", "2", "--limit", "20"]


class InThisProcess:
    """What `execute` needs of a process, the command run at once."""

    def __init__(self, command, output, lock, environment):
        main = importlib.import_module(command[2]).main
        captured = io.StringIO()
        with redirect_stdout(captured), redirect_stderr(captured):
            try:
                run_cli(lambda: main(list(command[3:])))
            except SystemExit as status:
                self.returncode = status.code
        output.write(captured.getvalue())

    def poll(self):
        return self.returncode


@pytest.fixture
def here(monkeypatch, tmp_path, no_curves):
    monkeypatch.setattr(execute, "launch", InThisProcess)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_rows_of_table_1(here, capsys):
    words = ["table1", *SMALL, "--rows", "one-step-adv", "one-step-atlas", "--attacks", "pgd-2", "transfer-2"]
    assert reproduce.main([*words, "--beside", "mnist"]) == 0
    stem = here / "runs" / "reproduce" / "table1-digits-epochs=2-max-batches=2"
    report = json.loads(stem.with_name(stem.name + ".json").read_text())
    assert [row["label"] for row in report["rows"]] == ["one-step ADV", "one-step ATLAS"]
    for row in report["rows"]:
        (run,) = row["runs"]
        log = [json.loads(line) for line in open(os.path.join(run["folder"], "log.jsonl"))]
        assert run["epochs"] == len(log) == 2
        assert row["cells"]["time"]["ours"]["mean"] == pytest.approx(sum(e["ms_per_batch"] for e in log) / 2000)
        evaluation, transfer = sorted(here.joinpath(run["folder"]).glob("evaluation-*.json"))
        measured = json.loads(evaluation.read_text())["attacks"]["pgd-2"]
        assert row["cells"]["pgd-2"]["ours"]["mean"] == measured["robust_accuracy"] and measured["n"] == 20
        settings = json.loads(transfer.read_text())["attacks"]["transfer-2"]["settings"]
        assert settings["steps"] == 2 and settings["step_size"] == 0.01 == measured["settings"]["step_size"]
    assert len(list((here / "runs/reproduce/transfer").iterdir())) == 1  # both rows met the same adversaries
    assert stem.with_name(stem.name + ".png").stat().st_size > 20_000  # the curves of its trainings
    text = stem.with_name(stem.name + ".md").read_text()
    assert "(99.49)" in text and "(96.36)" in text  # the paper's clean and black-box figures beside ours
    for sentence in ("epochs 2 instead of 30", "20 test images drawn by seed 0", "`transfer-2`, in the paper `transfer",
                     "seed 0 alone, so no deviation", "trained plainly (seed 1000)"):
        assert sentence in text
    capsys.readouterr()
    assert reproduce.main([*words, "--beside", "mnist", "--only-report"]) == 0
    assert text in capsys.readouterr().out


def test_a_figure_is_drawn_with_its_numbers(here):
    rows = ["zero-step-jac,-α-0.001", "zero-step-jac,-α-0.01"]
    words = ["figure12", *SMALL, "--rows", *rows, "--attacks", "multitargeted-1-1", "--seeds", "0", "1"]
    assert reproduce.main(words) == 0
    report = json.loads((here / "runs/reproduce/figure12-digits-epochs=2-max-batches=2.json").read_text())
    assert [row["x"] for row in report["rows"]] == [0.001, 0.01]
    assert all(row["cells"]["multitargeted"]["ours"]["seeds"] == 2 for row in report["rows"])
    assert (here / "runs/reproduce/figure12-digits-epochs=2-max-batches=2.png").read_bytes().startswith(b"\x89PNG")


def test_figure_11_draws_the_logs(here):
    assert reproduce.main(["figure11", *SMALL]) == 0
    stem = here / "runs/reproduce/figure11-digits-epochs=2-max-batches=2"
    assert stem.with_name(stem.name + ".png").stat().st_size > 20_000
    logs = json.loads(stem.with_name(stem.name + ".json").read_text())["logs"]
    assert [log["label"] for log in logs] == ["one-step ATLAS, α 0.001, β 1, seed 0", "one-step ATLAS-g, β 1.6, seed 0"]
    for log in logs:
        assert [line["epoch"] for line in log["lines"]] == [1, 2] and log["lines"][0]["jacobian_norm"] > 0


def test_the_command_line_itself(tmp_path):
    words = ["figure11", "--dataset", "digits", "--rows", "one-step-atlas,-α-0.001,-β-1", "--dry-run"]
    done = subprocess.run([sys.executable, "-m", "atlas_fast.reproduce", *words], cwd=tmp_path, text=True,
                          capture_output=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    command = "-m atlas_fast.train --dataset digits --method atlas --steps 1 --alpha 0.001 --beta 1 --seed 0"
    assert command in done.stdout
    assert "1 runs, 0 of them finished; at most about" in done.stdout and list(tmp_path.iterdir()) == []
