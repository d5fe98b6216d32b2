"""What two processes do when one of them is asked to stop: part of two_ranks.py."""

import os
import signal
from pathlib import Path

import pytest
import torch
from folders import outcome

from atlas_fast import train
from atlas_fast.engine import Ranks, TrainingStep
from atlas_fast.errors import Interrupted
from atlas_fast.training import curves


def stopped(ranks: Ranks, npz: str) -> None:
    """Both save after the same step, and go on to the same end; each has its own dropout and running statistics."""
    given = ["--dataset", "npz", "--data-dir", npz, "--model", "folders:dropout_net", "--device", "cpu", "--epsilon",
             "0.1", "--batch-size", "10", "--epochs", "2", "--bn-mode", "eval", "--method", "adv", "--out"]
    whole, cut = Path(f"{npz}.whole"), Path(f"{npz}.cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda *arguments: None)
        train.train([*given, str(whole)], ranks)
        step, done = TrainingStep.__call__, []

        def signalled(self, x, y):
            done.append(1)
            if len(done) == 2 and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, x, y)

        patch.setattr(TrainingStep, "__call__", signalled)
        with pytest.raises(Interrupted, match=r"saved at batch \d of 9 of epoch 1; --resume") as raised:
            train.train([*given, str(cut)], ranks)
        assert raised.value.status == 143
        assert ranks.gather(torch.tensor([len(done)])).tolist() == [len(done)] * 2 and 2 <= len(done) < 9
        train.train(["--resume", "--out", str(cut)], ranks)
    if ranks.leads:
        wanted, found = outcome(whole), outcome(cut)
        assert [key for key in wanted if wanted[key] != found[key]] == []
