"""What test_processes.py starts: the same evaluation by one process into one/, by three of which one is killed into
shared/, and again there by two. processes.py FOLDER OPTIONS..."""

import os
import sys
from pathlib import Path

import torch

import atlas_fast.evaluate as command
from atlas_fast.attacks import AutoAttack
from atlas_fast.errors import run_cli

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked  # noqa: E402


def short(parts):
    """AutoAttack's parts with a few steps and queries."""
    def shortened(self, classes):
        found = parts(self, classes)
        for part in found.values():
            setattr(part, "queries" if hasattr(part, "queries") else "steps", 6)
        return found

    return shortened


def start(folder: Path, count: int, options: list[str], kill: str = "") -> None:
    os.environ["KILL"] = kill
    options = [*options, "--transfer-cache", str(folder / "cache"), "--out", str(folder / "a.json")]
    statuses = forked.run(lambda: run_cli(lambda: command.main(options)), count)
    print(f"{folder.name} by {count}: {statuses}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    AutoAttack.parts = short(AutoAttack.parts)
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    start(folder / "one", 1, options)
    start(folder / "shared", 3, options, kill="1")
    start(folder / "shared", 2, options)
