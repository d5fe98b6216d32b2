"""One-step ATLAS as one would write it in plain PyTorch, without atlas_fast: the baseline of `bench.step`."""

import contextlib

import torch
import torch.nn.functional as F


def atlas_step(model, optimizer, x, y, *, eps, alpha, beta, amp=None):
    """Random start, FGSM, CE + alpha ||J(x')||_F^2 + beta KL(p(x')||p(x)) by double backward, optimiser step."""
    autocast = torch.autocast(x.device.type, amp) if amp else contextlib.nullcontext()
    start = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1).requires_grad_()
    with autocast:
        (grad,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    moved = start.detach() + 1.25 * eps * grad.sign()
    x_adv = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1).requires_grad_()
    with autocast:
        logits_adv, logits = model(x_adv).float(), model(x).float()
    v = F.normalize(torch.randn_like(logits_adv), dim=1)
    (rows,) = torch.autograd.grad(logits_adv, x_adv, v, create_graph=True)
    jacobian = rows.square().sum() * (logits.shape[1] / len(x))
    kl = F.kl_div(F.log_softmax(logits, 1), F.softmax(logits_adv, 1), reduction="batchmean")
    loss = F.cross_entropy(logits_adv, y) + alpha * jacobian + beta * kl
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()
