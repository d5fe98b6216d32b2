"""Free, FAT, YOPO, weight perturbation and averaging in the trainer: they learn, resume, and refuse what is foreign."""

import json

import pytest
import torch

import atlas_fast.training.loop as loop
from atlas_fast import train
from atlas_fast.attacks import PGD
from atlas_fast.engine import FreeStep, TrainingStep, YopoStep
from atlas_fast.errors import UserError
from atlas_fast.loading import load
from atlas_fast.training import checkpoint, prepare, resolve
from atlas_fast.training.neighbours import tau
from atlas_fast.training.validation import measure

LEARNS = {
    "free": {"method": "free", "replays": 4, "epochs": 1, "max_batches": 25},
    "fat": {"method": "fat", "steps": 3, "step_size": 0.05, "epochs": 2, "max_batches": 25},
    "yopo": {"method": "yopo", "passes": 3, "steps": 2, "step_size": 0.05, "lr": 0.05, "epochs": 1},
    # Weights perturbed from the first step on at full eps leave this network, which has no BatchNorm, at chance.
    "awp": {"method": "adv", "ramp_epochs": 0.0, "awp": 0.005, "awp_warmup": 1, "epochs": 3},
    "ema": {"method": "adv", "ramp_epochs": 0.0, "ema": 0.99, "epochs": 2},
}


@pytest.mark.parametrize("name", list(LEARNS))
def test_digits_are_learned(name):
    """25 to 120 batches of the embedded digits; chance is 10%. The same seed every time."""
    run = prepare(resolve({"device": "cpu", **LEARNS[name]}))
    for epoch in range(run.config.epochs):
        run.begin_epoch(epoch + 1)
        for x, y in run.batches.epoch(epoch):
            run.step(x, y)
    measured = measure(run.network, *run.data.val, PGD(0.1, 0.05, 4), run.device)
    assert measured["clean_accuracy"] > 0.7 and measured["robust_accuracy"] > 0.4, measured
    assert run.step.skipped == 0


def test_which_step_a_method_is(small_npz):
    options = {"dataset": "npz", "data_dir": str(small_npz), "model": "small_cnn", "batch_size": 10, "device": "cpu"}
    kinds = {method: prepare(resolve({**options, "method": method})).step for method in ("free", "yopo", "fat", "adv")}
    assert {method: type(step) for method, step in kinds.items()} == {
        "free": FreeStep, "yopo": YopoStep, "fat": TrainingStep, "adv": TrainingStep}
    assert {method: step.objective.tau for method, step in kinds.items()} == {
        "free": None, "yopo": None, "fat": 0, "adv": None}
    assert kinds["free"].replays == 8 and kinds["yopo"].passes == 5 and kinds["fat"].objective.omega == 0.001


AUTHORS = [
    ("cifar10", "free", {"replays": 8, "steps": 1, "step_size": 8 / 255, "epochs": 4, "lr": 0.1}),
    ("mnist", "free", {"replays": 8, "steps": 1, "step_size": 0.3, "epochs": 4, "lr": 0.01}),
    ("cifar10", "fat", {"steps": 10, "step_size": 0.007, "omega": 0.001, "tau": None, "epochs": 30, "lr": 0.1}),
    ("cifar10", "yopo", {"passes": 5, "steps": 3, "step_size": 2 / 255, "lr": 0.04, "epochs": 30}),
    ("mnist", "yopo", {"passes": 5, "steps": 10, "step_size": 0.01, "lr": 0.02}),
]


@pytest.mark.parametrize("dataset, method, expected", AUTHORS)
def test_defaults_are_the_authors(dataset, method, expected):
    config = resolve({"dataset": dataset, "method": method})
    for name, value in expected.items():
        assert getattr(config, name) == (value if value is None else pytest.approx(value)), name
    assert config.ramp_epochs == 0 and config.bn_mode == ("eval" if method == "fat" else "train")
    assert resolve({"dataset": dataset, "method": method, "ramp_epochs": 2.0, "lr": 0.3}).ramp_epochs == 2


def test_what_is_given_wins():
    config = resolve({"method": "free", "replays": 4, "epochs": 7, "eps": 0.2})
    assert (config.epochs, config.step_size) == (7, 0.2) and resolve({"method": "free", "replays": 4}).epochs == 8
    assert resolve({"method": "yopo", "passes": 2}).lr == 0.05
    assert resolve({"method": "atlas", "awp": 0.01, "ema": 0.9}).awp_warmup is None


def test_tau_rises_as_with_its_authors():
    assert [tau(None, epoch, 120) for epoch in (1, 50, 51, 90, 91, 120)] == [0, 0, 1, 1, 2, 2]
    assert [tau(None, epoch, 3) for epoch in (1, 2, 3)] == [0, 1, 2] and tau(1, 1, 120) == 1


def test_the_epoch_decides_tau_and_when_weights_are_perturbed(small_npz):
    run = prepare(resolve({"dataset": "npz", "data_dir": str(small_npz), "model": "small_cnn", "batch_size": 10,
                           "device": "cpu", "method": "fat", "epochs": 4, "awp": 0.01, "awp_warmup": 2}))
    seen = []
    for epoch in (1, 2, 3, 4):
        run.begin_epoch(epoch)
        seen.append((run.step.objective.tau, run.step.perturbs))
    assert seen == [(0, False), (1, False), (1, True), (2, True)]


