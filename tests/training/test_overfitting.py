"""Catastrophic overfitting: when it sets in, what is kept, and what --on-overfitting does about it.

The training set is quickly made: one class in two images can be told by a strong pattern in three rows, all of them by
a faint one (1/255, less than eps = 4/255) that no robust network may use. One-step training of a small network with a
large step learns the strong one first, and then to recognise the class by the perturbation itself.
"""

import json

import numpy as np
import pytest
import torch
from matplotlib import image
from safetensors.torch import load_file
from torch import nn

import atlas_fast.training.loop as loop
from atlas_fast import models, objectives, train
from atlas_fast.attacks import PGD
from atlas_fast.errors import UserError
from atlas_fast.training import checkpoint, curves, read_config, rewind
from atlas_fast.training.overfitting import Watch
from atlas_fast.training.validation import measure

# The digits' default run at twice its learning rate, one-step ADV, epochs 1 to 10 (robust, adversary, Jacobian norm):
# epoch 3 is 12.5 points worse than epoch 2, in the ramp, with 1.6 times its Jacobian norm, but under both attacks.
HEALTHY = [(.385, .420, 313), (.622, .678, 351), (.497, .608, 573), (.545, .608, 561), (.608, .720, 431),
           (.699, .783, 392), (.685, .769, 620), (.783, .853, 621), (.797, .860, 600), (.748, .846, 726)]
# One-step ADV on the set of this file (seed 1): it sets in at epoch 10.
OVERFITTING = [(.14, .16, 722), (.16, .24, 337), (.22, .30, 153), (.16, .33, 97.6), (.30, .39, 111), (.35, .48, 121),
               (.32, .45, 163), (.40, .51, 256), (.38, .55, 487), (.06, .56, 1140), (.10, .59, 2110), (.16, .62, 2250)]


def follow(numbers, watch=None, first=1):
    watch = watch or Watch()
    names = ("robust_accuracy", "adversary_accuracy", "jacobian_norm")
    found = [watch.update({"epoch": first + i, **dict(zip(names, n, strict=True))}) for i, n in enumerate(numbers)]
    return watch, found


def test_measured_runs():
    watch, found = follow(HEALTHY)
    assert not any(found) and watch.onsets == [] and watch.best["epoch"] == 9
    watch, found = follow(OVERFITTING)
    assert found == [False] * 9 + [True] * 3 and watch.onsets == [10] and watch.since == 10
    assert watch.best == {"epoch": 8, "robust_accuracy": .40, "adversary_accuracy": .51, "jacobian_norm": 256}


BEST = (.50, .60, 100)


@pytest.mark.parametrize("after, expected", [
    ((.10, .60, 300), True), ((.10, .95, 300), True), ((.39, .60, 300), True),
    ((.41, .60, 300), False), ((.10, .46, 300), False), ((.10, .48, 300), True), ((.10, .10, 300), False),
    ((.10, .60, 149), False), ((.10, .60, 151), True), ((.10, .60, 1), False), ((.10, .60, float("nan")), False)])
def test_the_three_conditions(after, expected):
    assert follow([BEST, after])[1] == [False, expected]


def test_it_lasts_until_the_robust_accuracy_is_back():
    # Once it has set in, the other two signs may come and go.
    watch, found = follow([BEST, (.1, .6, 300), (.1, .2, 110), (.44, .5, 90), (.46, .5, 90), (.55, .6, 200),
                           (.2, .6, 290), (.2, .6, 310)])
    assert found == [False, True, True, True, False, False, False, True]
    assert watch.onsets == [2, 8] and watch.best["epoch"] == 6


def test_an_overfitted_epoch_is_never_the_best():
    watch, _ = follow([BEST, (.1, .6, 300)])
    assert watch.best["epoch"] == 1
    watch.healed()
    assert follow([(.45, .6, 150)], watch, first=3)[1] == [False] and watch.best["epoch"] == 1


def test_state_round_trip():
    for cut in range(len(OVERFITTING)):
        first, _ = follow(OVERFITTING[:cut])
        second = Watch()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        follow(OVERFITTING[cut:], second, first=cut + 1)
        assert second.state_dict() == follow(OVERFITTING)[0].state_dict()


# Runs.

def two_patterns(n, seed):
    rng = np.random.default_rng(0)
    patterns = np.sign(rng.standard_normal((10, 8, 8)))
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 10
    seen = np.where(rng.random(n) < .5, y, rng.integers(0, 10, n))
    x = 127.5 + patterns[y] + .4 * rng.standard_normal((n, 8, 8))
    x[:, :3] = 127.5 + 8 * patterns[seen][:, :3]
    return x.round().astype(np.uint8), y


class Centred(nn.Module):
    def forward(self, x):
        return (x - 0.5) * 12.8


