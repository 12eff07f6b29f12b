"""The README and the pages of docs/: their sections, and the commands and programs in them."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@cache
def pages() -> dict[str, str]:
    """Text of README.md and of each page of docs/, by path from the root of the checkout."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def section_of(title: str) -> str:
    """Text below the one heading of this title and level (``## Mosaics``), up to the next of its level or above."""
    found = []
    level = len(title.split(" ")[0])
    for text in pages().values():
        if f"\n{title}\n" not in f"\n{text}":
            continue
        # The comments of scripts look like headings. Lengths stay.
        hidden = _FENCE.sub(lambda match: re.sub(r"^#", " ", match[0], flags=re.MULTILINE), text)
        begin = f"\n{hidden}".index(f"\n{title}\n") + len(title)
        end = re.search(rf"^#{{1,{level}}} ", hidden[begin:], re.MULTILINE)
        found.append(text[begin : begin + end.start()] if end else text[begin:])
    assert len(found) == 1, f"{len(found)} headings {title!r}"
    return found[0]


def blocks_of(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [match[1] for match in _FENCE.findall(text) if match[0] == language]


def commands_of(text: str) -> list[str]:
    """Return the lines that a reader types into a shell: those of ``sh`` blocks, and those indented by four."""
    indented = re.findall(r"^    (\S.+)$", _FENCE.sub("", text), re.MULTILINE)
    fenced = [line for block in blocks_of(text, "sh") for line in textwrap.dedent(block).splitlines() if line.strip()]
    return [*indented, *fenced]


def page(name: str) -> str:
    """Text of a page of docs/, such as ``how-to/onnx``."""
    return pages()[f"docs/{name}.md"]
