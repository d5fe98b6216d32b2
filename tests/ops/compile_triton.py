"""Compiles every Triton kernel for a GPU that need not be there. Run as a program, without TRITON_INTERPRET.

The launchers are called on CPU tensors; a stand-in for the driver names the target, and `warmup` stops before the
launch. Prints a line per kernel: name, PTX bytes, fused multiply-adds.
"""

import argparse

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from atlas_fast import ops
from atlas_fast.ops._registry import triton_module


class _Driver:
    """As much of a driver as compiling asks for."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_device_interface(self):
        return torch.cpu


def compile_all(arch: int, dtypes: list[torch.dtype]) -> None:
    triton.runtime.driver.set_active(_Driver(arch))
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        assert len(compiled.asm["cubin"]) > 0
        ptx = compiled.asm["ptx"]
        fused = ptx.count("fma.rn") + ptx.count("mad.rn")
        print(self.fn.__module__.rpartition(".")[2], self.fn.__name__, len(ptx), fused, flush=True)

    JITFunction.run = compile_only
    for name, arguments in cases(dtypes):
        getattr(triton_module(name), name)(*arguments)
    for module in ("_common", "_norm", "pgd_step", "squared_norm"):
        triton_module(module).INT32_LIMIT = 0  # 64-bit offsets
    for name, arguments in cases([]):
        getattr(triton_module(name), name)(*arguments)


def cases(dtypes):
    rng, image = ops.make_rng(1, 2), torch.rand(2, 3, 8, 8)
    yield "fgsm", (image, image, 0.1, None, 0.125, None, rng, 0, 0)
    yield "pgd_step", (image, image, image, 0.1, None, 0.125, None)
    yield "squared_norm", (image, 0.5, 2.0, None, True)
    yield "random_bits", (rng, 3, 17, 0, 0)
    index = torch.tensor([1, 0, 1])
    for x in (image, image.byte()):
        for chosen, channels_last in ((None, False), (index, True)):
            yield "crop_flip", (x, rng, 4, True, chosen, channels_last, 3, 0)
    yield "crop_flip", (image.byte(), None, 0, False, index, True, 3, 0)
    yield "crop_flip", (image.double(), rng, 1, False, None, False, 3, 0)
    for draws, classes in ((1, 10), (2, 5000)):
        yield "unit_vectors", (rng, 3, classes, draws, 1, 0)
    yield from norm_cases(torch.float32, torch.float32)
    for dtype in dtypes:
        scalar = torch.tensor(0.1, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        contiguous = torch.rand(2, 3, 8, 8).to(dtype)
        aligned = contiguous.contiguous(memory_format=torch.channels_last)
        straddling = contiguous[:, :, :7, :7].contiguous(memory_format=torch.channels_last)
        for x, eps_tensor in ((contiguous, None), (aligned, scalar), (straddling, scalar)):
            yield "random_start", (x, 0.1, eps_tensor, rng, 0, 0)
            yield "fgsm", (x, x, 0.1, eps_tensor, 0.125, None, rng, 0, 0)
        yield "pgd_step", (x, x, x, 0.1, scalar, 0.125, None)
        yield "squared_norm", (x, 0.5, 2.0, scalar, True)
        yield "squared_norm", (x, 0.5, 1.0, None, False)
        for classes in (10, 1000, 5000):
            logits, target = torch.zeros(5, classes, dtype=dtype), torch.zeros(5, dtype=torch.int64)
            yield "ce_kl", (logits, logits, target, 1.0, scalar, classes == 10, 0.1)
        yield "ce_kl", (logits[:, :10], logits[:, :10], target, 5.0, None, False, 0.0)
        yield "ce_kl", (logits[:, :10], None, target, 0.0, None, False, 0.0)
        yield from norm_cases(dtype, scalar.dtype)
        yield from shared_norm_cases(dtype, scalar.dtype)
        if dtype == torch.bfloat16:
            yield from optional_norm_cases(dtype)


def norm_arguments(dtype, wide):
    """(activations, a vector of C values, one of each group, two of each group)."""
    z = torch.zeros(2, 32, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return z, *(torch.zeros(*shape, z.shape[1], dtype=wide) for shape in ((), (2,), (2, 2)))


def norm_cases(dtype, wide, batch=True):
    """With everything optional."""
    z, vector, mean, sums = norm_arguments(dtype, wide)
    yield "norm_relu", (z, z, vector, vector, vector, vector, 2, batch, 0.1, 1e-5, True, None, True)
    yield "norm_relu_backward", (z, z, mean, mean, vector, vector, z, z[:1], vector, vector, 2, batch, True, True, None)
    yield "norm_relu_tangent", (z, z, z, z, mean, mean, vector, vector, sums, vector, 2, batch, True, None, True)


def optional_norm_cases(dtype):
    """Running statistics, and without all that is optional."""
    yield from norm_cases(dtype, torch.float32, batch=False)
    z, _, mean, sums = norm_arguments(dtype, torch.float32)
    spread, nothing = z[:, :, :1, :1].expand(z.shape), (None,) * 6
    yield "norm_relu", (z, *nothing[:5], 2, True, 0.1, 1e-5, False, None, True)
    yield "norm_relu_backward", (spread, z, mean, mean, *nothing, 2, False, False, True, None)
    yield "norm_relu_backward", (spread, z, mean, mean, *nothing, 2, True, False, False, None)
    yield "norm_relu_tangent", (z, None, spread, z, mean, mean, None, None, sums, None, 2, False, False, None, True)


def shared_norm_cases(dtype, wide):
    """What processes with common statistics add to `norm_cases`: sums alone, results of given ones."""
    z, vector, mean, sums = norm_arguments(dtype, wide)
    rest, given = (None, None, 2, True, True), torch.zeros(3, *mean.shape, dtype=wide)
    yield "norm_relu", (z, z, None, None, None, None, 2, True, 0.0, 0.0, False, None, False)
    yield "norm_relu", (z, None, vector, vector, None, None, 2, True, 0.1, 1e-5, True, sums, True)
    yield "norm_relu_backward", (z, z, mean, mean, vector, vector, z, z[:1], *rest, True, sums)
    yield "norm_relu_tangent", (z, z, z, z, mean, mean, vector, vector, sums, *rest[1:], None, False)
    yield "norm_relu_tangent", (z, None, z, z, mean, mean, vector, vector, sums, vector, *rest[2:], given, True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64", "bfloat16"])
    options = parser.parse_args()
    compile_all(options.arch, [getattr(torch, name) for name in options.dtypes])
