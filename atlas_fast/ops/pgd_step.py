"""One projected sign step (equation 2 of the paper, Kurakin et al. 2016):

    x'_{t+1} = clip( Pi_eps( x'_t + step sign(grad) ), 0, 1 ),   Pi_eps: clamp to [x - eps, x + eps].
"""

import torch

from ._arguments import check_images, compute_dtype, number_and_tensor, scaled
from ._registry import define


def pgd_step_reference(x, x_adv, grad, eps, eps_tensor, step_size, step_tensor):
    """The definition. sign(0) = 0, and a NaN gradient leaves its pixel where it is (sign(NaN) = 0)."""
    dtype = compute_dtype(x.dtype)
    eps, step_size = scaled(eps, eps_tensor, dtype), scaled(step_size, step_tensor, dtype)
    centre, gradient = x.to(dtype), grad.to(dtype)
    sign = (gradient > 0).to(dtype) - (gradient < 0).to(dtype)
    moved = x_adv.to(dtype) + step_size * sign
    return torch.empty_like(x).copy_(moved.clamp(centre - eps, centre + eps).clamp(0, 1))


def _fake(x, x_adv, grad, eps, eps_tensor, step_size, step_tensor):
    return torch.empty_like(x)


_op = define("pgd_step", "(Tensor x, Tensor x_adv, Tensor grad, float eps, Tensor? eps_tensor, float step_size, "
             "Tensor? step_tensor) -> Tensor", pgd_step_reference, _fake)


def pgd_step(x: torch.Tensor, x_adv: torch.Tensor, grad: torch.Tensor, eps: float | torch.Tensor,
             step_size: float | torch.Tensor) -> torch.Tensor:
    """Ascend by the sign of `grad`, then project on the eps-ball around x and on [0, 1]; strides as x, no gradient.

    x, x_adv: images [N, ...] in [0, 1]; grad: the loss's gradient at x_adv; all of one shape and dtype (float32,
    float64, bfloat16). eps, step_size: pixel units, numbers or 0-d tensors on the device.
    Raises UserError for mismatched shapes, dtypes or devices.
    """
    check_images(x, x_adv, grad, what="pgd_step")
    return _op(x.detach(), x_adv.detach(), grad.detach(), *number_and_tensor(eps, "eps", x),
               *number_and_tensor(step_size, "step_size", x))
