"""Options of a fetch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.dates import parse_dates

BANDS = ("B02", "B03", "B04", "B08")
"""Bands of Sentinel-2 that are fetched by default: those of the bundled weights."""
POLARISATIONS = ("VV", "VH")


@dataclass(frozen=True)
class FetchOptions:
    """Options of a fetch.

    Parameters
    ----------
    output : Path
        Folder.
    bbox : str, optional
        West, south, east and north in degrees.
    area : Path, optional
        Vector file of polygons.
    tile : str, optional
        Tile of Sentinel-2. One of ``bbox``, ``area``, ``tile`` and ``items`` is required.
    dates : str, optional
        A day, or two of them with a slash between; required without ``items``.
    source : str
        See `refnet_cli.fetching.catalogues.choose_catalogue`.
    optical : str
        "best", "median", "all", or the id of an item.
    bands : tuple of str
        Bands of Sentinel-2.
    max_cloud : float
        Most cloud cover in percent that an optical item may state.
    min_clear : float
        Least share of the area that must be clear.
    orbit : str
        "auto", "ascending", "descending", or the number of a relative orbit.
    labels : str
        "worldcover", "io-lulc", "none", or another name that the source has.
    items : Path, optional
        items.json of an earlier fetch, whose items are fetched again.
    area_layer, area_field : str, optional
        Layer of ``area``, and its field with the names of the features.
    allow_host : tuple of str
        Hosts that may be reached by http and may have private addresses.
    workers : int
        Scenes at the same time.
    concurrency : int
        Requests at the same time, of each scene.
    dry_run : bool
        Only plan.
    resume : bool
        Go on with what an interrupted fetch left, and keep what is complete.
    overwrite : bool
        Replace files that refnet did not write.

    Raises
    ------
    OptionsError
        If they contradict each other.
    """

    output: Path
    bbox: str | None = None
    area: Path | None = None
    tile: str | None = None
    dates: str | None = None
    source: str | None = None
    optical: str = "best"
    bands: tuple[str, ...] = BANDS
    max_cloud: float = 80.0
    min_clear: float = 0.95
    orbit: str = "auto"
    labels: str = "worldcover"
    items: Path | None = None
    area_layer: str | None = None
    area_field: str | None = None
    allow_host: tuple[str, ...] = ()
    workers: int = 1
    concurrency: int = 8
    dry_run: bool = False
    resume: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        places = [name for name in ("bbox", "area", "tile", "items") if getattr(self, name) is not None]
        if len(places) != 1:
            given = " and ".join(f"--{name}" for name in places) or "none of them"
            raise OptionsError(f"Give one of --bbox, --area, --tile and --items; given: {given}.")
        if self.bbox is not None:
            parse_bbox(self.bbox)
        if self.items is not None and self.dates is not None:
            raise OptionsError("--items names the items to fetch, so --dates has no meaning. Remove one of them.")
        if self.items is None:
            if self.dates is None:
                raise OptionsError("--dates is missing. Give a day, or two with a slash: 2021-05-01/2021-09-30.")
            parse_dates(self.dates)
        if not 0 <= self.max_cloud <= 100:
            raise OptionsError(f"--max-cloud is {self.max_cloud:g}; it must be from 0 to 100 percent.")
        if not 0 <= self.min_clear <= 1:
            raise OptionsError(f"--min-clear is {self.min_clear:g}; it is a share and must be from 0 to 1.")
        if not re.fullmatch(r"auto|ascending|descending|[1-9]\d{0,2}", self.orbit):
            raise OptionsError(
                f"--orbit is {self.orbit!r}; it must be auto, ascending, descending or the number of a relative orbit."
            )
        for name, most in (("workers", 64), ("concurrency", 64)):
            if not 1 <= getattr(self, name) <= most:
                raise OptionsError(f"--{name} is {getattr(self, name)}; it must be from 1 to {most}.")
        if not self.bands or len(set(self.bands)) < len(self.bands):
            raise OptionsError(f"--bands is {','.join(self.bands) or 'empty'}; name each band once.")
        for host in self.allow_host:
            if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?", host):
                raise OptionsError(f"--allow-host {host} is not a host, or a host and a port: example.org:8080.")

    def request(self) -> dict[str, Any]:
        """Return what the result depends on, besides the area."""
        return {
            "dates": self.dates, "optical": self.optical, "bands": list(self.bands), "max_cloud": self.max_cloud,
            "min_clear": self.min_clear, "orbit": self.orbit, "labels": self.labels,
        }  # fmt: skip


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """Return west, south, east and north in degrees; east is above 180 for a box across 180 degrees.

    Raises
    ------
    OptionsError
        If it is no bounding box.

    Examples
    --------
    >>> parse_bbox("179.5,-17,-179.5,-16")
    (179.5, -17.0, 180.5, -16.0)
    """
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionsError(f"--bbox {text} is not four numbers: west,south,east,north in degrees.") from None
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90) or west == east:
        raise OptionsError(
            f"--bbox {text} is not west,south,east,north in degrees: longitudes must be from -180 to 180, latitudes "
            "from -90 to 90 with the southern one first."
        )
    east += 360 * (west > east)
    if east - west > 180:
        raise OptionsError(
            f"--bbox {text} spans {east - west:g} degrees of longitude (limit 180). Give west first, then east; only a "
            "box across 180 degrees has the larger longitude first."
        )
    return west, south, east, north
