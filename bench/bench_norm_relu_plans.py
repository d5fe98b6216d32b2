"""Launch configurations of the BatchNorm kernels on a GPU: the default, then one of its fields changed at a time.

    python -m bench.bench_norm_relu_plans [--only norm_relu ...] [--fields warps stages ...]

Prints microseconds and gigabytes per second, counted as if a tensor came from memory at every pass that reads it (from
the L2 cache it comes faster), and writes bench/results after each operation and size.
"""

import argparse
import math
from collections.abc import Callable

from atlas_fast.ops._registry import triton_module
from bench import bench_norm_relu, bench_norm_relu_backward, bench_norm_relu_tangent, harness

PASSES = {  # operation: (benchmark, shapes, tensors read or written by both kernels)
    "norm_relu": (bench_norm_relu, bench_norm_relu.SHAPES, 5),  # a, residual, z; z, out
    "norm_relu_backward": (bench_norm_relu_backward, bench_norm_relu.SHAPES, 6.5),  # g, z; those, residual, extra, dz
    "norm_relu_tangent": (bench_norm_relu_tangent, bench_norm_relu_tangent.HALVES, 8),  # t, g, z; those, out, extra
}
CHANGES = {"tile_bytes": (4096, 16384), "channels": (16, 64), "programs": (132, 528), "warps": (4, 16),
           "stages": (1, 2, 4)}
KEY = ("operation", "size", "plan")


def measure(only: list[str], fields: list[str], record: Callable[[list[dict]], None]) -> list[dict]:
    """Rows of all operations and sizes under all plans; `record` gets those of each operation and size at once."""
    norm, rows = triton_module("_norm"), []
    default = norm.PLAN
    plans = {"default": default} | {f"{field} {value}": default._replace(**{field: value})
                                    for field in fields for value in CHANGES[field]}
    for name in only:
        benchmark, shapes, tensors = PASSES[name]
        for size, shape in shapes.items():
            variants = {}
            for label, plan in plans.items():
                norm.PLAN = plan
                try:
                    variants[label] = benchmark.case(size, "cuda")["atlas_fast"]
                except Exception as error:  # too much shared memory, say: the other plans are to be seen too
                    rows.append({"operation": name, "size": size, "plan": label, "note": f"{error}"[:200]})
            norm.PLAN, elements = default, math.prod(shape)
            rows += [{"operation": name, "size": size, "plan": label, "us": ms * 1e3,
                      "GB/s": 2 * tensors * elements / ms / 1e6}
                     for label, ms in harness.interleaved(variants, "cuda").items()]
            record(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PASSES), default=list(PASSES), metavar="NAME")
    parser.add_argument("--fields", nargs="+", choices=tuple(CHANGES), default=list(CHANGES), metavar="FIELD")
    args = parser.parse_args()
    harness.choose_device("cuda")
    rows = measure(args.only, args.fields, lambda rows: harness.save("norm-plans", "cuda", rows, KEY))
    print(harness.markdown(rows, [*KEY, "us", "GB/s", "note"]))
    print(f"\n{triton_module('_norm').PLAN}\n{harness.environment('cuda')}")


if __name__ == "__main__":
    main()
