"""Joining the other processes that torchrun started, and leaving them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from ..engine import Ranks
from ..engine.ranks import LOST
from ..errors import UserError

TIMEOUT = timedelta(minutes=10)  # a process that hangs ends the run then; one that dies ends it at once


@contextlib.contextmanager
def launched(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """The processes of torchrun's environment, `Ranks.alone()` without one.

    On a machine with GPUs process i of a node computes on its GPU i ("cuda" means that one) and NCCL carries its
    gradients; gloo carries what lies on CPUs. An error that several processes meet alike is told by one of them; the
    others end with its exit status. timeout: how long one may wait for another. Raises UserError where the group cannot
    be made.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks.alone()
        return
    store = _join(timeout)
    try:
        yield Ranks.of_group()
    except (UserError, KeyboardInterrupt) as error:
        if not _first_to_say(store, str(error)):
            sys.exit(2 if isinstance(error, UserError) else getattr(error, "status", 130))
        raise  # the group is left as it is: closing it would wait for processes that may be gone
    dist.destroy_process_group()


def check_device(device: str, ranks: Ranks) -> None:
    """UserError: one GPU for several processes, which NCCL does not take."""
    if ranks.size == 1 or torch.device(device).type != "cuda":
        return
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus:
        raise UserError(f"{here} processes need as many GPUs, and this machine has {gpus}; lower --nproc-per-node or "
                        "give --device cpu")
    if torch.device(device).index is not None:
        raise UserError(f"--device {device} is one GPU for {ranks.size} processes; give --device cuda, and each takes "
                        "its own")


def may_restart() -> bool:
    """Whether torchrun starts a failed run again (--max-restarts), with the same command."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _join(timeout: timedelta) -> dist.Store:
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if gpus:
        torch.cuda.set_device(local % gpus)  # more processes than GPUs can only compute on the CPU
    backend = "cpu:gloo,cuda:nccl" if gpus and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        store = dist.PrefixStore(f"atlas_fast {_attempt()}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"this process could not join the others of its run ({reason}); start it by torchrun") \
            from error
    return store


def _attempt() -> str:
    """Distinguishes the starts of one torchrun, whose store keeps the addresses of processes that have died. On several
    nodes each counts its own restarts, so that nothing distinguishes them there."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE", "1") == "1" else "0"


def _first_to_say(store: dist.Store, message: str) -> bool:
    """Whether no other process has said this; that one is lost, no other has said anything."""
    try:
        said = store.add("atlas_fast errors", 1) > 1
        if message.startswith(LOST):
            return not said
        return store.add(f"atlas_fast error {message}", 1) == 1
    except RuntimeError:  # whoever kept the store is gone
        return True
