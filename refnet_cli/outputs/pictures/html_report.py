"""A page that describes a map: the map over what the sensors saw, its figures, and how it came about."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.downsample import ClassPicture
from refnet_cli.outputs.geodesy import view_of
from refnet_cli.outputs.pictures.charts import Bar, bar_chart, histogram
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import NO_SHARE, STEPS, Rows
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.memory import MB
from refnet_cli.types import UInt8

_BINS = 50
_NO_DATA = (230, 233, 236)  # the page's colour under the map
_FINE = 400  # pixels of a picture that need no enlarging
_BAR = 0.3  # share of the map's width that a scale bar may take


class HtmlReport(FileOutput):
    """A page of HTML for any browser, a single file that asks for nothing from elsewhere.

    It shows the map over quicklooks of the sensors, areas, a histogram of the classes' probabilities, what was
    decided, warnings, and with what the map was made. What ``facts`` does not tell it leaves out.

    Parameters
    ----------
    path : str or Path
        Where the page is to appear.
    grid : GeoBox
    scheme : ClassScheme
    tags : dict of str to str
        Become the page's meta data.
    look : Quicklook, optional
        Of the grid; complete when the page is.

    Raises
    ------
    ValueError
        If the quicklook is one of another grid.
    OutputError
        If the page cannot be made at that place.
    StorageError
        From `finish`, if the disk fills up.
    """

    ending = "_report.html"
    suffixes = (".html", ".htm")
    media: ClassVar = {".html": ("text/html", ("metadata",))}
    layers = ("codes", "confidence")
    fixed_memory = 150 * MB
    quicklook = True

    def __init__(self, path: str | Path, context: MapContext) -> None:
        self._look, shape = context.look, (*context.grid.shape,)
        if self._look is not None and self._look.shape != shape:
            raise ValueError(f"A quicklook of {self._look.shape} pixels is none of a grid of {shape}.")
        super().__init__(path, context)

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        self._picture = ClassPicture(height, width, self._scheme.codes)
        self._steps = np.zeros(256, np.int64)

    def _put(self, rows: Rows) -> None:
        self._picture.add(rows.codes)
        self._steps += np.bincount(rows.confidence[0].ravel(), minlength=256)

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        classes = _classes(self._scheme, self._picture.pixels, facts.get("areas_hectares"))
        names = facts.get("files", {}).get("classes", [])
        sensors = facts.get("sensors", MODALITIES)
        height, width = self._picture.codes.shape
        chart, confidence = _confidence(self._steps)
        page = _render(
            name=names[0]["name"] if names else "Land cover map",
            satellites=sorted(SENSORS[sensor].satellite for sensor in sensors),
            tags=self._tags,
            summary=_summary(self._grid, classes, facts),
            warnings=facts.get("warnings"),
            notice=facts.get("weights", {}).get("notice"),
            height=height,
            width=width,
            rendering="auto" if max(height, width) > _FINE else "pixelated",
            pictures=_pictures(self._picture.codes, self._scheme, classes, self._look, sensors),
            scale=_scale(self._grid),
            classes=classes,
            areas_known=any(one.area for one in classes),
            bars=bar_chart([Bar(one.name, one.share, one.label, one.colour) for one in classes], "Area of each class"),
            histogram=chart,
            confidence=confidence,
            decisions=[(item["what"], item["value"], item["how"]) for item in facts.get("decisions", [])],
            **_provenance(self._grid, facts),
        )
        result = folder / "complete.html"
        # Names of files need not be text.
        result.write_bytes(page.encode("utf-8", "replace"))
        return [result]


def _render(**values: Any) -> str:
    """Fill in the page, every text escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(text=_text, share=_share)
    template = files("refnet_cli.outputs.pictures").joinpath("page.html").read_text("utf-8")
    return environment.from_string(template).render(values)


class _Class(NamedTuple):
    """A class that occurs in the map."""

    name: str
    colour: tuple[int, int, int]
    share: float
    hectares: float | None

    @property
    def area(self) -> str:
        return "" if self.hectares is None else _hectares(self.hectares)

    @property
    def label(self) -> str:
        return f"{self.area} ha" if self.area else _share(self.share)


def _classes(scheme: ClassScheme, pixels: Mapping[int, int], areas: Mapping[str, float] | None) -> list[_Class]:
    """Return the classes that occur, the largest first; shares are of pixels where areas are not known."""
    if areas is None:
        sizes: list[float] = [pixels[code] for code in scheme.codes]
    else:
        sizes = [areas[name] for name in scheme.names]
    total = sum(sizes) or 1
    classes = [
        _Class(name, colour, size / total, None if areas is None else size)
        for name, colour, size in zip(scheme.names, scheme.colours, sizes, strict=True)
        if size
    ]
    return sorted(classes, key=lambda one: -one.share)


def _summary(grid: GeoBox, classes: Sequence[_Class], facts: Mapping[str, Any]) -> dict[str, Any]:
    height, width = grid.shape
    items = {}
    if "areas_hectares" in facts:
        items["Mapped"] = f"{_hectares(sum(facts['areas_hectares'].values()))} ha"
    if "valid_share" in facts:
        items["Valid pixels"] = _share(facts["valid_share"])
    if classes:
        items["Commonest class"] = f"{classes[0].name}, {_share(classes[0].share)}"
    items["Grid"] = f"{width:,} × {height:,} pixels of {_pixel(grid)}"
    return items | {SENSORS[key].satellite: facts[key] for key in MODALITIES if key in facts}


