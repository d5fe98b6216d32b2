"""Wrong use of `python -m atlas_fast.train`: one sentence, status 2, nothing written; the literal commands of CIFAR."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from atlas_fast import train
from atlas_fast.errors import UserError, run_cli
from atlas_fast.training import read_config


def files_under(folder):
    return sorted(str(p) for p in folder.rglob("*"))


BAD = [
    (["--dataset", "svhn"], "--dataset must be one of"), (["--method", "madry"], "--method must be one of"),
    (["--model", "resnet50"], "no model is called"), (["--steps", "-1"], "--steps must be 0 or more"),
    (["--steps", "0"], "atlas needs an adversary"), (["--epsilon", "0"], "--epsilon must be a number above 0"),
    (["--epsilon", "nan"], "--epsilon must be a number above 0"), (["--epsilon", "-1"], "--epsilon"),
    (["--batch-size", "0"], "--batch-size must be a whole number from 1"), (["--batch-size", "9999"], "at most 1290"),
    (["--method", "adv", "--alpha", "1"], "adv has no alpha"), (["--steps", "one"], "invalid int"),
    (["--engine", "warp"], "engine"), (["--nonsense"], "unrecognized"), (["--resume"], "no config.json"),
    (["--dataset", "npz", "--data-dir", "nowhere"], "no file or folder nowhere"),
    (["--dataset", "imagefolder", "--data-dir", "nowhere"], "no folder nowhere"),
    (["--validation-size", "0"], "validation size"), (["--image-size", "16"], "imagefolder"),
    (["--method", "plain", "--baseline"], "--baseline"),
    (["--seed", "-1"], "--seed"), (["--max-batches", "0"], "--max-batches"),
]


@pytest.mark.parametrize("options, message", BAD, ids=[" ".join(o) for o, _ in BAD])
def test_wrong_use_is_one_sentence_and_leaves_nothing(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run_cli(lambda: train.main(options))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("atlas_fast: error: ") and error.count("\n") == 1 and message in error
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("out", ["file/run", "file", "/proc/atlas_fast/run"])
def test_an_output_folder_that_cannot_be_written(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="output folder .* cannot be written"):
        train.main(["--out", out])
    assert files_under(tmp_path) == [str(tmp_path / "file")] and (tmp_path / "file").read_text() == "mine"


def test_no_network_and_no_data_names_the_ways_out(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")

    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", no_network)
    for name in ("mnist", "cifar10", "cifar100"):
        with pytest.raises(UserError) as error:
            train.main(["--dataset", name, "--data-dir", str(tmp_path / "d"), "--out", str(tmp_path / "o")])
        sentence = str(error.value)
        assert "connect to the network" in sentence and "put the official files under" in sentence
        assert "--dataset digits or --dataset npz" in sentence and "\n" not in sentence
    assert files_under(tmp_path) == []


def test_no_torchvision_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="needs torchvision.*--dataset digits or --dataset npz"):
        train.main(["--dataset", "cifar10", "--data-dir", str(tmp_path)])


def official_tree(root, name, per_file):
    """A CIFAR folder in the official layout with few random images; returns torchvision's file lists for it."""
    rng = np.random.default_rng(0)
    base = root / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    base.mkdir(parents=True)
    if name == "cifar10":
        keys, classes, meta, meta_key = "labels", 10, "batches.meta", "label_names"
        train_files, test_files = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
    else:
        keys, classes, meta, meta_key = "fine_labels", 100, "meta", "fine_label_names"
        train_files, test_files = ["train"], ["test"]

    def write(file, content):
        raw = pickle.dumps(content)
        (base / file).write_bytes(raw)
        return [file, hashlib.md5(raw).hexdigest()]

    def part(file):
        n = per_file if name == "cifar10" else 3 * per_file
        return write(file, {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
                            keys: [int(i) for i in np.arange(n) % classes]})

    checksums = write(meta, {meta_key: [f"class {i}" for i in range(classes)]})
    return ([part(file) for file in train_files], [part(file) for file in test_files],
            {"filename": meta, "key": meta_key, "md5": checksums[1]})


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_literal_cifar_command(name, tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision").datasets
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    train_list, test_list, meta = official_tree(tmp_path / "data", name, 40)
    monkeypatch.setattr(kind, "train_list", train_list)
    monkeypatch.setattr(kind, "test_list", test_list)
    monkeypatch.setattr(kind, "meta", meta)
    monkeypatch.chdir(tmp_path)
    # The literal command is `--dataset cifar10 --steps 1`; a small network and one batch keep the test short.
    options = ["--model", "small_cnn", "--max-batches", "1", "--epochs", "1", "--device", "cpu"]
    assert train.main(["--dataset", name, "--steps", "1", *options]) == 0
    config, whole = read_config(tmp_path / "runs" / f"{name}-atlas-1")
    assert (config.method, config.steps, config.alpha, config.beta, config.batch_size) == ("atlas", 1, 2e-4, 5.0, 64)
    assert (config.eps, config.augment, config.momentum) == (8 / 255, "crop-flip", 0.9)
    assert whole["num_classes"] == (10 if name == "cifar10" else 100) and whole["classes"][1] == "class 1"


def test_the_command_line_itself(small_npz, tmp_path):
    command = [sys.executable, "-m", "atlas_fast.train", "--dataset", "npz", "--data-dir", str(small_npz), "--model",
               "small_cnn", "--batch-size", "10", "--device", "cpu", "--epochs", "5000", "--ramp-epochs", "4999",
               "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True,
                               # A job in the background may have been started with SIGINT ignored, and passes that on.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    log, deadline = tmp_path / "run" / "log.jsonl", time.time() + 120
    while not (log.exists() and log.read_text().count("\n") >= 2) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped and saved at " in errors and "--resume --out run goes on from there" in errors
    assert "Traceback" not in errors
    assert "img/s" not in errors  # the bar is for terminals
