"""Preview picture of the class map."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.downsample import ClassPicture
from refnet_cli.outputs.geodesy import orientation_of
from refnet_cli.outputs.rows import Rows
from refnet_cli.types import UInt8

_MARGIN, _LINE, _SWATCH = 20, 32, 20  # of the legend, in pixels
_LONGEST_BAR, _BAR_HEIGHT, _COMPASS = 150, 50, 110
_INK = (30, 30, 30, 255)


class Preview(FileOutput):
    """A preview of the class map: PNG with a legend, transparent where there is no data.

    A pixel of the picture shows the most common class of the map's pixels under it. The longer side of the map has at
    most 1000 pixels; small maps are enlarged. North is up, or an arrow shows true north in the map's middle. The scale
    bar holds along the map's middle row, on the ellipsoid; rotated or sheared maps have none.

    Parameters
    ----------
    path : str or Path
        Path of the picture.
    context : MapContext
        The tags become the picture's text entries.

    Raises
    ------
    OutputError
        If the file cannot be created there.
    StorageError
        From `finish`, if the disk is full.
    """

    ending = "_preview.png"
    suffixes = (".png",)
    title = "Preview of the map"
    media: ClassVar = {".png": ("image/png", ("overview", "thumbnail"))}

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        self._picture = ClassPicture(height, width, self._scheme.codes)

    def _put(self, rows: Rows) -> None:
        self._picture.add(rows.codes)

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        text = PngInfo()
        for key, value in self._tags.items():
            text.add_text(key, value)
        picture = io.BytesIO()
        enlarge = max(1, 600 // max(self._picture.codes.shape))
        view = orientation_of(self._grid)
        codes = self._picture.codes[:: -1 if view.flip_rows else 1, :: -1 if view.flip_columns else 1]
        bar = scale_bar(view.pixel * self._picture.side / enlarge) if view.pixel else None
        shown = codes.repeat(enlarge, 0).repeat(enlarge, 1)
        _draw(shown, self._scheme, view.north, bar).save(picture, "PNG", pnginfo=text)
        result = folder / "complete.png"
        result.write_bytes(picture.getvalue())
        return [result]


class ScaleBar(NamedTuple):
    """A scale bar."""

    label: str
    pixels: int


def scale_bar(pixel: float) -> ScaleBar:
    """Return a scale bar of 1, 2 or 5 times a power of ten metres, 60 to 150 pixels long.

    Parameters
    ----------
    pixel : float
        Size of the picture's pixels in metres.

    Examples
    --------
    >>> scale_bar(10.0), scale_bar(150.0)
    (ScaleBar(label='1 km', pixels=100), ScaleBar(label='20 km', pixels=133))
    """
    longest = _LONGEST_BAR * pixel
    power = 10.0 ** math.floor(math.log10(longest))
    metres = max(step * power for step in (1, 2, 5) if step * power <= longest)
    return ScaleBar(f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m", round(metres / pixel))


def _draw(codes: UInt8, scheme: ClassScheme, north: float | None, bar: ScaleBar | None) -> Image.Image:
    """Draw a map with a legend of its classes, most common first, a north arrow and a scale bar."""
    palette = np.zeros((256, 4), np.uint8)
    palette[list(scheme.codes)] = [(*colour, 255) for colour in scheme.colours]
    picture = Image.fromarray(palette[codes])
    counts = dict(zip(scheme.codes, np.bincount(codes.ravel(), minlength=256)[list(scheme.codes)], strict=True))
    names = dict(zip(scheme.codes, scheme.names, strict=True))
    shown = sorted((code for code in scheme.codes if counts[code]), key=lambda code: -counts[code])

    font = ImageFont.load_default(size=18)
    text_width = math.ceil(max((font.getlength(names[code]) for code in shown), default=0))
    legend_width = max(text_width + _SWATCH + 3 * _MARGIN, (_LONGEST_BAR if bar else 0) + 2 * _MARGIN)
    end_of_names = 2 * _MARGIN + _LINE * len(shown)
    below = (_COMPASS if north is not None else 0) + (_BAR_HEIGHT if bar else 0)
    height = max(picture.height, end_of_names + below)
    canvas = Image.new("RGBA", (picture.width + legend_width, height), (255, 255, 255, 255))
    canvas.paste((255, 255, 255, 0), (0, 0, picture.width, canvas.height))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = picture.width + _MARGIN
    for top, code in zip(range(_MARGIN, end_of_names, _LINE), shown, strict=False):
        box = (left, top, left + _SWATCH, top + _SWATCH)
        draw.rectangle(box, fill=tuple(palette[code].tolist()), outline=(90, 90, 90, 255))
        place = (left + _SWATCH + _MARGIN // 2, top + _SWATCH // 2)
        draw.text(place, names[code], fill=_INK, font=font, anchor="lm")
    if north is not None:
        _draw_arrow(draw, left + _COMPASS // 2 - _MARGIN, end_of_names + _COMPASS // 2 - _MARGIN, north)
    if bar:
        _draw_bar(draw, left, end_of_names + below - _BAR_HEIGHT, bar)
    return canvas


def _draw_arrow(draw: ImageDraw.ImageDraw, x: int, y: int, north: float) -> None:
    """Draw a north arrow with an N at its tip, centred on (x, y) and turned ``north`` degrees clockwise from up."""
    cosine, sine = math.cos(math.radians(north)), math.sin(math.radians(north))

    def turned(right: float, down: float) -> tuple[float, float]:
        return x + right * cosine - down * sine, y + right * sine + down * cosine

    draw.polygon([turned(0, -16), turned(10, 24), turned(0, 15), turned(-10, 24)], fill=_INK)
    draw.text(turned(0, -29), "N", fill=_INK, font=ImageFont.load_default(size=18), anchor="mm")


def _draw_bar(draw: ImageDraw.ImageDraw, left: int, top: int, bar: ScaleBar) -> None:
    """Draw a scale bar from (left, top) to the right, with its label below."""
    draw.rectangle((left, top, left + bar.pixels - 1, top + 5), fill=_INK)
    draw.text((left, top + 12), bar.label, fill=_INK, font=ImageFont.load_default(size=16), anchor="la")
