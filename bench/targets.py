"""What a run of `bench.gpu` is to show: targets, what was measured, and the verdict."""

from __future__ import annotations

BETWEEN_MS = 2.75
"""What fused kernels between the convolutions take in one-step ATLAS on WRN-28-8 at batch 64: `bench.work.traffic`'s
11.8 GB at 4.3 TB/s, a bandwidth measured on an H200."""
MODEL, BATCH = "wrn-28-8", 64


def verdicts(summary: dict) -> list[dict]:
    """[{"target", "measured", "verdict"}]; verdict: "reached", "missed" or "not measured: why"."""
    atlas, adv = best(summary, "atlas"), best(summary, "adv")
    convolutions = found(summary, "convolutions").get("step ms")
    lines = [
        _line(summary, "steps", f"one-step ATLAS ({MODEL}, batch {BATCH}): at most 1.15 x (isolated convolutions + "
              f"{BETWEEN_MS} ms)", atlas, convolutions and 1.15 * (convolutions + BETWEEN_MS), "ms",
              "steps" if atlas is None else "convolutions"),
        _ratio(summary, "at least 2 x as fast as plain PyTorch under AMP, channels-last", amp_reference(summary), atlas,
               2.0, "reference"),
        _ratio(summary, "at least 1.3 x as fast as torch.compile", compiled(summary), atlas, 1.3, "compile"),
        _line(summary, "steps", "one-step ATLAS, stretch: at most 10 ms", atlas, 10.0, "ms", "steps"),
        _line(summary, "steps", "ADV: at most 4.5 ms", adv, 4.5, "ms", "steps"),
        _line(summary, "epoch", "a full epoch with augmentation takes no longer than its batches (within 2 %)",
              found(summary, "epoch").get("ratio"), 1.02, "x", "epoch"),
    ]
    return lines + [_clean(summary, name, text) for name, text in (
        ("tests", "all tests of the GPU pass"), ("sanitizer", "compute-sanitizer finds nothing"))]


def found(summary: dict, section: str) -> dict:
    return summary["sections"].get(section, {}).get("found") or {}


def step_rows(summary: dict, method: str) -> list[dict]:
    rows = found(summary, "steps").get("rows", [])
    return [row for row in rows if row.get("ms") and (row["model"], row["method"], row["batch"]) ==
            (MODEL, method, BATCH)]


def best(summary: dict, method: str) -> float | None:
    """Milliseconds of the fastest TrainingStep."""
    times = [row["ms"] for row in step_rows(summary, method) if not row["variant"].startswith("PyTorch")]
    return min(times, default=None)


def amp_reference(summary: dict) -> float | None:
    """Milliseconds of plain PyTorch under bf16 autocast, channels-last: the faster of cuDNN's two ways to choose."""
    rows = [*step_rows(summary, "atlas"), *found(summary, "reference").get("rows", [])]
    times = [row["ms"] for row in rows if row.get("ms") and row["variant"].startswith("PyTorch bf16")]
    return min(times, default=None)


def compiled(summary: dict) -> float | None:
    """Milliseconds of torch.compile's fastest formulation."""
    return min((v["ms"] for v in found(summary, "compile").values() if isinstance(v, dict) and v.get("ms")),
               default=None)


def _line(summary, section, target, measured, limit, unit, missing):
    if measured is None or limit is None:
        return _not_measured(summary, target, missing)
    return {"target": target, "measured": f"{measured:.3g} {unit} (limit {limit:.3g})",
            "verdict": "reached" if measured <= limit else "missed"}


def _ratio(summary, target, slower, faster, limit, section):
    if slower is None or faster is None:
        return _not_measured(summary, target, "steps" if faster is None else section)
    return {"target": target, "measured": f"{slower:.3g} ms / {faster:.3g} ms = {slower / faster:.2f} x",
            "verdict": "reached" if slower / faster >= limit else "missed"}


def _clean(summary, section, target):
    result = found(summary, section)
    if not result.get("checked"):
        return _not_measured(summary, target, section)
    return {"target": target, "measured": result["checked"], "verdict": "reached" if result["clean"] else "missed"}


def _not_measured(summary, target, section):
    state = summary["sections"].get(section)
    why = "the section was not asked for" if state is None else found(summary, section).get("why") or state["end"]
    return {"target": target, "measured": None, "verdict": f"not measured: {section}: {why}"}
