"""The folder of a run, resuming it, loading its network."""

import json

import pytest
import torch

import atlas_fast.training.loop as loop
from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.loading import load
from atlas_fast.training import checkpoint, read_config


def test_the_folder_of_a_run(small_run, read_log, capsys, picture):
    folder = small_run("--epochs", "3", "--max-batches", "2")
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.safetensors", "config.json", "curves.png", "last.pt", "log.jsonl", "previous.pt", "summary.json"]
    config, whole = read_config(folder)
    assert config.method == "atlas" and whole["n_validation"] == 10 and whole["batches_per_epoch"] == 2
    assert whole["versions"]["torch"] == torch.__version__
    lines = read_log(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {"epoch", "lr", "eps", "loss", "ce", "kl", "jacobian", "clean_accuracy", "robust_accuracy",
                             "adversary_accuracy", "fgsm_accuracy", "jacobian_norm", "not_finite_steps", "overfitted",
                             "seconds", "ms_per_batch"}
    assert [line["eps"] for line in lines] == pytest.approx([0.1 / 1.5, 0.1, 0.1])
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n"] == 30 and 0 <= summary["attacks"]["pgd-20"]["robust_accuracy"] <= 1
    out = capsys.readouterr().out
    assert "epoch   3/3" in out and "n = 30" in out and "one-step atlas" in out


@pytest.mark.parametrize("method", ["plain", "jac", "adv", "trades", "atlas_l", "atlas_g", "tradesjac", "n_fgsm",
                                    "mart", "nuat", "grad_align", "llr"])
def test_every_method_runs(small_run, read_log, method):
    more = ("--alpha", "0.2") if method == "grad_align" else ()  # eps is beyond its authors' rule
    line = read_log(small_run("--method", method, "--epochs", "1", *more))[0]
    assert line["loss"] > 0 and line["jacobian_norm"] > 0
    assert line["eps"] == (0 if method in ("plain", "jac") else pytest.approx(0.1))


def test_several_steps(small_run, read_log):
    assert read_config(small_run("--steps", "3", "--epochs", "1"))[0].step_size == pytest.approx(0.007 * 0.1 * 255 / 8)


def state(folder):
    last = checkpoint.load_last(folder / "last.pt")
    return {**last["model"], **{f"momentum {i}": s["momentum_buffer"] for i, s in last["optimizer"]["state"].items()}}


def without_times(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "ms_per_batch")} for line in lines]


@pytest.mark.parametrize("model", ["small_cnn", "wrn-10-1"])
def test_resume_is_bit_identical(small_run, read_log, monkeypatch, capsys, model):
    options = ("--epochs", "4", "--model", model, "--augment", "crop-flip", "--max-batches", "2")
    straight = small_run(*options, out="straight")
    one_epoch, calls = loop.one_epoch, []

    def interrupted(run, *rest):
        calls.append(1)
        if len(calls) == 3:
            run.step.ramp = 1.0
            run.step(*next(run.batches.epoch(7)))  # a part of the third epoch is done and lost
            raise KeyboardInterrupt
        return one_epoch(run, *rest)

    monkeypatch.setattr(loop, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped in epoch 3; --resume .* end of epoch 2"):
        small_run(*options, out="broken")
    monkeypatch.setattr(loop, "one_epoch", one_epoch)
    folder = straight.parent / "broken"
    (folder / "log.jsonl").open("a").write('{"epoch": 3, "half a li')
    assert train.main(["--resume", "--out", str(folder)]) == 0
    first, second = state(straight), state(folder)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (straight / "best.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()
    assert without_times(read_log(straight)) == without_times(read_log(folder))

    before = (folder / "last.pt").read_bytes()
    capsys.readouterr()
    assert train.main(["--resume", "--out", str(folder)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "last.pt").read_bytes() == before


def test_resume_refuses_other_settings(small_run):
    folder = small_run("--epochs", "1", "--alpha", "0.1")
    with pytest.raises(UserError, match=r"alpha \(0.1, now 0.2\)"):
        train.main(["--resume", "--out", str(folder), "--alpha", "0.2"])
    with pytest.raises(UserError, match=r"epochs \(1, now 2\)"):
        train.main(["--resume", "--out", str(folder), "--epochs", "2"])
    assert train.main(["--resume", "--out", str(folder), "--alpha", "0.1", "--epochs", "1"]) == 0


def test_nothing_is_overwritten(small_run):
    folder = small_run("--epochs", "1")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="holds a run already"):
        small_run("--epochs", "2")
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_foreign_checkpoint(small_run, tmp_path):
    folder = small_run("--epochs", "1")
    (folder / "summary.json").unlink()
    torch.save({"state_dict": {}}, folder / "last.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        train.main(["--resume", "--out", str(folder)])
    with pytest.raises(UserError, match="no config.json"):
        train.main(["--resume", "--out", str(tmp_path / "nothing")])


def test_baseline(small_run, capsys):
    folder = small_run("--epochs", "1", "--baseline")
    plain, _ = read_config(folder / "plain")
    assert plain.method == "plain" and plain.steps == 0 and plain.eps == 0.1 and plain.model == "small_cnn"
    assert (folder / "plain" / "summary.json").exists()
    table = capsys.readouterr().out.split("test set, n = 30")[1]
    assert "one-step atlas" in table and "plain training" in table


def test_weights_that_are_not_finite_stop_the_run(small_run, tmp_path, read_log):
    with pytest.raises(UserError, match="of epoch 1 were not finite"):
        small_run("--epochs", "2", "--lr", "1e30")
    assert checkpoint.load_last(tmp_path / "run" / "last.pt")["schedule"]["epoch"] == 0


def test_a_run_that_is_all_ramp_keeps_its_last_weights(small_run):
    folder = small_run("--epochs", "2", "--ramp-epochs", "2")
    last, best = checkpoint.load_last(folder / "last.pt")["model"], load(folder).state_dict()
    assert all(torch.equal(last[name], best[name]) for name in last)


def test_load_round_trip(small_run):
    folder = small_run("--epochs", "2")
    model = load(folder)
    assert not model.training
    x = torch.rand(3, 1, 8, 8)
    assert model(x).shape == (3, 2)
    (folder / "best.safetensors").unlink()
    last = checkpoint.load_last(folder / "last.pt")["model"]
    assert all(torch.equal(last[name], value) for name, value in load(folder).state_dict().items())
    (folder / "best.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot be read as .safetensors"):
        load(folder)
    with pytest.raises(UserError, match="no config.json"):
        load(folder / "nothing")


def test_the_test_set_is_not_used_before_the_end(small_run, monkeypatch):
    seen, measure = [], loop.measure

    def spy(model, images, labels, *rest):
        seen.append(len(labels))
        return measure(model, images, labels, *rest)

    monkeypatch.setattr(loop, "measure", spy)
    small_run("--epochs", "2")
    assert seen == [10, 10]


def test_max_batches_limits_everything(small_run, read_log):
    folder = small_run("--epochs", "2", "--max-batches", "1", "--batch-size", "5")
    whole = read_config(folder)[1]
    assert (whole["batches_per_epoch"], whole["n_validation"], whole["n_test"]) == (1, 5, 5)
    assert json.loads((folder / "summary.json").read_text())["n"] == 5
