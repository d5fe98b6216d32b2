"""The weight gradient inside a double backward: PyTorch's own formula against the ordinary weight gradient.

    python -m bench.weight_gradient [--model wrn-28-8] [--batch-size 64] [--device auto] [--record FILE]

PyTorch computes it as a forward convolution whose kernel has the image's size. How long the first call takes (cuDNN's
choice of an algorithm), how long the next ones do, and the relative error of both against float32. One call can take
very long: run it under a time limit; --record keeps what was done before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from bench import harness, work
from bench.convolutions import call, tensors
from bench.work import Convolution
from bench.workload import network, shape

aten = torch.ops.aten


def stock(c: Convolution, x, weight, g):
    """The weight gradient as `_convolution_double_backward` gives it for the pair (x, g)."""
    return aten._convolution_double_backward(x, None, None, g, weight, x, c.stride, c.padding, c.dilation, False,
                                             (0, 0), c.groups, (False, False, True))[2]


def compare(c: Convolution, size: int, device: str, tuned: bool) -> dict:
    """{"ordinary ms", "stock ms", "ratio", "stock first call s", "ordinary error", "stock error"}."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = tuned
    x, weight, g = tensors(c, size, device)
    ordinary = call("weight gradient", c, x, weight, g)
    began = time.perf_counter()
    given = stock(c, x, weight, g)
    harness.synchronise(device)
    first = time.perf_counter() - began
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact = call("weight gradient", c, x.float(), weight.float(), g.float())()[1]
    ms = harness.interleaved({"ordinary": ordinary, "stock": lambda: stock(c, x, weight, g)}, device, 5, 10.0)
    return {"ordinary ms": ms["ordinary"], "stock ms": ms["stock"], "ratio": ms["stock"] / ms["ordinary"],
            "stock first call s": first, "ordinary error": _error(ordinary()[1], exact),
            "stock error": _error(given, exact)}


def _error(given, exact) -> float:
    return float((given.float() - exact).norm() / exact.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="JSON file that holds what is done so far")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    (channels, pixels), rows = shape(args.model), []
    counts = work.convolutions(network(args.model), (args.batch_size, channels, pixels, pixels))
    for tuned in ((False, True) if device == "cuda" else (False,)):  # cuDNN's own choice first: it may be the quick one
        for c, count in counts.items():
            row = {"model": args.model, "convolution": c.name, "batch": args.batch_size, "tuned": tuned,
                   "count": count}
            rows.append({**row, "note": "running"})
            if args.record:
                harness.write_json(args.record, {"rows": rows})
            rows[-1] = {**row, **compare(c, args.batch_size, device, tuned)}
            if args.record:
                harness.write_json(args.record, {"rows": rows})
    print(harness.markdown(rows, [k for k in rows[0] if k != "model"]))
    print(f"written to {harness.save('weight-gradient', device, rows, ('model', 'convolution', 'batch', 'tuned'))}")


if __name__ == "__main__":
    main()
