"""Gradients with respect to the logits of the losses that adversaries ascend.

Sums over the batch, not means: the factor 1/N would carry small gradients of a confident network towards 0 on their
way to the images, and sign(0) = 0 moves no pixel.
"""

import torch

from .. import ops


def ascend_ce(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """d/dlogits of sum CE(logits, y) = p - onehot(y), in the logits' dtype. logits: [N, C]; y: int64 [N]."""
    return ops.ce_kl_terms(logits, None, y, 0.0)[1] * len(y)


def ascend_kl(logits: torch.Tensor, clean_probabilities: torch.Tensor) -> torch.Tensor:
    """d/dlogits of sum KL(p(x) || p(x')) = p(x') - p(x), in the logits' dtype; zero at x' = x, so start elsewhere."""
    return (logits.softmax(1, dtype=_wide(logits)) - clean_probabilities).to(logits.dtype)


def ascend_ce_and_nuclear(logits: torch.Tensor, y: torch.Tensor, clean: torch.Tensor, weight,
                          ranks=None) -> torch.Tensor:
    """d/dlogits of sum CE(logits, y) + weight ||logits - clean||_*, in the logits' dtype. clean: logits [N, C] at x.

    ranks: `engine.Ranks` whose parts of the batch are the rows of the norm's matrix; None: these are all of them.
    """
    difference = logits.to(_wide(logits)) - clean.to(_wide(clean))
    nuclear = ops.polar_factor(difference) if ranks is None else ranks.part(ops.polar_factor(ranks.gather(difference)))
    return ascend_ce(logits, y) + (weight * nuclear).to(logits.dtype)


def ascend_margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """d/dlogits of sum (max_{u != y} f_u - f_y): 1 at the largest wrong logit, -1 at y's. C >= 2."""
    label = y[:, None]
    wrong = logits.scatter(1, label, -torch.inf).argmax(1)
    return ascend_target_margin(logits, y, wrong)


def ascend_target_margin(logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """d/dlogits of sum (f_target - f_y). target: int64 [N], none of them y."""
    # By numbers: a tensor of them would be copied from the host in every step, which waits for the device.
    return torch.zeros_like(logits).scatter_(1, target[:, None], 1.0).scatter_(1, y[:, None], -1.0)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """softmax in at least float32."""
    return logits.softmax(1, dtype=_wide(logits))


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
