"""Every setting of a run: what the user gave, the rest from the table of defaults, all checked."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..engine import AMP, ENGINES
from ..errors import UserError
from ..objectives import PRESETS, grad_align_weight, parameters
from .defaults import DEFAULTS, METHODS, ONE_STEP, OWN, RAMP_EPOCHS, STEP_OF_EPS, STEPS
from .neighbours import extras, own_defaults

# Which methods have which of the settings that not all have.
HAS = {name: tuple(method for method in METHODS if method in PRESETS and name in parameters(method))
       for name in ("alpha", "beta", "num_projections", "noise")}

ON_OVERFITTING = ("continue", "stop", "rewind")


@dataclass(frozen=True)
class Config:
    """A run's settings, resolved: no value is left open except those that may be None.

    eps, step_size, val_step_size: pixel units, [0,1] images. steps: 0 for plain and jac, else the adversary's steps.
    alpha, beta, noise: None where the method has none. image_size: imagefolder's resizing. max_batches: of an epoch, of
    the validation and of the test, for trials. replays: of Free; passes: YOPO's m; tau, omega: of FAT's early stop, tau
    None: it rises during training; awp, awp_warmup: weight perturbation and the epochs before it begins; ema: decay of
    the weights' average; None where there is none. objective: module:function, the user's own, of method "own".
    on_overfitting: what a run does when catastrophic overfitting sets in. accumulate: parts in which each process works
    off its batch; workers: processes that decode images while training, None: those that decide by themselves; sync_bn:
    whether several processes share the batch statistics of BatchNorm, "on" or "off"; checkpoint_activations: compute
    them again rather than keep them; log: "tensorboard" writes event files beside log.jsonl.
    """

    dataset: str
    data_dir: str
    image_size: int | None
    model: str
    method: str
    steps: int
    eps: float
    step_size: float
    alpha: float | None
    beta: float | None
    num_projections: int
    label_smoothing: float
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    ramp_epochs: float
    plateau_epochs: int
    validation_size: int | None
    val_steps: int
    val_step_size: float
    augment: str
    bn_mode: str
    engine: str
    amp: str
    seed: int
    device: str
    max_batches: int | None
    capture: str = "auto"
    noise: float | None = None
    schedule: str = "guided"
    replays: int | None = None
    passes: int | None = None
    tau: int | None = None
    omega: float | None = None
    awp: float | None = None
    awp_warmup: int | None = None
    ema: float | None = None
    on_overfitting: str = "continue"
    objective: str | None = None
    accumulate: int = 1
    workers: int | None = None
    sync_bn: str = "off"
    log: str = "none"
    checkpoint_activations: bool = False

    @property
    def stream(self) -> bool | None:
        """Whether images stay in their files; None: where they are many."""
        return True if self.workers is not None or self.augment == "resized-crop" else None

    @property
    def has_adversary(self) -> bool:
        return self.steps > 0

    def eps_at(self, ramp: float) -> float:
        """The adversary's eps at this value of the ramp, which of nuat raises the weight alone; 0 without one."""
        if not self.has_adversary:
            return 0.0
        return self.eps if self.method == "nuat" else self.eps * ramp


