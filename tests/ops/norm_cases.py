"""What the tests of the BatchNorm operations share: data of one site, and its derivatives by autograd."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from backends import Backend, arranged

from atlas_fast.ops import norm_relu_backward_reference, norm_relu_reference
from atlas_fast.ops._arguments import compute_dtype
from atlas_fast.ops._registry import triton_module

EPS, MOMENTUM = 1e-5, 0.1


@dataclass
class Site:
    """Tensors around one BatchNorm: activations in one dtype, parameters and statistics in the computing precision."""

    z: torch.Tensor
    residual: torch.Tensor
    g: torch.Tensor
    t: torch.Tensor
    t_residual: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    running: tuple[torch.Tensor, torch.Tensor]

    def copy_of_running(self) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(value.clone() for value in self.running)

    def to(self, dtype: torch.dtype) -> "Site":
        """Everything in one dtype (float64: the exact site)."""
        def convert(value):
            return None if value is None else value.to(dtype)
        return Site(*(convert(getattr(self, name)) for name in ("z", "residual", "g", "t", "t_residual", "weight",
                                                                "bias")), tuple(map(convert, self.running)))


def site(backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, layout: str = "channels_last",
         affine: bool = True) -> Site:
    activations = [arranged(backend.randn(*shape, seed=seed, dtype=dtype), layout) for seed in range(5)]
    wide, channels = compute_dtype(dtype), shape[1]
    parameters = [backend.randn(channels, seed=5 + seed, dtype=wide) if affine else None for seed in range(2)]
    running = backend.randn(channels, seed=7, dtype=wide), backend.rand(channels, seed=8, dtype=wide) + 0.1
    return Site(*activations, *parameters, running)


def by_autograd(s: Site, groups: int, batch: bool, relu: bool) -> dict[str, torch.Tensor]:
    """F.batch_norm per group, its backward for g, and the gradients of <t, dz> by double backward.

    Keys: out, running_mean, running_var, dz, dweight, dbias, adjoint_g, adjoint_weight, adjoint_z.
    """
    z, g = s.z.clone().requires_grad_(), s.g.clone().requires_grad_()
    weight, bias = (None if p is None else p.clone().requires_grad_() for p in (s.weight, s.bias))
    mean, var = s.copy_of_running()
    with torch.enable_grad():
        outs = [F.batch_norm(part, mean, var, weight, bias, batch, MOMENTUM, EPS) for part in z.chunk(groups)]
        out = torch.cat([part.relu() if relu else part for part in outs])
        affine = [] if weight is None else [weight, bias]
        dz, *first = torch.autograd.grad(out, [z, *affine], g, create_graph=True)
        second = torch.autograd.grad((s.t.to(dz.dtype) * dz).sum(), [g, z, *affine[:1]], materialize_grads=True,
                                     allow_unused=True)
    results = {"out": out, "running_mean": mean, "running_var": var, "dz": dz, "adjoint_g": second[0],
               "adjoint_z": second[1]}
    if affine:
        results |= {"dweight": first[0], "dbias": first[1], "adjoint_weight": second[2]}
    return {name: value.detach() for name, value in results.items()}


def first_order(s: Site, groups: int, batch: bool, relu: bool = True) -> tuple[torch.Tensor, ...]:
    """(mean, rstd, sums) of norm_relu and norm_relu_backward by their definitions."""
    _, _, mean, rstd = norm_relu_reference(s.z, None, s.weight, s.bias, *s.copy_of_running(), groups, batch, MOMENTUM,
                                           EPS, relu)
    _, sums = norm_relu_backward_reference(s.g, s.z, mean, rstd, s.weight, s.bias, None, None, None, None, groups,
                                           batch, relu, False)
    return mean, rstd, sums


def launches_of(call, backend: Backend, monkeypatch) -> int:
    """How many kernels `call` launches; skips backends other than Triton."""
    if "triton" not in backend.name:
        pytest.skip("counts the launches of Triton kernels")
    norm, kernels = triton_module("_norm"), []
    launch = norm.launch
    with monkeypatch.context() as patch:
        patch.setattr(norm, "launch", lambda kernel, *args, **kwargs: (kernels.append(kernel),
                                                                       launch(kernel, *args, **kwargs)))
        call()
    return len(kernels)


def split_finely(z: torch.Tensor, groups: int, backend: Backend, monkeypatch) -> None:
    """Small tiles, so that z has several parts of several tiles and several blocks of channels."""
    if "triton" not in backend.name:
        pytest.skip("how Triton's kernels split the work")
    norm = triton_module("_norm")
    monkeypatch.setattr(norm, "PLAN", norm.Plan(tile_bytes=256, channels=4, programs=12, warps=1))
    work = norm.split(z, groups)
    assert work.parts > 1 and work.rows > work.parts * work.tile_rows and work.rows % work.tile_rows
