"""What is wrong with a model is said, whatever hides its gradients; a sound one raises no warning."""

import sys

import pytest
import torch
from torch import nn

from atlas_fast.attacks.model_checks import check_model


@pytest.fixture
def batch(digits):
    return digits[0][:60], digits[1][:60]


def test_a_sound_model_raises_no_warning(digits_net, batch):
    state, trace = torch.get_rng_state(), sys.gettrace()
    assert check_model(digits_net, *batch) == []
    assert check_model(digits_net, *(one[:1] for one in batch)) == []
    assert torch.equal(torch.get_rng_state(), state) and sys.gettrace() is trace


def test_logits_that_are_no_numbers_are_not_taken_for_noise(digits_net, batch):
    """They count as wrong anyway."""
    def some_nan(images):
        return digits_net(images).masked_fill((images[:, 0, 3, 3] > 0.5)[:, None], torch.nan)

    assert some_nan(batch[0]).isnan().any() and check_model(some_nan, *batch) == []


class Noisy(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.01 * torch.randn_like(x))


def adaptive(net):
    def forward(x):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            g = torch.autograd.grad(net(z).logsumexp(1).sum(), z)[0]
        return net(x + 0.001 * g.sign())
    return forward


def rounded(x, levels=4):
    return (levels * x).round() / levels


SUSPICIOUS = {
    "noise": (Noisy, "randomised"),
    "a gradient step inside": (adaptive, "computes gradients in its forward pass"),
    "softmax": (lambda net: nn.Sequential(net, nn.Softmax(1)), "look like probabilities"),
    "rounded images": (lambda net: lambda x: net(rounded(x) + 0 * x), "zero gradient of the margin"),
    "saturated softmax": (lambda net: lambda x: 1e4 * net(x), "zero gradient of the cross-entropy only"),
    "tiny logits": (lambda net: lambda x: 1e-30 * net(x), "logits hardly differ"),
    "noise on tiny logits": (lambda net: lambda x: 1e-30 * (net(x) + torch.randn(len(x), 10)), "randomised"),
    "gradient turned round": (lambda net: lambda x: net(2 * x.detach() - x), "does not lower the margin of 5"),
    "logits rounded straight through": (lambda net: lambda x: (z := net(x)) + (rounded(z, 1) - z).detach(),
                                        "does not lower the margin"),
    "infinite slopes": (lambda net: lambda x: net(x + 0 * (x - x.detach()).sqrt()), "gradients that are not finite"),
    "detached": (lambda net: lambda x: net(x.detach()), "only attacks that need none"),
    "another network while recording": (lambda net: lambda x: net(x if torch.is_grad_enabled() else x.flip(2).flip(2))
                                        + torch.is_grad_enabled() * torch.eye(10)[:1], "while gradients are recorded"),
    "statistics of the batch": (lambda net: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), net).eval(),
                                "depend on the images beside it"),
}


@pytest.mark.parametrize("kind", SUSPICIOUS)
def test_suspicious_models_are_named(kind, digits_net, batch):
    wrap, message = SUSPICIOUS[kind]
    state = torch.get_rng_state()
    found = check_model(wrap(digits_net), *batch)
    assert len(found) == 1 and message in found[0], found
    assert torch.equal(torch.get_rng_state(), state)
