"""The cascade of AutoAttack, the record of who broke what, and the warnings."""

import sys

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import APGD, AutoAttack, Square, autoattack
from atlas_fast.attacks.autoattack_checks import check_square
from atlas_fast.errors import UserError

EPS = 0.1


class Short(AutoAttack):
    """A tenth of the work, for the tests of what goes on between the parts."""

    def parts(self, classes):
        parts = super().parts(classes)
        for attack in parts.values():
            if isinstance(attack, Square):
                attack.queries = 60
            else:
                attack.steps = 8
        return parts


@pytest.fixture
def batch(digits):
    return digits[0][:60], digits[1][:60]


@pytest.fixture(scope="module")
def pyautoattack():
    return pytest.importorskip("pyautoattack", reason="the reference implementation for this test")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_parts_are_those_of_the_standard_version(pyautoattack, norm):
    theirs = pyautoattack.AutoAttack(nn.Identity(), eps=EPS, norm=norm, version="standard")
    ours = AutoAttack(EPS, norm).settings["parts"]
    assert list(ours) == theirs.attacks_to_run
    shared = {"eps": EPS, "norm": norm}
    assert ours["apgd-ce"] == {**shared, "loss": "ce", "steps": theirs.apgd.n_iter, "rho": theirs.apgd.thr_decr,
                               "restarts": theirs.apgd.n_restarts}
    targeted = theirs.apgd_targeted
    assert ours["apgd-t"] == {**shared, "loss": "dlr-targeted", "steps": targeted.n_iter, "rho": targeted.thr_decr,
                              "restarts": targeted.n_restarts, "targets": targeted.n_target_classes}
    fab = theirs.fab
    assert ours["fab-t"] == {**shared, "steps": fab.n_iter, "restarts": fab.n_restarts, "targets": fab.n_target_classes,
                             "alpha_max": fab.alpha_max, "eta": fab.eta, "beta": fab.beta}
    square = theirs.square
    assert ours["square"] == {**shared, "queries": square.n_queries, "restarts": square.n_restarts, "loss": square.loss,
                              "p_init": square.p_init, "rescale_schedule": square.rescale_schedule}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.5)])
def test_accuracies_are_the_references(pyautoattack, digits_net, digits, norm, eps):
    """With fewer steps and queries on both sides; the parts draw different random numbers, hence the allowance."""
    x, y = digits[0][:80], digits[1][:80]
    theirs = pyautoattack.AutoAttack(digits_net, eps=eps, norm=norm, version="standard", seed=0)
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = theirs.fab.n_iter = 8
    theirs.square.n_queries = 60
    with torch.random.fork_rng():
        predicted = theirs.run_standard_evaluation(x, y, batch_size=50)[1]
    sys.settrace(None)
    ours = Short(eps, norm).run(digits_net, x, y, rng=ops.make_rng(0)).accuracy_after
    robust = (predicted == y).double().mean().item()
    assert abs(ours["square"] - robust) <= 0.04 and robust < ours["clean"] - 0.2
    assert ours["clean"] == (digits_net(x).argmax(1) == y).double().mean()


def test_who_broke_what(digits_net, batch):
    (x, y), rng = batch, ops.make_rng(0)
    result = Short(EPS, batch_size=25).run(digits_net, x, y, rng=rng)
    broken = result.broken_by
    assert result.parts == ["apgd-ce", "apgd-t", "fab-t", "square"] and broken.unique().numel() >= 3
    assert torch.equal(broken == 0, digits_net(x).argmax(1) != y)
    assert torch.equal(digits_net(result.x_adv).argmax(1) == y, broken < 0)
    assert torch.equal(result.x_adv[broken <= 0], x[broken <= 0])
    assert (result.x_adv - x).abs().max() <= EPS + 1e-6 and result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    after = result.accuracy_after
    assert list(after) == ["clean", *result.parts] and after["square"] == (broken < 0).double().mean()
    assert list(after.values()) == sorted(after.values(), reverse=True)
    # The first part sees every sample that is classified correctly, each with the numbers of its index.
    first = APGD(EPS, steps=8)(digits_net, x, y, rng=rng)
    assert torch.equal(digits_net(first).argmax(1) != y, (broken == 0) | (broken == 1))
    assert result.warnings == []


def test_results_depend_on_neither_batches_nor_cuts(digits_net, batch):
    x, y, rng, net = batch[0][:24], batch[1][:24], ops.make_rng(4), digits_net
    whole = Short(EPS, batch_size=24).run(net, x, y, rng=rng)
    state = torch.get_rng_state()
    small = Short(EPS, batch_size=9).run(net, x, y, rng=rng)
    cut = [Short(EPS).run(net, x[a:b], y[a:b], rng=rng, sample_offset=a) for a, b in ((0, 13), (13, 24))]
    assert torch.equal(torch.get_rng_state(), state)
    for other in (small.broken_by, torch.cat([part.broken_by for part in cut])):
        assert torch.equal(other, whole.broken_by)
    for other in (small.x_adv, torch.cat([part.x_adv for part in cut])):
        assert ((other - whole.x_adv).abs() > 1e-5).double().mean() < 1e-2  # a sign of a gradient near 0 may turn
    assert torch.equal(Short(EPS)(net, x, y, rng=rng), whole.x_adv)


