"""Reports as text for a terminal, and the rows that the HTML page shows."""

from __future__ import annotations


def attack_rows(report: dict) -> list[dict]:
    """{"name", "result" (the report's entry), "settings" as text, without those that the report has for all} of clean,
    every attack, and the worst case."""
    clean = {"robust_accuracy": report["clean_accuracy"], "standard_error": report["clean_standard_error"],
             "n": report["n"]}
    rows = [{"name": "clean", "result": clean, "settings": ""}]
    common = {key: report.get(key) for key in ("eps", "norm", "seed")}
    rows += [{"name": name, "result": result, "settings": settings_text(
        {key: value for key, value in result["settings"].items() if key not in common or value != common[key]})}
        for name, result in report["attacks"].items()]
    if len(report["attacks"]) > 1:
        rows.append({"name": "worst case", "result": report["worst_case"], "settings": "an image counts as robust "
                     "where no attack that saw it breaks it"})
    return rows


def settings_text(settings: dict) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items())


def _value(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " + ".join(value) if isinstance(value, dict) else str(value)  # the parts of a cascade by name


def table(report: dict) -> str:
    """The report for a terminal."""
    lines: list[tuple[str, ...]] = [("", "accuracy", "std. err.", "n", "seconds", "settings")]
    for row in attack_rows(report):
        result = row["result"]
        seconds = f"{result['seconds']:.1f}" if "seconds" in result else ""
        lines.append((row["name"], f"{result['robust_accuracy']:.2%}", f"{result['standard_error']:.2%}",
                      str(result["n"]), seconds, row["settings"]))
    text = [f"{report['dataset']}, {report['n']} test images, {report['norm']} eps {report['eps']:.4g}, "
            f"seed {report['seed']}", *aligned(lines)]
    return "\n".join([*text, *(f"sign of gradient masking: {sentence}" for sentence in report["masking"])])


def aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Columns padded: the first and the last to the left, those between to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                   zip(line[1:-1], widths[1:-1], strict=True)), line[-1]]).rstrip()
            for line in lines]
