"""Every method's step as one would write it in plain PyTorch, without atlas_fast: the baseline of `bench.step`.

Double backward for the Jacobian; `torch.autograd.grad` in the attack, so that it computes no weight gradients. The
crafting passes update BatchNorm's running statistics, as in the code of Wong et al. (2020).
"""

import contextlib

import torch
import torch.nn.functional as F

ROWS = {  # method: loss that x' ascends, CE at, Jacobian at, KL(first || second)
    "plain": (None, "x", None, None),
    "jac": (None, "x", "x", None),
    "adv": ("ce", "adv", None, None),
    "trades": ("kl", "x", None, ("x", "adv")),
    "atlas": ("ce", "adv", "adv", ("adv", "x")),
    "atlas_l": ("ce", "adv", "adv", None),
    "atlas_g": ("ce", "adv", None, ("adv", "x")),
    "tradesjac": ("kl", "x", "x", ("x", "adv")),
}


def points(method):
    """The images that need a training pass, x' before x."""
    _, ce_at, jacobian_at, pair = ROWS[method]
    return [point for point in ("adv", "x") if point in {ce_at, jacobian_at, *(pair or ())}]


def kl(first, second):
    """KL(p_first || p_second), mean over the batch, of logits."""
    return F.kl_div(F.log_softmax(second, 1), F.softmax(first, 1), reduction="batchmean")


def adversary(method, model, x, y, start, *, eps, step_size, steps, amp=None):
    """x': `steps` sign steps from `start`, projected on the eps-ball and on [0, 1]."""
    ascends = ROWS[method][0]
    if ascends == "kl":
        with torch.no_grad(), autocast(x, amp):
            clean = model(x).to(x.dtype)
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        with autocast(x, amp):
            logits = model(x_adv).to(x.dtype)
        ascended = F.cross_entropy(logits, y) if ascends == "ce" else kl(clean, logits)
        (grad,) = torch.autograd.grad(ascended, x_adv)
        moved = x_adv.detach() + step_size * grad.sign()
        x_adv = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach()


def loss(method, model, x, x_adv, y, v, *, alpha=0.0, beta=0.0, amp=None):
    """CE + alpha ||J||_F^2 + beta KL; v: directions [N, C] on the unit sphere (None: no Jacobian)."""
    _, ce_at, jacobian_at, pair = ROWS[method]
    images = {"adv": x_adv, "x": x}
    if jacobian_at is not None:
        images[jacobian_at] = images[jacobian_at].detach().requires_grad_()
    with autocast(x, amp):
        logits = {point: model(images[point]).to(x.dtype) for point in points(method)}
    total = F.cross_entropy(logits[ce_at], y)
    if jacobian_at is not None:
        (rows,) = torch.autograd.grad(logits[jacobian_at], images[jacobian_at], v, create_graph=True)
        total = total + alpha * rows.square().sum() * (v.shape[1] / len(x))
    if pair is not None:
        total = total + beta * kl(*(logits[point] for point in pair))
    return total


def step(method, model, optimizer, x, y, *, eps, step_size, steps, alpha=0.0, beta=0.0, amp=None, classes=10):
    """A whole optimisation step. amp: None or a dtype of autocast. Returns the loss."""
    x_adv, v = None, None
    if ROWS[method][0] is not None:
        start = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        x_adv = adversary(method, model, x, y, start, eps=eps, step_size=step_size, steps=steps, amp=amp)
    if ROWS[method][2] is not None:
        v = F.normalize(torch.randn(len(x), classes, device=x.device, dtype=x.dtype), dim=1)
    total = loss(method, model, x, x_adv, y, v, alpha=alpha, beta=beta, amp=amp)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    return total.detach()


def autocast(x, amp):
    return torch.autocast(x.device.type, amp) if amp else contextlib.nullcontext()
