"""A run's network for other runtimes, with a check that the logits agree.

    python -m atlas_fast.export RUN_DIR --to torch-export --out model.pt2
    python -m atlas_fast.export RUN_DIR --to onnx --out model.onnx

The file takes float32 images [N,C,H,W] in [0,1], any N from 1 up, and gives logits [N,classes]. It is read again, asked
about batches of several sizes, and kept only where its logits are the network's.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .errors import ArgumentParser, UserError, run_cli
from .loading import load
from .training.config import read_config

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4  # of the largest logit: float32, with sums in another order


def parser() -> ArgumentParser:
    p = ArgumentParser(prog="python -m atlas_fast.export", description="A run's network as one file, checked.")
    p.add_argument("run_dir", type=Path, help="folder of a run of atlas_fast.train")
    p.add_argument("--to", required=True, choices=tuple(FORMATS), help="torch-export is read by torch.export.load")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="is replaced if it exists")
    return p


def main(argv: list[str] | None = None) -> None:
    """The command line; raises UserError for wrong use, and leaves FILE as it was."""
    args = parser().parse_args(argv)
    _, whole = read_config(args.run_dir)
    shape = (whole["in_channels"], whole["image_pixels"], whole["image_pixels"])
    deviation = export(load(args.run_dir), shape, args.to, args.out)
    print(f"written to {args.out} ({args.to}): images [N,{','.join(map(str, shape))}] in [0,1] -> logits "
          f"[N,{whole['num_classes']}]; logits agree to {deviation:.1e} on batches of "
          f"{', '.join(map(str, BATCHES))}")


def export(model: nn.Module, shape: tuple[int, int, int], to: str, path: str | Path) -> float:
    """Write the model in eval mode to `path` and compare. shape: [C,H,W]; to: "torch-export" or "onnx".

    Returns the largest difference of a logit over the largest logit. UserError: the model cannot be exported, a package
    is missing, the logits differ by more than TOLERANCE, or `path` cannot be written; what was there stays."""
    if to not in FORMATS:
        raise UserError(f"a network is exported to {' or '.join(FORMATS)}, not {to!r}")
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: it must be a file in a folder that exists")
    write, read = FORMATS[to]()
    modes, device = {m: m.training for m in model.modules()}, next(model.parameters()).device
    model.eval().cpu()
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            temporary = Path(folder, path.name)
            _write(write, model, torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)), temporary)
            deviation = compare(model, read(temporary), shape)
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        model.to(device)
        for module, training in modes.items():
            module.training = training
    return deviation


def compare(model: nn.Module, exported: Callable, shape: tuple[int, int, int]) -> float:
    """The largest difference of a logit over the largest logit, on random images. UserError: above TOLERANCE."""
    largest = 0.0
    for n in BATCHES:
        x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))
        try:
            with torch.no_grad():
                wanted, logits = model(x), exported(x)
        except Exception as error:  # of another runtime
            raise UserError(f"the exported network fails on {n} images ({_line(error)}); nothing was kept") from error
        if logits.shape != wanted.shape:
            raise UserError(f"the exported network gives {list(logits.shape)} for {list(wanted.shape)}; nothing was "
                            "kept")
        deviation = float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
        if not deviation <= TOLERANCE:  # NaN too
            raise UserError(f"the exported network's logits differ by {deviation:.1e} of the largest; nothing was kept")
        largest = max(largest, deviation)
    return largest


def _torch_export() -> tuple[Callable, Callable]:
    def write(model: nn.Module, x: torch.Tensor, path: Path) -> None:
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        with torch.no_grad():
            torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), path)

    def read(path: Path) -> Callable:
        module = torch.export.load(path).module()

        def logits(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return module(x)

        return logits

    return write, read


def _onnx() -> tuple[Callable, Callable]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")

    def write(model: nn.Module, x: torch.Tensor, path: Path) -> None:
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False,
                          input_names=["images"], output_names=["logits"],
                          dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))

    def read(path: Path) -> Callable:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])

    return write, read


FORMATS = {"torch-export": _torch_export, "onnx": _onnx}


def _write(write: Callable, model: nn.Module, x: torch.Tensor, path: Path) -> None:
    try:
        write(model, x, path)
    except OSError:
        raise
    except Exception as error:  # a network that the tracer does not understand
        raise UserError(f"this network cannot be exported ({_line(error)}); nothing was kept") from error


def _line(error: Exception) -> str:
    """The error's kind and first line; the tracer's reports are pages long."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]


if __name__ == "__main__":
    run_cli(main)
