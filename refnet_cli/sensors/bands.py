"""What the sensors deliver and what the maps mean: products, the names of their bands and masks, class schemes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["optical", "sar"]
SarScale = Literal["db", "db100", "power", "amplitude"]
OpticalScale = Literal["dn", "reflectance"]

SATELLITES: dict[Modality, str] = {"optical": "Sentinel-2", "sar": "Sentinel-1"}
SENSOR_NAMES: dict[Modality, str] = {"optical": "optical", "sar": "SAR"}


def other_of(sensor: Modality) -> Modality:
    """Return the other sensor."""
    return "sar" if sensor == "optical" else "optical"


@dataclass(frozen=True)
class Product:
    """What one sensor's product holds; a physical value is ``(number - offset) * scale``.

    Parameters
    ----------
    name : str
        The product's usual name.
    modality : {"optical", "sar"}
        Which input of the network it feeds.
    bands : tuple of str
        Band names in the order of the files.
    unit : str
        Unit of the physical values.
    scale, offset : float
        From numbers to physical values; the offset is that of current products.
    nodata : float
        The number that stands for "no measurement".
    """

    name: str
    modality: Modality
    bands: tuple[str, ...]
    unit: str
    scale: float
    offset: float
    nodata: float


_L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_L1C = (*_L2A[:10], "B10", *_L2A[10:])
OFFSET = 1000.0  # added to reflectance x 10,000 since processing baseline 04.00

PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product("sentinel-2-l2a", "optical", _L2A, "reflectance x 10,000", 1.0, OFFSET, 0.0),
        Product("sentinel-2-l1c", "optical", _L1C, "reflectance x 10,000", 1.0, OFFSET, 0.0),
        Product("sentinel-1", "sar", ("VV", "VH"), "dB", 1.0, 0.0, math.nan),
        Product("sentinel-1-hh", "sar", ("HH", "HV"), "dB", 1.0, 0.0, math.nan),
    )
}


_OPTICAL_BAND = re.compile(r"(?<![A-Z0-9])B(?:0?(8A)|0?([1-9])|(1[0-2]))(?![A-Z0-9])")
_SAR_BAND = re.compile(r"(?:(?<![A-Z])|(?<=SIGMA)|(?<=GAMMA)|(?<=BETA)|(?<=POL))(VV|VH|HH|HV)(?=DB|[^A-Z]|$)")
_FILE_BAND = r"B(?:8A|0?[1-9]|1[0-2])|VV|VH|HH|HV"
_NOT_A_MEASUREMENT = re.compile(
    r"MASK|MSK|CLOUD|PROB|RATIO|ANGLE|QUALITY|QA|SCL|ALPHA|COHER|PHASE|STD_?DEV|VARIANCE|UNCERTAINTY|ENTROPY|"
    r"INDEX|ZENITH|AZIMUTH|INCIDENCE|(?<![A-Z])(?:COH|ND[VWBS]I|TCI|AOT|AOD|COUNT|INC|STD|LS|[SV][AZ]A)(?![A-Z])"
)
_COLOURS = {
    "rededge": ("B05", "B06", "B07", "B8A"),
    "nir": ("B08", "B8A"),
    "swir": ("B10", "B11", "B12"),
    "coastal": ("B01",),
    "blue": ("B02",),
    "green": ("B03",),
    "red": ("B04",),
    "watervapour": ("B09",),
    "cirrus": ("B10",),
}
"""Bands that a colour can be."""
_USUAL = {"nir": "B08"}
"""What a colour is where nothing tells which of its bands."""
_NUMBERED = {
    "rededge": {"1": "B05", "2": "B06", "3": "B07", "4": "B8A", "071": "B05", "075": "B06", "078": "B07"},
    "nir": {"1": "B08", "08": "B8A", "8": "B08", "8a": "B8A", "09": "B09"},
    "swir": {"1": "B11", "2": "B12", "16": "B11", "22": "B12"},
}
"""Bands by the numbers behind their colours."""
# Longer words come first, since what one has matched no other may match.
_COLOUR_WORDS = [
    (colour, re.compile(rf"(?<![a-z])(?:{words})(?![a-z])"))
    for colour, words in (
        ("rededge", r"(?:vegetation )?red ?edge ?(?P<number>\d{1,3}(?!\d| ?[nu]?m))?|v?re ?(?P<short>[1-4])"),
        ("narrow", r"(?:narrow|n) ?(?:nir|near ?infra ?red)|(?:nir|near ?infra ?red) ?(?:narrow|n)"),
        ("nir", r"(?:broad ?)?(?:nir|near ?infra ?red|nah(?:es)? ?infrarot|proche infrarouge|infrarojo cercano|"
                r"infrarosso vicino|vicino infrarosso|infravermelho proximo) ?(?P<number>8a|\d{1,2}(?!\d| ?[nu]?m))?"),
        ("swir", r"(?:swir|short ?wave ?infra ?red) ?(?P<number>\d{1,4}(?!\d| ?[nu]?m))?"),
        ("other", r"infra ?red|thermal|tir|mwir|lwir|pan|panchromatic"),
        ("coastal", r"coastal ?(?:aerosol|blue)?|ultra ?blue|deep ?blue"),
        ("watervapour", r"water ?vapou?r"),
        ("cirrus", r"cirrus"),
        ("blue", r"blue?|blau|bleu|azul"),
        ("green", r"green|grun|gruen|vert|verde"),
        ("red", r"red|rot|rouge|rojo|rosso|vermelho"),
    )
]  # fmt: skip
_LETTERS = {"r": "B04", "g": "B03", "b": "B02", "n": "B08"}
_WAVELENGTHS = {
    "B01": (438, 448), "B02": (488, 498), "B03": (555, 564), "B04": (660, 669), "B05": (700, 709), "B06": (736, 744),
    "B07": (776, 787), "B08": (830, 844), "B8A": (860, 869), "B09": (940, 949), "B10": (1368, 1382),
    "B11": (1605, 1618), "B12": (2180, 2206),
}  # fmt: skip
"""Nanometres between which all that is given for the centres of Sentinel-2's bands lies, of each of its satellites."""
_LENGTH = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*(nm|nano|\u00b5m|\u03bcm|um|micro)", re.IGNORECASE)
_BARE_LENGTH = re.compile(
    r"(?:(?:rho[a-z]*|rrs|refl[a-z]*|boa|toa|wl|wavelength|lambda|band)[ _-]*)?(\d{3,4})", re.IGNORECASE
)


