"""Sentinel-2: its levels, scale, nodata and bands, and how each is judged; the offset has a file of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.sensors.offset import IMAGE_NAME, is_hls, told_offset
from refnet_cli.sensors.sensor import Product, Sensor, Values
from refnet_cli.sensors.sentinel2_words import WORDS

OpticalScale = Literal["dn", "reflectance"]

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order in which products' metadata numbers them from 0."""
RGB = ("B04", "B03", "B02")
EDGES = ("B03", "B04", "B08")
"""Bands by which optical images are compared with SAR."""
DARK = ("B02", "B03", "B04", "B10", "B11", "B12")
"""Bands in which nearly every scene has dark ground."""
LOWEST = -500.0  # reflectance x 10,000 that hardly any pixel falls below, with any correction of the atmosphere
POSSIBLE = (-5000.0, 65_534.0)  # reflectance x 10,000, before an offset is known; 65,535 marks saturated pixels
CLIPPED = (9000.0, 20_000.0)  # reflectance x 10,000 to which bright ground may be clipped
LEAST_GAP = 2.0  # reflectance x 10,000 between a fill and what is measured
_DARKEST = 5.0  # reflectance x 10,000 that the brightest 1 % of some band exceeds, over any ground and in any light
_BRIGHTEST = 20_000.0  # that no band's median exceeds, fresh snow's included
_MOST_NEGATIVE = 0.05  # share of values below `LOWEST`
_NEGATIVE_MEDIAN = -100.0  # that half of a scene does not fall below; water may lie slightly below 0
_END = 0.02  # of the range from 0 to its end: what lies nearer to an end counts as at it
_L2A = Product("sentinel-2-l2a", tuple(band for band in BANDS if band != "B10"))
_L1C = Product("sentinel-2-l1c", BANDS)
_TIME, _TILE = r"(\d{8}T\d{6})", r"\d{1,2}[A-Z]{3}"


def check_optical_scale(sample: Values, scale: OpticalScale) -> None:
    """Hold the unit that the user gives against the values; see `check_sar_scale`."""
    high = float(np.percentile(np.concatenate([band[np.isfinite(band)] for band in sample]), 99))
    if high > 100 if scale == "reflectance" else high <= 3:
        raise OptionsError(
            f"--optical-scale {scale} contradicts the optical values: 99 % of them are at most {high:.4g}."
        )


def judge_optical_scale(sample: Values, dtype: str) -> tuple[float, str]:
    """Tell the factor that makes stored optical values reflectance x 10,000.

    Parameters
    ----------
    sample : sequence of float arrays
        Values as stored, one array a band; NaN where there is no measurement.
    dtype : str
        The file's data type.

    Returns
    -------
    scale : float
        1 or 10,000.
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the file is an 8-bit picture, its values are neither, or its bands differ.
    """
    if dtype in ("uint8", "int8"):
        raise InputError(
            "The optical file is an 8-bit picture, but reflectance is needed: "
            "give the measured bands (16-bit numbers or 0 to 1 as float)."
        )
    bands = [band[np.isfinite(band)] for band in sample]
    values = np.concatenate(bands)
    high = float(np.percentile(values, 99)) if values.size else math.nan
    found = f"99 % of the sampled {dtype} values are at most {high:.4g}"
    if np.issubdtype(np.dtype(dtype), np.integer):
        return 1.0, f"type: whole numbers are reflectance x 10,000; {found}."
    refuse_mixed_units([band for band in bands if band.size])
    if high > 100:
        return 1.0, f"values: {found}, as in reflectance x 10,000."
    if high <= 3:
        return 10_000.0, f"values: {found}, as in reflectance from 0 to 1."
    raise InputError(
        f"The optical values are neither reflectance from 0 to 1 nor x 10,000 ({found}): give one of these."
    )


def refuse_mixed_dates(paths: Sequence[str]) -> None:
    """Refuse bands that were sensed at different times by the files' names.

    Raises
    ------
    InputError
        Naming two of them.
    """
    dated = {time.group(): path for path in paths if (time := re.search(r"\d{8}T\d{6}", Path(path).name))}
    if len(dated) > 1:
        listed = " and ".join(list(dated.values())[:2])
        raise InputError(f"The optical files are of different times by their names ({listed}): give one scene's.")