def resolve(given: dict) -> Config:
    """`given`: settings by the names of Config's fields; those missing or None take the data set's defaults.

    UserError: an unknown name, or a value that cannot be right."""
    given = {key: value for key, value in given.items() if value is not None}
    dataset, method = given.get("dataset", "digits"), given.get("method", "atlas")
    _choice("--dataset", dataset, DEFAULTS)
    if "objective" in given:
        if given.get("method", OWN) != OWN:
            raise UserError(f"--objective is a method of its own: leave --method {method} away")
        method = OWN
    else:
        _choice("--method", method, METHODS)
    row = DEFAULTS[dataset]
    given = {**own_defaults(dataset, method, row, given), **given}
    steps = given.get("steps", row.val_steps if method == "mart" else STEPS.get(method, 1))
    _check_steps(method, steps)
    _check_used(method, given)
    eps = _positive("--epsilon", given.get("eps", row.eps))
    epochs = _whole("--epochs", given.get("epochs", row.epochs), 1)
    # The table's step sizes belong to the table's eps; with another eps they keep their ratio to it.
    val_step_size = row.step_size if eps == row.eps else row.step_size * eps / row.eps
    step_size = eps if method in STEP_OF_EPS else 1.25 * eps if steps <= 1 else val_step_size
    alpha, beta = (_weight(name, method, steps, dataset, eps, given) for name in ("alpha", "beta"))
    device = str(given.get("device", "auto"))
    return Config(
        dataset=dataset, data_dir=str(given.get("data_dir", "data")), image_size=given.get("image_size"),
        model=given.get("model", row.model), method=method, steps=steps, eps=eps,
        step_size=_positive("--step-size", given.get("step_size", step_size)),
        alpha=alpha, beta=beta,
        noise=_not_negative("--noise", given.get("noise", 2.0)) if method in HAS["noise"] else None,
        num_projections=_whole("--num-projections", given.get("num_projections", 1), 1),
        label_smoothing=_fraction("--label-smoothing", given.get("label_smoothing", 0.0)),
        epochs=epochs, batch_size=_whole("--batch-size", given.get("batch_size", row.batch_size), 1),
        lr=_positive("--lr", given.get("lr", row.lr)),
        momentum=_fraction("--momentum", given.get("momentum", row.momentum)),
        weight_decay=_not_negative("--weight-decay", given.get("weight_decay", row.weight_decay)),
        ramp_epochs=_ramp_epochs(method, epochs, given.get("ramp_epochs")),
        plateau_epochs=_whole("--plateau-epochs", given.get("plateau_epochs", 2), 1),
        validation_size=given.get("validation_size"), val_steps=row.val_steps, val_step_size=val_step_size,
        augment=_augment(dataset, given.get("augment", row.augment), given),
        bn_mode=_choice("--bn-mode", given.get("bn_mode", "train"), ("train", "eval")),
        engine=_choice("--engine", given.get("engine", "auto"), ENGINES),
        amp=_choice("--amp", given.get("amp", "auto"), AMP),
        capture=_choice("--capture", given.get("capture", "auto"), ("auto", "on", "off")),
        schedule=_choice("--schedule", given.get("schedule", "guided"), ("guided", "fixed")),
        on_overfitting=_choice("--on-overfitting", given.get("on_overfitting", "continue"), ON_OVERFITTING),
        seed=_whole("--seed", given.get("seed", 0), 0), device=_device(device),
        max_batches=_whole("--max-batches", given["max_batches"], 1) if "max_batches" in given else None,
        accumulate=_whole("--accumulate", given.get("accumulate", 1), 1),
        checkpoint_activations=_checkpoints(method, given.get("checkpoint_activations", False)),
        workers=_whole("--workers", given["workers"], 0) if "workers" in given else None,
        sync_bn=_choice("--sync-bn", given.get("sync_bn", "off"), ("on", "off")),
        log=_choice("--log", given.get("log", "none"), ("none", "tensorboard")),
        objective=given.get("objective"), **extras(method, given))


def read_config(run_dir: str | Path) -> tuple[Config, dict]:
    """The settings in RUN_DIR/config.json, and the whole file (it also holds versions, the device's name, num_classes,
    in_channels and image_pixels). UserError: no such run, or not one of ours."""
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it holds no config.json")
    try:
        whole = json.loads(path.read_text())
        kept = [field for field in fields(Config) if field.name in whole or field.default is MISSING]
        for field in kept:
            _check_kind(field.name, whole[field.name], str(field.type))
        for name in ("num_classes", "in_channels", "image_pixels"):
            _whole(name, _check_kind(name, whole[name], "int"), 1)
        return Config(**{field.name: whole[field.name] for field in kept}), whole
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the settings of an atlas_fast run ({type(error).__name__}: {error})") from error


