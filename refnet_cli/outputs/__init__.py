"""What a prediction leaves behind: maps, pictures, polygons, tables, and what tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.areas.areas import AreaCounter, Areas, document_of
from refnet_cli.outputs.base import JOURNAL, FileOutput, Output, sha256_of, sidecar_of, write_sidecar
from refnet_cli.outputs.block_file import Shard, look_of, planes_of, read_look, read_shard
from refnet_cli.outputs.cog import (
    BLOCK,
    CHECKSUM,
    DRIVERS,
    REASONS,
    ClassMap,
    Confidence,
    HalfProbabilities,
    Probabilities,
    Quality,
    describe_gdal,
    write_raster,
)
from refnet_cli.outputs.pictures.html_report import HtmlReport
from refnet_cli.outputs.pictures.preview import Preview
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.polygons.polygons import Polygons
from refnet_cli.outputs.polygons.vector_files import VECTORS
from refnet_cli.outputs.rows import CONFIDENCE, LAYERS, LOW, STEPS, Layer, Rows, class_codes
from refnet_cli.outputs.stac import StacItem
from refnet_cli.outputs.style import Style, further_styles, warn_of_styles
from refnet_cli.outputs.verify import verify_map
from refnet_cli.sensors.quality import QUALITY
from refnet_cli.system.atomic import check_ending

__all__ = [
    "BLOCK",
    "CHECKSUM",
    "CONFIDENCE",
    "DRIVERS",
    "JOURNAL",
    "LAYERS",
    "LOW",
    "OUTPUTS",
    "QUALITY",
    "REASONS",
    "STEPS",
    "AreaCounter",
    "Areas",
    "ClassMap",
    "Confidence",
    "FileOutput",
    "HalfProbabilities",
    "HtmlReport",
    "Kind",
    "Layer",
    "MapContext",
    "Output",
    "Polygons",
    "Preview",
    "Probabilities",
    "Quality",
    "Quicklook",
    "Rows",
    "Shard",
    "StacItem",
    "Style",
    "check_endings",
    "class_codes",
    "describe_gdal",
    "look_of",
    "planes_of",
    "read_look",
    "read_shard",
    "sha256_of",
    "sidecar_of",
    "union_of_layers",
    "verify_map",
    "warn_of_styles",
    "write_raster",
    "write_sidecar",
]


@dataclass(frozen=True)
class MapContext:
    """What outputs of one map have in common."""

    map: Path
    """Where the class map is to appear."""
    grid: GeoBox
    scheme: ClassScheme
    tags: dict[str, str]
    quality: bool = False
    """Whether the class map has a second band of quality."""
    look: Quicklook | None = None
    """What the sensors saw, complete when the outputs are; the report shows it."""
    zones: Path | None = None
    """Vector file of polygons that areas are wanted of, besides the whole map's."""
    zone_field: str | None = None
    """Field of that file with the zones' names; by default they are numbered."""
    zone_layer: str | None = None
    """Layer of that file; needed where several have shapes."""
    acquired: tuple[str, str] | None = None
    """When the scenes were acquired, start and end in ISO 8601, UTC; see `refnet_cli.sensors.dates`."""
    min_area: float = 0.0
    """Hectares; smaller polygons become part of a neighbour."""


@dataclass(frozen=True)
class Kind:
    """A kind of output."""

    output: type[FileOutput]
    ending: str
    """What stands in place of the map's ``.tif`` in its own name, unless that is given."""
    more: Callable[[MapContext], dict[str, Any]] = lambda context: {}
    """What it is made with besides path, grid, class scheme and tags."""
    suffixes: tuple[str, ...] = (".tif", ".tiff")
    """Endings that its name may have, the usual one first."""
    companions: Callable[[Path, Path], list[Path]] = lambda path, map: []
    """Further files that come with the one at a path, for a map at another."""

    def make(self, path: Path, context: MapContext) -> Output:
        """Begin an output of a map."""
        return self.output(path, context.grid, context.scheme, context.tags, **self.more(context))

    def files(self, path: Path, map: Path) -> list[Path]:
        """Return all files of an output at a path, for a map at another."""
        return [path, *self.companions(path, map)]


OUTPUTS: dict[str, Kind] = {
    "classes": Kind(ClassMap, ".tif", lambda context: {"quality": context.quality}),
    "probabilities": Kind(Probabilities, "_probabilities.tif"),
    "probabilities16": Kind(HalfProbabilities, "_probabilities16.tif"),
    "confidence": Kind(Confidence, "_confidence.tif"),
    "quality": Kind(Quality, "_quality.tif"),
    "preview": Kind(Preview, "_preview.png", suffixes=(".png",)),
    "polygons": Kind(Polygons, "_polygons.gpkg", lambda context: {"min_area": context.min_area}, tuple(VECTORS)),
    "areas": Kind(
        Areas,
        "_areas.csv",
        lambda c: {"map_name": c.map.name, "zones": c.zones, "zone_field": c.zone_field, "zone_layer": c.zone_layer},
        (".csv",),
        lambda path, map: [document_of(path)],
    ),
    "style": Kind(Style, ".qml", lambda c: {"map": c.map}, (".qml",), further_styles),
    "report": Kind(HtmlReport, "_report.html", lambda context: {"look": context.look}, (".html", ".htm")),
    "stac": Kind(
        StacItem,
        ".stac.json",
        lambda c: {"map": c.map, "acquired": c.acquired, "quality": c.quality},
        (".json", ".geojson"),
    ),
}
"""From an output's name on the command line to how it is made, in the order in which they become complete; they move
into place in the reverse one, the map last."""


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
    wanted = {"codes", "quality", "low_confidence"}.union(*(OUTPUTS[kind].output.layers for kind in kinds))
    return tuple(name for name in LAYERS if name in wanted)
