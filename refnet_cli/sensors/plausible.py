"""Values that no unit allows: scales applied twice, standardised numbers, pictures, decibels mapped to 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, RefnetError

Values = Sequence[NDArray[np.floating[Any]]]
_DARKEST = 5.0  # reflectance x 10,000 that the brightest 1 % of some band exceeds, over any ground and in any light
_BRIGHTEST = 20_000.0  # that no band's median exceeds, fresh snow's included
LOWEST = -500.0  # reflectance x 10,000 that hardly any pixel falls below, with any correction of the atmosphere
_MOST_NEGATIVE = 0.05  # share of values below it
_NEGATIVE_MEDIAN = -100.0  # that half of a scene does not fall below; water may lie slightly below 0
_END = 0.02  # of the range from 0 to its end: what lies nearer to an end counts as at it
_LOUDEST = -3.0  # dB, above which no scene's median lies; measured ones are -8 to -29
_LOUDEST_MEAN = -5.0  # the same of the mean of like- and cross-polarised medians; measured ones are -11 to -29


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
