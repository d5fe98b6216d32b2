"""One process at a time trains into a folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError

PATIENCE = 3.0  # seconds: a process that was told to end a moment ago may still be saving

_held: set[int] = set()  # file descriptors


def _let_go() -> None:
    """A child of fork shares the lock and would keep it after its parent was killed (a data loader's workers do not
    notice that for 5 seconds)."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder is this process's, until the block or the process ends. UserError: another process has it.

    The lock is on the folder itself, so that no file is left behind. File systems that have none (NFS locks files that
    are open for writing, which a folder cannot be) do not keep a second process away.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"another process is training into {folder} at this moment; wait for its end, or "
                                    "choose another --out") from None
                time.sleep(0.1)
            except OSError:
                break
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)