QUALITY = ("no data", "optical only", "SAR only", "optical and SAR")
"""What the numbers of a quality say of the sensors that saw a pixel."""
SENSORS, CLOUD, UNREADABLE = 3, 4, 8
"""Bits of a quality: of those numbers; for what is left out as a cloud; for what lies in a damaged part of a file."""


def usable(quality: NDArray[np.uint8], either: bool) -> NDArray[np.bool_]:
    """Tell which pixels are worth anything: those that both sensors saw, or either of them."""
    sensors = quality & SENSORS
    return np.asarray(sensors > 0 if either else sensors == SENSORS)


CloudMask = Callable[[NDArray[Any]], NDArray[np.bool_]]
CLOUD_MASKS: dict[str, CloudMask] = {
    # ESA's scene classification: no data, defective, cloud shadow, clouds of medium and high probability, thin cirrus.
    "SCL": lambda stored: np.isin(stored, (0, 1, 3, 8, 9, 10)),
    # ESA's classification of L1C and later: opaque clouds and cirrus, a band each; snow is no cloud.
    "MSK_CLASSI": lambda stored: stored == 1,
    # Earth Engine: bit 10 opaque clouds, bit 11 cirrus.
    "QA60": lambda stored: stored.astype(np.int64) & 0b1100_0000_0000 != 0,
    # HLS: bit 1 cloud, bit 2 next to one, bit 3 cloud shadow; 255 is no data.
    "FMASK": lambda stored: stored.astype(np.int64) & 0b1110 != 0,
    # Sentinel Hub: 1 cloud, 255 no data.
    "CLM": lambda stored: (stored == 1) | (stored == 255),
    # Probabilities in percent: Earth Engine's and ESA's, and Sentinel Hub's from 0 to 255.
    "MSK_CLDPRB": lambda stored: stored >= 50,
    "CLP": lambda stored: stored >= 128,
}
"""From a mask's name to what is to be left out, given the stored numbers."""


