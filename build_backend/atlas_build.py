"""The build backend: setuptools', but torch is asked for only where something is compiled and no torch is at hand.

pip builds in an environment of its own. A static requirement on torch would download several GB into it even where
the user's environment has torch already, and would compile against another torch than the one that runs. So the
backend looks into the environment that pip installs into (reading metadata; torch is not imported), and `setup.py`
compiles against the torch found there. The same facts decide the dependencies of the package: see `dependencies`.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that are not replaced below

TORCH, OLDEST_TORCH = "torch>=2.11", (2, 11)  # the LibTorch stable ABI that csrc/torch targets


def choice(name: str) -> str:
    """The value of an environment variable that takes auto, 1 or 0. Anything else ends the build."""
    value = os.environ.get(name, "").strip().lower() or "auto"
    if value not in ("auto", "1", "0"):
        sys.exit(f"atlas_fast: {name}={os.environ[name]!r} is not understood: use auto, 1 or 0")
    return value


def find_compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of c++, g++, clang++ on the PATH."""
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        if shutil.which(chosen.split()[0]) is None:  # a slip must not quietly give a package without kernels
            sys.exit(f"atlas_fast: CXX={chosen!r} was not found: name an installed C++ compiler or unset CXX")
        return chosen
    return next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def compiles() -> bool:
    """Whether this build compiles csrc, by ATLAS_FAST_BUILD=auto|1|0.

    auto compiles wherever it can; only a machine without a C++ compiler (or one that does not run Linux, where the
    link line is unproved) installs the package without kernels. A compile error is fatal in every case.
    """
    build, cuda = choice("ATLAS_FAST_BUILD"), choice("ATLAS_FAST_CUDA")
    if build == "0":
        if cuda == "1":
            sys.exit("atlas_fast: ATLAS_FAST_CUDA=1 asks for CUDA kernels and ATLAS_FAST_BUILD=0 for none: drop one")
        return False
    possible = sys.platform == "linux" and find_compiler() is not None
    if not possible and "1" in (build, cuda):
        sys.exit("atlas_fast: kernels were asked for, but no C++ compiler was found (Linux; g++, clang++ or $CXX)")
    return build == "1" or possible


def target_path() -> list[str]:
    """sys.path of the environment that pip installs into, without what pip's build isolation puts before it.

    A fresh interpreter without PYTHON* variables (-E) is asked: it knows site folders of every kind (venv,
    --system-site-packages, Debian's dist-packages, user site, .pth files).
    """
    command = [sys.executable, "-E", "-c", "import sys; print('\\n'.join(sys.path[1:]))"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=sys.prefix).stdout.split("\n")[:-1]


def installed_torch(path: list[str] | None = None) -> str | None:
    """The version of a torch that is new enough, in the folders of `path` (default: the target environment)."""
    path = target_path() if path is None else path
    for distribution in metadata.distributions(name="torch", path=path):
        version = distribution.version
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= OLDEST_TORCH:
            return version
    return None


def dependencies() -> list[str]:
    """Run-time dependencies of a package that is built here.

    torchvision (CIFAR, MNIST) is required only where no usable torch is installed: every torchvision pins one exact
    torch, so a plain requirement would make pip replace the torch that is there. Elsewhere it stays the user's to
    add; the data sets say how. torch brings the Triton that belongs to it.
    """
    needed = [TORCH, "numpy", "pillow", "scikit-learn", "matplotlib", "tqdm", "safetensors", "jinja2"]
    return needed if installed_torch() else [*needed, "torchvision"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    if not compiles():
        return []
    torch = [] if installed_torch() else [TORCH]
    return torch if shutil.which("ninja") else [*torch, "ninja"]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None) -> list[str]:
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    # setuptools never removes a file from build/lib*, so modules deleted since would stay in the wheel. Objects
    # (build/temp*) stay: ninja recompiles whatever depends on a changed source, header, flag or torch.
    for folder in glob.glob("build/lib*") + glob.glob("build/bdist*"):
        shutil.rmtree(folder)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
