"""Stand-ins for the two commands that a sweep runs: small programs that start in a moment, since torch is not imported.

Their ledger says what was started, so that a test can tell what was done twice."""

import json
import sys

import pytest

from atlas_fast.evaluation import output
from atlas_fast.reproduction import runs
from atlas_fast.training import curves

FAKE = '''
import json, os, pathlib, sys, time
kind, ledger, *argv = sys.argv[1:]
def of(name, default=None):
    return argv[argv.index(name) + 1] if name in argv else default
out = pathlib.Path(of("--out"))
with open(ledger, "a") as file:
    file.write(json.dumps([kind, out.name if kind == "train" else argv[0].split("/")[-1], "--resume" in argv]) + "\\n")
seed, method = int(of("--seed", 0)), of("--method")
if kind == "evaluate":
    names = argv[argv.index("--attacks") + 1:argv.index("--out")]
    results = {name: {"robust_accuracy": 0.25, "n": 50, "settings": {"steps": 5}} for name in names}
    out.write_text(json.dumps({"clean_accuracy": 0.75, "n": 50, "attacks": results}))
    sys.exit()
(out / "threads").write_text(str(os.environ.get("OMP_NUM_THREADS")))
if method == "trades" or (method == "plain" and of("--epochs") == "98"):
    print("some words\\natlas_fast: error: the loss is not finite in epoch 1")
    sys.exit(2)
epochs = int(of("--epochs", 3))
log = out / "log.jsonl"
(out / "last.pt").touch()
for epoch in range(log.read_text().count("\\n") if log.exists() else 0, epochs):
    time.sleep(0.2 if epochs > 99 else 0.02 if epochs < 90 else 0)
    with open(log, "a") as file:
        line = {"epoch": epoch + 1, "robust_accuracy": 0.3 + 0.1 * seed, "clean_accuracy": 0.8,
                "jacobian_norm": 9.0, "ms_per_batch": 20.0}
        file.write(json.dumps(line) + "\\n")
    if epochs == 99 and epoch == 1 and "--resume" not in argv:
        time.sleep(60)
attacks = {"pgd-20": {"robust_accuracy": 0.5 + 0.1 * seed, "settings": {"steps": 20}}}
(out / "summary.json").write_text(json.dumps({
    "clean_accuracy": 0.8 + 0.1 * seed, "n": 364, "best_epoch": epochs, "epochs": epochs,
    "attacks": attacks}))
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put the stand-ins in the place of `train` and `evaluate`; call it for the ledger: [[kind, run, resumed], ...].

    trades fails, and plain with 98 epochs; 99 epochs hang in the second one, unless they are resumed; 100 or more are
    slow."""
    program, ledger = tmp_path / "fake.py", tmp_path / "ledger"
    program.write_text(FAKE)
    for name, kind in (("TRAIN", "train"), ("EVALUATE", "evaluate")):
        monkeypatch.setattr(runs, name, (sys.executable, "-S", str(program), kind, str(ledger)))
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing and the page of an evaluation take longer than all else in a small run."""
    monkeypatch.setattr(curves, "draw", lambda *arguments: None)
    monkeypatch.setattr(output, "write_report", lambda *arguments: None)
    monkeypatch.setattr(output.pictures, "grid", lambda *arguments: None)
