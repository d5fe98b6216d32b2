"""What changes within an epoch and is not alike in all processes: torch's generators, running statistics."""

from __future__ import annotations

import torch

from .setup import Run


def own_state(run: Run) -> dict[str, torch.Tensor]:
    """Of every process, [processes, ...] each; called by all of them."""
    rows = {"generator": torch.get_rng_state()}
    if run.device.type == "cuda":
        rows["device_generator"] = torch.cuda.get_rng_state(run.device)
    if run.ranks.size > 1 and (statistics := _statistics(run)):
        rows["statistics"] = torch.cat([s.detach().double().flatten() for s in statistics])
    return {name: run.ranks.gather(row[None]) for name, row in rows.items()}


def load_own_state(run: Run, state: dict[str, torch.Tensor], done: int) -> None:
    """Go on as this process was. Of another number of processes each draws anew, and has the first one's statistics;
    then, and on another kind of device, done (steps of the epoch) keeps the draws from being those of its beginning."""
    if len(state["generator"]) != run.ranks.size:
        torch.manual_seed((torch.initial_seed() + done * 2**48) % 2**63)
        return
    # Copies, since set_rng_state crashes on a part of a larger tensor (torch 2.15).
    torch.set_rng_state(state["generator"][run.ranks.rank].cpu().clone())
    if run.device.type == "cuda":
        if "device_generator" in state:
            torch.cuda.set_rng_state(state["device_generator"][run.ranks.rank].cpu().clone(), run.device)
        else:
            torch.cuda.manual_seed((torch.initial_seed() + done * 2**48) % 2**63)
    if "statistics" in state:
        row = state["statistics"][run.ranks.rank].to(run.device)
        statistics = _statistics(run)
        for tensor, values in zip(statistics, row.split([s.numel() for s in statistics]), strict=True):
            tensor.copy_(values.view_as(tensor))


def _statistics(run: Run) -> list[torch.Tensor]:
    return [buffer for buffer in run.model.buffers() if buffer.is_floating_point()]
