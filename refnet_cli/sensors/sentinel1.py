"""Sentinel-1: detection and checks of the unit, the band order and invalid values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.sensors.sensor import BandNaming, Product, Sensor, Values
from refnet_cli.types import Float32

SarScale = Literal["db", "db100", "power", "amplitude"]

SCALES: dict[SarScale, str] = {"db": "dB", "db100": "dB x 100", "power": "linear power", "amplitude": "amplitudes"}
BANDS = ("VV", "VH", "HH", "HV")
_CODE = re.compile(r"(?:(?<![A-Z])|(?<=SIGMA)|(?<=GAMMA)|(?<=BETA)|(?<=POL))(VV|VH|HH|HV)(?=DB|[^A-Z]|$)")
FILL_VALUES = (-9999.0, -32768.0, -99999.0)
DB_RANGE = (-60.0, 40.0)
MEASURED = (-35.0, 30.0)  # dB range outside which repeated values are not measurements; noise is at -22 to -30
MIN_GAP = 0.5  # dB between a fill value and measurements
_MIN_DB = -45.0  # equal neighbours below this are not measurements; single pixels reach -54 in real scenes
_MAX_ABS_DB = 100.0  # values beyond this are fill values or damaged
_MAX_MEDIAN_DB = -3.0  # maximum median of a scene; measured medians are -8 to -29
_MAX_MEAN_MEDIAN_DB = -5.0  # maximum mean of the co- and cross-polarised medians; measured means are -11 to -29
_SCALE_OPTION = "--sar-scale (db, db100, power or amplitude)"
_HYP3 = re.compile(r"_RTC\d\d_[A-Z]_[gs]([pad])[uw][nf][ec][dm]_", re.IGNORECASE)
_HYP3_SCALES: dict[str, SarScale] = {"p": "power", "a": "amplitude", "d": "db"}


def linear_power(values: Float32, scale: str) -> Float32:
    """Convert SAR values of any unit to linear power; NaN where they are not measurements."""
    limit = np.float32(_MAX_ABS_DB)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if scale in ("db", "db100"):
            level = values / np.float32(100 if scale == "db100" else 1)
            return np.where(np.abs(level) <= limit, np.float32(10) ** (level / np.float32(10)), np.float32(np.nan))
        power = values**2 if scale == "amplitude" else values
        possible = (values > 0) & (power > 0) & (power <= np.float32(10 ** (_MAX_ABS_DB / 10)))
        return np.where(possible, power, np.float32(np.nan))


def decibels(power: Float32) -> Float32:
    """Convert linear power to dB; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power > 0, 10 * np.log10(power), np.float32(np.nan)).astype(np.float32)


def remove_border_noise(power: Float32) -> Float32:
    """Set power, shape (B, H, W), to NaN in place where it is below all noise and equal to that of a neighbour."""
    low = power < np.float32(10 ** (_MIN_DB / 10))
    if low.any():
        shared = np.zeros_like(low)
        for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
            same = power[one] == power[other]
            shared[one] |= same
            shared[other] |= same
        power[low & shared] = np.nan
    return power


