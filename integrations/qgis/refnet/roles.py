"""What the parameters of the commands are in QGIS: layers, extents, files to write.

The commands say which options there are and what they mean (parameters.json). What stands here is only what they cannot
know: which files are layers, which options a dialog shows first, and what they are called there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABOUT: dict[str, Any] = json.loads((Path(__file__).parent / "parameters.json").read_text(encoding="utf-8"))
"""What `refnet_cli.cli.qgis_parameters` writes."""
FILES = "_files"
"""What is added to the name of a raster to name the parameter that takes its files as text."""
HIDDEN = {"null", "quiet", "json"}
"""Options about stdout and stderr, which the plugin reads."""


@dataclass(frozen=True)
class Role:
    """What a parameter is in QGIS.

    Parameters
    ----------
    kind : str
        ``images`` (a raster layer, or files as text), ``raster``, ``vector``, ``vectors``, ``layer`` (raster or
        vector), ``field``, ``extent``, ``degrees`` (an extent in degrees), ``file``, ``raster to write``,
        ``file to write``, ``folder to write``; "" for what parameters.json says.
    label : str
        "" for the name of the option.
    parent : str
        The vector whose field it is.
    shown : bool
        Not among the advanced parameters.
    endings : str
        Of files to write.
    help : str
        In place of the option's help text.
    """

    kind: str = ""
    label: str = ""
    parent: str = ""
    shown: bool = True
    endings: str = ""
    help: str = ""


_EXTENT = "Only this extent. As text: xmin, xmax, ymin, ymax [CRS], such as 13.1,13.5,52.3,52.6 [EPSG:4326]."
ROLES: dict[str, dict[str, Role]] = {
    "predict": {
        "optical": Role("images", "Optical image (Sentinel-2)"),
        "sar": Role("images", "SAR image (Sentinel-1)"),
        "bounds": Role("extent", "Extent to map", help=_EXTENT),
        "scheme": Role(label="Class scheme"),
        "mask_clouds": Role(),
        "weights": Role("file", shown=False),
        "grid": Role("raster", "Map on the grid of", shown=False),
        "zones": Role("vector", "Zones to report areas of", shown=False),
        "zone_field": Role("field", "Field with the zones' names", parent="zones", shown=False),
        "output": Role("raster to write", "Land cover"),
    },
    "train": {
        "regions": Role("file", "Regions file (TOML)"),
        "steps": Role(),
        "init": Role("file", "Weights to start from"),
        "encoder_weights": Role("file", shown=False),
        "output": Role("folder to write", "Folder for checkpoint and weights"),
    },
    "evaluate": {
        "map": Role("raster", "Class map"),
        "labels": Role("layer", "Labels: raster, polygons or points"),
        "field": Role(label="Field of the labels that holds the class"),
        "mapping": Role("file", "What the labels' codes stand for (TOML)"),
        "sample": Role(label="The labels are a probability sample"),
        "weights": Role("file", shown=False),
        "plot": Role("file to write", "Confusion matrix, a picture", endings="png"),
    },
    "fetch": {
        "bbox": Role("degrees", "Extent", help=_EXTENT),
        "dates": Role(label="First and last day, as 2021-05-01/2021-09-30"),
        "area": Role("vector", "Polygons, in place of the extent"),
        "area_field": Role("field", "Field with the polygons' names", parent="area", shown=False),
        "tile": Role(label="Tile of Sentinel-2, in place of the extent", shown=False),
        "source": Role("file", "Catalogue", shown=False),
        "dry_run": Role(label="Only say what would be fetched"),
        "output": Role("folder to write", "Folder for the files"),
    },
    "compare": {
        "old": Role("raster", "Old map"),
        "new": Role("raster", "New map"),
        "zones": Role("vector", "Zones in which change is tabulated too"),
        "zone_field": Role("field", "Field with the zones' names", parent="zones"),
        "sample": Role("vectors", "Probability sample of changes", shown=False),
        "output": Role("raster to write", "Change"),
        "table": Role("file to write", "Table of changes", endings="csv"),
    },
}
REPORTS = {"predict", "evaluate", "compare"}
"""Commands whose report as JSON can be kept: what they print with ``--json``."""
LAYERS = {"probabilities": "raster", "confidence": "raster", "quality": "raster", "polygons": "vector"}
"""Outputs of a map that are layers, next to files."""


def parameters_of(command: str) -> Iterator[tuple[dict[str, Any], Role]]:
    """Yield the parameters of a command with their roles: those with one first, the other ones advanced."""
    given = {one["name"]: one for one in ABOUT["commands"][command]["parameters"]}
    roles = ROLES[command]
    for name, role in roles.items():
        yield given[name], role
    for name, one in given.items():
        if name not in roles and name not in HIDDEN:
            yield one, Role(shown=False)
