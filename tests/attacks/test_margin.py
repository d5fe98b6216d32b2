"""Un-T and Multi-T against loops written from the definition, and the order that says which adversary is kept."""

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import PGD, MultiTargeted, Network, Untargeted
from atlas_fast.attacks.margin import TOGETHER
from atlas_fast.attacks.rows import Row
from atlas_fast.attacks.search import Loop, Search
from atlas_fast.errors import UserError

EPS, CLASSES = 0.06, 5


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, CLASSES)).double().eval()


@pytest.fixture
def batch(model):
    """Labelled by the model, so that every sample is right at first; some are nearer to the border than others."""
    x = torch.rand(24, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def one_run(model, x, label, i, draw, loss, step_size, steps, any_step=True):
    """Sample i alone: (last iterate, broken or not, updates); loss: a function of its logits."""
    z = ops.random_start(x[i:i + 1], EPS, ops.make_rng(5, 2), ops.stream(ops.RANDOM_START, draw), i)
    for step in range(1, steps + 1):
        z = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(model(z)[0]), z)
        z = (z + step_size * g.sign()).clamp(x[i] - EPS, x[i] + EPS).clamp(0, 1).detach()
        broken = model(z).argmax(1).item() != label and (any_step or step == steps)
        if broken:
            break
    return z[0], broken, step


def untargeted(model, x, y, step_size, steps, restarts, any_step):
    """[(adversary, broken or not, updates, restart)] by the definition, sample after sample."""
    results = []
    for i, label in enumerate(y.tolist()):
        for restart in range(restarts):
            def margin(f, label=label):
                return torch.cat([f[:label], f[label + 1:]]).max() - f[label]
            result = (*one_run(model, x, label, i, restart, margin, step_size, steps, any_step), restart)
            if result[1]:
                break
        results.append(result)
    return results


@pytest.mark.parametrize("any_step", [True, False])
def test_untargeted_is_its_definition(any_step, model, batch):
    x, y = batch
    attack = Untargeted(EPS, 0.003, 5, 4, any_step=any_step)
    x_adv = attack(model, x, y, rng=ops.make_rng(5, 2))
    expected = untargeted(model, x, y, 0.003, 5, 4, any_step)
    torch.testing.assert_close(x_adv, torch.stack([z for z, *_ in expected]), rtol=0, atol=1e-12)
    verdicts = [broken for _, broken, *_ in expected]
    assert 0 < sum(verdicts) < len(y) and len({restart for _, broken, _, restart in expected if broken}) > 1
    assert (model(x_adv).argmax(1) != y).tolist() == verdicts
    steps = [updates if broken else -1 for _, broken, updates, _ in expected]
    assert attack.details == {} if not any_step else attack.details["step"].tolist() == steps


def multi_targeted(model, x, y, step_size, steps, restarts):
    """Target by target; of a restart's successes the one with the fewest updates, then the lowest target. Also after
    how many updates, -1 where nothing succeeded."""
    results, updates = [], []
    for i, label in enumerate(y.tolist()):
        for restart in range(restarts):
            wrong = [c for c in range(CLASSES) if c != label]
            tries = [one_run(model, x, label, i, restart * len(wrong) + k, lambda f, t=t, c=label: f[t] - f[c],
                             step_size, steps) for k, t in enumerate(wrong)]
            broken = [t for t in tries if t[1]]
            if broken:
                break
        first = min(broken, key=lambda t: t[2]) if broken else None
        results.append((first or tries[-1])[0])
        updates.append(first[2] if first else -1)
    return torch.stack(results), updates


def test_multi_targeted_is_its_definition(model, batch):
    x, y = batch[0][:10], batch[1][:10]
    attack = MultiTargeted(EPS, 0.003, 4, 3)
    x_adv = attack(model, x, y, rng=ops.make_rng(5, 2))
    expected, steps = multi_targeted(model, x, y, 0.003, 4, 3)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert attack.details["step"].tolist() == steps
    assert 0 < (model(x_adv).argmax(1) != y).sum() < len(y)


ATTACKS = {"un-t": Untargeted(EPS, 0.003, 5, 4), "multi-t": MultiTargeted(EPS, 0.003, 4, 3),
           "multi-t last": MultiTargeted(EPS, 0.003, 4, 3, any_step=False),
           "multi-t L2": MultiTargeted(0.2, 0.02, 4, 3, norm="L2"), "pgd": PGD(EPS, 0.003, 5, 4, any_step=True),
           "pgd last": PGD(EPS, 0.003, 5, 4), "pgd L2": PGD(0.2, 0.02, 5, 4, norm="L2", any_step=True)}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_cut_of_the_work_changes_an_adversary(name, model, batch):
    (x, y), rng, attack = batch, ops.make_rng(7), ATTACKS[name]
    whole = attack(model, x, y, rng=rng)
    assert 0 < (model(whole).argmax(1) != y).sum() < len(y)
    parts = [attack(model, x[a:b], y[a:b], rng=rng, sample_offset=a) for a, b in ((0, 1), (1, 14), (14, 24))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    for max_batch in (1, 5, 40, 1000):  # from one row at a time to all restarts and targets together
        attack.max_batch = max_batch
        torch.testing.assert_close(attack(model, x, y, rng=rng), whole, rtol=0, atol=1e-12)
    attack.max_batch = None


@pytest.mark.parametrize("any_step", [True, False])
@pytest.mark.parametrize("check_every", [1, 4])
def test_compaction_changes_nothing(check_every, any_step, model, batch):
    x, y = batch

    def start(images, draw, first):
        return ops.random_start(images, EPS, ops.make_rng(1), draw, first)

    how = Loop(start, MultiTargeted._direction, EPS, 0.002, 9, "Linf", any_step)
    units, results, images = [[Row(r * 4 + k, k) for k in range(4)] for r in range(3)], [], []
    for compact in (False, True):
        search = Search(network := Network(model), x, y, how, 150, compact)
        search._check_every = check_every
        results.append((search.run(units), search.found))
        images.append(network.forwards)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][1], model(results[1][0]).argmax(1) != y)
    assert (images[1] < images[0]) == any_step


