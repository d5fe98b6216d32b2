"""What the build asks for and decides, in every environment it may meet. Nothing is compiled here."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backend(monkeypatch):
    """build_backend/atlas_build.py in an environment with a compiler, ninja, torch 2.13 and none of its variables."""
    for name in ("ATLAS_FAST_BUILD", "ATLAS_FAST_CUDA", "CXX"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("atlas_build", ROOT / "build_backend" / "atlas_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module, "installed_torch", lambda: "2.13.0+cpu")
    set_programs(monkeypatch, module, "c++", "ninja")
    return module


def set_programs(monkeypatch, module, *names):
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}" if name in names else None)


def test_nothing_is_asked_for_where_torch_and_ninja_are(backend):
    assert backend.get_requires_for_build_wheel() == []
    assert backend.get_requires_for_build_editable() == []


def test_torch_and_ninja_are_asked_for_where_they_are_missing(backend, monkeypatch):
    monkeypatch.setattr(backend, "installed_torch", lambda: None)
    set_programs(monkeypatch, backend, "g++")
    assert backend.get_requires_for_build_wheel() == ["torch>=2.11", "ninja"]
    assert backend.get_requires_for_build_sdist() == []


def test_nothing_is_asked_for_where_nothing_is_compiled(backend, monkeypatch):
    monkeypatch.setattr(backend, "installed_torch", lambda: None)
    monkeypatch.setenv("ATLAS_FAST_BUILD", "0")
    assert backend.get_requires_for_build_wheel() == []
    monkeypatch.setenv("ATLAS_FAST_BUILD", "auto")
    set_programs(monkeypatch, backend)
    assert backend.get_requires_for_build_wheel() == []


def test_torchvision_is_required_only_where_no_torch_is(backend, monkeypatch):
    assert "torchvision" not in backend.dependencies()
    monkeypatch.setattr(backend, "installed_torch", lambda: None)
    assert "torchvision" in backend.dependencies()
    assert "torch>=2.11" in backend.dependencies()


@pytest.mark.parametrize(("version", "usable"), [
    ("2.10.1", False), ("1.13.0", False), ("2.11.0", True), ("2.13.0+cpu", True), ("2.11.0a0+git1", True),
    ("3.0", True),
])
def test_the_installed_version_decides(backend, tmp_path, version, usable):
    spec = importlib.util.spec_from_file_location("fresh", backend.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.installed_torch([str(tmp_path)]) is None
    (tmp_path / "torch").mkdir()  # a folder alone is no installation
    assert fresh.installed_torch([str(tmp_path)]) is None
    info = tmp_path / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    assert fresh.installed_torch([str(tmp_path)]) == (version if usable else None)


def test_build_isolation_does_not_hide_the_target_environment(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # how pip puts its own folders first
    path = backend.target_path()
    assert str(tmp_path) not in path and "" not in path
    assert any(Path(folder, "torch").is_dir() for folder in path)


def test_compiler_is_found_or_named(backend, monkeypatch):
    assert backend.find_compiler() == "c++"
    set_programs(monkeypatch, backend, "clang++")
    assert backend.find_compiler() == "clang++"
    monkeypatch.setenv("CXX", "clang++ -m64")
    assert backend.find_compiler() == "clang++ -m64"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match="no-such-compiler"):
        backend.compiles()


@pytest.mark.parametrize(("build", "cuda", "compiler", "expected"), [
    ("auto", "auto", True, True), ("auto", "auto", False, False), ("1", "auto", True, True), ("0", "auto", True, False),
    ("0", "0", False, False), ("auto", "1", True, True), ("", "", True, True),
    ("1", "auto", False, "no C++ compiler"), ("auto", "1", False, "no C++ compiler"), ("0", "1", True, "drop one"),
    ("yes", "auto", True, "use auto, 1 or 0"), ("auto", "on", True, "use auto, 1 or 0"),
])
def test_compiles(backend, monkeypatch, build, cuda, compiler, expected):
    monkeypatch.setenv("ATLAS_FAST_BUILD", build)
    monkeypatch.setenv("ATLAS_FAST_CUDA", cuda)
    if not compiler:
        set_programs(monkeypatch, backend, "ninja")
    if isinstance(expected, bool):
        assert backend.compiles() is expected
    else:
        with pytest.raises(SystemExit) as stopped:
            backend.compiles()
        assert expected in str(stopped.value)


def run_setup(folder, *arguments, **environment):
    without = {k: v for k, v in os.environ.items() if k not in ("ATLAS_FAST_BUILD", "ATLAS_FAST_CUDA")}
    return subprocess.run([sys.executable, "setup.py", *arguments], cwd=folder, env={**without, **environment},
                          capture_output=True, text=True)


def test_setup_refuses_what_it_does_not_understand():
    result = run_setup(ROOT, "--name", ATLAS_FAST_BUILD="perhaps")
    assert result.returncode != 0
    assert result.stderr.strip() == "atlas_fast: ATLAS_FAST_BUILD='perhaps' is not understood: use auto, 1 or 0"


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_pybind11_never_sees_the_target_version_of_the_stable_abi(tmp_path):
    """torch 2.11's copy of pybind11 refuses it; a torch whose copy would is made up."""
    folder = tmp_path / "torch" / "pybind11"
    folder.mkdir(parents=True)
    for name in ("pybind11.h", "numpy.h"):
        (folder / name).write_text("#ifdef TORCH_TARGET_VERSION\n#error seen\n#endif\n")
    lines = [line for line in (ROOT / "csrc" / "module.cpp").read_text().splitlines() if "#include <pybind11" in line]
    assert lines
    source = "\n".join([*lines, "#ifndef TORCH_TARGET_VERSION", "#error lost", "#endif"])
    command = ["c++", "-E", "-x", "c++", "-", "-DTORCH_TARGET_VERSION=1", f"-I{ROOT / 'build_backend' / 'include'}",
               f"-I{tmp_path / 'torch'}"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def source_copy(tmp_path_factory):
    """What a clone holds of the files that a distribution is made from."""
    copy = tmp_path_factory.mktemp("source") / "atlas_fast"
    copy.mkdir()
    for folder in ("atlas_fast", "build_backend", "csrc", "tests", "bench"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "CMakeLists.txt", "README.md"):
        if (ROOT / file).is_file():
            shutil.copy(ROOT / file, copy)
    return copy


def test_source_distribution_carries_what_a_build_needs(source_copy, tmp_path):
    # A torch that cannot be imported: making the distribution must not need one.
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    result = run_setup(source_copy, "-q", "sdist", "--dist-dir", str(tmp_path), PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("atlas_fast-*/")
    for folder, kinds in {"csrc": "*.h *.cpp *.cu *.cuh", "build_backend": "*.py *.h", "atlas_fast": "*.py",
                          "tests": "*.py *.cpp *.h"}.items():
        for path in (path for kind in kinds.split() for path in (source_copy / folder).rglob(kind)):
            assert (unpacked / path.relative_to(source_copy)).is_file(), path
    for file in ("setup.py", "pyproject.toml", "CMakeLists.txt"):
        assert (unpacked / file).is_file(), file


def test_wheel_without_kernels_is_pure_python(source_copy, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    result = run_setup(source_copy, "-q", "bdist_wheel", "--dist-dir", str(tmp_path), PYTHONPATH=str(tmp_path),
                       ATLAS_FAST_BUILD="0")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", format="zip")
    packaged = {path.relative_to(tmp_path / "wheel") for path in (tmp_path / "wheel" / "atlas_fast").rglob("*.py")}
    assert packaged == {path.relative_to(source_copy) for path in (source_copy / "atlas_fast").rglob("*.py")}
