"""APGD and APGD-T: against the reference code, their losses against the definition, and their conventions."""

import copy

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import APGD, APGDTargeted, Network, apgd, apgd_run
from atlas_fast.attacks.attempts import Outcome
from atlas_fast.attacks.balls import L2Ball, LinfBall, ball, norms
from atlas_fast.attacks.losses import ce, dlr, targeted_dlr
from atlas_fast.attacks.network import AutogradPasses
from atlas_fast.errors import UserError

EPS = {"Linf": 0.1, "L2": 0.5}
EVERY = [APGD(EPS["Linf"], steps=30), APGD(EPS["L2"], "dlr", 30, norm="L2"), APGDTargeted(EPS["Linf"], 12, targets=4),
         APGDTargeted(EPS["L2"], 12, targets=3, restarts=2, norm="L2")]


def name(attack):
    return f"{type(attack).__name__}-{attack.settings['loss']}-{attack.norm}"


@pytest.fixture(scope="module")
def net(digits_net):
    """In float64, where rounding turns no sign and no verdict."""
    return copy.deepcopy(digits_net).double()


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:80].double(), digits[1][:80]


@pytest.fixture
def nobody_leaves(monkeypatch):
    monkeypatch.setattr(apgd_run, "survivors", lambda done, step: None)


def wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


def reference(autopgd, kind, net, x, y, norm, steps, target=None):
    """(attack, x_best, fooled, best loss) of one run of the reference code in float64, seed 0."""
    shared = {"n_iter": steps, "norm": norm, "eps": EPS[norm]}
    if kind == "dlr-targeted":
        attack = autopgd.APGDAttack_targeted(net, **shared)
        attack.y_target = target
    else:
        attack = autopgd.APGDAttack(net, loss=kind, **shared)
    attack.init_hyperparam(x)
    torch.manual_seed(0)
    x_best, right, loss, _ = attack.attack_single_run(x, y)
    return attack, x_best, ~right, loss


