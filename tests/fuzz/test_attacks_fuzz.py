"""Attacks, objectives, training steps and evaluations: the right answer, or a UserError before anything is changed."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import check_number, counted, refused, unchanged
from strategies import arranged, labels, seeds, wrong_labels
from torch import nn

import atlas_fast as af
from atlas_fast import models, ops
from atlas_fast.attacks import checks
from atlas_fast.data import Dataset, split_validation
from atlas_fast.errors import UserError

data = st.data()
PIXELS, CLASSES = (2, 3, 3), 5
WRONG_NUMBERS = (0, -1, -0.5, math.nan, math.inf, -math.inf, "1", None, [1], 1j)
radii = st.sampled_from((1e-45, 1e-6, 0.01, 0.1, 0.3, 1.0, 5.0, 1e30))
layouts = st.sampled_from(("contiguous", "channels_last", "permuted", "sliced", "offset", "expanded"))


def network(seed=0, dtype=torch.float32, activation=nn.Tanh):
    """A small one with a curvature; BatchNorm, so that its mode and its statistics matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), activation(), nn.Flatten(),
                             nn.Linear(16, CLASSES)).to(dtype).eval()


class OneLayer(nn.Module):
    """Logits with a value that is not finite, or of a kind that is none."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(18, CLASSES), kind

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return {"nan": z * math.nan, "inf": z + math.inf, "flat": z * 0, "1-d": z[:, 0], "list": [z], "int": z.int(),
                "short": z[:1], "none": None, "wide": z[:, :, None]}[self.kind]


@st.composite
def batches(draw, dtype=torch.float32):
    """(x, y): images in [0, 1] of any layout, their borders among the pixels."""
    n = draw(st.sampled_from((1, 2, 3, 7)))
    x = torch.rand(n, *PIXELS, generator=torch.Generator().manual_seed(draw(seeds)), dtype=torch.float64)
    x = ((x - 0.5) * draw(st.sampled_from((1, 1.5, 1e9))) + 0.5).clamp(0, 1).to(dtype)
    return arranged(x, draw(layouts)), draw(labels(n, CLASSES))


@st.composite
def wrong_batches(draw):
    """Two that fit each other in no way that an attack could use."""
    x, y = draw(batches())
    if draw(st.booleans()):
        return x, draw(wrong_labels(len(x), CLASSES))
    return draw(st.sampled_from((x[:0], x[0, 0, 0], x.half(), x.bfloat16(), x.int(), (x * 255).byte(),
                                 x.to(torch.complex64), x.numpy(), None, x > 0, x.to("meta")))), y


def fresh_attacks(eps, norm="Linf", steps=2):
    return {
        "fgsm": lambda: af.attacks.FGSM(eps, norm=norm), "pgd": lambda: af.attacks.PGD(eps, steps=steps, norm=norm),
        "pgd-r": lambda: af.attacks.PGD(eps, eps, steps, 2, norm=norm, any_step=True, max_batch=3),
        "pgd-x": lambda: af.attacks.PGD(eps, eps / 2, steps, random_start=False, norm=norm),
        "untargeted": lambda: af.attacks.Untargeted(eps, steps=steps, restarts=2, norm=norm),
        "multitargeted": lambda: af.attacks.MultiTargeted(eps, steps=steps, restarts=1, norm=norm),
        "apgd-ce": lambda: af.attacks.APGD(eps, steps=steps + 2, norm=norm),
        "apgd-dlr": lambda: af.attacks.APGD(eps, "dlr", steps=steps + 2, restarts=2, norm=norm),
        "apgd-t": lambda: af.attacks.APGDTargeted(eps, steps=steps + 2, targets=2, norm=norm),
        "fab-t": lambda: af.attacks.FABTargeted(eps, steps=steps + 1, restarts=2, targets=2, norm=norm),
        "square": lambda: af.attacks.Square(eps, queries=5, norm=norm),
        "rays": lambda: af.attacks.RayS(eps, queries=20, norm=norm),
        "transfer": lambda: af.attacks.Transfer(network(1), af.attacks.PGD(eps, steps=steps, norm=norm))}


KINDS = sorted(fresh_attacks(0.1))


def distance(a, b, norm):
    difference = (a.double() - b.double()).flatten(1)
    return difference.abs().amax(1) if norm == "Linf" else difference.norm(dim=1)


@settings(max_examples=200)
@given(data)
@counted
def test_attacks(data):
    """Images in the ball and in [0, 1], the same whatever the layout; nothing else is changed."""
    kind, norm, eps = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(("Linf", "L2"))), data.draw(radii)
    dtype = data.draw(st.sampled_from((torch.float32, torch.float32, torch.float64)))
    (x, y), model = data.draw(batches(dtype)), network(data.draw(st.integers(0, 2)), dtype)
    attack = fresh_attacks(eps, norm)[kind]()
    if kind == "transfer":
        attack = af.attacks.Transfer(network(1, dtype), af.attacks.PGD(eps, steps=2, norm=norm))
    rng, offset = ops.make_rng(data.draw(st.integers(0, 2**64 - 1))), data.draw(st.integers(0, 2**20))
    before = copy.deepcopy(model.state_dict())
    with unchanged(x, y, rng):
        x_adv = attack(model, x, y, rng=rng, sample_offset=offset)
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert bool((distance(x_adv, x, norm) <= eps + 1e-6).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not model.training
    again = attack(model, x.contiguous(), y, rng=rng, sample_offset=offset)
    assert bool((distance(again, x_adv, norm) <= 2 * min(eps, 1) * math.sqrt(18) + 1e-6).all())
    if dtype == torch.float64:  # in float32 a sign may turn over by rounding
        assert torch.allclose(again, x_adv, atol=1e-6) or kind in ("square", "rays", "fab-t")


@given(data)
@counted
def test_pgd_is_its_definition(data):
    """Ten lines in float64: x' = clip(Pi(x' + step sign(grad CE)), 0, 1)."""
    (x, y), eps = data.draw(batches(torch.float64)), data.draw(radii)
    step_size, steps = data.draw(st.sampled_from((eps, eps / 3, 1e-9, 2.0))), data.draw(st.integers(1, 3))
    model, rng = network(3, torch.float64), ops.make_rng(data.draw(seeds))
    found = af.attacks.PGD(eps, step_size, steps)(model, x, y, rng=rng)
    x_adv = ops.random_start_reference(x, eps, None, rng, ops.stream(ops.RANDOM_START, 0))
    for _ in range(steps):
        point = x_adv.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        x_adv = (x_adv + step_size * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    assert torch.allclose(found, x_adv, atol=1e-12)


@given(data)
@counted
def test_attacks_refuse(data):
    attack, (x, y), model = data.draw(st.sampled_from(KINDS)), data.draw(wrong_batches()), network()
    draws = attack not in ("rays", "pgd-x")
    attack = fresh_attacks(0.1)[attack]()
    before = copy.deepcopy(model.state_dict())
    refused(lambda: attack(model, x, y))
    good = data.draw(batches())
    kind = data.draw(st.sampled_from(("1-d", "list", "short", "none", "wide")))
    if kind != "short" or len(good[0]) > 1:
        refused(lambda: attack(OneLayer(kind), *good) if not isinstance(attack, af.attacks.Transfer) else
                af.attacks.Transfer(OneLayer(kind), af.attacks.FGSM(0.1))(model, *good))
    rng = data.draw(st.sampled_from((3, torch.zeros(2), torch.zeros(3, dtype=torch.int64))))
    if draws:
        refused(lambda: attack(model, *good, rng=rng))
    if not isinstance(attack, af.attacks.Transfer):  # asks its surrogate alone
        refused(lambda: attack("model", *good))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(data)
@counted
def test_settings_of_attacks_refuse(data):
    bad, norm = data.draw(st.sampled_from(WRONG_NUMBERS)), data.draw(st.sampled_from(("linf", "L1", None, 2, [])))
    count = data.draw(st.sampled_from((0, -1, 1.5, True, "3", math.nan, None, [2])))
    lib = af.attacks
    for make in (lib.FGSM, lib.PGD, lib.Untargeted, lib.MultiTargeted, lib.APGD, lib.APGDTargeted, lib.FABTargeted,
                 lib.Square, lib.RayS, lib.AutoAttack):
        refused(lambda make=make: make(bad))
        refused(lambda make=make: make(0.1, norm=norm))
        if make not in (lib.FGSM, lib.Square, lib.RayS, lib.AutoAttack):
            refused(lambda make=make: make(0.1, steps=count))
            refused(lambda make=make: make(0.1, restarts=count))
    for make in (lib.FGSM, lib.PGD, lib.Untargeted, lib.MultiTargeted):
        if bad is not None:  # the default step
            refused(lambda make=make: make(0.1, step_size=bad))
    for make in (lib.Square, lib.RayS):
        refused(lambda make=make: make(0.1, queries=count))
    for call in (lambda: lib.APGD(0.1, loss=data.draw(st.sampled_from(("", "CE", None, 3, [])))),
                 lambda: lib.APGD(0.1, rho=data.draw(st.sampled_from((-0.1, 1.1, math.nan, None, "1")))),
                 lambda: lib.FABTargeted(0.1, eta=data.draw(st.sampled_from((0.5, math.nan, None, "1")))),
                 lambda: lib.FABTargeted(0.1, beta=data.draw(st.sampled_from((-0.1, 2, math.nan, None)))),
                 lambda: lib.FABTargeted(0.1, targets=count), lambda: lib.APGDTargeted(0.1, targets=count),
                 lambda: lib.PGD(0.1, max_batch=0 if count is None else count),
                 lambda: lib.AutoAttack(0.1, batch_size=count),
                 lambda: lib.AutoAttack(0.1, version=data.draw(st.sampled_from(("plus", None, 1)))),
                 lambda: lib.Square(0.1, p_init=data.draw(st.sampled_from((0, 1.1, -1, math.nan, "x", None))))):
        refused(call)


@given(data)
@counted
def test_models_that_are_not_finite(data):
    """NaN and infinite logits end every attack, with images in the ball; nothing is called robust by them."""
    kind, attack = data.draw(st.sampled_from(("nan", "inf", "flat"))), data.draw(st.sampled_from(KINDS))
    attack = fresh_attacks(0.1)[attack]()
    (x, y), model = data.draw(batches()), OneLayer(kind).eval()
    x_adv = attack(model, x, y)
    assert x_adv.isfinite().all() and bool((distance(x_adv, x, "Linf") <= 0.1 + 1e-6).all())
    report = af.evaluate(model, x, y, attacks={"a": attack}, eps=0.1)
    assert kind == "flat" or report["attacks"]["a"]["robust_accuracy"] == 0 == report["clean_accuracy"] or kind == "inf"


def expected_loss(row, model, x, y, rng, eps, alpha, beta):
    """The one-step rows of the paper, from their formulas (section 4), and the gradients of the weights."""
    x0 = ops.random_start(x, eps, rng)
    point = x0.clone().requires_grad_()
    z = model(point)
    with torch.no_grad():
        p = model(x).log_softmax(1)
    q = z.log_softmax(1)
    ascended = (p.exp() * (p - q)).sum() if row in ("trades", "tradesjac") else F.cross_entropy(z, y, reduction="sum")
    (g,) = torch.autograd.grad(ascended, point)
    x_adv = (x0 + 1.25 * eps * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    at = (x_adv if row in ("adv", "atlas", "atlas_l", "atlas_g") else x.clone()).requires_grad_()
    z = model(at)
    loss = F.cross_entropy(z, y)
    if row in ("jac", "atlas", "atlas_l", "tradesjac"):
        (rows,) = torch.autograd.grad(z, at, ops.unit_vectors(rng, *z.shape)[0].to(z.dtype), create_graph=True)
        loss = loss + alpha * z.shape[1] / len(x) * rows.square().sum()
    if row in ("trades", "atlas", "atlas_g", "tradesjac"):
        base, other = (model(x), model(x_adv)) if row.startswith("trades") else (model(x_adv), model(x))
        base, other = base.log_softmax(1), other.log_softmax(1)
        loss = loss + beta * (base.exp() * (base - other)).sum() / len(x)
    return loss


WEIGHTED = {"jac": ("alpha",), "adv": (), "trades": ("beta",), "atlas": ("alpha", "beta"), "atlas_l": ("alpha",),
            "atlas_g": ("beta",), "tradesjac": ("alpha", "beta")}


@given(data)
@counted
def test_objectives_are_their_formulas(data):
    row, eps = data.draw(st.sampled_from(sorted(WEIGHTED))), data.draw(radii)
    alpha, beta = (data.draw(st.sampled_from((0.0, 1e-45, 1e-4, 1.0, 1e6, 1e30))) for _ in range(2))
    (x, y), model, rng = data.draw(batches(torch.float64)), network(4, torch.float64), ops.make_rng(data.draw(seeds))
    keywords = {name: {"alpha": alpha, "beta": beta}[name] for name in WEIGHTED[row]}
    objective = af.objectives.create(row, **keywords, **({} if row == "jac" else {"eps": eps}))
    with unchanged(x, y, rng):
        loss = objective(model, x, y, rng=rng)
    wanted = expected_loss(row, model, x, y, rng, eps, alpha, beta)
    # The directions are float32, and near x a KL is a small difference of numbers of size 1.
    assert torch.allclose(loss, wanted, rtol=1e-5, atol=1e-14 * beta)
    names, values = zip(*model.named_parameters(), strict=True)
    for name, a, b in zip(names, *(torch.autograd.grad(value, values, allow_unused=True, materialize_grads=True)
                                   for value in (loss, wanted)), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-14 * (100 + beta)), name


@given(data)
@counted
def test_objectives_refuse(data):
    method = data.draw(st.sampled_from(sorted(af.objectives.PRESETS)))
    names = [name for name in af.objectives.parameters(method) if name != "omega"]
    good = {name: value for name, value in {"eps": 0.03, "alpha": 1.0, "beta": 1.0}.items() if name in names}
    objective, model, (x, y) = af.objectives.create(method, **good), network(), data.draw(batches())
    name = data.draw(st.sampled_from(names))
    bad = data.draw(st.sampled_from((-1, math.nan, math.inf, "1", [1], 1j, -0.5)))
    refused(lambda: af.objectives.create(method, **{**good, name: bad}))
    refused(lambda: af.objectives.create(method, **good, unknown=1))
    refused(lambda: af.objectives.create(data.draw(st.sampled_from(("", "ATLAS", None, 3, ("a",)))), **good))
    wrong = data.draw(wrong_batches())
    refused(lambda: objective(model, *wrong))
    refused(lambda: objective(OneLayer(data.draw(st.sampled_from(("1-d", "list", "none", "wide")))), x, y))
    refused(lambda: objective(model, x, y, rng=data.draw(st.sampled_from((3, torch.zeros(2), torch.zeros(1).long())))))
    refused(lambda: objective(model, x, y, bn_mode=data.draw(st.sampled_from(("", None, "TRAIN", 1)))))


def step_of(model, objective, **options):
    return af.TrainingStep(model, objective, torch.optim.SGD(model.parameters(), lr=0.1), **options)


@given(data)
@counted
def test_training_step(data):
    """The weights move by the learning rate times the objective's gradient; where that is not finite, not at all."""
    objective = af.objectives.atlas(0.1, alpha=data.draw(st.sampled_from((0.0, 1e-3, 1.0))),
                                    beta=data.draw(st.sampled_from((0.0, 1.0, 1e3))))
    (x, y), engine = data.draw(batches()), data.draw(st.sampled_from(("sweeps", "autograd")))
    if data.draw(st.booleans()):
        x = (x * 255).byte()
    special = data.draw(st.sampled_from((None, None, math.nan, math.inf))) if x.is_floating_point() else None
    if special is not None:
        x = x.clone()
        x[0, 0, 0, 0] = special
    model = network(5, activation=nn.ReLU).train(data.draw(st.booleans()))
    other, seed = copy.deepcopy(model), data.draw(st.integers(0, 2**64 - 1))
    before = [p.detach().clone() for p in model.parameters()]
    step = step_of(model, objective, engine=engine, seed=seed)
    with unchanged(x, y):
        terms = step(x, y)
    images = x.float() / 255 if x.dtype == torch.uint8 else x
    if special is not None:
        assert step.skipped == 1 or special == math.inf  # which an adversary takes for 1
        assert all(p.isfinite().all() for p in model.parameters())
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, old) or not step.skipped
    else:
        loss = objective(other, images, y, rng=ops.make_rng(seed))
        loss.backward()
        assert torch.allclose(terms["loss"], loss.detach(), rtol=1e-4, atol=1e-5)
        for now, p, old in zip(model.parameters(), other.parameters(), before, strict=True):
            scale = float(p.grad.abs().max())
            assert torch.allclose(now, old - 0.1 * p.grad, rtol=1e-3, atol=2e-3 * scale + 1e-6)


