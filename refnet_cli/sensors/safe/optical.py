"""Metadata of Sentinel-2 SAFE products: images, scaling, UTM zones, cloud masks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.sensors.offset import OFFSET
from refnet_cli.sensors.safe.files import ADVICE, Files, Folder, Zip, product_name, shorten, zip_member
from refnet_cli.sensors.safe.xml import elements, local_name, parse, text_of, to_number
from refnet_cli.sensors.sentinel2 import BANDS
from refnet_cli.types import Float64

_OFFSET_SINCE = "04.00"  # the first processing baseline that adds 1000 to all stored values
_OWN_PROCESSING = "99.99"  # ESA's processor writes this baseline in products that users process themselves
_LEVELS: dict[str, Literal["L1C", "L2A"]] = {"Level-1C_User_Product": "L1C", "Level-2A_User_Product": "L2A"}
_GRANULE_FILE = re.compile(r"GRANULE/([^/]+)/(.+)")
_TILE_METADATA = re.compile(r"(?:MTD_TL|S2[A-Z]_\w{4}_MTD_L[12]\w*)\.xml")
_BAND = re.compile(r"IMG_DATA/(?:R\d+m/)?[^/]*_(B(?:0[1-9]|8A|1[0-2]))(?:_(\d+)m)?\.jp2")
_CLASSES = re.compile(r"IMG_DATA/(?:R\d+m/)?(?:[^/]*_)?SCL_(?:[^/]*_)?(\d+)m\.jp2")
_CLOUDS = {
    "CLASSI": re.compile(r"QI_DATA/(?:[^/]*_)?MSK_CLASSI_(?:[^/]*_)?B00[^/]*\.jp2"),
    "CLOUDS": re.compile(r"QI_DATA/(?:[^/]*_)?MSK_CLOUDS_(?:[^/]*_)?B00[^/]*\.gml"),
}
_TILE = re.compile(r"_T(\d\d)([C-HJ-NP-X])[A-Z]{2}(?:_|$)")
_ZONE = re.compile(r"EPSG:32[67](?:0[1-9]|[1-5]\d|60)")


@dataclass(frozen=True)
class Granule:
    """A tile of a Sentinel-2 product.

    Parameters
    ----------
    name : str
        Name of its folder.
    zone : str
        Coordinate reference system of its rasters, such as "EPSG:32632".
    bands : dict of str to str
        From "B01" .. "B12" and "B8A" to the GDAL path of the band's image at its finest resolution.
    masks : dict of str to str
        GDAL paths of the available masks: "SCL" (scene classification at its finest resolution), "CLASSI" (raster of
        opaque clouds, cirrus and snow) and "CLOUDS" (GML polygons of clouds, before baseline 04.00).
    """

    name: str
    zone: str
    bands: dict[str, str]
    masks: dict[str, str]


@dataclass(frozen=True)
class OpticalProduct:
    """A Sentinel-2 product. Reflectance is ``(number - offset) / quantification``.

    Parameters
    ----------
    path : Path
        The product's folder or zip.
    name : str
        Its name, without ".SAFE".
    level : {"L1C", "L2A"}
        Top-of-atmosphere or surface reflectance.
    baseline : str
        Processing baseline, such as "05.09".
    quantification : float
        Stored value of reflectance 1.
    offsets : dict of str to float
        For each of `BANDS`, the offset to subtract from stored values.
    offset_how : str
        The evidence for the offsets.
    granules : tuple of Granule
        Its tiles, sorted by name. Products from before December 2016 contain several, possibly in several UTM zones.
    """

    path: Path
    name: str
    level: Literal["L1C", "L2A"]
    baseline: str
    quantification: float
    offsets: dict[str, float]
    offset_how: str
    granules: tuple[Granule, ...]


def read_optical(files: Files, metadata: str, root: ElementTree.Element) -> OpticalProduct:
    """Read a Sentinel-2 product from its files, the name of its metadata file and that file's root element.

    Raises
    ------
    InputMissingError, InputError
        If it is not of level 1C or 2A, or is damaged or malicious.
    """
    where, kind = f"{metadata} of {files.path}", local_name(root.tag)
    if kind not in _LEVELS:
        raise InputError(
            f"{where} describes {shorten(kind)}, but only Sentinel-2 products of level 1C or 2A contain reflectance on "
            "a map grid. Use one of these."
        )
    level = _LEVELS[kind]
    baseline = text_of(root, "PROCESSING_BASELINE")
    if not re.fullmatch(r"\d\d\.\d\d", baseline):
        raise InputError(f"{where} gives the invalid processing baseline {shorten(baseline)}. {ADVICE}")
    tag = "QUANTIFICATION_VALUE" if level == "L1C" else "BOA_QUANTIFICATION_VALUE"
    quantification = to_number(text_of(root, tag, f"L2A_{tag}"), tag, where)
    if quantification <= 0:
        raise InputError(f"{where} gives {quantification:g} for {tag}, which must be above 0. {ADVICE}")
    offsets, how = _offsets(root, level, baseline, metadata, where)
    name = product_name(files, text_of(root, "PRODUCT_URI", f"PRODUCT_URI_{level[1:]}"))
    return OpticalProduct(files.path, name, level, baseline, quantification, offsets, how, _granules(files))


def _offsets(
    root: ElementTree.Element, level: str, baseline: str, metadata: str, where: str
) -> tuple[dict[str, float], str]:
    """Return the offset to subtract from each band's stored values, and the evidence."""
    tag = "RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET"
    added = {}
    for element in elements(root, tag):
        number = element.get("band_id", "").strip()
        if number not in map(str, range(len(BANDS))):
            raise InputError(f"{where} gives {tag} for the unknown band {shorten(number)}. {ADVICE}")
        added[BANDS[int(number)]] = to_number(element.text, tag, where)
    if added:
        if missing := [band for band in BANDS if band not in added]:
            raise InputError(f"{where} gives no {tag} for {', '.join(missing)}. {ADVICE}")
        values = " to ".join(f"{value:g}" for value in sorted({min(added.values()), max(added.values())}))
        return {band: 0.0 - value for band, value in added.items()}, f"tag: {tag}={values} in {metadata}."
    how = f"metadata: {metadata} has no {tag}, and its processing baseline is {baseline}"
    if _OFFSET_SINCE <= baseline != _OWN_PROCESSING:
        return dict.fromkeys(BANDS, OFFSET), f"{how}; 1000 is added from {_OFFSET_SINCE} on."
    return dict.fromkeys(BANDS, 0.0), f"{how}."