def small_net(name, num_classes, in_channels, image_size):
    net = nn.Sequential(nn.Flatten(), Centred(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, num_classes))
    with torch.no_grad():
        net[2].weight *= 2
        net[2].bias *= 2
    return net


def main(arguments):
    """The command line, with the small network for small_cnn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", small_net)
        assert train.main(arguments) == 0


@pytest.fixture(scope="module")
def overfit(tmp_path_factory):
    """overfit(DO, *options): the folder of a run with --on-overfitting DO; it is trained once."""
    folder = tmp_path_factory.mktemp("overfitting")
    (x, y), (x_test, y_test) = two_patterns(1000, 0), two_patterns(400, 1)
    np.savez(folder / "set.npz", train_images=x, train_labels=y, test_images=x_test, test_labels=y_test)

    def run(do, *options, out=None):
        out = folder / (out or do)
        if not out.exists():
            main(["--dataset", "npz", "--data-dir", str(folder / "set.npz"), "--model", "small_cnn", "--method", "adv",
                  "--epsilon", str(4 / 255), "--step-size", str(10 / 255), "--batch-size", "64", "--validation-size",
                  "200", "--weight-decay", "0", "--seed", "4", "--lr", "0.2", "--epochs", "20", "--ramp-epochs", "3",
                  "--plateau-epochs", "3", "--device", "cpu", "--out", str(out), "--on-overfitting", do, *options])
        return out

    return run


def column(lines, name):
    return np.array([line[name] for line in lines])


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_onset_is_where_the_accuracies_say(overfit, read_log, capsys):
    folder = overfit("continue")
    lines = read_log(folder)
    onset = summary(folder)["overfitting_epochs"][0]
    # An independent look: the cut of the curve of robust accuracy into two levels, after its highest point but one.
    robust, adversary = column(lines, "robust_accuracy"), column(lines, "adversary_accuracy")
    start = int(robust.argmax())
    spread = [robust[start:cut].var() * (cut - start) + robust[cut:].var() * (len(robust) - cut)
              for cut in range(start + 1, len(robust))]
    cut = start + 1 + int(np.argmin(spread))
    assert abs(onset - lines[cut]["epoch"]) <= 1
    assert robust[cut:].mean() < robust[start] - 0.2 and adversary[cut:].mean() > adversary[start]
    assert column(lines, "fgsm_accuracy")[cut:].mean() > column(lines, "fgsm_accuracy")[start]
    assert column(lines, "jacobian_norm")[cut:].mean() > 4 * lines[start]["jacobian_norm"]
    assert not any(column(lines, "overfitted")[:onset - 1]) and column(lines, "overfitted")[onset - 1:].mean() > 0.7
    said = capsys.readouterr().out
    assert said.count("catastrophic overfitting sets in") == len(summary(folder)["overfitting_epochs"])
    assert f"epoch {onset}: catastrophic overfitting" in said and "(--on-overfitting continue)" in said


def best(folder):
    return load_file(folder / "best.safetensors")


def weights(folder):
    return checkpoint.load_last(folder / "last.pt")["model"]


def robust_accuracy(folder, state):
    """Of these weights on the test images; PGD of 50 steps, another than the run's own."""
    x, y = two_patterns(400, 1)
    model = small_net("", 10, 1, 8)
    model.load_state_dict(state)
    eps = read_config(folder)[0].eps
    attack = PGD(eps, eps / 8, 50, restarts=2)
    return measure(model, torch.tensor(x)[:, None], torch.tensor(y), attack, torch.device("cpu"))["robust_accuracy"]


def test_the_best_checkpoint_is_from_before(overfit, read_log):
    folder = overfit("continue")
    found = summary(folder)
    assert found["best_epoch"] < found["overfitting_epochs"][0]
    assert robust_accuracy(folder, best(folder)) > robust_accuracy(folder, weights(folder)) + 0.15


def test_rewind_ends_better_than_continue(overfit, read_log):
    """Seeds 0 to 7, 1,000 test images, PGD-50 twice: 28 to 41% at the end after rewinding, 0 to 11% without; the best
    checkpoints 28 to 41% and 15 to 42%, better in 7 of the 8."""
    stayed, rewound = overfit("continue"), overfit("rewind")
    assert robust_accuracy(rewound, weights(rewound)) > robust_accuracy(stayed, weights(stayed)) + 0.15
    assert robust_accuracy(rewound, best(rewound)) > robust_accuracy(stayed, best(stayed)) - 0.1
    lines, changes = read_log(rewound), summary(rewound)["rewinds"]
    assert 1 <= len(changes) <= rewind.MOST
    assert [change["alpha"] for change in changes] == [2e-4 * 2**i for i in range(len(changes))]
    assert [line["rewind"] for line in lines if "rewind" in line] == changes
    first = changes[0]["epoch"]
    assert changes[0]["to_epoch"] < first == summary(rewound)["overfitting_epochs"][0]
    assert all(("jacobian" in line) == (line["epoch"] > first) for line in lines)
    before = [line for line in read_log(stayed) if line["epoch"] < first]
    same = [name for name in before[0] if name not in ("seconds", "ms_per_batch")]
    assert all(a[name] == b[name] for a, b in zip(before, lines, strict=False) for name in same)


