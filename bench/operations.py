"""Every fused operation against plain PyTorch, interleaved: prints a Markdown table and writes bench/results.

    python -m bench.operations [--device cpu|cuda] [--threads N] [--only NAME ...]
"""

import argparse

import torch

from atlas_fast import _extension, ops
from bench import (
    bench_ce_kl,
    bench_crop_flip,
    bench_fgsm,
    bench_jacobian_norm,
    bench_norm_relu,
    bench_norm_relu_backward,
    bench_norm_relu_tangent,
    bench_pgd_step,
    bench_random_start,
    bench_relu_max_pool,
    bench_squared_norm,
    bench_unit_vectors,
    bench_winograd_convolution,
    harness,
)

MODULES = {module.__name__.removeprefix("bench.bench_"): module for module in (
    bench_random_start, bench_pgd_step, bench_fgsm, bench_unit_vectors, bench_squared_norm, bench_jacobian_norm,
    bench_ce_kl, bench_crop_flip, bench_relu_max_pool, bench_norm_relu, bench_norm_relu_backward,
    bench_norm_relu_tangent, bench_winograd_convolution)}


def without_kernel(name: str, device: str) -> bool:
    """Whether PyTorch's reference serves the operation here although kernels are installed: nothing to compare."""
    backend, _ = ops.backends().get(name, {}).get(device, ("", ""))
    return backend == "PyTorch reference" and _extension.LOADED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=tuple(MODULES), default=list(MODULES), metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.only:
        if without_kernel(name, args.device):
            print(f"{name}: no {args.device} kernel")
            continue
        for size in MODULES[name].SIZES:
            ms = harness.interleaved(MODULES[name].case(size, args.device), args.device)
            rows.append({"operation": name, "size": size, "atlas_fast us": ms["atlas_fast"] * 1e3,
                         "PyTorch us": ms["PyTorch"] * 1e3, "ratio": ms["PyTorch"] / ms["atlas_fast"]})
    if not rows:
        return
    print(harness.markdown(rows, list(rows[0])))
    print(f"\n{harness.environment(args.device)}\nwritten to {harness.save('operations', args.device, rows)}")


if __name__ == "__main__":
    main()
