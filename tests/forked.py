"""Processes of one gloo group, forked from an interpreter that has imported everything: four start like one."""

import contextlib
import multiprocessing
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable


def run(work: Callable[[], None], size: int) -> list[int]:
    """Exit statuses of `size` processes, each with the environment that torchrun would give it. An exception is printed
    and ends the others, which would wait for that process."""
    port, context = free_port(), multiprocessing.get_context("fork")
    processes = [context.Process(target=_child, args=(work, rank, size, port)) for rank in range(size)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], timeout=1)
        if any(process.exitcode not in (None, 0, 2) and process.exitcode > 0 for process in processes):
            for process in processes:
                process.terminate()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def free_port() -> int:
    """Not one of those that a system gives to whoever asks for any (on Linux from 32768 on): until the group listens,
    a connection of another test could get it."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def _child(work, rank, size, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        work()
    except Exception:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)
