"""Metadata of Sentinel-1 SAFE products: images, polarisations, calibration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.sensors import sentinel1
from refnet_cli.sensors.calibration import Calibration
from refnet_cli.sensors.safe.files import ADVICE, MANIFEST, Files, product_name, shorten
from refnet_cli.sensors.safe.xml import elements, parse, text_of, to_number, to_numbers
from refnet_cli.types import Float64

_MEASUREMENT = re.compile(r"measurement/[^/]*-(vv|vh|hh|hv)(?:-[^/]*)?\.tiff?")
_BACKSCATTER = re.compile(r"measurement/[^/]*-(vv|vh|hh|hv)-[gs]-lin\.tiff?", re.IGNORECASE)
_CALIBRATION = re.compile(r"annotation/calibration/calibration-[^/]*-(vv|vh|hh|hv)(?:-[^/]*)?\.xml")


@dataclass(frozen=True)
class SarProduct:
    """A Sentinel-1 ground range detected (GRD) product, in the geometry of its acquisition.

    Parameters
    ----------
    path : Path
        The product's folder or zip.
    name : str
        Its name, without ".SAFE".
    kind : str
        "GRD".
    mode : str
        Acquisition mode, such as "IW"; empty if missing.
    start : str
        Start of the acquisition in ISO 8601, UTC; empty if missing.
    processor : str
        Version of ESA's processor, such as "003.31"; empty if missing.
    measurements : dict of str to str
        From "VV", "VH", "HH" or "HV" to the GDAL path of the amplitude image.
    calibrations : dict of str to Calibration
        For each of these polarisations.
    """

    path: Path
    name: str
    kind: str
    mode: str
    start: str
    processor: str
    measurements: dict[str, str]
    calibrations: dict[str, Calibration]


@dataclass(frozen=True)
class CorrectedProduct:
    """A terrain-corrected Sentinel-1 product on a map grid: normalised radar backscatter (NRB), or ORB over ocean.

    Parameters
    ----------
    path : Path
        The product's folder or zip.
    name : str
    images : dict of str to str
        From "VV", "VH", "HH" or "HV" to the GDAL path of the image in linear power.
    """

    path: Path
    name: str
    images: dict[str, str]


def read_sar(files: Files, root: ElementTree.Element) -> SarProduct | CorrectedProduct:
    """Read a Sentinel-1 product from its files and the root element of its manifest.

    Raises
    ------
    InputMissingError, InputError
        If it is neither GRD nor on a map grid, or is damaged or malicious.
    """
    where, kind = f"{MANIFEST} of {files.path}", text_of(root, "productType")
    if re.search(r"(?<![A-Z])(NRB|ORB)(?![A-Z])", kind) or (kind != "GRD" and re.search("_(NRB|ORB)_", files.name)):
        return _corrected(files)
    if kind == "SLC":
        raise InputError(
            f"{files.path} contains single look complex (SLC) data: complex numbers in radar geometry. Use the GRD "
            "product of the same pass, or a terrain-corrected one."
        )
    if kind != "GRD":
        raise InputError(f"{where} gives the product type {shorten(kind)}, not GRD. {ADVICE}")
    measurements = _by_polarisation(files, _MEASUREMENT)
    calibrations = _by_polarisation(files, _CALIBRATION)
    if missing := sorted(measurements.keys() - calibrations):
        raise InputError(
            f"{files.path} contains no calibration of {', '.join(missing)} in annotation/calibration. "
            "Unpack or download the full product."
        )
    if not measurements:
        raise InputError(f"{files.path} contains no images in measurement. Unpack or download the full product.")
    processors = (
        element.get("version", "") for element in elements(root, "software") if "IPF" in element.get("name", "")
    )
    return SarProduct(
        files.path, product_name(files), kind, text_of(root, "mode"), text_of(root, "startTime"), next(processors, ""),
        {polarisation: files.for_gdal(name) for polarisation, name in measurements.items()},
        {polarisation: _calibration(files, calibrations[polarisation]) for polarisation in measurements},
    )  # fmt: skip


def _corrected(files: Files) -> CorrectedProduct:
    images = _by_polarisation(files, _BACKSCATTER)
    if not images:
        raise InputError(
            f"{files.path} contains no GeoTIFF of linear backscatter in measurement (such as ...-vv-g-lin.tif). Unpack "
            "or download the full product."
        )
    return CorrectedProduct(
        files.path, product_name(files), {polarisation: files.for_gdal(name) for polarisation, name in images.items()}
    )


def _by_polarisation(files: Files, pattern: re.Pattern[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(files.names):
        if (match := pattern.fullmatch(name)) and "/." not in name:
            polarisation = match[1].upper()
            if polarisation in found:
                raise InputError(f"{files.path} contains both {found[polarisation]} and {name}. Remove one of them.")
            found[polarisation] = name
    return {polarisation: found[polarisation] for polarisation in sentinel1.BANDS if polarisation in found}


def _calibration(files: Files, name: str) -> Calibration:
    vectors: dict[float, tuple[Float64, Float64]] = {}
    where = f"{name} of {files.path}"
    for element in elements(parse(files, name), "calibrationVector"):
        line = to_number(text_of(element, "line"), "a vector's line", where)
        pixels, gamma = (to_numbers(element, tag, where) for tag in ("pixel", "gamma"))
        if not 0 < len(pixels) == len(gamma) or (np.diff(pixels) <= 0).any():
            raise InputError(f"{where} has a vector whose pixels and constants do not match. {ADVICE}")
        if gamma.min() <= 0:
            raise InputError(f"{where} has a calibration constant that is not above 0. {ADVICE}")
        vectors[line] = pixels, gamma
    if not vectors:
        raise InputError(f"{where} contains no calibration vectors. {ADVICE}")
    lines = sorted(vectors)
    columns, gammas = zip(*(vectors[line] for line in lines), strict=True)
    return Calibration(np.array(lines), columns, gammas)
