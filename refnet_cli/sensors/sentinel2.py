"""Sentinel-2: detection and checks of level, scale and bands. The offset has its own module."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.sensors.offset import IMAGE_NAME, is_hls, offset_from_metadata
from refnet_cli.sensors.sensor import Product, Sensor, Values
from refnet_cli.sensors.sentinel2_naming import NAMING

OpticalScale = Literal["dn", "reflectance"]

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order of their ids, from 0, in the product metadata."""
RGB = ("B04", "B03", "B02")
EDGES = ("B03", "B04", "B08")
"""Bands that are compared with SAR for coregistration."""
DARK = ("B02", "B03", "B04", "B10", "B11", "B12")
"""Bands in which nearly every scene has dark ground."""
LOWEST = -500.0  # reflectance x 10,000 below which there is hardly any pixel, with any atmospheric correction
POSSIBLE = (-5000.0, 65_534.0)  # reflectance x 10,000, before an offset is known; 65,535 marks saturated pixels
CLIPPED = (9000.0, 20_000.0)  # reflectance x 10,000 to which bright ground may be clipped
MIN_GAP = 2.0  # reflectance x 10,000 between a fill value and measurements
_DARKEST = 5.0  # reflectance x 10,000 that the brightest 1% of at least one band exceed, in any scene
_BRIGHTEST = 20_000.0  # maximum median of a band, even over fresh snow
_MAX_NEGATIVE = 0.05  # share of values below `LOWEST`
_NEGATIVE_MEDIAN = -100.0  # minimum median of a scene; water may be slightly below 0
_END = 0.02  # of the range 0 to 1: closer values count as its end
_L2A = Product("sentinel-2-l2a", tuple(band for band in BANDS if band != "B10"))
_L1C = Product("sentinel-2-l1c", BANDS)
_TIME, _TILE = r"(\d{8}T\d{6})", r"\d{1,2}[A-Z]{3}"


def check_optical_scale(sample: Values, scale: OpticalScale) -> None:
    """Check the unit that the user gives against the values; see `check_sar_scale`."""
    high = float(np.percentile(np.concatenate([band[np.isfinite(band)] for band in sample]), 99))
    if high > 100 if scale == "reflectance" else high <= 3:
        raise OptionsError(
            f"--optical-scale {scale} contradicts the optical values: 99% of them are at most {high:.4g}. Specify the "
            "other scale, or omit the option to detect it."
        )


def detect_optical_scale(sample: Values, dtype: str) -> tuple[float, str]:
    """Detect the factor that converts stored optical values to reflectance x 10,000.

    Parameters
    ----------
    sample : sequence of float arrays
        Values as stored, one array per band; NaN where there is no measurement.
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
        If the file is an 8-bit picture, the values have neither unit, or the bands have different units.
    """
    if dtype in ("uint8", "int8"):
        raise InputError(
            "The optical file is an 8-bit picture, but reflectance is needed. Use the measured bands (16-bit integers, "
            "or floats from 0 to 1)."
        )
    bands = [band[np.isfinite(band)] for band in sample]
    values = np.concatenate(bands)
    high = float(np.percentile(values, 99)) if values.size else math.nan
    found = f"99% of the sampled {dtype} values are at most {high:.4g}"
    if np.issubdtype(np.dtype(dtype), np.integer):
        return 1.0, f"type: integers are reflectance x 10,000; {found}."
    refuse_mixed_units([band for band in bands if band.size])
    if high > 100:
        return 1.0, f"values: {found}, as in reflectance x 10,000."
    if high <= 3:
        return 10_000.0, f"values: {found}, as in reflectance from 0 to 1."
    raise InputError(
        f"The optical values are neither reflectance from 0 to 1 nor reflectance x 10,000 ({found}). Use one of these."
    )


def refuse_mixed_dates(paths: Sequence[str]) -> None:
    """Refuse bands whose file names have different acquisition times.

    Raises
    ------
    InputError
        Names two of the files.
    """
    dated = {time.group(): path for path in paths if (time := re.search(r"\d{8}T\d{6}", Path(path).name))}
    if len(dated) > 1:
        listed = " and ".join(list(dated.values())[:2])
        raise InputError(f"The optical bands have different times in their file names ({listed}). Use one scene.")


def refuse_landsat(tags: Mapping[str, str], paths: Sequence[str]) -> None:
    """Refuse Landsat files. Their band names are the same as Sentinel-2's, but mean other bands.

    Raises
    ------
    InputError
        If a file name or tag identifies Landsat.
    """
    name = next((Path(path).name for path in paths if re.match(r"HLS\.L30\.|L[COTEM]0[4-9]_", Path(path).name)), "")
    about = re.compile(r"(sensor|spacecraft|satellite|mission|platform|instrument)(_?(id|name))?(_\d+)?$", re.I)
    platforms = ((key, value) for key, value in tags.items() if about.search(key))
    tag = next((f"{key}={value}" for key, value in platforms if re.match(r"LANDSAT|OLI(_TIRS)?\b", value, re.I)), "")
    if name or tag:
        raise InputError(
            f"The optical file is from Landsat ({name or tag}), whose bands B05 to B07 are not those of Sentinel-2. "
            "Use Sentinel-2 files."
        )


