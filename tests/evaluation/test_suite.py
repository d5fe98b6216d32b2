"""Names of attacks, the paper's settings, and attacks of one's own."""

import copy

import pytest
import torch

from atlas_fast import attacks
from atlas_fast.attacks import PGD
from atlas_fast.errors import UserError
from atlas_fast.evaluation import evaluate
from atlas_fast.evaluation.suite import create_attack, create_suite

EPS = 0.05
CIFAR = {"untargeted": (100, 10), "multitargeted": (20, 5)}


def numbers(attack):
    return attack.settings["steps"], attack.settings["restarts"]


def test_pgd_and_fgsm():
    assert create_attack("fgsm", EPS).settings["steps"] == 1
    assert create_attack("fgsm", EPS, 0.001).settings["step_size"] == pytest.approx(1.25 * EPS)
    assert create_attack("pgd-20", EPS).settings == PGD(EPS, steps=20).settings
    assert create_attack("pgd-50-10", EPS, 0.01).settings == PGD(EPS, 0.01, 50, 10).settings
    assert create_attack("pgd-20", EPS, norm="L2", any_step=True).settings == \
        PGD(EPS, steps=20, norm="L2", any_step=True).settings


def test_a_step_size_of_ones_own():
    assert create_attack("pgd-20@eps/10", 0.3, 0.01).settings["step_size"] == pytest.approx(0.03)
    assert create_attack("pgd-20@0.02", 0.3, 0.01).settings["step_size"] == 0.02
    assert create_attack("untargeted-5-2@1e-3", 0.3).settings["step_size"] == 0.001
    assert create_attack("pgd-20@.5", 0.3).settings["step_size"] == 0.5


@pytest.mark.parametrize("name", ["untargeted", "multitargeted"])
def test_margin_attacks_take_the_papers_restarts_and_steps(name):
    for dataset, expected in (("cifar10", CIFAR[name]), (None, CIFAR[name]), ("mnist", (50, 20)), ("digits", (50, 20))):
        assert numbers(create_attack(name, EPS, dataset=dataset)) == expected
    assert numbers(create_attack(f"{name}-7", EPS, dataset="cifar10")) == (7, CIFAR[name][1])
    assert numbers(create_attack(f"{name}-7-3", EPS, dataset="mnist")) == (7, 3)
    assert create_attack(name, EPS, 0.007).settings["step_size"] == 0.007
    assert create_attack(name, EPS).settings["any_step"] is True


def test_standard_settings_of_the_parameter_free_attacks():
    ce, targeted = create_attack("apgd-ce", EPS).settings, create_attack("apgd-t", EPS).settings
    assert (ce["loss"], ce["steps"], ce["restarts"], ce["rho"]) == ("ce", 100, 1, 0.75)
    assert (targeted["steps"], targeted["targets"]) == (100, 9)
    assert create_attack("apgd-dlr", EPS).settings["loss"] == "dlr"
    assert create_attack("fab-t", EPS, norm="L2").settings["norm"] == "L2"
    assert create_attack("square", EPS).settings["queries"] == 5000
    assert create_attack("square-70", EPS).settings["queries"] == 70
    assert create_attack("rays", EPS).settings["queries"] == 40_000
    assert set(create_attack("autoattack", EPS).settings["parts"]) == {"apgd-ce", "apgd-t", "fab-t", "square"}


def test_transfer_crafts_on_the_surrogate_with_a_thousand_steps():
    surrogate = torch.nn.Linear(2, 2)
    assert create_attack("transfer", EPS, 0.007, surrogate=surrogate).settings["steps"] == 1000
    attack = create_attack("transfer-3-2", EPS, 0.007, surrogate=surrogate)
    assert attack.settings["steps"] == 3 and attack.settings["restarts"] == 2 and attack.settings["step_size"] == 0.007
    assert attack.surrogate is surrogate
    with pytest.raises(UserError, match="--surrogate RUN"):
        create_attack("transfer", EPS)


def test_mnist_also_takes_steps_that_cross_the_ball():
    plan = create_suite(["fgsm", "pgd-20", "untargeted", "pgd-5@0.1"], 0.3, 0.01, dataset="mnist", second_step=True)
    assert list(plan) == ["fgsm", "pgd-20", "pgd-20@eps/10", "untargeted", "untargeted@eps/10", "pgd-5@0.1"]
    assert [plan[name].settings["step_size"] for name in ("pgd-20", "pgd-20@eps/10")] == [0.01, pytest.approx(0.03)]
    for other in ({"dataset": "mnist"}, {"dataset": "cifar10", "second_step": True},
                  {"dataset": "mnist", "second_step": True, "norm": "L2"}):
        assert list(create_suite(["pgd-20"], 0.3, 0.01, **other)) == ["pgd-20"]


