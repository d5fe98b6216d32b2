"""The compiled module: it is loaded, belongs to these sources, and needs only what every torch from 2.11 on has."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_fast import _extension, errors, info
from atlas_fast._fingerprint import fingerprint

PACKAGE = Path(info.__file__).resolve().parent
needs_kernels = pytest.mark.skipif(
    not _extension.LOADED and "installed without compiled kernels" in _extension.WHY,
    reason="atlas_fast was installed without compiled kernels on purpose")

# libtorch's C interface, CPython, the C library (lower case) and the C++ runtime (std::, operators new and delete, type
# information, __cxa_*). Other mangled names (at::, c10::, torch::) are left out: they change between versions of torch.
ALLOWED = re.compile(r"aoti_torch_|torch_|_?Py|_ZN?K?S|_ZT[VIS](St|N10__cxxabiv1)|_Z(nw|na|dl|da)|_ITM_|_Unwind_|__"
                     r"|[a-z0-9_]+$")
FORBIDDEN = re.compile(r"cuda|cublas|cudnn")  # the CUDA runtime is linked statically
OPTIONAL = {"aoti_torch_get_current_cuda_stream"}  # absent from a CPU build of torch: must be weak


@needs_kernels
def test_kernels_are_loaded():
    assert _extension.LOADED, _extension.WHY
    built = _extension.build_info()
    assert {"torch", "compiler", "cuda", "cuda_toolkit", "cuda_archs", "isa", "csrc", "path"} <= built.keys()


@needs_kernels
def test_undefined_symbols_belong_to_the_stable_interfaces():
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    path = _extension.build_info()["path"]
    lines = subprocess.run([nm, "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1].split("@")[0]: line.split()[-2] for line in lines.splitlines()}
    for symbol, kind in symbols.items():
        if symbol in OPTIONAL:
            assert kind == "w", symbol
            continue
        assert ALLOWED.match(symbol) and not FORBIDDEN.match(symbol), symbol


def test_fingerprint_follows_sources_alone(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "a.cpp").write_text("int a;")
    first = fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("not a source")
    assert fingerprint(tmp_path) == first
    (tmp_path / "cpu" / "a.cpp").rename(tmp_path / "cpu" / "b.cpp")
    assert fingerprint(tmp_path) != first


def _import_from(folder, *path):
    """LOADED and WHY of the package in `folder`, with the folders of `path` behind it on sys.path."""
    code = ("import sys, warnings; warnings.simplefilter('ignore'); sys.path[:0] = sys.argv[1:]\n"
            "import json; from atlas_fast import _extension as e; print(json.dumps([e.LOADED, e.WHY, e.build_info()]))")
    run = subprocess.run([sys.executable, "-c", code, str(folder), *map(str, path)], capture_output=True, text=True,
                         cwd=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def _clone(folder, source):
    """A source folder: the package without its kernels, beside a csrc."""
    shutil.copytree(PACKAGE, folder / "atlas_fast", ignore=shutil.ignore_patterns("*.so", "_build.json", "__pycache__"))
    (folder / "csrc").mkdir()
    (folder / "csrc" / "a.cpp").write_text(source)
    return folder


def _install(folder, csrc):
    """An installed package whose kernels say that they were built from `csrc`."""
    shutil.copytree(PACKAGE, folder / "atlas_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    binary = Path(_extension.build_info()["path"])
    shutil.copy(binary, folder / "atlas_fast")
    built = json.loads((binary.parent / "_build.json").read_text())
    (folder / "atlas_fast" / "_build.json").write_text(json.dumps({**built, "csrc": fingerprint(csrc)}))
    return folder


@needs_kernels
def test_clone_takes_the_installed_kernels_of_its_own_sources(tmp_path):
    clone = _clone(tmp_path / "clone", "int a;")
    installed = _install(tmp_path / "site", clone / "csrc")
    loaded, why, built = _import_from(clone, installed)
    assert loaded, why
    assert Path(built["path"]).parent == installed / "atlas_fast"


@needs_kernels
def test_clone_refuses_kernels_of_other_sources(tmp_path):
    clone = _clone(tmp_path / "clone", "int a;")
    installed = _install(tmp_path / "site", clone / "csrc")
    (clone / "csrc" / "a.cpp").write_text("int b;")
    loaded, why, built = _import_from(clone, installed)
    assert not loaded and built == {}
    assert "were built from another state" in why and "pip install ." in why


@needs_kernels
def test_broken_kernels_are_named_and_done_without(tmp_path):
    clone = _clone(tmp_path / "clone", "int a;")
    installed = _install(tmp_path / "site", clone / "csrc")
    (binary,) = (installed / "atlas_fast").glob("_C.*")
    binary.write_bytes(b"not a shared library")
    loaded, why, _ = _import_from(clone, installed)
    assert not loaded
    assert str(binary) in why and "does not load under torch" in why


def test_info_prints_json_and_text():
    run = subprocess.run([sys.executable, "-m", "atlas_fast.info", "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["extension"]["loaded"] == _extension.LOADED
    served = {row["operation"] for row in facts["operations"]}
    assert {"random_start", "pgd_step", "fgsm", "squared_norm", "unit_vectors", "ce_kl"} <= served
    text = info.render(facts)
    for expected in (facts["versions"]["torch"], "compiled kernels", "ce_kl", facts["devices"][0]):
        assert expected in text


def test_info_refuses_unknown_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["info", "--yaml"])
    with pytest.raises(SystemExit) as stopped:
        errors.run_cli(info.main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "atlas_fast: error: unrecognized arguments: --yaml\n"
