"""python -m atlas_fast.evaluate RUN_DIR, and the name atlas_fast.evaluate."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from atlas_fast.errors import UserError


@pytest.fixture
def evaluate_cli():
    """The module: the name atlas_fast.evaluate is the function until the module is imported."""
    return importlib.import_module("atlas_fast.evaluate")


def test_writes_and_prints_the_report(run_dir, evaluate_cli, capsys):
    evaluate_cli.main([str(run_dir), "--attacks", "fgsm", "pgd-3", "--device", "cpu"])
    report = json.loads((run_dir / "evaluation.json").read_text())
    config = json.loads((run_dir / "config.json").read_text())
    assert report["dataset"] == "npz" and report["n"] == 30 and set(report["attacks"]) == {"fgsm", "pgd-3"}
    assert report["attacks"]["pgd-3"]["settings"]["eps"] == 0.1
    assert report["attacks"]["pgd-3"]["settings"]["step_size"] == config["val_step_size"]
    assert report["attacks"]["fgsm"]["settings"]["step_size"] == pytest.approx(0.125)
    printed = capsys.readouterr().out
    assert f"{report['clean_accuracy']:.2%}" in printed and "pgd-3" in printed and "evaluation.json" in printed


def test_options(run_dir, evaluate_cli, tmp_path):
    out = tmp_path / "new" / "report.json"
    evaluate_cli.main([str(run_dir), "--attacks", "pgd-2", "--epsilon", "0.05", "--limit", "10", "--out", str(out),
                       "--device", "cpu", "--seed", "3"])
    report = json.loads(out.read_text())
    config = json.loads((run_dir / "config.json").read_text())
    settings = report["attacks"]["pgd-2"]["settings"]
    assert report["n"] == 10 and settings["seed"] == 3
    # Another eps: the run's step size keeps its ratio to it.
    assert settings["eps"] == 0.05 and settings["step_size"] == pytest.approx(config["val_step_size"] / 2)
    evaluate_cli.main([str(run_dir), "--attacks", "pgd-2", "--step-size", "0.03", "--out", str(out), "--device", "cpu"])
    assert json.loads(out.read_text())["attacks"]["pgd-2"]["settings"]["step_size"] == 0.03


def test_per_sample_results_are_those_of_the_report(run_dir, evaluate_cli, tmp_path):
    out = tmp_path / "a.json"
    evaluate_cli.main([str(run_dir), "--attacks", "pgd-2", "pgd-3@eps/4", "--epsilon", "0.3", "--out", str(out),
                       "--device", "cpu", "--batch-size", "7"])
    report = json.loads(out.read_text())
    with np.load(out.with_suffix(".per_sample.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    correct = arrays["prediction"] == arrays["label"]
    assert np.array_equal(arrays["correct"], correct) and correct.mean() == report["clean_accuracy"]
    robust = correct.copy()
    for name, result in report["attacks"].items():
        broken = arrays[f"{name}/broken"]
        assert np.array_equal(broken, arrays[f"{name}/prediction"] != arrays["label"])
        assert (correct & ~broken).mean() == result["robust_accuracy"]
        assert arrays[f"{name}/linf"].max() <= 0.3 + 1e-6 and (arrays[f"{name}/l2"] >= arrays[f"{name}/linf"]).all()
        robust &= ~broken
    assert np.array_equal(robust, arrays["robust"]) and robust.mean() == report["worst_case"]["robust_accuracy"]
    assert len(arrays["distances/l2"]) == correct.sum() == report["distances"]["n"]


def test_l2(run_dir, evaluate_cli, tmp_path):
    out = tmp_path / "a.json"
    evaluate_cli.main([str(run_dir), "--attacks", "pgd-4", "--norm", "L2", "--epsilon", "0.5", "--out", str(out),
                       "--device", "cpu", "--any-step"])
    settings = json.loads(out.read_text())["attacks"]["pgd-4"]["settings"]
    assert (settings["norm"], settings["eps"], settings["step_size"]) == ("L2", 0.5, 2.5 * 0.5 / 4)
    assert settings["any_step"] is True


def test_transfer_from_another_run(run_dir, evaluate_cli, tmp_path):
    out = tmp_path / "a.json"
    options = ["--surrogate", str(run_dir), "--out", str(out), "--device", "cpu", "--epsilon", "0.3",
               "--transfer-cache", str(tmp_path / "kept")]
    evaluate_cli.main([str(run_dir), "--attacks", "transfer-3", "pgd-3", *options])
    attacks = json.loads(out.read_text())["attacks"]
    assert attacks["transfer-3"]["robust_accuracy"] == attacks["pgd-3"]["robust_accuracy"]  # the surrogate is the model
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").iterdir()}
    evaluate_cli.main([str(run_dir), "--attacks", "transfer-3", *options])
    assert kept and kept == {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").iterdir()}
    assert json.loads(out.read_text())["attacks"]["transfer-3"]["robust_accuracy"] \
        == attacks["transfer-3"]["robust_accuracy"]


def test_limit_takes_images_of_all_classes(run_dir, evaluate_cli):
    config, whole = evaluate_cli.read_config(run_dir)
    data = evaluate_cli.load_data(config.dataset, config.data_dir, None)
    x, y = evaluate_cli.test_images(data, whole, 10, 0)
    assert len(x) == 10 and set(y.tolist()) == {0, 1}
    with pytest.raises(UserError, match="image_pixels = 9, but this npz data has 8"):
        evaluate_cli.test_images(data, {**whole, "image_pixels": 9}, 10, 0)


@pytest.mark.parametrize(("options", "message"), [
    (["--attacks", "pgd"], "unknown attack 'pgd'"), (["--epsilon", "nan"], "--epsilon must be a finite number"),
    (["--epsilon", "0"], "--epsilon must be greater than 0"), (["--step-size", "-1"], "--step-size"),
    (["--limit", "0"], "--limit"), (["--batch-size", "0"], "--batch-size"), (["--device", "tpu"], "--device tpu"),
    (["--norm", "L2"], "--norm L2 needs --epsilon"), (["--attacks", "transfer"], "--surrogate RUN"),
    (["--attacks", "no_such:f"], "cannot be imported"), (["--surrogate", "/nowhere"], "config.json"),
    (["--out", "/tmp/x.html"], "--out names the JSON file"), (["--norm", "L7"], "invalid choice"),
    (["--data-dir", "/nowhere/x.npz"], "x.npz"), (["--out", "/dev/null/x/report.json"], "cannot be written"),
])
def test_wrong_use_is_refused_and_leaves_nothing(options, message, run_dir, evaluate_cli):
    before = sorted(path.name for path in run_dir.iterdir())
    with pytest.raises(UserError, match=message):
        evaluate_cli.main([str(run_dir), "--device", "cpu", *options])
    assert sorted(path.name for path in run_dir.iterdir()) == before


def test_a_folder_that_is_no_run_is_one_line_and_status_2(tmp_path):
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "atlas_fast.evaluate", str(tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("atlas_fast: error:")


def test_the_name_stays_callable_when_the_module_is_imported():
    """`import atlas_fast.evaluate` binds the module to the name that was the function."""
    code = """
import torch, atlas_fast as af
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
x, y = torch.rand(6, 1, 2, 2), torch.arange(6) % 2
before = af.evaluate(model, x, y, attacks=["pgd-2"], eps=0.1)
import atlas_fast.evaluate
after = af.evaluate(model, x, y, attacks=["pgd-2"], eps=0.1)
assert after["attacks"]["pgd-2"]["robust_accuracy"] == before["attacks"]["pgd-2"]["robust_accuracy"]
assert af.evaluate.main
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
