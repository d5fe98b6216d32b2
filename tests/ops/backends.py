"""Implementations of the operations, and what the tests of all operations share."""

import importlib
import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from atlas_fast import ops
from atlas_fast.ops import _registry

NAMES = ("reference", "cpp", "triton", "cuda", "triton-cuda")
OPERATIONS = ("random_bits", "random_start", "pgd_step", "fgsm", "unit_vectors", "squared_norm", "ce_kl", "norm_relu",
              "norm_relu_backward", "norm_relu_tangent", "crop_flip")
POOLING = ("relu_max_pool", "relu_max_pool_backward", "relu_max_pool_tangent")
WITHOUT_TRITON = (*POOLING, "winograd_convolution", "winograd_weight_gradient")  # PyTorch serves a GPU
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Backend:
    name: str
    device: str

    def fewer(self, n: int) -> int:
        """n, or an eighth of it under Triton's interpreter, which needs some 10 ms per program."""
        return n // 8 if self.name == "triton" else n

    def rng(self, seed: int = 20240607, step: int = 3) -> torch.Tensor:
        return ops.make_rng(seed, step, self.device)

    def randn(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, dtype)

    def rand(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(self.device, dtype)

    def scalar(self, value: float | list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(value, dtype=dtype, device=self.device)


def missing(name: str, operation: str = "ce_kl") -> str | None:
    """Why this backend cannot run the operation here; None where it can."""
    if "cuda" in name and not torch.cuda.is_available():
        return "no CUDA device"
    if name == "cpp" and not _registry.has_kernel(operation, "CPU"):
        return f"{operation} has no C++ kernel" if _registry.has_kernel("ce_kl", "CPU") else "extension not installed"
    if "triton" in name and not _registry.triton_available():
        return "Triton is not installed"
    if name == "triton" and not INTERPRETED:
        return "TRITON_INTERPRET=1 is not set"
    if name == "triton-cuda" and INTERPRETED:
        return "TRITON_INTERPRET=1 is set"
    return None


def install(name: str, monkeypatch) -> Backend:
    """Let the public functions call this backend until the test ends."""
    if name == "triton":
        _round_bfloat16_as_hardware_does(monkeypatch)
        _read_loop_bounds(monkeypatch)
    for operation in OPERATIONS:
        module = importlib.import_module(f"atlas_fast.ops.{operation if operation != 'random_bits' else 'rng'}")
        if name == "reference":
            monkeypatch.setattr(module, "_op", getattr(module, f"{operation}_reference"))
        elif "triton" in name:
            monkeypatch.setattr(module, "_op", getattr(_registry.triton_module(operation), operation))
    return Backend(name, "cuda" if "cuda" in name else "cpu")


def _round_bfloat16_as_hardware_does(monkeypatch) -> None:
    """Triton's interpreter (3.6 to 3.9) truncates float32 to bfloat16; a GPU rounds to nearest even."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding(values, source, target, mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        wide = torch.from_numpy(np.array(values, dtype=np.float32))
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    monkeypatch.setattr(interpreter, "_convert_float", rounding)


def _read_loop_bounds(monkeypatch) -> None:
    """Triton 3.6's interpreter converts the arguments of `range` in a way that NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)


def arranged(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The values of x in another memory layout."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}[x.dim()])
    if layout == "permuted":  # dense, samples innermost
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    raise ValueError(layout)


@contextmanager
def unchanged(*tensors: torch.Tensor):
    copies = [t.clone() for t in tensors]
    yield
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)


def assert_within_one_ulp(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.dtype == expected.dtype and result.shape == expected.shape
    excess = (result.double() - expected.double()).abs() - torch.finfo(result.dtype).eps * expected.double().abs()
    assert result.numel() == 0 or excess.max() <= 0


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return (result.double() - exact.double()).abs().max().item() if exact.numel() else 0.0


def assert_as_accurate(result: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, factor: float) -> None:
    """FlashAttention's rule: the error against float64 is at most `factor` times that of plain PyTorch in one dtype.

    The floor is two units in the last place of the largest value, because plain PyTorch is exact now and then; for
    float64, where it is the measure itself, 32 units.
    """
    assert result.dtype == plain.dtype and result.shape == exact.shape
    units = 32 if result.dtype == torch.float64 else 2
    floor = units * torch.finfo(result.dtype).eps * exact.abs().max().item() if exact.numel() else 0.0
    found, allowed = error(result, exact), factor * error(plain, exact) + floor
    assert found <= allowed
