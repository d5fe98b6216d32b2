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
LAUNCHES: dict[str, int] = {}
"""Kernels that one call runs on a GPU, at most: {operation: number}."""
_by_triton: set[str] = set()  # operations whose CUDA kernel is Triton's


def has_kernel(name: str, device: str) -> bool:
    """Whether the compiled extension registered `name` for `device` ("CPU" or "CUDA")."""
    if device == "CUDA" and name in _by_triton:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", device)


def triton_available() -> bool:
    """Whether Triton can be imported (it needs a driver, or TRITON_INTERPRET=1, only when a kernel runs)."""
    return importlib.util.find_spec("triton") is not None


def triton_module(name: str):
    """The module that holds the Triton kernels of `name`, imported at first use."""
    return importlib.import_module(f"{__package__}.triton.{name}")


def define(name: str, schema: str, reference: Callable, fake: Callable, launches: int = 1,
           triton: bool = True) -> Callable:
    """Register an operation and return its bound overload.

    schema: "(Tensor x, ...) -> Tensor", "Tensor(a!)" for arguments that it changes (outputs must not alias any);
    reference: the definition in plain PyTorch with the schema's arguments; fake: output shapes, dtypes and strides.
    launches: kernels that one call runs on a GPU, at most. The Triton launcher is `ops/triton/<name>.py:<name>`;
    triton False: there is none.
    """
    qualified = f"{NAMESPACE}::{name}"
    _library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    if triton and triton_available() and not has_kernel(name, "CUDA"):
        _library.impl(name, lambda *args, **kwargs: getattr(triton_module(name), name)(*args, **kwargs), "CUDA")
        _by_triton.add(name)
    _names.append(name)
    LAUNCHES[name] = launches
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def backends() -> dict[str, dict[str, tuple[str, str]]]:
    """Which backend serves each operation: {operation: {"cpu": (backend, why), "cuda": (backend, why)}}."""
    return {name: {"cpu": _cpu_backend(name), "cuda": _cuda_backend(name)} for name in _names}


def _cpu_backend(name: str) -> tuple[str, str]:
    if has_kernel(name, "CPU"):
        return "C++", "compiled"
    return "PyTorch reference", _why_not_compiled("CPU")


def _cuda_backend(name: str) -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "none", "no CUDA device" if torch.version.cuda else "this torch has no CUDA"
    if has_kernel(name, "CUDA"):
        return "CUDA C++", "compiled"
    why = _why_not_compiled("CUDA")
    if name in _by_triton:
        return "Triton", why
    return "PyTorch reference", why if triton_available() else f"{why}; Triton is not installed"


def _why_not_compiled(device: str) -> str:
    """Why the compiled extension has no kernel of an operation for `device`."""
    if not _extension.LOADED:
        return _extension.WHY
    if device == "CUDA" and not _extension.build_info().get("cuda"):
        return "no CUDA kernels were compiled"
    return f"the operation has no {'CUDA C++' if device == 'CUDA' else 'C++'} kernel"
