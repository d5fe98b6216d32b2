"""The documentation as a folder of HTML files that need no network: the API from its docstrings, a page per method.

    python -m docs [--out docs/site]

A warning, a public name without a docstring and a link that leads nowhere end the build with status 1 (2: wrong use).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

MARK = ".built-by-docs"  # only a folder that holds it is emptied


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--out", type=Path, default=Path("docs/site"), metavar="DIR", help="default: docs/site")
    out = parser.parse_args(arguments).out
    try:
        from docs import links, site
    except ModuleNotFoundError as error:
        print(f"python -m docs needs {error.name}: pip install '.[docs]'", file=sys.stderr)
        return 2
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        print(f"{out} holds something else than documentation; choose another --out", file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count = site.build(out)
    (out / MARK).touch()
    wrong = links.broken(out)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{count} pages: {out / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
