"""What a prediction writes: maps, pictures, polygons, tables, and descriptions of them."""

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
"""Outputs by their names on the command line, in the order in which they become complete; they move into place in the
reverse one, the map last."""


_LIKE = dict.fromkeys((".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".svg", ".pdf"), ".png") | dict.fromkeys(
    (".shp", ".geojson", ".kml", ".gml", ".sqlite", ".geoparquet"), ".gpkg"
) | dict.fromkeys((".xlsx", ".xls", ".txt", ".tsv"), ".csv") | {".sld": ".qml"}
"""Endings of names, and which one the output that comes closest has."""


def check_endings(places: Mapping[str, Path]) -> None:
    """Refuse outputs whose names promise another format than the files would have.

    Parameters
    ----------
    places : mapping of str to Path
        Where outputs are to appear, by their names in `OUTPUTS`.

    Raises
    ------
    OptionsError
        With the options that write such a file.
    """
    for kind, path in places.items():
        suffixes = OUTPUTS[kind].suffixes
        what = "the class map, a GeoTIFF," if kind == "classes" else f"the output {kind}"
        if path.suffix.lower() not in suffixes:
            check_ending(path, suffixes, what, _right_options(kind, path))


def _right_options(kind: str, path: Path) -> str:
    """Say which options write what a name promises, or else a name that the output may have."""
    if path.is_dir():
        inside = path / f"lulc{OUTPUTS[kind].ending}"
        return f"It is a folder. Give -o {inside if kind == 'classes' else f'{kind}={inside}'}."
    map = path.with_suffix(".tif")
    ending = _LIKE.get(path.suffix.lower(), path.suffix.lower())
    other = next((name for name, what in OUTPUTS.items() if ending in what.suffixes), None)
    if kind != "classes":
        return f"Give -o {kind}={path.with_suffix(OUTPUTS[kind].suffixes[0])}."
    if other is None:
        return f"Give -o {map}. GDAL's gdal_translate writes other formats of it."
    return f"For the map give -o {map}; to write {other} too, add -o {other}={path.with_suffix(ending)}."


def union_of_layers(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names in `LAYERS` of what outputs of these kinds read of rows, and of what every map keeps."""
    needed = {"codes", "quality", "max_probability"}.union(*(OUTPUTS[kind].layers for kind in kinds))
    return tuple(name for name in LAYERS if name in needed)


def needs_quicklook(kinds: Iterable[str]) -> bool:
    """Tell whether outputs of these kinds show what the sensors saw."""
    return any(OUTPUTS[kind].quicklook for kind in kinds)
