"""Options of a scene: properties of the files that are given instead of detected, and the extent to map."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.quality import parse_scl_classes
from refnet_cli.sensors.sentinel1 import SarScale
from refnet_cli.sensors.sentinel2 import OpticalScale
from refnet_cli.system.options import narrow, option
from refnet_cli.system.urls import is_remote, parse_paths

Paths = str | Path | Sequence[str | Path]
"""One or several paths."""
Extent = Literal["optical", "intersection"]
ReadErrors = Literal["fail", "mask"]
Missing = Literal["nodata", "use-other"]
Coregistration = Literal["off", "check", "auto", "require"]
Combine = Literal["composite", "ensemble"]
CloudMaskName = Literal["omnicloudmask"]
WIDEST_BUFFER = 5000.0  # metres
_CODES = re.compile(r"(.+?):([\w-]+(?:,[\w-]+)*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Options of a scene: properties of the files that are given instead of detected, and the extent to map.

    Raises
    ------
    OptionsError
        If a value is invalid.
    """

    optical_bands: tuple[str, ...] | None = option(
        None, help="Names or numbers of the optical bands, in the order of the weights' bands.", affects="pixels"
    )
    sar_bands: tuple[str, ...] | None = option(None, help="The same for SAR.", affects="pixels")
    optical_offset: float | None = option(
        None,
        help="Offset to subtract from the optical values: 1000 since baseline 04.00, otherwise 0.",
        default_text="detected",
        affects="pixels",
    )
    stac: dict[str, str] | None = option(
        None,
        help="Properties of a STAC Item that give the offset of the optical files; set by `refnet batch plan`.",
        affects="elsewhere",
        since="0.2",
    )
    sar_scale: SarScale | None = option(
        None, help="Unit of the SAR values.", default_text="detected", affects="pixels"
    )
    optical_scale: OpticalScale | None = option(
        None,
        help="Unit of the optical values: reflectance x 10,000 (dn), or from 0 to 1 (reflectance).",
        default_text="detected",
        affects="pixels",
    )
    strict: bool = option(False, help="Refuse guesses based only on pixel values or band counts.", affects="pixels")
    mask_clouds: bool = option(
        False,
        help="Mask clouds with a cloud mask of the optical files, such as SCL or QA60.",
        affects="pixels",
    )
    cloud_mask: CloudMaskName | Path | None = option(
        None,
        help="Mask clouds with this raster too: FILE or FILE:CODES, such as mask.tif:1,3. Without codes, all values "
        "but 0 are clouds, or what files named SCL, QA60 ... mean. Or omnicloudmask, which finds clouds and shadows.",
        metavar="FILE[:CODES]",
        affects="elsewhere",
        since="0.2",
    )
    cloud_classes: tuple[str, ...] | None = option(
        None,
        help="Classes of SCL to mask, by name or code, such as shadow,cloud-medium,cloud-high,cirrus,snow.",
        default_text="saturated,shadow,cloud-medium,cloud-high,cirrus",
        affects="pixels",
        since="0.2",
    )
    cloud_buffer: float | None = option(
        None,
        help="Also mask what is this near to a masked cloud or shadow.",
        default_text="0",
        metavar="METRES",
        affects="pixels",
        since="0.2",
    )
    allow_gcps: bool = option(
        False, help="Accept SAR that is georeferenced by ground control points only.", affects="pixels"
    )
    allow_vrt: bool = option(
        False,
        help="Accept GDAL virtual rasters (.vrt). They can expose any raster file of this machine.",
        affects="elsewhere",
    )
    allow_remote: bool = option(
        False,
        help="Accept http:// and https:// URLs of GeoTIFF and JPEG 2000 files, and read them over the network. "
        "A relative path after a URL and a comma must start with ./",
        affects="elsewhere",
    )
    extent: Extent = option(
        "optical", help="Map the full optical image, or its intersection with SAR.", affects="pixels"
    )
    bounds: tuple[str, ...] | None = option(
        None,
        help="Map only west,south,east,north, in the map's CRS or in the one appended, such as "
        "13.1,52.3,13.5,52.6,EPSG:4326.",
        affects="pixels",
    )
    grid: Path | None = option(
        None,
        help="Map on the grid of this raster.",
        default_text="the finest grid of the optical image; without one, the grid of SAR",
        affects="elsewhere",
    )
    coreg: Coregistration = option(
        "off",
        default_text="check",  # in the commands that have this option
        help="The residual shift between SAR and optical: report it, correct it if it is certain, or fail if it is "
        "uncertain. No effect with one sensor.",
        affects="pixels",
    )
    on_read_error: ReadErrors = option(
        "fail", help="Where a file is unreadable: fail, or write no data for up to 5% of the map.", affects="pixels"
    )
    missing: Missing = option(
        "nodata",
        help="Where one sensor has no data: write no data, or predict from the other sensor and write the sensors "
        "used to a second band, 'quality'.",
        affects="pixels",
    )

    def __post_init__(self) -> None:
        # Also those of subclasses. From here on, secrets in URLs are hidden.
        for name in {"optical", "sar"} & {field.name for field in fields(self)}:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, parse_paths(getattr(self, name)))
        for name in {"grid", "output", "zones", "labels"} & {field.name for field in fields(self)}:
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
        self._check_clouds()

    @property
    def scene(self) -> SceneOptions:
        """These options without those of subclasses."""
        return narrow(self, SceneOptions)

    @property
    def masks_clouds(self) -> bool:
        """Whether clouds are masked."""
        return self.mask_clouds or self.cloud_mask is not None

    @property
    def cloud_file(self) -> Path | None:
        """The raster of ``cloud_mask``, without codes."""
        return split_codes(self.cloud_mask)[0] if isinstance(self.cloud_mask, Path) else None

    def _check_clouds(self) -> None:
        if self.cloud_mask is not None:
            given = str(self.cloud_mask)
            if is_remote(given):
                raise OptionsError("--cloud-mask is a URL. Download the file, and pass its path.")
            object.__setattr__(self, "cloud_mask", given if given in get_args(CloudMaskName) else Path(given))
        if self.cloud_buffer is not None and not 0 <= self.cloud_buffer <= WIDEST_BUFFER:
            raise OptionsError(
                f"--cloud-buffer is {self.cloud_buffer:g} m; it must be from 0 to {WIDEST_BUFFER:g} m."
            )
        if self.cloud_classes is not None:
            parse_scl_classes(self.cloud_classes)

    def _check_bounds(self) -> None:
        if self.bounds is None:
            return
        try:
            west, south, east, north = (float(edge) for edge in self.bounds[:4])
        except ValueError:
            west = south = east = north = math.nan
        if not (len(self.bounds) in (4, 5) and south < north and math.isfinite(west) and math.isfinite(east)):
            raise OptionsError(
                f"--bounds is {','.join(map(str, self.bounds))}, but must be west,south,east,north, with south below "
                "north, optionally followed by a CRS, such as EPSG:4326."
            )


def split_codes(given: Path) -> tuple[Path, tuple[str, ...] | None]:
    """Split the value of ``--cloud-mask`` into the file and its codes, if there are any.

    Examples
    --------
    >>> path, codes = split_codes(Path("a/mask.tif:1,3"))
    >>> path.name, codes
    ('mask.tif', ('1', '3'))
    """
    match = None if given.exists() else _CODES.fullmatch(str(given))
    return (Path(match[1]), tuple(match[2].split(","))) if match else (given, None)


def as_paths(given: Paths | None) -> tuple[Path, ...]:
    """Return paths as a tuple; an empty one for None."""
    if given is None:
        return ()
    paths: tuple[Path, ...] = parse_paths([given] if isinstance(given, str | Path) else given)
    return paths