def sar_scale_from_metadata(
    descriptions: Sequence[str | None], files: Sequence[str], units: Sequence[str | None]
) -> tuple[SarScale, str] | None:
    """Read the unit of SAR values from declared units, band descriptions and file names.

    Parameters
    ----------
    descriptions : sequence of str or None
        Descriptions of the bands used.
    files : sequence of str
        Their file names. ASF HyP3 includes the unit; Planetary Computer RTC products are in power.
    units : sequence of str or None
        Declared units of the bands.

    Returns
    -------
    scale : {"db", "power", "amplitude"}
    how : str
        The evidence. None instead of both if nothing declares the unit.

    Examples
    --------
    >>> sar_scale_from_metadata([None], ["S1A_IW_20220101T051234_DVP_RTC30_G_gpuned_8A1C_VV.tif"], [None])
    ('power', 'name: S1A_IW_20220101T051234_DVP_RTC30_G_gpuned_8A1C_VV.tif, the ASF HyP3 name for linear power.')
    """
    for unit in units:
        if re.fullmatch(r"db|decibels?", (unit or "").strip(), re.I):
            return "db", f"tag: the declared unit is {unit}."
        if re.fullmatch(r"(linear[ _-]?)?power", (unit or "").strip(), re.I):
            return "power", f"tag: the declared unit is {unit}."
    for text in descriptions:
        if re.search(r"(?<![a-z])db$", text or "", re.I):
            return "db", f"description: the file names a band {text}."
    for name in files:
        hyp3 = _HYP3.search(name)
        if hyp3:
            scale = _HYP3_SCALES[hyp3.group(1).lower()]
            meaning = {"power": "linear power", "db": "dB"}.get(scale, scale)
            return scale, f"name: {name}, the ASF HyP3 name for {meaning}."
        if re.search(r"(?<![a-z])db(?![a-z])", name.rpartition(".")[0], re.I):
            return "db", f"name: {name}."
        if re.search(r"(?<![a-z])[vh][vh]\.rtc\.tiff?$", name, re.I):
            return "power", f"name: {name}, the Planetary Computer name for linear power."
        if re.search(r"-[vh][vh]-[gs]-lin\.tiff?$", name, re.I):
            return "power", f"name: {name}, the S1-NRB name for linear power."
    return None


def detect_sar_scale(sample: Values, dtype: str, declared: tuple[SarScale, str] | None = None) -> tuple[SarScale, str]:
    """Detect the unit of SAR values from the metadata, else from the sign, level and spread of the values.

    In real scenes, the mean level of the bands is -11.7 to -18.2 dB, and the 5th and 95th percentiles differ by 8 to
    16 dB. Reading amplitudes as power halves both.

    Parameters
    ----------
    sample : sequence of float arrays
        Values as stored, one array per band; NaN where there is no measurement.
    dtype : str
        The file's data type.
    declared : tuple, optional
        Unit and evidence from the metadata; see `sar_scale_from_metadata`.

    Returns
    -------
    scale : {"db", "db100", "power", "amplitude"}
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the unit is ambiguous or the values contradict the metadata.
    """
    bands = [band[np.isfinite(band) & (band != 0) & (np.abs(band) < 1e6)] for band in _as_float64(sample)]
    bands = [band[~np.isin(band, FILL_VALUES)] for band in bands]
    bands = [band for band in bands if band.size]
    if not bands:
        raise InputError(
            "The sampled SAR values contain no plausible measurement. Repair the file. If it is intact, specify the "
            f"unit with {_SCALE_OPTION}."
        )
    values = np.concatenate(bands)
    negative = float(np.mean(values < 0))
    median = float(np.mean([np.median(band) for band in bands]))
    found = f"{negative:.0%} of the sampled {dtype} values are negative, the median is {median:.4g}"
    integers = bool(np.all(values == np.round(values)))
    if declared is not None:
        scale, how = declared
        if negative < 0.5 if scale == "db" else negative > 0.05:
            raise InputError(
                f"The SAR values contradict the {how.rstrip('.')}: {found}. "
                f"Specify the right unit with {_SCALE_OPTION}."
            )
        scale = "db100" if scale == "db" and integers and median <= -200 else scale
        if scale == "db":
            refuse_impossible_decibels([float(np.median(band)) for band in bands])
        return scale, how
    if negative > 0.5 and -60 <= median < 0:
        refuse_impossible_decibels([float(np.median(band)) for band in bands])
        return "db", f"values: {found}, as in dB."
    if negative > 0.5 and integers and -6000 <= median <= -200:
        return "db100", f"values: {found}, as in dB x 100."
    if negative > 0.05:
        raise InputError(f"The unit of the SAR values is ambiguous ({found}). Specify it with {_SCALE_OPTION}.")
    if median > 2:
        raise InputError(
            f"The SAR values look like uncalibrated numbers ({found}). Calibrate and terrain-correct the scene. If it "
            f"is calibrated, specify the unit with {_SCALE_OPTION}."
        )
    return _detect_linear_scale(bands, found)


