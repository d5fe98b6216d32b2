"""The flag of Croce & Hein 2020 on a whole cascade, as a sentence for a report; those on the model: `model_checks`."""

from __future__ import annotations

SQUARE_GAIN = 0.002  # in accuracy


def check_square(accuracy_after: dict[str, float]) -> list[str]:
    """accuracy_after: accuracy in [0, 1] after each part of a cascade, in order, with "square" among them."""
    others = [value for name, value in accuracy_after.items() if name != "square"]
    if "square" not in accuracy_after or len(others) < 2:  # clean accuracy alone is no white-box attack
        return []
    gain = min(others) - accuracy_after["square"]
    if gain <= SQUARE_GAIN:
        return []
    return [f"Square, which uses no gradient, lowered the accuracy by {100 * gain:.2f} points more than the attacks "
            "that do: their gradients are probably masked, and the robust accuracy may be too high; run more queries "
            "and restarts of Square, RayS, or an attack made for this model"]