def _pictures(
    codes: UInt8, scheme: ClassScheme, classes: Sequence[_Class], look: Quicklook | None, sensors: Sequence[str]
) -> list[dict[str, str]]:
    """Return the pictures of the map and of the sensors that it is from; a script makes of them one to swipe over."""
    told = ", ".join(f"{one.name} {_share(one.share)}" for one in classes) or "no data"
    pictures = [("classes", "Class map", f"Map of land cover: {told}.", _class_picture(codes, scheme))]
    if look is not None:
        seen = {"optical": (look.optical_bands, look.optical_picture), "sar": (look.sar_bands, look.sar_picture)}
        for key in MODALITIES:
            if key in sensors:
                (bands, draw), satellite = seen[key], SENSORS[key].satellite
                told = f"What {satellite} saw, bands {', '.join(bands)}."
                pictures.append((key, f"{satellite} ({', '.join(bands)})", told, _few_colours(draw())))
    return [{"key": key, "name": name, "alt": alt, "source": _data_uri(image)} for key, name, alt, image in pictures]


def _class_picture(codes: UInt8, scheme: ClassScheme) -> Image.Image:
    """Paint each class in its colour; what is none is transparent."""
    number = np.zeros(256, np.uint8)
    number[list(scheme.codes)] = np.arange(1, len(scheme.codes) + 1)
    image = Image.fromarray(number[codes]).convert("P")
    image.putpalette([*_NO_DATA, *(value for colour in scheme.colours for value in colour)])
    image.info["transparency"] = 0
    return image


def _few_colours(picture: UInt8) -> Image.Image:
    """Reduce a picture to 255 colours, a third of the bytes, and one for what is transparent."""
    image = Image.fromarray(np.ascontiguousarray(picture[..., :3])).quantize(255, Image.Quantize.MEDIANCUT)
    numbers = np.where(picture[..., 3] > 0, np.asarray(image), np.uint8(255))
    reduced = Image.fromarray(numbers.astype(np.uint8)).convert("P")
    colours = (image.getpalette() or [])[: 3 * 255]
    reduced.putpalette([*colours, *[0] * (3 * 255 - len(colours)), *_NO_DATA])
    reduced.info["transparency"] = 255
    return reduced


def _data_uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def _scale(grid: GeoBox) -> dict[str, str] | None:
    """Describe a scale bar and an arrow to the north, if the grid's rows run eastwards and north is up."""
    view = view_of(grid)
    if view.flip_rows or view.flip_columns or view.pixel is None or view.north is None:
        return None
    metres = grid.shape[1] * view.pixel
    length = _round_length(_BAR * metres)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return {"width": f"{length / metres:.2%}", "length": label, "north": f"{view.north:.1f}"}


def _round_length(most: float) -> float:
    """Return the greatest of 1, 2 and 5 times a power of ten that is at most as long."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)


def _confidence(steps: NDArray[np.int64]) -> tuple[str, str]:
    """Draw the probabilities, counted by steps of 1/`STEPS`, and sum them up in words."""
    known = steps[: STEPS + 1]
    assert int(steps.sum() - known.sum()) == int(steps[NO_SHARE])
    total = int(known.sum())
    if not total:
        return "", "No pixel has a class."
    bins = np.bincount(np.minimum(np.arange(len(known)) * _BINS // STEPS, _BINS - 1), known).astype(np.int64)
    median = int(np.searchsorted(np.cumsum(known), (total + 1) // 2)) / STEPS
    unsure = int(known[: STEPS // 2].sum()) / total
    told = f"Half of the pixels have a probability of {median:.2f} or more; {_share(unsure)} have less than 0.5."
    return histogram(bins.tolist(), f"Histogram of probabilities. {told}"), told


def _provenance(grid: GeoBox, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the tables that tell how the map was made, and the lines of the translation."""
    weights = facts.get("weights", {})
    crs = facts.get("grid", {}).get("crs") or pyproj.CRS.from_user_input(grid.crs).name
    height, width = grid.shape
    items = {
        "refnet": facts.get("version"),
        "Weights": weights.get("name"),
        "SHA-256 of the weights": weights.get("sha256"),
        **{SENSORS[key].satellite: facts.get(key) for key in MODALITIES},
        "Reference system": crs,
        "Grid": f"{height} rows of {width} pixels of {_pixel(grid)}",
        "Upper left corner": f"{grid.affine.c:.10g}, {grid.affine.f:.10g}",
    }
    translation = facts.get("translation") or {}
    return {
        "provenance": [(what, value) for what, value in items.items() if value],
        "translation": translation and (translation.get("lines") or [_text(translation)]),
        "drift": [(band, f"{value:+.2f}") for band, value in (facts.get("drift") or {}).items()],
        "options": list((facts.get("options") or {}).items()),
        "counts": list((facts.get("counts") or {}).items()),
        "files": [
            (kind, file["name"], f"{file['bytes']:,}", file["sha256"])
            for kind, group in facts.get("files", {}).items()
            for file in group
        ],
    }


def _text(value: Any) -> str:
    """Return a value that JSON can hold as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hectares(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def _share(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _pixel(grid: GeoBox) -> str:
    transform = grid.affine
    unit = pyproj.CRS.from_user_input(grid.crs).axis_info[0].unit_name
    sides = [f"{math.hypot(*side):.6g}" for side in ((transform.a, transform.d), (transform.b, transform.e))]
    size = sides[0] if sides[0] == sides[1] else " × ".join(sides)
    return f"{size} m" if unit == "metre" else f"{size} {unit}"
