"""Loads the compiled module atlas_fast._C, once, and says why where it cannot.

In a clone after `pip install .`, `python -m atlas_fast.train` and `python -m pytest` import the clone's atlas_fast
(the current folder comes first on sys.path), while the compiled module lies in site-packages. So this module looks
beside itself first and then in every other atlas_fast on sys.path. A clone takes only a build of its own csrc:
kernels of other sources might not have the signatures that these Python files call.
"""

import importlib.machinery
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch  # first: it loads libtorch_cpu, which _C is linked against

from ._fingerprint import fingerprint

_HERE = Path(__file__).resolve().parent
_NO_KERNELS = "it was installed without compiled kernels (no C++ compiler, or ATLAS_FAST_BUILD=0)"


def _read_json(folder: Path) -> dict:
    path = folder / "_build.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _packages() -> list[Path]:
    """This package's folder, then every other atlas_fast on sys.path."""
    others = (Path(entry or ".").resolve() / "atlas_fast" for entry in sys.path)
    return list(dict.fromkeys([_HERE, *(folder for folder in others if (folder / "_extension.py").is_file())]))


def _binary(package: Path) -> Path | None:
    names = ("_C" + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((package / name for name in names if (package / name).is_file()), None)


def _find() -> tuple[Path | None, str]:
    """(the module to load, why there is none)."""
    packages = _packages()
    built = [(package, binary) for package in packages if (binary := _binary(package))]
    csrc = _HERE.parent / "csrc"
    if not csrc.is_dir():  # installed, not a clone
        return (built[0][1], "") if built and built[0][0] == _HERE else (None, _NO_KERNELS)
    sources = fingerprint(csrc)
    for package, binary in built:
        if _read_json(package).get("csrc") == sources:
            return binary, ""
    if built:
        return None, f"the kernels in {built[0][0]} were built from another state of {csrc}: run `pip install .` again"
    if len(packages) > 1:
        return None, _NO_KERNELS
    return None, f"{_HERE.parent} is not built: run `pip install .` there"


def _load() -> tuple[ModuleType | None, str]:
    path, why = _find()
    if path is None:
        return None, why
    name = f"{__package__}._C"
    spec = importlib.util.spec_from_file_location(name, path)
    try:
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no extension module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        return None, f"{path} does not load under torch {torch.__version__}: {error}"
    sys.modules[name] = module
    return module, "compiled"


_C, WHY = _load()
LOADED: bool = _C is not None
"""Whether the compiled kernels are in use; WHY is one sentence that says why (not)."""

if not LOADED:
    warnings.warn(f"atlas_fast runs on PyTorch and Triton alone, without its C++ kernels: {WHY}", stacklevel=2)


def build_info() -> dict:
    """What was compiled in, with what: torch, compiler, cuda, cuda_toolkit, cuda_archs, isa,
    winograd (the instructions that its kernels take). Empty without kernels."""
    if _C is None or _C.__file__ is None:
        return {}
    return {**_read_json(Path(_C.__file__).parent), **_C.build_info(), "path": _C.__file__}
