"""Whether a map is as it was written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.outputs.base import sha256_of, sidecar_of
from refnet_cli.outputs.cog import (
    CHECKSUM,
    READING,
    REMEDY,
    block_checksum,
    check_blocks,
    check_raster,
    combined_checksum,
    overview_count,
)
from refnet_cli.system.marks import is_as_written


def verify_map(path: Path) -> str:
    """Check a map against the checksum in its tags, and against the file next to it that ``--checksum`` wrote.

    Parameters
    ----------
    path : Path
        A map that refnet made.

    Returns
    -------
    str
        What it was checked against.

    Raises
    ------
    InputMissingError
        If it does not exist or may not be read.
    InputError
        If it is damaged, or has nothing to be checked against.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputMissingError(f"The map {path} does not exist or cannot be read: check the path and its permissions.")
    sidecar = sidecar_of(path)
    try:
        with rasterio.Env(**READING), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as raster:
                needed = _checksum_in(path, raster)
                check_blocks(raster)
                checksums: list[list[int]] = []
                for (_, column), window in raster.block_windows(1):
                    if not column:
                        checksums.append([])
                    checksums[-1].append(block_checksum(raster.read(window=window)))
                found = combined_checksum(checksums, raster)
                shape, overviews = raster.shape, len(raster.overviews(1))
            if overviews != overview_count(*shape):
                raise InputError(f"{path} is damaged: it has {overviews} overviews. {REMEDY}")
            check_raster(path, checksums)
            if found != needed:
                raise InputError(
                    f"{path} is not as refnet wrote it: its pixels, their place or their meaning are others. Another "
                    f"program changed it, or it is damaged. {REMEDY}"
                )
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise InputError(f"{path} is damaged ({error}). {REMEDY}") from error
    _check_sidecar(path, sidecar)
    return "its pixels, its overviews and the file's SHA-256" if sidecar.is_file() else "its pixels and its overviews"


def _checksum_in(path: Path, raster: Any) -> str:
    """Return the checksum that a map carries, if it is stored as refnet stores maps."""
    # GDAL would open that other file, or URL, to count them.
    if raster.tags(ns="OVERVIEWS"):
        raise InputError(f"{path} names a file of overviews: it is no map of refnet, or was changed.")
    checksum: str | None = raster.tags().get(CHECKSUM)
    if checksum is None:
        raise InputError(f"{path} carries no {CHECKSUM}: it is no map of refnet, or was changed by others.")
    with open(path, "rb") as file:
        as_written = is_as_written(file)
    if not as_written or raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") != "DEFLATE":
        raise InputError(
            f"{path} was rewritten by another program since refnet wrote it. That is no damage, but its pixels can no "
            "longer be compared with what refnet wrote. Verify the file that refnet wrote, before it is converted."
        )
    return checksum


def _check_sidecar(path: Path, sidecar: Path) -> None:
    """Compare a map with the SHA-256 in the file next to it, if there is one."""
    if sidecar.is_file():
        needed = sidecar.read_text(encoding="utf-8", errors="replace").split()[:1]
        if needed != [sha256_of(path)]:
            raise InputError(f"{path} is damaged: its SHA-256 is not the one in {sidecar.name}. {REMEDY}")
