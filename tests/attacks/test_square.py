"""Square: step by step against the reference code fed with the same random numbers, and in its success rates."""

import copy
import math

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import Square, square
from atlas_fast.errors import UserError

EPS = {"Linf": 0.15, "L2": 0.8}


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("pyautoattack.square", reason="the reference implementation for this test").SquareAttack


@pytest.fixture
def batch(digits):
    return digits[0][:32].double(), digits[1][:32]


@pytest.fixture(scope="module")
def net64(digits_net):
    return copy.deepcopy(digits_net).double()


@pytest.fixture
def colour():
    """A small network and images of an odd size in three channels, labelled as the network sees them."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5 * 6, 5)).double().eval()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4
    x = torch.rand(8, 3, 11, 13, generator=generator, dtype=torch.float64)
    return net, x, net(x).argmax(1)


def correct(net, x, y):
    return net(x).argmax(1) == y


@pytest.mark.parametrize(("queries", "rescale"), [(5000, False), (300, True), (5000, True), (10000, False)])
def test_the_schedule_is_the_references(reference, queries, rescale):
    theirs = reference(None, n_queries=queries, resc_schedule=rescale)
    ours = Square(0.1, queries, rescale_schedule=rescale)
    assert [ours.proposal_share(q) for q in range(queries)] == [theirs.p_selection(q) for q in range(queries)]


def test_the_margin_is_the_references(reference):
    logits, y = torch.randn(50, 10), torch.randint(10, (50,))
    theirs, loss = reference(lambda x: logits.clone()).margin_and_loss(torch.zeros(50), y)
    assert torch.equal(square.margin(logits, y), theirs) and torch.equal(theirs, loss)


def scripted(reference, words):
    """The reference attack with its random choices taken from an iterator over 32-bit words."""

    class Scripted(reference):
        def random_int(self, low=0, high=1, shape=(1,)):
            return torch.tensor([low + (next(words) * (high - low) >> 32)])

        def random_choice(self, shape):
            signs = [1.0 - 2.0 * (next(words) >> 31) for _ in range(math.prod(shape))]
            return torch.tensor(signs, dtype=torch.float64).view(shape)

    return Scripted


def words_of(sample, rng, attack, shape):
    """What `Square` draws for one sample, in its order."""
    channels, height, width = shape
    initial, per_query = channels * width, 2 + channels
    if attack.norm == "L2":
        tile = height // 5
        border = (height - 5 * tile) // 2
        initial = ((height - border) // tile) * ((width - border) // tile) * (1 + channels)
        per_query = 5 + channels
    yield from ops.random_bits(rng, 1, initial, ops.stream(ops.SQUARE, 0), sample)[0].tolist()
    for block in range(attack.queries):
        draw = ops.stream(ops.SQUARE, 1 + block)
        yield from ops.random_bits(rng, 1, square.BLOCK * per_query, draw, sample)[0].tolist()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("images", ["digits", "colour"])
def test_every_query_is_the_references(reference, monkeypatch, net64, batch, colour, norm, images):
    """One sample at a time: there the reference, too, draws a window for the sample."""
    net, x, y = colour if images == "colour" else (net64, batch[0][:8], batch[1][:8])
    if norm == "L2" and images == "digits":  # the reference puts a ninth row of tiles below an image of 8 rows
        x = nn.functional.pad(x, (1, 1, 1, 1))
        net = nn.Sequential(nn.ZeroPad2d(-1), net64)
    eps = EPS[norm] / (4 if images == "colour" and norm == "Linf" else 1)
    attack, rng = Square(eps, queries=80, norm=norm), ops.make_rng(5)
    ours = attack(net, x, y, rng=rng)
    originals = torch.rand
    for i in range(len(x)):
        words = words_of(i, rng, attack, x.shape[1:])
        theirs = scripted(reference, words)(net, norm=norm, n_queries=80, eps=eps, resc_schedule=False)
        monkeypatch.setattr(torch, "rand", lambda shape, words=words: torch.tensor([float(next(words) >> 31)]))
        theirs.init_hyperparam(x[i:i + 1])
        expected = theirs.attack_single_run(x[i:i + 1], y[i:i + 1])[1] if correct(net, x[i:i + 1], y[i]) else x[i:i + 1]
        monkeypatch.setattr(torch, "rand", originals)
        torch.testing.assert_close(ours[i:i + 1], expected, rtol=0, atol=1e-7)  # their bumps are float32
    assert 0 < correct(net, ours, y).sum() < len(y)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_success_rates_are_the_references(reference, digits_net, digits, norm):
    x, y = digits[0][:200], digits[1][:200]
    ours, theirs = [], []
    for seed in range(3):
        x_adv = Square(EPS[norm], 100, norm=norm)(digits_net, x, y, rng=ops.make_rng(seed))
        ours.append(correct(digits_net, x_adv, y).double().mean())
        with torch.random.fork_rng():
            attack = reference(digits_net, norm=norm, n_queries=100, eps=EPS[norm], seed=seed, resc_schedule=False)
            theirs.append(correct(digits_net, attack.perturb(x, y), y).double().mean())
    assert abs(sum(ours) - sum(theirs)) / 3 < 0.03
    assert 0.1 < sum(ours) / 3 < correct(digits_net, x, y).double().mean() - 0.1


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_adversaries_lie_in_the_ball_and_in_the_range(norm, digits_net, digits):
    x, y = digits[0][:60], digits[1][:60].clone()
    y[0] = (digits_net(x[:1]).argmax(1) + 1) % 10
    x_before, y_before = x.clone(), y.clone()
    x_adv = Square(EPS[norm], 60, norm=norm)(digits_net, x, y)
    size = (x_adv - x).flatten(1).norm(dim=1, p=torch.inf if norm == "Linf" else 2)
    assert size.max() <= EPS[norm] + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    assert torch.equal(x_adv[0], x[0])  # misclassified already
    margins = square.margin(digits_net(x), y), square.margin(digits_net(x_adv), y)
    assert (margins[1] <= margins[0]).all() and margins[1].mean() < margins[0].mean()
    assert torch.equal(x, x_before) and torch.equal(y, y_before)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_results_depend_on_neither_batches_nor_samples_that_leave(monkeypatch, norm, net64, batch):
    (x, y), rng, attack = batch, ops.make_rng(2), Square(EPS[norm], 55, restarts=2, norm=norm)
    state = torch.get_rng_state()
    whole = attack(net64, x, y, rng=rng)
    parts = [attack(net64, x[a:b], y[a:b], rng=rng, sample_offset=a) for a, b in ((0, 7), (7, 8), (8, 32))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    monkeypatch.setattr(square, "survivors", lambda done, step: done.nonzero()[:0, 0] if done.all() else None)
    torch.testing.assert_close(attack(net64, x, y, rng=rng), whole, rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(attack(net64, x, y, rng=ops.make_rng(3)), whole)


def test_samples_that_are_broken_cost_no_queries(net64, batch):
    passed = []

    def counting(images):
        passed.append(len(images))
        return net64(images)

    Square(0.25, 101)(counting, *batch, rng=ops.make_rng(0))
    assert passed[0] == 32 and passed[-1] < 16
    del passed[:]
    Square(1.0, 5000)(counting, *batch, rng=ops.make_rng(0))
    assert len(passed) < 200


def test_restarts_keep_the_lowest_margin(net64, batch):
    (x, y), rng = batch, ops.make_rng(0)
    margins = [square.margin(net64(Square(0.1, 30, restarts=r)(net64, x, y, rng=rng)), y) for r in (1, 3)]
    assert (margins[1] <= margins[0]).all() and (margins[1] < margins[0]).any()
    assert torch.equal(margins[1][margins[0] <= 0], margins[0][margins[0] <= 0])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Square(0), "eps must be greater than 0"), (lambda: Square(0.1, 0), "queries"),
    (lambda: Square(0.1, p_init=1.5), "p_init"), (lambda: Square(0.1, norm="L1"), "norm must be one of Linf, L2"),
    (lambda: Square(0.1, restarts=0), "restarts"),
])
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_wrong_inputs_are_refused(digits_net, digits):
    x, y = digits[0][:3], digits[1][:3]
    for images, labels, message in ((x.flatten(1), y, "N, C, H, W"), (x, y + 10, "labels must lie in 0..9")):
        with pytest.raises(UserError, match=message):
            Square(0.1)(digits_net, images, labels)