def detect_optical_level(
    names: Sequence[str | None], tags: Mapping[str, str], paths: Sequence[str] = ()
) -> tuple[str, str]:
    """Detect Sentinel-2's processing level: "L1C" (top of atmosphere), "L2A" (surface) or "unknown".

    Parameters
    ----------
    names : sequence of str or None
        All bands of the files.
    tags : mapping of str to str
        The files' tags.
    paths : sequence of str
        The files' paths, which may contain a product name.

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
            name = Path(path).name
            return ("L2A" if image.group(2) else "L1C"), f"name: {name}; only L2A file names contain the resolution."
    if "B10" in names:
        return "L1C", "count: band B10 is present, which surface reflectance products lack."
    if {*_L2A.bands} <= set(names):
        return "L2A", "count: all bands except B10 are present."
    return "unknown", "values: neither the tags nor the number of bands determine it."


def refuse_impossible_reflectance(sample: Values, about: str, kind: type[RefnetError] = InputError) -> None:
    """Refuse reflectance x 10,000 that is impossible for any ground.

    Parameters
    ----------
    sample : sequence of float arrays
        One array per band; NaN where there is no measurement.
    about : str
        The scale and offset that were applied, in words.
    kind : type
        Type of the error.

    Raises
    ------
    RefnetError
        Of type ``kind``.
    """
    bands = [band[np.isfinite(band)] for band in sample]
    bands = [band for band in bands if band.size]
    if not bands:
        return
    values = np.concatenate(bands)
    below, negative = float(np.mean(values < LOWEST)), float(np.mean(values < 0))
    high = max(float(np.percentile(band, 99)) for band in bands)
    middle = max(float(np.median(band)) for band in bands)
    if below > _MAX_NEGATIVE or float(np.median(values)) < _NEGATIVE_MEDIAN:
        found = f"{negative:.0%} of the reflectance is negative, {below:.0%} below -0.05"
    elif high < _DARKEST:
        found = f"99% of the reflectance is at most {high / 10_000:.2g} in every band"
    elif middle > _BRIGHTEST:
        found = f"the median reflectance of a band is {middle / 10_000:.3g}"
    else:
        return
    raise kind(
        f"The optical values are not reflectance: {found} ({about}). refnet needs reflectance from 0 to 1 or x 10,000, "
        "neither standardised nor normalised. A scale and offset may be declared only if they have not been applied. "
        "Use the original file. If the declared scale has already been applied, remove it, for instance with "
        "gdal_translate -a_scale 1 -a_offset 0."
    )


def refuse_stretched(lowest: Sequence[float], highest: Sequence[float], integers: bool) -> None:
    """Refuse optical values that fill the same range in all bands, as after a min-max stretch.

    Parameters
    ----------
    lowest, highest : sequence of float
        Minimum and maximum of each band, as stored, with the declared scale applied.
    integers : bool
        Whether the values are integers of more than 8 bits.

    Raises
    ------
    InputError
        If all bands fill the range from 0 to 1 or from 0 to 255.
    """
    low, high = np.array(lowest), np.array(highest)
    if len(low) < 2 or not (np.isfinite(low) & np.isfinite(high)).all():
        return
    # Integers below 256 may be dark water. Only a picture reaches 255 in all bands.
    ranges = [(255.0, 1.0, 0.0, "dn")] if integers else [(1.0, _END, _END, "reflectance"), (255.0, 5.1, 5.1, "dn")]
    for end, bottom, top, option in ranges:
        if (np.abs(low) <= bottom).all() and (high >= end - top).all() and (high <= end).all():
            raise InputError(
                f"The optical values fill the range from 0 to {end:g} in every band, as in "
                f"{'normalised values' if end == 1 else 'an 8-bit picture'}. Use the measured reflectance. If these "
                f"values are measured, pass --optical-scale {option}."
            )


def refuse_mixed_units(bands: Values) -> None:
    """Refuse bands of which some are reflectance from 0 to 1 and others reflectance x 10,000.

    Parameters
    ----------
    bands : sequence of float arrays
        Valid floating-point values.

    Raises
    ------
    InputError
    """
    highs = [float(np.percentile(band, 99)) for band in bands]
    small = [high for high, band in zip(highs, bands, strict=True) if high <= 3 and (band != np.round(band)).any()]
    large = [high for high in highs if high > 100]
    if small and large:
        raise InputError(
            f"The optical bands have different units: 99% of one band are at most {small[0]:.3g}, as in reflectance "
            f"from 0 to 1, and of another at most {large[0]:.4g}, as in reflectance x 10,000. Use bands of one unit."
        )


def _read_metadata(
    tags: Mapping[str, str], path: str, descriptions: Sequence[str | None], units: Sequence[str | None]
) -> tuple[float, str] | None:
    return offset_from_metadata(tags, [path])


def _is_reflectance(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> bool:
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    integers = dtype.kind in "iu" and dtype.itemsize > 1
    return negative < 0.01 and integers and 100 < median < 20_000 and bool(values.max() < 30_000)


SENSOR = Sensor(
    name="optical",
    satellite="Sentinel-2",
    unit="reflectance x 10,000",
    card_unit="reflectance x 10000",
    bands=BANDS,
    naming=NAMING,
    products=(_L2A, _L1C),
    quicklook_bands=(RGB,),
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
    metadata_label="offsets by tag or name",
    read_metadata=_read_metadata,
    recognises_values=_is_reflectance,
    levels=("L1C", "L2A"),
    named_by_number=True,
    zero_is_nodata=True,
)
