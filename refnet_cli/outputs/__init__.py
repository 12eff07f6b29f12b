"""Outputs of a prediction: maps, pictures, polygons, tables, and descriptions of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from refnet_cli.outputs.areas.areas import Areas
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.cog import ClassMap, Confidence, Probabilities, Quality
from refnet_cli.outputs.pictures.html_report import HtmlReport
from refnet_cli.outputs.pictures.preview import Preview
from refnet_cli.outputs.polygons.polygons import Polygons
from refnet_cli.outputs.rows import LAYERS
from refnet_cli.outputs.stac import StacItem
from refnet_cli.outputs.style import Style
from refnet_cli.system.atomic import check_ending

OUTPUTS: dict[str, type[FileOutput]] = {
    "classes": ClassMap,
    "probabilities": Probabilities,
    "confidence": Confidence,
    "quality": Quality,
    "preview": Preview,
    "polygons": Polygons,
    "areas": Areas,
    "style": Style,
    "report": HtmlReport,
    "stac": StacItem,
}
"""Output classes by their names on the command line.

Outputs are completed in this order and moved into place in the reverse order, the map last.
"""

_LIKE = dict.fromkeys((".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".svg", ".pdf"), ".png") | dict.fromkeys(
    (".shp", ".geojson", ".kml", ".gml", ".sqlite", ".geoparquet"), ".gpkg"
) | dict.fromkeys((".xlsx", ".xls", ".txt", ".tsv"), ".csv") | {".sld": ".qml"}
"""File extensions that no output has, and the extension of the closest output."""


def check_endings(places: Mapping[str, Path]) -> None:
    """Check that the extension of each output's name matches its format.

    Parameters
    ----------
    places : mapping of str to Path
        The outputs' paths, by their names in `OUTPUTS`.

    Raises
    ------
    OptionsError
        If one does not match; the message states the options that write such a file.
    """
    for kind, path in places.items():
        suffixes = OUTPUTS[kind].suffixes
        what = "the class map (GeoTIFF)" if kind == "classes" else f"the output {kind}"
        if path.suffix.lower() not in suffixes:
            check_ending(path, suffixes, what, _right_options(kind, path))


def _right_options(kind: str, path: Path) -> str:
    """Return the advice for a wrong name: the options that write such a file, or a name that the output may have."""
    if path.is_dir():
        inside = path / f"lulc{OUTPUTS[kind].ending}"
        return f"It is a folder. Use -o {inside if kind == 'classes' else f'{kind}={inside}'}."
    map = path.with_suffix(".tif")
    ending = _LIKE.get(path.suffix.lower(), path.suffix.lower())
    other = next((name for name, what in OUTPUTS.items() if ending in what.suffixes), None)
    if kind != "classes":
        return f"Use -o {kind}={path.with_suffix(OUTPUTS[kind].suffixes[0])}."
    if other is None:
        return f"Use -o {map}. GDAL's gdal_translate converts it to other formats."
    return f"For the map use -o {map}; to write {other} too, add -o {other}={path.with_suffix(ending)}."


def required_layers(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names in `LAYERS` that these kinds of outputs need, and those that every map keeps."""
    needed = {"codes", "quality", "max_probability"}.union(*(OUTPUTS[kind].layers for kind in kinds))
    return tuple(name for name in LAYERS if name in needed)


def needs_quicklook(kinds: Iterable[str]) -> bool:
    """Return whether any of these kinds of outputs shows a quicklook of the sensors."""
    return any(OUTPUTS[kind].quicklook for kind in kinds)
