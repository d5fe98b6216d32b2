"""PGD and Multi-T as one writes them in plain PyTorch, given the random starts of atlas_fast; for `bench.attacks`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def pgd(model, x, y, start, eps: float, step_size: float, steps: int) -> torch.Tensor:
    """bool [N]: misclassified after the last step."""
    z = start(0)
    for _ in range(steps):
        z = _step(x, z, model, lambda logits: F.cross_entropy(logits, y, reduction="sum"), eps, step_size)[0]
    with torch.no_grad():
        return model(z).argmax(1) != y


def multi_targeted(model, x, y, start: Callable[[int], torch.Tensor], eps: float, step_size: float, steps: int,
                   restarts: int, classes: int, survivors: bool) -> torch.Tensor:
    """bool [N]: misclassified after any step, for any target. survivors: a target is tried on those left only."""
    broken, everybody = torch.zeros(len(y), dtype=torch.bool), torch.arange(len(y))
    for run in range(restarts * (classes - 1)):
        k, rows = run % (classes - 1), (~broken).nonzero().squeeze(1) if survivors else everybody
        z, centre, label = start(run)[rows], x[rows], y[rows]
        target, found = k + (label <= k).long(), torch.zeros(len(rows), dtype=torch.bool)

        def margin(logits, target=target, label=label):
            return (logits.gather(1, target[:, None]) - logits.gather(1, label[:, None])).sum()

        for step in range(steps):
            z, logits = _step(centre, z, model, margin, eps, step_size)
            if step:
                found |= logits.argmax(1) != label
        with torch.no_grad():
            found |= model(z).argmax(1) != label
        broken[rows] |= found
    return broken


def _step(x, z, model, loss, eps, step_size):
    z = z.detach().requires_grad_()
    logits = model(z)
    gradient, = torch.autograd.grad(loss(logits), z)
    z = z.detach() + step_size * gradient.sign()
    return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1), logits.detach()
