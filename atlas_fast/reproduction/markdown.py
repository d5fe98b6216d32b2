"""Tables and figures of accuracies as text."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded so that it also reads well in a terminal; the first one to the left."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                                 for i, (cell, width) in enumerate(zip(cells, widths, strict=True))) + " |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def accuracy(cell: dict | None) -> str:
    """"98.67" or "98.67 ± 0.12", in %; "–" where there is none."""
    if cell is None:
        return "–"
    return f"{100 * cell['mean']:.2f}" + ("" if cell["std"] is None else f" ± {100 * cell['std']:.2f}")


def seconds(cell: dict | None) -> str:
    """"0.0143 s"; "–" where there is none."""
    return "–" if cell is None else f"{cell['mean']:.3g} s"


def joined(words: Sequence[str], last: str = "and") -> str:
    """"a", "a and b", "a, b and c"."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
