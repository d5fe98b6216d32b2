"""Everything a run needs, built and checked before anything is written."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from .. import data, models, named, objectives
from ..attacks import PGD
from ..data import Batches, CropFlip, Dataset, ImageFiles, StreamedBatches
from ..engine import FreeStep, Ranks, TrainingStep, YopoStep
from ..errors import UserError
from .config import Config
from .neighbours import tau
from .overfitting import Watch
from .rewind import Rewinder
from .schedule import Schedule
from .tally import Tally


@dataclass
class Run:
    """A run's parts: settings, data, network, training step, batches, schedule, the validation's attack, and the
    processes that share it; and what looks after it: for catastrophic overfitting, the way back from it, and steps that
    are not finite."""

    config: Config
    data: Dataset
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: TrainingStep
    batches: Batches | StreamedBatches
    schedule: Schedule
    attack: PGD
    device: torch.device
    ranks: Ranks
    tally: Tally
    watch: Watch = field(default_factory=Watch)
    rewinder: Rewinder = field(default_factory=Rewinder)

    @property
    def bf16(self) -> bool:
        """Whether the network trains under bf16 autocast; validation then uses it too, the final test does not."""
        return self.step.amp == torch.bfloat16

    @property
    def precision(self) -> str:
        """Of the training's convolutions and products. In fp16 only the training runs: validation is in float32."""
        names: dict[torch.dtype | None, str] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names.get(self.step.amp, "float32")

    @property
    def scaling(self) -> dict[str, float]:
        """For the log: the loss scale of fp16, and the steps that were left out to halve it."""
        if self.step.loss_scale is None:
            return {}
        return {"loss_scale": self.step.loss_scale, "backoffs": self.step.backoffs}

    @property
    def network(self) -> nn.Module:
        """What is validated and kept: the network with averaged weights, where there is one, else the trained one."""
        return self.model if self.step.averaged is None else self.step.averaged

    @property
    def keeps_last(self) -> bool:
        """Whether, if it ended now, the run would keep its last weights: no epoch counts, and none is overfitted."""
        return self.schedule.best_epoch is None and self.watch.since is None

    def begin_epoch(self, number: int) -> None:
        """Settings that change with the epoch (from 1): FAT's tau, and whether the weights are perturbed."""
        config, objective = self.config, self.step.objective
        # Dropout and its like draw from torch's generator, which no checkpoint holds; each process has its own draws.
        torch.manual_seed((config.seed * 1_000_003 + number + self.ranks.rank * 2**40) % 2**63)
        if config.method == "fat" and objective.tau != (now := tau(config.tau, number, config.epochs)):
            self.step.objective = objective.replace(tau=now)
        self.step.perturbs = config.awp is not None and number > (config.awp_warmup or 0)


def load_data(config: Config) -> Dataset:
    """The data set with its validation images split off. UserError: missing or wrong files."""
    whole = data.load(config.dataset, config.data_dir, config.image_size, config.stream)
    split = data.split_validation(whole, config.validation_size, config.seed)
    if config.max_batches is None:
        return split
    # A trial of a few batches: PGD on thousands of images would take hours where a batch takes a minute.
    return data.limit_evaluation(split, config.max_batches * config.batch_size, config.seed)


def prepare(config: Config, dataset: Dataset | None = None, ranks: Ranks | None = None) -> Run:
    """Build a run. UserError: anything that would make it fail. dataset: as `load_data` gives it, if at hand; ranks:
    the processes that all build it, None: this one alone."""
    ranks = Ranks.alone() if ranks is None else ranks
    if config.accumulate > 1 and config.batch_size % (ranks.size * config.accumulate):
        each = f" of each of {ranks.size} processes" if ranks.size > 1 else ""
        raise UserError(f"--batch-size {config.batch_size} cannot be worked off in --accumulate {config.accumulate} "
                        f"equal parts{each}; it must be a multiple of {ranks.size * config.accumulate}")
    device = torch.device(config.device)
    torch.backends.cudnn.benchmark = True  # every batch of a run has one shape
    dataset = dataset or load_data(config)
    torch.manual_seed(config.seed)
    model = models.create(config.model, dataset.num_classes, dataset.in_channels, dataset.image_size)
    channels_last = device.type == "cuda"
    model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    _try_network(model, dataset, config.model, device)
    model.train()  # before the step is made: its engine depends on dropout being there
    batches = make_batches(config, dataset, device, ranks)
    ranks.follow_first(model.state_dict().values())  # another processor may round the first weights differently
    # Fused, it lets the device skip a step with an unusable gradient and fits into a CUDA graph.
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum,
                                weight_decay=config.weight_decay, fused=device.type == "cuda")
    step = make_step(config, model, optimizer, ranks)
    schedule = Schedule(config.lr, config.epochs, config.ramp_epochs, config.plateau_epochs,
                        config.schedule == "fixed")
    attack = PGD(config.eps, config.val_step_size, config.val_steps)
    return Run(config, dataset, model, optimizer, step, batches, schedule, attack, device, ranks, Tally(ranks.average))


