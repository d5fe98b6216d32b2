"""Training a run: settings, schedule, the loop, checkpoints, the log and its picture."""

from .config import Config, read_config, resolve
from .loop import train
from .schedule import Schedule
from .setup import Run, describe, load_data, prepare
from .summary import finish

__all__ = ["Config", "Run", "Schedule", "describe", "finish", "load_data", "prepare", "read_config", "resolve", "train"]
