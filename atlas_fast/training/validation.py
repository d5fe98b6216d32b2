"""What is measured after each epoch, on images in memory: the paper's figure 11, and the accuracies under FGSM."""

from __future__ import annotations

import torch
from torch import nn

from .. import objectives, ops
from ..attacks import PGD
from ..attacks.directions import ascend_ce
from ..data import ImageFiles, to_float
from ..engine import FastNetwork, Ranks, program
from ..engine.autograd_view import AutogradView
from ..objectives import Objective

BATCH = 500
SEED = 0  # the same random starts every time, so that epochs are compared on the same attack
NAMES = ("clean_accuracy", "robust_accuracy", "adversary_accuracy", "fgsm_accuracy", "jacobian_norm")


def measure(model: nn.Module, images: torch.Tensor | ImageFiles, labels: torch.Tensor, attack: PGD,
            device: torch.device, bf16: bool = False, objective: Objective | None = None,
            ranks: Ranks | None = None) -> dict[str, float]:
    """The five numbers of `NAMES`, means over the images, in eval mode; the model's mode is restored.

    images: uint8 or float32 [N,C,H,W], moved to `device` in batches of 500; labels: int64 [N]. attack: the validation's
    PGD, at the final eps. objective: whose adversary x' is (at the final eps); None, or one without an adversary: the
    paper's one step from a random start, step 1.25 eps. bf16: the network under autocast (x and x' stay float32).
    ranks: the processes that share the batches; the figures do not depend on how many there are.

    robust_accuracy: right at x and under `attack`, as in `evaluate`.
    adversary_accuracy, fgsm_accuracy: right at x', and under plain FGSM (from x, step eps), whatever is said of x,
    since a network that has overfitted to one-step adversaries may know them better than the images themselves.
    jacobian_norm: C*||v^T J||^2 at x', v uniform on the unit sphere (equation 12's estimate).
    Beside PGD's k forward-backward passes and the forward one at its end, these take 3 forward-backward passes (at x,
    to make x' in one step, at x') and a forward one.
    """
    training = model.training
    model.eval()
    network = FastNetwork(model, bf16=bf16)  # for the attack alone: 1.5 times as fast, equal up to rounding
    rng = ops.make_rng(SEED, device=device)
    if objective is None or objective.crafting() is None:
        objective = objectives.adv(eps=attack.eps)
    view = AutogradView(model, bn_mode="eval", amp=torch.bfloat16 if bf16 else None)
    ranks = Ranks.alone() if ranks is None else ranks
    starts = range(0, len(labels), BATCH)
    # A row for each batch, filled by one process, so that neither the sums' order nor rounding depends on their number.
    sums = torch.zeros(len(starts), len(NAMES), dtype=torch.float64, device=device)
    try:
        for batch, first in list(enumerate(starts))[ranks.rank::ranks.size]:
            x = to_float(images[first:first + BATCH].to(device))
            y = labels[first:first + BATCH].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                x_pgd = attack(network, x, y, rng=rng, sample_offset=first)
                right, fgsm = _at_x_and_fgsm(network, model, x, y, attack.eps)
            x_adv = x_pgd if _same(objective, attack) else program.craft(objective, view, x, y, ramp=1.0, rng=rng,
                                                                         sample_offset=first)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                robust = right & _right(model, x_pgd, y)
                logits, norm = _projected(model, x_adv, rng, first)
            counts = [found.sum().double() for found in (right, robust, logits.argmax(1) == y, fgsm)]
            sums[batch] = torch.stack([*counts, norm.double()])
    finally:
        model.train(training)
    return dict(zip(NAMES, (ranks.add(sums).sum(0) / len(labels)).tolist(), strict=True))


@torch.no_grad()
def _right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return model(x).argmax(1) == y


def _at_x_and_fgsm(network: FastNetwork, model: nn.Module, x: torch.Tensor, y: torch.Tensor,
                   eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [N] each: right at x, and right at FGSM's x + eps sign(gradient) (equation 3), which starts there."""
    logits, gradient = network.gradient(x, lambda z: ascend_ce(z, y))
    return logits.argmax(1) == y, _right(model, ops.pgd_step(x, x, gradient, eps, eps), y)


def _same(objective: Objective, attack: PGD) -> bool:
    """Whether the training's adversary is the validation's attack (the multi-step methods' defaults are)."""
    how = objective.crafting()
    if how is None:
        return False
    ours = (how.ascends, how.start, how.tau, how.start_radius, how.eps, how.step_size, how.steps)
    return how.steps > 1 and ours == ("ce", "uniform", None, attack.eps, attack.eps, attack.step_size, attack.steps)


@torch.enable_grad()
def _projected(model: nn.Module, x: torch.Tensor, rng: torch.Tensor, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at x, and the sum over the batch of C*||v^T J||^2."""
    x = x.detach().requires_grad_()
    logits = model(x)
    v = ops.unit_vectors(rng, len(logits), logits.shape[1], sample_offset=offset)[0]
    (g,) = torch.autograd.grad(logits, x, v.to(logits.dtype))
    return logits.detach(), ops.squared_norm(g, scale=logits.shape[1])[0]
