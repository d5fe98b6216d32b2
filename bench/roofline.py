"""What the machine can do at best, measured, and the least time that a step can take on it.

    python -m bench.roofline [--models wrn-28-8] [--batch-sizes 64] [--methods atlas adv ...] [--device auto]

Ceilings: the rate of a large matrix product (bf16 on CUDA, float32 on a CPU) on random data, and the bandwidth of a
large copy, bytes read plus bytes written; both over rotating buffers. Floor of a step: its convolutions' operations at
that rate, plus the bytes of everything between them (`bench.work.traffic`) at that bandwidth. Operations are those of
direct convolutions: Winograd's algorithm, with a quarter of the multiplications, can undercut the floor (on a CPU).
"""

from __future__ import annotations

import argparse

import torch

from bench import harness, work
from bench.workload import network, shape, workload

METHODS = ("atlas", "adv", "trades", "atlas_l", "atlas_g", "tradesjac", "jac", "plain", "atlas-10", "adv-10")


def ceilings(device: str) -> dict[str, float]:
    """{"matmul TFLOP/s", "copy GB/s"}; about a second."""
    cuda = device == "cuda"
    n, elements = (8192, 2**30) if cuda else (768, 2**24)
    dtype = torch.bfloat16 if cuda else torch.float32
    pairs = [[torch.randn(n, n, device=device).to(dtype) for _ in "ab"] for _ in range(2)]
    product = harness.per_call_ms([lambda a=a, b=b: a @ b for a, b in pairs], device, target_ms=40)
    del pairs
    buffers = [torch.empty(elements, dtype=dtype, device=device).normal_() for _ in range(3)]
    moves = [lambda a=a, b=b: b.copy_(a) for a, b in zip(buffers, buffers[1:] + buffers[:1], strict=True)]
    copying = harness.per_call_ms(moves, device, target_ms=40)
    return {"matmul TFLOP/s": 2 * n**3 / product / 1e9,
            "copy GB/s": 2 * elements * dtype.itemsize / copying / 1e6}


def floor_ms(objective, model, image_shape, measured: dict[str, float], device: str) -> dict[str, float]:
    """{"convolutions", "between", "floor"} in milliseconds: activations in bf16 on CUDA, in float32 on a CPU."""
    itemsize = 2 if device == "cuda" else 4
    convolutions = work.flops(objective, model, image_shape) / measured["matmul TFLOP/s"] / 1e9
    between = work.traffic(objective, model, image_shape, itemsize) / measured["copy GB/s"] / 1e6
    return {"convolutions ms": convolutions, "between ms": between, "floor ms": convolutions + between}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["wrn-28-8"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    measured = ceilings(device)
    harness.save("ceilings", device, [{"ceiling": name, "value": value} for name, value in measured.items()],
                 ("ceiling",))
    rows = []
    for name in args.models:
        model = network(name)
        for size in args.batch_sizes:
            image_shape = (size, shape(name)[0], shape(name)[1], shape(name)[1])
            for method in args.methods:
                objective = workload(method).objective
                rows.append({"model": name, "batch": size, "method": method,
                             "forward-equivalents": work.passes(objective).total,
                             "TFLOP": work.flops(objective, model, image_shape) / 1e12,
                             **floor_ms(objective, model, image_shape, measured, device)})
    print(", ".join(f"{name}: {value:.4g}" for name, value in measured.items()))
    print(harness.markdown(rows, list(rows[0])))
    print(f"written to {harness.save('floor', device, rows, ('model', 'batch', 'method'))}")


if __name__ == "__main__":
    main()