METHODS = {"ema": ("--method", "adv", "--ema", "0.9", "--awp", "0.01"),
           "free": ("--method", "free", "--replays", "2", "--ema", "0.9")}


@pytest.mark.parametrize("name", list(METHODS))
def test_resume_is_bit_identical(small_run, read_log, monkeypatch, name):
    options = (*METHODS[name], "--model", "wrn-10-1", "--max-batches", "1", "--augment", "crop-flip", "--epochs", "2")
    straight = small_run(*options, out="straight")
    one_epoch, calls = loop.one_epoch, []

    def interrupted(run, *rest):
        calls.append(1)
        if len(calls) == 2:
            run.step(*next(run.batches.epoch(7)))  # a part of the second epoch is done and lost
            raise KeyboardInterrupt
        return one_epoch(run, *rest)

    monkeypatch.setattr(loop, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(*options, out="broken")
    monkeypatch.setattr(loop, "one_epoch", one_epoch)
    folder = straight.parent / "broken"
    assert train.main(["--resume", "--out", str(folder)]) == 0
    states = [flat(checkpoint.load_last(f / "last.pt")) for f in (straight, folder)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert (straight / "best.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()
    logs = [[{k: v for k, v in line.items() if k not in ("seconds", "ms_per_batch")} for line in read_log(f)]
            for f in (straight, folder)]
    assert logs[0] == logs[1]


def flat(state, prefix=""):
    """All tensors of a checkpoint."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for name, part in items for key, value in flat(part, f"{prefix}/{name}").items()}


def test_the_average_is_what_is_validated_and_kept(small_run, monkeypatch):
    seen, measure_ = [], loop.measure

    def spy(model, *rest):
        seen.append(model)
        return measure_(model, *rest)

    monkeypatch.setattr(loop, "measure", spy)
    folder = small_run("--method", "adv", "--ema", "0.9", "--epochs", "1", "--ramp-epochs", "0")
    last, best = checkpoint.load_last(folder / "last.pt"), load(folder).state_dict()
    average = last["step"]["average"]["model"]
    assert all(torch.equal(average[name], best[name]) and not torch.equal(last["model"][name], best[name])
               for name in best)
    assert len(seen) == 1 and not any(p.requires_grad for p in seen[0].parameters())
    assert json.loads((folder / "config.json").read_text())["ema"] == 0.9


BAD = [
    ({"method": "atlas", "replays": 4}, "--replays belongs to --method free; atlas has none"),
    ({"method": "free", "passes": 4}, "--passes belongs to --method yopo"),
    ({"method": "adv", "tau": 1}, "--tau belongs to --method fat"), ({"omega": 0.1}, "--omega belongs to --method fat"),
    ({"method": "free", "replays": 0}, "--replays must be a whole number from 1"),
    ({"method": "yopo", "passes": 0}, "--passes must be a whole number from 1"),
    ({"method": "free", "steps": 2}, "one step in each replay"), ({"method": "yopo", "steps": 0}, "needs an adversary"),
    ({"method": "fat", "tau": -1}, "--tau must be a whole number from 0"),
    ({"method": "fat", "omega": -1.0}, "--omega must be a number from 0"), ({"ema": 0.0}, "--ema must be a number"),
    ({"awp": float("nan")}, "--awp must be a number above 0"), ({"awp": 0.0}, "--awp must be a number above"),
    ({"ema": 1.0}, "--ema must be a number above 0 and below 1"), ({"method": "free", "awp": 0.1}, "free makes none"),
    ({"method": "yopo", "awp": 0.1}, "yopo makes none"), ({"awp_warmup": 3}, "give --awp as well"),
    ({"awp": 0.1, "awp_warmup": -1}, "--awp-warmup must be a whole number from 0"),
    ({"method": "free", "alpha": 1.0}, "free has no alpha"), ({"method": "fat", "beta": 1.0}, "fat has no beta"),
    ({"method": "yopo", "num_projections": 2}, "yopo has no Jacobian term"),
]


@pytest.mark.parametrize("given, message", BAD, ids=[str(g) for g, _ in BAD])
def test_options_that_do_not_belong_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        resolve(given)


def test_yopo_by_the_sweeps_is_refused_before_anything_is_written(small_run, tmp_path):
    with pytest.raises(UserError, match="engine='sweeps' cannot run this: YOPO"):
        small_run("--method", "yopo", "--engine", "sweeps")
    assert not (tmp_path / "run").exists()


def test_a_rewind_takes_the_average_back_too():
    given = {"dataset": "digits", "method": "adv", "ema": 0.9, "device": "cpu", "on_overfitting": "rewind"}
    run = prepare(resolve(given))
    batches = iter(run.batches.epoch(0))
    run.step(*next(batches))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.rewinder.remember(run)
    for _ in range(3):
        run.step(*next(batches))
    after = run.network.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    run.rewinder.rewind(run)
    assert all(torch.equal(value, run.network.state_dict()[name]) for name, value in before.items())
    assert run.step.objective.penalised_point == "adv" and run.step.state_dict()["step"] == 4
    run.step(*next(batches))
