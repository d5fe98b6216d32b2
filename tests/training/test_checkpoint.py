"""Damage is found, the checkpoint before is used, a full disk takes nothing; best.safetensors is that of the run."""

import json
import os
import shutil
import zipfile

import pytest
import torch
from folders import outcome
from safetensors.numpy import load_file

from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.loading import load
from atlas_fast.training import checkpoint, logs, loop, saving

TINY = ("--model", "folders:dropout_net", "--max-batches", "2", "--epochs", "3", "--ramp-epochs", "0", "--lr", "0.01")


MADE = {}  # once for all tests: the folder of the run below, and what it would have left


@pytest.fixture
def cut(small_run, monkeypatch, tmp_path):
    """The folder of a run that was interrupted in its third epoch; epoch 1 or 2 is the best."""
    if not MADE:
        with monkeypatch.context() as patch:
            one_epoch = loop.one_epoch

            def interrupted(run, *rest):
                if run.schedule.epoch == 2:
                    raise KeyboardInterrupt
                return one_epoch(run, *rest)

            patch.setattr(loop, "one_epoch", interrupted)
            with pytest.raises(KeyboardInterrupt, match="goes on from the end of epoch 2"):
                small_run(*TINY, out="made")
        MADE.update(folder=small_run.folder("made"), wanted=left(small_run(*TINY, out="whole")))
    return shutil.copytree(MADE["folder"], tmp_path / "cut")


@pytest.fixture
def wanted(cut):
    """What the same run leaves without interruption."""
    return MADE["wanted"]


def left(folder):
    """The outcome but for the settings, which hold the place of the data."""
    found = outcome(folder)
    return {"last": {key: value for key, value in found.pop("last").items() if key != "config"},
            **{key: value for key, value in found.items() if key != "config"}}


def resume(folder):
    assert train.main(["--resume", "--out", str(folder)]) == 0
    return left(folder)


