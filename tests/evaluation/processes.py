"""What test_processes.py starts: `evaluate` by several processes. processes.py COUNT OPTIONS..."""

import sys
from pathlib import Path

import torch

from atlas_fast import evaluate
from atlas_fast.errors import run_cli

sys.path.insert(0, str(Path(__file__).parents[1]))
import forked  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    count, *options = sys.argv[1:]
    print(*forked.run(lambda: run_cli(lambda: evaluate.main(options)), int(count)), file=sys.stderr)
