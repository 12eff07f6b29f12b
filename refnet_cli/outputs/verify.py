"""Verify that a map is as refnet wrote it."""

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
from refnet_cli.outputs.base import sha256_of, sidecar_path
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
from refnet_cli.system.marks import has_new_cog_layout
from refnet_cli.system.steps import Steps
from refnet_cli.types import Progress


def verify_map(path: Path, progress: Progress | None = None) -> str:
    """Verify a map against the checksum in its tags, and against the SHA-256 file that ``--checksum`` wrote.

    Parameters
    ----------
    path : Path
        A map of refnet.
    progress : callable, optional
        Called with the number of read blocks and of all blocks; each is read twice.

    Returns
    -------
    str
        What was verified.

    Raises
    ------
    InputMissingError
        If the map is missing or unreadable.
    InputError
        If the map is damaged or carries no checksum.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputMissingError(f"The map {path} does not exist or cannot be read. Check the path and its permissions.")
    sidecar = sidecar_path(path)
    try:
        with rasterio.Env(**READING), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as raster:
                needed = _checksum_in(path, raster)
                check_blocks(raster)
                blocks = list(raster.block_windows(1))
                steps = Steps(progress, 2 * len(blocks))
                checksums: list[list[int]] = []
                for (_, column), window in blocks:
                    if not column:
                        checksums.append([])
                    checksums[-1].append(block_checksum(raster.read(window=window)))
                    steps.count()
                found = combined_checksum(checksums, raster)
                shape, overviews = raster.shape, len(raster.overviews(1))
            if overviews != overview_count(*shape):
                raise InputError(
                    f"{path} is damaged: it has {overviews} overviews instead of {overview_count(*shape)}. {REMEDY}"
                )
            check_raster(path, checksums, steps)
            if found != needed:
                raise InputError(
                    f"{path} is not as refnet wrote it: its pixels, georeference or band metadata differ. Another "
                    f"program changed it, or it is damaged. {REMEDY}"
                )
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise InputError(f"{path} is damaged ({error}). {REMEDY}") from error
    _check_sidecar(path, sidecar)
    return "its pixels, its overviews and the file's SHA-256" if sidecar.is_file() else "its pixels and its overviews"


def _checksum_in(path: Path, raster: Any) -> str:
    """Return the checksum in a map's tags, if the map is stored as refnet stores maps."""
    # GDAL would open that file, or URL, to count them.
    if raster.tags(ns="OVERVIEWS"):
        raise InputError(f"{path} refers to an external overview file: it is not a map of refnet, or was changed.")
    checksum: str | None = raster.tags().get(CHECKSUM)
    if checksum is None:
        raise InputError(f"{path} has no tag {CHECKSUM}: it is not a map of refnet, or another program changed it.")
    with open(path, "rb") as file:
        as_written = has_new_cog_layout(file)
    if not as_written or raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") != "DEFLATE":
        raise InputError(
            f"{path} was rewritten by another program, so its pixels can no longer be compared with what refnet "
            "wrote. Verify the original file, before it is converted."
        )
    return checksum


def _check_sidecar(path: Path, sidecar: Path) -> None:
    """Compare a map with the SHA-256 in the file next to it, if that exists."""
    if sidecar.is_file():
        needed = sidecar.read_text(encoding="utf-8", errors="replace").split()[:1]
        if needed != [sha256_of(path)]:
            raise InputError(f"{path} is damaged: its SHA-256 differs from the one in {sidecar.name}. {REMEDY}")
