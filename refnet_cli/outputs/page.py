"""A page that tells of a map: the map over what the sensors saw, its figures, and how it came about."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.cells import ClassPicture
from refnet_cli.outputs.charts import Bar, bar_chart, histogram
from refnet_cli.outputs.ground import view_of
from refnet_cli.outputs.quicklook import Quicklook
from refnet_cli.outputs.rows import NO_SHARE, STEPS, Rows
from refnet_cli.products import SATELLITES, ClassScheme

UInt8 = NDArray[np.uint8]

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

    layers: tuple[str, ...] = ("codes", "confidence")

    def __init__(
        self, path: str | Path, grid: GeoBox, scheme: ClassScheme, tags: dict[str, str], look: Quicklook | None = None
    ) -> None:
        if look is not None and look.shape != (*grid.shape,):
            raise ValueError(f"A quicklook of {look.shape} pixels is none of a grid of {(*grid.shape,)}.")
        self._look = look
        super().__init__(path, grid, scheme, tags)

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
        sensors = facts.get("sensors", [*SATELLITES])
        page = Template(files("refnet_cli.outputs").joinpath("page.html").read_text("utf-8")).substitute(
            name=escape(names[0]["name"] if names else "Land cover map"),
            kicker=" and ".join(sorted(SATELLITES[sensor] for sensor in sensors)),
            meta="\n".join(f'<meta name="{escape(key)}" content="{escape(text)}">' for key, text in self._tags.items()),
            summary=_summary(self._grid, classes, facts),
            notes=_notes(facts),
            stage=_stage(self._picture.codes.shape),
            pictures=_pictures(self._picture.codes, self._scheme, classes, self._look, sensors),
            scale=_scale(self._grid),
            legend=_legend(classes),
            bars=bar_chart([Bar(one.name, one.share, one.label, one.colour) for one in classes], "Area of each class"),
            histogram=_confidence(self._steps),
            decisions=_decisions(facts.get("decisions", [])),
            provenance=_provenance(self._grid, facts),
        )
        result = folder / "complete.html"
        # Names of files need not be text.
        result.write_bytes(page.encode("utf-8", "replace"))
        return [result]


class _Class(NamedTuple):
    """A class that occurs in the map."""

    name: str
    colour: tuple[int, int, int]
    share: float
    hectares: float | None

    @property
    def label(self) -> str:
        return _share(self.share) if self.hectares is None else f"{_hectares(self.hectares)} ha"


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


def _summary(grid: GeoBox, classes: Sequence[_Class], facts: Mapping[str, Any]) -> str:
    height, width = grid.shape
    items = {}
    if "areas_hectares" in facts:
        items["Mapped"] = f"{_hectares(sum(facts['areas_hectares'].values()))} ha"
    if "valid_share" in facts:
        items["Valid pixels"] = _share(facts["valid_share"])
    if classes:
        items["Commonest class"] = f"{classes[0].name}, {_share(classes[0].share)}"
    items["Grid"] = f"{width:,} × {height:,} pixels of {_pixel(grid)}"
    items |= {sensor: facts[key] for key, sensor in SATELLITES.items() if key in facts}
    return "".join(f"<div><dt>{escape(what)}</dt><dd>{_isolated(value)}</dd></div>" for what, value in items.items())


def _notes(facts: Mapping[str, Any]) -> str:
    notes = ""
    if facts.get("warnings"):
        listed = "".join(f"<li>{_isolated(text)}</li>" for text in facts["warnings"])
        notes += (
            '<section class="note warning" aria-labelledby="warnings"><h2 id="warnings">Warnings</h2>'
            f"<ul>{listed}</ul></section>"
        )
    if facts.get("weights", {}).get("notice"):
        notes += (
            '<section class="note" aria-labelledby="notice"><h2 id="notice">About the weights</h2>'
            f"<p>{_isolated(facts['weights']['notice'])}</p></section>"
        )
    return notes


def _stage(shape: tuple[int, ...]) -> str:
    """Return the style of what pictures of a shape are shown in."""
    rendering = "auto" if max(shape) > _FINE else "pixelated"
    return f"--height:{shape[0]};--width:{shape[1]};--rendering:{rendering}"


def _pictures(
    codes: UInt8, scheme: ClassScheme, classes: Sequence[_Class], look: Quicklook | None, sensors: Sequence[str]
) -> str:
    """Return the pictures of the map and of the sensors that it is from; a script makes of them one to swipe over."""
    height, width = codes.shape
    told = ", ".join(f"{one.name} {_share(one.share)}" for one in classes) or "no data"
    pictures = [("classes", "Class map", f"Map of land cover: {told}.", _class_picture(codes, scheme))]
    if look is not None:
        seen = {"optical": (look.optical_bands, look.optical_picture), "sar": (look.sar_bands, look.sar_picture)}
        for key, satellite in SATELLITES.items():
            if key in sensors:
                bands, draw = seen[key]
                told = f"What {satellite} saw, bands {', '.join(bands)}."
                pictures.append((key, f"{satellite} ({', '.join(bands)})", told, _few_colours(draw())))
    return "".join(
        f'<figure><img id="picture-{key}" data-name="{escape(name)}" alt="{escape(alt)}" src="{_data_uri(image)}" '
        f'width="{width}" height="{height}"><figcaption>{escape(name)}</figcaption></figure>'
        for key, name, alt, image in pictures
    )


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


def _scale(grid: GeoBox) -> str:
    """Return a scale bar and an arrow to the north, if the grid's rows run eastwards and north is up."""
    view = view_of(grid)
    if view.flip_rows or view.flip_columns or view.pixel is None or view.north is None:
        return ""
    metres, north = grid.shape[1] * view.pixel, view.north
    length = _round_length(_BAR * metres)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    said = f"North lies {north:.1f} degrees clockwise from up."
    return (
        f'<div class="scale"><div class="bar" style="width:{length / metres:.2%}"></div><span>{label}</span>'
        f'<svg viewBox="-12 -14 24 28" class="north" role="img" aria-label="{said}">'
        f'<path d="M0 -12 L7 10 L0 5 L-7 10 Z" transform="rotate({north:.1f})"/></svg><span>N</span></div>'
    )