def canonical_band(description: str | None) -> str | None:
    """Recognise a band by its description.

    Parameters
    ----------
    description : str or None
        Such as "B4", "b04", "B4 (red)", "Sentinel-2 B03", "Band 4 - Red", "nir", "842 nm", "VV_dB" or "Gamma0_VH".

    Returns
    -------
    str or None
        "B01" ... "B12", "B8A", "VV", "VH", "HH", "HV"; None where the description names none or several of them, or
        contradicts itself, as "B5 (865 nm)".

    Examples
    --------
    >>> [canonical_band(text) for text in ("B4 (red)", "Sentinel-2 B8A", "sigma0_VV", "VV/VH", "Band 1")]
    ['B04', 'B8A', 'VV', None, None]
    """
    found = band_evidence(description) or set()
    if len(found) == 1:
        return next(iter(found))
    usual = {band for _, band in _colours_of(_simplified(description or "")) if band in found}
    return usual.pop() if usual else None


def band_evidence(description: str | None) -> set[str] | None:
    """Return the bands that a description can mean: none if it means no band or contradicts itself.

    Returns
    -------
    set of str, or None
        None where the description says nothing of bands.

    Examples
    --------
    >>> [band_evidence(text) for text in ("red", "NDVI", "Band 1")] == [{"B04"}, set(), None]
    True
    """
    text = _simplified(description or "")
    upper = text.upper()
    if _NOT_A_MEASUREMENT.search(upper) or is_landsat_name(description) or canonical_mask(description):
        return set()
    numbered = {f"B{eight_a or f'{int(one or two):02d}'}" for eight_a, one, two in _OPTICAL_BAND.findall(upper)}
    numbered |= _spelt_numbers(upper)
    radar = set(_SAR_BAND.findall(upper))
    if radar or len(numbered) > 1:
        return radar if len(radar) == 1 and not numbered else set()
    evidence = [numbered, *(_of_wavelength(float(number), unit) for number, unit in _LENGTH.findall(text))]
    evidence += [bands for bands, _ in _colours_of(text)]
    if not any(evidence) and (bare := _BARE_LENGTH.fullmatch(text.strip())):
        evidence = [_of_wavelength(float(bare[1]), "nm")]
    evidence = [bands for bands in evidence if bands]  # a bandwidth is a length too, and tells nothing
    if evidence:
        return set.intersection(*evidence) - {"none"}
    letter = _LETTERS.get(text.strip().lower())
    return {letter} if letter else None


def is_landsat_name(description: str | None) -> bool:
    """Tell whether only Landsat's products call their bands so, as SR_B4 or sr_band4.

    Examples
    --------
    >>> [is_landsat_name(text) for text in ("SR_B4", "sr_band4", "ST_B10", "S2_SR_B4", "B4")]
    [True, True, True, False, False]
    """
    return re.match(r"\s*(?:SR|ST|TOA)_B(?:AND)?_?\d|LANDSAT", description or "", re.IGNORECASE) is not None


def _simplified(text: str) -> str:
    """Return a text without accents, and with words that only capitals part, as "RedEdge", parted."""
    plain = "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", plain)