def _detect_linear_scale(bands: Values, found: str) -> tuple[SarScale, str]:
    """Distinguish power from amplitude by level and spread."""
    levels = [10 * np.log10(band[band > 0]) for band in bands]
    level = float(np.mean([np.median(band) for band in levels]))
    spread = float(np.mean([np.subtract(*np.percentile(band, [95, 5])) for band in levels]))
    typical = -14.5 if len(bands) > 1 else -12.0
    evidence = (
        f"{found}; read as power, the level is {level:.1f} dB and the 5th to 95th percentile span {spread:.1f} dB"
    )
    as_power = -(((level - typical) / 3) ** 2 + ((spread - 10) / 3) ** 2) / 2
    as_amplitude = -(((level - typical / 2) / 1.5) ** 2 + ((spread - 5) / 1.5) ** 2) / 2 + math.log(4)
    if not -40 <= level <= 3 or abs(as_power - as_amplitude) < 2:
        raise InputError(
            f"The unit of the SAR values is ambiguous, power or amplitude ({evidence}). "
            f"Specify it with {_SCALE_OPTION}."
        )
    if as_power > as_amplitude:
        return "power", f"values: {evidence}, as in linear power."
    refuse_normalised_decibels(bands, level)
    return "amplitude", f"values: {evidence}, half the values of power, as in amplitude."


def _as_float64(sample: Values) -> list[NDArray[np.float64]]:
    return [np.asarray(band, np.float64) for band in sample]


def check_sar_scale(sample: Values, scale: SarScale) -> None:
    """Check the unit that the user gives against the values.

    Raises
    ------
    OptionsError
        If the values cannot have this unit.
    """
    values = np.concatenate([band[np.isfinite(band)] for band in _as_float64(sample)])
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    too_high = (scale == "db" and median > max_scene_median(len(sample))) or (scale == "db100" and median > -200)
    if scale.startswith("db") != (negative > 0.5) or too_high:
        raise OptionsError(
            f"--sar-scale {scale} contradicts the SAR values: {negative:.0%} are negative, the median is {median:.4g}. "
            "Specify another unit, or omit the option to detect it."
        )


def check_sar_band_order(sample: NDArray[np.floating[Any]], needed: Sequence[str]) -> str:
    """Check that unnamed bands are in the order of the network: VV must be brighter than VH, and HH than HV.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Backscatter in dB; NaN where there is no measurement.
    needed : sequence of str
        The names that the bands are read as.

    Returns
    -------
    str
        The result, as evidence for the order.

    Raises
    ------
    InputError
        If the co-polarised band is clearly darker than the cross-polarised one.
    """
    for like, cross in (("VV", "VH"), ("HH", "HV")):
        if not {like, cross} <= set(needed):
            continue
        pair = sample[[needed.index(like), needed.index(cross)]]
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] < 1000:
            return f"There are too few valid pixels to check that {like} is brighter than {cross}."
        brighter = float(np.subtract(*np.median(pair, axis=1)))
        if brighter < -1:
            swapped = [{like: cross, cross: like}.get(band, band) for band in needed]
            numbers = ",".join(str(swapped.index(band) + 1) for band in needed)
            raise InputError(
                f"The SAR bands are unnamed. The one read as {like} is {-brighter:.1f} dB darker than the one read as "
                f"{cross}, but {cross} should be darker. Specify the order, probably with --sar-bands {numbers}."
            )
        verdict = "confirm the order" if brighter > 1 else "are inconclusive"
        return f"The values {verdict}: {like} is {brighter:.1f} dB brighter than {cross}."
    return ""


