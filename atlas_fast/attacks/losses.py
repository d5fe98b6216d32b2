"""Losses per sample and their gradients with respect to the logits, for attacks that compare losses across steps.

    CE    = - log softmax(z)_y
    DLR   = - (z_y - max_{i != y} z_i) / (z_1 - z_3 + 1e-12)                   Croce & Hein 2020, equation 6
    DLR-T = - (z_y - z_t) / (z_1 - (z_3 + z_4) / 2 + 1e-12)                    equation 7; t is the target

z_1 >= z_2 >= ... are the sorted logits. The DLR losses stay the same when the logits are shifted or scaled, so that a
network with large logits does not starve them of gradient as it does the cross-entropy. Every function takes logits
[N, C] and labels int64 [N] and returns (losses [N], d sum(losses) / d logits [N, C]), in float32 at least. Of equal
logits, those count as the larger that the sort puts first, as in autograd.
"""

from collections.abc import Callable

import torch

from ..errors import UserError

_TINY = 1e-12  # of the reference code: keeps the quotient finite where the sorted logits are equal


def ce(logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy; its gradient is p - onehot(y)."""
    log_p = _wide(logits).log_softmax(1)
    label = y[:, None]
    losses = -log_p.gather(1, label).squeeze(1)
    return losses, log_p.exp_().scatter_add_(1, label, torch.full_like(label, -1, dtype=log_p.dtype))


def dlr(logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Difference of logits ratio, untargeted; for 3 classes or more."""
    logits = _wide(logits)
    top, index = logits.topk(3, dim=1)
    label = y[:, None]
    rank = (index[:, :1] == label).long()  # the largest of the others is the second where y is the first
    pair = torch.cat([label, index.gather(1, rank)], 1)
    margin = logits.gather(1, label) - top.gather(1, rank)
    inverse = 1 / (top[:, :1] - top[:, 2:] + _TINY)
    loss, slope = -margin * inverse, margin * inverse * inverse
    gradient = torch.zeros_like(logits).scatter_(1, pair, torch.cat([-inverse, inverse], 1))
    return loss.squeeze(1), gradient.scatter_add_(1, index[:, ::2], torch.cat([slope, -slope], 1))


def targeted_dlr(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """DLR towards the classes `target`, int64 [N], none of them y; for 4 classes or more."""
    logits = _wide(logits)
    top, index = logits.topk(4, dim=1)
    pair = torch.stack([y, target], 1)
    margin = logits.gather(1, pair)
    margin = margin[:, :1] - margin[:, 1:]
    inverse = 1 / (top[:, :1] - 0.5 * (top[:, 2:3] + top[:, 3:]) + _TINY)
    loss, slope = -margin * inverse, margin * inverse * inverse
    # Two scatters, each with different indices within a row: the order of the additions is fixed on a GPU too.
    gradient = torch.zeros_like(logits).scatter_(1, pair, torch.cat([-inverse, inverse], 1))
    tops, half = torch.cat([index[:, :1], index[:, 2:]], 1), -0.5 * slope
    return loss.squeeze(1), gradient.scatter_add_(1, tops, torch.cat([slope, half, half], 1))


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_classes(logits: torch.Tensor, loss: Callable) -> None:
    """Raises UserError where the loss is not defined for so few classes."""
    name, needed = {dlr: ("the DLR loss", 3), targeted_dlr: ("the targeted DLR loss", 4)}.get(loss, ("", 1))
    if logits.shape[1] < needed:
        raise UserError(f"{name} needs at least {needed} classes and the model has {logits.shape[1]}; "
                        'APGD with loss="ce" takes any number')