def test_survivors_share_batches():
    attack = AutoAttack(EPS, batch_size=3)
    broken = torch.tensor([-1, 0, 1, -1, 2, -1, -1, *[1] * 40, -1, -1])
    # Survivors per batch of 3: 1, 2, 1, then none up to the last two, which have 1 and 1.
    assert list(attack._spans(broken)) == [slice(0, 6), slice(6, 18), slice(42, 49)]
    assert list(attack._spans(torch.full((8,), -1))) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert list(attack._spans(torch.zeros(5))) == []


def test_settled_samples_are_not_attacked_again(digits_net, batch, monkeypatch):
    passed = {}

    def counted(part):
        class Counted(part):
            def __call__(self, model, x, y, rng=None, sample_offset=0):
                passed[part.__name__] = int((digits_net(x).argmax(1) == y).sum())
                return super().__call__(model, x, y, rng, sample_offset)
        return Counted

    for part in (autoattack.APGD, autoattack.APGDTargeted, autoattack.FABTargeted):
        monkeypatch.setattr(autoattack, part.__name__, counted(part))
    after = Short(EPS).run(digits_net, *batch, rng=ops.make_rng(0)).accuracy_after
    seen = [round(after[name] * 60) for name in ("clean", "apgd-ce", "apgd-t")]
    assert list(passed.values()) == seen and seen[0] > seen[1] > 0


def linear(classes):
    """A linear network, grey images, its predictions, and how far (L_inf) each is from another class: exactly."""
    generator = torch.Generator().manual_seed(classes)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes, bias=False)).eval()
    weight = torch.randn(classes, 16, generator=generator)
    net[1].weight.data = weight
    x = 0.4 + 0.2 * torch.rand(20, 1, 4, 4, generator=generator)
    logits = net(x).detach()
    y = logits.argmax(1)
    distance = (logits.gather(1, y[:, None]) - logits) / (weight[y][:, None] - weight[None]).abs().sum(2)
    return net, x, y, distance.scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize(("classes", "parts"), [
    (2, ["apgd-ce", "fab-t", "square"]), (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"]),
    (4, ["apgd-ce", "apgd-t", "fab-t", "square"])])
def test_few_classes(classes, parts):
    net, x, y, distance = linear(classes)
    order = distance.sort().values
    eps = (order[9] + order[10]).item() / 2
    result = Short(eps).run(net, x, y)
    assert result.parts == parts and torch.equal(result.broken_by < 0, distance > eps)
    assert any("not the standard AutoAttack" in w for w in result.warnings) == (classes < 4)
    assert AutoAttack(EPS).parts(classes)["fab-t"].targets == classes - 1


def test_square_beating_the_others_is_named(digits_net, batch):
    """Rounded images: no gradient sees that pixels matter, and random search does not care."""
    result = Short(0.3).run(lambda x: digits_net((4 * x).round() / 4 + 0 * x), *batch, rng=ops.make_rng(0))
    gain = result.accuracy_after["fab-t"] - result.accuracy_after["square"]
    assert gain > 0.1 and result.warnings[-1].startswith(f"Square, which uses no gradient, lowered the accuracy by "
                                                         f"{100 * gain:.2f} points more")
    assert check_square({"clean": 0.9, "apgd-ce": 0.5, "square": 0.4985}) == []
    assert len(check_square({"clean": 0.9, "apgd-ce": 0.5, "square": 0.497})) == 1
    assert check_square({"clean": 0.9, "square": 0.1}) == check_square({"clean": 0.9, "apgd-ce": 0.5}) == []


@pytest.mark.parametrize(("make", "message"), [
    (lambda: AutoAttack(0), "eps must be greater than 0"), (lambda: AutoAttack(EPS, norm="L1"), "norm must be one of"),
    (lambda: AutoAttack(EPS, version="plus"), 'version must be "standard"'),
    (lambda: AutoAttack(EPS, batch_size=0), "batch_size"), (lambda: AutoAttack(EPS).parts(1), "2 classes or more"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_inputs_are_refused(digits_net, batch):
    x, y = batch
    with pytest.raises(UserError, match="labels must lie in 0..9"):
        AutoAttack(EPS, batch_size=20)(digits_net, x, torch.cat([y[:-1], y[-1:] + 10]))
