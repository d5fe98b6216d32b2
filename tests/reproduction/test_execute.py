"""What a sweep does with its runs: order, failure, interruption and going on, with stand-ins for the two commands."""

import fcntl
import json
import multiprocessing
import os
import signal
import time

import pytest

from atlas_fast import reproduce, sweep
from atlas_fast.errors import UserError, run_cli

FACTS = {"num_classes": 10, "in_channels": 1, "image_pixels": 8}  # of the data, which config.json holds too


def trained(ledger):
    return [name for kind, name, resumed in ledger if kind == "train"]


def test_a_grid_with_seeds_runs_each_once_and_ends_with_the_table(fake, tmp_path, capsys):
    words = ["--grid", "alpha=1e-3,1e-2", "--seeds", "0,1", "--out", "s"]
    assert sweep.main(words) == 0
    names = [f"digits-atlas-alpha={alpha}-seed={seed}" for seed in (0, 1) for alpha in ("0.001", "0.01")]
    assert trained(fake()) == names
    assert sweep.main(words) == 0 and len(fake()) == 4  # finished: nothing starts again
    row = json.loads((tmp_path / "s" / "results.json").read_text())["rows"][1]
    assert row["options"]["alpha"] == 0.01 and row["cells"]["clean"]["values"] == pytest.approx([0.8, 0.9])
    assert row["cells"]["clean"]["std"] == pytest.approx(0.1 / 2 ** 0.5) and row["cells"]["clean"]["n"] == 364
    assert row["cells"]["validation"]["mean"] == pytest.approx(0.35) and row["cells"]["time"]["mean"] == 0.02
    text = (tmp_path / "s" / "results.md").read_text()
    assert text in capsys.readouterr().out
    cells = [cell.strip() for cell in text.splitlines()[3].split("|")[1:-1]]
    assert cells == ["0.01", "35.00 ± 7.07", "85.00 ± 7.07", "55.00 ± 7.07", "0.02 s", "2"]
    lines = (tmp_path / "s" / "results.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("run,alpha,validation mean,validation std,clean mean")


def test_a_run_that_fails_is_named_and_the_others_go_on(fake, tmp_path, capsys):
    words = ["--grid", "method=trades,adv", "--attacks", "pgd-5", "--out", "s"]
    assert sweep.main(words) == 1
    assert [entry[:2] for entry in fake()] == [["train", "digits-trades-seed=0"], ["train", "digits-adv-seed=0"],
                                               ["evaluate", "digits-adv-seed=0"]]
    out = capsys.readouterr().out
    assert "FAILED: the loss is not finite in epoch 1" in out and "failed: run, seed 0: the loss is not finite" in out
    rows = json.loads((tmp_path / "s" / "results.json").read_text())["rows"]
    assert rows[0]["cells"]["clean"] is None and rows[1]["cells"]["pgd-5"]["mean"] == 0.25
    assert "0 of 1" in out
    assert sweep.main(words) == 1 and len(trained(fake())) == 3  # the one that failed is tried again, the other is not


def test_attacks_that_are_missing_are_added_without_training(fake):
    words = ["--method", "adv", "--out", "s", "--attacks"]
    assert sweep.main([*words, "pgd-5"]) == 0 and sweep.main([*words, "pgd-5", "fgsm", "--limit", "40"]) == 0
    assert [kind for kind, *_ in fake()] == ["train", "evaluate", "evaluate"]  # pgd-5 on all images is enough


def in_a_child(words):
    """Run the sweep in a forked process."""
    child = multiprocessing.get_context("fork").Process(target=lambda: run_cli(lambda: sweep.main(words)))
    child.start()
    return child


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_started_again_it_trains_nothing_twice(number, fake, tmp_path):
    words = ["--grid", "epochs=3,99", "--method", "adv", "--out", "s"]
    hanging = tmp_path / "s" / "runs" / "digits-adv-epochs=99-seed=0"
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it
    try:
        child = in_a_child(words)
        wait_for(lambda: (hanging / "log.jsonl").exists() and (hanging / "log.jsonl").read_text().count("\n") == 2)
        os.kill(child.pid, number)
        child.join(30)
        assert child.exitcode == 130
        assert (tmp_path / "s" / "results.md").read_text().count("0 of 1") == 1  # redrawn with what there is
        with open(hanging / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its own child has ended
        (hanging / "log.jsonl").write_text((hanging / "log.jsonl").read_text() * 49)  # 98 epochs
        assert sweep.main(words) == 0
    finally:
        signal.signal(signal.SIGINT, handler)
    assert fake() == [["train", "digits-adv-epochs=3-seed=0", False], ["train", hanging.name, False],
                      ["train", hanging.name, True]]


def test_killed_outright_its_child_keeps_the_folder_and_is_waited_for(fake, tmp_path, capsys):
    words = ["--grid", "epochs=101,3", "--method", "adv", "--out", "s"]
    slow = tmp_path / "s" / "runs" / "digits-adv-epochs=101-seed=0"
    child = in_a_child(words)
    wait_for(lambda: (slow / "log.jsonl").exists())
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with open(slow / "log.jsonl", "a") as log:  # the orphan has nearly finished
        log.write("{}\n")
    other = in_a_child(words)
    wait_for(lambda: len(trained(fake())) == 2)  # the free run first
    assert trained(fake())[1] == "digits-adv-epochs=3-seed=0"
    os.kill(other.pid, signal.SIGTERM)
    other.join(30)
    assert other.exitcode == 130


def test_a_training_that_was_killed_before_its_first_checkpoint_begins_again(fake, tmp_path):
    words = ["--method", "adv", "--out", "s"]
    folder = tmp_path / "s" / "runs" / "digits-adv-seed=0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config_of(seed=0, method="adv"), **FACTS}))
    assert sweep.main(words) == 0 and fake() == [["train", folder.name, False]]
    assert not (folder / "config.json").exists()  # `train` would have refused the folder


def config_of(**given):
    from dataclasses import asdict

    from atlas_fast.training.config import resolve
    return asdict(resolve({"dataset": "digits", **given}))


def test_a_folder_trained_with_other_settings_is_refused(fake, tmp_path):
    folder = tmp_path / "s" / "runs" / "digits-adv-seed=0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config_of(seed=0, method="adv"), **FACTS, "lr": 0.123}))
    with pytest.raises(UserError, match="trained with other settings .lr 0.123, now 0.05.; remove it"):
        sweep.main(["--method", "adv", "--out", "s"])
    assert fake() == []


def test_jobs_run_side_by_side_and_share_the_cores(fake, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert sweep.main(["--method", "adv", "--epochs", "20", "--seeds", "0,1,2", "--jobs", "3", "--out", "s"]) == 0
    said = [line.split(": ")[1].split(";")[0] for line in capsys.readouterr().out.splitlines() if "seed " in line]
    assert said == ["training"] * 3 + ["training finished"] * 3
    assert {path.read_text() for path in tmp_path.glob("s/runs/*/threads")} == {"2"}


def test_a_dry_run_starts_nothing(fake, tmp_path, capsys):
    assert sweep.main(["--method", "adv", "--seeds", "0,1", "--attacks", "pgd-5", "--dry-run", "--out", "s"]) == 0
    out = capsys.readouterr().out
    assert out.count("--method adv --seed") == 2 and "then pgd-5" in out and "2 runs, 0 of them finished" in out
    assert fake() == [] and not (tmp_path / "s").exists()


def test_a_report_of_nothing_yet(fake, capsys):
    assert sweep.main(["--method", "adv", "--only-report", "--out", "s"]) == 0
    assert "0 of 1" in capsys.readouterr().out and fake() == []


def test_the_surrogate_comes_first_and_its_failure_is_that_of_the_black_box_alone(fake, tmp_path, capsys):
    words = ["table1", "--dataset", "digits", "--rows", "one-step-adv", "one-step-atlas", "--attacks", "pgd-5",
             "transfer-3", "--out", "r"]
    assert reproduce.main(words) == 0
    kinds = [(kind, name.split("-")[1]) for kind, name, _ in fake()]
    assert kinds == [("train", "plain"), ("train", "adv"), ("evaluate", "adv"), ("evaluate", "adv"), ("train", "atlas"),
                     ("evaluate", "atlas"), ("evaluate", "atlas")]
    report = json.loads((tmp_path / "r" / "table1-digits.json").read_text())
    assert [row["cells"]["transfer"]["ours"]["mean"] for row in report["rows"]] == [0.25, 0.25]
    assert reproduce.main([*words, "--limit", "60"]) == 0 and len(fake()) == 7  # all images were enough
    with pytest.raises(UserError, match="not the folder of a finished run"):
        reproduce.main([*words, "--surrogate", "nowhere"])
    capsys.readouterr()
    assert reproduce.main([*words, "--epochs", "98"]) == 1
    out = capsys.readouterr().out
    assert out.count("failed: one-step") == 2 and out.count("plain-steps=0-epochs=98-seed=1000 failed") == 4
    rows = json.loads((tmp_path / "r" / "table1-digits-epochs=98.json").read_text())["rows"]
    assert [(row["cells"]["transfer"]["ours"], row["cells"]["pgd-5"]["ours"]["mean"]) for row in rows] == [
        (None, 0.25)] * 2


WRONG = [
    (["--grid", "alhpa=1"], "no option 'alhpa'"), (["--nonsense", "1"], "unrecognized arguments"),
    (["--method", "jac", "--grid", "steps=0,1"], "jac has no adversary"), (["--grid", "alpha=-1"], "--alpha must be"),
    (["--grid", "method=adv,mart2"], "--method must be one of"), (["--alpha", "1", "--grid", "alpha=1,2"], "varied"),
    (["--seeds", "a"], "--seeds takes whole numbers"), (["--seeds", "0,0"], "a seed twice"),
    (["--seed", "1"], "--seeds 1"), (["--grid", "seed=1,2"], "--seeds"), (["--attacks", "pgd-x"], "unknown attack"),
    (["--attacks", "pgd-2", "--limit", "0"], "--limit must be"), (["--limit", "9"], "--limit is for"),
    (["--attacks", "transfer"], "needs a surrogate"),
    (["--jobs", "0"], "--jobs must be"), (["--device", "cuda:99"], "--device"),
    (["--device", "cpu,cpu"], "--device takes"), (["--model", "resnet"], "no model"),
    (["--list", "nowhere.json"], "cannot be read"), (["--out", "x", "--list", "a", "--grid", "b=1"], "not both"),
    (["--dataset", "npz", "--data-dir", "nowhere"], "no file or folder nowhere")]


@pytest.mark.parametrize("words, message", WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_use_is_one_sentence_and_starts_nothing(words, message, fake, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_cli(lambda: sweep.main(words))
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("atlas_fast: error: ") and error.count("\n") == 1
    assert message in error and fake() == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words, message", [
    (["table7"], "nothing called"), (["table1"], "--dataset"),
    (["table4", "--alpha", "1"], "--alpha is set by the rows"),
    (["table4", "--seed", "1"], "--seeds"), (["table4", "--rows", "three-step-adv"], "no row is called"),
    (["table4", "--attacks", "pgd"], "unknown attack"), (["table3", "--dataset", "mnist"], "no alpha for tradesjac"),
    (["table4", "--surrogate", "x"], "not among the attacks"), (["figure5", "--step-size", "1"], "--step-size is set")])
def test_wrong_use_of_reproduce(words, message, fake, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_cli(lambda: reproduce.main(words))
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1 and message in error and fake() == []
    assert not (tmp_path / "runs").exists()
