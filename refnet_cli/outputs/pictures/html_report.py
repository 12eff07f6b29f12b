"""HTML report of a map: the map over quicklooks of the sensors, its statistics and its provenance."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.downsample import ClassPicture
from refnet_cli.outputs.geodesy import orientation_of
from refnet_cli.outputs.pictures.charts import Bar, bar_chart, histogram
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import PROBABILITY_NODATA, STEPS, Rows
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.memory import MB
from refnet_cli.types import UInt8

if TYPE_CHECKING:
    from jinja2 import Template

_BINS = 50
_NO_DATA = (230, 233, 236)  # the page's colour under the map
_FINE = 400  # pixels of a side above which pictures are scaled smoothly
_BAR = 0.3  # longest scale bar, as a share of the map's width


class HtmlReport(FileOutput):
    """An HTML page for any browser: a single file that loads no other resources.

    It shows the map over quicklooks of the sensors, areas, a histogram of the classes' probabilities, decisions about
    the input files, warnings and the map's provenance. Sections without data in ``facts`` are omitted.

    Parameters
    ----------
    path : str or Path
        Path of the page.
    context : MapContext
        The tags become the page's metadata. The quicklook must be complete when the page is completed.

    Raises
    ------
    ValueError
        If the quicklook has another grid.
    OutputError
        If the file cannot be created there.
    StorageError
        From `finish`, if the disk is full.
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
            raise ValueError(f"The quicklook has {self._look.shape} pixels, and the grid {shape}.")
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
        page = _template().render(
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
        # File names need not be valid UTF-8.
        result.write_bytes(page.encode("utf-8", "replace"))
        return [result]


@cache
def _template() -> Template:
    """Return the page's template, which escapes every text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(text=_text, share=_share)
    return environment.from_string(files("refnet_cli.outputs.pictures").joinpath("page.html").read_text("utf-8"))


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
    """Return the classes that occur, largest first; shares are of pixels if areas are unknown."""
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
    if facts.get("cloud_share") is not None:
        items["Masked as cloud or shadow"] = _share(facts["cloud_share"])
    if classes:
        items["Most common class"] = f"{classes[0].name}, {_share(classes[0].share)}"
    items["Grid"] = f"{width:,} × {height:,} pixels of {_pixel(grid)}"
    return items | {SENSORS[key].satellite: facts[key] for key in MODALITIES if key in facts}


def _pictures(
    codes: UInt8, scheme: ClassScheme, classes: Sequence[_Class], look: Quicklook | None, sensors: Sequence[str]
) -> list[dict[str, str]]:
    """Return the pictures of the map and its sensors; the page's script overlays two of them with a divider."""
    listed = ", ".join(f"{one.name} {_share(one.share)}" for one in classes) or "no data"
    pictures = [("classes", "Class map", f"Land cover map: {listed}.", _class_picture(codes, scheme))]
    if look is not None:
        seen = {"optical": (look.optical_bands, look.optical_picture), "sar": (look.sar_bands, look.sar_picture)}
        for key in MODALITIES:
            if key in sensors:
                (bands, draw), satellite = seen[key], SENSORS[key].satellite
                alt = f"{satellite} image, bands {', '.join(bands)}."
                pictures.append((key, f"{satellite} ({', '.join(bands)})", alt, _few_colours(draw())))
    return [{"key": key, "name": name, "alt": alt, "source": _data_uri(image)} for key, name, alt, image in pictures]


def _class_picture(codes: UInt8, scheme: ClassScheme) -> Image.Image:
    """Return a picture of the classes in their colours; pixels without a class are transparent."""
    number = np.zeros(256, np.uint8)
    number[list(scheme.codes)] = np.arange(1, len(scheme.codes) + 1)
    image = Image.fromarray(number[codes]).convert("P")
    image.putpalette([*_NO_DATA, *(value for colour in scheme.colours for value in colour)])
    image.info["transparency"] = 0
    return image


def _few_colours(picture: UInt8) -> Image.Image:
    """Reduce a picture to 255 colours and a transparent one, which takes a third of the bytes."""
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
    """Return a scale bar and a north arrow, if the grid's rows run eastwards and north is up."""
    view = orientation_of(grid)
    if view.flip_rows or view.flip_columns or view.pixel is None or view.north is None:
        return None
    metres = grid.shape[1] * view.pixel
    length = _round_length(_BAR * metres)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return {"width": f"{length / metres:.2%}", "length": label, "north": f"{view.north:.1f}"}


def _round_length(most: float) -> float:
    """Return the largest length up to ``most`` that is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)


def _confidence(steps: NDArray[np.int64]) -> tuple[str, str]:
    """Return a histogram of the probabilities, from counts of steps of 1/`STEPS`, and a summary in words."""
    known = steps[: STEPS + 1]
    assert int(steps.sum() - known.sum()) == int(steps[PROBABILITY_NODATA])
    total = int(known.sum())
    if not total:
        return "", "No pixel has a class."
    bins = np.bincount(np.minimum(np.arange(len(known)) * _BINS // STEPS, _BINS - 1), known).astype(np.int64)
    median = int(np.searchsorted(np.cumsum(known), (total + 1) // 2)) / STEPS
    unsure = int(known[: STEPS // 2].sum()) / total
    summary = f"Half of the pixels have a probability of {median:.2f} or more; {_share(unsure)} have less than 0.5."
    return histogram(bins.tolist(), f"Histogram of probabilities. {summary}"), summary


def _provenance(grid: GeoBox, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the provenance tables, and the lines of the class crosswalk."""
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
    """Return a JSON value as readable text."""
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
