"""What the sensors deliver and what the maps mean: products, the names of their bands and masks, class schemes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import WeightsError

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


@dataclass(frozen=True)
class ClassScheme:
    """The classes of a map; code 0 always means "no data" and is not listed.

    The network's class ``i`` (from 1) stands for ``codes[i - 1]``.

    Parameters
    ----------
    name : str
        Key of the scheme.
    codes : tuple of int
        Codes in the map, unique, 1 to 255.
    names : tuple of str
        Names of the classes.
    colours : tuple of (int, int, int)
        Red, green and blue, 0 to 255.

    Raises
    ------
    WeightsError
        If the fields contradict each other.
    """

    name: str
    codes: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.codes or not len(self.codes) == len(self.names) == len(self.colours):
            raise WeightsError(
                f"Class scheme {self.name!r} has {len(self.codes)} codes, {len(self.names)} names and "
                f"{len(self.colours)} colours; it needs the same number of each, at least one."
            )
        if len(set(self.codes)) < len(self.codes) or not all(1 <= code <= 255 for code in self.codes):
            raise WeightsError(f"Class scheme {self.name!r} has codes {self.codes}; they must be unique, 1 to 255.")
        if not all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in self.colours):
            raise WeightsError(f"Class scheme {self.name!r} has a colour that is not three numbers from 0 to 255.")

    @property
    def classes(self) -> int:
        """Number of the network's classes, "no data" included."""
        return len(self.codes) + 1

    @property
    def by_code(self) -> dict[int, str]:
        """Names of the classes by their codes."""
        return dict(zip(self.codes, self.names, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the scheme as plain lists and strings, ready for JSON."""
        return {
            "name": self.name,
            "codes": list(self.codes),
            "names": list(self.names),
            "colours": [list(colour) for colour in self.colours],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ClassScheme:
        """Build a scheme from what ``to_dict`` returned; one of refnet 0.1 has its name of today, see `rename_old`.

        Raises
        ------
        WeightsError
            If a field is missing, unknown or of the wrong kind.
        """
        wanted = {"name", "codes", "names", "colours"}
        if not isinstance(fields, Mapping) or set(fields) != wanted:
            found = sorted(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
            raise WeightsError(f"A class scheme needs exactly the fields {sorted(wanted)}, but has {found}.")
        try:
            scheme = cls(
                name=str(fields["name"]),
                codes=tuple(int(code) for code in fields["codes"]),
                names=tuple(str(name) for name in fields["names"]),
                colours=tuple((int(red), int(green), int(blue)) for red, green, blue in fields["colours"]),
            )
        except (TypeError, ValueError) as cause:
            raise WeightsError(f"The class scheme {fields['name']!r} cannot be understood: {cause}.") from cause
        return rename_old(scheme)


def _scheme(name: str, table: str) -> ClassScheme:
    rows = [re.fullmatch(r"(\d+) (.+) ([0-9a-f]{6})", row.strip()) for row in table.strip().splitlines()]
    fields = [row.groups() for row in rows if row]
    return ClassScheme(
        name=name,
        codes=tuple(int(code) for code, _, _ in fields),
        names=tuple(label for _, label, _ in fields),
        colours=tuple((int(hue[:2], 16), int(hue[2:4], 16), int(hue[4:], 16)) for _, _, hue in fields),
    )


_TABLES = {
    "dfc2020": """
        1 Forests 008000
        2 Shrublands 003300
        3 Grasslands adff2f
        4 Wetlands cd853f
        5 Croplands f5deb3
        6 Urban/built-up 708090
        7 Barren d2b48c
        8 Water 000080""",
    "whu-opt-sar": """
        1 Farmland cc6601
        2 City fe0000
        3 Village ffff01
        4 Water 0000fe
        5 Forest 55a601
        6 Road 5dffff
        7 Others 986699""",
    "c2seg-bw": """
        1 Surface water 00ffff
        2 Street ffffff
        3 Urban fabric ff0000
        4 Industrial, commercial and transport dca0dc
        5 Mine, dump and construction 9600d2
        6 Artificial vegetated ff82ff
        7 Arable land ffdc82
        8 Permanent crops ce8540
        9 Pastures bdb76b
        10 Forests 00ff00
        11 Shrub 9acd32
        12 Open spaces 8b4513
        13 Inland wetlands 826fff""",
    "worldcover": """
        10 Tree cover 006400
        20 Shrubland ffbb22
        30 Grassland ffff4c
        40 Cropland f096ff
        50 Built-up fa0000
        60 Bare/sparse vegetation b4b4b4
        70 Snow and ice f0f0f0
        80 Permanent water bodies 0064c8
        90 Herbaceous wetland 0096a0
        95 Mangroves 00cf75
        100 Moss and lichen fae6a0""",
    "esri-io": """
        1 Water 419bdf
        2 Trees 397d49
        4 Flooded vegetation 7a87c6
        5 Crops e49635
        7 Built area c4281b
        8 Bare ground a59b8f
        9 Snow/ice a8ebff
        10 Clouds 616161
        11 Rangeland e3e2c3""",
    "terramesh": """
        1 Water 419bdf
        2 Trees 397d49
        3 Flooded vegetation 7a87c6
        4 Crops e49635
        5 Built area c4281b
        6 Bare ground a59b8f
        7 Snow/ice a8ebff
        8 Clouds 616161
        9 Rangeland e3e2c3""",
    "dynamic-world": """
        1 Water 419bdf
        2 Trees 397d49
        3 Grass 88b053
        4 Flooded vegetation 7a87c6
        5 Crops e49635
        6 Shrub & scrub dfc35a
        7 Built c4281b
        8 Bare a59b8f
        9 Snow & ice b39fe1""",
    "corine": """
        1 Continuous urban fabric e6004d
        2 Discontinuous urban fabric ff0000
        3 Industrial or commercial units cc4df2
        4 Road and rail networks and associated land cc0000
        5 Port areas e6cccc
        6 Airports e6cce6
        7 Mineral extraction sites a600cc
        8 Dump sites a64d00
        9 Construction sites ff4dff
        10 Green urban areas ffa6ff
        11 Sport and leisure facilities ffe6ff
        12 Non-irrigated arable land ffffa8
        13 Permanently irrigated land ffff00
        14 Rice fields e6e600
        15 Vineyards e68000
        16 Fruit trees and berry plantations f2a64d
        17 Olive groves e6a600
        18 Pastures e6e64d
        19 Annual crops associated with permanent crops ffe6a6
        20 Complex cultivation patterns ffe64d
        21 Land principally occupied by agriculture, with significant areas of natural vegetation e6cc4d
        22 Agro-forestry areas f2cca6
        23 Broad-leaved forest 80ff00
        24 Coniferous forest 00a600
        25 Mixed forest 4dff00
        26 Natural grasslands ccf24d
        27 Moors and heathland a6ff80
        28 Sclerophyllous vegetation a6e64d
        29 Transitional woodland-shrub a6f200
        30 Beaches, dunes, sands e6e6e6
        31 Bare rocks cccccc
        32 Sparsely vegetated areas ccffcc
        33 Burnt areas 000000
        34 Glaciers and perpetual snow a6e6cc
        35 Inland marshes a6a6ff
        36 Peat bogs 4d4dff
        37 Salt marshes ccccff
        38 Salines e6e6ff
        39 Intertidal flats a6a6e6
        40 Water courses 00ccf2
        41 Water bodies 80f2e6
        42 Coastal lagoons 00ffa6
        43 Estuaries a6ffe6
        44 Sea and ocean e6f2ff""",
    "corine-level1": """
        1 Artificial surfaces e6004d
        2 Agricultural areas ffffa8
        3 Forest and semi-natural areas 80ff00
        4 Wetlands a6a6ff
        5 Water bodies 00ccf2""",
}
SCHEMES: dict[str, ClassScheme] = {name: _scheme(name, table) for name, table in _TABLES.items()}

CORINE_CODES = (
    111, 112, 121, 122, 123, 124, 131, 132, 133, 141, 142,
    211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244,
    311, 312, 313, 321, 322, 323, 324, 331, 332, 333, 334, 335,
    411, 412, 421, 422, 423, 511, 512, 521, 522, 523,
)  # fmt: skip
"""CORINE's codes of three digits, in the order of the codes 1 to 44 that its rasters have."""
OTHER_CODES: dict[str, dict[int, int]] = {
    "corine": {long: short for short, long in enumerate(CORINE_CODES, 1)},
    "corine-level1": {long: long // 100 for long in CORINE_CODES},
}
"""For each scheme by its name, codes that a label file may hold besides the scheme's own, and what they stand for."""


def rename_old(scheme: ClassScheme) -> ClassScheme:
    """Return a scheme that was stored as today's scheme; refnet 0.1 called ``terramesh`` ``esri-io``."""
    same = dict(zip(scheme.codes, scheme.names, strict=True)) == SCHEMES["terramesh"].by_code
    return replace(scheme, name="terramesh") if scheme.name == "esri-io" and same else scheme


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
