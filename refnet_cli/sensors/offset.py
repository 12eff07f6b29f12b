"""The offset of Sentinel-2 images: by what a STAC item says of them, by tags and names, and by their values.

Files of catalogues do not say whether the +1000 of baselines from 04.00 on is still in them; their items do. Earth
Search removes it from its GeoTIFFs, says so in ``boa_offset_applied``, and leaves ``raster:bands`` as if it had not.
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
"""What is added to reflectance x 10,000 since processing baseline 04.00."""
_PREFIX = "stac:"
FLAG, BASELINES, RASTER = "boa_offset_applied", ("processing_baseline", "processing:version"), "raster:offset"
"""How the names of properties end; the last is the offset in the numbers of the files, as -1000."""
PRODUCT = re.compile(r"S2[A-D]_MSI(?:L1C|L2A)_\d{8}T\d{6}_(N\d{4})(?=_)")
"""ESA's name of a product, with its baseline."""
IMAGE_NAME = re.compile(r"T\d{2}[A-Z]{3}_(\d{8})T\d{6}_(?:B\d[\dA]|AOT|SCL|TCI|WVP)(_\d\dm)?\.")
"""ESA's name of an image, with its date, and its resolution if the product is L2A."""
_SINCE = 4  # the baseline that brought the offset
_DARK_GROUND = 1150.0  # that the darkest ground in two bands does not exceed, with the offset
_GROUND = 1350.0  # the same of vegetation, and of shores


def as_tags(said: Mapping[str, str] | None) -> dict[str, str]:
    """Return what an item says as tags that no file has."""
    return {f"{_PREFIX}{name}": value for name, value in (said or {}).items()}


def split_tags(tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tags that are of files, and those that are of an item."""
    of_files = {name: value for name, value in tags.items() if not name.startswith(_PREFIX)}
    return of_files, {name: value for name, value in tags.items() if name not in of_files}


def stac_offset(tags: Mapping[str, str]) -> tuple[float, str] | None:
    """Return the offset that a STAC item says, and the evidence; None if it says nothing or contradicts itself.

    Parameters
    ----------
    tags : mapping of str to str
        With those of `as_tags` among them.

    Examples
    --------
    >>> stac_offset(as_tags({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": "true"}))
    (0.0, 'stac: earthsearch:boa_offset_applied=true.')
    >>> stac_offset(as_tags({"s2:processing_baseline": "05.10"}))
    (1000.0, 'stac: s2:processing_baseline=05.10.')
    """
    said = _said(tags)
    for name, value in said.items():
        if name.endswith(FLAG) and value.strip().lower() in ("true", "1", "yes"):
            return 0.0, f"stac: {name}={value}."
    found = _offsets(said)
    if len({offset for _, offset in found}) != 1:
        return None
    return found[0][1], f"stac: {', '.join(text for text, _ in found)}."


def is_flagged(tags: Mapping[str, str]) -> bool:
    """Tell whether an item says that the offset has been removed from the product."""
    stated = stac_offset(tags)
    return stated is not None and FLAG in stated[1]


def stac_contradiction(tags: Mapping[str, str]) -> str:
    """Return what in a STAC item contradicts itself about the offset; "" if nothing does."""
    found = _offsets(_said(tags))
    if stac_offset(tags) is not None or len({offset for _, offset in found}) < 2:
        return ""
    return ", ".join(f"{text} (offset {offset:g})" for text, offset in found)


def _said(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}


def _offsets(said: Mapping[str, str]) -> list[tuple[str, float]]:
    """Property and offset of all that says one, but for the flag; names of products only where no baseline is."""
    baselines = {name: value for name, value in said.items() if name.endswith(BASELINES)}
    if not baselines:
        products = {name: PRODUCT.search(value) for name, value in said.items()}
        baselines = {name: product[1] for name, product in products.items() if product}
    found = []
    for name in baselines:
        baseline = parse_baseline(baselines[name])
        if baseline is not None:
            found.append((f"{name}={said[name]}", OFFSET if baseline >= _SINCE else 0.0))
    number = re.fullmatch(r"-?\d+(\.\d+)?", said.get(RASTER, ""))
    return [*found, (f"{RASTER}={number[0]}", -float(number[0]) + 0.0)] if number else found


def parse_baseline(text: str) -> int | None:
    """Return the number before the point of a processing baseline; None where it says nothing of the offset.

    Examples
    --------
    >>> [parse_baseline(text) for text in ("05.10", "5.1", "N0400", "02.14", "99.99", "other")]
    [5, 5, 4, 2, None, None]
    """
    found = re.fullmatch(r"N?0?(\d{1,2})\.\d+(?:\.\d+)?|N?(\d\d)\d\d", text.strip())
    number = int(found[1] or found[2]) if found else 99
    # 99.99 is what ESA's processor writes when users run it.
    return None if number == 99 else number


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
    if told is None:
        return _offset_by_values(floors, found, paths)
    offset, how = told
    if offset and floor < 500:
        raise InputError(
            f"The {how.rstrip('.').replace(': ', ' ', 1)} says that {offset:.0f} was added to the optical values, "
            f"but {found}: say which is right with --optical-offset 0 or --optical-offset 1000."
        )
    return offset, how


def _offset_by_values(floors: Mapping[str, float], found: str, paths: Sequence[str]) -> tuple[float, str]:
    """Tell the offset by each band's darkest values, and where none of them are dark, by the date in a file's name."""
    listed = ", ".join(f"{name} {value:.0f}" for name, value in sorted(floors.items()))
    floor, *others = sorted(floors.values()) or [math.nan]
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


def is_hls(tags: Mapping[str, str], paths: Sequence[str]) -> str:
    """Tell by what evidence files are NASA's Harmonized Landsat Sentinel-2, or "" if they are not."""
    tag = next((key for key in tags if re.sub(r"_\d+$", "", key) == "HLS_PROCESSING_TIME"), "")
    name = next((Path(path).name for path in paths if re.match(r"HLS\.[SL]30\.", Path(path).name)), "")
    return f"tag: {tag}={tags[tag]}" if tag else f"name: {name}" if name else ""


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
    """Return a name that ESA gave an image of after 25 January 2022, when it began to add the offset; "" if none is."""
    for path in paths:
        name = IMAGE_NAME.match(Path(path).name)
        if name and name.group(1) > "20220125":
            return Path(path).name
    return ""
