"""A picture of the class map for a first look."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.cells import ClassPicture
from refnet_cli.outputs.rows import Rows
from refnet_cli.products import ClassScheme

UInt8 = NDArray[np.uint8]


class Preview(FileOutput):
    """A picture of the class map for a first look: PNG, transparent where there is no data, with a legend.

    A pixel of the picture shows the commonest class of the map's pixels under it. The longer side of the map takes
    at most 1000 pixels; small maps are enlarged.

    Parameters
    ----------
    path : str or Path
        Where the picture is to appear.
    grid : GeoBox
    scheme : ClassScheme
    tags : dict of str to str
        Written as the picture's text entries.

    Raises
    ------
    OutputError
        If the picture cannot be made at that place.
    StorageError
        From `finish`, if the disk fills up.
    """

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
        _draw(self._picture.codes, self._scheme).save(picture, "PNG", pnginfo=text)
        result = folder / "complete.png"
        result.write_bytes(picture.getvalue())
        return [result]


def _draw(codes: UInt8, scheme: ClassScheme) -> Image.Image:
    """Draw a map of at most 1000 pixels with the classes that occur in it beside it, commonest first."""
    palette = np.zeros((256, 4), np.uint8)
    palette[list(scheme.codes)] = [(*colour, 255) for colour in scheme.colours]
    enlarge = max(1, 600 // max(codes.shape))
    picture = Image.fromarray(palette[codes.repeat(enlarge, 0).repeat(enlarge, 1)])
    counts = dict(zip(scheme.codes, np.bincount(codes.ravel(), minlength=256)[list(scheme.codes)], strict=True))
    names = dict(zip(scheme.codes, scheme.names, strict=True))
    shown = sorted((code for code in scheme.codes if counts[code]), key=lambda code: -counts[code])

    font = ImageFont.load_default(size=18)
    margin, line, swatch = 20, 32, 20
    legend_width = math.ceil(max((font.getlength(names[code]) for code in shown), default=0)) + swatch + 3 * margin
    legend_height = 2 * margin + line * len(shown)
    canvas = Image.new("RGBA", (picture.width + legend_width, max(picture.height, legend_height)), (255, 255, 255, 255))
    canvas.paste((255, 255, 255, 0), (0, 0, picture.width, canvas.height))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = picture.width + margin
    for top, code in zip(range(margin, legend_height, line), shown, strict=False):
        box = (left, top, left + swatch, top + swatch)
        draw.rectangle(box, fill=tuple(palette[code].tolist()), outline=(90, 90, 90, 255))
        place = (left + swatch + margin // 2, top + swatch // 2)
        draw.text(place, names[code], fill=(30, 30, 30, 255), font=font, anchor="lm")
    return canvas
