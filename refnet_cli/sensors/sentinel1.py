"""Sentinel-1: unit and order of its bands, what is no measurement, and how each is judged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.sensors.sensor import BandWords, Product, Sensor, Values
from refnet_cli.types import Float32

SarScale = Literal["db", "db100", "power", "amplitude"]

SCALES: dict[SarScale, str] = {"db": "dB", "db100": "dB x 100", "power": "linear power", "amplitude": "amplitudes"}
BANDS = ("VV", "VH", "HH", "HV")
_CODE = re.compile(r"(?:(?<![A-Z])|(?<=SIGMA)|(?<=GAMMA)|(?<=BETA)|(?<=POL))(VV|VH|HH|HV)(?=DB|[^A-Z]|$)")
FILL_VALUES = (-9999.0, -32768.0, -99999.0)
DB_RANGE = (-60.0, 40.0)
MEASURED = (-35.0, 30.0)  # dB beyond which equal values are no measurement: noise lies at -22 to -30
LEAST_GAP = 0.5  # dB between a fill and what is measured
_QUIETEST_DB = -45.0  # lower levels that neighbours share are no measurement; single pixels reach -54 in real scenes
_POSSIBLE_DB = 100.0  # a level beyond this is no measurement but a fill value or damage
_LOUDEST = -3.0  # dB, above which no scene's median lies; measured ones are -8 to -29
_LOUDEST_MEAN = -5.0  # the same of the mean of like- and cross-polarised medians; measured ones are -11 to -29
_SAY_SCALE = "say what they are with --sar-scale (db, db100, power or amplitude)"
_HYP3 = re.compile(r"_RTC\d\d_[A-Z]_[gs]([pad])[uw][nf][ec][dm]_", re.IGNORECASE)
_HYP3_SCALES: dict[str, SarScale] = {"p": "power", "a": "amplitude", "d": "db"}


def linear_power(values: Float32, scale: str) -> Float32:
    """Turn SAR values of any unit into linear power; NaN where they are no measurement."""
    limit = np.float32(_POSSIBLE_DB)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if scale in ("db", "db100"):
            level = values / np.float32(100 if scale == "db100" else 1)
            return np.where(np.abs(level) <= limit, np.float32(10) ** (level / np.float32(10)), np.float32(np.nan))
        power = values**2 if scale == "amplitude" else values
        possible = (values > 0) & (power > 0) & (power <= np.float32(10 ** (_POSSIBLE_DB / 10)))
        return np.where(possible, power, np.float32(np.nan))


def decibels(power: Float32) -> Float32:
    """Turn linear power into dB; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power > 0, 10 * np.log10(power), np.float32(np.nan)).astype(np.float32)


def remove_border_noise(power: Float32) -> Float32:
    """Leave out, in place, power below all noise, shape (B, H, W), that a neighbour shares exactly."""
    low = power < np.float32(10 ** (_QUIETEST_DB / 10))
    if low.any():
        shared = np.zeros_like(low)
        for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
            same = power[one] == power[other]
            shared[one] |= same
            shared[other] |= same
        power[low & shared] = np.nan
    return power


def named_sar_scale(
    descriptions: Sequence[str | None], files: Sequence[str], units: Sequence[str | None]
) -> tuple[SarScale, str] | None:
    """Tell the unit of SAR values by units, descriptions and file names.

    Parameters
    ----------
    descriptions : sequence of str or None
        Of the bands used.
    files : sequence of str
        Names of their files: ASF HyP3 writes the unit into them, Planetary Computer's RTC products are power.
    units : sequence of str or None
        Declared units of the bands.

    Returns
    -------
    scale : {"db", "power", "amplitude"}
    how : str
        The evidence. None instead of both where nothing tells.

    Examples
    --------
    >>> named_sar_scale([None], ["S1A_IW_20220101T051234_DVP_RTC30_G_gpuned_8A1C_VV.tif"], [None])
    ('power', 'name: S1A_IW_20220101T051234_DVP_RTC30_G_gpuned_8A1C_VV.tif, as ASF HyP3 names linear power.')
    """
    for unit in units:
        if re.fullmatch(r"db|decibels?", (unit or "").strip(), re.I):
            return "db", f"tag: the declared unit is {unit}."
    for text in descriptions:
        if re.search(r"(?<![a-z])db$", text or "", re.I):
            return "db", f"description: the file calls a band {text}."
    for name in files:
        hyp3 = _HYP3.search(name)
        if hyp3:
            scale = _HYP3_SCALES[hyp3.group(1).lower()]
            meaning = {"power": "linear power", "db": "dB"}.get(scale, scale)
            return scale, f"name: {name}, as ASF HyP3 names {meaning}."
        if re.search(r"(?<![a-z])db(?![a-z])", name.rpartition(".")[0], re.I):
            return "db", f"name: {name}."
        if re.search(r"(?<![a-z])[vh][vh]\.rtc\.tiff?$", name, re.I):
            return "power", f"name: {name}, as Planetary Computer names linear power."
        if re.search(r"-[vh][vh]-[gs]-lin\.tiff?$", name, re.I):
            return "power", f"name: {name}, as S1-NRB products name linear power."
    return None