def make_batches(config: Config, dataset: Dataset, device: torch.device, ranks: Ranks) -> Batches | StreamedBatches:
    """This process's part of the training batches, from memory or from files."""
    images = dataset.train_images
    options = (dataset.train_labels, config.batch_size, config.seed, device, config.max_batches,
               (ranks.rank, ranks.size))
    if isinstance(images, ImageFiles):
        return StreamedBatches(images, *options, config.augment == "resized-crop", config.workers)
    return Batches(images, *options)


def make_step(config: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
              ranks: Ranks | None = None) -> TrainingStep:
    """The step that the method is made of."""
    options: dict[str, Any] = {
        "engine": config.engine, "amp": config.amp, "seed": config.seed, "bn_mode": config.bn_mode,
        "augment": CropFlip() if config.augment == "crop-flip" else None, "capture": config.capture,
        "awp": config.awp, "ema": config.ema, "ranks": ranks, "accumulate": config.accumulate,
        "sync_bn": config.sync_bn, "checkpoint_activations": config.checkpoint_activations}
    objective = make_objective(config)
    if config.method == "free":
        assert config.replays is not None  # resolved for this method
        return FreeStep(model, objective, optimizer, config.replays, **options)
    if config.method == "yopo":
        assert config.passes is not None
        return YopoStep(model, objective, optimizer, config.passes, **options)
    return TrainingStep(model, objective, optimizer, **options)


def make_objective(config: Config) -> objectives.Objective:
    """The method's preset with this run's values; one that does not ramp by itself does if the run has a ramp."""
    if config.objective is not None:
        return own_objective(config)
    if config.method in ("free", "fat", "yopo"):
        early = {"tau": tau(config.tau, 1, config.epochs), "omega": config.omega} if config.method == "fat" else {}
        return objectives.adv(config.eps, config.steps, config.step_size, config.label_smoothing).replace(
            name=config.method, **early)
    wanted = objectives.parameters(config.method)
    objective = objectives.create(config.method, **{name: getattr(config, name) for name in wanted})
    return objective.replace(ramps=True) if config.ramp_epochs and not objective.ramps else objective


def own_objective(config: Config) -> objectives.Objective:
    """What the user's module:function makes of this run's eps, steps and step_size. UserError: it fails, returns
    something else, or what config.json and the log say of eps and steps would not be what it does."""
    name = config.objective
    assert name is not None  # asked by make_objective
    objective = named.make(name, "objective", objectives.Objective, eps=config.eps, steps=config.steps,
                           step_size=config.step_size)
    if objective.steps != config.steps:
        raise UserError(f"the objective {name!r} takes {objective.steps} steps: give --steps {objective.steps}")
    if objective.steps and objective.eps != config.eps:
        raise UserError(f"the objective {name!r} has eps {objective.eps}, the run {config.eps}: use the eps that "
                        "the function is called with")
    if objective.steps and config.ramp_epochs and objective.ramps not in (True, "eps"):
        raise UserError(f"the eps of the objective {name!r} does not ramp (ramps={objective.ramps!r}): give "
                        "--ramp-epochs 0")
    return objective


def describe(run: Run) -> dict:
    """What config.json holds: all settings, the data's and the network's sizes, the engine in use, versions, device."""
    from .. import __version__

    versions = {"atlas_fast": __version__, "torch": torch.__version__, "python": platform.python_version(),
                "cuda": torch.version.cuda}
    if run.device.type == "cuda":
        device_name = torch.cuda.get_device_name(run.device)
    else:
        processor = platform.processor() or platform.machine()
        device_name = f"{processor} ({sys.platform}), {torch.get_num_threads()} threads"
    assert run.data.val is not None  # split off by load_data
    sizes = {"num_classes": run.data.num_classes, "in_channels": run.data.in_channels,
             "image_pixels": run.data.image_size, "n_train": len(run.data.train_labels),
             "n_validation": len(run.data.val[1]), "n_test": len(run.data.test_labels), "classes": run.data.classes,
             "batches_per_epoch": len(run.batches), "weights": sum(p.numel() for p in run.model.parameters()),
             "processes": run.ranks.size, "images_held": held(run)}
    engine = {"engine_used": run.step.engine, "engine_reason": run.step.engine_reason,
              "capture_reason": run.step.capture_reason}
    return {**asdict(run.config), **sizes, **engine, "device_name": device_name, "versions": versions}


def held(run: Run) -> str:
    """Where the training images are."""
    if isinstance(run.batches, StreamedBatches):
        return f"in files, decoded by {run.batches.workers} workers"
    return "on the GPU" if run.batches.resident and run.device.type == "cuda" else "in memory"


def _try_network(model: nn.Module, dataset: Dataset, name: str, device: torch.device) -> None:
    """One image through the network: images too small for it are better found now than after an epoch."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(data.to_float(dataset.train_images[:1]).to(device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"{device} has too little free memory for {name}; use a smaller --model or another --device") \
            from error
    except Exception as error:  # any network, so any error
        shape = "x".join(map(str, dataset.train_images.shape[1:]))
        raise UserError(f"{name} cannot take images of {shape}; choose another --model ({error})") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, dataset.num_classes):
        given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"{name} gives {given} for one image, not logits [1, {dataset.num_classes}]")