def _check_kind(name: str, value, kind: str):
    """`value`, of the kind that a field's annotation names ("float | None", ...). UserError: of another."""
    allowed: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "None": type(None)}
    right = any(isinstance(value, allowed[one]) for one in kind.split(" | "))
    if not right or (isinstance(value, bool) and "bool" not in kind) or (
            isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{name} must be of the kind {kind}, not {value!r}")
    return value


WITHOUT_EFFECT = ("data_dir", "device", "capture", "workers", "log", "checkpoint_activations")


def differing(old: Config, new: Config) -> list[str]:
    """Names of the settings that differ and change the result; where the data lie, who decodes them, the device, what
    it keeps of a pass, the way a step is launched and what is logged do not count."""
    before, after = asdict(old), asdict(new)
    return [name for name in before if before[name] != after[name] and name not in WITHOUT_EFFECT]


def _choice(option: str, value: str, allowed) -> str:
    if value not in allowed:
        raise UserError(f"{option} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _check_steps(method: str, steps: int) -> None:
    if steps < 0:
        raise UserError(f"--steps must be 0 or more, not {steps}")
    if method in ("plain", "jac") and steps:
        raise UserError(f"{method} has no adversary: --steps must be 0 or left away, not {steps}")
    if method not in ("plain", "jac", OWN) and not steps:
        raise UserError(f"{method} needs an adversary: --steps must be 1 (FGSM) or more (PGD); only jac takes 0")
    if method in ONE_STEP and steps != 1:
        raise UserError(f"{method} takes one step: --steps must be 1 or left away, not {steps}")


def _check_used(method: str, given: dict) -> None:
    """An option that this method would ignore is a mistake."""
    if "step_size" in given and method in ("plain", "jac"):
        raise UserError(f"{method} has no adversary: leave --step-size away")
    if given.get("on_overfitting", "continue") != "continue" and method in ("plain", "jac"):
        raise UserError(f"{method} has no adversary to overfit to: leave --on-overfitting away")
    if given.get("on_overfitting") == "rewind" and method in ("free", "yopo"):
        raise UserError(f"rewind raises the weight of the Jacobian term, which {method} cannot have; give stop or "
                        "continue")
    if "num_projections" in given and method not in HAS["num_projections"]:
        raise UserError(f"{method} has no Jacobian term: leave --num-projections away")
    if "noise" in given and method not in HAS["noise"]:
        raise UserError(f"{method} has no --noise; methods with it: {', '.join(HAS['noise'])}")


def _weight(name: str, method: str, steps: int, dataset: str, eps: float, given: dict) -> float | None:
    """alpha or beta of this method: given, or the table's; None where the method has no such term."""
    if method not in HAS[name]:
        if name in given:
            raise UserError(f"{method} has no {name}; methods with --{name}: {', '.join(HAS[name])}")
        return None
    value = given.get(name, DEFAULTS[dataset].weights[method][steps > 1].get(name))
    if value is None and method == "grad_align":
        value = grad_align_weight(eps)
    if value is None:
        raise UserError(f"the paper gives no {name} for {method} on {dataset}; give --alpha and --beta")
    return _not_negative(f"--{name}", value)


def _ramp_epochs(method: str, epochs: int, given: float | None) -> float:
    """R = min(15, epochs/2); plain and jac have no eps that rises. Of the neighbours' authors only two let something
    rise: eps of llr, the weight of nuat. The others' methods ramp as the paper's do where R is given."""
    if method in ("plain", "jac"):
        if given:
            raise UserError(f"{method} does not ramp; leave --ramp-epochs away")
        return 0.0
    return _not_negative("--ramp-epochs", min(RAMP_EPOCHS.get(method, 15.0), epochs / 2) if given is None else given)


def _checkpoints(method: str, wanted: bool) -> bool:
    if wanted and method == "yopo":
        raise UserError("yopo cannot --checkpoint-activations, since its passes end at one layer; --accumulate saves "
                        "memory there")
    return wanted


def _augment(dataset: str, name: str, given: dict) -> str:
    _choice("--augment", name, ("crop-flip", "resized-crop", "none"))
    for option, asked in (("--augment resized-crop", name == "resized-crop"), ("--workers", "workers" in given)):
        if asked and dataset != "imagefolder":
            raise UserError(f"{option} is for --dataset imagefolder, whose images are decoded while training; those of "
                            f"{dataset} are held in memory")
        if asked and "image_size" not in given:
            raise UserError(f"{option} decodes images while training, which needs one size for all: give --image-size")
    return name


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name} is not there: torch sees {torch.cuda.device_count()} GPUs; use --device cpu")
    return name


def _whole(option: str, value: int, low: int) -> int:
    if value != int(value) or value < low:
        raise UserError(f"{option} must be a whole number from {low} up, not {value}")
    return int(value)


def _positive(option: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option} must be a number above 0, not {value}")
    return float(value)


def _not_negative(option: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{option} must be a number from 0 up, not {value}")
    return float(value)


def _fraction(option: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UserError(f"{option} must be a number from 0 to below 1, not {value}")
    return float(value)