class _GranuleFiles(NamedTuple):
    """Files of a granule: metadata files, and per band and mask the resolution and path of its images."""

    metadata: list[str]
    bands: dict[str, list[tuple[int, str]]]
    masks: dict[str, list[tuple[int, str]]]


def _granules(files: Files) -> tuple[Granule, ...]:
    found: defaultdict[str, _GranuleFiles] = defaultdict(
        lambda: _GranuleFiles([], defaultdict(list), defaultdict(list))
    )
    for name in files.names:
        match = _GRANULE_FILE.fullmatch(name)
        # Some systems store attributes of each copied file in a file whose name begins with a dot.
        if match and "/." not in name:
            _sort_in(found[match[1]], match[2], name)
    if not found:
        raise InputError(f"{files.path} contains no granules, and so no images. Unpack or download the full product.")
    return tuple(_granule(files, name, found[name]) for name in sorted(found))


def _sort_in(granule: _GranuleFiles, inner: str, name: str) -> None:
    if _TILE_METADATA.fullmatch(inner):
        granule.metadata.append(name)
    elif band := _BAND.fullmatch(inner):
        granule.bands[band[1]].append((int(band[2] or 0), name))
    elif classes := _CLASSES.fullmatch(inner):
        granule.masks["SCL"].append((int(classes[1]), name))
    else:
        for mask, pattern in _CLOUDS.items():
            if pattern.fullmatch(inner):
                granule.masks[mask].append((0, name))


def _granule(files: Files, name: str, found: _GranuleFiles) -> Granule:
    if not found.bands:
        raise InputError(
            f"The granule {name} of {files.path} contains no band images. Unpack or download the full product."
        )
    bands, masks = (
        {key: files.for_gdal(min(images)[1]) for key, images in sorted(group.items())}
        for group in (found.bands, found.masks)
    )
    return Granule(name, _zone(files, name, found.metadata), bands, masks)


def _zone(files: Files, granule: str, metadata: list[str]) -> str:
    """Return a granule's coordinate reference system, from its metadata or else from the tile id in its name."""
    if metadata and (code := text_of(parse(files, metadata[0]), "HORIZONTAL_CS_CODE")):
        if not _ZONE.fullmatch(code):
            raise InputError(
                f"{metadata[0]} of {files.path} gives the CRS {shorten(code)}, which is not a UTM zone. {ADVICE}"
            )
        return code
    tile = _TILE.search(granule)
    zone = f"EPSG:32{6 if tile[2] >= 'N' else 7}{tile[1]}" if tile else ""
    if not _ZONE.fullmatch(zone):
        raise InputError(
            f"The UTM zone of granule {shorten(granule)} of {files.path} is neither in MTD_TL.xml nor in its name. "
            f"{ADVICE}"
        )
    return zone


def read_cloud_polygons(location: str) -> list[list[Float64]]:
    """Read the polygons of a cloud mask in GML.

    Parameters
    ----------
    location : str
        From `Granule.masks`.

    Returns
    -------
    list of lists of float64 arrays, shape (N, 2) each
        The outer ring and the holes of each polygon, as x and y in the granule's zone.

    Raises
    ------
    InputMissingError, InputError
        If the file cannot be read.
    """
    zipped = zip_member(location)
    files: Files = Zip(Path(zipped[0])) if zipped else Folder(Path(location).parent)
    name = zipped[1].removeprefix(files.prefix) if zipped else Path(location).name
    root = parse(files, name)
    polygons = []
    for polygon in elements(root, "Polygon"):
        rings = []
        for ring in elements(polygon, "posList"):
            numbers = [to_number(text, "a coordinate", name) for text in (ring.text or "").split()]
            dimensions = 3 if ring.get("srsDimension") == "3" else 2
            if len(numbers) % dimensions or len(numbers) < 3 * dimensions:
                raise InputError(f"{name} of {files.path} has a polygon of {len(numbers)} numbers. {ADVICE}")
            rings.append(np.reshape(numbers, (-1, dimensions))[:, :2])
        if rings:
            polygons.append(rings)
    return polygons
