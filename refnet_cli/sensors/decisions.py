"""Judgements about a file's values.

Every judgement returns its answer together with a sentence that begins with the kind of evidence: ``tag``,
``stac``, ``description``, ``name``, ``type``, ``count``, ``values`` or ``option``. What cannot be decided is refused,
never guessed in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.sensors.bands import OFFSET, PRODUCTS, OpticalScale, SarScale
from refnet_cli.sensors.plausible import (
    loudest,
    refuse_impossible_decibels,
    refuse_mapped_decibels,
    refuse_mixed_units,
)
from refnet_cli.sensors.stac_offset import is_flagged, split_tags, stac_offset

Values = Sequence[NDArray[np.floating[Any]]]
"""Sampled values of each of some bands, 1-D or 2-D together; NaN where there is no measurement."""


class Decision(NamedTuple):
    """One thing found out about the files: what, the value, and the evidence in a sentence."""

    what: str
    value: Any
    how: str

    @property
    def is_guess(self) -> bool:
        """Whether pixel values rest on it and nothing but their number or look speaks for it."""
        return self.what in _GUESSED and self.how.startswith(("values:", "count:"))


_GUESSED = {
    "optical.bands": "--optical-bands",
    "optical.scale": "--optical-scale",
    "optical.offset": "--optical-offset",
    "sar.bands": "--sar-bands",
    "sar.scale": "--sar-scale",
    # No option settles these: the file must.
    "optical.fill": "",
    "sar.fill": "",
    "optical.clipped": "",
    "sar.clipped": "",
}


def refuse_guesses(decisions: Iterable[Decision]) -> None:
    """Refuse everything that was guessed.

    Raises
    ------
    OptionsError
        Naming the guesses and the options that would settle them.
    """
    guesses = [decision for decision in decisions if decision.is_guess]
    if guesses:
        listed = "; ".join(f"{what} {value} ({how.rstrip('.')})" for what, value, how in guesses)
        options = " ".join(option for option in dict.fromkeys(_GUESSED[guess.what] for guess in guesses) if option)
        advice = f" Say what they are with {options}." if options else ""
        if any(guess.what.endswith(".fill") for guess in guesses):
            advice += (
                " Declare fills as nodata, for instance with gdal_edit.py -a_nodata, or, where pixels around them are "
                "blended with them, resample the files again from their sources with gdalwarp -srcnodata."
            )
        if any(guess.what.endswith(".clipped") for guess in guesses):
            advice += (
                " If the repeated number is a fill, declare it as nodata, for instance with gdal_edit.py "
                "-a_nodata; if it is ground, leave --strict out."
            )
        raise OptionsError(f"--strict allows no guess, but there would be: {listed}.{advice}")


FILL_VALUES = (-9999.0, -32768.0, -99999.0)


def _as_float64(sample: Values) -> list[NDArray[np.float64]]:
    return [np.asarray(band, np.float64) for band in sample]


_HYP3 = re.compile(r"_RTC\d\d_[A-Z]_[gs]([pad])[uw][nf][ec][dm]_", re.IGNORECASE)
_HYP3_SCALES: dict[str, SarScale] = {"p": "power", "a": "amplitude", "d": "db"}


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
    advice = "say what they are with --sar-scale (db, db100, power or amplitude)"
    if not bands:
        raise InputError(f"No sampled SAR value is a plausible measurement: {advice}, or mend the file.")
    values = np.concatenate(bands)
    negative = float(np.mean(values < 0))
    median = float(np.mean([np.median(band) for band in bands]))
    found = f"{negative:.0%} of the sampled {dtype} values are negative, the median is {median:.4g}"
    whole = bool(np.all(values == np.round(values)))
    if said is not None:
        scale, how = said
        if negative < 0.5 if scale == "db" else negative > 0.05:
            raise InputError(f"The SAR values contradict the {how.rstrip('.')}: {found}. If it errs, {advice}.")
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
        raise InputError(f"The unit of the SAR values is not plain ({found}): {advice}.")
    if median > 2:
        raise InputError(
            f"The SAR values look like uncalibrated numbers ({found}): calibrate and terrain-correct the scene, "
            f"or {advice}."
        )
    decibels = [10 * np.log10(band[band > 0]) for band in bands]
    level = float(np.mean([np.median(band) for band in decibels]))
    spread = float(np.mean([np.subtract(*np.percentile(band, [95, 5])) for band in decibels]))
    typical = -14.5 if len(bands) > 1 else -12.0
    evidence = (
        f"{found}; read as power, the level is {level:.1f} dB and the 5th to 95th percentile span {spread:.1f} dB"
    )
    as_power = -(((level - typical) / 3) ** 2 + ((spread - 10) / 3) ** 2) / 2
    as_amplitude = -(((level - typical / 2) / 1.5) ** 2 + ((spread - 5) / 1.5) ** 2) / 2 + math.log(4)
    if not -40 <= level <= 3 or abs(as_power - as_amplitude) < 2:
        raise InputError(f"The unit of the SAR values is not plain, power or amplitude ({evidence}): {advice}.")
    if as_power > as_amplitude:
        return "power", f"values: {evidence}, as in linear power."
    refuse_mapped_decibels(bands, level)
    return "amplitude", f"values: {evidence}, half of what power shows, as in amplitude."


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
            "The optical file is an 8-bit picture, but reflectance is wanted: "
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


_DARK_GROUND = 1150.0  # that the darkest ground in two bands does not exceed, with the offset
_GROUND = 1350.0  # the same of vegetation, and of shores


def judge_optical_offset(
    sample: Values, names: Sequence[str | None], tags: Mapping[str, str], paths: Sequence[str] = ()
) -> tuple[float, str]:
    """Tell whether 1000 must be subtracted, as in Sentinel-2 products since processing baseline 04.00.

    Tags come first, then the baseline in a product's name. Without any, the darkest values decide: with the offset
    nothing lies much under 1000 and dark ground lies just above it, in several bands; without it some band of nearly
    every scene is darker. Where nothing is dark, ESA's own name of an image and the date in it count.

    Parameters
    ----------
    sample : sequence of float arrays
        Reflectance x 10,000, perhaps with the offset, one array a band; NaN where there is no measurement.
    names : sequence of str or None
        The sampled bands.
    tags : mapping of str to str
        The files' tags.
    paths : sequence of str
        The files' paths, in which a product's name may stand.

    Returns
    -------
    offset : float
        0 or 1000.
    how : str
        The evidence, which says so where it is a guess.

    Raises
    ------
    InputError
        If a tag or name says 1000 and the values contradict it.

    Notes
    -----
    The sample must not hold what is no measurement: fills, and pixels that are blended with them.
    """
    floors: dict[str, float] = {}
    for index, (name, band) in enumerate(zip(names, sample, strict=True), 1):
        values = band[np.isfinite(band)]
        if values.size:
            floors[name or f"band {index}"] = float(np.percentile(values, 0.1))
    darkest = min(floors, key=lambda name: floors[name]) if floors else ""
    floor = floors.get(darkest, math.nan)
    found = f"the darkest 0.1 % of {darkest or 'no band'} reach {floor:.0f}"
    told = told_offset(tags, paths)
    if told is not None:
        offset, how = told
        if offset and floor < 500:
            raise InputError(
                f"The {how.rstrip('.').replace(': ', ' ', 1)} says that {offset:.0f} was added to the optical values, "
                f"but {found}: say which is right with --optical-offset 0 or --optical-offset 1000."
            )
        return offset, how
    listed = ", ".join(f"{name} {value:.0f}" for name, value in sorted(floors.items()))
    others = sorted(floors.values())[1:]
    if floor < 500 and len(others) > 1 and 950 <= others[0] <= others[1] <= _GROUND:
        return OFFSET, (
            f"values: a guess, for {found}, as where resampling overshot at the edges of water, but in all other bands "
            f"they end near 1000 ({listed}); if the offset was removed, pass --optical-offset 0."
        )
    if not floor >= 500:
        return 0.0, f"values: {found}; with the offset of 1000 they could not lie so low."
    if 800 <= floor < 950 and len(others) > 1 and 900 <= others[0] <= others[1] <= _DARK_GROUND:
        return OFFSET, (
            f"values: a guess, for {found}, and two more bands end near 1000 too ({listed}), as where water is "
            "corrected to slightly below 0; if the offset was removed, pass --optical-offset 0."
        )
    if not floor >= 950:
        return 0.0, (
            f"values: a guess, for {found}, and with the offset of 1000 hardly anything would lie so low; "
            "if it was processed with baseline 04.00 or later, pass --optical-offset 1000."
        )
    dated = _dated_by_esa(paths)
    if dated:
        return OFFSET, f"name: {dated}, ESA's for a scene since baseline 04.00 came in; {found}."
    near = sorted(value for value in floors.values() if value <= 1500)
    dark = len(near) >= 2 and near[1] <= (_GROUND if _is_vegetation(floors) else _DARK_GROUND)
    if ("B10" in floors and floors["B10"] <= 1500) or dark:
        return OFFSET, f"values: the darkest 0.1 % of each band end just above 1000 and none below 950 ({listed})."
    if len(near) >= 2:
        return OFFSET, (
            f"values: a guess, for two bands end above 1000, but nothing is really dark (the darkest 0.1 %: {listed}); "
            "if the offset was removed, or the baseline is before 04.00, pass --optical-offset 0."
        )
    return 0.0, (
        f"values: a guess, for nothing in the scene is dark (the darkest 0.1 %: {listed}); "
        "if it was processed with baseline 04.00 or later, pass --optical-offset 1000."
    )


def _is_vegetation(floors: Mapping[str, float]) -> bool:
    """Tell whether the darkest ground is green under clear air: haze makes blue brighter than red, and soil red."""
    blue, green, red = (floors.get(name, math.nan) for name in ("B02", "B03", "B04"))
    return blue <= red < green


def told_offset(tags: Mapping[str, str], paths: Sequence[str]) -> tuple[float, str] | None:
    """Return the offset that a STAC item, tags and names say, and the evidence; None if they say nothing.

    Raises
    ------
    InputError
        If the STAC item says another offset than tags or names.
    """
    of_files, _ = split_tags(tags)
    harmonised, stated, tagged = _harmonised(of_files, paths), stac_offset(tags), _tagged_offset(of_files)
    of_files_or_names = tagged or _named_offset([*of_files.values(), *paths])
    # A name tells what the product was before a catalogue removed the offset.
    other = tagged if is_flagged(tags) else of_files_or_names
    if stated and other and not harmonised:
        refuse_other_offset(stated, other)
    return harmonised or stated or of_files_or_names


def refuse_other_offset(stated: tuple[float, str], other: tuple[float, str]) -> None:
    """Refuse files that say another offset than their STAC item.

    Raises
    ------
    InputError
        If the two differ.
    """
    if stated[0] != other[0]:
        raise InputError(
            f"The STAC item says an offset of {stated[0]:g} ({stated[1].rstrip('.')}), but the optical files say "
            f"{other[0]:g} ({other[1].rstrip('.')}). Pass the right one with --optical-offset."
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


def is_hls(tags: Mapping[str, str], paths: Sequence[str]) -> str:
    """Tell by what evidence files are NASA's Harmonized Landsat Sentinel-2, or "" if they are not."""
    tag = next((key for key in tags if re.sub(r"_\d+$", "", key) == "HLS_PROCESSING_TIME"), "")
    name = next((Path(path).name for path in paths if re.match(r"HLS\.[SL]30\.", Path(path).name)), "")
    return f"tag: {tag}={tags[tag]}" if tag else f"name: {name}" if name else ""


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


