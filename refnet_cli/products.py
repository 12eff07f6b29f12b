"""What the sensors deliver and what the maps mean: products, class schemes, and the judgements about a file's values.

Every judgement returns its answer together with a sentence that begins with the kind of evidence: ``tag``,
``description``, ``count``, ``values`` or ``option``. What cannot be decided is refused, never guessed in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError, WeightsError

Modality = Literal["optical", "sar"]


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
        """Build a scheme from what ``to_dict`` returned.

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
            return cls(
                name=str(fields["name"]),
                codes=tuple(int(code) for code in fields["codes"]),
                names=tuple(str(name) for name in fields["names"]),
                colours=tuple((int(red), int(green), int(blue)) for red, green, blue in fields["colours"]),
            )
        except (TypeError, ValueError) as cause:
            raise WeightsError(f"The class scheme {fields['name']!r} cannot be understood: {cause}.") from cause


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
        3 Flooded vegetation 7a87c6
        4 Crops e49635
        5 Built area c4281b
        6 Bare ground a59b8f
        7 Snow/ice a8ebff
        8 Clouds 616161
        9 Rangeland e3e2c3""",
}
SCHEMES: dict[str, ClassScheme] = {name: _scheme(name, table) for name, table in _TABLES.items()}


_COMMON_NAMES = {
    "coastal": "B01", "coastalaerosol": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05",
    "rededge2": "B06", "rededge3": "B07", "nir": "B08", "nearinfrared": "B08", "nir08": "B8A", "narrownir": "B8A",
    "nirnarrow": "B8A", "rededge4": "B8A", "nir09": "B09", "watervapour": "B09", "watervapor": "B09", "cirrus": "B10",
    "swir16": "B11", "swir1": "B11", "swir22": "B12", "swir2": "B12",
}  # fmt: skip
_OPTICAL_BAND = re.compile(r"(?<![A-Z0-9])B(?:0?(8A)|0?([1-9])|(1[0-2]))(?![A-Z0-9])")
_SAR_BAND = re.compile(r"(?<![A-Z])(VV|VH|HH|HV)(?=DB|[^A-Z]|$)")
_NOT_A_MEASUREMENT = re.compile(r"MASK|MSK|CLOUD|PROB|RATIO|ANGLE|QUALITY|QA|SCL")


def canonical_band(description: str | None) -> str | None:
    """Recognise a band by its description.

    Parameters
    ----------
    description : str or None
        Such as "B4", "b04", "B4 (red)", "Sentinel-2 B03", "nir", "VV_dB" or "Gamma0_VH".

    Returns
    -------
    str or None
        "B01" ... "B12", "B8A", "VV", "VH", "HH", "HV"; None where the description names none or several of them.

    Examples
    --------
    >>> [canonical_band(text) for text in ("B4 (red)", "Sentinel-2 B8A", "sigma0_VV", "VV/VH", "Band 1")]
    ['B04', 'B8A', 'VV', None, None]
    """
    text = (description or "").upper()
    if _NOT_A_MEASUREMENT.search(text):
        return None
    optical = {f"B{eight_a or f'{int(one or two):02d}'}" for eight_a, one, two in _OPTICAL_BAND.findall(text)}
    found = optical | set(_SAR_BAND.findall(text))
    if not found:
        return _COMMON_NAMES.get(re.sub(r"SENTINEL.?2|^S2|[^A-Z0-9]", "", text).lower())
    return found.pop() if len(found) == 1 else None


def band_names(descriptions: Sequence[str | None], modality: Modality) -> tuple[tuple[str | None, ...], str]:
    """Name the bands of a file by their descriptions, else by their number.

    Parameters
    ----------
    descriptions : sequence of str or None
        One per band.
    modality : {"optical", "sar"}
        Only products of this kind are considered.

    Returns
    -------
    names : tuple of str or None
        Canonical names; None where a band is not known.
    how : str
        The evidence; empty if no band could be named.
    """
    names = tuple(canonical_band(description) for description in descriptions)
    count = len(names)
    # Some writers call the bands of any file B1, B2, B3 ...; so few in a row are no Sentinel-2 bands.
    numbered = count <= 8 and names == _L2A[:count]
    if any(names) and not numbered:
        return names, f"description: the file calls its bands {', '.join(map(str, descriptions))}."
    for product in PRODUCTS.values():
        if product.modality == modality == "optical" and len(product.bands) == count:
            return product.bands, f"count: {count} bands without names are taken as {product.name} in its usual order."
    return (None,) * count, ""


def choose_bands(
    wanted: Sequence[str],
    descriptions: Sequence[str | None],
    modality: Modality,
    option: Sequence[str] | None = None,
) -> tuple[tuple[int, ...], str]:
    """Find the wanted bands in a file.

    Parameters
    ----------
    wanted : sequence of str
        Bands the network wants, in its order.
    descriptions : sequence of str or None
        Descriptions of the file's bands.
    modality : {"optical", "sar"}
        Which file it is.
    option : sequence of str, optional
        Names or 1-based numbers of the file's bands in the order of ``wanted``, as the user gave them.

    Returns
    -------
    indexes : tuple of int
        1-based band numbers in the order of ``wanted``.
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the bands cannot be found without guessing.
    OptionsError
        If the option does not fit the file.

    Examples
    --------
    >>> choose_bands(["B04", "B02"], ["blue", "green", "red"], "optical")
    ((3, 1), 'description: the file calls its bands blue, green, red.')
    """
    names, how = band_names(descriptions, modality)
    if option is not None:
        return _bands_by_option(wanted, names, option, modality), f"option: --{modality}-bands {','.join(option)}."
    advice = f"name them with --{modality}-bands (names or numbers in the order {','.join(wanted)})"
    count = len(names)
    if count < len(wanted):
        raise InputError(
            f"The {modality} file has {count} band{'s' * (count != 1)}, but {len(wanted)} are wanted "
            f"({', '.join(wanted)}): give a file that has them."
        )
    if not how:
        if count == len(wanted):
            return tuple(range(1, count + 1)), (
                f"count: a guess, {count} bands without known names are taken in the wanted order: {', '.join(wanted)}."
            )
        raise InputError(
            f"The {modality} file has {count} bands without names that say which are {', '.join(wanted)}: {advice}."
        )
    indexes = []
    for band in wanted:
        places = [index for index, name in enumerate(names, 1) if name == (canonical_band(band) or band)]
        if len(places) != 1:
            found = ", ".join(str(name or description) for name, description in zip(names, descriptions, strict=True))
            raise InputError(
                f"The {modality} file has {'no' if not places else 'several'} band{'s' * (len(places) > 1)} {band} "
                f"among {found}: {advice}."
            )
        indexes += places
    return tuple(indexes), how


def _bands_by_option(
    wanted: Sequence[str], names: Sequence[str | None], option: Sequence[str], modality: Modality
) -> tuple[int, ...]:
    if len(option) != len(wanted):
        raise OptionsError(
            f"--{modality}-bands names {len(option)} bands, but the network wants {len(wanted)}: {', '.join(wanted)}."
        )
    indexes = []
    for item in option:
        band = canonical_band(item) or item
        index = int(item) if item.isdecimal() else names.index(band) + 1 if band in names else 0
        if not 1 <= index <= len(names):
            known = ", ".join(name for name in names if name) or "none that are named"
            raise OptionsError(
                f"--{modality}-bands asks for {item}, but the file has {len(names)} bands ({known}): "
                f"give names it has or numbers from 1 to {len(names)}."
            )
        indexes.append(index)
    return tuple(indexes)


SarScale = Literal["db", "db100", "power", "amplitude"]
SAR_SCALES: tuple[SarScale, ...] = ("db", "db100", "power", "amplitude")
_FILL_VALUES = (-9999.0, -32768.0, -99999.0)


def judge_sar_scale(sample: NDArray[np.floating[Any]], dtype: str) -> tuple[SarScale, str]:
    """Tell the unit of SAR values from their sign, level and spread.

    Measured on real scenes, the bands' mean level in dB is -11.7 to -18.2 and the distance from the 5th to the
    95th percentile 8 to 16 dB. Values that are amplitudes halve both.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Values as stored; NaN where there is no measurement.
    dtype : str
        The file's data type.

    Returns
    -------
    scale : {"db", "db100", "power", "amplitude"}
    how : str
        The evidence.

    Raises
    ------
    InputError
        If the unit is not plain.
    """
    bands = [band[np.isfinite(band) & (band != 0) & (np.abs(band) < 1e6)] for band in np.asarray(sample, np.float64)]
    bands = [band[~np.isin(band, _FILL_VALUES)] for band in bands]
    bands = [band for band in bands if band.size]
    advice = "say what they are with --sar-scale (db, db100, power or amplitude)"
    if not bands:
        raise InputError(f"No sampled SAR value is a plausible measurement: {advice}, or mend the file.")
    values = np.concatenate(bands)
    negative = float(np.mean(values < 0))
    median = float(np.mean([np.median(band) for band in bands]))
    found = f"{negative:.0%} of the sampled {dtype} values are negative, the median is {median:.4g}"
    whole = bool(np.all(values == np.round(values)))
    if negative > 0.5 and -60 <= median < 0:
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
    return "amplitude", f"values: {evidence}, half of what power shows, as in amplitude."


def judge_optical_scale(sample: NDArray[np.floating[Any]], dtype: str) -> tuple[float, str]:
    """Tell the factor that makes stored optical values reflectance x 10,000.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Values as stored; NaN where there is no measurement.
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
        If the file is an 8-bit picture, or its values are neither.
    """
    if dtype in ("uint8", "int8"):
        raise InputError(
            "The optical file is an 8-bit picture, but reflectance is wanted: "
            "give the measured bands (16-bit numbers or 0 to 1 as float)."
        )
    values = sample[np.isfinite(sample)]
    high = float(np.percentile(values, 99)) if values.size else math.nan
    found = f"99 % of the sampled {dtype} values are at most {high:.4g}"
    if np.issubdtype(np.dtype(dtype), np.integer) or high > 100:
        return 1.0, f"values: {found}, as in reflectance x 10,000."
    if high <= 3:
        return 10_000.0, f"values: {found}, as in reflectance from 0 to 1."
    raise InputError(
        f"The optical values are neither reflectance from 0 to 1 nor x 10,000 ({found}): give one of these."
    )


def judge_optical_offset(
    sample: NDArray[np.floating[Any]], names: Sequence[str | None], tags: Mapping[str, str]
) -> tuple[float, str]:
    """Tell whether 1000 must be subtracted, as in Sentinel-2 products since processing baseline 04.00.

    Tags come first. Without any, the darkest values decide: with the offset nothing lies much under 1000 and dark
    ground lies just above it, in several bands; without it some band of nearly every scene is darker.

    Parameters
    ----------
    sample : float array, shape (B, n)
        Reflectance x 10,000, perhaps with the offset; NaN where there is no measurement.
    names : sequence of str or None
        The sampled bands.
    tags : mapping of str to str
        The file's tags.

    Returns
    -------
    offset : float
        0 or 1000.
    how : str
        The evidence, which says so where it is a guess.

    Raises
    ------
    InputError
        If a tag says 1000 and the values contradict it.
    """
    floors: dict[str, float] = {}
    for index, (name, band) in enumerate(zip(names, sample, strict=True), 1):
        values = band[np.isfinite(band)]
        if values.size:
            floors[name or f"band {index}"] = float(np.percentile(values, 0.1))
    darkest = min(floors, key=lambda name: floors[name]) if floors else ""
    floor = floors.get(darkest, math.nan)
    found = f"the darkest 0.1 % of {darkest or 'no band'} reach {floor:.0f}"
    tagged = _tagged_offset(tags)
    if tagged is not None:
        offset, tag = tagged
        if offset and floor < 500:
            raise InputError(
                f"The tag {tag} says that {offset:.0f} was added to the optical values, but {found}: "
                "say which is right with --optical-offset 0 or --optical-offset 1000."
            )
        return offset, f"tag: {tag}."
    if not floor >= 950:
        return 0.0, f"values: {found}; with the offset of 1000 they could not lie so low."
    near = {name: value for name, value in floors.items() if value <= 1500}
    listed = ", ".join(f"{name} {value:.0f}" for name, value in sorted(floors.items()))
    if len(near) >= 2 or "B10" in near:
        return OFFSET, f"values: the darkest 0.1 % of each band end just above 1000 and none below 950 ({listed})."
    return 0.0, (
        f"values: a guess, for nothing in the scene is dark (the darkest 0.1 %: {listed}); "
        "if it was processed with baseline 04.00 or later, pass --optical-offset 1000."
    )


def _tagged_offset(tags: Mapping[str, str]) -> tuple[float, str] | None:
    for key, value in tags.items():
        # Tags of single bands come with the band's number behind them.
        name, tag = re.sub(r"_\d+$", "", key.lower()), f"{key}={value}"
        if name.endswith("boa_offset_applied"):
            if value.strip().lower() in ("true", "1", "yes"):
                return 0.0, tag
        elif name.endswith(("boa_add_offset", "radio_add_offset")) or "add_offset_b" in name:
            number = re.search(r"-?\d+(\.\d+)?", value)
            if number:
                return -float(number.group()), tag
    for key, value in tags.items():
        baseline = re.fullmatch(r"N?(\d\d)\.?(\d\d)", value.strip())
        if key.lower().endswith("processing_baseline") and baseline:
            return (OFFSET if int(baseline.group(1)) >= 4 else 0.0), f"{key}={value}"
    return None


def judge_optical_level(names: Sequence[str | None], tags: Mapping[str, str]) -> tuple[str, str]:
    """Tell Sentinel-2's processing level: "L1C" (top of atmosphere), "L2A" (surface) or "unknown".

    Returns
    -------
    level : str
    how : str
        The evidence.
    """
    for key, value in tags.items():
        found = re.search(r"(?:LEVEL-|MSI|L)(1C|2A)(?![A-Z0-9])", value.upper())
        if found and re.search(r"level|product|type|uri", key.lower()):
            return f"L{found.group(1)}", f"tag: {key}={value}."
    if "B10" in names:
        return "L1C", "count: band B10 is there, which surface products leave out."
    if len(names) == len(_L2A) and all(names):
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
