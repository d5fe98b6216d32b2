"""Signs of gradient masking on networks that mask, and silence on one that does not."""

import numpy as np
import pytest
import torch
from torch import nn

from atlas_fast.attacks import APGD, PGD
from atlas_fast.evaluation import evaluate as evaluation_of
from atlas_fast.evaluation import masking, sweeps
from atlas_fast.evaluation.accuracies import clearly_more, wilson
from atlas_fast.evaluation.run import Evaluation
from atlas_fast.evaluation.samples import AttackResult
from atlas_fast.evaluation.suite import Planned
from atlas_fast.evaluation.telling import TellingAutoAttack

EPS = 0.1


def result(broken, settings=None, index=None, **keywords):
    """An AttackResult of which only the verdicts matter."""
    n = len(broken)
    zeros = np.zeros(n, np.float32)
    return AttackResult(settings=settings or {}, index=np.arange(n) if index is None else np.array(index),
                        broken=np.array(broken, bool), prediction=np.zeros(n, np.int64), linf=zeros, l2=zeros,
                        kept=np.zeros(0, np.int64), adversaries=np.zeros((0, 1, 1, 1), np.float32), **keywords)


class Quantised(nn.Module):
    """Steps of 1/8 before a classifier: the gradient of the rounding is replaced by a misleading one."""

    def __init__(self, model, backward):
        super().__init__()
        self.model, self.backward_factor = model, backward

    def forward(self, x):
        rounded = (x * 8).round() / 8
        return self.model(rounded.detach() + self.backward_factor * (x - x.detach()))


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


class TinyCascade(TellingAutoAttack):
    def parts(self, classes):
        return {"apgd-ce": APGD(self.eps, steps=2)}


def evaluate(model, x, y, eps, attacks):
    evaluation = Evaluation(model, x, y)
    correct = evaluation.predictions() == y.numpy()
    return evaluation, correct, {name: evaluation.attack(name, Planned(attack, eps, black_box=black), correct)
                                 for name, (attack, black) in attacks.items()}


def test_silent_on_an_ordinary_network(digits_model):
    model, x, y = digits_model
    evaluation, correct, results = evaluate(model, x[:120], y[:120], EPS, {
        name: (PGD(EPS, steps=steps), False) for name, steps in (("fgsm", 1), ("pgd-5", 5), ("pgd-20", 20))})
    curves = sweeps.sweep(evaluation, correct, EPS, "Linf")
    assert masking.signs(correct, results, curves) == []
    assert curves.eps[0]["robust_accuracy"] == correct.mean() and curves.eps[-1]["robust_accuracy"] <= 0.1
    assert [point["eps"] for point in curves.eps] == sorted(point["eps"] for point in curves.eps)
    accuracies = [point["robust_accuracy"] for point in curves.eps]
    assert accuracies[0] > accuracies[1] >= accuracies[2]


def test_a_network_whose_gradient_points_the_wrong_way(digits_model):
    """Robust at every eps by its gradient, although noise of the corners breaks it: a black box sees that."""
    model, x, y = digits_model
    masked, x, y = Quantised(model, -1.0), x[:120], y[:120]

    def corners(_, x, y, rng=None, sample_offset=0):  # adversaries of the honest network
        return PGD(0.3, steps=20)(model, x, y, rng, sample_offset)

    evaluation, correct, results = evaluate(masked, x, y, 0.3, {"pgd-10": (PGD(0.3, steps=10), False),
                                                               "transfer": (corners, True)})
    curves = sweeps.sweep(evaluation, correct, 0.3, "Linf")
    found = "\n".join(masking.signs(correct, results, curves))
    assert "transfer uses no gradient of the model, but breaks" in found and "that pgd-10 did not" in found
    assert "At eps 0.6" in found or "At eps 1," in found