@given(data)
@counted
def test_training_step_refuses(data):
    model, objective = network(activation=nn.ReLU), af.objectives.atlas(0.1, alpha=1e-3, beta=1.0)
    step = step_of(model, objective, engine=data.draw(st.sampled_from(("sweeps", "autograd"))))
    x, y = data.draw(batches())
    before = copy.deepcopy(model.state_dict())
    wrong = data.draw(wrong_batches())
    if not (isinstance(wrong[0], torch.Tensor) and wrong[0].dtype == torch.uint8 and wrong[0].dim() == 4):
        refused(lambda: step(*wrong))
    refused(lambda: step(x.double(), y))
    refused(lambda: step((x * 255).byte(), data.draw(wrong_labels(len(x), CLASSES))))
    refused(lambda: setattr(step, "ramp", data.draw(st.sampled_from((-0.1, 1.1, math.nan, None, "1")))))
    for name, values in (("engine", ("", None, "fast")), ("amp", ("fp8", None, True)), ("capture", ("", "on", None)),
                         ("pair", (None, "maybe")), ("overlap", ("on", None)), ("bn_mode", (None, "TRAIN")),
                         ("seed", (2**64, 0.5, "a", None)), ("awp", (0, -1, math.nan, "1", math.inf)),
                         ("ema", (1, -0.1, math.nan, "1", 2))):
        bad = data.draw(st.sampled_from(values))
        refused(lambda name=name, bad=bad: step_of(model, objective, **{name: bad}))
    refused(lambda: step_of(model, data.draw(st.sampled_from((None, "atlas", F.cross_entropy)))))
    refused(lambda: af.TrainingStep(model, objective, data.draw(st.sampled_from((None, "sgd", torch.optim.SGD(
        nn.Linear(1, 1).parameters()))))))
    nothing = data.draw(st.sampled_from((None, nn.Flatten(), "model")))
    refused(lambda: af.TrainingStep(nothing, objective, step.optimizer))
    refused(lambda: step.load_state_dict(data.draw(st.sampled_from(({}, {"seed": 1}, {"seed": "a", "step": 0},
                                                                   {"seed": 2**65, "step": 1}, {"seed": 1, "step": -1},
                                                                   {"seed": 1, "step": None}, None, [])))))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(data)
