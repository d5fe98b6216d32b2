"""A run whose images are decoded while it trains, and its evaluation."""

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from atlas_fast import train
from atlas_fast.data import ImageFiles
from atlas_fast.errors import UserError, run_cli
from atlas_fast.training import setup
from atlas_fast.training.config import resolve

OPTIONS = ("--dataset", "imagefolder", "--model", "small_cnn", "--device", "cpu", "--batch-size", "10", "--epsilon",
           "0.05", "--alpha", "0.01", "--beta", "0.5")


@pytest.fixture
def folder(tmp_path):
    """Two classes, dark and bright."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("val", 6)):
        for name, grey in (("bright", 160), ("dark", 40)):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = grey + rng.integers(0, 60, (int(rng.integers(12, 20)), 14, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / part / name / f"{i:02}.png")
    return tmp_path / "images"


def test_trained_and_evaluated(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    options = [*OPTIONS, "--data-dir", str(folder), "--image-size", "12", "--augment", "resized-crop"]
    assert train.main([*options, "--workers", "1", "--epochs", "1", "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["images_held"] == "in files, decoded by 1 workers" and config["classes"] == ["bright", "dark"]
    assert "images in files, decoded by 1 workers" in capsys.readouterr().out
    assert (config["n_train"], config["n_validation"], config["n_test"]) == (36, 4, 12)
    seen, evaluate = [], importlib.import_module("atlas_fast.evaluate")
    check = evaluate.check_data
    monkeypatch.setattr(evaluate, "check_data", lambda x, y: seen.append(x) or check(x, y))
    monkeypatch.setattr(evaluate, "IN_MEMORY", 0)
    evaluate.main([str(out), "--attacks", "fgsm"])
    report, summary = (json.loads((out / name).read_text()) for name in ("evaluation.json", "summary.json"))
    assert isinstance(seen[0], ImageFiles) and report["clean_accuracy"] == summary["clean_accuracy"]
    monkeypatch.setattr(evaluate, "IN_MEMORY", 10**6)
    data = evaluate.load_data("imagefolder", folder, 12, True)
    x, _ = evaluate.test_images(data, config, 5, 0)
    assert isinstance(x, torch.Tensor) and len(x) == 5


def test_held_or_not_trains_the_same(folder):
    """Without crops: the batches are the same pixels."""
    weights = []
    for workers in (None, 0):
        config = resolve({"dataset": "imagefolder", "data_dir": str(folder), "model": "small_cnn", "device": "cpu",
                          "batch_size": 10, "image_size": 12, "alpha": 0.01, "beta": 0.5, "workers": workers})
        run = setup.prepare(config)
        for x, y in run.batches.epoch(0):
            run.step(x, y)
        weights.append(torch.cat([p.flatten() for p in run.model.parameters()]))
    assert torch.equal(*weights)


def test_a_corrupt_image_ends_the_run_with_its_name(folder, tmp_path, capsys, monkeypatch):
    (folder / "train" / "dark" / "07.png").write_bytes(b"no image")
    out = tmp_path / "run"
    monkeypatch.setattr("sys.argv", ["train", *OPTIONS, "--data-dir", str(folder), "--image-size", "12", "--workers",
                                     "0", "--epochs", "3", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        run_cli(train.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("atlas_fast: error: ") and "dark/07.png cannot be read as an image" in said
    assert (out / "last.pt").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"augment": "resized-crop"}, "--augment resized-crop is for --dataset imagefolder"),
    ({"workers": 2}, "--workers is for --dataset imagefolder"),
    ({"dataset": "imagefolder", "workers": 2}, "--workers decodes images while training.*give --image-size"),
    ({"dataset": "imagefolder", "augment": "resized-crop"}, "--augment resized-crop decodes .*give --image-size"),
    ({"dataset": "imagefolder", "workers": -1, "image_size": 8}, "--workers must be a whole number from 0 up"),
])
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        resolve(options)
