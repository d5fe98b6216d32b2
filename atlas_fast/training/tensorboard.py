"""--log tensorboard: what log.jsonl says of every epoch, as TensorBoard's event files in OUT/tensorboard.

Points are written at the ends of epochs alone, from numbers that are on the host by then, so the log costs the steps
nothing. The horizontal axis is the epoch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .config import Config
from .setup import Run, describe

FOLDER = "tensorboard"
GROUPS = {"lr": "schedule", "eps": "schedule", "seconds": "time", "ms_per_batch": "time",
          "jacobian_norm": "validation", "overfitted": "validation"}
"""Numbers of an epoch's line that are none of the training's: those and all accuracies; what remains are its terms."""
RESULTS = ("validation/clean_accuracy", "validation/robust_accuracy", "test/clean_accuracy", "test/robust_accuracy")
"""What TensorBoard's HPARAMS page compares runs by."""


def check(config: Config) -> None:
    """UserError: the package that writes event files is not installed."""
    if config.log != "tensorboard":
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(f"--log tensorboard needs the package tensorboard ({error}): pip install tensorboard") \
            from error


@contextlib.contextmanager
def events(run: Run, out: Path) -> Iterator[Events | Silent]:
    """The run's event files; they are only written where --log asks for them, by the first of several processes."""
    wanted = run.config.log == "tensorboard" and run.ranks.leads
    log = Events(run, out) if wanted else Silent()
    try:
        yield log
    finally:
        log.close()


class Silent:
    """Takes what `Events` takes, and writes nothing."""

    def begin(self, lines: list[dict]) -> None: ...

    def add(self, line: dict) -> None: ...

    def end(self, summary: dict) -> None: ...

    def close(self) -> None: ...


class Events:
    """Call `begin` before the first epoch, `add` with each epoch's line, `end` with the summary, `close`.

    UserError: the files cannot be written."""

    def __init__(self, run: Run, out: Path):
        self.run, self.out = run, out
        self.writer: Any = None  # a SummaryWriter from `begin` on

    def begin(self, lines: list[dict]) -> None:
        """lines: those of log.jsonl that the checkpoint knows. What an interrupted run wrote beyond them is purged; a
        run that is logged from here on alone, or was moved without its event files, gets them all."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.out / FOLDER
        missing = not any(folder.glob("events.out.tfevents.*"))
        last = lines[-1]["epoch"] if lines else None
        with written(folder):
            self.writer = SummaryWriter(str(folder), purge_step=0 if last is None else last + 1)
            if missing or last is None:
                self._settings()
        for line in lines if missing else ():
            self.add(line)

    def add(self, line: dict) -> None:
        with written(self.out / FOLDER):
            for tag, value in scalars(line):
                self.writer.add_scalar(tag, value, line["epoch"])
            if "rewind" in line:
                self.writer.add_text("rewind", as_json(line["rewind"]), line["epoch"])
            self.writer.flush()

    def end(self, summary: dict) -> None:
        """The test's accuracies and curves.png, beside the last epoch."""
        (attack,) = summary["attacks"].values()
        picture, epoch = self.out / "curves.png", summary["epochs"]
        with written(self.out / FOLDER):
            self.writer.add_scalar("test/clean_accuracy", summary["clean_accuracy"], epoch)
            self.writer.add_scalar("test/robust_accuracy", attack["robust_accuracy"], epoch)
            self.writer.add_text("summary", as_json(summary), epoch)
            if picture.is_file():
                self.writer.add_image("curves", pixels(picture), epoch, dataformats="HWC")
            self.writer.file_writer.add_summary(self._hparams()[2])

    def close(self) -> None:
        if self.writer is not None:
            with written(self.out / FOLDER):
                self.writer.close()

    def _settings(self) -> None:
        self.writer.add_text("settings", as_json(describe(self.run)), 0)
        for summary in self._hparams()[:2]:
            self.writer.file_writer.add_summary(summary)

    def _hparams(self) -> tuple:
        """The experiment, the begin of the session and its end, as HPARAMS wants them. SummaryWriter.add_hparams would
        write them into a run of their own, with a value of each result that is not known at the begin."""
        from torch.utils.tensorboard.summary import hparams

        return hparams({name: value for name, value in asdict(self.run.config).items() if value is not None},
                       dict.fromkeys(RESULTS))


def scalars(line: dict) -> Iterator[tuple[str, float]]:
    """("validation/clean_accuracy", 0.98), ...: every number of an epoch's line under its group."""
    for name, value in line.items():
        if name != "epoch" and isinstance(value, int | float):
            group = GROUPS.get(name, "validation" if name.endswith("_accuracy") else "training")
            yield f"{group}/{name}", float(value)


def pixels(picture: Path) -> np.ndarray:
    """A PNG as uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def as_json(value: dict) -> str:
    """Indented by four, which Markdown, in which TensorBoard reads texts, shows as it is."""
    return "\n".join("    " + line for line in json.dumps(value, indent=2).splitlines())


@contextlib.contextmanager
def written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the event files in {folder} could not be written ({error.strerror or error}); make room") \
            from error