def test_what_is_planned():
    plan = create_suite(["rays-100", "square-9", "pgd-3"], EPS)
    assert [plan[name].images for name in plan] == [1000, None, None]
    assert [plan[name].black_box for name in plan] == [True, True, False]
    assert all(planned.eps == EPS and planned.norm == "Linf" for planned in plan.values())
    own = create_suite({"mine": attacks.PGD(0.2, norm="L2"), "other": lambda model, x, y: x}, EPS)
    assert (own["mine"].eps, own["mine"].norm) == (0.2, "L2") and (own["other"].eps, own["other"].norm) == (EPS, "Linf")


@pytest.mark.parametrize("name", ["pgd", "pgd-", "pgd-0", "pgd-2-0", "pgd-2-2-2", "PGD-20", "autoatack", "", "fgsm-3",
                                  "square-1-2", "autoattack-3", "apgd-ce@0.1", "pgd-20@eps", "pgd-20@",
                                  "pgd-20@eps/0", 7, None])
def test_unknown_names_are_refused_with_those_that_are_known(name):
    with pytest.raises(UserError, match="unknown attack .*; known are fgsm, pgd-K"):
        create_attack(name, EPS)


def test_values_that_make_no_sense():
    for keywords, message in (({"norm": "L1"}, "norm must be one of Linf, L2"), ({"eps": 0}, "eps"),
                              ({"names": "pgd-20"}, "list of names"), ({"names": {"a": 3}}, "must be callable")):
        with pytest.raises(UserError, match=message):
            create_suite(**{"names": ["pgd-20"], "eps": EPS, **keywords})
    with pytest.raises(UserError, match="step size in pgd-20@0"):
        create_attack("pgd-20@0", EPS)


OWN = '''
import torch
from atlas_fast.errors import UserError
number = 3
class Holder:
    @staticmethod
    def same(model, x, y):
        return x
def sign(model, x, y):
    x = x.requires_grad_()
    (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return (x + 0.05 * g.sign()).clamp(0, 1)
def noise(model, x, y):
    return (x + 0.05 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
def fails(model, x, y):
    return x[len(x) + 5]
def far(model, x, y):
    return 1 - x
def outside(model, x, y):
    return x + 2
def nan(model, x, y):
    return x * float("nan")
def shape(model, x, y):
    return x[:, :, 1:]
def integers(model, x, y):
    return (255 * x).byte()
def nothing(model, x, y):
    x.zero_()
def changes(model, x, y):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return x
def trains(model, x, y):
    model.train()
    return x
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_attacks.py").write_text(OWN)
    (tmp_path / "broken_attacks.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_attacks", raising=False)


def test_an_attack_of_ones_own(own, digits_model):
    model, x, y = digits_model
    x, y = x[:40], y[:40]
    report = evaluate(model, x, y, ["own_attacks:sign", "own_attacks:Holder.same", "own_attacks:trains"], eps=EPS)
    same, sign = (report["attacks"][f"own_attacks:{name}"] for name in ("Holder.same", "sign"))
    assert same["robust_accuracy"] == report["clean_accuracy"] > sign["robust_accuracy"]
    assert sign["settings"]["function"] == "own_attacks:sign" and len(sign["settings"]["source"]) == 12
    assert not model.training


def test_its_random_numbers_are_the_seeds_and_leave_torchs_alone(own, digits_model):
    model, x, y = digits_model
    model, seen = torch.nn.Sequential(model), []
    before = torch.get_rng_state()
    attack = create_attack("own_attacks:noise", EPS)
    for seed, offset in ((1, 0), (1, 0), (2, 0), (1, 8)):
        seen.append(attack(model, x[:8], y[:8], rng=torch.tensor([seed, 0]), sample_offset=offset))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[3])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere_at_all:f", "cannot be imported: 'nowhere_at_all' gives ModuleNotFoundError"),
    ("broken_attacks:f", "cannot be imported: 'broken_attacks' gives ModuleNotFoundError"),
    ("own_attacks:missing", "has no callable 'missing'"), ("own_attacks:number", "has no callable 'number'"),
    ("own_attacks:", "not named module:function"), (":f", "not named module:function"),
    ("own_attacks:fails", "'own_attacks:fails' failed with IndexError"),
    ("own_attacks:far", r"at distance .* from x in Linf, but eps is 0.05"),
    ("own_attacks:outside", r"outside \[0, 1\]"), ("own_attacks:nan", "NaN or infinite"),
    ("own_attacks:shape", r"shape \[8, 1, 7, 8\] instead of float images \[8, 1, 8, 8\]"),
    ("own_attacks:integers", "uint8"), ("own_attacks:nothing", "NoneType instead of a tensor"),
    ("own_attacks:changes", "changed the model's weights"),
])
def test_one_that_misbehaves_is_refused(name, message, own, digits_model):
    model, x, y = digits_model
    images = x[:8].clone()
    with pytest.raises(UserError, match=message):
        evaluate(copy.deepcopy(model), images, y[:8], [name], eps=EPS)
    assert torch.equal(images, x[:8])
