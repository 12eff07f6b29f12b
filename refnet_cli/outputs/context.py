"""What the outputs of one map have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.pictures.quicklook import Quicklook


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
    """Vector file of polygons to compute areas of, in addition to the whole map's."""
    zone_field: str | None = None
    """Field of that file with the zones' names; by default they are numbered."""
    zone_layer: str | None = None
    """Layer of that file; needed where several have shapes."""
    acquired: tuple[str, str] | None = None
    """When the scenes were acquired, start and end in ISO 8601, UTC; see `refnet_cli.sensors.dates`."""
    min_area: float = 0.0
    """Hectares; smaller polygons become part of a neighbour."""