class Recovers(nn.Module):
    """One pixel a; the logit of the wrong class is above 0 only for a in (0.5, 0.6), where its slope goes on."""

    def forward(self, x):
        a = x.flatten(1)[:, :1]
        inside = ((a > 0.5) & (a < 0.6)).to(a.dtype)
        return torch.cat([a * 0, a - a.detach() + 2 * inside - 1], 1)


@pytest.mark.parametrize("attack", [PGD, Untargeted, MultiTargeted])
def test_a_sample_that_recovers_counts_with_any_step_only(attack):
    x, y = torch.full((3, 1, 1, 1), 0.4), torch.zeros(3, dtype=torch.int64)
    x[1] = 0.62  # never comes by
    # From 0.4 by steps of 0.08: 0.48, 0.56 (broken), 0.64, 0.72.
    common = {"eps": 0.5, "step_size": 0.08, "steps": 4, "restarts": 1, "random_start": False}
    x_adv = attack(**common, any_step=True)(Recovers(), x, y)
    torch.testing.assert_close(x_adv.flatten(), torch.tensor([0.56, 0.94, 0.56]))
    last = attack(**common, any_step=False)(Recovers(), x, y)
    torch.testing.assert_close(last.flatten(), torch.tensor([0.72, 0.94, 0.72]))


def test_the_start_does_not_count():
    """x itself is misclassified and every update leaves the region: appendix B asks for a success after an update."""
    x, y = torch.full((1, 1, 1, 1), 0.55), torch.zeros(1, dtype=torch.int64)
    x_adv = Untargeted(0.3, 0.1, 2, 1, random_start=False)(Recovers(), x, y)
    assert x_adv.item() == pytest.approx(0.75)


class Counted:
    """Passes that count the images."""

    exact = True

    def __init__(self, model):
        self._passes, self.pairs, self.lone = Network(model).passes, 0, 0

    def logits(self, x):
        self.lone += len(x)
        return self._passes.logits(x)

    def forward(self, x):
        self.pairs += len(x)
        return self._passes.forward(x)


@pytest.mark.parametrize("any_step", [True, False])
def test_any_step_costs_one_forward_pass_in_all(any_step, model, batch):
    (x, y), passes = batch, Counted(model)
    PGD(1e-4, steps=7, any_step=any_step)(Network(model, passes), x, y)
    assert (passes.pairs, passes.lone) == (7 * len(x), len(x) if any_step else 0)


class Coarse:
    """Passes whose gradients come with logits that call every sample of odd index misclassified, which is wrong."""

    exact = False

    def __init__(self, model):
        self._passes = Network(model).passes

    def logits(self, x):
        return self._passes.logits(x)

    def forward(self, x):
        logits, backward = self._passes.forward(x)
        return logits.roll(1, 1), backward


def test_success_in_low_precision_is_verified_in_full(model, batch):
    x, y = batch
    for eps in (1e-5, EPS):
        how = Loop(lambda images, draw, first: images, Untargeted._direction, eps, eps / 2, 6, "Linf", True)
        search = Search(Network(model, Coarse(model)), x, y, how, len(x))
        x_adv = search.run([[Row(0)]])
        truly = model(x_adv).argmax(1) != y
        assert torch.equal(search.found, truly) and (bool(truly.any()) == (eps == EPS))


def test_many_classes_run_in_blocks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2 * TOGETHER + 8)).eval()
    x, attack = torch.rand(4, 3, 2, 2), MultiTargeted(0.02, steps=2, restarts=2)
    units = attack._units(Network(model), x)
    assert [len(unit) for unit in units] == [23, 24, 24] * 2
    rows = [row for unit in units for row in unit]
    assert [row.target for row in rows] == list(range(2 * TOGETHER + 7)) * 2
    assert [row.draw for row in rows] == list(range(2 * (2 * TOGETHER + 7)))
    y = model(x).argmax(1)
    assert (attack(model, x, y) - x).abs().max() <= 0.02 + 1e-6


def test_targets_are_all_classes_but_the_label():
    y = torch.arange(CLASSES)
    for label in range(CLASSES):
        chosen = [int(Row(0, k).classes(y)[label]) for k in range(CLASSES - 1)]
        assert chosen == [c for c in range(CLASSES) if c != label]


def test_defaults_are_the_papers_and_wrong_values_are_refused(model):
    assert {k: Untargeted(0.1).settings[k] for k in ("steps", "restarts", "any_step")} == \
        {"steps": 100, "restarts": 10, "any_step": True}
    assert {k: MultiTargeted(0.1).settings[k] for k in ("steps", "restarts", "step_size")} == \
        {"steps": 20, "restarts": 5, "step_size": pytest.approx(0.0125)}
    for make, message in ((lambda: Untargeted(0.1, norm="L1"), "norm must be one of Linf, L2"),
                          (lambda: MultiTargeted(0.1, max_batch=0), "max_batch"),
                          (lambda: Untargeted(0.1, random_start=False), "random_start=True")):
        with pytest.raises(UserError, match=message):
            make()
    with pytest.raises(UserError, match="wrong classes"):
        MultiTargeted(0.1)(lambda x: x.flatten(1)[:, :1], torch.rand(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
