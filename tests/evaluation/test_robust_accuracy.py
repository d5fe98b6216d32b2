"""`atlas_fast.evaluation.evaluate`: counts, settings, batches, modes and refusals."""

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import PGD
from atlas_fast.errors import UserError
from atlas_fast.evaluation import evaluate, robust_accuracy

EPS = 0.05


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(96, 5))


@pytest.fixture(scope="module")
def data(model):
    """Labels that the model gets right on most images."""
    x = torch.randint(256, (50, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = model.eval()(x.float() / 255).argmax(1)
    y[:5] = (y[:5] + 1) % 5
    return x, y


def test_report_is_what_one_would_count(model, data):
    x, y = data
    model.train()
    model[3].eval()
    modes = [m.training for m in model.modules()]
    report = evaluate(model, x, y, ["fgsm", "pgd-7", "pgd-4-2"], eps=EPS, step_size=0.01, batch_size=16, seed=9)
    assert [m.training for m in model.modules()] == modes
    assert report["n"] == 50 and report["clean_accuracy"] == pytest.approx(0.9)
    assert list(report["attacks"]) == ["fgsm", "pgd-7", "pgd-4-2"]
    model.eval()
    images = x.float() / 255
    x_adv = PGD(EPS, 0.01, 7)(model, images, y, rng=ops.make_rng(9))
    robust = (model(x_adv).argmax(1) == y) & (model(images).argmax(1) == y)
    result = report["attacks"]["pgd-7"]
    assert result["robust_accuracy"] == pytest.approx(robust.float().mean().item())
    assert 0 < result["robust_accuracy"] < report["clean_accuracy"]
    assert result["settings"] == {"eps": EPS, "step_size": 0.01, "steps": 7, "restarts": 1, "random_start": True,
                                  "norm": "Linf", "any_step": False, "seed": 9}
    assert result["seconds"] > 0
    assert report["attacks"]["fgsm"]["settings"]["step_size"] == pytest.approx(1.25 * EPS)
    assert report["attacks"]["pgd-4-2"]["settings"]["restarts"] == 2


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(batch_size, model, data):
    expected = evaluate(model, *data, ["pgd-3"], eps=EPS)
    report = evaluate(model, *data, ["pgd-3"], eps=EPS, batch_size=batch_size)
    for one, other in ((report, expected), (report["attacks"]["pgd-3"], expected["attacks"]["pgd-3"])):
        one.pop("seconds", None), other.pop("seconds", None)
    assert report == expected


def test_float_images_and_robust_accuracy_agree(model, data):
    x, y = data
    report = evaluate(model, x.float() / 255, y, ["pgd-3"], eps=EPS, seed=1)
    clean, robust = robust_accuracy(model, x, y, PGD(EPS, steps=3), seed=1)
    assert (clean, robust) == (report["clean_accuracy"], report["attacks"]["pgd-3"]["robust_accuracy"])


def test_an_image_that_is_wrong_without_attack_is_never_robust(data):
    x, y = data
    flips = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    torch.manual_seed(1)
    labels = torch.zeros(50, dtype=torch.int64)

    def attack(model, x, y, **_):
        return torch.where((model(x).argmax(1) == y)[:, None, None, None], x, 1 - x)  # helps where the model is wrong

    clean, robust = robust_accuracy(flips, x, labels, attack)
    assert robust == clean < 1


def test_wrong_use_is_refused(model, data):
    x, y = data
    images = x.float() / 255
    nan = images.clone()
    nan[3, 0, 0, 0] = float("nan")
    cases = [
        ((x, y[:3]), {}, "shape \\[50\\]"),
        ((x.float(), y), {}, "must lie in \\[0, 1\\]"),
        ((nan, y), {}, "must lie in \\[0, 1\\]"),
        ((x.long(), y), {}, "uint8 or float"),
        ((x[:0], y[:0]), {}, "N >= 1"),
        ((x, y + 3), {}, "labels must lie in 0..4"),
        ((x, y), {"batch_size": 0}, "batch_size"),
        ((x, y), {"attacks": "pgd-20"}, "list of names"),
        ((x, y), {"attacks": ["apgd"]}, "unknown attack"),
        ((x, y), {"eps": -1.0}, "eps"),
    ]
    for arguments, keywords, message in cases:
        with pytest.raises(UserError, match=message):
            evaluate(model, *arguments, **keywords)
    one = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 1))  # would be right about every 0
    with pytest.raises(UserError, match="at least 2 classes"):
        evaluate(one, x, torch.zeros_like(y))
