"""What the user says about the files instead of leaving it to be found out, and what is to be made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.sentinel1 import SarScale
from refnet_cli.sensors.sentinel2 import OpticalScale
from refnet_cli.system.options import narrow, option
from refnet_cli.system.urls import as_given

Paths = str | Path | Sequence[str | Path]
"""One path or several."""
Extent = Literal["optical", "intersection"]
ReadErrors = Literal["fail", "mask"]
Missing = Literal["nodata", "use-other"]
Coregistration = Literal["off", "check", "auto", "require"]


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What the user says about the files instead of leaving it to be found out, and what is to be made of them.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    optical_bands: tuple[str, ...] | None = option(
        None, help="Names or numbers of the optical bands to use, in the order of the weights' bands.", affects="pixels"
    )
    sar_bands: tuple[str, ...] | None = option(None, help="The same for SAR.", affects="pixels")
    optical_offset: float | None = option(
        None,
        help="Number to subtract from the optical values: 1000 since baseline 04.00, else 0.",
        default_text="detected",
        affects="pixels",
    )
    stac: dict[str, str] | None = option(
        None,
        help="What a STAC item says of the optical files' offset, by property; `refnet batch plan` hands it on.",
        affects="elsewhere",
        since="0.2",
    )
    sar_scale: SarScale | None = option(
        None, help="Scale of the SAR values.", default_text="detected", affects="pixels"
    )
    optical_scale: OpticalScale | None = option(
        None,
        help="Scale of the optical values: reflectance x 10,000, or from 0 to 1.",
        default_text="detected",
        affects="pixels",
    )
    strict: bool = option(False, help="Refuse what can only be guessed from the values.", affects="pixels")
    mask_clouds: bool = option(
        False,
        help="Leave out clouds by a mask that comes with the optical files, such as SCL or QA60.",
        affects="pixels",
    )
    allow_gcps: bool = option(
        False, help="Accept SAR that is not terrain-corrected, placed by ground control points only.", affects="pixels"
    )
    allow_vrt: bool = option(
        False,
        help="Accept GDAL virtual rasters (.vrt), which can make any raster file of this machine pixels.",
        affects="elsewhere",
    )
    allow_remote: bool = option(
        False,
        help="Accept URLs, http:// and https://, of GeoTIFF and JPEG 2000 files, and read these over the network. "
        "After a URL and a comma, a relative path begins with ./",
        affects="elsewhere",
    )
    extent: Extent = option(
        "optical", help="Map the whole optical image, or the rectangle where SAR lies too.", affects="pixels"
    )
    bounds: tuple[str, ...] | None = option(
        None,
        help="Map only west,south,east,north in the map's reference system, or in one named behind them, as "
        "13.1,52.3,13.5,52.6,EPSG:4326.",
        affects="pixels",
    )
    grid: Path | None = option(
        None,
        help="Map on the grid of this raster.",
        default_text="the optical image's finest grid; of SAR alone, its own",
        affects="elsewhere",
    )
    coreg: Coregistration = option(
        "off",
        default_text="check",  # in the commands that have it
        help="The shift that is left between SAR and optical: tell it, correct it where it is certain, or fail where "
        "it is not; of one sensor there is none.",
        affects="pixels",
    )
    on_read_error: ReadErrors = option(
        "fail", help="Where a file is damaged: fail, or no data, up to a twentieth of the map.", affects="pixels"
    )
    missing: Missing = option(
        "nodata",
        help="Where one sensor saw nothing: no data, or a prediction from the other, which a second band of the map, "
        "'quality', tells.",
        affects="pixels",
    )

    def __post_init__(self) -> None:
        # Of classes that add them; from here on, what is secret in a URL is shown nowhere.
        for name in {"optical", "sar"} & {field.name for field in fields(self)}:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_given(getattr(self, name)))
        for name in {"grid", "output", "preview", "zones", "labels"} & {field.name for field in fields(self)}:
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name, known in (
            ("sar_scale", get_args(SarScale)),
            ("optical_scale", get_args(OpticalScale)),
            ("extent", get_args(Extent)),
            ("coreg", get_args(Coregistration)),
            ("missing", get_args(Missing)),
            ("on_read_error", get_args(ReadErrors)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                option = name.replace("_", "-")
                raise OptionsError(f"--{option} is {value!r}, but must be one of {', '.join(known)}.")
        if self.optical_offset is not None and not math.isfinite(self.optical_offset):
            raise OptionsError(f"--optical-offset is {self.optical_offset}, but must be a finite number.")
        self._check_bounds()

    @property
    def scene(self) -> SceneOptions:
        """These options without those that a class adds to them."""
        return narrow(self, SceneOptions)

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        try:
            west, south, east, north = (float(edge) for edge in self.bounds[:4])
        except ValueError:
            west = south = east = north = math.nan
        if not (len(self.bounds) in (4, 5) and south < north and math.isfinite(west) and math.isfinite(east)):
            raise OptionsError(
                f"--bounds is {','.join(map(str, self.bounds))}, but must be west,south,east,north, "
                "with south below north, and perhaps a reference system behind them, as EPSG:4326."
            )


def as_paths(given: Paths | None) -> tuple[Path, ...]:
    """Return one path or several as several; none where no files are given."""
    if given is None:
        return ()
    paths: tuple[Path, ...] = as_given([given] if isinstance(given, str | Path) else given)
    return paths
