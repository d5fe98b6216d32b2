"""N-FGSM, MART, NuAT, GradAlign and LLR: loss, gradients and adversary against their papers' formulas in float64."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from atlas_fast import objectives, ops
from atlas_fast.attacks import directions, starts
from atlas_fast.engine import AutogradView, SweepView, program
from atlas_fast.errors import UserError

N, C, EPS, ALPHA, BETA = 5, 4, 0.1, 0.3, 0.7
NEIGHBOURS = [method for method in objectives.PRESETS if method not in (*objectives.PAPER, "fat")]  # test_early_stop.py
VIEWS = [AutogradView, SweepView]


def net(batch_norm=False):
    torch.manual_seed(1)
    norm = [nn.BatchNorm2d(6, track_running_stats=False)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), *norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(16, C)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(N, 2, 4, 4, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 2, 3, 1])


def make(method, **changes):
    keywords = {"eps": EPS, "alpha": ALPHA, "beta": BETA, **changes}
    return objectives.create(method, **{k: v for k, v in keywords.items() if k in objectives.parameters(method)})


def losses(f, at, y):
    return -f(at).log_softmax(1)[torch.arange(N), y]


def slope(f, at, y, create_graph=False):
    at = at.detach().requires_grad_()
    return torch.autograd.grad(losses(f, at, y).sum(), at, create_graph=create_graph)[0]


def signs(rng):
    bits = ops.random_bits_reference(rng, N, 32, ops.RANDOM_START)
    return torch.where(bits >= 2**31, -1.0, 1.0).double().view(N, 2, 4, 4)


def noise(rng):
    bits = ops.random_bits_reference(rng, N, 32, ops.NOISE)
    return (2 * (bits // 256).double() / 2**24 - 1).view(N, 2, 4, 4)


# The papers' formulas, with x' given.

def n_fgsm(f, x, x_adv, y, rng):
    return losses(f, x_adv, y).mean()


def mart(f, x, x_adv, y, rng):
    p, q, rows = f(x_adv).softmax(1), f(x).softmax(1), torch.arange(N)
    wrong = p.masked_fill(nn.functional.one_hot(y, C).bool(), 0).max(1).values
    kl = (q * (q.log() - p.log())).sum(1)
    return (-p[rows, y].log() - (1 - wrong).log() + BETA * kl * (1 - q[rows, y])).mean()


def nuat(f, x, x_adv, y, rng):
    return losses(f, x, y).mean() + BETA * torch.linalg.svdvals(f(x_adv) - f(x)).sum() / N


def grad_align(f, x, x_adv, y, rng):
    g1, g2 = slope(f, x, y).flatten(1), slope(f, x + EPS * noise(rng), y, create_graph=True).flatten(1)
    return losses(f, x_adv, y).mean() + ALPHA * (1 - nn.functional.cosine_similarity(g1, g2, eps=0).mean())


def llr(f, x, x_adv, y, rng):
    along = ((x_adv - x) * slope(f, x, y, create_graph=True)).flatten(1).sum(1)
    curved = losses(f, x_adv, y) - losses(f, x, y) - along
    return (losses(f, x, y) + ALPHA * curved.abs() + BETA * along.abs()).mean()


DEFINITION = {f.__name__: f for f in (n_fgsm, mart, nuat, grad_align, llr)}


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("method", NEIGHBOURS)
def test_value_and_gradient_are_the_papers(method, batch_norm, view, batch):
    (x, y), model, rng = batch, net(batch_norm), ops.make_rng(2, 1)
    objective = make(method)
    x_adv = program.craft(objective, view(model), x, y, ramp=1.0, rng=rng)
    expected = DEFINITION[method](model, x, x_adv, y, rng)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True, materialize_grads=True)
    prepared = program.prepare(objective, view(model), x, y, rng=rng)
    prepared.accumulate()
    assert prepared.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    own = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert relative(own, torch.cat([g.flatten() for g in gradients])) < 1e-9
    weights = {"alignment": ALPHA, "linearity": ALPHA, "slope": BETA, "kl": BETA, "nuclear": BETA, "ce": 1, "bce": 1}
    total = sum(weights[name] * value.item() for name, value in prepared.terms.items() if name != "loss")
    assert total == pytest.approx(prepared.loss.item(), rel=1e-12)


@pytest.mark.parametrize("method", NEIGHBOURS)
def test_calling_the_objective_and_scaling_its_loss(method, batch):
    (x, y), model, rng = batch, net(), ops.make_rng(3, 1)
    expected = program.prepare(make(method), AutogradView(model), x, y, rng=rng)
    expected.accumulate()
    loss = make(method)(model, x, y, rng=rng)
    own = torch.autograd.grad(3 * loss, list(model.parameters()))
    assert loss.item() == expected.loss.item()
    for g, p in zip(own, model.parameters(), strict=True):
        torch.testing.assert_close(g, 3 * p.grad, rtol=1e-12, atol=1e-14)


# The adversaries.

def climb(x, loss, start, step_size, steps=1, eps=EPS):
    """Sign steps from `start`; loss(x', number of the step), summed over the batch."""
    for number in range(steps):
        start = start.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(start, number), start)
        start = (start + step_size * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return start.detach()


def nuat_ascends(f, x, y, counts):
    def loss(at, number):
        nuclear = torch.linalg.svdvals(f(at) - f(x).detach()).sum()
        return losses(f, at, y).sum() + (BETA * nuclear if counts(number) else 0)
    return loss


def crafted(method, f, x, y, rng, **changes):
    return program.craft(make(method, **changes), AutogradView(f), x, y, ramp=1.0, rng=rng)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_adversaries_of_n_fgsm_mart_and_grad_align(batch_norm, batch):
    (x, y), f, rng = batch, net(batch_norm), ops.make_rng(2, 5)

    def ce(at, number):
        return losses(f, at, y).sum()

    start, wide = (ops.random_start_reference(x, radius, None, rng) for radius in (EPS, 2 * EPS))
    expected = {"n_fgsm": climb(x, ce, wide, EPS, eps=1), "grad_align": climb(x, ce, x, EPS),
                "mart": climb(x, ce, start, EPS / 4, steps=10)}
    for method, x_adv in expected.items():
        torch.testing.assert_close(crafted(method, f, x, y, rng), x_adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_adversary_of_nuat_takes_the_nuclear_norm_every_second_time(batch_norm, step, batch):
    (x, y), f, rng = batch, net(batch_norm), ops.make_rng(2, step)
    start = (x + EPS / 2 * signs(rng)).clamp(0, 1)
    expected = climb(x, nuat_ascends(f, x, y, lambda _: step % 2 == 1), start, EPS)
    torch.testing.assert_close(crafted("nuat", f, x, y, rng), expected, rtol=0, atol=1e-12)
    other = ops.make_rng(3, step)  # another seed starts with the other kind; both take turns
    expected = climb(x, nuat_ascends(f, x, y, lambda _: step % 2 == 0), (x + EPS / 2 * signs(other)).clamp(0, 1), EPS)
    torch.testing.assert_close(crafted("nuat", f, x, y, other), expected, rtol=0, atol=1e-12)
    expected = climb(x, nuat_ascends(f, x, y, lambda number: number % 2 == 0), start, EPS, steps=3)
    torch.testing.assert_close(crafted("nuat", f, x, y, rng, steps=3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_adversary_of_llr_leaves_the_tangent_plane(batch_norm, batch):
    (x, y), f, rng = batch, net(batch_norm), ops.make_rng(2, 5)
    g = slope(f, x, y)

    def loss(at, number):
        return (losses(f, at, y) - losses(f, x, y).detach() - ((at - x) * g).flatten(1).sum(1)).abs().sum()

    start = ops.random_start_reference(x, EPS, None, rng)
    expected = climb(x, loss, start, EPS / 4, steps=10)
    torch.testing.assert_close(crafted("llr", f, x, y, rng), expected, rtol=0, atol=1e-12)


def test_n_fgsm_leaves_the_eps_ball_but_not_the_range_of_images(batch):
    (_, y), f = batch, net()
    x = torch.full((N, 2, 4, 4), 0.5).double()
    moved = (crafted("n_fgsm", f, x, y, ops.make_rng(1)) - x).abs().max()
    assert 2.8 * EPS < moved <= 3 * EPS + 1e-12
    x_adv = crafted("n_fgsm", f, x, y, ops.make_rng(1), noise=4.0, step_size=0.3)
    assert x_adv.min() == 0 and x_adv.max() == 1
    assert (crafted("n_fgsm", f, x, y, ops.make_rng(1), noise=0.0) - x).abs().max() <= EPS + 1e-12


def test_a_zero_gradient_keeps_the_start(batch):
    (x, y), rng = batch, ops.make_rng(4, 1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, C)).double()
    nn.init.zeros_(flat[1].weight)
    start = ops.random_start_reference(x, 2 * EPS, None, rng)
    assert torch.equal(crafted("n_fgsm", flat, x, y, rng), start)
    assert torch.equal(crafted("grad_align", flat, x, y, rng), x)
    assert torch.equal(crafted("nuat", flat, x, y, rng), (x + EPS / 2 * signs(rng)).clamp(0, 1))


@pytest.mark.parametrize("view", VIEWS)
def test_grad_align_does_not_count_samples_without_a_gradient(view, batch):
    """A ReLU that is off at x and at the noise of some samples; of all samples, where its bias is low enough."""
    (x, y), rng = batch, ops.make_rng(3, 1)
    x = x * torch.linspace(0.2, 1, N).double().view(N, 1, 1, 1)
    for bias, counted in ((-3.0, range(1, N)), (-100.0, range(0))):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.ReLU(), nn.Linear(1, C)).double()
        with torch.no_grad():
            model[1].weight.fill_(0.3).mul_(torch.linspace(0.5, 1.5, 32).double()), model[1].bias.fill_(bias)
        g1, g2 = (slope(model, at, y).flatten(1).norm(dim=1) for at in (x, x + EPS * noise(rng)))
        both = (g1 > 0) & (g2 > 0)
        assert len(counted) > 0 and both.any() and not both.all() or len(counted) == 0 and not both.any()
        prepared = program.prepare(make("grad_align"), view(model), x, y, rng=rng)
        prepared.accumulate()
        assert prepared.terms["alignment"].item() == pytest.approx(0, abs=1e-12)  # one unit: parallel gradients
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_alignment_of_the_samples_that_count():
    generator = torch.Generator().manual_seed(0)
    first, g = (torch.randn(N, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    first[1], g[3] = 0, 0
    penalty = objectives.input_gradients.AlignmentPenalty("noise", 0.7)
    value = penalty.phi(g, objectives.input_gradients.Seen({}, {}, None, first))
    leaf, rows = g.clone().requires_grad_(), [0, 2, 4]
    expected = 0.7 * (1 - nn.functional.cosine_similarity(first[rows].flatten(1), leaf[rows].flatten(1)).mean())
    assert value.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(value.u, torch.autograd.grad(expected, leaf)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_boosted_cross_entropy_of_a_network_that_is_sure(dtype):
    """A wrong probability that rounds to 1: 1 - p is 0, and its logarithm the difference of logits."""
    logits = torch.tensor([[0.0, 200.0, 3.0], [90.0, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([0, 0])
    loss = objectives.heads.boosted_cross_entropy(logits, y)
    assert loss.item() == pytest.approx((200 + 197 - torch.log(torch.tensor(1 + torch.e**-3)).item()) / 2, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


RAMPS = {"n_fgsm": (1, 1, 1), "mart": (1, 1, 1), "grad_align": (1, 1, 1), "nuat": (1, 1, 0.25), "llr": (0.25, 0.25, 1)}


@pytest.mark.parametrize("method", NEIGHBOURS)
def test_what_ramps(method):
    objective, (eps, step_size, weight) = make(method), RAMPS[method]
    before, after = objective.crafting(), objective.crafting(0.25)
    assert after.start_radius == pytest.approx(eps * before.start_radius)
    assert after.step_size == pytest.approx(step_size * before.step_size)
    assert after.weight == pytest.approx(weight * before.weight)
    assert objective.noise_radius(0.25) == pytest.approx(eps * EPS)
    framework = objective.replace(ramps=True).crafting(0.25)
    assert (framework.step_size, framework.weight) == (0.25 * before.step_size, 0.25 * before.weight)


@pytest.mark.parametrize("method", NEIGHBOURS)
@pytest.mark.parametrize("view", VIEWS)
def test_a_ramp_of_zero_is_finite(view, method, batch):
    (x, y), model = batch, net()
    for ramp in (0.0, torch.zeros((), dtype=torch.float64)):
        prepared = program.prepare(make(method).replace(ramps=True), view(model), x, y, ramp=ramp, rng=ops.make_rng(1))
        prepared.accumulate()
        assert torch.isfinite(prepared.loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_authors_settings():
    eps = 8 / 255
    assert objectives.n_fgsm(eps).crafting().start_radius == 2 * eps and objectives.n_fgsm(eps).crafting().eps == 1
    assert (objectives.mart(eps).beta, objectives.mart(eps).steps) == (6, 10)
    assert objectives.nuat(eps).beta == 4.5 and objectives.nuat(eps).crafting().start_radius == eps / 2
    assert objectives.grad_align(eps).alpha == pytest.approx(0.2)
    # The list in the authors' script for CIFAR-10, eps in 1/255.
    for e, weight in ((2, 0.036), (4, 0.063), (6, 0.112), (10, 0.356), (12, 0.632), (14, 1.124), (16, 2.0)):
        assert objectives.grad_align_weight(e / 255) == pytest.approx(weight, abs=1e-3)
    assert (objectives.llr(eps).alpha, objectives.llr(eps).beta, objectives.llr(eps).steps) == (2.0, 0.6, 10)
    for method in ("n_fgsm", "nuat", "grad_align"):
        assert make(method).crafting().step_size == EPS


def test_weights_of_zero_leave_their_terms_out(batch):
    (x, y), model, rng = batch, net(), ops.make_rng(2)
    assert make("grad_align", alpha=0.0).points == ("adv",)
    assert make("llr", alpha=0.0, beta=0.0).crafting() is None and make("nuat", beta=0.0).crafting() is None
    assert make("llr", alpha=0.0).points == make("llr", beta=0.0).points == ("adv", "x")
    loss = make("llr", alpha=0.0, beta=0.0)(model, x, y, rng=rng)
    assert loss.item() == pytest.approx(losses(model, x, y).mean().item(), rel=1e-12)


def test_a_user_may_mix(batch):
    """The boosted cross-entropy with ATLAS's KL and Jacobian; N-FGSM's adversary with TRADES' loss."""
    (x, y), model, rng = batch, net(), ops.make_rng(2)
    mixed = objectives.atlas(eps=EPS, alpha=ALPHA, beta=BETA).replace(ce="boosted")
    mixed(model, x, y, rng=rng)
    plain = objectives.atlas(eps=EPS, alpha=ALPHA, beta=BETA)
    plain(model, x, y, rng=rng)
    assert mixed.terms["kl"].item() == pytest.approx(plain.terms["kl"].item(), rel=1e-12)
    assert mixed.terms["jacobian"].item() == plain.terms["jacobian"].item() and "bce" in mixed.terms
    free = objectives.trades(eps=EPS, beta=BETA).replace(projected=False, start_radius=2.0, step_size=EPS)
    assert (program.craft(free, AutogradView(model), x, y, ramp=1.0, rng=rng) - x).abs().max() > 1.5 * EPS


WRONG = [
    (lambda: make("mart", steps=0), "at least 1"), (lambda: make("n_fgsm", noise=-1.0), "start_radius"),
    (lambda: make("grad_align", alpha=-1.0), "alpha"), (lambda: make("llr", beta=float("nan")), "beta"),
    (lambda: objectives.grad_align(eps=0.0), "eps must be greater"),
    (lambda: objectives.grad_align(eps=0.3), "only up to 16/255; give alpha"),
    (lambda: make("grad_align").replace(start="uniform"), "needs start='zero'"),
    (lambda: make("grad_align").replace(jacobian_at="x"), "jacobian_at one of \\('noise',\\)"),
    (lambda: make("adv").replace(jacobian_at="noise", alpha=1.0), "jacobian_at one of"),
    (lambda: make("llr").replace(local=lambda logits, x, y: logits.sum()), "not both"),
    (lambda: make("adv").replace(ramps="beta"), "ramps must be one of"),
    (lambda: objectives.create("n_fgsm", eps=0.1, steps=2), "n_fgsm takes eps, noise, step_size"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


@pytest.mark.parametrize("method", NEIGHBOURS)
def test_no_value_of_a_tensor_is_asked_for(method, batch):
    """Tensors without data: what would wait for a device, or cannot be in a CUDA graph, raises an error."""
    (x, y), objective, mode = batch, make(method), FakeTensorMode()
    x, y, rng, ramp = (mode.from_tensor(t) for t in (x.float(), y, ops.make_rng(0, 1), torch.tensor(0.5)))
    logits = {point: mode.from_tensor(torch.zeros(N, C)) for point in ("adv", "x", "noise")}
    with mode:
        objective.head(logits, y, ramp)
        directions.ascend_ce_and_nuclear(logits["adv"], y, logits["x"], 0.5 * (rng[1] % 2))
        starts.random_signs(x, ramp, rng), starts.random_noise(x, ramp, rng)
        if penalty := objective.penalty(ramp):
            images = {"x": x, "adv": 2 * x}
            value = penalty.phi(x, objectives.input_gradients.Seen(images, logits, y, x + 1))
            objectives.input_gradients.curvature(logits["x"], logits["adv"])
            assert value.u.shape == x.shape
