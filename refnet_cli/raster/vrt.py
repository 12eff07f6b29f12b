"""GDAL's virtual rasters (VRT), taken apart and written again, since GDAL would follow them anywhere.

A VRT is a short XML file that names others. GDAL opens these with any of its drivers, so they may be URLs, pixels in a
file of any kind, or code. Here each has to be a GeoTIFF or JPEG 2000 file on this machine, and GDAL is given no more
than what was understood, as text: it never sees the file.
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
from refnet_cli.sensors.safe import XML_BYTES, Builder
from refnet_cli.system.urls import hide_secrets

MOST_SOURCES = 4096
MOST_SHRINKING = 16  # times in each direction, since GDAL takes memory for all pixels of a source that it resamples
_SOURCES = {"SimpleSource", "ComplexSource"}
_SOURCE = {"SourceFilename", "SourceBand", "SrcRect", "DstRect", "NODATA", "ScaleOffset", "ScaleRatio", "UseMaskBand"}
_BAND = {"Description", "NoDataValue", "HideNoDataValue", "ColorInterp", "Offset", "Scale", "UnitType", "Metadata",
         *_SOURCES}  # fmt: skip
# What may be in what.
_TREE: dict[str, set[str]] = {
    "VRTDataset": {"SRS", "GeoTransform", "GCPList", "Metadata", "VRTRasterBand", "MaskBand"},
    "GCPList": {"GCP"},
    "Metadata": {"MDI"},
    "MaskBand": {"VRTRasterBand"},
    "VRTRasterBand": _BAND,
    **dict.fromkeys(_SOURCES, _SOURCE),
}
# What changes no pixel at full resolution.
_NEEDLESS = {"SourceProperties", "OverviewList", "Overview", "Histograms", "ColorTable", "CategoryNames", "BlockXSize",
             "BlockYSize"}  # fmt: skip
_ATTRIBUTES = {"rasterXSize", "rasterYSize", "dataAxisToSRSAxisMapping", "Projection", "key", "dataType", "band",
               "resampling", "xOff", "yOff", "xSize", "ySize", "Id", "Info", "Pixel", "Line", "X", "Y", "Z",
               "GCPZ"}  # fmt: skip


class Vrt(NamedTuple):
    """What was understood of a virtual raster."""

    text: str
    """What GDAL is given in its place."""
    sources: tuple[str, ...]
    """The files that its pixels come from, each once."""


def is_vrt(path: str | Path) -> bool:
    """Tell whether a file is a virtual raster, by its beginning."""
    with Path(path).open("rb") as file:
        first = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    return first.startswith(b"<VRTDataset") or (first.startswith(b"<?xml") and b"<VRTDataset" in first)


def raster_driver(path: str | Path) -> str | None:
    """GDAL's driver for a file that begins as GeoTIFF or JPEG 2000; None for any other."""
    with Path(path).open("rb") as file:
        first = file.read(12)
    if first[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "GTiff"
    return "JP2OpenJPEG" if first == SIGNATURE or first.startswith(CODESTREAM) else None


def read_vrt(path: str | Path) -> Vrt:
    """Read a virtual raster.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputMissingError
        If it, or a file that it names, is missing or may not be read.
    InputError
        If it is damaged, or does anything but to put together local GeoTIFF and JPEG 2000 files.
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
        raise InputError(f"The virtual raster {path} cannot be read as XML ({error}): give an intact one.") from error
    sources: dict[str, None] = {}
    if root.tag != "VRTDataset":
        raise InputError(f"{path} begins like a virtual raster, but is none: give an intact one.")
    _check(root, Path(path), sources)
    return Vrt(ElementTree.tostring(root, encoding="unicode"), tuple(sources))


def _check(element: ElementTree.Element, path: Path, sources: dict[str, None]) -> None:
    """Refuse or take out what is not allowed in an element, and note the files that it names."""
    kind = element.get("subClass")
    if kind not in (None, "VRTSourcedRasterBand"):
        raise InputError(
            f"The virtual raster {path} is a {kind!a}, which is more than files put together: write its pixels "
            "into a GeoTIFF first, for instance with gdal_translate."
        )
    if element.tag == "SourceFilename":
        found = _source(element, path)
        if found not in sources:
            _check_source(found, path)
        sources[found] = None
        if len(sources) > MOST_SOURCES:
            raise InputError(f"The virtual raster {path} names more than {MOST_SOURCES} files: give a smaller part.")
        element.text, element.attrib = found, {"relativeToVRT": "0"}
        return
    element.attrib = {name: value for name, value in element.attrib.items() if name in _ATTRIBUTES}
    if element.tag in _SOURCES:
        _check_shrinking(element, path)
    for child in list(element):
        # Metadata of other domains tell GDAL things; the default one's tell people.
        if child.tag in _NEEDLESS or (child.tag == "Metadata" and child.get("domain")):
            element.remove(child)
            continue
        if child.tag not in _TREE.get(element.tag, ()):
            raise InputError(
                f"The virtual raster {path} holds {child.tag!a} in {element.tag}, which refnet does not follow: "
                "write its pixels into a GeoTIFF first, for instance with gdal_translate."
            )
        _check(child, path, sources)


def _check_shrinking(source: ElementTree.Element, path: Path) -> None:
    """Refuse a source whose pixels become far fewer, and leave GDAL no numbers but those that were understood."""
    given, taken = source.findall("SrcRect"), source.findall("DstRect")
    shrinks = len(given) > 1 or len(taken) > 1
    if not given or not taken:
        shrinks |= source.get("resampling") is not None
    try:
        for place in (*given, *taken):
            numbers = {name: float(place.get(name, "")) for name in ("xOff", "yOff", "xSize", "ySize")}
            shrinks |= not np.isfinite(list(numbers.values())).all() or min(numbers["xSize"], numbers["ySize"]) <= 0
            place.attrib = {name: repr(number) for name, number in numbers.items()}
        for one, other in zip(given, taken, strict=False):
            for name in ("xSize", "ySize"):
                shrinks |= float(one.attrib[name]) > MOST_SHRINKING * float(other.attrib[name])
    except ValueError:
        shrinks = True
    if shrinks:
        raise InputError(
            f"The virtual raster {path} shrinks a file by more than {MOST_SHRINKING}, or does not say by how much: "
            "write its pixels into a GeoTIFF first, for instance with gdal_translate."
        )


def _source(element: ElementTree.Element, path: Path) -> str:
    """Return the absolute path of a file that the virtual raster names."""
    text = (element.text or "").strip()
    elsewhere = re.match(r"/vsi|\w[\w+.-]+:|<", text) or (os.name == "nt" and re.match(r"[\\/]{2}", text))
    if elsewhere or not text or len(element) or "\0" in text:
        raise InputError(
            f"The virtual raster {path} leads to {hide_secrets(text[:200])!a}, which is no file of this machine: "
            "refnet fetches nothing that a virtual raster names."
        )
    # As GDAL does: next to the file that a link leads to, and .. is the parent of what a folder's link leads to.
    return os.path.realpath(Path(os.path.realpath(path)).parent / text if element.get("relativeToVRT") == "1" else text)


def _check_source(source: str, path: Path) -> None:
    try:
        known = Path(source).is_file() and raster_driver(source)
    except OSError as error:
        raise InputMissingError(f"{source}, which {path} names, cannot be read: {error.strerror}.") from error
    if known is False:
        raise InputMissingError(f"{source}, which the virtual raster {path} names, does not exist: check its place.")
    if known is None:
        raise InputError(
            f"{source}, which the virtual raster {path} names, is no GeoTIFF or JPEG 2000 file: a virtual raster may "
            "lead to no other."
        )