def judge_sar_scale(sample: Values, dtype: str, said: tuple[SarScale, str] | None = None) -> tuple[SarScale, str]:
    """Tell the unit of SAR values from what the files say of it, else from the values' sign, level and spread.

    Measured on real scenes, the bands' mean level in dB is -11.7 to -18.2 and the distance from the 5th to the
    95th percentile 8 to 16 dB. Values that are amplitudes halve both.

    Parameters
    ----------
    sample : sequence of float arrays
        Values as stored, one array a band; NaN where there is no measurement.
    dtype : str
        The file's data type.
    said : tuple, optional
        Unit and evidence by name or tag; see `named_sar_scale`.

    Returns
    -------
    scale : {"db", "db100", "power", "amplitude"}
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the unit is not plain, or the values contradict what is said of it.
    """
    bands = [band[np.isfinite(band) & (band != 0) & (np.abs(band) < 1e6)] for band in _as_float64(sample)]
    bands = [band[~np.isin(band, FILL_VALUES)] for band in bands]
    bands = [band for band in bands if band.size]
    if not bands:
        raise InputError(f"No sampled SAR value is a plausible measurement: {_SAY_SCALE}, or repair the file.")
    values = np.concatenate(bands)
    negative = float(np.mean(values < 0))
    median = float(np.mean([np.median(band) for band in bands]))
    found = f"{negative:.0%} of the sampled {dtype} values are negative, the median is {median:.4g}"
    whole = bool(np.all(values == np.round(values)))
    if said is not None:
        scale, how = said
        if negative < 0.5 if scale == "db" else negative > 0.05:
            raise InputError(f"The SAR values contradict the {how.rstrip('.')}: {found}. If it errs, {_SAY_SCALE}.")
        scale = "db100" if scale == "db" and whole and median <= -200 else scale
        if scale == "db":
            refuse_impossible_decibels([float(np.median(band)) for band in bands])
        return scale, how
    if negative > 0.5 and -60 <= median < 0:
        refuse_impossible_decibels([float(np.median(band)) for band in bands])
        return "db", f"values: {found}, as in dB."
    if negative > 0.5 and whole and -6000 <= median <= -200:
        return "db100", f"values: {found}, as in dB x 100."
    if negative > 0.05:
        raise InputError(f"The unit of the SAR values is not plain ({found}): {_SAY_SCALE}.")
    if median > 2:
        raise InputError(
            f"The SAR values look like uncalibrated numbers ({found}): calibrate and terrain-correct the scene, "
            f"or {_SAY_SCALE}."
        )
    return _judge_linear(bands, found)


def _judge_linear(bands: Values, found: str) -> tuple[SarScale, str]:
    """Tell power from amplitude by level and spread."""
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
        raise InputError(f"The unit of the SAR values is not plain, power or amplitude ({evidence}): {_SAY_SCALE}.")
    if as_power > as_amplitude:
        return "power", f"values: {evidence}, as in linear power."
    refuse_mapped_decibels(bands, level)
    return "amplitude", f"values: {evidence}, half of what power shows, as in amplitude."


def _as_float64(sample: Values) -> list[NDArray[np.float64]]:
    return [np.asarray(band, np.float64) for band in sample]


def check_sar_scale(sample: Values, scale: SarScale) -> None:
    """Hold the unit that the user gives against the values.

    Raises
    ------
    OptionsError
        If the values cannot have it.
    """
    values = np.concatenate([band[np.isfinite(band)] for band in _as_float64(sample)])
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    loud = (scale == "db" and median > loudest(len(sample))) or (scale == "db100" and median > -200)
    if scale.startswith("db") != (negative > 0.5) or loud:
        raise OptionsError(
            f"--sar-scale {scale} contradicts the SAR values: {negative:.0%} are negative, the median is {median:.4g}."
        )


