"""Small pieces of HTML for notebooks, with all texts escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = "border-collapse:collapse;font-size:90%"
_CELL = "text-align:left;padding:1px 8px;vertical-align:top"


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), title: str = "") -> str:
    """Return a table; cells are texts, or a colour as three numbers, which becomes a swatch.

    Examples
    --------
    >>> "a &lt; b" in table([("a < b", (255, 0, 0))])
    True
    """
    lines = [f'<table style="{_STYLE}">']
    if title:
        lines.append(f'<caption style="text-align:left"><b>{escape(title)}</b></caption>')
    if head:
        lines.append("<tr>" + "".join(f'<th style="{_CELL}">{escape(text)}</th>' for text in head) + "</tr>")
    lines += ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def paragraphs(texts: Iterable[str]) -> str:
    """Return lines of text, for warnings below a table."""
    return "\n".join(f'<p style="margin:4px 8px">{escape(text)}</p>' for text in texts)


def _cell(value: object) -> str:
    if isinstance(value, tuple | list) and len(value) == 3:
        red, green, blue = (int(part) for part in value)
        return f'<td style="{_CELL};width:1.2em;background:rgb({red},{green},{blue})"></td>'
    return f'<td style="{_CELL}">{escape(str(value))}</td>'
