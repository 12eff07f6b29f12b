"""The radiometric offset of Sentinel-2 images, from a STAC Item, tags, file names and pixel values.

Files from catalogues do not tell whether they still contain the +1000 added since baseline 04.00; STAC Items do. Earth
Search removes the offset from its GeoTIFFs and sets ``boa_offset_applied``, but leaves ``raster:bands`` unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.sensors.sensor import Values

OFFSET = 1000.0
"""Added to reflectance x 10,000 since processing baseline 04.00."""
_PREFIX = "stac:"
FLAG, BASELINES, RASTER = "boa_offset_applied", ("processing_baseline", "processing:version"), "raster:offset"
"""Suffixes of STAC property names. The last one is the offset of the stored values, such as -1000."""
PRODUCT = re.compile(r"S2[A-D]_MSI(?:L1C|L2A)_\d{8}T\d{6}_(N\d{4})(?=_)")
"""ESA product name, with the baseline as its group."""
IMAGE_NAME = re.compile(r"T\d{2}[A-Z]{3}_(\d{8})T\d{6}_(?:B\d[\dA]|AOT|SCL|TCI|WVP)(_\d\dm)?\.")
"""ESA image name, with the date and (L2A only) the resolution as its groups."""
_SINCE = 4  # the first baseline with the offset
_DARK_GROUND = 1150.0  # maximum level, with the offset, of the darkest ground in two bands
_GROUND = 1350.0  # the same for vegetation and for shores


def stac_tags(properties: Mapping[str, str] | None) -> dict[str, str]:
    """Return a STAC Item's properties as tags with a prefix that no file uses."""
    return {f"{_PREFIX}{name}": value for name, value in (properties or {}).items()}


