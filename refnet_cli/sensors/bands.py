"""Recognise band names in text: in descriptions, tags and file names of any sensor."""

from __future__ import annotations

import re
import unicodedata

from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.quality import canonical_mask

_NOT_A_MEASUREMENT = re.compile(
    r"MASK|MSK|CLOUD|PROB|RATIO|ANGLE|QUALITY|QA|SCL|ALPHA|COHER|PHASE|STD_?DEV|VARIANCE|UNCERTAINTY|ENTROPY|"
    r"INDEX|ZENITH|AZIMUTH|INCIDENCE|(?<![A-Z])(?:COH|ND[VWBS]I|TCI|AOT|AOD|COUNT|INC|STD|LS|[SV][AZ]A)(?![A-Z])"
)


def canonical_band(description: str | None) -> str | None:
    """Recognise a band by its description.

    Parameters
    ----------
    description : str or None
        Such as "B4", "b04", "B4 (red)", "Sentinel-2 B03", "Band 4 - Red", "nir", "842 nm", "VV_dB" or "Gamma0_VH".

    Returns
    -------
    str or None
        "B01" ... "B12", "B8A", "VV", "VH", "HH", "HV"; None if the description names no band, several bands, or
        contradicts itself, such as "B5 (865 nm)".

    Examples
    --------
    >>> [canonical_band(text) for text in ("B4 (red)", "Sentinel-2 B8A", "sigma0_VV", "VV/VH", "Band 1")]
    ['B04', 'B8A', 'VV', None, None]
    """
    found = candidate_bands(description) or set()
    if len(found) == 1:
        return next(iter(found))
    text = _simplified(description or "")
    meanings = (meaning for sensor in SENSORS.values() for meaning in sensor.naming.meanings(text))
    usual = {band for _, band in meanings if band in found}
    return usual.pop() if usual else None


def candidate_bands(description: str | None) -> set[str] | None:
    """Return the bands that a description can mean; an empty set if it rules out every band or contradicts itself.

    Returns
    -------
    set of str, or None
        None if the description does not refer to a band.

    Examples
    --------
    >>> [candidate_bands(text) for text in ("red", "NDVI", "Band 1")] == [{"B04"}, set(), None]
    True
    """
    text = _simplified(description or "")
    upper = text.upper()
    if _NOT_A_MEASUREMENT.search(upper) or is_landsat_name(description) or canonical_mask(description):
        return set()
    codes = {code for sensor in SENSORS.values() for code in sensor.naming.codes(upper)}
    if len(codes) > 1:
        return set()
    found = None
    for sensor in SENSORS.values():
        if codes <= {*sensor.bands}:
            evidence = [*([codes] if codes else []), *(bands for bands, _ in sensor.naming.meanings(text) if bands)]
            if evidence:
                found = (found or set()) | set.intersection(*evidence) & {*sensor.bands}
    return found


def is_landsat_name(description: str | None) -> bool:
    """Return whether a band name is specific to Landsat products, such as SR_B4 or sr_band4.

    Examples
    --------
    >>> [is_landsat_name(text) for text in ("SR_B4", "sr_band4", "ST_B10", "S2_SR_B4", "B4")]
    [True, True, True, False, False]
    """
    return re.match(r"\s*(?:SR|ST|TOA)_B(?:AND)?_?\d|LANDSAT", description or "", re.IGNORECASE) is not None


def _simplified(text: str) -> str:
    """Remove accents, and split camel case such as "RedEdge" into words."""
    plain = "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", plain)


def is_band_number(text: str, number: int) -> bool:
    """Return whether a text only gives the band's number in the file."""
    return re.fullmatch(f"(B|BAND[ _-]*)?0*{number}", text, re.IGNORECASE) is not None


def band_of_wavelength(text: str) -> str | None:
    """Recognise a band by the wavelength in a tag, in nanometres or micrometres.

    Examples
    --------
    >>> [band_of_wavelength(text) for text in ("664.6", "0.842", "665 nm", "655")]
    ['B04', 'B08', 'B04', None]
    """
    number = text.strip()
    if not re.fullmatch(r"\d+(\.\d+)?", number):
        return canonical_band(text)
    return canonical_band(f"{number} {'nm' if float(number) > 10 else 'um'}")


def band_of_file(name: str) -> str | None:
    """Recognise the band of a single-band file by the file's name.

    Examples
    --------
    >>> names = ("T32TQM_20220125T101229_B02_10m.jp2", "20190605T134219_T22MHU.B4.tif", "iw-vv.rtc.tiff", "s2.tif")
    >>> [band_of_file(name) for name in (*names, "scene_red_10m.tif", "red_river.tif")]
    ['B02', 'B04', 'VV', None, 'B04', None]
    """
    stem = re.sub(r"\.(tiff?|jp2)$", "", name, flags=re.IGNORECASE)
    code = "|".join(sensor.naming.file_code for sensor in SENSORS.values())
    tokens = [token for token in re.split(r"[^A-Za-z0-9]+", stem) if re.fullmatch(code, token, re.IGNORECASE)]
    return canonical_band(tokens[-1]) if tokens else _word_of_file(stem)


def _word_of_file(stem: str) -> str | None:
    """Recognise a colour at the end of a file's name. Elsewhere it may be part of a place name, such as red_river."""
    words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"_\d+m$", "", _simplified(stem).lower())).split()
    for count in (3, 2, 1):
        text = " ".join(words[-count:])
        if any(sensor.naming.is_filename_ending(text) for sensor in SENSORS.values()):
            return canonical_band(text)
    return None