@counted
def test_evaluate(data):
    """Accuracies counted by hand; the report does not depend on the batch size."""
    (x, y), eps = data.draw(batches()), data.draw(st.sampled_from((1e-6, 0.1, 0.5)))
    if data.draw(st.booleans()):
        x = (x * 255).byte()
    model, norm = network(data.draw(st.integers(0, 3))), data.draw(st.sampled_from(("Linf", "L2")))
    known = ("fgsm", "pgd-1", "pgd-2-2", "untargeted-2-1", "multitargeted-1-1", "square-3", "pgd-2@0.01", "pgd-2@eps/4")
    names = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
    images = x.float() / 255 if x.dtype == torch.uint8 else x
    adversary = images + (0.5 - images) * min(eps / (1 if norm == "Linf" else 5), 1)
    sizes = data.draw(st.lists(st.sampled_from((1, 2, 5, 10**9)), min_size=2, max_size=2))
    first, second = (af.evaluate(model, x, y, attacks=names, eps=eps, batch_size=size, norm=norm) for size in sizes)
    right = model(images).argmax(1) == y
    assert first["clean_accuracy"] == right.double().mean().item() and first["n"] == len(x)
    for name in names:
        robust = first["attacks"][name]["robust_accuracy"]
        assert robust == second["attacks"][name]["robust_accuracy"] <= first["clean_accuracy"]
    own = af.evaluate(model, x, y, attacks={"own": lambda model, x, y, **_: adversary}, eps=eps, norm=norm)
    robust = right & (model(adversary).argmax(1) == y)
    assert own["attacks"]["own"]["robust_accuracy"] == robust.double().mean().item()