def refuse_landsat(tags: Mapping[str, str], paths: Sequence[str]) -> None:
    """Refuse Landsat files, whose bands of the same names are other ones.

    Raises
    ------
    InputError
        If a name or tag says Landsat.
    """
    name = next((Path(path).name for path in paths if re.match(r"HLS\.L30\.|L[COTEM]0[4-9]_", Path(path).name)), "")
    about = re.compile(r"(sensor|spacecraft|satellite|mission|platform|instrument)(_?(id|name))?(_\d+)?$", re.I)
    said = ((key, value) for key, value in tags.items() if about.search(key))
    tag = next((f"{key}={value}" for key, value in said if re.match(r"LANDSAT|OLI(_TIRS)?\b", value, re.I)), "")
    if name or tag:
        raise InputError(
            f"The optical file is Landsat's ({name or tag}), whose bands B05 to B07 are not Sentinel-2's: "
            "give Sentinel-2."
        )


def judge_optical_level(
    names: Sequence[str | None], tags: Mapping[str, str], paths: Sequence[str] = ()
) -> tuple[str, str]:
    """Tell Sentinel-2's processing level: "L1C" (top of atmosphere), "L2A" (surface) or "unknown".

    Parameters
    ----------
    names : sequence of str or None
        All bands of the files.
    tags : mapping of str to str
        The files' tags.
    paths : sequence of str
        The files' paths, in which a product's name may stand.

    Returns
    -------
    level : str
    how : str
        The evidence.
    """
    hls = is_hls(tags, paths)
    if hls:
        return "L2A", f"{hls}; HLS is surface reflectance."
    for key, value in tags.items():
        found = re.search(r"(?:LEVEL-|MSI|L)(1C|2A)(?![A-Z0-9])", value.upper())
        if found and re.search(r"level|product|type|uri", key.lower()):
            return f"L{found.group(1)}", f"tag: {key}={value}."
    for path in paths:
        named = re.search(r"MSI(L1C|L2A)_\w+|(?<![A-Z0-9])(L1C|L2A)_T\d{2}[A-Z]{3}_\w+", path)
        if named:
            return str(named.group(1) or named.group(2)), f"name: {named.group()}."
    for path in paths:
        image = IMAGE_NAME.match(Path(path).name)
        if image:
            return ("L2A" if image.group(2) else "L1C"), f"name: {Path(path).name}; only L2A's tell the resolution."
    if "B10" in names:
        return "L1C", "count: band B10 is there, which surface products leave out."
    if {*_L2A.bands} <= set(names):
        return "L2A", "count: all bands but B10 are there."
    return "unknown", "values: neither tags nor the number of bands tell."


def refuse_impossible_reflectance(sample: Values, about: str, kind: type[RefnetError] = InputError) -> None:
    """Refuse reflectance x 10,000 that no ground has.

    Parameters
    ----------
    sample : sequence of float arrays
        One array a band; NaN where there is no measurement.
    about : str
        How the values became what they are: scale and offset, in words.
    kind : type
        Of the error.

    Raises
    ------
    RefnetError
        Of that kind.
    """
    bands = [band[np.isfinite(band)] for band in sample]
    bands = [band for band in bands if band.size]
    if not bands:
        return
    values = np.concatenate(bands)
    below, negative = float(np.mean(values < LOWEST)), float(np.mean(values < 0))
    high = max(float(np.percentile(band, 99)) for band in bands)
    middle = max(float(np.median(band)) for band in bands)
    if below > _MOST_NEGATIVE or float(np.median(values)) < _NEGATIVE_MEDIAN:
        found = f"{negative:.0%} of the reflectance is negative, {below:.0%} below -0.05"
    elif high < _DARKEST:
        found = f"99 % of the reflectance is at most {high / 10_000:.2g} in every band"
    elif middle > _BRIGHTEST:
        found = f"the median reflectance of a band is {middle / 10_000:.3g}"
    else:
        return
    raise kind(
        f"The optical values are no reflectance: {found} ({about}). refnet needs reflectance from 0 to 1 or x 10,000, "
        "not standardised or normalised, with a declared scale and offset only where they are still to be applied: "
        "give the original file, or remove a scale that was applied already, for instance with "
        "gdal_translate -a_scale 1 -a_offset 0."
    )


