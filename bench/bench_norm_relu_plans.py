"""Launch configurations of the BatchNorm kernels on a GPU: the default, then one of its fields changed at a time.

    python -m bench.bench_norm_relu_plans [--only norm_relu ...] [--fields warps stages ...]

Prints microseconds and gigabytes per second, counted as if a tensor came from memory at every pass that reads it (from
the L2 cache it comes faster), and writes bench/results.
"""

import argparse

from atlas_fast.ops._registry import triton_module
from bench import bench_norm_relu, bench_norm_relu_backward, bench_norm_relu_tangent, harness

PASSES = {  # operation: (benchmark, shapes, tensors read or written by both kernels)
    "norm_relu": (bench_norm_relu, bench_norm_relu.SHAPES, 5),  # a, residual, z; z, out
    "norm_relu_backward": (bench_norm_relu_backward, bench_norm_relu.SHAPES, 6.5),  # g, z; those, residual, extra, dz
    "norm_relu_tangent": (bench_norm_relu_tangent, bench_norm_relu_tangent.HALVES, 8),  # t, g, z; those, out, extra
}
CHANGES = {"tile_bytes": (4096, 16384), "channels": (16, 64), "programs": (132, 528), "warps": (4, 16),
           "stages": (1, 2, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PASSES), default=list(PASSES), metavar="NAME")
    parser.add_argument("--fields", nargs="+", choices=tuple(CHANGES), default=list(CHANGES), metavar="FIELD")
    args = parser.parse_args()
    norm, rows = triton_module("_norm"), []
    default = norm.PLAN
    plans = {"default": default} | {f"{field} {value}": default._replace(**{field: value})
                                    for field in args.fields for value in CHANGES[field]}
    for name in args.only:
        benchmark, shapes, tensors = PASSES[name]
        for size, shape in shapes.items():
            variants = {}
            for label, plan in plans.items():
                norm.PLAN = plan
                variants[label] = benchmark.case(size, "cuda")["atlas_fast"]
            for label, ms in harness.interleaved(variants, "cuda").items():
                elements = shape[0] * shape[1] * shape[2] * shape[3]
                rows.append({"operation": name, "size": size, "plan": label, "us": ms * 1e3,
                             "GB/s": 2 * tensors * elements / ms / 1e6})
    print(harness.markdown(rows, list(rows[0])))
    print(f"\n{default}\n{harness.environment('cuda')}\nwritten to {harness.save('norm-plans', 'cuda', rows)}")


if __name__ == "__main__":
    main()