@given(data)
@counted
def test_evaluate_refuses(data):
    model, (x, y), wrong = network(), data.draw(batches()), data.draw(wrong_batches())
    if not (isinstance(wrong[0], torch.Tensor) and (wrong[0].dtype == torch.uint8 or wrong[0].is_meta)):
        refused(lambda: af.evaluate(model, *wrong, attacks=["fgsm"], eps=0.1))
    beyond = x.clone()
    beyond[-1, -1, -1, -1] = data.draw(st.sampled_from((1.001, -1e-3, math.nan, math.inf, -math.inf)))
    refused(lambda: af.evaluate(model, beyond, y, attacks=["fgsm"], eps=0.1))
    names = data.draw(st.one_of(
        st.sampled_from((["pgd"], ["pgd-0"], ["PGD-2"], ["pgd-2-0"], ["fgsm-3"], [""], [None], [3], "pgd-2", 3, None,
                         [["fgsm"]], ["transfer"], ["square-0"], ["pgd-2@0"], ["pgd-2@-1"], ["pgd-2@eps/0"],
                         ["fgsm@0.1"], ["a:b"], [":"], {"a": None}, {"a": 3}, {3: "fgsm"}, ["pgd-" + "9" * 5000])),
        st.text(max_size=6).map(lambda text: ["pgd-x" + text])))
    refused(lambda: af.evaluate(model, x, y, attacks=names, eps=0.1))
    refused(lambda: af.evaluate(model, x, y, attacks=["fgsm"], eps=data.draw(st.sampled_from(WRONG_NUMBERS))))
    for name, values in (("step_size", (0, -1, math.nan, "1")), ("batch_size", (0, -1, 0.5, None, "3")),
                         ("seed", (0.5, "a", None, 2**64)), ("norm", ("linf", None, 2))):
        bad = data.draw(st.sampled_from(values))
        refused(lambda name=name, bad=bad: af.evaluate(model, x, y, attacks=["pgd-2"], eps=0.1, **{name: bad}))
    outside = data.draw(st.sampled_from((lambda x: x + 0.2, lambda x: x * math.nan, lambda x: x[:, :1], lambda x: None,
                                         lambda x: (x * 255).byte(), lambda x: x.numpy(), lambda x: -x - 0.01)))
    refused(lambda: af.evaluate(model, x, y, attacks={"own": lambda model, x, y, **_: outside(x)}, eps=0.1))
    refused(lambda: af.evaluate(data.draw(st.sampled_from((None, "model", 3))), x, y, attacks=["fgsm"], eps=0.1))


