"""What a run leaves, without the times; and a small network."""

import json
from pathlib import Path

from torch import nn

from atlas_fast.training import checkpoint

TIMES = ("seconds", "ms_per_batch", "training_seconds")


def without_times(value):
    """The same lists and dicts; a tensor is its type, shape and bytes, so that == compares bit by bit."""
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [without_times(part) for part in value]
    if hasattr(value, "numpy"):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    return value


def outcome(folder: Path) -> dict:
    """Every file of a finished run but the drawing and last.pt's predecessor."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"names": sorted(path.name for path in folder.iterdir()), "log": without_times(lines),
            "last": without_times(checkpoint.load_last(folder / "last.pt")),
            "best": (folder / "best.safetensors").read_bytes(),
            "summary": without_times(json.loads((folder / "summary.json").read_text())),
            "config": (folder / "config.json").read_bytes()}


def dropout_net(num_classes, in_channels, image_size):
    """--model folders:dropout_net: draws from torch's generator, has running statistics, is small."""
    return nn.Sequential(nn.Conv2d(in_channels, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
                         nn.Dropout(0.3), nn.Flatten(), nn.Linear(3 * (image_size // 2) ** 2, num_classes))