def _harmonised(tags: Mapping[str, str], paths: Sequence[str]) -> tuple[float, str] | None:
    # Its tags repeat the baseline of the product it was made from, whose offset is gone.
    evidence = is_hls(tags, paths)
    return (0.0, f"{evidence}; HLS has no offset.") if evidence else None


def _tagged_offset(tags: Mapping[str, str]) -> tuple[float, str] | None:
    for key, value in tags.items():
        # Tags of single bands come with the band's number behind them.
        name, tag = re.sub(r"_\d+$", "", key.lower()), f"{key}={value}"
        if name.endswith("boa_offset_applied"):
            if value.strip().lower() in ("true", "1", "yes"):
                return 0.0, f"tag: {tag}."
        elif name.endswith(("boa_add_offset", "radio_add_offset")) or "add_offset_b" in name:
            number = re.search(r"-?\d+(\.\d+)?", value)
            if number:
                return -float(number.group()), f"tag: {tag}."
    for key, value in tags.items():
        baseline = re.fullmatch(r"N?(\d\d)\.?(\d\d)", value.strip())
        # 99.99 is what ESA's processor writes when users run it, which tells nothing.
        if key.lower().endswith("processing_baseline") and baseline and baseline.group(1) != "99":
            return (OFFSET if int(baseline.group(1)) >= 4 else 0.0), f"tag: {key}={value}."
    return None


