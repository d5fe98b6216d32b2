"""Every named attack through `evaluate`, on a network that all of them break."""

import numpy as np
import torch

from atlas_fast.evaluation import evaluate
from atlas_fast.evaluation.run import Evaluation
from atlas_fast.evaluation.suite import create_suite

EPS = 0.25
NAMES = ["fgsm", "pgd-5", "pgd-20@eps/10", "untargeted-5-2", "multitargeted-5-1", "apgd-ce", "apgd-dlr", "apgd-t",
         "fab-t", "square-60", "rays-200", "autoattack", "transfer-5"]


def test_every_name(digits_model):
    model, x, y = digits_model
    report = evaluate(model, x[:24], y[:24], NAMES, eps=EPS, batch_size=10, surrogate=model, dataset="mnist")
    assert list(report["attacks"]) == NAMES
    for name, result in report["attacks"].items():
        assert result["robust_accuracy"] <= (0.6 if name in ("square-60", "rays-200") else 0.05), name
        assert result["settings"]["eps"] == EPS and result["settings"]["seed"] == 0 and result["n"] == 24
    assert report["worst_case"]["robust_accuracy"] == 0
    assert report["masking"] == []


def test_what_attacks_tell_is_kept_for_every_image(digits_model):
    model, x, y = digits_model
    evaluation = Evaluation(model, x[:24], y[:24], 5)
    correct = evaluation.predictions() == y[:24].numpy()
    plan = create_suite(["autoattack", "rays-200"], EPS, batch_size=5)
    cascade, rays = (evaluation.attack(name, planned, correct) for name, planned in plan.items())
    parts = cascade.details["part"]
    assert set(parts) <= {"clean", "apgd-ce", "apgd-t", "fab-t", "square", ""}
    assert np.array_equal(parts != "", cascade.broken) and np.array_equal(parts == "clean", ~correct)
    assert (parts == "apgd-ce").sum() > 12
    queries, distance = rays.details["queries"], rays.details["distance"]
    assert queries.shape == (24,) and queries.max() <= 210 and np.array_equal(distance <= EPS, rays.broken)
    np.testing.assert_allclose(distance[rays.broken], rays.linf[rays.broken], atol=1e-6)


def test_attacks_of_the_package_and_the_model_itself_agree(digits_model):
    """They see a folded network; the verdict is the model's."""
    model, x, y = digits_model
    evaluation = Evaluation(model, x[:30], y[:30])
    correct = evaluation.predictions() == y[:30].numpy()
    planned = create_suite(["pgd-5"], 0.05)["pgd-5"]
    assert planned.takes_network and evaluation.network.engine == "sweeps"
    result = evaluation.attack("pgd-5", planned, correct)
    assert 0 < result.robust(correct).mean() < correct.mean()
    attacked = torch.from_numpy(result.adversaries)
    images, labels = x[result.kept], y[result.kept]
    assert (model(attacked).argmax(1) != labels).all() and (attacked - images).abs().max() <= 0.05 + 1e-6
    own = create_suite({"mine": lambda model, x, y: x}, 0.05)["mine"]
    assert not own.takes_network