def refuse_impossible_decibels(medians: Sequence[float]) -> None:
    """Refuse dB values whose median is impossible for any scene, such as standardised values.

    Raises
    ------
    InputError
    """
    middle, limit = float(np.mean(medians)), max_scene_median(len(medians))
    if middle > limit:
        raise InputError(
            f"The SAR values are not dB: their median is {middle:.3g} (limit {limit:g} dB). They look standardised, "
            "normalised or like natural logarithms. Use backscatter in dB, power or amplitude."
        )


def max_scene_median(bands: int) -> float:
    """Return the maximum in dB, over any ground, of the mean of the medians of this many bands."""
    return _MAX_MEDIAN_DB if bands == 1 else _MAX_MEAN_MEDIAN_DB


def refuse_normalised_decibels(bands: Values, level: float) -> None:
    """Refuse dB values that were normalised to 0 to 1 and so look like amplitudes.

    Speckle multiplies power and amplitude, so bright ground varies more than dark ground. In dB it does not.

    Parameters
    ----------
    bands : sequence of float arrays
        Positive values in pixel order.
    level : float
        Mean of the bands' medians in dB, read as power.

    Raises
    ------
    InputError
    """
    if max(float(band.max()) for band in bands) > 1:
        return
    medians = ", ".join(f"{float(np.median(band)):.2g}" for band in bands)
    if level > -5:
        found = f"the medians ({medians}) are higher than those of amplitudes"
    elif max(_growth(band) for band in bands) <= 0:
        found = f"bright ground varies no more than dark ground (the medians are {medians})"
    else:
        return
    raise InputError(
            f"The SAR values look like dB normalised to 0 to 1: all are at most 1, and {found}. Use backscatter in dB, "
            "power or amplitude. If the values are amplitudes, pass --sar-scale amplitude."
    )


def _growth(band: NDArray[np.floating[Any]]) -> float:
    """Return the exponent with which neighbour differences grow with the mean: 1 for power, at most 0 for dB."""
    first, second = band[:-1], band[1:]
    mean, difference = (first + second) / 2, np.abs(first - second)
    if mean.size < 200:
        return 1.0
    dark, bright = mean <= np.percentile(mean, 25), mean >= np.percentile(mean, 75)
    difference_dark, difference_bright = float(np.median(difference[dark])), float(np.median(difference[bright]))
    ratio = float(mean[bright].mean() / mean[dark].mean())
    if not difference_dark or not difference_bright or ratio <= 1:
        return 1.0
    return float(np.log(difference_bright / difference_dark) / np.log(ratio))


def _codes(text: str) -> set[str]:
    return set(_CODE.findall(text))


def _read_metadata(
    tags: Mapping[str, str], path: str, descriptions: Sequence[str | None], units: Sequence[str | None]
) -> tuple[SarScale, str] | None:
    return sar_scale_from_metadata(descriptions, [Path(path).name], units)


def _is_decibels(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> bool:
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    return negative > 0.9 and (-45 < median < -3 or (dtype.kind == "i" and -4500 < median < -300))


SENSOR = Sensor(
    name="SAR",
    satellite="Sentinel-1",
    unit="dB",
    card_unit="dB",
    bands=BANDS,
    naming=BandNaming(_codes, "VV|VH|HH|HV"),
    products=(Product("sentinel-1", ("VV", "VH")), Product("sentinel-1-hh", ("HH", "HV"))),
    quicklook_bands=(("VV", "VH"), ("HH", "HV")),
    mission="S1",
    product_name="S1[A-D]_(?:IW|EW|SM)",
    # SAFE products, their measurements, HyP3, OPERA.
    dates=(r"S1[A-D]?[_-].*?(?<!\d)(\d{8}T\d{6})",),
    metadata_label="units by name",
    read_metadata=_read_metadata,
    recognises_values=_is_decibels,
)
