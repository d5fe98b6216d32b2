"""BatchNorm, alone or with the sum before it and the ReLU after it:

    z = a + b,   act = relu(gamma yh + beta),   yh = (z - mu) r,   r = (var + eps)^-1/2.

Several batches that run as one (`groups`) have statistics of their own. Per channel, with N elements and their mean
m(.), G the adjoint of act and D = G [act > 0]:

    backward   dz = gamma r (D - m(D) - yh m(D yh)),   dgamma = N m(D yh),   dbeta = N m(D)
    tangent    t is the adjoint of dz; P = gamma r (t - m(t) - yh m(t yh)) is the backward of t
               adjoint of G       P [act > 0]
               adjoint of gamma   N r q,   q = m(t D) - m(t) m(D) - m(t yh) m(D yh)
               adjoint of z       -gamma r^2 (m(D yh) (t - m(t)) + m(t yh) (D - m(D)) + yh (q - 2 m(t yh) m(D yh)))

The last line is the second-order term; the reverse sweep adds it to dz, and dz goes to a and b alike. With running
statistics all of this is a scale per channel. On a CUDA device in channels-last the three sweeps are two launches each
(`fused_norm`); elsewhere PyTorch's kernels do the first order (`native_norm`). Where several processes share their
statistics, m(.) is a mean over all of them (`shared_norm`).
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import torch

from ..ranks import Ranks
from . import fused_norm, native_norm


@dataclasses.dataclass
class Saved:
    """Of a forward pass. mean, rstd: [groups, C]; running: what the pass was given; batch: whose statistics it used;
    norm: the module whose passes these are; out: act where a ReLU must look at it, addition: what the rule of the sum
    needs; ranks: the processes that share the statistics, None: this one has its own."""

    z: torch.Tensor
    out: torch.Tensor | None
    mean: torch.Tensor
    rstd: torch.Tensor
    running: tuple
    batch: bool
    norm: ModuleType
    addition: object = None
    ranks: Ranks | None = None


class BatchNorm:
    VIEW = False
    overwrite = None

    def __init__(self, module: torch.nn.BatchNorm2d, weights=None):
        self.module = module
        self.relu = False  # set where the only user is a ReLU
        self.add: Any = None  # the rule of a sum that only this uses
        self.ranks: Ranks | None = None  # the processes with which it shares statistics, where it does

    @property
    def KEEPS_OUTPUT(self):
        return self.relu

    @property
    def OWNS_ADJOINT(self):
        return self.add is None

    @property
    def parameters(self):
        return [p for p in (self.module.weight, self.module.bias) if p is not None]

    def forward(self, a, b=None, groups: int = 1):
        """(act, saved), or ((act, z), saved) with a sum."""
        m = self.module
        if a.dim() != 4:
            raise ValueError(f"expected 4D input (got {a.dim()}D input)")
        batch = m.training or (m.running_mean is None and m.running_var is None)
        shared = self.ranks if batch else None
        if batch and a.numel() * (1 if shared is None else shared.size) == groups * a.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {a.shape}")
        running = (None, None) if m.training and not m.track_running_stats else (m.running_mean, m.running_var)
        momentum = self._momentum()
        if fused_norm.applies(a, b, m):
            addition = None if b is None else self.add.forward(a, b, only_shapes=True)
            z, out, mean, rstd = fused_norm.forward(a, b, m, running, groups, batch, momentum, self.relu, shared)
            saved = Saved(z, None, mean, rstd, running, batch, fused_norm, addition, shared)
        else:
            z, addition = (a, None) if b is None else self.add.forward(a, b)
            out, mean, rstd = native_norm.forward(z, m, running, groups, batch, momentum, self.relu, shared)
            saved = Saved(z, out if self.relu else None, mean, rstd, running, batch, native_norm, addition, shared)
        return (out if b is None else (out, saved.z)), saved

    def counter(self) -> torch.Tensor | None:
        """Where a training pass is counted; whoever runs the passes counts them, all layers in one launch."""
        m = self.module
        return m.num_batches_tracked if m.training and m.track_running_stats else None

    def _momentum(self) -> float:
        """As nn.BatchNorm2d: the weight of this batch in the running statistics."""
        if self.module.momentum is not None:
            return self.module.momentum
        counter = self.counter()
        return 0.0 if counter is None else 1.0 / (float(counter) + 1)  # cumulative average

    def part(self, saved, take):
        s = saved
        mean, rstd = (v[take.index:take.index + 1] for v in (s.mean, s.rstd))
        out = None if s.out is None else take(s.out)
        addition = None if s.addition is None else self.add.part(s.addition, take)
        return Saved(take(s.z), out, mean, rstd, s.running, s.batch, s.norm, addition, s.ranks)

    def backward(self, saved, g, wanted, grads, total=None, extra=None):
        """total: adjoint of z from others than this; extra: adjoint of z of the first samples, from a tangent."""
        if g is None:
            g = torch.zeros_like(saved.z)
        m = self.module
        if not any(wanted) and not (grads.records or grads.takes(m.weight) or grads.takes(m.bias)):
            return (None,) * len(wanted), None
        dz, recorded = saved.norm.backward(saved, g, m, self.relu, any(wanted), grads, total, extra)
        if self.add is None:
            return (dz,), recorded
        return ((None, None) if dz is None else self.add.backward(saved.addition, dz, wanted, grads)[0]), recorded

    def tangent(self, saved, recorded, t, grads):
        t, t_b = t if self.add is not None else (t[0], None)
        t, out, extra = saved.norm.tangent(saved, recorded, t, t_b, self.module, self.relu, grads)
        return (out if self.add is None else (out, t)), extra
