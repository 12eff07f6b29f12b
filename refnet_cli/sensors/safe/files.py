"""Files of a SAFE product, in its folder or in its zip. Their names are not trusted."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from itertools import islice
from pathlib import Path

from refnet_cli.errors import InputError, InputMissingError

XML_BYTES = 16 * 2**20
_MEMBERS = 20_000
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
ADVICE = "Use an unmodified SAFE product from ESA. Re-download this one if it is damaged."
_REPAIR = "Repair or re-download the file."

_RASTER = re.compile(r".+\.(?:tiff?|jp2)", re.IGNORECASE)
_CORRECTED_NAME = re.compile(r"_RTC\d\d_|_(?:NRB|ORB)_", re.IGNORECASE)
PRODUCT_NAME = re.compile(r"S[12][A-Z]_\w+", re.IGNORECASE | re.ASCII)
_OPTICAL_METADATA = re.compile(r"(?:MTD_MSIL|S2[A-Z]_\w{4}_MTD_SAFL)[12]\w*\.xml", re.IGNORECASE)
MANIFEST = "manifest.safe"
# The paths in a product's folder that may contain relevant files.
_LAYOUT = (
    "*", "GRANULE/*/*", "GRANULE/*/IMG_DATA/*", "GRANULE/*/IMG_DATA/R*m/*", "GRANULE/*/QI_DATA/*",
    "annotation/calibration/*", "measurement/*",
)  # fmt: skip


def is_safe(path: str | Path) -> bool:
    """Return whether a path is a SAFE product, intact or not, which must be read as such or refused.

    Parameters
    ----------
    path : str or Path
        Any path. SAFE products are: a folder named .SAFE or containing a product's metadata file; such a file; a zip
        named like a product or containing such a file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return path.suffix.upper() == ".SAFE" or has_metadata(path)
        if not path.is_file():
            return False
        if path.suffix.lower() != ".zip":
            return _is_metadata(path.name)
        named = PRODUCT_NAME.match(path.name) is not None and not _CORRECTED_NAME.search(path.name)
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
        if any(_is_metadata(name.rpartition("/")[2]) for name in names):
            return True
        return named and (not _rasters(names) or any("GRANULE/" in name for name in names))
    except OSError:
        return False
    except ZIP_FAULTS:
        return named


def _rasters(names: list[str]) -> list[str]:
    """Return the names of the rasters in a zip, without hidden files added by operating systems."""
    hidden = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")
    return sorted(name for name in names if _RASTER.fullmatch(name) and not hidden.search(name))


def zip_rasters(path: str | Path) -> list[str]:
    """Return the GDAL paths of the GeoTIFF and JPEG 2000 files in a zip. For the errors, see `open_product`.

    Parameters
    ----------
    path : str or Path
        A zip that is not a SAFE product, such as one from ASF HyP3.
    """
    path = Path(path)
    try:
        files = Zip(path, _REPAIR)
    except OSError as cause:
        raise InputMissingError(f"{path} cannot be read ({cause.strerror}). Check its permissions.") from cause
    except ZIP_FAULTS as cause:
        raise InputError(f"{path} cannot be read as a zip ({cause}). {_REPAIR}") from cause
    return [files.for_gdal(name) for name in _rasters(files.names)]


def has_metadata(folder: Path) -> bool:
    """Return whether a folder contains the metadata file of a SAFE product."""
    return any(_is_metadata(file.name) for file in folder.iterdir())


def zip_member(location: str) -> tuple[str, str] | None:
    """Split a GDAL path of a file in a zip into the path of the zip and the name in it; None for other paths."""
    zipped = re.fullmatch(r"/vsizip/\{(.*)\}/(.+)", location, re.DOTALL)
    return (zipped[1], zipped[2]) if zipped else None


def _is_metadata(name: str) -> bool:
    return name == MANIFEST or _OPTICAL_METADATA.fullmatch(name) is not None


class Folder:
    """A product's files in its folder."""

    prefix = ""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.name = self.path.name
        found = (file for pattern in _LAYOUT for file in self.path.glob(pattern))
        files = list(islice(found, _MEMBERS + 1))
        if len(files) > _MEMBERS:
            raise InputError(f"{path} contains over {_MEMBERS} files, too many for a SAFE product. {ADVICE}")
        self.names = [file.relative_to(self.path).as_posix() for file in files if file.is_file()]

    def read(self, name: str) -> bytes:
        """Return the first bytes of a file, at most one more than XML_BYTES."""
        with (self.path / name).open("rb") as file:
            return file.read(XML_BYTES + 1)

    def for_gdal(self, name: str) -> str:
        """Return the path by which GDAL opens a file."""
        return str(self.path / name)


