"""The squared norm of a gradient and its own gradient, in one pass:

    value = scale sum(g^2),   gradient = 2 scale weight g.

With g = v^T J of a batch and scale = C / (projections x batch) the value is the estimate of ||J||_F^2 (equation 12);
weight is the alpha of the loss (times its ramp).
"""

import torch

from ..errors import UserError
from ._arguments import FLOATS, check_tensors, compute_dtype, number_and_tensor, scaled
from ._once import once
from ._registry import define


def squared_norm_reference(g, scale, weight, weight_tensor, with_gradient):
    """The definition. Without a gradient the second output is empty."""
    dtype = compute_dtype(g.dtype)
    wide = g.to(dtype)
    value = wide.square().sum() * scale
    if not with_gradient:
        return value, g.new_empty(0)
    return value, (wide * (2 * scale * scaled(weight, weight_tensor, dtype))).to(g.dtype)


def _fake(g, scale, weight, weight_tensor, with_gradient):
    value = g.new_empty((), dtype=compute_dtype(g.dtype))
    return value, torch.empty_like(g) if with_gradient else g.new_empty(0)


_op = define("squared_norm", "(Tensor g, float scale, float weight, Tensor? weight_tensor, bool with_gradient) "
             "-> (Tensor, Tensor)", squared_norm_reference, _fake, launches=2)


def squared_norm(g: torch.Tensor, scale: float = 1.0, weight=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale * sum(g^2), 2 * scale * weight * g); itself not differentiable (its gradient is the second output).

    g: any shape; float32, float64 or bfloat16. The value is 0-d float32 (float64 for float64), the gradient is like g.
    scale: a number; weight: a number or a 0-d tensor on the device. Raises UserError for another dtype.
    """
    check_tensors("squared_norm", g)
    if g.dtype not in FLOATS:
        raise UserError(f"squared_norm needs float32, float64 or bfloat16, got {g.dtype}")
    return _op(g.detach(), scale, *number_and_tensor(weight, "weight", g), True)


class SquaredNorm(torch.autograd.Function):
    """scale * sum(g^2), differentiable once: reads g once forward, and once more backward."""

    @staticmethod
    def forward(ctx, g, scale):
        ctx.save_for_backward(g)
        ctx.scale = scale
        return _op(g.detach(), scale, 1.0, None, False)[0]

    @staticmethod
    def backward(ctx, grad_value):
        (g,) = ctx.saved_tensors
        weight = grad_value.detach().to(compute_dtype(g.dtype))
        return once("squared_norm", _op(g.detach(), ctx.scale, 1.0, weight, True)[1], g, grad_value), None