def judge_sar_order(sample: NDArray[np.floating[Any]], needed: Sequence[str]) -> str:
    """Check that bands taken by count are in the order of the network: VV is brighter than VH, HH than HV.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Backscatter in dB; NaN where there is no measurement.
    needed : sequence of str
        What the bands were taken for.

    Returns
    -------
    str
        What the values say about it.

    Raises
    ------
    InputError
        If the band taken for the like-polarised one is clearly the darker.
    """
    for like, cross in (("VV", "VH"), ("HH", "HV")):
        if not {like, cross} <= set(needed):
            continue
        pair = sample[[needed.index(like), needed.index(cross)]]
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] < 1000:
            return f"Too few pixels are valid to check that {like} is brighter than {cross}."
        brighter = float(np.subtract(*np.median(pair, axis=1)))
        if brighter < -1:
            swapped = [{like: cross, cross: like}.get(band, band) for band in needed]
            numbers = ",".join(str(swapped.index(band) + 1) for band in needed)
            raise InputError(
                f"The SAR bands have no names, and the one taken for {like} is {-brighter:.1f} dB darker than the one "
                f"taken for {cross}, which should be the darker: say which is which, probably --sar-bands {numbers}."
            )
        agree = "agree" if brighter > 1 else "do not tell"
        return f"The values {agree}: {like} is {brighter:.1f} dB brighter than {cross}."
    return ""


def refuse_impossible_decibels(medians: Sequence[float]) -> None:
    """Refuse dB whose bands' medians no scene has, as of standardised numbers.

    Raises
    ------
    InputError
    """
    middle, limit = float(np.mean(medians)), loudest(len(medians))
    if middle > limit:
        raise InputError(
            f"The SAR values are no dB: their median is {middle:.3g}, and no scene's is above {limit:g} dB. They look "
            "standardised, normalised or like other logarithms: give backscatter in dB, power or amplitude."
        )


def loudest(bands: int) -> float:
    """Return the level in dB that the mean of so many bands' medians does not exceed over any ground."""
    return _LOUDEST if bands == 1 else _LOUDEST_MEAN


def refuse_mapped_decibels(bands: Values, level: float) -> None:
    """Refuse values from 0 to 1 that look like amplitudes but vary as decibels do.

    Speckle multiplies power and amplitude, so that bright ground varies more than dark; in decibels it does not.

    Parameters
    ----------
    bands : sequence of float arrays
        Positive values, in the order in which pixels lie.
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
        f"The SAR values look like dB that were mapped to 0 to 1: all are at most 1, and {found}. Give backscatter in "
        "dB, power or amplitude, or say --sar-scale amplitude if they are that."
    )


def _growth(band: NDArray[np.floating[Any]]) -> float:
    """Exponent by which differences of neighbours grow with their mean: 1 for power, at most 0 for decibels."""
    first, second = band[:-1], band[1:]
    mean, apart = (first + second) / 2, np.abs(first - second)
    if mean.size < 200:
        return 1.0
    dark, bright = mean <= np.percentile(mean, 25), mean >= np.percentile(mean, 75)
    apart_dark, apart_bright = float(np.median(apart[dark])), float(np.median(apart[bright]))
    ratio = float(mean[bright].mean() / mean[dark].mean())
    if not apart_dark or not apart_bright or ratio <= 1:
        return 1.0
    return float(np.log(apart_bright / apart_dark) / np.log(ratio))


def _codes(text: str) -> set[str]:
    return set(_CODE.findall(text))


def _stated(
    tags: Mapping[str, str], path: str, descriptions: Sequence[str | None], units: Sequence[str | None]
) -> tuple[SarScale, str] | None:
    return named_sar_scale(descriptions, [Path(path).name], units)


def _is_decibels(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> bool:
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    return negative > 0.9 and (-45 < median < -3 or (dtype.kind == "i" and -4500 < median < -300))


SENSOR = Sensor(
    name="SAR",
    satellite="Sentinel-1",
    unit="dB",
    card_unit="dB",
    bands=BANDS,
    words=BandWords(_codes, "VV|VH|HH|HV"),
    products=(Product("sentinel-1", ("VV", "VH")), Product("sentinel-1-hh", ("HH", "HV"))),
    shown=(("VV", "VH"), ("HH", "HV")),
    mission="S1",
    product_name="S1[A-D]_(?:IW|EW|SM)",
    # SAFE products, their measurements, HyP3, OPERA.
    dates=(r"S1[A-D]?[_-].*?(?<!\d)(\d{8}T\d{6})",),
    statement="units by name",
    stated=_stated,
    is_sure=_is_decibels,
)
