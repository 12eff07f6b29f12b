"""What is checked of a file before GDAL opens it."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.raster.guard_jp2 import check_codestream
from refnet_cli.raster.guard_tiff import check_directories
from refnet_cli.sensors.safe.files import ZIP_FAULTS, zip_member

_OTHERS = {
    b"\x89PNG": "is a PNG picture, which holds no measurements. Use the original GeoTIFF or JPEG 2000 file.",
    b"\xff\xd8\xff": "is a JPEG picture, which holds no measurements. Use the original GeoTIFF or JPEG 2000 file.",
    b"\x89HDF": "is HDF5 or NetCDF 4. Convert it with gdal_translate to GeoTIFF.",
    b"CDF": "is NetCDF. Convert it with gdal_translate to GeoTIFF.",
    b"<": "is HTML or XML, such as the page of a server that refuses a download. Download the file again.",
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file. Fetch the file with git lfs pull.",
}
"""What is wrong with files of other formats, and what to do, by their first bytes."""


class ZipMember(str):
    """GDAL path of a file in a zip. Users never give such a path."""


def check_headers(path: str, driver: str) -> None:
    """Refuse files that make GDAL allocate much memory as soon as they are read; ``path`` may be a `ZipMember`."""
    if driver == "VRT":
        return
    zipped = zip_member(path) if isinstance(path, ZipMember) else None
    try:
        about = os.stat(zipped[0] if zipped else path)
        _check_headers_once(path, zipped, driver, about.st_mtime_ns, about.st_size)
    except (OSError, KeyError):
        return  # GDAL reports the error
    except ZIP_FAULTS as cause:
        raise InputError(f"The file cannot be read from its zip ({cause}). Repair or re-download the zip.") from cause


# Many threads open the same files, and reading them from a zip is slow.
@lru_cache(1024)
def _check_headers_once(path: str, zipped: tuple[str, str] | None, driver: str, modified: int, size: int) -> None:
    check = check_directories if driver == "GTiff" else check_codestream
    if zipped:
        with zipfile.ZipFile(zipped[0]) as archive, archive.open(zipped[1]) as member:
            check(cast(BinaryIO, member))
    else:
        with open(path, "rb") as file:
            check(file)


def refuse_other_formats(path: str, what: str) -> None:
    """Raise InputError, with what to do, for a file whose first bytes are those of another known format."""
    try:
        with open(path, "rb") as file:
            start = file.read(24).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return  # GDAL reports the error
    for first, problem in _OTHERS.items():
        if start.startswith(first):
            raise InputError(f"The {what} file {path} {problem}")


def first_bytes(path: str, what: str) -> bytes:
    """Return the first two bytes of a file; raise InputMissingError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(2)
    except OSError as error:
        raise InputMissingError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
