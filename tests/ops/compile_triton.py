"""Compiles every Triton kernel for a GPU that need not be there. Run as a program, without TRITON_INTERPRET.

    python tests/ops/compile_triton.py [--arch 90] [--dtypes float32 ...] [--step wrn-28-8 [--methods atlas adv]]

The launchers are called on CPU tensors; a stand-in for the driver names the target, and `warmup` stops before the
launch. Prints a line per kernel: name, PTX bytes, fused multiply-adds. --step: instead the variants that a training
step in bfloat16 launches, each once (WRN-28-8, ATLAS: 58), with the registers and bytes of spills that ptxas reports;
what Triton then keeps in TRITON_CACHE_DIR serves a machine with the same Triton and such a GPU as well.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from atlas_fast import ops
from atlas_fast.ops._registry import triton_module

WITHOUT_TRITON = ("relu_max_pool", "relu_max_pool_backward", "relu_max_pool_tangent", "winograd_convolution",
                  "winograd_weight_gradient")  # PyTorch serves a GPU


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


def compile_only(arch: int, tell) -> None:
    """From here on launching a kernel compiles it. tell: is called with module, kernel and what was compiled."""
    triton.runtime.driver.set_active(_Driver(arch))
    run = JITFunction.run

    def compile_it(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        assert len(compiled.asm["cubin"]) > 0
        tell(self.fn.__module__.rpartition(".")[2], self.fn.__name__, compiled)

    JITFunction.run = compile_it


def compile_all(arch: int, dtypes: list[torch.dtype]) -> None:
    def tell(module, kernel, compiled):
        ptx = compiled.asm["ptx"]
        print(module, kernel, len(ptx), ptx.count("fma.rn") + ptx.count("mad.rn"), flush=True)

    compile_only(arch, tell)
    for name, arguments in cases(dtypes):
        getattr(triton_module(name), name)(*arguments)
    for module in ("_common", "_norm", "pgd_step", "squared_norm"):
        triton_module(module).INT32_LIMIT = 0  # 64-bit offsets
    for name, arguments in cases([]):
        getattr(triton_module(name), name)(*arguments)


def compile_step(arch: int, model: str, methods: list[str]) -> None:
    """Every variant that steps of these methods launch."""
    seen = set()

    def tell(module, kernel, compiled):
        if id(compiled) not in seen:
            seen.add(id(compiled))
            resources = usage(compiled.asm["cubin"])
            print(module, kernel, compiled.metadata.num_warps, "warps,", compiled.metadata.shared, "bytes shared,",
                  resources, flush=True)

    compile_only(arch, tell)
    tensors = {}

    def made(argument):
        if not isinstance(argument, Laid):
            return argument
        return tensors.setdefault(argument, torch.empty_strided(argument.shape, argument.stride, dtype=argument.dtype))

    for name, arguments in launched(model, methods):
        getattr(triton_module(name), name)(*map(made, arguments))
    print(f"{len(seen)} variants")


class Laid(NamedTuple):
    """A tensor without its data."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def launched(model: str, methods: list[str]) -> list[tuple[str, tuple]]:
    """(operation, its arguments, tensors as Laid) of the second step of each method, as on a GPU; each once."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
    import test_launches

    found = {}

    class Operations(test_launches.Launches):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.name().removeprefix("atlas_fast::")
            if function.namespace == "atlas_fast" and name not in WITHOUT_TRITON:
                found[name, tuple(Laid(tuple(a.shape), a.stride(), a.dtype) if isinstance(a, torch.Tensor) else a
                                  for a in args)] = None
            return super().__torch_dispatch__(function, types, args, kwargs)

    test_launches.Launches = Operations
    for method in methods:
        test_launches.count(method, model)
    return list(found)


def usage(cubin: bytes) -> str:
    """What cuobjdump, which comes with Triton, says of registers and local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return " ".join(re.findall(r"(?:REG|STACK|LOCAL):\d+", told))


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
        if dtype == torch.bfloat16:
            yield from optional_norm_cases(dtype)
            yield from shared_norm_cases(dtype, scalar.dtype)


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
    parser.add_argument("--step", metavar="MODEL")
    parser.add_argument("--methods", nargs="+", default=["atlas", "adv"])
    options = parser.parse_args()
    if options.step:
        compile_step(options.arch, options.step, options.methods)
    else:
        compile_all(options.arch, [getattr(torch, name) for name in options.dtypes])
