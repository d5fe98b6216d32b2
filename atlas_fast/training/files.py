"""Files that are either the old one or the new one, never half of one, whenever the process or the machine dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError

# Of a folder's fsync: file systems that have none. Their renames are as durable as they make them.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


def write_atomically(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """`write(temporary_path)`, then fsync, rename over `path`, and fsync of the folder.

    previous: where the file that `path` was until now is kept. UserError: the disk is full or not writable; `path` is
    then what it was, and nothing else is left behind.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        sync(temporary)
        if previous is not None:
            _keep(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"{path} could not be written ({error.strerror or error}), and what was saved before stays; "
                        "make room or choose another --out") from error


def write_bytes(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """`write_atomically` of this content."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content), previous)


def write_json(path: Path, value: dict) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def sync(path: Path) -> None:
    """Until the file's contents are on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Until the folder's names are on the disk: a rename is lost with the power otherwise."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _keep(path: Path, previous: Path) -> None:
    """`previous` becomes the file that `path` is; at no instant one of the two is missing, where there are links."""
    if not path.exists():
        return
    link = previous.with_name(previous.name + ".tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, previous)
        return
    os.replace(link, previous)
    link.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing


def make_folder(path: Path) -> None:
    """Create the folder and prove that it can be written, at the same time as other processes too. UserError, and
    nothing left behind, where it cannot."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".write-test-"):  # of a name that no other process has
            pass
    except OSError as error:
        for folder in missing:
            with contextlib.suppress(OSError):  # others' files are in it, or it never came to be
                folder.rmdir()
        raise UserError(f"the output folder {path} cannot be written ({error.strerror or error}); "
                        "choose another with --out") from error
