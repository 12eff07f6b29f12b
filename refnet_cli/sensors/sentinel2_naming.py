"""Sentinel-2 band names in text: codes, colours and wavelengths."""

from __future__ import annotations

import re
from collections.abc import Iterator

from refnet_cli.sensors.sensor import BandNaming, Candidates

_CODE = re.compile(r"(?<![A-Z0-9])B(?:0?(8A)|0?([1-9])|(1[0-2]))(?![A-Z0-9])")
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
"""Bands that a colour can mean."""
_USUAL = {"nir": "B08"}
"""The most common band of a colour."""
_NUMBERED = {
    "rededge": {"1": "B05", "2": "B06", "3": "B07", "4": "B8A", "071": "B05", "075": "B06", "078": "B07"},
    "nir": {"1": "B08", "08": "B8A", "8": "B08", "8a": "B8A", "09": "B09"},
    "swir": {"1": "B11", "2": "B12", "16": "B11", "22": "B12"},
}
"""Bands by the number after their colour."""
# Longer terms come first: text that has matched one pattern is not matched again.
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
"""Ranges in nanometres of the published centre wavelengths of each band, across all Sentinel-2 satellites."""
_LENGTH = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*(nm|nano|\u00b5m|\u03bcm|um|micro)", re.IGNORECASE)
_BARE_LENGTH = re.compile(
    r"(?:(?:rho[a-z]*|rrs|refl[a-z]*|boa|toa|wl|wavelength|lambda|band)[ _-]*)?(\d{3,4})", re.IGNORECASE
)


def _codes(text: str) -> set[str]:
    """Return the bands named by codes such as B04, or spelt out, such as "Sentinel-2 Band 4".

    "Band 4" alone may be the fourth band of any file.
    """
    spelt = re.findall(r"(?<![A-Z])BAND[ _-]*(8A|0?[1-9](?!\d)|1[0-2](?!\d))(?![A-Z])", text)
    if not re.search(r"SENTINEL[ _-]?2|(?<![A-Z0-9])S2(?![0-9])|(?<![A-Z])MSI(?![A-Z])", text):
        spelt = [number for number in spelt if number == "8A"]
    numbers = [*spelt, *(eight_a or one or two for eight_a, one, two in _CODE.findall(text))]
    return {"B8A" if number == "8A" else f"B{int(number):02d}" for number in numbers}


def _meanings(text: str) -> list[Candidates]:
    """Return the candidates for each wavelength and colour in a text, or else for the text as a whole."""
    # A bandwidth is a length as well. It does not identify a band.
    lengths = (_of_wavelength(float(number), unit) for number, unit in _LENGTH.findall(text))
    found = [*((bands, "") for bands in lengths), *_colours_of(text)]
    if not any(bands for bands, _ in found) and (bare := _BARE_LENGTH.fullmatch(text.strip())):
        found = [(_of_wavelength(float(bare[1]), "nm"), "")]
    if not any(bands for bands, _ in found) and (letter := _LETTERS.get(text.strip().lower())):
        found = [({letter}, "")]
    return found


def _colours_of(text: str) -> Iterator[Candidates]:
    """Yield the candidate bands of each colour in a text, and its most common band."""
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
    """Return the band with this centre wavelength, {"none"} if there is none, or nothing outside 400 to 2500 nm."""
    length = number if unit.lower().startswith("n") else 1000 * number
    if not 400 <= length <= 2500:
        return set()
    return {band for band, (low, high) in _WAVELENGTHS.items() if low <= length <= high} or {"none"}


def _is_colour(text: str) -> bool:
    return bool(re.fullmatch(r"rho[st] \d{3,4}", text)) or any(words.fullmatch(text) for _, words in _COLOUR_WORDS)


NAMING = BandNaming(
    codes=_codes,
    file_code=r"B(?:8A|0?[1-9]|1[0-2])",
    meanings=_meanings,
    is_filename_ending=_is_colour,
    colours={
        "red": ("B04",), "green": ("B03",), "blue": ("B02",), "coastal": ("B01",), "nir": ("B08", "B8A"),
        "rededge": ("B05", "B06", "B07", "B8A"), "swir": ("B10", "B11", "B12"),
        **dict.fromkeys(("pan", "mwir", "lwir", "tir", "other_ir", "palette", "hue", "saturation", "lightness"), ()),
    },
    ambiguous_colours=frozenset({"rededge", "swir"}),
)  # fmt: skip
