"""Analytic gradients that end a graph loudly.

`once_differentiable` raises at a second derivative only where the incoming gradient requires grad. In
`autograd.grad(ce_kl(...), x, create_graph=True)` it does not: the result would look differentiable through the rest of
the network and miss this operation's curvature in silence.
"""

import torch


class _NotTwice(torch.autograd.Function):
    """Identity in `gradient`; differentiating it with respect to any `origin` is an error."""

    @staticmethod
    def forward(ctx, operation, gradient, *origins):
        ctx.operation = operation
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError(f"{ctx.operation} is differentiable once; build second derivatives from plain PyTorch")


def once(operation: str, gradient: torch.Tensor, *origins: torch.Tensor) -> torch.Tensor:
    """`gradient`, computed in a backward pass from `origins`; differentiating it again raises a RuntimeError."""
    return _NotTwice.apply(operation, gradient, *origins) if torch.is_grad_enabled() else gradient
