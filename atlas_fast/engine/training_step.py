"""One whole optimisation step: images in, updated parameters and device scalars out, no host synchronisation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..attacks.checks import check_batch, finite
from ..errors import UserError
from ..objectives import Objective
from ..ops import crop_flip, make_rng
from . import program
from .autograd_view import AutogradView
from .beside import Beside
from .capture import Captured, CudaRecorder
from .loss_scale import LossScale, ScaledView
from .parts import Part, Parts, mean_terms
from .ranks import Ranks
from .step_checks import held
from .step_settings import ENGINES, SWITCH, amp_dtype, check_choice, check_optimizer, memory_format, why_autograd
from .sweep_view import SweepView
from .update import Update
from .weight_average import WeightAverage
from .weight_perturbation import WeightPerturbation


class TrainingStep:
    """step = TrainingStep(model, objective, optimizer); terms = step(x, y).

    model: images [N, C, H, W] in [0, 1] -> logits [N, classes], on its device already; it is run in the mode it is in.
    optimizer: of the model's parameters. engine: "sweeps" (explicit passes over the traced model, the faster one),
    "autograd" (any model), or "auto": sweeps where the model and the objective allow; `step.engine` says which runs,
    `step.engine_reason` why it is not the sweeps (None where it is). amp: "bf16" (as autocast), "fp16" (for
    GPUs without bf16; with a loss scale, see loss_scale.py), "off" (float32), or "auto": bf16 on a CUDA device that has
    it, else off. augment: (x, rng) -> x on float images, or None; one with the attribute
    `accepts_uint8` gets the images as they come, and the keyword memory_format. seed: of all random numbers.
    bn_mode: BatchNorm while crafting, "train" (batch statistics) or "eval" (running ones); crafting never
    updates the running statistics. Images become channels-last where the model's convolutions are.

    capture: on a CUDA device the fifth batch of a shape is recorded as one CUDA graph, which runs all later ones of
    that shape ("auto"; "on": refused without such a device; "off": never). `step.captured` says whether the last
    step was a graph's, `step.capture_reason` why (a part of) it is not. The optimiser is in the graph if it is made
    with fused=True, an augmentation if it has the attribute `capturable`. A graph repeats what the host decided when it
    was recorded: turn it off for a model whose forward() asks Python for random numbers.
    pair: run x' and x as one batch where a step needs both, with statistics of their own ("auto": on a CUDA device).
    overlap: weight gradients of convolutions on a second stream: "on" (by the sweeps, on a CUDA device) or "off".
    awp: gamma of the adversarial weight perturbation at which the gradient is taken (weight_perturbation.py), None:
    none; `step.perturbs = False` leaves it out for a while. ema: decay of the average of the weights that follows them
    (weight_average.py), None: none; the averaged network is `step.averaged`.
    ranks: the processes that take this step together, each on its part of the batch, None: this one alone. Part i, of
    as many images as the others, holds the samples from i * len(x) on, and their random numbers are those of one
    process with the whole batch; so an augmentation must take the keyword sample_offset and say so by the attribute
    `takes_sample_offset`. Gradients are averaged over the processes; terms are this process's own, which
    `ranks.average_terms` averages. NuAT's norm and GradAlign's count of samples are those of the whole batch; a user's
    `local` and `metric` see one part of it, and what they return is averaged.
    sync_bn: the batch statistics of BatchNorm are those of the whole batch, while crafting too ("on"), or each part is
    normalised by its own ("off"). With "on" N processes take the step of one, up to rounding (dropout excepted).
    accumulate: parts of equal size in which this process works off its batch, one after another, so that a batch needs
    the memory of one part. Gradient, x' and random numbers are those of the whole batch, but for what ties samples
    together: BatchNorm takes its statistics part by part and moves its running ones with each, GradAlign counts the
    samples of a part, and an objective with NuAT's norm is refused.
    checkpoint_activations: compute activations again where a pass needs them rather than keep all of them. The sweeps
    do that in all passes, autograd by blocks of the model and neither in Free nor at the point of a Jacobian penalty,
    whose second derivatives hold the activations. WRN-16-1 on one core: adv takes 1.4 times as long, atlas 1.6
    (autograd: 1.3 and 1.1).

    A gradient that is not finite leaves parameters, optimiser and running statistics as they were; `step.skipped`
    counts such steps. With a fused optimiser the device decides that; with another one the host waits for it.
    Raises UserError for settings that cannot work.
    """

    def __init__(self, model: torch.nn.Module, objective: Objective, optimizer: torch.optim.Optimizer,
                 engine: str = "auto", amp: str = "auto", augment: Callable | None = None, seed: int = 0,
                 bn_mode: str = "train", capture: str = "auto", pair: str = "auto",
                 overlap: str = "off", awp: float | None = None, ema: float | None = None,
                 ranks: Ranks | None = None, accumulate: int = 1, sync_bn: str = "off",
                 checkpoint_activations: bool = False):
        check_choice("engine", engine, ENGINES)
        if not isinstance(objective, Objective):
            raise UserError(f"objective must be one of atlas_fast.objectives, got {type(objective).__name__}")
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        parameters = list(model.parameters())
        check_optimizer(parameters, optimizer)
        self.model, self.objective, self.optimizer, self.augment = model, objective, optimizer, augment
        self.device = parameters[0].device
        self.ranks = Ranks.alone() if ranks is None else ranks
        if self.ranks.size > 1 and augment is not None and not getattr(augment, "takes_sample_offset", False):
            raise UserError("of several processes each would augment by the same random numbers; let augment take the "
                            "keyword sample_offset and have the attribute takes_sample_offset")
        self.engine_reason = why_autograd(engine, model, objective)
        self.engine = "sweeps" if self.engine_reason is None else "autograd"
        self.amp = amp_dtype(amp, self.device)
        self._scale = LossScale(self.device, self.ranks) if self.amp == torch.float16 else None
        check_choice("overlap", overlap, ("on", "off"))
        shared = check_choice("sync_bn", sync_bn, ("on", "off")) == "on" and self.ranks.size > 1
        if shared and checkpoint_activations:
            raise UserError("sync_bn sends sums in every pass, and checkpoint_activations repeats passes; leave one "
                            "of the two away")
        view = self._make_view(bn_mode, check_choice("pair", pair, SWITCH), overlap == "on",
                               self.ranks if shared else None, checkpoint_activations)
        self.view = view if self._scale is None else ScaledView(view, self._scale)
        self.rng = make_rng(seed, 0, self.device)
        self._memory_format = memory_format(parameters)
        # float32 suffices, since images are float32; float64 models are for tests.
        self._ramp = torch.ones((), dtype=torch.promote_types(parameters[0].dtype, torch.float32), device=self.device)
        self._ramp_value = 1.0
        self._parts = Parts(accumulate, objective)
        self._update = Update(model, optimizer, self.ranks, self._parts.count, self._scale)
        self._perturbation = None if awp is None else WeightPerturbation(model, awp)
        self.perturbs = awp is not None
        self._average = None if ema is None else WeightAverage(model, ema)
        self._graph = self._make_graph(check_choice("capture", capture, SWITCH))

    def _make_view(self, bn_mode: str, pair: str, overlap: bool, shared: Ranks | None, checkpoints: bool):
        if self.engine == "autograd":
            for name, on in (("pair", pair == "on"), ("overlap", overlap)):
                if on:
                    raise UserError(f"{name}='on' needs the sweeps: {self.engine_reason}")
            return AutogradView(self.model, bn_mode=bn_mode, amp=self.amp, ranks=shared, checkpoints=checkpoints)
        if overlap and self.device.type != "cuda":
            raise UserError(f"overlap='on' needs a CUDA device, and the model is on {self.device}")
        if pair == "on" and checkpoints:
            raise UserError("pair='on' and checkpoint_activations want opposite things of memory; leave one away")
        wanted = pair == "on" or (pair == "auto" and self.device.type == "cuda")
        view = SweepView(self.model, bn_mode, self.amp, wanted, Beside(self.device) if overlap else None, shared,
                         checkpoints)
        if pair == "on" and not view.paired:
            raise UserError(f"pair='on' is impossible, since {view.inseparable} may mix samples; use pair='auto'")
        return view

    def _make_graph(self, capture: str) -> Captured | None:
        if capture == "on" and self.device.type != "cuda":
            raise UserError(f"capture='on' needs a CUDA device, and the model is on {self.device}")
        if capture == "off" or self.device.type != "cuda":
            return None
        return Captured(self._recorded, CudaRecorder(self.device))

    @property
    def captured(self) -> bool:
        """Whether the last step was run by a CUDA graph."""
        return self._graph is not None and self._graph.replayed

    @property
    def capture_reason(self) -> str | None:
        """Why steps, or their updates, are not in a CUDA graph, one sentence; None where the whole step is."""
        if self._graph is None:
            return "capture='off' was asked for" if self.device.type == "cuda" else f"{self.device} has no CUDA graphs"
        return self._graph.reason or self._update.optimizer.why_not_capturable

    @property
    def skipped(self) -> int:
        """How many steps changed nothing because a gradient was not finite; waits for the device."""
        return int(self._update.skipped)

    @property
    def skipped_on_device(self) -> torch.Tensor:
        """The same, 0-d int64 on the device, valid until the next call."""
        return self._update.skipped

    @property
    def loss_scale(self) -> float | None:
        """What amp="fp16" multiplies gradients by, None without it; waits for the device."""
        return None if self._scale is None else float(self._scale.value)

    @property
    def backoffs(self) -> int:
        """How many steps changed nothing but the loss scale, since they overflowed with it; waits for the device."""
        return 0 if self._scale is None else int(self._scale.backoffs)

    @property
    def averaged(self) -> torch.nn.Module | None:
        """The network with averaged weights, in eval mode; None without `ema`."""
        return None if self._average is None else self._average.model

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
        self._check_images(x)
        self._parts.check(x)
        self._update.before()
        self.view.flat = self._update.flat
        if self._graph is None:
            return self._whole(self._images(x), y)
        check_batch(x if x.is_floating_point() or x.dim() < 2 else x[:, :0].float(), y)  # a replay checks nothing
        if not self._images_recorded:
            x = self._images(x)
        whole = self._update.optimizer.why_not_capturable is None
        terms = self._graph(x, y, self._settings(whole))
        if not whole:
            self._finish(terms["loss"])
        return terms

    def _recorded(self, x, y) -> dict[str, torch.Tensor]:
        """What a graph holds: the step, without the images' or the optimiser's part where those cannot be recorded."""
        x = self._images(x) if self._images_recorded else x
        whole = self._update.optimizer.why_not_capturable is None
        return self._whole(x, y) if whole else self._gradients(x, y)

    def _whole(self, x, y) -> dict[str, torch.Tensor]:
        terms = self._gradients(x, y)
        self._finish(terms["loss"])
        return terms

    def _gradients(self, x, y) -> dict[str, torch.Tensor]:
        self._update.start()
        terms = self._accumulate(x, y)
        self.rng[1].add_(1)
        return terms

    def _accumulate(self, x, y) -> dict[str, torch.Tensor]:
        """The sum of the gradients of the parts' losses, added to .grad."""
        parts = self._parts.of(x, y, self._offset(x))
        if not self.perturbs or self._perturbation is None:
            return mean_terms([self._loss(part) for part in parts])
        crafted = [self._crafted(part) for part in parts]
        for part, images in zip(parts, crafted, strict=True):
            self._loss(part, images)
        self._update.share_direction()
        self._perturbation.perturb()
        self._update.again()
        terms = [self._loss(part, images) for part, images in zip(parts, crafted, strict=True)]
        self._perturbation.restore()
        return mean_terms(terms)

    def _loss(self, part: Part, crafted=None) -> dict[str, torch.Tensor]:
        prepared = program.prepare(self.objective, self.view, part.x, part.y, ramp=self._ramp, rng=self.rng,
                                   sample_offset=part.offset, crafted=crafted, ranks=self.ranks)
        prepared.accumulate()
        return prepared.terms

    def _crafted(self, part: Part) -> tuple[torch.Tensor, torch.Tensor] | None:
        check_batch(part.x, part.y)
        if self.objective.crafting(self._ramp) is None:
            return None
        self.view.start()
        with torch.enable_grad():
            return program.craft_with_gradient(self.objective, self.view, part.x, part.y, ramp=self._ramp,
                                               rng=self.rng, sample_offset=part.offset, ranks=self.ranks)

    def _offset(self, x) -> int:
        """The index of the first image within the batch of all processes."""
        return self.ranks.rank * len(x)

    def _finish(self, loss: torch.Tensor) -> torch.Tensor | None:
        """The optimiser's step and what follows it; returns whether there was none, 0-d bool on the device."""
        unusable = self._update.finish(loss)
        if self._average is not None and unusable is not None:
            self._average.follow(unusable)
        return unusable

    @property
    def _images_recorded(self) -> bool:
        return self.augment is None or getattr(self.augment, "capturable", False)

    def _settings(self, whole: bool) -> tuple:
        """All that a recording freezes: modes, numbers, and where everything lies."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return (whole, id(self.objective), id(self.augment), id(self.view.flat), self._update.optimizer.settings(),
                self.perturbs,
                tuple(m.training for m in self.model.modules()),
                tuple((t.data_ptr(), t.requires_grad) for t in tensors))

    def _check_images(self, x) -> None:
        if not isinstance(x, torch.Tensor) or x.device != self.device:
            where = x.device if isinstance(x, torch.Tensor) else type(x).__name__
            raise UserError(f"x must be a tensor on the model's device {self.device}, got {where}")
        if x.dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"x must be uint8 or float32 images, got {x.dtype}, which is too coarse for eps; "
                            "amp='bf16' computes in bfloat16 and keeps the images float32")
        if x.dtype == torch.float64 != self._ramp.dtype:
            raise UserError("x must be uint8 or float32 images for a network of float32, got float64; give x.float()")

    @torch.no_grad()
    def _images(self, x: torch.Tensor) -> torch.Tensor:
        uint8 = x.dtype == torch.uint8
        place = {"sample_offset": self._offset(x)} if self.ranks.size > 1 and x.dim() else {}
        if self.augment is not None and getattr(self.augment, "accepts_uint8", False):
            x = self.augment(x, self.rng, memory_format=self._memory_format, **place)
        else:
            if uint8 and x.dim() == 4:
                x = crop_flip(x, None, padding=0, flip=False, memory_format=self._memory_format)
            elif uint8:
                x = x.float() / 255
            x = x if self.augment is None else self.augment(x, self.rng, **place)
        x = x.to(self._ramp.dtype) if uint8 else x
        return x.contiguous(memory_format=self._memory_format) if x.dim() == 4 else x

    def state_dict(self) -> dict:
        """{"seed", "step"}: all that a resumed run needs to draw the same random numbers; of `ema` the "average", of
        amp="fp16" the "loss_scale"."""
        seed, step = self.rng.tolist()
        return {"seed": seed, "step": step, **{name: part.state_dict() for name, part in self._stateful.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` was taken. Raises UserError where it lacks what this step holds."""
        held(state, *self._stateful)
        self.rng.copy_(make_rng(state["seed"], state["step"]))
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])

    @property
    def _stateful(self) -> dict[str, WeightAverage | LossScale]:
        parts = {"average": self._average, "loss_scale": self._scale}
        return {name: part for name, part in parts.items() if part is not None}
