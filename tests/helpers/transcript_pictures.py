"""Pictures of transcripts, to look at them as people see them on light and dark terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tests.helpers.screen import Screen

Colour = tuple[int, int, int]
THEMES: dict[str, tuple[Colour, Colour, tuple[Colour, ...]]] = {
    "light": ((255, 255, 255), (30, 30, 30), (
        (0, 0, 0), (194, 54, 33), (37, 160, 55), (173, 137, 0), (40, 80, 200), (175, 60, 175), (20, 140, 160),
        (110, 110, 110),
    )),
    "dark": ((24, 24, 28), (220, 220, 220), (
        (60, 60, 60), (240, 90, 80), (90, 200, 100), (220, 190, 80), (110, 150, 255), (220, 120, 220), (80, 200, 220),
        (235, 235, 235),
    )),
}  # fmt: skip
"""Background, text, and the eight colours of terminals."""
SIZE, WIDTH, HEIGHT, MARGIN = 15, 9, 19, 12  # pixels
RGB = re.compile(r"([34])8;2;(\d+);(\d+);(\d+)")


def draw(folder: Path, name: str, screens: Sequence[Screen]) -> list[Path]:
    """Draw what terminals show, one below the other: ``NAME-light.png`` and ``NAME-dark.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    plain, bold = (ImageFont.truetype(fonts / f"DejaVuSansMono{kind}.ttf", SIZE) for kind in ("", "-Bold"))
    rows = [row for screen in screens for row in (*screen.rows[: len(screen.lines)], [])]
    size = (2 * MARGIN + WIDTH * screens[0].columns, 2 * MARGIN + HEIGHT * len(rows))
    paths = []
    for theme, (background, text, colours) in THEMES.items():
        picture = Image.new("RGB", size, background)
        pen = ImageDraw.Draw(picture)
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                x, y = MARGIN + WIDTH * column, MARGIN + HEIGHT * number
                found = dict(_read_style(cell.style, colours))
                if "behind" in found:
                    pen.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), fill=found["behind"])
                pen.text((x, y), cell.character, found.get("text", text), bold if "bold" in found else plain)
        paths.append(folder / f"{name}-{theme}.png")
        picture.save(paths[-1])
    return paths


def _read_style(style: str, colours: Sequence[Colour]) -> Iterator[tuple[str, Colour]]:
    for layer, *rgb in RGB.findall(style):
        red, green, blue = map(int, rgb)
        yield "text" if layer == "3" else "behind", (red, green, blue)
    for number in filter(None, RGB.sub("", style).split(";")):
        if number == "1":
            yield "bold", colours[0]
        elif number[0] in "349" and number[1:].isdigit():
            yield "behind" if number[0] == "4" else "text", colours[int(number[-1]) % 8]
