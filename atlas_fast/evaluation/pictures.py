"""Images, adversaries and magnified perturbations as PNG data URIs for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch

from ..data import ImageFiles, to_float
from .samples import AttackResult

PICTURES = 12  # rows of the grid


def grid(x: torch.Tensor | ImageFiles, labels: np.ndarray, correct: np.ndarray, results: dict[str, AttackResult],
         classes: list[str]) -> list[dict]:
    """Up to PICTURES images that were right and got broken, the attacks in turn: {"attack", "index", "label",
    "prediction", "magnified" (the factor), "image", "adversary", "perturbation" (data URIs)}.

    x: images [N, C, H, W], uint8 or float in [0, 1]; labels: int64 [N].
    """
    turns = [[(name, result, row, image) for row, image in zip(result.kept, result.adversaries, strict=True)
              if result.broken[row] and correct[result.index[row]]] for name, result in results.items()]
    chosen, seen = list[dict](), set[int]()
    for turn in range(max(map(len, turns), default=0)):
        for name, result, row, adversary in (examples[turn] for examples in turns if turn < len(examples)):
            index = int(result.index[row])
            if index not in seen and len(chosen) < PICTURES:
                seen.add(index)
                image = to_float(x[index].cpu()).numpy()
                chosen.append(_entry(name, index, image, adversary) | {
                    "label": _class(classes, labels[index]), "prediction": _class(classes, result.prediction[row])})
    return chosen


def _entry(attack: str, index: int, image: np.ndarray, adversary: np.ndarray) -> dict:
    delta = adversary - image
    factor = 0.5 / max(float(np.abs(delta).max()), 1e-12)
    return {"attack": attack, "index": index, "magnified": factor, "image": data_uri(image),
            "adversary": data_uri(adversary), "perturbation": data_uri(0.5 + factor * delta)}


def _class(classes: list[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


def data_uri(image: np.ndarray) -> str:
    """A float image [C, H, W] in [0, 1] as PNG; three channels as RGB, otherwise the first as grey."""
    from PIL import Image

    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
