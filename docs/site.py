"""The site's pages: those of the API by pdoc, and those written in Markdown, which pdoc draws as modules' docstrings.

So a page of prose has the same frame, search and links to identifiers as one of the API.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
from pathlib import Path

import pdoc.doc
import pdoc.render
import pdoc.render_helpers

import atlas_fast
from atlas_fast import evaluate, export, info, train
from atlas_fast.training.defaults import METHODS
from docs import docstrings, formulas, measured, passes, settings

FOLDER = Path(__file__).resolve().parent
API = ("atlas_fast", *(f"atlas_fast.{name}" for name in ("objectives", "engine", "attacks", "evaluation", "models",
                                                         "data", "ops", "errors")))
COMMANDS = {"train": train, "evaluate": evaluate, "reproduce": None, "sweep": None, "export": export, "info": info}
METHOD_PAGES = (*METHODS, *passes.ADDITIONS)


def build(out: Path) -> int:
    """Write all pages into `out`; returns how many. Raises ValueError for a public name without a docstring, and every
    warning that is an error."""
    pdoc.render.configure(docformat="markdown", template_directory=FOLDER / "templates", show_source=False,
                          footer_text=f"atlas_fast {atlas_fast.__version__}")
    pdoc.render.env.filters["readable"] = docstrings.readable
    pdoc.render.env.filters["to_html"] = formulas.with_formulas(pdoc.render_helpers.to_html)
    modules = {page.fullname: page for page in (*_prose(), *_api())}
    for name, module in modules.items():
        path = out / f"{name.replace('.', '/')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pdoc.render.html_module(module, modules))
    (out / "search.js").write_text(pdoc.render.search_index(modules))
    return len(modules)


def method_page(name: str) -> str:
    """docs/methods/NAME.md with what the code and the records say of the method below it."""
    text = _prose_of(f"methods/{name}.md")
    parts = [settings.use(name), settings.section(name)] if name in METHODS else []
    parts += [passes.section(name)]
    if name in METHODS:
        parts += [measured.section(name)]
    return "\n\n".join([text.rstrip(), *parts])


def undocumented(module: types.ModuleType) -> list[str]:
    """Public functions and classes of a module, and methods that its classes define, without a docstring."""
    found = []
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing):
            found += [f"{name}.{key}" for key, value in vars(thing).items()
                      if inspect.isfunction(value) and not key.startswith("_") and not inspect.getdoc(value)]
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and not inspect.getdoc(thing):
            found.append(name)
    return [f"{module.__name__}.{name}" for name in found]


def _api() -> list[pdoc.doc.Module]:
    modules = [importlib.import_module(name) for name in API]
    if missing := [name for module in modules if hasattr(module, "__all__") for name in undocumented(module)]:
        raise ValueError(f"without a docstring: {', '.join(missing)}")
    return [pdoc.doc.Module(module) for module in modules]


def _prose() -> list[pdoc.doc.Module]:
    pages = {"index": _index(), "commands": _commands(), "paper_gaps": _prose_of("paper-gaps.md")}
    pages |= {f"methods.{name}": method_page(name) for name in METHOD_PAGES}
    return [pdoc.doc.Module(types.ModuleType(name, text)) for name, text in pages.items()]


def _index() -> str:
    text = _prose_of("index.md")
    methods = "\n".join(f"| [`{name}`](methods/{name}.html) | {_title(FOLDER / 'methods' / f'{name}.md')} |"
                        for name in METHOD_PAGES)
    api = "\n".join(f"| `{name}` | {_first_line(importlib.import_module(name))} |" for name in API)
    return f"{text}\n## Methods\n| name | |\n| --- | --- |\n{methods}\n\n## API\n| module | |\n| --- | --- |\n{api}\n"


def _prose_of(name: str) -> str:
    """A Markdown file of this folder; its links to others, which work where the files are read as they are, lead to the
    pages."""
    page = (FOLDER / name).read_text()
    return re.sub(r"\]\(([\w-]+)\.md\)", lambda match: f"]({match[1].replace('-', '_')}.html)", page)


def _title(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ")


def _first_line(module: types.ModuleType) -> str:
    return (module.__doc__ or "").split("\n")[0].removeprefix("atlas_fast: ")


def _commands() -> str:
    """What each command line says of itself, and its options where it has a parser of its own."""
    parts = ["# Commands"]
    for name, module in COMMANDS.items():
        documented = module or importlib.import_module(f"atlas_fast.{name}")
        parts.append(f"## {name}\n{documented.__doc__}")
        if hasattr(documented, "parser"):
            parts.append(f"```text\n{documented.parser().format_help()}```")
    return "\n\n".join(parts)