@pytest.mark.parametrize(("kind", "steps", "rank"), [("ce", 100, 0), ("dlr", 100, 0), ("dlr-targeted", 100, 0),
                                                     ("dlr-targeted", 40, 8), ("ce", 7, 0)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_run_is_the_references(kind, steps, rank, norm, net, batch, nobody_leaves, monkeypatch):
    autopgd = pytest.importorskip("pyautoattack.autopgd_base", reason="the reference implementation for this test")
    x, y = (t[~wrong(net, *batch)] for t in batch)
    target = apgd.likely_classes(net(x), 9)[:, rank]
    torch.set_default_dtype(torch.float64)  # the reference code keeps its losses in the default dtype
    try:
        theirs, x_best, fooled, loss = reference(autopgd, kind, net, x, y, norm, steps, target)
        torch.manual_seed(0)
        noise = 2 * torch.rand(x.shape) - 1 if norm == "Linf" else torch.randn(x.shape)
    finally:
        torch.set_default_dtype(torch.float32)
    around, rows = ball(norm, x, EPS[norm]), torch.arange(len(x))
    labels, function = ((y, target), targeted_dlr) if kind == "dlr-targeted" else ((y,), apgd.LOSSES[kind])
    run = apgd_run.Run(Network(net), function, around, EPS[norm], steps, rho=0.75)
    start = around.project(x + EPS[norm] * theirs.normalize(noise))
    # The reference code adds 1e-12 to the length of the gradient, which parts a sample or two in 100 steps.
    monkeypatch.setattr(L2Ball, "direction", staticmethod(theirs.normalize))
    state = run(Outcome(x, torch.zeros_like(fooled)), rows, torch.zeros_like(rows), labels, start)
    assert torch.equal(state.fooled, fooled)
    torch.testing.assert_close(state.best_loss, loss, rtol=1e-7, atol=1e-7)
    # Rounding decides between points of equal loss: where a pixel does not matter, and where DLR is at its highest, 1.
    apart = (state.x_best - x_best).abs()[(loss < 1 - 1e-6) | (kind == "ce")] > 1e-5
    assert apart.double().mean() < 0.01
    assert 0 < fooled.sum() < len(x) or steps < 100


def drawn(norm, x, draw):
    """Noise for every sample of x: uniform in [0, 1) (L_inf) or normal (L2)."""
    draw_from = torch.rand if norm == "Linf" else torch.randn
    return draw_from(x.shape, generator=torch.Generator().manual_seed(draw))


def our_starts(monkeypatch):
    def noises(norm, x, sample, rng, purpose, draws, sample_offset):
        parts = []
        for draw, rows in zip(draws, sample.chunk(len(draws)), strict=True):
            t = 2 * drawn(norm, x, draw) - 1 if norm == "Linf" else drawn(norm, x, draw)
            parts.append((t / (norms(t, norm) + 1e-12))[rows])
        return torch.cat(parts)

    monkeypatch.setattr(apgd, "noises", noises)


def their_starts(monkeypatch, attack, norm, x, draws):
    """The reference code draws for the samples that are left only."""
    run, draws = attack.attack_single_run, iter(draws)

    def single(left, y):
        rows = [int((x == image).flatten(1).all(1).nonzero()[0]) for image in left]
        noise = drawn(norm, x, next(draws))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand" if norm == "Linf" else "randn", lambda shape: noise[rows])
            return run(left, y)

    attack.attack_single_run = single


@pytest.mark.filterwarnings("ignore:there are")  # the reference code's on gradients of 0
@pytest.mark.parametrize("kind", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_whole_attack_breaks_what_the_references_breaks(kind, norm, digits_net, digits, monkeypatch):
    """From the same starts, in float32: all targets and restarts, each on the samples that are left."""
    autopgd = pytest.importorskip("pyautoattack.autopgd_base", reason="the reference implementation for this test")
    x, y = digits[0][:200], digits[1][:200]
    shared = {"n_iter": 20, "norm": norm, "eps": EPS[norm], "n_restarts": 2}
    if kind == "dlr-targeted":
        theirs = autopgd.APGDAttack_targeted(digits_net, n_target_classes=3, **shared)
        ours = APGDTargeted(EPS[norm], steps=20, restarts=2, targets=3, norm=norm)
    else:
        theirs = autopgd.APGDAttack(digits_net, loss=kind, **shared)
        ours = APGD(EPS[norm], kind, steps=20, restarts=2, norm=norm)
    kinds = ["ce", "dlr", "dlr-targeted"]
    their_starts(monkeypatch, theirs, norm, x, range(kinds.index(kind), 99, 3))
    expected = wrong(digits_net, theirs.perturb(x, y), y)
    our_starts(monkeypatch)
    found = wrong(digits_net, ours(digits_net, x, y, ops.make_rng(0)), y)
    assert 20 < expected.sum() < 180  # there is something to tell
    assert (expected != found).sum() <= 1  # rounding may turn the sign of a gradient that is nearly 0


def test_checkpoints_are_the_papers():
    assert list(apgd_run.checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]  # section 3.1, times 100
    assert apgd_run.checkpoints(100)[41] == 19 and apgd_run.checkpoints(100)[99] == 6
    assert apgd_run.checkpoints(1) == {1: 1}


def by_definition(loss, logits, y, target=None):
    """Equations 6 and 7 of the paper."""
    z, rows = logits.sort(dim=1, descending=True).values, torch.arange(len(y))
    if loss is ce:
        return nn.functional.cross_entropy(logits, y, reduction="none")
    if loss is targeted_dlr:
        return -(logits[rows, y] - logits[rows, target]) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2 + 1e-12)
    others = logits.masked_fill(nn.functional.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return -(logits[rows, y] - others.amax(1)) / (z[:, 0] - z[:, 2] + 1e-12)


@pytest.mark.parametrize(("loss", "classes"), [(ce, 3), (ce, 10), (dlr, 3), (dlr, 4), (dlr, 10), (targeted_dlr, 4),
                                               (targeted_dlr, 10)])
def test_losses_are_the_definitions_and_so_are_their_gradients(loss, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 5 * torch.randn(64, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (64,), generator=generator)
    labels = (y, (y + 1 + torch.randint(classes - 1, (64,), generator=generator)) % classes)
    labels = labels if loss is targeted_dlr else labels[:1]
    values, gradient = loss(logits, *labels)
    leaf = logits.clone().requires_grad_()
    expected = by_definition(loss, leaf, *labels)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, slope)
    if loss is not ce:  # neither shift nor scale of the logits counts
        torch.testing.assert_close(loss(3 * logits + 7, *labels)[0], values)
    low = loss(logits.float(), *labels)
    plain = by_definition(loss, logits.float(), *labels)
    assert (low[0] - values).abs().max() <= 2 * (plain - values).abs().max() + 1e-6
    assert loss(logits.bfloat16(), *labels)[1].dtype == torch.float32


@pytest.mark.parametrize(("logits", "y"), [
    ([2.0, 2.0, 1.0, 0.0], 0), ([2.0, 2.0, 1.0, 0.0], 1), ([2.0, 1.0, 1.0, 1.0], 0), ([1.0, 1.0, 1.0, 1.0], 2),
    ([0.0, 3.0, 3.0, 3.0], 0)])
def test_dlr_of_equal_logits_is_finite_and_its_gradient_a_one_sided_one(logits, y):
    logits, y = torch.tensor([logits], dtype=torch.float64), torch.tensor([y])
    for loss, labels in ((dlr, (y,)), (targeted_dlr, (y, (y + 1) % 4))):
        values, gradient = loss(logits, *labels)
        torch.testing.assert_close(values, by_definition(loss, logits, *labels))
        assert gradient.isfinite().all() and abs(float(gradient.sum())) <= 1e-9 * float(gradient.abs().max())


@pytest.mark.parametrize("attack", EVERY, ids=name)
def test_adversaries_lie_in_the_ball_and_in_the_range(attack, digits_net, digits):
    x, y = digits[0][:60].clone(), digits[1][:60]
    before = x.clone()
    x_adv = attack(digits_net, x, y, ops.make_rng(1))
    offset = (x_adv - x).flatten(1)
    assert offset.norm(torch.inf if attack.norm == "Linf" else 2, dim=1).max() <= attack.eps + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert torch.equal(x, before) and x_adv.dtype == x.dtype and not x_adv.requires_grad
    clean, found = wrong(digits_net, x, y), wrong(digits_net, x_adv, y)
    assert (found & ~clean).any() and (~found).any()
    assert torch.equal(x_adv[~found], x[~found]) and torch.equal(x_adv[clean], x[clean])
    assert (offset[found & ~clean].abs().amax(1) > 0).all()


@pytest.mark.parametrize("attack", EVERY, ids=name)
def test_samples_that_leave_change_nothing(attack, net, batch, monkeypatch):
    x_adv = attack(net, *batch, ops.make_rng(2))
    monkeypatch.setattr(apgd_run, "survivors", lambda done, step: None)
    torch.testing.assert_close(x_adv, attack(net, *batch, ops.make_rng(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", EVERY, ids=name)
def test_attempts_may_run_together(attack, net, batch, monkeypatch):
    attack, together = copy.copy(attack), []
    attack.eps *= 1.5  # to leave few
    run = Outcome.in_turn
    monkeypatch.setattr(Outcome, "in_turn", lambda self, attempts, f: run(
        self, attempts, lambda s, a, numbers: (together.append(len(numbers)), f(s, a, numbers))))
    x_adv = attack(net, *batch, ops.make_rng(3))
    monkeypatch.setattr(Outcome, "in_turn", lambda self, *a: (setattr(self, "_capacity", 0), run(self, *a))[1])
    torch.testing.assert_close(x_adv, attack(net, *batch, ops.make_rng(3)), rtol=0, atol=1e-12)
    assert isinstance(attack, APGD) or max(together) > 1


@pytest.mark.parametrize("attack", EVERY, ids=name)
def test_results_do_not_depend_on_how_the_samples_are_cut(attack, net, batch):
    (x, y), rng = batch, ops.make_rng(4)
    whole = attack(net, x, y, rng)
    parts = [attack(net, x[i:j], y[i:j], rng, sample_offset=i) for i, j in ((0, 1), (1, 30), (30, 80))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert not torch.equal(attack(net, x, y, ops.make_rng(5)), whole)


def test_restarts_go_on_with_the_rest(net, batch):
    (x, y), rng = batch, ops.make_rng(6)
    one, three = (APGD(EPS["Linf"], steps=1, restarts=r)(net, x, y, rng) for r in (1, 3))
    fooled, more = wrong(net, one, y), wrong(net, three, y)
    assert torch.equal(three[fooled], one[fooled]) and int(more.sum()) > int(fooled.sum())


def test_targets_are_as_many_as_there_are(net, batch):
    nine, fifty = (APGDTargeted(EPS["Linf"], steps=3, targets=t)(net, *batch, ops.make_rng(0)) for t in (9, 50))
    assert torch.equal(nine, fifty)


@pytest.mark.parametrize("attack", EVERY[:3], ids=name)
def test_one_forward_and_one_backward_pass_a_step(attack, digits_net, digits):
    """Where nothing is broken: the clean pass, and for every target steps + 1 forward and steps backward passes."""
    x, y = (t[~wrong(digits_net, *digits)][:16] for t in digits)
    forwards, backwards = [], []
    handles = [digits_net.register_forward_hook(lambda module, images, logits: forwards.append(len(logits))),
               digits_net.conv1.register_full_backward_hook(lambda module, into, out: backwards.append(len(out[0])))]
    try:
        tiny = copy.copy(attack)
        tiny.eps = 1e-7
        tiny(digits_net, x, y)
    finally:
        for handle in handles:
            handle.remove()
    targets = getattr(attack, "targets", 1)
    assert sum(forwards) == len(x) * (1 + targets * (attack.steps + 1))
    assert sum(backwards) == len(x) * targets * attack.steps


@pytest.mark.parametrize("attack", [APGD(0.9, steps=50), APGDTargeted(0.9, steps=50)], ids=name)
def test_who_is_broken_costs_nothing_any_more(attack, digits_net, digits):
    images = []
    handle = digits_net.register_forward_hook(lambda module, inputs, logits: images.append(len(logits)))
    try:
        x_adv = attack(digits_net, *digits, ops.make_rng(0))
    finally:
        handle.remove()
    assert wrong(digits_net, x_adv, digits[1]).all() and sum(images) < 8 * len(digits[1])


def test_a_success_of_a_pass_of_low_precision_is_checked(digits_net, digits):
    """Passes whose logits are so coarse that many samples only seem to be misclassified."""
    class Coarse(AutogradPasses):
        def forward(self, x):
            logits, backward = super().forward(x)
            return logits.add(2 * torch.randn(logits.shape, generator=generator)), backward

    generator = torch.Generator().manual_seed(0)
    x, y = digits[0][:100], digits[1][:100]
    passes = Coarse(digits_net)
    passes.exact = False
    for attack in EVERY:
        x_adv = attack(Network(digits_net, passes), x, y, ops.make_rng(0))
        moved = (x_adv != x).flatten(1).any(1)
        assert moved.sum() > 5 and wrong(digits_net, x_adv[moved], y[moved]).all()


def test_directions_of_gradients_that_are_tiny_huge_or_not_finite():
    g = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for scale in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(L2Ball.direction(scale * g), expected)
    assert L2Ball.direction(0 * g).abs().max() == 0
    g[0, 0, 0, 0], g[1, 0, 0, 0] = torch.nan, torch.inf
    assert L2Ball.direction(g)[:2].abs().max() == 0 and L2Ball.direction(g)[2:].isfinite().all()
    assert LinfBall.direction(g)[0, 0, 0, 0] == 0 and LinfBall.direction(g)[1, 0, 0, 0] == 1


def test_wrong_use_is_refused(net, batch):
    for wrong_use, message in [({"eps": 0}, "eps"), ({"eps": 0.1, "steps": 0}, "steps"),
                               ({"eps": 0.1, "restarts": 1.5}, "restarts"), ({"eps": 0.1, "rho": 1.5}, "rho"),
                               ({"eps": 0.1, "norm": "L1"}, "norm")]:
        for attack in (APGD, APGDTargeted):
            with pytest.raises(UserError, match=message):
                attack(**wrong_use)
    with pytest.raises(UserError, match="loss must be one of ce, dlr"):
        APGD(0.1, loss="mse")
    with pytest.raises(UserError, match="targets"):
        APGDTargeted(0.1, targets=0)
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    for classes, attack in ((2, APGD(0.1, "dlr")), (3, APGDTargeted(0.1))):
        few = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
        with pytest.raises(UserError, match=f"at least {classes + 1} classes and the model has {classes}"):
            attack(few, x, y)
        assert APGD(0.1, steps=2)(few, x, y).shape == x.shape
    with pytest.raises(UserError, match="labels must lie in 0..9"):
        APGD(0.1)(net, batch[0], batch[1] + 10)
    with pytest.raises(UserError, match="int64 tensor"):
        APGD(0.1)(net, *batch, rng=torch.zeros(2))


def test_settings_say_every_number():
    shared = {"eps": 0.1, "norm": "Linf", "steps": 100, "restarts": 1, "rho": 0.75}
    assert APGD(0.1).settings == {**shared, "loss": "ce"}
    assert APGDTargeted(0.1).settings == {**shared, "loss": "dlr-targeted", "targets": 9}
