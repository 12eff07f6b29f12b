"""What the user says about the files instead of leaving it to be found out, and what is to be made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.bands import OpticalScale, SarScale
from refnet_cli.system.config import affects
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

    optical_bands: tuple[str, ...] | None = None
    """Names or 1-based numbers of the optical files' bands, in the order of the wanted bands."""
    sar_bands: tuple[str, ...] | None = None
    """The same for the SAR files."""
    optical_offset: float | None = None
    """Number to subtract from reflectance x 10,000."""
    stac: dict[str, str] | None = field(default=None, metadata=affects("pixels", since="0.2"))
    """What a STAC item says of the optical files' offset, by property; `refnet batch plan` hands it on."""
    sar_scale: SarScale | None = None
    """Unit of the SAR values: db, db100, power or amplitude."""
    optical_scale: OpticalScale | None = None
    """Unit of the optical values: dn, that is reflectance x 10,000, or reflectance from 0 to 1."""
    strict: bool = False
    """Whether to refuse what can only be guessed."""
    mask_clouds: bool = False
    """Whether the optical files' cloud mask makes pixels invalid."""
    allow_gcps: bool = False
    """Whether SAR may be placed by ground control points only."""
    allow_vrt: bool = False
    """Whether a GDAL virtual raster may be given, which can make any raster file of this machine pixels."""
    allow_remote: bool = False
    """Whether files may be fetched from http:// and https://."""
    extent: Extent = "optical"
    """Ground of the result: all of the optical image, or the rectangle where SAR lies too."""
    bounds: tuple[str, ...] | None = None
    """West, south, east and north of the result, in its reference system, or in one named behind them."""
    grid: Path | None = None
    """File whose grid is the result's, in place of the optical image's own, or of SAR's where SAR is alone."""
    coreg: Coregistration = "off"
    """What to do about the shift that is left between SAR and optical: nothing, tell it, correct it where it is
    certain, or refuse where it is not."""

    on_read_error: ReadErrors = "fail"
    """What a block that cannot be read is worth: the end, or no data, up to a twentieth of the map."""
    missing: Missing = "nodata"
    """What a pixel is worth that only one sensor saw: nothing, or as much as one that both did."""

    def __post_init__(self) -> None:
        # Of classes that add them; from here on, what is secret in a URL is shown nowhere.
        for name in {"optical", "sar"} & {each.name for each in fields(self)}:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_given(getattr(self, name)))
        for name in {"grid", "output", "preview", "zones", "labels"} & {each.name for each in fields(self)}:
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
        return SceneOptions(**{each.name: getattr(self, each.name) for each in fields(SceneOptions)})

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
