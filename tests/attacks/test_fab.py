"""FAB-T: its projections against a brute-force solution, its iterates and verdicts against the reference code."""

import copy

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import FABTargeted, fab_run, projections
from atlas_fast.attacks.attempts import Outcome
from atlas_fast.attacks.projections import to_hyperplane
from atlas_fast.errors import UserError

EPS = {"Linf": 0.1, "L2": 0.5}
ORDER = {"Linf": torch.inf, "L2": 2}


@pytest.fixture(scope="module")
def net(digits_net):
    """In float64, where rounding turns no verdict."""
    return copy.deepcopy(digits_net).double()


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:48].double(), digits[1][:48]


@pytest.fixture(scope="module")
def fab_pt():
    return pytest.importorskip("pyautoattack.fab_pt", reason="the reference implementation for this test")


def wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


def problems(rows=200, n=13, dtype=torch.float64, spread=0.0):
    """Points, some coordinates on the border, normals with zeros, and what w . t is to change by, within reach."""
    generator = torch.Generator().manual_seed(n)
    t = torch.rand(rows, n, generator=generator, dtype=torch.float64)
    t[torch.rand(t.shape, generator=generator) < 0.2] = 0
    t[torch.rand(t.shape, generator=generator) < 0.2] = 1
    w = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    w *= torch.exp(spread * torch.randn(t.shape, generator=generator, dtype=torch.float64))
    w[torch.rand(t.shape, generator=generator) < 0.1] = 0
    share = torch.rand(rows, generator=generator, dtype=torch.float64) ** 2 * 0.98
    up = torch.where(w > 0, 1 - t, t).mul(w.abs()).sum(1)
    down = torch.where(w < 0, 1 - t, t).mul(w.abs()).sum(1)
    c = torch.where(torch.arange(rows) % 2 == 0, share * up, -share * down)
    return t.to(dtype), w.to(dtype), c.to(dtype)


def by_bisection(t, w, c, norm):
    """float64: the multiplier m of the formula in projections.py by 200 halvings."""
    sign = torch.where(c < 0, -1.0, 1.0)[:, None] * w.sign()
    room = torch.where(sign > 0, 1 - t, t)
    speed = torch.ones_like(w) if norm == "Linf" else w.abs()
    low, high = torch.zeros(len(t), 1, dtype=torch.float64), torch.full((len(t), 1), 1e12, dtype=torch.float64)
    for _ in range(200):
        middle = (low + high) / 2
        short = (torch.minimum(middle * speed, room) * w.abs()).sum(1, keepdim=True) < c.abs()[:, None]
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return sign * torch.minimum(high * speed, room)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(("n", "spread"), [(1, 0), (13, 0), (64, 0), (784, 0), (784, 3)])
def test_projections_are_the_bisections(norm, n, spread):
    t, w, c = problems(n=n, spread=spread)
    keep = (w.abs().sum(1) > 0) & (c != 0)
    t, w, c = t[keep], w[keep], c[keep]
    expected, d = by_bisection(t, w, c, norm), to_hyperplane(t, w, c, norm)
    length = expected.norm(ORDER[norm], dim=1)
    assert ((d - expected).norm(ORDER[norm], dim=1) <= 1e-5 * length + 1e-12).all()
    assert ((w * d).sum(1) - c).abs().div(c.abs()).max() <= 2e-6
    assert (t + d).min() >= -1e-12 and (t + d).max() <= 1 + 1e-12
    low = to_hyperplane(t.float(), w.float(), c.float(), norm)
    assert low.dtype == torch.float32 and ((low - expected).norm(ORDER[norm], dim=1) <= 1e-4 * length + 1e-5).all()


