"""Equations 10 and 11 against the Jacobian that torch.func computes, in float64."""

import numpy as np
import torch
from torch import nn

from atlas_fast.evaluation import distances
from atlas_fast.evaluation.run import Evaluation


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3), nn.Softplus(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 5)
    return nn.Sequential(*layers).double().eval()


def test_every_sample_is_the_definition():
    model, x = network(), torch.rand(7, 2, 5, 5, dtype=torch.float64)
    y = torch.arange(7) % 5
    found = distances.first_order(model, x, y)
    for i in range(7):
        logits = model(x[i:i + 1])[0]
        jacobian = torch.func.jacrev(lambda image: model(image[None])[0])(x[i]).flatten(1)
        others = [c for c in range(5) if c != y[i]]
        gaps = torch.stack([(logits[y[i]] - logits[c]).abs() for c in others])
        rows = torch.stack([jacobian[y[i]] - jacobian[c] for c in others])
        expected = {"l2": (gaps / rows.norm(dim=1)).min(), "linf": (gaps / rows.abs().sum(1)).min(),
                    "bound": gaps.min() / (2**0.5 * jacobian.norm())}
        for key, value in expected.items():
            torch.testing.assert_close(found[key][i], value, rtol=1e-12, atol=0)


def test_a_linear_network_is_exactly_that_far_from_its_boundary():
    """Two classes f = (w.x, -w.x): the boundary is w.x = 0, and equation 11 is equation 10."""
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.cat([weight, -weight])
    x = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    found = distances.first_order(model, x, torch.tensor([0]))
    torch.testing.assert_close(found["l2"], torch.tensor([2.5 / 5], dtype=torch.float64))
    torch.testing.assert_close(found["bound"], found["l2"])
    torch.testing.assert_close(found["linf"], torch.tensor([2.5 / 7], dtype=torch.float64))


def test_only_images_that_are_right_and_no_dependence_on_batches():
    model, x = network().float(), torch.rand(20, 2, 5, 5)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    correct = (model(x).argmax(1) == y).numpy()
    small, large = (distances.measure(Evaluation(model, x, y, size), correct) for size in (3, 50))
    assert small["index"].tolist() == np.flatnonzero(correct).tolist() and len(small["index"]) == 15
    for key in ("l2", "bound", "linf"):
        np.testing.assert_allclose(small[key], large[key], rtol=1e-4)
    assert (small["bound"] <= small["l2"] * (1 + 1e-5)).all() and (small["linf"] <= small["l2"]).all()
    assert distances.summary(small)["median_l2"] == float(np.median(small["l2"]))
    none = distances.measure(Evaluation(model, x, y), np.zeros(20, bool))
    assert distances.summary(none) == {"n": 0, "median_l2": None, "median_bound": None, "median_linf": None}