def test_stop(overfit, read_log, capsys):
    folder = overfit("stop")
    onset = summary(overfit("continue"))["overfitting_epochs"][0]
    assert len(read_log(folder)) == onset and "training ends with the weights of epoch" in capsys.readouterr().out
    assert (folder / "best.safetensors").read_bytes() == (overfit("continue") / "best.safetensors").read_bytes()
    before = (folder / "last.pt").read_bytes()
    (folder / "summary.json").unlink()
    main(["--resume", "--out", str(folder)])
    assert (folder / "last.pt").read_bytes() == before and summary(folder)["overfitting_epochs"] == [onset]


def test_resume_after_a_rewind_is_bit_identical(overfit, read_log, monkeypatch):
    straight = overfit("rewind")
    stop_at = summary(straight)["rewinds"][0]["epoch"] + 1
    one_epoch = loop.one_epoch

    def interrupted(run, *rest):
        if run.schedule.epoch == stop_at:
            next(iter(run.model.parameters())).data.zero_()
            raise KeyboardInterrupt
        return one_epoch(run, *rest)

    monkeypatch.setattr(loop, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        overfit("rewind", out="broken")
    monkeypatch.setattr(loop, "one_epoch", one_epoch)
    folder = straight.parent / "broken"
    assert len(read_log(folder)) == stop_at
    main(["--resume", "--out", str(folder)])

    def same(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            times = ("seconds", "ms_per_batch")
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key not in times)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return a == b

    assert same(*(checkpoint.load_last(one / "last.pt") for one in (straight, folder)))
    assert same(*([{k: v for k, v in line.items() if k != "ms_per_batch"} for line in read_log(one)]
                  for one in (straight, folder)))
    assert (straight / "best.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()


@pytest.fixture
def scripted(monkeypatch):
    """What the validation measures after each epoch is (robust, adversary, Jacobian norm) of this list."""
    def follow(numbers):
        left = iter(numbers)

        def measured(*arguments):
            robust, adversary, norm = next(left)
            return {"clean_accuracy": 1.0, "robust_accuracy": robust, "adversary_accuracy": adversary,
                    "fgsm_accuracy": adversary, "jacobian_norm": norm}

        monkeypatch.setattr(loop, "measure", measured)

    return follow


@pytest.mark.parametrize("ramp", [1, 3, 4, 6])
@pytest.mark.parametrize("do", ["continue", "stop"])
def test_overfitting_in_the_ramp_keeps_the_epoch_before(small_run, scripted, monkeypatch, do, ramp):
    """No epoch counts for the schedule before the end of the ramp, and none that is overfitted after it."""
    kept, weights = [], checkpoint.weights

    def spy(model):
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return weights(model)

    monkeypatch.setattr(checkpoint, "weights", spy)
    scripted([(.3, .4, 50), (.5, .6, 100), (.1, .6, 300), (.1, .6, 300), (.1, .6, 300), (.1, .6, 300)])
    folder = small_run("--epochs", "6", "--lr", "0.01", "--ramp-epochs", str(ramp), "--on-overfitting", do)
    found = summary(folder)
    assert (found["overfitting_epochs"], found["best_epoch"]) == ([3], 2)
    assert found["epochs"] == (3 if do == "stop" else 6)
    assert len(kept) == 2 and all(torch.equal(kept[1][k], v) for k, v in best(folder).items())


def test_the_number_of_rewinds_is_limited(small_run, scripted, read_log, capsys):
    scripted([BEST] + [(.1, .6, 300)] * 9)
    folder = small_run("--method", "adv", "--epochs", "9", "--ramp-epochs", "0", "--on-overfitting", "rewind")
    found = summary(folder)
    assert rewind.MOST == 5 and len(found["rewinds"]) == 5 and found["overfitting_epochs"] == [2, 3, 4, 5, 6, 7]
    assert [line.get("rewind") for line in read_log(folder)] == [None, *found["rewinds"], None]
    assert "training ends after 5 rewinds with the weights of epoch 1" in capsys.readouterr().out


def test_no_rewind_after_the_last_epoch(small_run, scripted):
    scripted([BEST, (.1, .6, 300)])
    folder = small_run("--epochs", "2", "--ramp-epochs", "2", "--on-overfitting", "rewind")
    assert summary(folder)["rewinds"] == [] and summary(folder)["best_epoch"] == 1


def test_a_healthy_run_is_not_called_overfitted(tmp_path, read_log):
    folder = tmp_path / "digits"
    assert train.main(["--dataset", "digits", "--method", "atlas", "--steps", "1", "--epochs", "6", "--batch-size",
                       "64", "--device", "cpu", "--out", str(folder)]) == 0
    assert summary(folder)["overfitting_epochs"] == [] and not any(line["overfitted"] for line in read_log(folder))
    assert summary(folder)["attacks"]["pgd-20"]["robust_accuracy"] > 0.5


def test_methods_without_an_adversary(small_run, read_log):
    with pytest.raises(UserError, match="jac has no adversary to overfit to"):
        small_run("--method", "jac", "--on-overfitting", "stop")
    folder = small_run("--method", "jac", "--epochs", "1")
    assert "overfitted" not in read_log(folder)[0] and summary(folder)["overfitting_epochs"] == []
    with pytest.raises(UserError, match="--on-overfitting must be one of continue, stop, rewind, not 'hope'"):
        small_run("--on-overfitting", "hope", out="other")


# The way back.

EPS = {"eps": 8 / 255}


@pytest.mark.parametrize("objective, jacobian_at, alphas", [
    (objectives.adv(**EPS), "adv", (.1, .2)), (objectives.trades(**EPS, beta=2), "adv", (.1, .2)),
    (objectives.atlas_g(**EPS, beta=2), "adv", (.1, .2)), (objectives.atlas_l(**EPS, alpha=3), "adv", (6, 12)),
    (objectives.atlas(**EPS, alpha=0, beta=2), "adv", (.1, .2)),
    (objectives.tradesjac(**EPS, alpha=0, beta=2), "x", (.1, .2)),
    (objectives.tradesjac(**EPS, alpha=3, beta=2), "x", (6, 12))], ids=lambda v: getattr(v, "name", None))
def test_raised(objective, jacobian_at, alphas):
    for alpha in alphas:
        raised = rewind.raised(objective, 0.1)
        assert raised == objective.replace(jacobian_at=jacobian_at, alpha=alpha)
        objective = raised


def test_first_alpha_is_that_of_atlas():
    assert rewind.first_alpha("cifar10", 1) == 2e-4 and rewind.first_alpha("cifar10", 10) == 1e-4
    assert rewind.first_alpha("mnist", 1) == 1e-5 and rewind.first_alpha("digits", 1) == 1e-3


def test_what_is_rewound_stays_as_it_was(overfit, monkeypatch):
    """The remembered state is a copy: training on does not change it, and a second rewind gives the same weights."""
    from atlas_fast.training.setup import prepare

    folder = overfit("rewind")
    monkeypatch.setattr(models, "create", small_net)
    run = prepare(read_config(folder)[0])
    x, y = next(run.batches.epoch(0))
    run.step(x, y)
    run.schedule.epoch, run.schedule.lr = 1, 0.125
    run.rewinder.remember(run)
    wanted = rewind.copied((run.model.state_dict(), run.optimizer.state_dict()["state"]))
    for epoch in (4, 6):
        run.step(x, y)
        run.schedule.epoch, run.schedule.lr, run.schedule.bad = epoch, 0.5, 2
        change = run.rewinder.rewind(run)
        assert change == {"epoch": epoch, "to_epoch": 1, "alpha": 2e-4 * (1 if epoch == 4 else 2), "jacobian_at": "adv"}
        for name, value in run.model.state_dict().items():
            assert torch.equal(value, wanted[0][name])
        for i, value in run.optimizer.state_dict()["state"].items():
            assert torch.equal(value["momentum_buffer"], wanted[1][i]["momentum_buffer"])
        assert (run.schedule.epoch, run.schedule.lr, run.schedule.bad) == (epoch, 0.125, 0)


def test_curves_mark_it(overfit, read_log, picture, tmp_path):
    lines = read_log(overfit("rewind"))
    assert curves.remarks(lines, 5) == [
        "dotted: best epoch 5",
        f"red: catastrophic overfitting from epoch {next(line['epoch'] for line in lines if line['overfitted'])}",
        "rewound after epoch " + ", ".join(str(line["epoch"]) for line in lines if "rewind" in line)]
    assert curves.remarks(lines[:3], None) == []
    curves.draw(lines, tmp_path / "curves.png", "title", 5)
    pixels = image.imread(tmp_path / "curves.png")[..., :3]
    red = np.array([0.8, 0, 0]) * 0.15 + 0.85  # on white
    shaded = (np.abs(pixels - red).max(-1) < 0.01).mean()
    expected = 0.7 * np.mean([line["overfitted"] for line in lines])  # the axes fill about that much of the picture
    assert 0.3 * expected < shaded < 1.5 * expected