def test_fgsm_stronger_than_pgd(digits_model):
    """A gradient that is honest at the clean image and turned round away from it stops PGD after its first step."""
    model, x, y = digits_model

    class Trap(nn.Module):
        def forward(self, images):
            away = (images - x[:len(images)]).abs().flatten(1).amax(1) > 0.06
            sign = torch.where(away, -1.0, 1.0)[:, None, None, None]
            return model(images.detach() + sign * (images - images.detach()))

    honest = PGD(EPS, EPS, steps=1, random_start=False)
    _, correct, results = evaluate(Trap(), x[:120], y[:120], EPS, {
        "fgsm": (honest, False), "pgd-2": (PGD(EPS, EPS, steps=2, random_start=False), False)})
    (sentence,) = [line for line in masking.signs(correct, results) if line.startswith("FGSM")]
    assert "stronger than pgd-2" in sentence
    assert f"breaks {int((results['fgsm'].broken & ~results['pgd-2'].broken & correct).sum())} images" in sentence


def test_more_steps_weaker_than_fewer_and_only_when_comparable():
    correct = np.ones(40, bool)
    few = result([True] * 20 + [False] * 20, {"steps": 5, "eps": 0.1, "restarts": 1})
    many = result([False] * 40, {"steps": 50, "eps": 0.1, "restarts": 1})
    (sentence,) = masking.signs(correct, {"pgd-50": many, "pgd-5": few})
    assert sentence.startswith("pgd-5 is stronger than pgd-50: it breaks 20 images that pgd-50 does not, against 0")
    few.settings["restarts"] = 10
    assert masking.signs(correct, {"pgd-50": many, "pgd-5-10": few}) == []
    few.settings["restarts"] = 1
    assert masking.signs(correct, {"untargeted-50": many, "pgd-5": few}) == []
    few.broken[4:] = False  # four images are chance
    assert masking.signs(correct, {"pgd-50": many, "pgd-5": few}) == []


def test_black_box_is_compared_with_all_gradient_attacks_together():
    correct = np.array([True] * 90 + [False] * 10)
    box = result([True] * 5 + [False] * 95, black_box=True)
    whites = {"pgd-20": result([True] * 3 + [False] * 97),
              "apgd-ce": result([False] * 3 + [True] * 2 + [False] * 95)}
    assert masking.signs(correct, {"square": box, **whites}) == []
    (sentence,) = masking.signs(correct, {"square": box, "pgd-20": result([False] * 100)})
    assert "square uses no gradient of the model, but breaks 5 of 100 images (5.0%) that pgd-20 did not" in sentence
    assert masking.signs(correct, {"square": box, "fgsm": result([False] * 100)}) == []  # FGSM is no measure
    assert masking.signs(correct, {"square": box}) == []


def test_a_black_box_on_some_of_the_images():
    correct = np.ones(100, bool)
    rays = result([True] * 10, index=np.arange(0, 100, 10), black_box=True)
    white = result([index % 10 == 0 and index < 50 for index in range(100)])
    (sentence,) = masking.signs(correct, {"rays": rays, "pgd-20": white})
    assert "breaks 5 of 10 images" in sentence


def test_autoattack_says_what_it_saw():
    correct = np.ones(1000, bool)
    part = np.array(["apgd-ce"] * 500 + ["square"] * 5 + [""] * 495)
    cascade = result(part != "", details={"part": part}, warnings=["the model is randomised"])
    found = masking.signs(correct, {"autoattack": cascade})
    assert "autoattack: the model is randomised" in found
    (other,) = [line for line in found if line.startswith("Within autoattack, Square, which uses no gradient")]
    assert "5 of 1000 images" in other
    cascade.details["part"][502:] = ""
    assert masking.signs(correct, {"autoattack": result(part != "", details={"part": part})}) == []


