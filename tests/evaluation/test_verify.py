"""What an attack says is not believed."""

import numpy as np
import pytest
import torch
from torch import nn

from atlas_fast.errors import UserError
from atlas_fast.evaluation import evaluate
from atlas_fast.evaluation.samples import worst_case
from atlas_fast.evaluation.verify import checked_images, distance, predict

EPS = 0.1


class Liar:
    """Says that every image is broken and returns the clean ones."""

    settings = {"eps": EPS}
    details = {"broken_it_says": torch.ones(20, dtype=torch.bool)}

    def __call__(self, model, x, y, rng=None, sample_offset=0):
        return x


def test_a_claimed_success_does_not_count(digits_model):
    model, x, y = digits_model
    report = evaluate(model, x[:20], y[:20], {"liar": Liar()}, eps=EPS)
    assert report["attacks"]["liar"]["robust_accuracy"] == report["clean_accuracy"] > 0.8


def test_images_outside_the_ball_are_refused_to_a_millionth():
    x = torch.full((3, 1, 4, 4), 0.5)
    assert checked_images(x + 0.1, x, 0.1, "Linf", "a").shape == x.shape
    with pytest.raises(UserError, match="'a' returned images at distance 0.10000[0-9]+ from x in Linf, but eps is 0.1"):
        checked_images(x + 0.100003, x, 0.1, "Linf", "a")
    checked_images(x + 0.025, x, 0.1, "L2", "a")  # 4 * 0.025
    with pytest.raises(UserError, match="in L2"):
        checked_images(x + 0.02501, x, 0.1, "L2", "a")
    checked_images(1 - x * 0, x, None, "Linf", "a")
    with pytest.raises(UserError, match="outside"):
        checked_images(x + 0.6, x, None, "Linf", "a")
    assert distance(x, x + 0.25, "L2").tolist() == [1.0] * 3 and distance(x, x + 0.25, "Linf").tolist() == [0.25] * 3


def test_verdicts_are_those_of_float32_and_eval_mode():
    """Logits differ by 2^-10: equal in bfloat16, which autocast would take, and different in float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Dropout(0.9))
    model[1].weight.data = torch.tensor([[1.0], [1.0 + 2**-10]])
    model.train()
    x = torch.ones(50, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert predict(model, x, torch.ones(50, dtype=torch.int64)).tolist() == [1] * 50
    assert model.training and model[2].training


def test_a_nan_logit_is_never_right():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(6, 1, 2, 2)
    x[2] = float("nan")
    assert predict(model, x, torch.zeros(6, dtype=torch.int64))[2] == -1


def test_every_attack_counts_in_the_worst_case(digits_model):
    model, x, y = digits_model
    x, y = x[:60], y[:60]

    def half(rows):
        def attack(model, images, labels, rng=None, sample_offset=0):
            broken = images.clone()
            broken[rows] = 1 - broken[rows]
            return broken
        attack.settings = {}
        return attack

    report = evaluate(model, x, y, {"a": half(slice(0, 20)), "b": half(slice(20, 40))}, eps=1.0, batch_size=60)
    a, b = (report["attacks"][name]["robust_accuracy"] for name in "ab")
    worst = report["worst_case"]["robust_accuracy"]
    clean = report["clean_accuracy"]
    assert worst < min(a, b) < clean and worst == pytest.approx(a + b - clean)
    assert worst_case(np.array([True, False]), {}).tolist() == [True, False]
    assert report["worst_case"]["standard_error"] == pytest.approx((worst * (1 - worst) / 60) ** 0.5)
