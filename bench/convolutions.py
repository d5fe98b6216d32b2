"""Every convolution of a network by itself: forward, input gradient, weight gradient; what a step's convolutions cost.

    python -m bench.convolutions [--model wrn-28-8] [--batch-sizes 64 128 192] [--method atlas] [--device auto]
                                 [--record FILE]

On CUDA bf16, channels-last, with cuDNN's algorithms measured first (`cudnn.benchmark`); on a CPU float32. "hot": one
set of tensors over and over; "cold": sets in turn, together larger than the caches. The sum over a step takes for each
shape the best of what was measured: x' and x apart or as one batch of twice the size, weight gradients likewise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench import harness, work
from bench.work import Convolution
from bench.workload import network, shape, workload

aten = torch.ops.aten
OPERATIONS = ("forward", "input gradient", "weight gradient")
ROTATE = 200e6  # bytes that the sets of one shape fill together: more than any L2


def tensors(convolution: Convolution, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, weight and the output's gradient."""
    cuda = device == "cuda"
    dtype, layout = (torch.bfloat16, torch.channels_last) if cuda else (torch.float32, torch.contiguous_format)

    def made(*sizes):
        return torch.randn(*sizes, device=device).to(dtype).contiguous(memory_format=layout)

    c = convolution
    weight = made(c.out_channels, c.in_channels // c.groups, *c.kernel)
    image = [(n + 2 * p - d * (k - 1) - 1) // s + 1
             for n, p, d, k, s in zip(c.image, c.padding, c.dilation, c.kernel, c.stride, strict=True)]
    return made(size, c.in_channels, *c.image), weight, made(size, c.out_channels, *image)


def call(operation: str, c: Convolution, x, weight, g) -> Callable:
    geometry = (c.stride, c.padding, c.dilation, False, (0, 0), c.groups)
    if operation == "forward":
        return lambda: aten.convolution(x, weight, None, *geometry)
    mask = (operation == "input gradient", operation == "weight gradient", False)
    return lambda: aten.convolution_backward(g, x, weight, None, *geometry, mask)


def measure_one(c: Convolution, operation: str, size: int, device: str) -> dict:
    """{"hot ms", "cold ms", "ms" (the better), "TFLOP/s", "first call s"}."""
    sets = [tensors(c, size, device)]
    each = sum(t.numel() * t.element_size() for t in sets[0])
    began = time.perf_counter()
    call(operation, c, *sets[0])()
    harness.synchronise(device)
    first = time.perf_counter() - began
    if device == "cuda":
        sets += [tensors(c, size, device) for _ in range(min(24, max(2, int(ROTATE / each))))]
    hot = harness.per_call_ms([call(operation, c, *sets[0])] * (10 if device == "cuda" else 1), device)
    cold = harness.per_call_ms([call(operation, c, *one) for one in sets], device) if len(sets) > 1 else hot
    operations = 2 * sets[0][2].numel() * sets[0][1][0].numel()
    best = min(hot, cold)
    return {"hot ms": hot, "cold ms": cold, "ms": best, "TFLOP/s": operations / best / 1e9, "first call s": first}


def order(size: int, sizes: list[int]) -> list[tuple[str, int]]:
    """(operation, batch): what a step of `size` images cannot do without first."""
    rest = [(operation, n) for n in sizes if n != size for operation in OPERATIONS]
    return [*((operation, size) for operation in OPERATIONS), *rest]


def step_ms(table: dict, counts, need: work.Passes, size: int) -> float | None:
    """Sum of the best isolated times of all convolutions of a step; None where one was not measured.

    table: {(convolution, operation, batch): ms}. The first layer has no input gradient in the weights' pass.
    """
    total = 0.0
    for c, count in counts.items():
        for operation, times, joined in (("forward", need.forward, need.inner),
                                         ("input gradient", need.to_images + (0 if c.first else need.inner),
                                          0 if c.first else need.inner),
                                         ("weight gradient", need.weights, need.weights)):
            best = cheapest(table, c, operation, times, joined, size)
            if best is None:
                return None
            total += count * best
    return total


def cheapest(table: dict, c: Convolution, operation: str, times: int, joined: int, size: int) -> float | None:
    """Least time of `times` calls at `size` images, of which up to `joined` may run as one batch."""
    single = table.get((c, operation, size))
    if single is None:
        return None
    options = [times * single]
    for together in range(2, joined + 1):
        if (ms := table.get((c, operation, together * size))) is not None:
            options.append(ms + (times - together) * single)
    return min(options)


def measure(model_name: str, method: str, sizes: list[int], device: str, record: Callable[[dict], None]) -> dict:
    """All shapes; `record` gets {"rows", "step ms"} after each. sizes[0]: the step's batch; the others: multiples."""
    model, size = network(model_name), sizes[0]
    channels, pixels = shape(model_name)
    counts, need = work.convolutions(model, (size, channels, pixels, pixels)), work.passes(workload(method).objective)
    table, found = {}, {"model": model_name, "method": method, "batch": size, "step ms": None, "rows": []}
    for operation, n in order(size, sizes):
        for c, count in counts.items():
            values = measure_one(c, operation, n, device)
            table[c, operation, n] = values["ms"]
            found["rows"].append({"model": model_name, "convolution": c.name, "operation": operation, "batch": n,
                                  "count": count, **values})
            found["step ms"] = step_ms(table, counts, need, size)
            record(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--method", default="atlas")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 128, 192])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="JSON file that holds what is done so far")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = harness.choose_device(args.device)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    found = measure(args.model, args.method, args.batch_sizes, device,
                    lambda made: harness.write_json(args.record, made) if args.record else None)
    print(harness.markdown(found["rows"], [k for k in found["rows"][0] if k != "model"]))
    print(f"\nall convolutions of a step of {args.method}, {args.batch_sizes[0]} images: {found['step ms']:.3f} ms")
    print(f"written to {harness.save('convolutions', device, found['rows'], tuple(found['rows'][0])[:4])}")


if __name__ == "__main__":
    main()
