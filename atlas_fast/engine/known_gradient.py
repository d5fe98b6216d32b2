"""A loss whose value and gradients are known already, as a tensor that `.backward()` works on."""

import torch

from ..ops._once import once


class KnownGradient(torch.autograd.Function):
    """`KnownGradient.apply(loss, gradients, *tensors)`: the loss, whose gradient in each of `tensors` is given."""

    @staticmethod
    def forward(ctx, loss, gradients, *tensors):
        ctx.gradients = gradients
        ctx.save_for_backward(*tensors)
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_loss):
        tensors = ctx.saved_tensors
        return None, None, *(once("the objective", (g * grad_loss).to(g.dtype), *tensors) for g in ctx.gradients)