@pytest.mark.parametrize(("wrap", "sentence"), [
    (lambda model: nn.Sequential(model, Scaled(1e4)), "zero gradient of the cross-entropy only"),
    (lambda model: Quantised(model, 0.0), "zero gradient of the margin"),
    (lambda model: Quantised(model, -1.0), "does not lower the margin"),
])
def test_one_attack_that_is_fooled_is_not_believed_silently(wrap, sentence, digits_model):
    """PGD alone leaves far more than the honest network has; the report says why, without a second attack."""
    model, x, y = digits_model
    honest, masked = (evaluation_of(m, x[:100], y[:100], attacks=["pgd-10"], eps=EPS) for m in (model, wrap(model)))
    accuracies = [report["attacks"]["pgd-10"]["robust_accuracy"] for report in (honest, masked)]
    assert accuracies[1] > accuracies[0] + 0.2 and honest["masking"] == []
    (found,) = masked["masking"]
    assert sentence in found


def test_the_model_is_looked_at_once(digits_model):
    model, x, y = digits_model
    report = evaluation_of(nn.Sequential(model, nn.Softmax(1)), x[:8], y[:8], attacks={
        "cascade": TinyCascade(EPS), "again": TinyCascade(EPS)}, eps=EPS)
    assert len(report["masking"]) == len({*report["masking"]}) == 1


def test_an_adversary_of_scores_needs_no_gradient(digits_model):
    """A model without any: the report says so, and a black box goes on."""
    model, x, y = digits_model
    report = evaluation_of(lambda images: model(images.detach()), x[:8], y[:8], attacks=["square-20"], eps=EPS)
    (found,) = report["masking"]
    assert "only attacks that need none" in found and report["attacks"]["square-20"]["n"] == 8


def test_a_model_for_one_size_of_batch_is_judged_without_the_look(digits_model):
    model, x, y = digits_model

    def exported(images):
        if len(images) != 8:
            raise RuntimeError("expected a batch of 8")
        return model(images)

    report = evaluation_of(exported, x[:16], y[:16], attacks={"none": lambda model, x, y: x}, eps=EPS, batch_size=8)
    (found,) = report["masking"]
    assert found == "the model could not be checked for masked gradients: expected a batch of 8"


def test_rising_curves():
    def point(key, value, broken):
        return {key: value, "robust_accuracy": 1 - np.mean(broken), "n": len(broken), "broken": np.array(broken)}

    fine = [point("steps", 1, [False] * 20), point("steps", 10, [True] * 20)]
    eps = [point("eps", 0.0, [False] * 20), point("eps", 0.5, [True] * 20)]
    assert masking.signs(np.ones(20, bool), {}, sweeps.Curves("Linf", eps, fine)) == []
    found = masking.signs(np.ones(20, bool), {}, sweeps.Curves("Linf", eps, fine[::-1]))
    assert found == ["Robust accuracy rises from 0.0% with PGD-10 to 100.0% with PGD-1; it should fall."]


def test_chance_and_intervals():
    assert clearly_more(5, 0) and not clearly_more(4, 0) and not clearly_more(20, 12) and clearly_more(40, 20)
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.4038, abs=1e-4) and high == pytest.approx(0.5962, abs=1e-4)
    assert wilson(0.0, 10)[0] == 0 and wilson(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1)


def test_fixed_steps_that_do_not_suit_the_network():
    correct = np.arange(100) < 95
    steps = {"steps": 1000}
    pgd, apgd = np.arange(100) % 10 == 0, np.arange(100) % 5 == 0
    parts = np.where(~correct, "clean", np.where(apgd, "apgd-ce", np.where(np.arange(100) % 7 == 0, "square", "")))
    cascade = result(parts != "", details={"part": parts})
    for name, one in (("apgd-ce", result(apgd)), ("autoattack", cascade)):
        (found,) = [line for line in masking.signs(correct, {"pgd-1000": result(pgd, steps), name: one})
                    if "flatter" in line]
        assert found.startswith(f"{'' if name == 'apgd-ce' else 'APGD-CE within '}{name} breaks 9 of 95 images that")
        for quiet in ({"steps": 20}, steps):  # few steps may be worse; equal ones are no sign
            other = result(pgd if quiet["steps"] == 20 else apgd, quiet)
            found = masking.signs(correct, {f"pgd-{quiet['steps']}": other, name: one})
            assert not any("flatter" in line for line in found)