def test_no_shorter_way_exists():
    """Against solvers that know nothing of the formula: a linear program (L_inf) and a quadratic one (L2)."""
    optimize = pytest.importorskip("scipy.optimize", reason="solves the problem another way")
    below = torch.cat([torch.cat([torch.eye(5), -torch.eye(5)]), -torch.ones(10, 1)], 1).numpy()  # |d_i| <= s
    for t, w, c in zip(*problems(rows=12, n=5), strict=True):
        ours = {norm: to_hyperplane(t, w, c, norm).norm(ORDER[norm]).item() for norm in ORDER}
        box, a, c = list(zip((-t).tolist(), (1 - t).tolist(), strict=True)), w.numpy(), float(c)
        program = optimize.linprog([0] * 5 + [1], A_ub=below, b_ub=[0] * 10, A_eq=[[*a, 0]], b_eq=[c],
                                   bounds=[*box, (0, None)])
        assert ours["Linf"] == pytest.approx(program.fun, rel=1e-5, abs=1e-8)
        plane = {"type": "eq", "fun": lambda d, a=a, c=c: a @ d - c, "jac": lambda d, a=a: a}
        quadratic = optimize.minimize(lambda d: d @ d, 0 * a, jac=lambda d: 2 * d, bounds=box, constraints=plane,
                                      method="SLSQP", options={"ftol": 1e-14, "maxiter": 500})
        assert quadratic.success and ours["L2"] == pytest.approx(quadratic.fun**0.5, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_projections_where_there_is_no_hyperplane_to_reach(norm):
    t = torch.tensor([[0.25, 0.5, 0.0], [0.25, 0.5, 1.0], [0.25, 0.5, 1.0]])
    w = torch.tensor([[1.0, -2.0, 0.0], [1e-30, -2e-30, 1e-30], [0.0, 0.0, 0.0]])
    d = to_hyperplane(t, w, torch.tensor([9.0, -9.0, 1.0]), norm)
    torch.testing.assert_close(d, torch.tensor([[0.75, -0.5, 0.0], [-0.25, 0.5, -1.0], [0.0, 0.0, 0.0]]))
    assert to_hyperplane(t, w, torch.zeros(3), norm).abs().max() == 0
    assert to_hyperplane(t[2:], w[2:], torch.zeros(1), norm).abs().max() == 0
    # Tiny normals are as good as others.
    exact = to_hyperplane(t[:1], w[:1], torch.tensor([0.7]), norm)
    torch.testing.assert_close(to_hyperplane(t[:1], 1e-30 * w[:1], torch.tensor([0.7e-30]), norm), exact)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_steps_of_a_gpu_suffice(norm, monkeypatch):
    """There nobody looks whether the rows are done."""
    t, w, c = problems(rows=300, n=784, spread=1)
    exact = to_hyperplane(t, w, c, norm)
    monkeypatch.setattr(projections, "_STEPS", projections._STEPS_UNSEEN)
    torch.testing.assert_close(to_hyperplane(t, w, c, norm), exact)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_iterates_are_the_references(norm, fab_pt, digits_net, digits, monkeypatch):
    """What the network is asked for, step by step: the point, then the candidate after the projections."""
    x, y = (t[~wrong(digits_net, *digits)][:64] for t in digits)
    monkeypatch.setattr(fab_run, "survivors", lambda done, step: None)
    asked = []
    handle = digits_net.register_forward_pre_hook(lambda module, images: asked.append(images[0].detach().clone()))
    steps = 6
    try:
        FABTargeted(EPS[norm], steps, targets=1, norm=norm)(digits_net, x, y)
        ours, asked[:] = asked[1:], []  # without the clean images
        theirs = fab_pt.FABAttack_PT(digits_net, norm, 1, steps, EPS[norm], targeted=True)
        theirs.target_class = 2
        theirs.attack_single_run(x, y, is_targeted=True)
        theirs = asked[2:]
    finally:
        handle.remove()
    assert len(ours) == len(theirs) == 2 * steps
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        apart = (a - b).flatten(1).abs().amax(1) > 1e-4
        assert apart.sum() <= (step > 2), (step, apart.sum())  # a verdict on the boundary


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_verdicts_are_the_references(norm, fab_pt, digits_net, digits):
    x, y = digits[0][:200], digits[1][:200]
    theirs = fab_pt.FABAttack_PT(digits_net, norm, 1, 15, EPS[norm], targeted=True, n_target_classes=3).perturb(x, y)
    ours = FABTargeted(EPS[norm], steps=15, targets=3, norm=norm)(digits_net, x, y)
    expected, found = (wrong(digits_net, z, y) for z in (theirs, ours))
    assert 20 < expected.sum() < 180 and (expected != found).sum() <= 1


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_adversaries_lie_in_the_ball_and_in_the_range(norm, restarts, digits_net, digits):
    x, y = digits[0][:60].clone(), digits[1][:60]
    before = x.clone()
    x_adv = FABTargeted(EPS[norm], steps=8, restarts=restarts, targets=2, norm=norm)(digits_net, x, y, ops.make_rng(1))
    length = (x_adv - x).flatten(1).norm(ORDER[norm], dim=1)
    assert length.max() <= EPS[norm] and x_adv.min() >= 0 and x_adv.max() <= 1
    clean, found = wrong(digits_net, x, y), wrong(digits_net, x_adv, y)
    assert (found & ~clean).any() and torch.equal(length > 0, found & ~clean)
    assert torch.equal(x, before) and x_adv.dtype == x.dtype and not x_adv.requires_grad


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_neither_leaving_nor_running_together_nor_cutting_changes_anything(norm, net, batch, monkeypatch):
    attack, (x, y), rng = FABTargeted(1.3 * EPS[norm], 8, restarts=2, targets=3, norm=norm), batch, ops.make_rng(4)
    whole = attack(net, x, y, rng)
    cuts = (0, 1, 30, len(x))
    parts = [attack(net, x[i:j], y[i:j], rng, sample_offset=i) for i, j in zip(cuts, cuts[1:], strict=False)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    turn = Outcome.in_turn
    monkeypatch.setattr(Outcome, "in_turn", lambda self, *a: (setattr(self, "_capacity", 0), turn(self, *a))[1])
    monkeypatch.setattr(fab_run, "survivors", lambda done, step: None)
    torch.testing.assert_close(attack(net, x, y, rng), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_first_restart_begins_at_x_and_the_others_half_eps_away(norm, net, batch):
    (x, y), rng, n = batch, ops.make_rng(4), len(batch[0])
    attack = FABTargeted(EPS[norm], steps=2, restarts=3, targets=2, norm=norm)
    starts = attack._starts(0 * x + 0.5, torch.arange(n).repeat(4), range(2, 6), rng, 0) - 0.5
    length = starts.flatten(1).norm(ORDER[norm], dim=1).view(4, n)
    expected = torch.tensor([0.5, 0, 0.5, 0.5], dtype=torch.float64)[:, None].expand(4, n) * EPS[norm]
    torch.testing.assert_close(length, expected)
    assert len(starts.unique(dim=0)) == 3 * n + 1
    one = FABTargeted(EPS[norm], steps=2, targets=1, norm=norm)(net, x, y, rng)
    fooled, more = wrong(net, one, y), attack(net, x, y, rng)
    assert fooled.any() and torch.equal(more[fooled], one[fooled])


def test_networks_with_two_classes_or_without_a_slope():
    x, y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3)
    two = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        two[1].weight[1], two[1].bias[:] = -two[1].weight[0], 0
    assert (two(FABTargeted(0.9, steps=5)(two, x, y)).argmax(1) != y).all()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(flat[1].weight)
    x_adv = FABTargeted(0.5, steps=3)(flat, x, y)
    assert torch.equal(x_adv, x)


def test_wrong_use_is_refused(net, batch):
    for wrong_use, message in [({"eps": -1}, "eps"), ({"eps": 0.1, "steps": 0}, "steps"),
                               ({"eps": 0.1, "eta": 0.9}, "eta"), ({"eps": 0.1, "eta": "1"}, "eta"),
                               ({"eps": 0.1, "restarts": 0}, "restarts"), ({"eps": 0.1, "targets": 0}, "targets"),
                               ({"eps": 0.1, "alpha_max": 1.5}, "alpha_max"), ({"eps": 0.1, "beta": -1}, "beta"),
                               ({"eps": 0.1, "norm": "L1"}, "norm")]:
        with pytest.raises(UserError, match=message):
            FABTargeted(**wrong_use)
    one = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(UserError, match="at least 2 classes"):
        FABTargeted(0.1)(one, torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="labels must lie in 0..9"):
        FABTargeted(0.1)(net, batch[0], batch[1] + 10)


def test_settings_say_every_number():
    assert FABTargeted(0.1).settings == {"eps": 0.1, "norm": "Linf", "steps": 100, "restarts": 1, "targets": 9,
                                         "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