def split_tags(tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Separate the tags of the files from those of a STAC Item."""
    of_files = {name: value for name, value in tags.items() if not name.startswith(_PREFIX)}
    return of_files, {name: value for name, value in tags.items() if name not in of_files}


def stac_offset(tags: Mapping[str, str]) -> tuple[float, str] | None:
    """Return the offset according to a STAC Item, and the evidence; None if it gives none or contradictory ones.

    Parameters
    ----------
    tags : mapping of str to str
        Tags, including those from `stac_tags`.

    Examples
    --------
    >>> stac_offset(stac_tags({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": "true"}))
    (0.0, 'stac: earthsearch:boa_offset_applied=true.')
    >>> stac_offset(stac_tags({"s2:processing_baseline": "05.10"}))
    (1000.0, 'stac: s2:processing_baseline=05.10.')
    """
    properties = _stac_properties(tags)
    for name, value in properties.items():
        if name.endswith(FLAG) and value.strip().lower() in ("true", "1", "yes"):
            return 0.0, f"stac: {name}={value}."
    found = _offsets(properties)
    if len({offset for _, offset in found}) != 1:
        return None
    return found[0][1], f"stac: {', '.join(text for text, _ in found)}."


def is_flagged(tags: Mapping[str, str]) -> bool:
    """Return whether a STAC Item declares that the offset has been removed."""
    stated = stac_offset(tags)
    return stated is not None and FLAG in stated[1]


def stac_conflict(tags: Mapping[str, str]) -> str:
    """Return a STAC Item's contradictory statements about the offset; "" if there are none."""
    found = _offsets(_stac_properties(tags))
    if stac_offset(tags) is not None or len({offset for _, offset in found}) < 2:
        return ""
    return ", ".join(f"{text} (offset {offset:g})" for text, offset in found)


def _stac_properties(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}


def _offsets(properties: Mapping[str, str]) -> list[tuple[str, float]]:
    """Return each property that implies an offset, except the flag. Product names count only without a baseline."""
    baselines = {name: value for name, value in properties.items() if name.endswith(BASELINES)}
    if not baselines:
        products = {name: PRODUCT.search(value) for name, value in properties.items()}
        baselines = {name: product[1] for name, product in products.items() if product}
    found = []
    for name in baselines:
        baseline = parse_baseline(baselines[name])
        if baseline is not None:
            found.append((f"{name}={properties[name]}", OFFSET if baseline >= _SINCE else 0.0))
    number = re.fullmatch(r"-?\d+(\.\d+)?", properties.get(RASTER, ""))
    return [*found, (f"{RASTER}={number[0]}", -float(number[0]) + 0.0)] if number else found


def parse_baseline(text: str) -> int | None:
    """Return the major number of a processing baseline; None if it does not determine the offset.

    Examples
    --------
    >>> [parse_baseline(text) for text in ("05.10", "5.1", "N0400", "02.14", "99.99", "other")]
    [5, 5, 4, 2, None, None]
    """
    found = re.fullmatch(r"N?0?(\d{1,2})\.\d+(?:\.\d+)?|N?(\d\d)\d\d", text.strip())
    number = int(found[1] or found[2]) if found else 99
    # ESA's processor writes 99.99 in products that users process themselves.
    return None if number == 99 else number


def detect_optical_offset(
    sample: Values, names: Sequence[str | None], tags: Mapping[str, str], paths: Sequence[str] = ()
) -> tuple[float, str]:
    """Detect whether 1000 must be subtracted, as in Sentinel-2 products since processing baseline 04.00.

    Tags take precedence, then the baseline in a product name. Otherwise the darkest values decide. With the offset,
    nothing is far below 1000 and dark ground is just above it in several bands. Without it, some band of nearly every
    scene is darker. If nothing is dark, the date in an ESA image name decides.

    Parameters
    ----------
    sample : sequence of float arrays
        Reflectance x 10,000, possibly with the offset, one array per band; NaN where there is no measurement.
    names : sequence of str or None
        The sampled bands.
    tags : mapping of str to str
        The files' tags.
    paths : sequence of str
        The files' paths, which may contain a product name.

    Returns
    -------
    offset : float
        0 or 1000.
    how : str
        The evidence. It says so if the offset is a guess.

    Raises
    ------
    InputError
        If a tag or name declares 1000 but the values contradict it.

    Notes
    -----
    Remove fill values, and pixels blended with them, from the sample first.
    """
    floors: dict[str, float] = {}
    for index, (name, band) in enumerate(zip(names, sample, strict=True), 1):
        values = band[np.isfinite(band)]
        if values.size:
            floors[name or f"band {index}"] = float(np.percentile(values, 0.1))
    darkest = min(floors, key=lambda name: floors[name]) if floors else ""
    floor = floors.get(darkest, math.nan)
    found = f"the darkest 0.1% of {darkest or 'no band'} reach {floor:.0f}"
    declared = offset_from_metadata(tags, paths)
    if declared is None:
        return _offset_by_values(floors, found, paths)
    offset, how = declared
    if offset and floor < 500:
        raise InputError(
            f"The {how.rstrip('.').replace(': ', ' ', 1)} declares that {offset:.0f} was added to the optical values, "
            f"but {found}. Pass the right offset with --optical-offset 0 or --optical-offset 1000."
        )
    return offset, how


def _offset_by_values(floors: Mapping[str, float], found: str, paths: Sequence[str]) -> tuple[float, str]:
    """Detect the offset from the darkest values of each band; if none are dark, from the date in a file name."""
    listed = ", ".join(f"{name} {value:.0f}" for name, value in sorted(floors.items()))
    floor, *others = sorted(floors.values()) or [math.nan]
    if floor < 500 and len(others) > 1 and 950 <= others[0] <= others[1] <= _GROUND:
        return OFFSET, (
            f"values: a guess because {found}, as if resampling overshot at the edges of water, but the other bands "
            f"reach no lower than about 1000 ({listed}); if the offset was removed, pass --optical-offset 0."
        )
    if not floor >= 500:
        return 0.0, f"values: {found}; with the offset of 1000 they would not be so low."
    if 800 <= floor < 950 and len(others) > 1 and 900 <= others[0] <= others[1] <= _DARK_GROUND:
        return OFFSET, (
            f"values: a guess because {found}, and two other bands end near 1000 as well ({listed}), as if water was "
            "corrected to slightly below 0; if the offset was removed, pass --optical-offset 0."
        )
    if not floor >= 950:
        return 0.0, (
            f"values: a guess because {found}, which is rare with the offset of 1000; "
            "if it was processed with baseline 04.00 or later, pass --optical-offset 1000."
        )
    dated = _dated_by_esa(paths)
    if dated:
        return OFFSET, f"name: {dated}, an ESA name from after the introduction of baseline 04.00; {found}."
    near = sorted(value for value in floors.values() if value <= 1500)
    dark = len(near) >= 2 and near[1] <= (_GROUND if _is_vegetation(floors) else _DARK_GROUND)
    if ("B10" in floors and floors["B10"] <= 1500) or dark:
        return OFFSET, f"values: the darkest 0.1% of each band end just above 1000, none below 950 ({listed})."
    if len(near) >= 2:
        return OFFSET, (
            f"values: a guess because two bands end above 1000, but nothing is very dark (the darkest 0.1%: {listed}); "
            "if the offset was removed, or the baseline is before 04.00, pass --optical-offset 0."
        )
    return 0.0, (
        f"values: a guess because nothing in the scene is dark (the darkest 0.1%: {listed}); "
        "if it was processed with baseline 04.00 or later, pass --optical-offset 1000."
    )


def _is_vegetation(floors: Mapping[str, float]) -> bool:
    """Return whether the darkest ground is green under clear air. Haze makes blue brighter than red, soil makes red."""
    blue, green, red = (floors.get(name, math.nan) for name in ("B02", "B03", "B04"))
    return blue <= red < green


def offset_from_metadata(tags: Mapping[str, str], paths: Sequence[str]) -> tuple[float, str] | None:
    """Return the offset according to a STAC Item, tags or names, and the evidence; None if they do not give one.

    Raises
    ------
    InputError
        If the STAC Item and the tags or names disagree.
    """
    of_files, _ = split_tags(tags)
    harmonised, stated, tagged = _harmonised(of_files, paths), stac_offset(tags), _tagged_offset(of_files)
    of_files_or_names = tagged or _named_offset([*of_files.values(), *paths])
    # A product name still has the original baseline after a catalogue has removed the offset.
    other = tagged if is_flagged(tags) else of_files_or_names
    if stated and other and not harmonised:
        refuse_conflicting_offsets(stated, other)
    return harmonised or stated or of_files_or_names


def refuse_conflicting_offsets(stated: tuple[float, str], other: tuple[float, str]) -> None:
    """Refuse files whose offset differs from that of their STAC Item.

    Raises
    ------
    InputError
        If the two differ.
    """
    if stated[0] != other[0]:
        raise InputError(
            f"The STAC Item gives an offset of {stated[0]:g} ({stated[1].rstrip('.')}), but the optical files give "
            f"{other[0]:g} ({other[1].rstrip('.')}). Pass the right one with --optical-offset."
        )


def is_hls(tags: Mapping[str, str], paths: Sequence[str]) -> str:
    """Return the evidence that files are NASA's Harmonized Landsat Sentinel-2 (HLS); "" if they are not."""
    tag = next((key for key in tags if re.sub(r"_\d+$", "", key) == "HLS_PROCESSING_TIME"), "")
    name = next((Path(path).name for path in paths if re.match(r"HLS\.[SL]30\.", Path(path).name)), "")
    return f"tag: {tag}={tags[tag]}" if tag else f"name: {name}" if name else ""


def _harmonised(tags: Mapping[str, str], paths: Sequence[str]) -> tuple[float, str] | None:
    # HLS tags repeat the baseline of the source product, although HLS has removed its offset.
    evidence = is_hls(tags, paths)
    return (0.0, f"{evidence}; HLS has no offset.") if evidence else None


def _tagged_offset(tags: Mapping[str, str]) -> tuple[float, str] | None:
    for key, value in tags.items():
        # Tags of single bands end with the band number.
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
        # ESA's processor writes 99.99 in products that users process themselves. It does not determine the offset.
        if key.lower().endswith("processing_baseline") and baseline and baseline.group(1) != "99":
            return (OFFSET if int(baseline.group(1)) >= _SINCE else 0.0), f"tag: {key}={value}."
    return None


_PRODUCT_NAME = re.compile(r"S2[A-D]_MSI(L1C|L2A)_\d{8}T\d{6}(?:_N(\d{2})(\d{2})(?=_))?")


def _named_offset(texts: Iterable[str]) -> tuple[float, str] | None:
    for text in texts:
        name = _PRODUCT_NAME.search(text)
        if name and name.group(2):
            offset = OFFSET if int(name.group(2)) >= _SINCE else 0.0
            return offset, f"name: baseline {name.group(2)}.{name.group(3)} in {name.group()}."
    return None


def _dated_by_esa(paths: Sequence[str]) -> str:
    """Return an ESA image name dated after 25 January 2022, when the offset was introduced; "" if there is none."""
    for path in paths:
        name = IMAGE_NAME.match(Path(path).name)
        if name and name.group(1) > "20220125":
            return Path(path).name
    return ""
