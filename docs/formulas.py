r"""LaTeX between dollars as MathML, which browsers draw by themselves: pages need neither a script nor a network.

`$x'$` stands in the line, `$$\mathcal{L} = ...$$` on a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from latex2mathml.converter import convert

_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<line>[^$\n]+)\$", re.DOTALL)


class Html(str):
    """HTML with the contents' list that pdoc draws beside it."""

    toc_html: str | None = None


def with_formulas(to_html: Callable[[str], str]) -> Callable[[str], str]:
    """`to_html` of Markdown, which leaves formulas alone and has them replaced afterwards."""

    def convert_all(text: str) -> Html:
        formulas: list[str] = []

        def keep(match: re.Match) -> str:
            source, display = match["block"] or match["line"], "block" if match["block"] else "inline"
            formulas.append(convert(" ".join(source.split()), display=display))
            return f"FORMULA{len(formulas) - 1}END"

        html = to_html(_FORMULA.sub(keep, text))
        whole = Html(re.sub(r"FORMULA(\d+)END", lambda match: formulas[int(match[1])], html))
        whole.toc_html = getattr(html, "toc_html", None)
        return whole

    return convert_all
