"""Tiles of Sentinel-2, by their names in the Military Grid Reference System."""

from __future__ import annotations

import re

from pyproj import Transformer

from refnet_cli.errors import OptionsError

SIDE = 109_800.0
"""Side of a tile in metres."""
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
_CYCLE = 2_000_000.0  # metres after which the letters of rows repeat


def tile_bounds(name: str) -> tuple[int, tuple[float, float, float, float]]:
    """Return where a tile of Sentinel-2 lies.

    Parameters
    ----------
    name : str
        Such as 32UPU; T32UPU is accepted too.

    Returns
    -------
    epsg : int
        UTM zone.
    bounds : tuple of float
        West, south, east and north edge in metres.

    Raises
    ------
    OptionsError
        If it is no name of a tile.

    Examples
    --------
    >>> tile_bounds("32TQM")
    (32632, (699960.0, 4590240.0, 809760.0, 4700040.0))
    >>> tile_bounds("T33UUU")
    (32633, (300000.0, 5790240.0, 409800.0, 5900040.0))
    """
    match = re.fullmatch(r"T?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", name.upper())
    zone = int(match[1]) if match else 0
    columns = _COLUMNS[(zone - 1) % 3]
    if not match or not 1 <= zone <= 60 or match[3] not in columns:
        raise OptionsError(f"--tile {name} is not a tile of Sentinel-2. Give its name, such as 32UPU.")
    band, east = match[2], (columns.index(match[3]) + 1) * 100_000.0
    is_south = band < "N"
    epsg = (32700 if is_south else 32600) + zone
    row = ((_ROWS.index(match[4]) - (0 if zone % 2 else 5)) % 20) * 100_000.0
    # The tile's middle is nearest to the middle of its latitude band.
    latitude = -80 + 8 * _BANDS.index(band) + (6 if band == "X" else 4)
    _, middle = Transformer.from_crs(4326, epsg, always_xy=True).transform(6 * zone - 183, latitude)
    south = row + _CYCLE * round((middle - row - 50_000) / _CYCLE)
    west, north = east // 60 * 60.0, -(-(south + 100_000) // 60) * 60.0
    return epsg, (west, north - SIDE, west + SIDE, north)
