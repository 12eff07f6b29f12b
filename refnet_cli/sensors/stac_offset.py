"""The offset of Sentinel-2 images by what a STAC item says of them.

Files of catalogues do not say whether the +1000 of baselines from 04.00 on is still in them; their items do. Earth
Search removes it from its GeoTIFFs, says so in ``boa_offset_applied``, and leaves ``raster:bands`` as if it had not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from refnet_cli.sensors.bands import OFFSET

_PREFIX = "stac:"
FLAG, BASELINES, RASTER = "boa_offset_applied", ("processing_baseline", "processing:version"), "raster:offset"
"""How the names of properties end; the last is the offset in the numbers of the files, as -1000."""
PRODUCT = re.compile(r"S2[A-D]_MSI(?:L1C|L2A)_\d{8}T\d{6}_(N\d{4})(?=_)")
"""ESA's name of a product, with its baseline."""
_SINCE = 4  # the baseline that brought the offset


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
