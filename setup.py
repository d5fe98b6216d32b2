"""Compiles csrc into atlas_fast._C; everything else about the package stands in pyproject.toml.

    ATLAS_FAST_BUILD=auto|1|0    compiled kernels: where a C++ compiler is found (auto), always, never
    ATLAS_FAST_CUDA=auto|1|0     CUDA kernels: where nvcc is found and torch has CUDA (auto), always, never
    TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, MAX_JOBS: as for every PyTorch extension

A GPU need not be visible. torch is imported only when something is compiled: a source distribution, the metadata and
an installation without kernels need none.
"""

import glob
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
import atlas_build  # noqa: E402

STABLE_ABI = "0x020b000000000000ULL"  # 2.11: one build loads under every torch from 2.11 on


def note(text: str) -> None:
    print(f"atlas_fast: {text}", file=sys.stderr)


def cuda_root() -> tuple[str, str] | None:
    """(a CUDA toolkit's folder, its libcudart_static.a). nvcc on the PATH may be a wrapper, so ask it for its home."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc:
        dry = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True)
        candidates += re.findall(r"^#\$ TOP=(.*)$", dry.stdout + dry.stderr, re.MULTILINE)
    for root in filter(None, candidates):
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            library = Path(root, folder, "libcudart_static.a")
            if library.is_file() and os.access(Path(root, "bin", "nvcc"), os.X_OK):
                return str(Path(root).resolve()), str(library.resolve())
    return None


def nvcc_says(root: str, option: str) -> str:
    return subprocess.run([f"{root}/bin/nvcc", option], capture_output=True, text=True, check=True).stdout


def decide_cuda(torch) -> tuple[str, str] | None:
    """The toolkit to compile CUDA kernels with, or None for none, by ATLAS_FAST_CUDA."""
    wanted, found = atlas_build.choice("ATLAS_FAST_CUDA"), cuda_root()
    if wanted == "1" and found is None:
        sys.exit("atlas_fast: ATLAS_FAST_CUDA=1, but no CUDA toolkit was found: set CUDA_HOME to the folder of one")
    if wanted == "0" or found is None or (wanted == "auto" and torch.version.cuda is None):
        return None
    major = re.search(r"release (\d+)", nvcc_says(found[0], "--version")).group(1)
    if wanted == "auto" and major != torch.version.cuda.split(".")[0]:
        note(f"no CUDA kernels: nvcc {major} does not fit torch's CUDA {torch.version.cuda}; set CUDA_HOME to another")
        return None
    return found


def configure(extension: Extension, torch, cpp_extension) -> dict:
    """Give the extension its sources and flags. Returns what the installed package reports about its build."""
    cuda = decide_cuda(torch)
    flags = ["-O3", "-std=c++17", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
    flags += [f"-ffile-prefix-map={ROOT}/=", f"-DTORCH_TARGET_VERSION={STABLE_ABI}"]
    flags += ["-DATLAS_FAST_CUDA=1", "-DUSE_CUDA"] if cuda else ["-DATLAS_FAST_CUDA=0"]  # USE_CUDA: the stream's header
    # torch_cpu is named by hand, libtorch (a stub) too: in CUDA builds of torch it brings libtorch_cuda, which
    # resolves the weak stream symbol of csrc/torch/*_cuda.cpp; in CPU builds it does not, and the module still loads.
    link = ["-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-Wl,--as-needed", "-Wl,--exclude-libs,ALL"]
    info = {"csrc": fingerprint(), "torch": torch.__version__, "cuda_toolkit": None, "cuda_archs": None}
    if cuda:
        root, cudart = cuda
        cpp_extension.CUDA_HOME = root  # stays None in a CPU build of torch
        archs = nvcc_says(root, "--list-gpu-arch")
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX" if "compute_100" in archs else "8.0;9.0+PTX")
        link += [cudart, "-lrt", "-ldl", "-lpthread"]  # static: no NEEDED libcudart, so it loads without CUDA too
        info["cuda_toolkit"] = re.search(r"release ([\d.]+)", nvcc_says(root, "--version")).group(1)
        info["cuda_archs"] = os.environ["TORCH_CUDA_ARCH_LIST"]
        extension.sources += sorted(glob.glob("csrc/torch/*_cuda.cpp")) + sorted(glob.glob("csrc/cuda/*.cu"))
    extension.include_dirs = [str(ROOT / "csrc"), str(ROOT / "build_backend" / "include"),
                              *cpp_extension.include_paths()]  # torch's hold pybind11 too
    extension.library_dirs = cpp_extension.library_paths()
    extension.extra_compile_args = {"cxx": flags, "nvcc": ["-O3", "-std=c++17"]}
    extension.extra_link_args = link
    note(f"compiling with torch {torch.__version__}, CUDA {info['cuda_toolkit']} {info['cuda_archs'] or ''}")
    return info


def fingerprint() -> str:
    return runpy.run_path(str(ROOT / "atlas_fast" / "_fingerprint.py"))["fingerprint"](ROOT / "csrc")


class BuildExtension(build_ext):
    """Hands over to torch's BuildExtension when something is compiled, so that nothing else imports torch."""

    def run(self):
        if importlib.util.find_spec("torch") is None:  # pip's isolation hides the torch that this build is for
            sys.path += [folder for folder in atlas_build.target_path() if folder not in sys.path]
        os.environ.setdefault("CXX", atlas_build.find_compiler())
        cuda = cuda_root()
        if cuda:
            os.environ["CUDA_HOME"] = cuda[0]  # before the import: torch's own guess is wrong for a wrapper of nvcc
        try:
            import torch
            from torch.utils import cpp_extension
        except ImportError as error:
            sys.exit(f"atlas_fast: compiling needs torch >= 2.11 ({error}): install it, or set ATLAS_FAST_BUILD=0")
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**31  # 2 GiB a job
        os.environ.setdefault("MAX_JOBS", str(max(1, min(len(os.sched_getaffinity(0)), memory))))
        info = configure(self.extensions[0], torch, cpp_extension)
        command = cpp_extension.BuildExtension(self.distribution)
        vars(command).update(vars(self), force=True)  # relink always: setuptools does not see changed flags
        command.run()
        Path(self.get_ext_fullpath("atlas_fast._C")).with_name("_build.json").write_text(json.dumps(info, indent=1))


sources = ["csrc/module.cpp", *sorted(glob.glob("csrc/cpu/*.cpp"))]
sources += sorted(set(glob.glob("csrc/torch/*.cpp")) - set(glob.glob("csrc/torch/*_cuda.cpp")))
setup(
    install_requires=atlas_build.dependencies(),
    ext_modules=[Extension("atlas_fast._C", sources, language="c++")] if atlas_build.compiles() else [],
    cmdclass={"build_ext": BuildExtension},
)
