"""What a prediction leaves behind: maps, pictures, polygons, tables, and what tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from refnet_cli.outputs.areas import AreaCounter, Areas
from refnet_cli.outputs.base import JOURNAL, FileOutput, Output, sha256_of, sidecar_of, write_sidecar
from refnet_cli.outputs.geotiff import (
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
    verify_map,
    write_raster,
)
from refnet_cli.outputs.page import HtmlReport
from refnet_cli.outputs.polygons import Polygons
from refnet_cli.outputs.preview import Preview
from refnet_cli.outputs.quicklook import Quicklook
from refnet_cli.outputs.rows import CONFIDENCE, LAYERS, STEPS, Layer, Rows, class_codes
from refnet_cli.outputs.shard import Shard, planes_of, read_look, read_shard
from refnet_cli.outputs.stac import StacItem
from refnet_cli.outputs.style import Style, warn_of_styles
from refnet_cli.products import QUALITY, ClassScheme

__all__ = [
    "BLOCK",
    "CHECKSUM",
    "CONFIDENCE",
    "DRIVERS",
    "JOURNAL",
    "LAYERS",
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
    "Making",
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
    "class_codes",
    "describe_gdal",
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
class Making:
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
    """When the scenes were acquired, start and end in ISO 8601, UTC; see `refnet_cli.dates`."""
    min_area: float = 0.0
    """Hectares; smaller polygons become part of a neighbour."""


@dataclass(frozen=True)
class Kind:
    """A kind of output."""

    output: type[FileOutput]
    ending: str
    """What stands in place of the map's ``.tif`` in its own name, unless that is given."""
    more: Callable[[Making], dict[str, Any]] = lambda making: {}
    """What it is made with besides path, grid, class scheme and tags."""

    def make(self, path: Path, making: Making) -> Output:
        """Begin an output of a map."""
        return self.output(path, making.grid, making.scheme, making.tags, **self.more(making))


OUTPUTS: dict[str, Kind] = {
    "classes": Kind(ClassMap, ".tif", lambda making: {"quality": making.quality}),
    "probabilities": Kind(Probabilities, "_probabilities.tif"),
    "probabilities16": Kind(HalfProbabilities, "_probabilities16.tif"),
    "confidence": Kind(Confidence, "_confidence.tif"),
    "quality": Kind(Quality, "_quality.tif"),
    "preview": Kind(Preview, "_preview.png"),
    "polygons": Kind(Polygons, "_polygons.gpkg", lambda making: {"min_area": making.min_area}),
    "areas": Kind(
        Areas,
        "_areas.csv",
        lambda m: {"map_name": m.map.name, "zones": m.zones, "zone_field": m.zone_field, "zone_layer": m.zone_layer},
    ),
    "style": Kind(Style, ".qml", lambda m: {"map": m.map}),
    "report": Kind(HtmlReport, "_report.html", lambda making: {"look": making.look}),
    "stac": Kind(StacItem, ".stac.json", lambda m: {"map": m.map, "acquired": m.acquired, "quality": m.quality}),
}
"""From an output's name on the command line to how it is made, in the order in which they become complete; they move
into place in the reverse one, the map last."""


def union_of_layers(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names in `LAYERS` of what outputs of these kinds read of rows, and of what every map keeps."""
    wanted = {"codes", "quality"}.union(*(OUTPUTS[kind].output.layers for kind in kinds))
    return tuple(name for name in LAYERS if name in wanted)
