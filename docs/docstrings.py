"""Docstrings of this package as Markdown: each argument on a line of its own, its name in bold.

They say "x: images [N, C, H, W]; eps: radius, in pixel units. UserError: ...", as a paragraph.
"""

from __future__ import annotations

import re

import pdoc.doc

_SENTENCES = (r"Raises\s+UserError", "UserError:", "Returns")


def readable(documented: pdoc.doc.Doc) -> str:
    """The docstring as Markdown."""
    if isinstance(documented, pdoc.doc.Module):  # pdoc takes away the indentation of code that ends a module's
        return (documented.obj.__doc__ or "").strip()
    text = documented.docstring
    if names := arguments(documented):
        one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
        text = re.sub(rf"(^|\n|[.;)] )((?:{one})(?:,\s(?:{one}))*):(?=\s)", _on_its_own_line, text)
        text = re.sub(rf"([.;)])\s+(?=(?:{'|'.join(_SENTENCES)})\s)", r"\1<br>", text)
    return text


def arguments(documented: pdoc.doc.Doc) -> set[str]:
    """Names of what it is called with; of a class also its fields and methods' arguments, which its docstring names."""
    if isinstance(documented, pdoc.doc.Function):
        return set(documented.signature.parameters)
    if isinstance(documented, pdoc.doc.Class):
        return set(documented.members) | {name for member in documented.members.values() for name in arguments(member)}
    return set()


def _on_its_own_line(match: re.Match) -> str:
    before = match[1].rstrip()
    return f"{before}<br>**{match[2]}**:" if match.start() else f"**{match[2]}**:"
