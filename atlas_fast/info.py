"""What is in use here: versions, devices, and which backend serves each operation and why.

    python -m atlas_fast.info [--json]
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform

import torch

from . import __version__, _extension, errors, ops


def _triton_version() -> str | None:
    # From metadata: importing Triton would fix its interpreter setting for the process.
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # conda and source builds
        return "unknown version"


def _devices() -> list[str]:
    devices = [f"cpu: {_cpu_name()}, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = device.total_memory / 2**30
        devices.append(f"cuda:{index}: {device.name}, compute {device.major}.{device.minor}, {memory:.0f} GiB")
    return devices


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def collect() -> dict:
    """Everything this page prints, as JSON-compatible values.

    Keys: versions {name: version or None}, extension {loaded, why, and build_info()}, devices [str],
    operations [{operation, device, backend, why}].
    """
    return {
        "versions": {
            "atlas_fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch CUDA": torch.version.cuda,
            "triton": _triton_version(),
        },
        "extension": {"loaded": _extension.LOADED, "why": _extension.WHY, **_extension.build_info()},
        "devices": _devices(),
        "operations": [
            {"operation": operation, "device": device, "backend": backend, "why": why}
            for operation, served in sorted(ops.backends().items())
            for device, (backend, why) in served.items()
        ],
    }


def _table(rows: list[dict]) -> str:
    columns = list(rows[0])
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def render(info: dict) -> str:
    """`collect()`'s answer as text for a terminal."""
    extension = info["extension"]
    lines = [f"{name:20} {value or 'none'}" for name, value in info["versions"].items()]
    lines.append(f"{'compiled kernels':20} {'yes' if extension['loaded'] else 'no: ' + extension['why']}")
    if extension["loaded"]:
        cuda = f"toolkit {extension['cuda_toolkit']}, for {extension['cuda_archs']}"
        lines += [
            f"{'  file':20} {extension['path']}",
            f"{'  compiler':20} {extension['compiler']}, with torch {extension['torch']}",
            f"{'  CPU instructions':20} {extension['isa']}",
            f"{'  CUDA kernels':20} {cuda if extension['cuda'] else 'not compiled'}",
        ]
    lines += [f"{'device':20} {device}" for device in info["devices"]]
    told = {extension["why"]: "no compiled kernels"} if not extension["loaded"] else {}  # said in full above
    rows = [{**row, "why": told.get(row["why"], row["why"])} for row in info["operations"]]
    return "\n".join([*lines, "", _table(rows)])


def main() -> None:
    parser = errors.ArgumentParser(prog="python -m atlas_fast.info", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    info = collect()
    print(json.dumps(info, indent=1) if as_json else render(info))


if __name__ == "__main__":
    errors.run_cli(main)