def _round_length(most: float) -> float:
    """Return the greatest of 1, 2 and 5 times a power of ten that is at most as long."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)


def _legend(classes: Sequence[_Class]) -> str:
    rows = "".join(
        f'<tr><td><span class="swatch" style="background:rgb{one.colour}"></span></td>'
        f'<th scope="row">{_isolated(one.name)}</th>'
        f"<td>{'' if one.hectares is None else _hectares(one.hectares)}</td><td>{_share(one.share)}</td></tr>"
        for one in classes
    )
    unknown = all(one.hectares is None for one in classes)
    return (
        '<table class="legend"><caption>Classes</caption><thead><tr><td></td><th scope="col">Class</th>'
        f'<th scope="col">{"" if unknown else "Hectares"}</th><th scope="col">Share</th></tr></thead>'
        f'<tbody>{rows}<tr><td><span class="swatch none"></span></td><th scope="row">No data</th><td></td><td></td>'
        "</tr></tbody></table>"
    )


def _confidence(steps: NDArray[np.int64]) -> str:
    """Draw the probabilities, counted by steps of 1/`STEPS`."""
    known = steps[: STEPS + 1]
    assert int(steps.sum() - known.sum()) == int(steps[NO_SHARE])
    total = int(known.sum())
    if not total:
        return "<p>No pixel has a class.</p>"
    bins = np.bincount(np.minimum(np.arange(len(known)) * _BINS // STEPS, _BINS - 1), known).astype(np.int64)
    median = int(np.searchsorted(np.cumsum(known), (total + 1) // 2)) / STEPS
    unsure = int(known[: STEPS // 2].sum()) / total
    told = f"Half of the pixels have a probability of {median:.2f} or more; {_share(unsure)} have less than 0.5."
    return f"{histogram(bins.tolist(), f'Histogram of probabilities. {told}')}<p>{escape(told)}</p>"


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    if not decisions:
        return "<p>Nothing is known of them.</p>"
    return _table(("What", "Value", "Why"), ((item["what"], item["value"], item["how"]) for item in decisions))


def _provenance(grid: GeoBox, facts: Mapping[str, Any]) -> str:
    weights = facts.get("weights", {})
    crs = facts.get("grid", {}).get("crs") or pyproj.CRS.from_user_input(grid.crs).name
    height, width = grid.shape
    items = {
        "refnet": facts.get("version"),
        "Weights": weights.get("name"),
        "SHA-256 of the weights": weights.get("sha256"),
        "Sentinel-2": facts.get("optical"),
        "Sentinel-1": facts.get("sar"),
        "Reference system": crs,
        "Grid": f"{height} rows of {width} pixels of {_pixel(grid)}",
        "Upper left corner": f"{grid.affine.c:.10g}, {grid.affine.f:.10g}",
    }
    parts = [_table(("", ""), ((what, value) for what, value in items.items() if value))]
    if facts.get("translation"):
        lines = facts["translation"].get("lines") or [_text(facts["translation"])]
        listed = "".join(f"<li>{_isolated(line)}</li>" for line in lines)
        parts.append(f"<h3>Translation of the classes</h3><ul>{listed}</ul>")
    if facts.get("drift"):
        parts.append("<h3>Distance of each band's mean from that of the training, in standard deviations</h3>")
        parts.append(_table(("Band", "Distance"), ((band, f"{value:+.2f}") for band, value in facts["drift"].items())))
    for title, key, heads in (("Options", "options", ("Option", "Value")), ("Pixels", "counts", ("What", "Pixels"))):
        if facts.get(key):
            parts += [f"<h3>{title}</h3>", _table(heads, facts[key].items())]
    if facts.get("files"):
        made = [
            (kind, file["name"], f"{file['bytes']:,}", file["sha256"])
            for kind, group in facts["files"].items()
            for file in group
        ]
        parts += ["<h3>Files</h3>", _table(("What", "File", "Bytes", "SHA-256"), made)]
    return "".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table whose first column names its rows; heads that are all empty are left out."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{_isolated(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{_isolated(first)}</th>{cells}</tr>'
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if any(heads) else ''}<tbody>{body}</tbody></table>"


def _isolated(value: Any) -> str:
    """Return a value as HTML that no script's direction turns around."""
    return f"<bdi>{escape(_text(value))}</bdi>"


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
