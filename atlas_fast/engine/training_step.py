"""One whole optimisation step: images in, updated parameters and device scalars out, no host synchronisation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..attacks.checks import finite
from ..errors import UserError
from ..objectives import Objective
from ..ops import make_rng
from . import program
from .autograd_view import AutogradView
from .sweep_view import SweepView, unsupported

ENGINES = ("auto", "sweeps", "autograd")
AMP = ("auto", "bf16", "off")


class TrainingStep:
    """step = TrainingStep(model, objective, optimizer); terms = step(x, y).

    model: images [N, C, H, W] in [0, 1] -> logits [N, classes], on its device already; it is run in the mode it is in.
    optimizer: of the model's parameters. engine: "sweeps" (explicit passes over the traced model, the faster one),
    "autograd" (any model), or "auto": sweeps where the model and the objective allow; `step.engine` says which runs,
    `step.engine_reason` why it is not the sweeps (None where it is). amp: "bf16" (as autocast), "off" (float32), or
    "auto": bf16 on a CUDA device that has it. augment: (x, rng) -> x on float images, or None. seed: of all random
    numbers. bn_mode: BatchNorm while crafting, "train" (batch statistics) or "eval" (running ones); crafting never
    updates the running statistics. Images become channels-last where the model's convolutions are.
    Raises UserError for settings that cannot work.
    """

    def __init__(self, model: torch.nn.Module, objective: Objective, optimizer: torch.optim.Optimizer,
                 engine: str = "auto", amp: str = "auto", augment: Callable | None = None, seed: int = 0,
                 bn_mode: str = "train"):
        check_engine(engine)
        if not isinstance(objective, Objective):
            raise UserError(f"objective must be one of atlas_fast.objectives, got {type(objective).__name__}")
        parameters = list(model.parameters())
        _check_optimizer(parameters, optimizer)
        self.model, self.objective, self.optimizer, self.augment = model, objective, optimizer, augment
        self.device = parameters[0].device
        self.engine_reason = _why_autograd(engine, model, objective)
        self.engine = "sweeps" if self.engine_reason is None else "autograd"
        self.amp = _amp_dtype(amp, self.device, objective, self.engine)
        self.view = (SweepView if self.engine == "sweeps" else AutogradView)(model, bn_mode=bn_mode, amp=self.amp)
        self.rng = make_rng(seed, 0, self.device)
        self._memory_format = _memory_format(parameters)
        # float32 suffices, since images are float32; float64 models are for tests.
        self._ramp = torch.ones((), dtype=torch.promote_types(parameters[0].dtype, torch.float32), device=self.device)
        self._ramp_value = 1.0

    @property
    def ramp(self) -> float:
        """eps / eps_final in [0, 1]; multiplies eps, step size, alpha and beta of an objective that ramps."""
        return self._ramp_value

    @ramp.setter
    def ramp(self, value: float) -> None:
        if not 0 <= finite(value, "ramp") <= 1:
            raise UserError(f"ramp must be in [0, 1], got {value}")
        self._ramp_value = float(value)
        self._ramp.fill_(self._ramp_value)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on the batch; returns the loss and its parts as 0-d device tensors, valid until the next call.

        x: images [N, C, H, W] on the model's device, uint8 0..255 or float in [0, 1]; y: int64 labels [N].
        Raises UserError for other inputs.
        """
        x = self._images(x)
        self.model.zero_grad(set_to_none=True)
        prepared = program.prepare(self.objective, self.view, x, y, ramp=self._ramp, rng=self.rng)
        prepared.accumulate()
        self.optimizer.step()
        self.rng[1].add_(1)
        return prepared.terms

    @torch.no_grad()
    def _images(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.Tensor) or x.device != self.device:
            where = x.device if isinstance(x, torch.Tensor) else type(x).__name__
            raise UserError(f"x must be a tensor on the model's device {self.device}, got {where}")
        if x.dtype == torch.uint8:
            x = x.to(self._ramp.dtype) / 255
        elif x.dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"x must be uint8 or float32 images, got {x.dtype}, which is too coarse for eps; "
                            "amp='bf16' computes in bfloat16 and keeps the images float32")
        if self.augment is not None:
            x = self.augment(x, self.rng)
        return x.contiguous(memory_format=self._memory_format) if x.dim() == 4 else x

    def state_dict(self) -> dict[str, int]:
        """{"seed", "step"}: all that a resumed run needs to draw the same random numbers."""
        seed, step = self.rng.tolist()
        return {"seed": seed, "step": step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        self.rng.copy_(make_rng(state["seed"], state["step"]))


def _check_optimizer(parameters, optimizer) -> None:
    if not parameters:
        raise UserError("the model has no parameters to train")
    own = {id(p) for p in parameters}
    if not any(id(p) in own and p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise UserError("the optimizer holds none of the model's trainable parameters; make it from model.parameters()")


def check_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise UserError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    return engine


def _why_autograd(engine: str, model: torch.nn.Module, objective: Objective) -> str | None:
    """Why the step runs by autograd; None: by the sweeps."""
    if engine == "autograd":
        return "engine='autograd' was asked for"
    if objective.penalised_point is not None and objective.local is not None:
        reason = "the objective's own `local` penalty is differentiated by autograd"
    else:
        reason = unsupported(model)
    if reason is not None and engine == "sweeps":
        raise UserError(f"engine='sweeps' cannot run this: {reason}; use engine='auto' or 'autograd'")
    return reason


def _amp_dtype(amp: str, device: torch.device, objective: Objective, engine: str) -> torch.dtype | None:
    if amp not in AMP:
        raise UserError(f"amp must be one of {', '.join(AMP)}, got {amp!r}")
    if amp == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    if amp == "bf16" and device.type == "cpu" and engine == "autograd" and objective.penalised_point is not None:
        raise UserError(f"amp='bf16' on a CPU is refused for {objective.name} with engine 'autograd', since PyTorch's "
                        "double backward can give wrong weight gradients there; use amp='off'")
    return torch.bfloat16 if amp == "bf16" else None


def _memory_format(parameters) -> torch.memory_format:
    """channels_last where a convolution's weight is (1x1 kernels and single channels cannot tell)."""
    chosen = any(p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
                 for p in parameters)
    return torch.channels_last if chosen else torch.contiguous_format
