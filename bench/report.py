"""Writes bench/results/README.md from the records beside it: a section for each question, where each row was measured.

    python -m bench.report [--check]

--check writes nothing and ends with status 1 where the page is not what the records give.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import harness

QUESTIONS = {  # name of the records: (title, command, columns)
    "ceilings": ("What the machine can do at best", "python -m bench.roofline", ["ceiling", "value"]),
    "floor": ("The least time that a step can take", "python -m bench.roofline",
              ["model", "batch", "method", "forward-equivalents", "TFLOP", "convolutions ms", "between ms",
               "floor ms"]),
    "step": ("A training step", "python -m bench.step --models MODEL --methods METHOD --batch-sizes B",
             ["model", "method", "batch", "variant", "ms", "images/s", "ratio", "TFLOP/s", "of floor", "peak MiB",
              "note"]),
    "profile": ("Where a step's time goes", "python -m bench.profile --model MODEL --method METHOD --batch-size B",
                ["model", "method", "batch", "variant", "kind", "ms", "share", "launches"]),
    "epoch": ("An epoch with its data against its bare steps", "python -m bench.epoch",
              ["model", "method", "batch", "engine", "images", "epoch ms", "bare ms", "data ms", "ratio"]),
    "ranks": ("Several processes on one machine's CPUs", "python -m bench.ranks",
              ["model", "method", "batch", "processes", "variant", "ms", "images/s", "ratio"]),
    "convolutions": ("Convolutions by themselves", "python -m bench.convolutions",
                     ["model", "convolution", "operation", "batch", "count", "hot ms", "cold ms", "TFLOP/s"]),
    "weight-gradient": ("The double backward's weight gradient", "python -m bench.weight_gradient",
                        ["model", "convolution", "batch", "tuned", "count", "ordinary ms", "stock ms", "ratio",
                         "stock first call s", "ordinary error", "stock error"]),
    "operations": ("Operations", "python -m bench.operations",
                   ["operation", "size", "atlas_fast us", "PyTorch us", "ratio", "GB/s", "of copy"]),
    "attacks": ("Attacks against plain loops", "python -m bench.attacks [--run RUN_DIR]",
                ["attack", "variant", "n", "broken", "other verdicts", "ms", "times plain"]),
    "autoattack": ("Standard AutoAttack against the reference code", "python -m bench.autoattack [--run RUN_DIR]",
                   ["part", "norm", "eps", "n", "seed", "robust", "reference robust", "disagree", "seconds",
                    "reference s", "times reference"]),
    "autoattack_parts": ("APGD and FAB against the reference code", "python -m bench.autoattack_parts [--run RUN_DIR]",
                         ["attack", "variant", "norm", "eps", "n", "robust accuracy", "seconds", "times reference"]),
}
NOTES = {  # name of the records: what stands below their table
    "ranks": "\nProcesses of one thread each; `ratio` is the time of one with the whole batch over the variant's, at\n"
             "best the number of processes. \"apart\" exchanges nothing: what is lost there, the cores cannot do,\n"
             "and what \"together\" loses beyond it, the messages cost. Nothing follows for GPUs.\n",
}
HEAD = """# Results
Written by `python -m bench.report` from the records in this folder; do not edit it. `ratio` is how many times as
fast as plain PyTorch (in float32, for a step; for an epoch, its time over that of its bare steps). Compare ratios, not
times, between machines. The letter in the last column says where and on which commit a row was measured; a ratio is to
PyTorch beside it in the same session, which may since have been measured again: compare times within one letter only.
"""


def page(folder: Path) -> str:
    """The whole page."""
    parts = [HEAD]
    for name, (title, command, columns) in QUESTIONS.items():
        for path in sorted(folder.glob(f"{name}-*.json")):
            text = section(path, f"{title}: {path.stem.removeprefix(name + '-')}", command, columns)
            parts.append(text + NOTES.get(name, ""))
    notes = folder / "optimisations.md"
    if notes.is_file():
        parts.append(notes.read_text())
    return "\n".join(parts)


def section(path: Path, title: str, command: str, columns: list[str]) -> str:
    """Title, command, table, environments."""
    record = harness.load(path)
    letters = {mark: chr(ord("A") + i) for i, mark in enumerate(record["environments"])}
    rows = [{**row, "where": letters[row["environment"]]} for row in flat(record["rows"])]
    used = [c for c in columns if any(row.get(c) is not None for row in rows)]
    lines = [f"## {title}", f"`{command}`\n", harness.markdown(rows, [*used, "where"]), ""]
    lines += [f"- {letter}: {describe(record['environments'][mark])}" for mark, letter in letters.items()]
    return "\n".join(lines) + "\n"


def flat(rows: list[dict]) -> list[dict]:
    """A profile's record holds its kinds: a row for each."""
    made = []
    for row in rows:
        kinds = row.get("kinds")
        made += [row] if kinds is None else [
            {**row, "kind": kind, "ms": v["ms"], "share": v["ms"] / row["ms"], "launches": v["launches"]}
            for kind, v in kinds.items()]
    return made


def describe(environment: dict) -> str:
    """One line: processor or GPU, versions, commit, day."""
    device = environment["device"]
    machine = environment["processor"] if device == "cpu" else f"{device}, {environment['processor']}"
    versions = [f"torch {environment['torch']}"]
    versions += [f"{name} {environment[name]}" for name in ("triton", "cuda", "cudnn") if environment.get(name)]
    return (f"{machine}, {environment.get('isa') or 'no kernels compiled'}, threads: {environment['threads']}, "
            f"{', '.join(versions)}, commit {environment['commit']}, {environment['date']}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    target, text = harness.RESULTS / "README.md", page(harness.RESULTS)
    if check:
        fresh = target.is_file() and target.read_text() == text
        print(f"{target} is {'up to date' if fresh else 'not what the records give: run python -m bench.report'}")
        return 0 if fresh else 1
    target.write_text(text)
    print(f"written to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
