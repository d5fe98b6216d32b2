"""What TrainingStep is given: the choices there are, and what "auto" comes to."""

from __future__ import annotations

import torch

from ..errors import UserError
from ..objectives import Objective
from .sweep_view import unsupported

ENGINES = ("auto", "sweeps", "autograd")
AMP = ("auto", "bf16", "fp16", "off")
SWITCH = ("auto", "on", "off")


def check_optimizer(parameters, optimizer) -> None:
    """UserError unless a step of this optimizer, once per gradient, moves some of these parameters."""
    if not parameters:
        raise UserError("the model has no parameters to train")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"optimizer must be one of torch.optim, got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError("LBFGS evaluates the loss several times in a step, and TrainingStep gives it one gradient; "
                        "take another optimizer, or objective(model, x, y) in a closure of your own")
    own = {id(p) for p in parameters}
    if not any(id(p) in own and p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise UserError("the optimizer holds none of the model's trainable parameters; make it from model.parameters()")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value, or UserError."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def why_autograd(engine: str, model: torch.nn.Module, objective: Objective) -> str | None:
    """Why the step runs by autograd; None: by the sweeps."""
    if engine == "autograd":
        return "engine='autograd' was asked for"
    if objective.penalised_point is not None and objective.local is not None:
        reason: str | None = "the objective's own `local` penalty is differentiated by autograd"
    else:
        reason = unsupported(model)
    if reason is not None and engine == "sweeps":
        raise UserError(f"engine='sweeps' cannot run this: {reason}; use engine='auto' or 'autograd'")
    return reason


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What activations are computed in below float32; None: nothing is."""
    check_choice("amp", amp, AMP)
    if amp == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)


def memory_format(parameters) -> torch.memory_format:
    """channels_last where a convolution's weight is (1x1 kernels and single channels cannot tell)."""
    chosen = any(p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
                 for p in parameters)
    return torch.channels_last if chosen else torch.contiguous_format