@given(data)
@counted
def test_models_and_data_sets(data):
    n, classes = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 3))
    images = torch.rand(n, 1, 4, 4)
    size, seed = data.draw(st.one_of(st.none(), st.integers(-2, 12))), data.draw(st.integers(0, 2**64 - 1))
    dataset = Dataset("x", images, torch.arange(n), images, torch.arange(n), classes)
    wanted = max(1, n // 10) if size is None else size
    if 1 <= wanted < n:
        split = split_validation(dataset, size, seed)
        assert len(split.val[1]) == wanted
        assert sorted([*split.val[1].tolist(), *split.train_labels.tolist()]) == list(range(n))
    else:
        refused(lambda: split_validation(dataset, size, seed))
    name = data.draw(st.sampled_from(("small_cnn", "wrn-10-1")))
    channels, pixels = data.draw(st.integers(1, 4)), data.draw(st.sampled_from((1, 2, 3, 4, 5, 9)))
    try:
        model = models.create(name, classes, channels, pixels).eval()
    except UserError:
        assert pixels < 4
    else:
        logits = model(torch.rand(2, channels, pixels, pixels))
        assert logits.shape == (2, classes) and logits.isfinite().all()


def test_numbers_are_checked_as_python_has_them():
    for value in (np.float32(0.5), np.float64(0.5), 1, 0.5):
        assert checks.positive(value, "eps") == float(value)
    with pytest.raises(UserError):
        checks.positive(np.array([0.5]), "eps")


def test_the_number_of_inputs(request):
    check_number(request)
