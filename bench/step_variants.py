"""The ways to run a step that `bench.step` compares, each a call without arguments that does one whole step."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable

import torch

import atlas_fast as af
from atlas_fast.engine.convolution_kernels import pytorchs
from bench import reference_step
from bench.workload import EPS, Workload, sgd

REFERENCE = "PyTorch float32"


@dataclasses.dataclass(frozen=True)
class Variant:
    """engine None: plain PyTorch. bf16: autocast, with network and images channels-last (float32: NCHW).

    tuned: cuDNN measures its algorithms for each shape first (`cudnn.benchmark`). direct: PyTorch's convolutions where
    there are faster ones on a CPU. The others are TrainingStep's.
    """

    engine: str | None
    bf16: bool
    tuned: bool = True
    capture: str = "off"
    pair: str = "off"
    overlap: str = "off"
    checkpoints: bool = False
    direct: bool = False

    @property
    def name(self) -> str:
        parts = [self.engine or "PyTorch", "bf16 channels-last" if self.bf16 else "float32",
                 "graph" if self.capture == "auto" else "", "pair" if self.pair == "on" else "",
                 "overlap" if self.overlap == "on" else "", "checkpoints" if self.checkpoints else "",
                 "direct convolutions" if self.direct else "", "" if self.tuned else "untuned"]
        return " ".join(part for part in parts if part)


def variants(device: str) -> list[Variant]:
    """All of them; on a CPU bf16 is for processors that have it in hardware (select it with --variants)."""
    made = [Variant(None, False), Variant(None, True)]
    if device == "cuda":
        made.append(Variant(None, True, tuned=False))
    for engine in ("autograd", "sweeps"):
        made.append(Variant(engine, False))
        for capture in ("off", "auto") if device == "cuda" else ("off",):
            for pair in ("off", "on") if engine == "sweeps" else ("off",):
                made.append(Variant(engine, True, True, capture, pair))
    if device == "cuda":
        made.append(Variant("sweeps", True, True, "auto", checkpoints=True))
        made += [Variant("sweeps", True, True, "auto", pair, "on") for pair in ("off", "on")]
    else:
        made.append(Variant("sweeps", False, pair="on"))
        made.append(Variant("sweeps", False, direct=True))
        made += [Variant(engine, False, checkpoints=True) for engine in ("autograd", "sweeps")]
    return made


def build(variant: Variant, workload: Workload, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor):
    """(call, TrainingStep or None): the call does one step on its own copy of the network."""
    model = copy.deepcopy(model)
    if variant.bf16:
        model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
    optimizer = sgd(model)
    if variant.engine is None:
        adversary = {"eps": EPS, "step_size": workload.step_size, "steps": workload.steps}
        amp = torch.bfloat16 if variant.bf16 else None
        step, call = None, lambda: reference_step.step(workload.method, model, optimizer, x, y, amp=amp, **adversary,
                                                       **workload.weights)
    else:
        step = af.TrainingStep(model, workload.objective, optimizer, variant.engine,
                               amp="bf16" if variant.bf16 else "off", capture=variant.capture, pair=variant.pair,
                               overlap=variant.overlap, checkpoint_activations=variant.checkpoints)
        def call():
            with pytorchs() if variant.direct else contextlib.nullcontext():
                return step(x, y)["loss"]
    return _with_cudnn(call, variant.tuned) if x.device.type == "cuda" else call, step


def _with_cudnn(call: Callable, tuned: bool) -> Callable:
    def run():
        torch.backends.cudnn.benchmark = tuned
        return call()

    return run


def remark(variant: Variant, step) -> str | None:
    """What a reader must know about how this variant ran: a graph that was asked for and not made."""
    if variant.capture == "auto" and step is not None and not step.captured:
        return f"no graph: {step.capture_reason}"
    return None
