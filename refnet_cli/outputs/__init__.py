"""What a prediction leaves behind: maps, pictures, polygons, tables, and what tells of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from odc.geo.geobox import GeoBox

from refnet_cli.outputs.areas import AreaCounter
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
from refnet_cli.outputs.preview import Preview
from refnet_cli.outputs.rows import CONFIDENCE, LAYERS, QUALITY, Layer, Rows, class_codes
from refnet_cli.products import ClassScheme

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
    "AreaCounter",
    "ClassMap",
    "Confidence",
    "FileOutput",
    "HalfProbabilities",
    "Kind",
    "Layer",
    "Making",
    "Output",
    "Preview",
    "Probabilities",
    "Quality",
    "Rows",
    "class_codes",
    "describe_gdal",
    "sha256_of",
    "sidecar_of",
    "verify_map",
    "write_raster",
    "write_sidecar",
]  # fmt: skip


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


@dataclass(frozen=True)
class Kind:
    """A kind of output: how it is made, and what is put in place of ``.tif`` in the map's name for its own."""

    make: Callable[[Path, Making], Output]
    ending: str


def _plain(output: type[FileOutput]) -> Callable[[Path, Making], Output]:
    return lambda path, making: output(path, making.grid, making.scheme, making.tags)


OUTPUTS: dict[str, Kind] = {
    "classes": Kind(lambda path, m: ClassMap(path, m.grid, m.scheme, m.tags, quality=m.quality), ".tif"),
    "probabilities": Kind(_plain(Probabilities), "_probabilities.tif"),
    "probabilities16": Kind(_plain(HalfProbabilities), "_probabilities16.tif"),
    "confidence": Kind(_plain(Confidence), "_confidence.tif"),
    "quality": Kind(_plain(Quality), "_quality.tif"),
    "preview": Kind(_plain(Preview), "_preview.png"),
}
"""From an output's name on the command line to how it is made, in the order in which they move into place."""
