"""One definition per operation, served by the best kernel that this machine has.

An operation's module calls `define` once: that gives `torch.ops.atlas_fast.<name>` its schema, its fake (shapes for
torch.compile) and its PyTorch reference as the fallback of every device. The compiled extension adds the CPU and CUDA
kernels; where it has no CUDA kernel, Triton serves CUDA. Priority: C++/CUDA, then Triton, then the reference.
"""

import importlib
import importlib.util
from collections.abc import Callable

import torch

from .. import _extension  # noqa: F401  loads the compiled kernels, which must happen before `define` looks for them

NAMESPACE = "atlas_fast"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # must stay alive: its registrations go with it
_names: list[str] = []


def has_kernel(name: str, device: str) -> bool:
    """Whether the compiled extension registered `name` for `device` ("CPU" or "CUDA")."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", device)


def triton_available() -> bool:
    """Whether Triton can be imported (it needs a driver, or TRITON_INTERPRET=1, only when a kernel runs)."""
    return importlib.util.find_spec("triton") is not None


def triton_module(name: str):
    """The module that holds the Triton kernels of `name`, imported at first use."""
    return importlib.import_module(f"{__package__}.triton.{name}")


def define(name: str, schema: str, reference: Callable, fake: Callable) -> Callable:
    """Register an operation and return its bound overload.

    schema: "(Tensor x, ...) -> Tensor"; reference: the definition in plain PyTorch with the schema's arguments;
    fake: output shapes, dtypes and strides. The Triton launcher is `ops/triton/<name>.py:<name>`.
    """
    qualified = f"{NAMESPACE}::{name}"
    _library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    if triton_available() and not has_kernel(name, "CUDA"):
        _library.impl(name, lambda *args, **kwargs: getattr(triton_module(name), name)(*args, **kwargs), "CUDA")
    _names.append(name)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def backends() -> dict[str, dict[str, tuple[str, str]]]:
    """Which backend serves each operation: {operation: {"cpu": (backend, why), "cuda": (backend, why)}}."""
    return {name: {"cpu": _cpu_backend(name), "cuda": _cuda_backend(name)} for name in _names}


def _cpu_backend(name: str) -> tuple[str, str]:
    if has_kernel(name, "CPU"):
        return "C++", "compiled"
    return "PyTorch reference", _extension.WHY


def _cuda_backend(name: str) -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "none", "no CUDA device" if torch.version.cuda else "this torch has no CUDA"
    if _extension.LOADED and _extension.build_info().get("cuda"):
        return "CUDA C++", "compiled"
    why = "no CUDA kernels were compiled" if _extension.LOADED else _extension.WHY
    if triton_available():
        return "Triton", why
    return "PyTorch reference", f"{why}; Triton is not installed"
