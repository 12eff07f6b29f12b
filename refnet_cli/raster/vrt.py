"""GDAL virtual rasters (VRT), checked and rewritten, because GDAL would follow all their references.

A VRT is a short XML file that refers to other files. GDAL opens these with any driver, so they may be URLs, any kind of
file, or code. Here, each must be a local GeoTIFF or JPEG 2000 file. GDAL never sees the original VRT, only the
rewritten text of the elements that were checked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.raster.guard_jp2 import CODESTREAM, SIGNATURE
from refnet_cli.sensors.safe.files import XML_BYTES
from refnet_cli.sensors.safe.xml import Builder
from refnet_cli.system.urls import hide_secrets

MAX_SOURCES = 4096
MAX_DOWNSAMPLING = 16  # factor per axis; GDAL allocates memory for all source pixels that it resamples
_SOURCES = {"SimpleSource", "ComplexSource"}
_SOURCE = {"SourceFilename", "SourceBand", "SrcRect", "DstRect", "NODATA", "ScaleOffset", "ScaleRatio", "UseMaskBand"}
_BAND = {"Description", "NoDataValue", "HideNoDataValue", "ColorInterp", "Offset", "Scale", "UnitType", "Metadata",
         *_SOURCES}  # fmt: skip
# The allowed child elements of each element.
_TREE: dict[str, set[str]] = {
    "VRTDataset": {"SRS", "GeoTransform", "GCPList", "Metadata", "VRTRasterBand", "MaskBand"},
    "GCPList": {"GCP"},
    "Metadata": {"MDI"},
    "MaskBand": {"VRTRasterBand"},
    "VRTRasterBand": _BAND,
    **dict.fromkeys(_SOURCES, _SOURCE),
}
# Elements that do not affect pixels at full resolution.
_IGNORED = {"SourceProperties", "OverviewList", "Overview", "Histograms", "ColorTable", "CategoryNames", "BlockXSize",
             "BlockYSize"}  # fmt: skip
_ATTRIBUTES = {"rasterXSize", "rasterYSize", "dataAxisToSRSAxisMapping", "Projection", "key", "dataType", "band",
               "resampling", "xOff", "yOff", "xSize", "ySize", "Id", "Info", "Pixel", "Line", "X", "Y", "Z",
               "GCPZ"}  # fmt: skip


class Vrt(NamedTuple):
    """A checked virtual raster."""

    text: str
    """The rewritten XML for GDAL."""
    sources: tuple[str, ...]
    """The source files, without duplicates."""


def is_vrt(path: str | Path) -> bool:
    """Return whether a file starts like a virtual raster."""
    with Path(path).open("rb") as file:
        first = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    return first.startswith(b"<VRTDataset") or (first.startswith(b"<?xml") and b"<VRTDataset" in first)


def raster_driver(path: str | Path) -> str | None:
    """Return GDAL's driver for a file that starts like GeoTIFF or JPEG 2000; None for other files."""
    with Path(path).open("rb") as file:
        first = file.read(12)
    if first[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "GTiff"
    return "JP2OpenJPEG" if first == SIGNATURE or first.startswith(CODESTREAM) else None


def read_vrt(path: str | Path) -> Vrt:
    """Read and check a virtual raster.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputMissingError
        If the file or one of its sources is missing or unreadable.
    InputError
        If the file is damaged, or does more than mosaic local GeoTIFF and JPEG 2000 files.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(XML_BYTES + 1)
        if len(text) > XML_BYTES:
            raise ValueError(f"it is larger than {XML_BYTES >> 20} MB")
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=Builder()))
    except OSError as error:
        raise InputMissingError(f"The virtual raster {path} cannot be read: {error.strerror}.") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        message = f"The virtual raster {path} cannot be read as XML ({error}). Repair or re-download the file."
        raise InputError(message) from error
    sources: dict[str, None] = {}
    if root.tag != "VRTDataset":
        raise InputError(f"{path} starts like a virtual raster, but is not one. Repair or re-download the file.")
    _check(root, Path(path), sources)
    return Vrt(ElementTree.tostring(root, encoding="unicode"), tuple(sources))


def _check(element: ElementTree.Element, path: Path, sources: dict[str, None]) -> None:
    """Refuse or remove disallowed content of an element, and collect the sources."""
    kind = element.get("subClass")
    if kind not in (None, "VRTSourcedRasterBand"):
        raise InputError(
            f"The virtual raster {path} is a {kind!a}, but only mosaics of files are supported. Convert it to GeoTIFF "
            "first, for instance with gdal_translate."
        )
    if element.tag == "SourceFilename":
        found = _source(element, path)
        if found not in sources:
            _check_source(found, path)
        sources[found] = None
        if len(sources) > MAX_SOURCES:
            raise InputError(f"The virtual raster {path} has over {MAX_SOURCES} sources, the limit. Use a smaller one.")
        element.text, element.attrib = found, {"relativeToVRT": "0"}
        return
    element.attrib = {name: value for name, value in element.attrib.items() if name in _ATTRIBUTES}
    if element.tag in _SOURCES:
        _check_downsampling(element, path)
    for child in list(element):
        # Metadata in other domains controls GDAL. The default domain is only for users.
        if child.tag in _IGNORED or (child.tag == "Metadata" and child.get("domain")):
            element.remove(child)
            continue
        if child.tag not in _TREE.get(element.tag, ()):
            raise InputError(
                f"The virtual raster {path} contains the unsupported element {child.tag!a} in {element.tag}. "
                "Convert it to GeoTIFF first, for instance with gdal_translate."
            )
        _check(child, path, sources)


def _check_downsampling(source: ElementTree.Element, path: Path) -> None:
    """Refuse a source that is downsampled too much, and rewrite its rectangles with the checked numbers only."""
    given, taken = source.findall("SrcRect"), source.findall("DstRect")
    excessive = len(given) > 1 or len(taken) > 1
    if not given or not taken:
        excessive |= source.get("resampling") is not None
    try:
        for rectangle in (*given, *taken):
            numbers = {name: float(rectangle.get(name, "")) for name in ("xOff", "yOff", "xSize", "ySize")}
            excessive |= not np.isfinite(list(numbers.values())).all() or min(numbers["xSize"], numbers["ySize"]) <= 0
            rectangle.attrib = {name: repr(number) for name, number in numbers.items()}
        for one, other in zip(given, taken, strict=False):
            for name in ("xSize", "ySize"):
                excessive |= float(one.attrib[name]) > MAX_DOWNSAMPLING * float(other.attrib[name])
    except ValueError:
        excessive = True
    if excessive:
        raise InputError(
            f"The virtual raster {path} downsamples a file by an unknown factor or by more than {MAX_DOWNSAMPLING}. "
            "Convert it to GeoTIFF first, for instance with gdal_translate."
        )


def _source(element: ElementTree.Element, path: Path) -> str:
    """Return the absolute path of a source of the virtual raster."""
    text = (element.text or "").strip()
    elsewhere = re.match(r"/vsi|\w[\w+.-]+:|<", text) or (os.name == "nt" and re.match(r"[\\/]{2}", text))
    if elsewhere or not text or len(element) or "\0" in text:
        raise InputError(
            f"The virtual raster {path} refers to {hide_secrets(text[:200])!a}, which is not a local file. "
            "refnet does not fetch the sources of virtual rasters. Download them first."
        )
    # Like GDAL: relative to the target of a symbolic link, where .. is the parent of the target's folder.
    return os.path.realpath(Path(os.path.realpath(path)).parent / text if element.get("relativeToVRT") == "1" else text)


def _check_source(source: str, path: Path) -> None:
    try:
        known = Path(source).is_file() and raster_driver(source)
    except OSError as error:
        raise InputMissingError(f"{source}, a source of {path}, cannot be read: {error.strerror}.") from error
    if known is False:
        raise InputMissingError(f"{source}, a source of the virtual raster {path}, does not exist. Check its path.")
    if known is None:
        raise InputError(
            f"{source}, a source of the virtual raster {path}, is neither GeoTIFF nor JPEG 2000. Virtual rasters of "
            "other files are not supported."
        )
