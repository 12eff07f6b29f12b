"""What the outputs of one map share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.pictures.quicklook import Quicklook


@dataclass(frozen=True)
class MapContext:
    """What the outputs of one map share: its path, grid, scheme, tags and options."""

    map: Path
    """Path of the class map."""
    grid: GeoBox
    scheme: ClassScheme
    tags: dict[str, str]
    quality: bool = False
    """Whether the class map has a second band with quality."""
    look: Quicklook | None = None
    """Quicklook of the sensors, shown by the report; complete once all pixels were read."""
    zones: Path | None = None
    """Vector file of polygons in which class areas are computed, in addition to the full map."""
    zone_field: str | None = None
    """Field of that file with the zones' names; by default zones are numbered."""
    zone_layer: str | None = None
    """Layer of that file; needed if several layers have geometries."""
    acquired: tuple[str, str] | None = None
    """Acquisition of the scenes: start and end in ISO 8601, UTC; see `refnet_cli.sensors.dates`."""
    dates: bool = False
    """Whether the map is made of several dates, so that quality says how many of them saw each pixel."""
    min_area: float = 0.0
    """Hectares; smaller polygons are merged into a neighbour."""
