import math

import pytest

from atlas_fast.errors import UserError
from atlas_fast.training import resolve
from atlas_fast.training.setup import make_objective

IMAGES = ["cifar10", "cifar100", "npz", "imagefolder"]
COMMON = {
    **{name: dict(model="wrn-28-8", eps=8 / 255, lr=0.1, momentum=0.9, weight_decay=2e-4, batch_size=64, epochs=30,
                  val_steps=10, val_step_size=0.007, ramp_epochs=15, plateau_epochs=2) for name in IMAGES},
    "mnist": dict(model="small_cnn", eps=0.3, lr=0.01, momentum=0.9, weight_decay=0, batch_size=128, epochs=30,
                  val_steps=20, val_step_size=0.01, ramp_epochs=15, plateau_epochs=2),
    "digits": dict(model="small_cnn", eps=0.1, val_steps=20, val_step_size=0.01, augment="none"),
}


@pytest.mark.parametrize("dataset", COMMON)
def test_common_defaults(dataset):
    config = resolve({"dataset": dataset})
    for name, value in COMMON[dataset].items():
        assert getattr(config, name) == value, name
    assert (config.method, config.steps, config.bn_mode, config.amp) == ("atlas", 1, "train", "auto")
    assert config.augment == ("crop-flip" if dataset.startswith("cifar") else "none")
    assert config.step_size == 1.25 * config.eps


CIFAR = [("jac", 0, 0.5, None), ("trades", 1, None, 2), ("trades", 10, None, 4), ("atlas", 1, 2e-4, 5),
         ("atlas_l", 1, 2e-4, None), ("atlas_g", 1, None, 5), ("atlas_l", 10, 1e-4, None), ("tradesjac", 1, 2e-4, 0.5),
         ("tradesjac", 10, 2e-4, 0.5), ("adv", 1, None, None), ("adv", 10, None, None), ("plain", 0, None, None)]
CELLS = [(dataset, *cell) for dataset in IMAGES for cell in CIFAR]
CELLS += [(dataset, "atlas", 10, 1e-4, 10 if dataset == "cifar100" else 5) for dataset in IMAGES]
CELLS += [(dataset, "atlas_g", 10, None, 10 if dataset == "cifar100" else 5) for dataset in IMAGES]
CELLS += [("mnist", "jac", 0, 0.5, None), ("mnist", "trades", 1, None, 1), ("mnist", "trades", 20, None, 1),
          ("mnist", "atlas", 1, 1e-5, 0.3), ("mnist", "atlas", 20, 5e-6, 0.2), ("mnist", "atlas_l", 1, 1e-5, None),
          ("mnist", "atlas_g", 20, None, 0.2), ("mnist", "adv", 1, None, None)]

# The neighbours' authors give values for CIFAR-10 alone; they stand for every data set.
NEIGHBOURS = [("n_fgsm", 1, None, None), ("mart", 10, None, 6), ("nuat", 1, None, 4.5), ("nuat", 2, None, 4),
              ("llr", 10, 2, 0.6)]


@pytest.mark.parametrize("dataset", COMMON)
@pytest.mark.parametrize("method, steps, alpha, beta", NEIGHBOURS)
def test_weights_of_the_neighbours(dataset, method, steps, alpha, beta):
    config = resolve({"dataset": dataset, "method": method, "steps": steps})
    assert (config.alpha, config.beta) == (alpha, beta)
    assert config.step_size == (config.eps if method in ("n_fgsm", "nuat") else config.val_step_size)
    assert config.noise == (2.0 if method == "n_fgsm" else None)


def test_the_neighbours_steps_and_the_alpha_of_grad_align():
    for dataset, steps in (("cifar10", 10), ("mnist", 20)):
        assert resolve({"dataset": dataset, "method": "mart"}).steps == steps
        assert resolve({"dataset": dataset, "method": "llr"}).steps == 10
        assert resolve({"dataset": dataset, "method": "n_fgsm"}).steps == 1
    align = {"method": "grad_align"}
    assert resolve({"dataset": "cifar10", **align}).alpha == pytest.approx(0.2)
    assert resolve({"dataset": "cifar10", **align, "eps": 16 / 255}).alpha == pytest.approx(2.0)
    assert resolve({"dataset": "cifar10", **align, "eps": 16 / 255, "alpha": 0.5}).alpha == 0.5
    with pytest.raises(UserError, match="only up to 16/255; give alpha"):
        resolve({"dataset": "cifar10", **align, "eps": 24 / 255})
    assert resolve({"dataset": "digits", **align, "eps": 0.05}).alpha == 0.2
    assert resolve({"dataset": "mnist", **align}).alpha == 0.2 and resolve({"dataset": "mnist", **align}).steps == 1
    assert resolve({"dataset": "mnist", **align}).step_size == 0.3


RAMPS = {"n_fgsm": (0, False, 0.5), "mart": (0, False, 0.5), "grad_align": (0, False, 0.5),
         "nuat": (15, "weights", 1.0), "llr": (1.28, "eps", 0.5)}


