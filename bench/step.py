"""Milliseconds per training step of one-step ATLAS: TrainingStep's engines against plain PyTorch, interleaved.

    python -m bench.step [--model wrn-28-8] [--batch-size 64] [--device auto] [--rounds 9] [--threads N]

Variants: plain PyTorch in float32 and (CUDA) under bf16 autocast with channels-last, TrainingStep likewise by
autograd and by sweeps.
"""

import argparse
import copy

import torch

import atlas_fast as af
from bench import harness
from bench.reference_step import atlas_step

SETTINGS = {"eps": 8 / 255, "alpha": 2e-4, "beta": 5.0}


def variants(model_name: str, batch: int, device: str) -> dict:
    """{name: a call that does one whole step}."""
    channels, size = (1, 28) if model_name == "small_cnn" else (3, 32)
    torch.manual_seed(0)
    model = af.models.create(model_name, 10, channels, size).to(device).train()
    x, y = torch.rand(batch, channels, size, size, device=device), torch.randint(10, (batch,), device=device)

    def make(engine: str | None, amp: bool):
        own, images = copy.deepcopy(model), x
        if amp:
            own, images = own.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)
        if engine is None:
            dtype = torch.bfloat16 if amp else None
            return lambda: atlas_step(own, optimizer, images, y, **SETTINGS, amp=dtype)
        step = af.TrainingStep(own, af.objectives.atlas(**SETTINGS), optimizer, engine, amp="bf16" if amp else "off")
        return lambda: step(images, y)

    made = {"PyTorch float32": make(None, False), "autograd float32": make("autograd", False),
            "sweeps float32": make("sweeps", False)}
    if device == "cuda":
        made |= {f"{engine or 'PyTorch'} bf16 channels-last": make(engine, True)
                 for engine in (None, "autograd", "sweeps")}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = args.device if args.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    ms = harness.interleaved(variants(args.model, args.batch_size, device), device, rounds=args.rounds, target_ms=100.0)
    base = ms["PyTorch float32"]
    rows = [{"model": args.model, "batch": args.batch_size, "variant": name, "ms per step": value,
             "images/s": args.batch_size / value * 1e3, "times PyTorch float32": base / value}
            for name, value in ms.items()]
    print(harness.markdown(rows, list(rows[0])))
    print(f"\n{harness.environment(device)}")
    print(f"written to {harness.save(f'step-{args.model}-{args.batch_size}', device, rows)}")


if __name__ == "__main__":
    main()
