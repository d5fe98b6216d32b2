"""The interface that is promised to the outside, and what its docstrings must say."""

import atlas_fast as af

TENSORS, LENGTHS = r"\[N|0-d|int64 \[2\]", r"\[0, ?1\]|pixel units|>= ?\d|from \d+ up|0\.\.C-1"
PROMISED = {  # name: what its docstring, or that of its class, must say: shapes, ranges, errors
    "objectives.Objective.__call__": (TENSORS, LENGTHS, "UserError"),
    "TrainingStep": (TENSORS, LENGTHS, "UserError"), "TrainingStep.__call__": (TENSORS, LENGTHS, "UserError"),
    "FreeStep.__call__": (TENSORS, LENGTHS, "UserError"), "YopoStep.__call__": (TENSORS, LENGTHS, "UserError"),
    "load": (TENSORS, LENGTHS, "UserError"), "evaluate": (TENSORS, LENGTHS, "UserError"),
    "ops.random_start": (TENSORS, LENGTHS, "UserError"), "ops.pgd_step": (TENSORS, LENGTHS, "UserError"),
    "ops.fgsm": (TENSORS, LENGTHS, "UserError"), "ops.ce_kl": (TENSORS, LENGTHS, "UserError"),
    "ops.jacobian_norm": (TENSORS, "UserError"),
    "models.wide_resnet": (TENSORS, LENGTHS, "UserError"), "models.small_cnn": (TENSORS, LENGTHS, "UserError"),
    "models.preact_resnet18": (TENSORS, LENGTHS),
    **{f"attacks.{name}": ("pixel units", "UserError") for name in af.attacks.__all__
       if name not in ("FGSM", "Network", "Transfer")},
    **{f"attacks.{name}.__call__": (TENSORS, LENGTHS, "UserError") for name in af.attacks.__all__
       if name not in ("Network", "Transfer")}}