@pytest.mark.parametrize("method", RAMPS)
def test_the_neighbours_ramp_where_their_authors_do_or_where_it_is_asked_for(method):
    epochs, kind, share = RAMPS[method]
    config = resolve({"dataset": "cifar10", "method": method})
    assert config.ramp_epochs == epochs and make_objective(config).ramps == kind
    asked = resolve({"dataset": "cifar10", "method": method, "ramp_epochs": 5.0})
    assert asked.ramp_epochs == 5 and make_objective(asked).ramps == (kind or True)
    assert asked.eps_at(0.5) == share * asked.eps and resolve({"method": "jac"}).eps_at(0.5) == 0
    assert resolve({"method": method, "epochs": 2}).ramp_epochs <= 1


@pytest.mark.parametrize("dataset, method, steps, alpha, beta", CELLS)
def test_weights(dataset, method, steps, alpha, beta):
    config = resolve({"dataset": dataset, "method": method, "steps": steps})
    assert (config.alpha, config.beta) == (alpha, beta)
    expected = {0: config.eps * 1.25, 1: config.eps * 1.25}.get(steps, 0.01 if dataset == "mnist" else 0.007)
    assert config.step_size == expected


def test_the_methods_without_an_adversary_take_zero_steps_and_do_not_ramp():
    for method in ("jac", "plain"):
        config = resolve({"method": method})
        assert config.steps == 0 and config.ramp_epochs == 0 and not config.has_adversary


def test_ramp_is_half_of_a_short_run():
    assert resolve({"epochs": 8}).ramp_epochs == 4
    assert resolve({"epochs": 100}).ramp_epochs == 15
    assert resolve({"epochs": 8, "ramp_epochs": 0}).ramp_epochs == 0


def test_given_values_win_and_steps_keep_their_ratio_to_eps():
    config = resolve({"dataset": "mnist", "eps": 0.15, "steps": 20, "alpha": 3.0})
    assert config.alpha == 3 and config.beta == 0.2
    assert config.step_size == config.val_step_size == pytest.approx(0.005)


BAD = [
    ({"dataset": "svhn"}, "--dataset must be one of"), ({"method": "madry"}, "--method must be one of"),
    ({"steps": -1}, "--steps must be 0 or more"), ({"steps": 0}, "atlas needs an adversary"),
    ({"method": "jac", "steps": 1}, "jac has no adversary"), ({"eps": 0.0}, "--epsilon"), ({"eps": -0.1}, "--epsilon"),
    ({"eps": math.nan}, "--epsilon"), ({"eps": math.inf}, "--epsilon"), ({"batch_size": 0}, "--batch-size"),
    ({"epochs": 0}, "--epochs"), ({"lr": 0.0}, "--lr"), ({"lr": math.nan}, "--lr"), ({"momentum": 1.0}, "--momentum"),
    ({"weight_decay": -1.0}, "--weight-decay"), ({"method": "adv", "alpha": 1.0}, "adv has no alpha"),
    ({"method": "jac", "beta": 1.0}, "jac has no beta"), ({"alpha": math.nan}, "--alpha"), ({"beta": -1.0}, "--beta"),
    ({"dataset": "mnist", "method": "tradesjac"}, "give --alpha and --beta"), ({"step_size": 0.0}, "--step-size"),
    ({"ramp_epochs": -1.0}, "--ramp-epochs"), ({"method": "jac", "ramp_epochs": 3.0}, "does not ramp"),
    ({"plateau_epochs": 0}, "--plateau-epochs"), ({"bn_mode": "off"}, "--bn-mode"), ({"amp": "fp8"}, "--amp"),
    ({"sync_bn": "yes"}, "--sync-bn"),
    ({"device": "tpu"}, "--device"), ({"device": "meta"}, "--device"), ({"device": "cuda:99"}, "--device"),
    ({"max_batches": 0}, "--max-batches"), ({"num_projections": 0}, "--num-projections"), ({"seed": -1}, "--seed"),
    ({"method": "jac", "step_size": 0.1}, "leave --step-size away"),
    ({"method": "adv", "num_projections": 2}, "leave --num-projections away"),
    ({"method": "llr", "num_projections": 2}, "leave --num-projections away"),
    ({"method": "n_fgsm", "steps": 2}, "n_fgsm takes one step"), ({"method": "grad_align", "steps": 0}, "adversary"),
    ({"method": "adv", "noise": 1.0}, "adv has no --noise; methods with it: n_fgsm"),
    ({"method": "n_fgsm", "noise": -1.0}, "--noise"), ({"method": "mart", "alpha": 1.0}, "mart has no alpha"),
    ({"label_smoothing": 1.0}, "--label-smoothing"), ({"augment": "mixup"}, "--augment"),
]


@pytest.mark.parametrize("given, message", BAD, ids=[str(g) for g, _ in BAD])
def test_wrong_values_are_named(given, message):
    with pytest.raises(UserError, match=message):
        resolve(given)