def refuse_stretched(lowest: Sequence[float], highest: Sequence[float], whole: bool) -> None:
    """Refuse optical values that fill one range in all bands, as minimum and maximum are mapped to it.

    Parameters
    ----------
    lowest, highest : sequence of float
        Of each band, as stored with a declared scale applied.
    whole : bool
        Whether the values are whole numbers in a type of more than 8 bits.

    Raises
    ------
    InputError
        If a range from 0 to 1 or from 0 to 255 is filled.
    """
    low, high = np.array(lowest), np.array(highest)
    if len(low) < 2 or not (np.isfinite(low) & np.isfinite(high)).all():
        return
    # Whole numbers below 256 may be dark water: only a picture reaches 255 in all bands.
    ranges = [(255.0, 1.0, 0.0, "dn")] if whole else [(1.0, _END, _END, "reflectance"), (255.0, 5.1, 5.1, "dn")]
    for end, bottom, top, option in ranges:
        if (np.abs(low) <= bottom).all() and (high >= end - top).all() and (high <= end).all():
            raise InputError(
                f"The optical values fill the range from 0 to {end:g} in every band, as in "
                f"{'normalised numbers' if end == 1 else 'an 8-bit picture'}: give the measured reflectance, or say "
                f"--optical-scale {option} if they are that."
            )


def refuse_mixed_units(bands: Values) -> None:
    """Refuse bands of which some are reflectance from 0 to 1 and others are x 10,000.

    Parameters
    ----------
    bands : sequence of float arrays
        Values that are there, of a type for fractions.

    Raises
    ------
    InputError
    """
    highs = [float(np.percentile(band, 99)) for band in bands]
    small = [high for high, band in zip(highs, bands, strict=True) if high <= 3 and (band != np.round(band)).any()]
    large = [high for high in highs if high > 100]
    if small and large:
        raise InputError(
            f"The optical bands have different units: 99 % of a band are at most {small[0]:.3g}, as in reflectance "
            f"from 0 to 1, and of another at most {large[0]:.4g}, as in reflectance x 10,000. Give bands of one unit."
        )


def _stated(
    tags: Mapping[str, str], path: str, descriptions: Sequence[str | None], units: Sequence[str | None]
) -> tuple[float, str] | None:
    return told_offset(tags, [path])


def _is_reflectance(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> bool:
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    whole = dtype.kind in "iu" and dtype.itemsize > 1
    return negative < 0.01 and whole and 100 < median < 20_000 and bool(values.max() < 30_000)


SENSOR = Sensor(
    name="optical",
    satellite="Sentinel-2",
    unit="reflectance x 10,000",
    card_unit="reflectance x 10000",
    bands=BANDS,
    words=WORDS,
    products=(_L2A, _L1C),
    shown=(RGB,),
    mission="S2",
    product_name="S2[A-D]_MSI",
    dates=(
        rf"S2[A-D]_MSIL(?:1C|2A)_{_TIME}",  # SAFE products, and Planetary Computer
        rf"S2[A-D]_OPER_PRD_MSIL.*_V{_TIME}",  # SAFE products until 2016
        rf"^{_TIME}(?:_\d{{8}}T\d{{6}})?_T{_TILE}",  # Earth Engine
        rf"L(?:1C|2A)_T{_TILE}_A\d{{6}}_{_TIME}",  # granules of SAFE products
        rf"(?<![A-Z0-9])T{_TILE}_{_TIME}",  # bands of SAFE products, and Earth Search
        rf"HLS\.[SL]30\.T{_TILE}\.(\d{{7}}T\d{{6}})",
        rf"S2[A-D]_{_TILE}_(\d{{8}})_\d+_L(?:1C|2A)",  # Earth Search
    ),
    statement="offsets by tag or name",
    stated=_stated,
    is_sure=_is_reflectance,
    levels=("L1C", "L2A"),
    named_by_number=True,
    zero_is_nodata=True,
)
