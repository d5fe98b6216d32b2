"""What a process knows of the others that run the same step, each on its part of the batch (torch.distributed)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist

from ..errors import UserError

Value = TypeVar("Value")
LOST = ("another process of this run has ended or no longer answers, so the run ends here; what was saved stays, and "
        "the same command (train: with --resume) goes on from it")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """rank: this process, 0..size - 1; size: how many there are; group: over which they talk, None: nothing to say.

    Every method is called by all processes, in the same order. Raises UserError where another process is gone.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def alone(cls) -> Ranks:
        return cls()

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        """The processes of an initialised group; None: the default one."""
        group = dist.group.WORLD if group is None else group
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place and the same bits everywhere; can be part of a CUDA graph (NCCL)."""
        if self.group is not None:
            with _or_lost():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, the argument kept; differentiable any number of times: a backward pass, which all
        processes run, gives each what the losses of all of them send back to its own summand."""
        return tensor if self.group is None else _Total.apply(tensor, self)

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, in place: of means over equal parts of a batch, the mean over the batch."""
        return tensor if self.group is None else self.add(tensor.mul_(1 / self.size))

    def average_terms(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean of each 0-d tensor over all processes, new memory; one message for all."""
        if self.group is None:
            return terms
        return dict(zip(terms, self.average(torch.stack(list(terms.values()))).unbind(), strict=True))

    def follow_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Every process's tensors become those of process 0, in place."""
        if self.group is None:
            return
        with _or_lost(), torch.no_grad():
            for tensor in tensors:
                # Packed, since a channels-last weight is not contiguous.
                packed = tensor.detach().contiguous()
                dist.broadcast(packed, group=self.group, group_src=0)
                tensor.copy_(packed)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, ...] of every process -> [size N, ...], by rank; differentiable as `total` is."""
        if self.group is None:
            return rows
        if rows.requires_grad and torch.is_grad_enabled():
            return _Gathered.apply(rows, self)
        whole = torch.empty((self.size * len(rows), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        with _or_lost():
            dist.all_gather_into_tensor(whole, rows.detach().contiguous(), group=self.group)
        return whole

    def part(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's rows of what `gather` gave, on any number of processes that divides them."""
        each = len(rows) // self.size
        return rows[self.rank * each:(self.rank + 1) * each]

    def share_out(self, units: Iterable[int]) -> list[int]:
        """Those of the units of work that are this process's: every size-th one."""
        return list(units)[self.rank::self.size]

    def exchange(self, mine: dict[int, Value]) -> dict[int, Value]:
        """What all processes have, each under keys of its own, in the keys' order: any objects that can be pickled."""
        everything = [mine]
        if self.group is not None:
            everything = [mine] * self.size  # to be overwritten
            with _or_lost():
                dist.all_gather_object(everything, mine, group=self.group)
        return dict(sorted(item for part in everything for item in part.items()))

    def wait(self, device: torch.device) -> None:
        """Until all processes are here. device: where the run computes, which decides who carries the message."""
        self.add(torch.zeros((), device=device))
        if self.group is not None and device.type == "cuda":
            torch.cuda.synchronize(device)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, ranks):
        ctx.ranks = ranks
        return ranks.add(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient):
        return _Total.apply(gradient, ctx.ranks), None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, ranks):
        ctx.ranks = ranks
        return ranks.gather(rows.detach())

    @staticmethod
    def backward(ctx, gradient):
        return ctx.ranks.part(_Total.apply(gradient, ctx.ranks)), None


@contextlib.contextmanager
def _or_lost():
    try:
        yield
    except RuntimeError as error:
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if capturing or isinstance(error, torch.OutOfMemoryError):
            raise  # says nothing of the others
        raise UserError(f"{LOST} ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