class Zip:
    """A product's files in its zip; ``advice`` ends the messages about a damaged one."""

    def __init__(self, path: Path, advice: str = ADVICE) -> None:
        self.path = path.absolute()
        if re.search(r"[{}]", str(self.path)):
            raise InputError(f"{path} cannot be read because of the braces in its name. Rename or unpack it.")
        with zipfile.ZipFile(path) as file:
            members = [info.orig_filename for info in file.infolist()]
        if len(members) > _MEMBERS:
            raise InputError(f"{path} contains {len(members)} files (limit {_MEMBERS} for a product). {advice}")
        if len(set(members)) < len(members):
            raise InputError(f"{path} contains several files of the same name. {advice}")
        for member in members:
            if re.match(r"/|[A-Za-z]:", member) or ".." in member.split("/") or re.search(r"[\\\0-\x1f]", member):
                raise InputError(
                    f"{path} contains a file whose name could point outside the archive ({shorten(member)}). {advice}"
                )
        roots = {member.rpartition("/")[0] for member in members if _is_metadata(member.rpartition("/")[2])}
        if len(roots) > 1:
            raise InputError(f"{path} contains {len(roots)} SAFE products. Unpack it and use one of their folders.")
        self.prefix = f"{root}/" if (root := next(iter(roots), "")) else ""
        self.name = root.rpartition("/")[2] or path.stem
        start = len(self.prefix)
        self.names = [name[start:] for name in members if name.startswith(self.prefix) and not name.endswith("/")]

    def read(self, name: str) -> bytes:
        """Return the first bytes of a file, at most one more than XML_BYTES."""
        with zipfile.ZipFile(self.path) as file, file.open(self.prefix + name) as member:
            return member.read(XML_BYTES + 1)

    def for_gdal(self, name: str) -> str:
        """Return the path by which GDAL opens a file."""
        return f"/vsizip/{{{self.path}}}/{self.prefix}{name}"


Files = Folder | Zip


def open_product(path: Path) -> Files:
    """List the files of a product. For ``path`` and the errors, see `refnet_cli.sensors.safe.read.read_safe`."""
    try:
        if not path.exists():
            raise InputMissingError(f"The SAFE product {path} does not exist. Check the path.")
        if path.is_dir() or _is_metadata(path.name):
            return Folder(path if path.is_dir() else path.parent)
        if path.suffix.lower() == ".zip":
            return Zip(path)
    except OSError as cause:
        raise InputMissingError(
            f"{path} cannot be read ({cause.strerror}). Check its permissions and that it is complete."
        ) from cause
    except ZIP_FAULTS as cause:
        raise InputError(f"{path} cannot be read as a zip ({cause}). {ADVICE}") from cause
    raise InputError(f"{path} is not the folder, metadata file or zip of a SAFE product. {ADVICE}")


def find_metadata(files: Files, given: str) -> str:
    """Return the name of the product's main metadata file; ``given`` is the last part of the user's path."""
    if _OPTICAL_METADATA.fullmatch(given) and given in files.names:
        return given
    optical = [name for name in files.names if _OPTICAL_METADATA.fullmatch(name)]
    if len(optical) > 1:
        raise InputError(f"{files.path} contains several products. Use one of {', '.join(optical[:3])}.")
    if optical:
        return optical[0]
    if MANIFEST in files.names:
        return MANIFEST
    raise InputError(
        f"{files.path} contains none of MTD_MSIL1C.xml, MTD_MSIL2A.xml and manifest.safe, so it is not a SAFE product. "
        f"{ADVICE}"
    )


def shorten(text: str) -> str:
    """Shorten and escape untrusted text for a message."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def product_name(files: Files, uri: str = "") -> str:
    """Return the product's name: the one in its metadata if it is a valid name, else that of its folder."""
    name, own = (re.sub(r"\.SAFE$", "", text, flags=re.IGNORECASE) for text in (uri, files.name))
    return name if PRODUCT_NAME.fullmatch(name) else own