_PRODUCT_NAME = re.compile(r"S2[A-D]_MSI(L1C|L2A)_\d{8}T\d{6}(?:_N(\d{2})(\d{2})(?=_))?")


def _named_offset(texts: Iterable[str]) -> tuple[float, str] | None:
    for text in texts:
        name = _PRODUCT_NAME.search(text)
        if name and name.group(2):
            offset = OFFSET if int(name.group(2)) >= 4 else 0.0
            return offset, f"name: baseline {name.group(2)}.{name.group(3)} in {name.group()}."
    return None


_IMAGE_NAME = re.compile(r"T\d{2}[A-Z]{3}_(\d{8})T\d{6}_(?:B\d[\dA]|AOT|SCL|TCI|WVP)(_\d\dm)?\.")


def _dated_by_esa(paths: Sequence[str]) -> str:
    """Return a name that ESA gave an image of after 25 January 2022, when it began to add the offset; "" if none is."""
    for path in paths:
        name = _IMAGE_NAME.match(Path(path).name)
        if name and name.group(1) > "20220125":
            return Path(path).name
    return ""


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
        image = _IMAGE_NAME.match(Path(path).name)
        if image:
            return ("L2A" if image.group(2) else "L1C"), f"name: {Path(path).name}; only L2A's tell the resolution."
    if "B10" in names:
        return "L1C", "count: band B10 is there, which surface products leave out."
    if set(PRODUCTS["sentinel-2-l2a"].bands) <= set(names):
        return "L2A", "count: all bands but B10 are there."
    return "unknown", "values: neither tags nor the number of bands tell."


def judge_sar_order(sample: NDArray[np.floating[Any]], wanted: Sequence[str]) -> str:
    """Check that bands taken by count are in the order wanted: VV is brighter than VH, HH than HV.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Backscatter in dB; NaN where there is no measurement.
    wanted : sequence of str
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
        if not {like, cross} <= set(wanted):
            continue
        pair = sample[[wanted.index(like), wanted.index(cross)]]
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] < 1000:
            return f"Too few pixels are valid to check that {like} is brighter than {cross}."
        brighter = float(np.subtract(*np.median(pair, axis=1)))
        if brighter < -1:
            swapped = [{like: cross, cross: like}.get(band, band) for band in wanted]
            numbers = ",".join(str(swapped.index(band) + 1) for band in wanted)
            raise InputError(
                f"The SAR bands have no names, and the one taken for {like} is {-brighter:.1f} dB darker than the one "
                f"taken for {cross}, which should be the darker: say which is which, probably --sar-bands {numbers}."
            )
        agree = "agree" if brighter > 1 else "do not tell"
        return f"The values {agree}: {like} is {brighter:.1f} dB brighter than {cross}."
    return ""