def _spelt_numbers(text: str) -> set[str]:
    """Return bands that are spelt out, as "Sentinel-2 Band 4"; "Band 4" alone may be the fourth of any file."""
    spelt = re.findall(r"(?<![A-Z])BAND[ _-]*(8A|0?[1-9](?!\d)|1[0-2](?!\d))(?![A-Z])", text)
    if not re.search(r"SENTINEL[ _-]?2|(?<![A-Z0-9])S2(?![0-9])|(?<![A-Z])MSI(?![A-Z])", text):
        spelt = [number for number in spelt if number == "8A"]
    return {"B8A" if number == "8A" else f"B{int(number):02d}" for number in spelt}


def _colours_of(text: str) -> Iterator[tuple[set[str], str]]:
    """Yield, of each colour that a text names, the bands that it can be and the one that it usually is."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    for colour, pattern in _COLOUR_WORDS:
        for match in pattern.finditer(words):
            number = next(filter(None, match.groupdict().values()), "")
            if colour == "other":
                yield {"none"}, ""
            elif colour == "narrow":
                yield {"B8A"}, "B8A"
            elif number:
                length = _of_wavelength(float(number), "nm") if number.isdecimal() else set()
                yield length or {_NUMBERED[colour].get(number, "none")}, ""
            else:
                yield set(_COLOURS[colour]), _USUAL.get(colour, "")
        words = pattern.sub(" | ", words)


def _of_wavelength(number: float, unit: str) -> set[str]:
    """Return the band whose centre a wavelength is, if there is one."""
    length = number if unit.lower().startswith("n") else 1000 * number
    if not 400 <= length <= 2500:
        return set()
    return {band for band, (low, high) in _WAVELENGTHS.items() if low <= length <= high} or {"none"}


def band_of_wavelength(text: str) -> str | None:
    """Recognise a band by the number that a tag gives for its wavelength, in nanometres or micrometres.

    Examples
    --------
    >>> [band_of_wavelength(text) for text in ("664.6", "0.842", "665 nm", "655")]
    ['B04', 'B08', 'B04', None]
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", text)
    if not match:
        return canonical_band(text)
    number = float(match[1])
    found = _of_wavelength(number, "nm" if number > 10 else "um") - {"none"}
    return found.pop() if found else None


def band_of_file(name: str) -> str | None:
    """Recognise the only band of a file by the file's name.

    Examples
    --------
    >>> names = ("T32TQM_20220125T101229_B02_10m.jp2", "20190605T134219_T22MHU.B4.tif", "iw-vv.rtc.tiff", "s2.tif")
    >>> [band_of_file(name) for name in (*names, "scene_red_10m.tif", "red_river.tif")]
    ['B02', 'B04', 'VV', None, 'B04', None]
    """
    stem = re.sub(r"\.(tiff?|jp2)$", "", name, flags=re.IGNORECASE)
    tokens = [token for token in re.split(r"[^A-Za-z0-9]+", stem) if re.fullmatch(_FILE_BAND, token, re.IGNORECASE)]
    return canonical_band(tokens[-1]) if tokens else _colour_of_file(stem)


def _colour_of_file(stem: str) -> str | None:
    """Recognise a colour at the end of a file's name, since anywhere else it may be that of a river or of a house."""
    words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"_\d+m$", "", _simplified(stem).lower())).split()
    for count in (3, 2, 1):
        text = " ".join(words[-count:])
        if re.fullmatch(r"rho[st] \d{3,4}", text) or any(words.fullmatch(text) for _, words in _COLOUR_WORDS):
            return canonical_band(text)
    return None


def canonical_mask(text: str | None) -> str | None:
    """Recognise a layer that tells where clouds are, by its description or its file's name.

    Returns
    -------
    str or None
        A key of `CLOUD_MASKS`.

    Examples
    --------
    >>> [canonical_mask(text) for text in ("SCL, Scene Classification Map", "T22MGU.QA60", "Fmask", "B02")]
    ['SCL', 'QA60', 'FMASK', None]
    """
    tokens = re.split(r"[^A-Z0-9_]+|_(?!CLDPRB|CLASSI)", (text or "").upper())
    if "SNOW" in tokens:
        return None
    return next((token for token in tokens if token in CLOUD_MASKS), None)