def test_every_damaged_byte_is_found(tmp_path):
    path, damaged = tmp_path / "last.pt", tmp_path / "damaged.pt"
    state = {"weights": torch.arange(3.0), "schedule": {"epoch": 2, "best": None}, "names": ("a", "b")}
    checkpoint.save_last(path, state)
    found = checkpoint.load_last(path)
    assert torch.equal(found.pop("weights"), state.pop("weights")) and found == {"format": checkpoint.FORMAT, **state}
    raw = path.read_bytes()
    assert torch.load(path, weights_only=True)["names"] == ("a", "b")  # an archive like any other
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"atlas_fast blake2b ")
    for place in [*range(0, len(raw) - 120, 3), *range(len(raw) - 120, len(raw))]:
        damaged.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1:])
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load_last(damaged)
    for length in [*range(0, len(raw), 17), len(raw) - 1]:
        damaged.write_bytes(raw[:length])
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load_last(damaged)


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "last.pt"
    for i in range(3):
        checkpoint.save_last(path, {"i": i})
        assert checkpoint.load_latest(tmp_path)[0]["i"] == i
    assert checkpoint.load_last(tmp_path / "previous.pt")["i"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    path.unlink()
    state, said = checkpoint.load_latest(tmp_path)
    assert state["i"] == 1 and "last.pt is missing" in said


def test_no_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_the_one_before_is_kept(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_checkpoint(cut, wanted, capsys, damage):
    last, previous = cut / "last.pt", cut / "previous.pt"
    raw = last.read_bytes()
    middle = len(raw) // 2
    broken = {"flipped": raw[:middle] + bytes([raw[middle] ^ 16]) + raw[middle + 1:], "cut": raw[:1000], "empty": b""}
    last.write_bytes(broken[damage])
    assert load(cut) is not None
    both = shutil.copytree(cut, cut.with_name("both"))
    (both / "previous.pt").write_bytes(previous.read_bytes()[:-9])
    with pytest.raises(UserError, match="and so is .*previous.pt, the one before: this run cannot be resumed"):
        train.main(["--resume", "--out", str(both)])
    capsys.readouterr()
    assert resume(cut) == wanted
    said = capsys.readouterr().out
    assert f"{last} " in said and "corrupt" in said and f"{previous}, the one before, is used" in said


@pytest.mark.parametrize("content", [b"garbage of another kind", b"\0" * 5000], ids=["garbage", "zeros"])
def test_a_file_of_another_kind_is_refused(cut, wanted, content):
    (cut / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a checkpoint; .* without it --resume takes previous.pt"):
        train.main(["--resume", "--out", str(cut)])
    assert (cut / "last.pt").read_bytes() == content
    (cut / "last.pt").unlink()
    assert resume(cut) == wanted


def test_another_version_and_a_foreign_run(cut):
    state = checkpoint.load_last(cut / "last.pt")
    for broken, message in (({**state, "model": {"a": torch.ones(1)}}, "weights of another network"),
                            ({name: state[name] for name in state if name != "schedule"}, "does not fit the run"),
                            ({**state, "n_train": 91}, "trained on 91 images, and now there are 90")):
        checkpoint.save_last(cut / "last.pt", broken)
        with pytest.raises(UserError, match=message):
            train.main(["--resume", "--out", str(cut)])
    torch.save({**state, "format": "atlas_fast checkpoint 3"}, cut / "last.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        train.main(["--resume", "--out", str(cut)])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b'{"epoch": 1}\n{"epoch": 2, "ha', None])
def test_the_log_is_made_again(cut, content):
    log = cut / "log.jsonl"
    before = log.read_bytes()
    log.unlink()
    if content is not None:
        log.write_bytes(content)
    assert logs.read(log) == ([{"epoch": 1}] if content and content.startswith(b"{") else [])
    break_at(cut)
    assert log.read_bytes() == before


def break_at(folder):
    """A resumed run, ended before its first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "one_epoch", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train.main(["--resume", "--out", str(folder)])


def test_best_weights_that_are_not_those_of_the_checkpoint(cut, capsys):
    best, state = cut / "best.safetensors", checkpoint.load_last(cut / "last.pt")
    good = best.read_bytes()
    assert checkpoint.checksum(good) == state["best"]["checksum"]
    state["best"]["epoch"] = 2  # as if the second epoch had been the best: then last.pt holds its weights
    model = {name: value.numpy() for name, value in state["model"].items()}
    for content in (b"", good[:-1]):
        best.write_bytes(content)
        checkpoint.save_last(cut / "last.pt", state)
        break_at(cut)

        assert all((load_file(best)[name] == model[name]).all() for name in model)
    state["best"]["epoch"] = 1
    checkpoint.save_last(cut / "last.pt", state)
    best.unlink()
    capsys.readouterr()
    assert train.main(["--resume", "--out", str(cut)]) == 0
    assert "the best of the epochs to come takes its place" in capsys.readouterr().out
    assert json.loads((cut / "summary.json").read_text())["best_epoch"] == 3
    (cut / "summary.json").unlink()
    best.write_bytes(good)
    assert train.main(["--resume", "--out", str(cut)]) == 0
    (cut / "summary.json").unlink()
    assert best.read_bytes() != good  # that of the last epoch, again
    state = checkpoint.load_last(cut / "last.pt")
    state["best"]["epoch"] = 2
    checkpoint.save_last(cut / "last.pt", state)
    best.write_bytes(good)
    with pytest.raises(UserError, match="another epoch than the best, and the training is over"):
        train.main(["--resume", "--out", str(cut)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name, epoch", [("last.pt.tmp", 0), ("best.safetensors.tmp", 1), ("log.jsonl", 0),
                                         ("summary.json.tmp", 3)])
def test_a_full_disk(small_run, wanted, monkeypatch, name, epoch):
    """It is full once this epoch is saved."""
    folder, saved = small_run.folder("full"), saving.Saver.save

    def fills(self, inside=None):
        saved(self, inside)
        if self.run.schedule.epoch == epoch:
            (folder / name).symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(saving.Saver, "save", fills)
        with pytest.raises(UserError, match=rf"{name.removesuffix('.tmp')} could not be written \(No space left on de"):
            small_run(*TINY, out="full")
    assert not (folder / "summary.json").exists() and not list(folder.glob("*.tmp"))
    if name == "log.jsonl":
        (folder / name).unlink()
    assert checkpoint.load_last(folder / "last.pt")["schedule"]["epoch"] == epoch
    assert resume(folder) == wanted
