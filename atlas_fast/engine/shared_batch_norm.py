"""BatchNorm of any module with statistics over the equal parts that several processes hold of a batch.

    mu = m(x),   var = m((x - mu)^2),   y = gamma (x - mu) (var + eps)^-1/2 + beta,   m(.): mean over all parts

torch.nn.SyncBatchNorm runs on GPUs alone and cannot be differentiated twice, which the Jacobian penalty does. Here mu
and var are one Function with one message each way, [2, C]; its gradient

    dx = (dmu + 2 dvar (x - mu)) / N,   dmu and dvar summed over the processes, N elements of all of them

is made of differentiable operations, and so is everything else: any order can follow. All processes run the same
graph, whose nodes autograd visits in the order in which they were made, backwards: so messages meet their like.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from .ranks import Ranks
from .rules.shared_norm import together

# What runs parts of a network where this is not seen: at backward time again, compiled, scripted.
_OPAQUE = ("CheckpointFunction", "CompiledFunction", "DifferentiableGraph")


class SharedBatchNorm(TorchFunctionMode):
    """Inside, F.batch_norm of the calling thread, which PyTorch's BatchNorm layers call, shares its batch statistics
    among `ranks`; with running statistics it is as ever."""

    def __init__(self, ranks: Ranks):
        super().__init__()
        self._ranks = ranks

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return _batch_norm(self._ranks, *args, **kwargs) if func is F.batch_norm else func(*args, **kwargs)


def check_shared(outputs) -> None:
    """UserError where a BatchNorm that made one of these logits ran outside of SharedBatchNorm, or may have."""
    stack = [output.grad_fn for output in outputs if isinstance(output, torch.Tensor)]
    seen = set[Node]()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if "BatchNorm" in name and getattr(node, "_saved_training", True):
            raise UserError("sync_bn='on' does not reach a BatchNorm of this model, which does not call "
                            "torch.nn.functional.batch_norm; use torch.nn.BatchNorm1d, 2d or 3d")
        if any(part in name for part in _OPAQUE):
            raise UserError("sync_bn='on' does not reach into the compiled, scripted or checkpointed parts of this "
                            "model; train it without them")
        stack += [child for child, _ in node.next_functions]


def _batch_norm(ranks, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1,
                eps=1e-5):
    """F.batch_norm, in at least float32."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    _check_kept()
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    count = ranks.size * _count(x)
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(input.shape)}")
    mean, var = _Statistics.apply(x, ranks)
    with torch.no_grad():
        for kept, value in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            if kept is not None:
                kept.mul_(1 - momentum).add_(value, alpha=momentum)
    scale = (var + eps).rsqrt()
    y = (x - _per_channel(mean, x)) * _per_channel(scale if weight is None else scale * weight, x)
    return (y if bias is None else y + _per_channel(bias, x)).to(input.dtype)


class _Statistics(torch.autograd.Function):
    """(mu, var) [C] of x [N, C, ...] and its like in the other processes."""

    @staticmethod
    def forward(ctx, x, ranks):
        ctx.ranks = ranks
        var, mean = torch.var_mean(x, _others(x), correction=0)
        mean, var = together(torch.stack([mean, var]), ranks).unbind()
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx, d_mean, d_var):
        x, mean = ctx.saved_tensors
        d_mean, d_var = ctx.ranks.total(torch.stack([d_mean, d_var])) / (ctx.ranks.size * _count(x))
        return _per_channel(d_mean, x) + _per_channel(2 * d_var, x) * (x - _per_channel(mean, x)), None


def _check_kept() -> None:
    """Checkpoints without a node of their own run the forward pass again while autograd is elsewhere in the graph."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint":
        raise UserError("sync_bn='on' does not reach into the checkpointed parts of this model; train it without them")


def _others(x: torch.Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _count(x: torch.Tensor) -> int:
    """Elements of a channel."""
    return x.numel() // x.shape[1]


def _per_channel(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return value.view(-1, *(1,) * (x.dim() - 2))
