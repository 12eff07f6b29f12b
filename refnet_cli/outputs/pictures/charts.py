"""SVG charts for the HTML report: bars of areas, and a histogram of probabilities.

Own code, because matplotlib is an optional dependency (the extra ``torch``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH = 440  # about the width of a phone, so that text keeps its size there
_LETTERS = 44  # most letters of a name


class Bar(NamedTuple):
    """One bar of a bar chart."""

    name: str
    value: float
    label: str
    colour: tuple[int, int, int]


def bar_chart(bars: Sequence[Bar], title: str) -> str:
    """Return a chart of horizontal bars, one below the other, each with its name above.

    Parameters
    ----------
    bars : sequence of Bar
        Bars with values of at least 0.
    title : str
        Start of the text for screen readers; the bars' names and labels follow.
    """
    line, most, room = 42, max((bar.value for bar in bars), default=0) or 1, _WIDTH - 110
    shapes = []
    for number, (name, value, label, colour) in enumerate(bars):
        top, length = number * line, max(room * value / most, 1)
        short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
        shapes.append(
            f'<g><title>{escape(name)}: {escape(label)}</title>'
            f'<text x="0" y="{top + 14}">{escape(short)}</text>'
            f'<rect x="0.5" y="{top + 20.5}" width="{length:.1f}" height="14" fill="rgb{colour}" class="edged"/>'
            f'<text x="{length + 8:.1f}" y="{top + 32}" class="number">{escape(label)}</text></g>'
        )
    text = "; ".join([title, *(f"{bar.name} {bar.label}" for bar in bars)])
    return _svg(line * len(bars) + 4, text, shapes)


def histogram(counts: Sequence[int], title: str) -> str:
    """Return a histogram of values from 0 to 1.

    Parameters
    ----------
    counts : sequence of int
        Counts of bins of equal width.
    title : str
        The text for screen readers.
    """
    left, top, height, width = 54, 12, 190, _WIDTH - 66
    total, most = max(sum(counts), 1), max(*counts, 1)
    step = width / len(counts)
    shapes = []
    for share in (0.5, 1.0):
        y = top + height * (1 - share)
        shapes += [
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="number">{most * share / total:.1%}</text>',
        ]
    for number, count in enumerate(counts):
        tall = height * count / most
        low, high = number / len(counts), (number + 1) / len(counts)
        shapes.append(
            f'<rect x="{left + step * number:.1f}" y="{top + height - tall:.2f}" width="{step - 0.8:.1f}" '
            f'height="{tall:.2f}" class="bar"><title>{low:.2f} to {high:.2f}: {count / total:.2%}</title></rect>'
        )
    bottom = top + height
    shapes.append(f'<line x1="{left}" y1="{bottom}" x2="{left + width}" y2="{bottom}" class="axis"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + width * share
        shapes.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" class="number">{share:g}</text>')
    shapes.append(
        f'<text x="{left + width / 2:.1f}" y="{bottom + 38}" text-anchor="middle">probability of the class</text>'
    )
    return _svg(bottom + 46, title, shapes)


def _svg(height: int, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">' + "".join(shapes) + "</svg>"
    )
