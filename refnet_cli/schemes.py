"""Class schemes of one's own, from tables of TOML files."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any

from refnet_cli.errors import OptionsError
from refnet_cli.products import ClassScheme


def read_scheme(table: Mapping[str, Any]) -> tuple[ClassScheme, dict[str, str]]:
    """Make a class scheme of a table.

    Parameters
    ----------
    table : mapping
        ``name``; ``classes``, a table from codes to names, or to tables of ``name`` and ``colour`` (#rrggbb); and
        ``ignore``, codes of the label files that are no label.

    Returns
    -------
    scheme : ClassScheme
        Classes without a colour get one.
    ignored : dict
        From each ignored code to 0, as `open_labels` takes it.

    Raises
    ------
    OptionsError, WeightsError
        If the table makes no scheme.

    Examples
    --------
    >>> scheme, _ = read_scheme({"name": "mine", "classes": {"3": {"name": "Vineyard", "colour": "#aa0077"}}})
    >>> scheme.codes, scheme.names, scheme.colours
    ((3,), ('Vineyard',), ((170, 0, 119),))
    """
    unknown = sorted(set(table) - {"name", "classes", "ignore"})
    classes, ignored = table.get("classes"), table.get("ignore", [])
    if unknown or not isinstance(classes, dict) or not isinstance(ignored, list):
        raise OptionsError(f"scheme must have name, classes and perhaps ignore; found {', '.join(table)}.")
    codes, names, colours = [], [], []
    for number, (code, entry) in enumerate(classes.items()):
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not set(entry) <= {"name", "colour"} or not str(code).isdecimal():
            raise OptionsError(f"scheme: class {code} is {entry!r}; wanted is a code with a name, or name and colour.")
        codes.append(int(code))
        names.append(str(entry.get("name", code)))
        colours.append(_read_colour(entry["colour"]) if "colour" in entry else _some_colour(number, len(classes)))
    if len({name.casefold() for name in names}) < len(names):
        raise OptionsError(f"scheme: classes must have names of their own; found {', '.join(names)}.")
    scheme = ClassScheme(str(table.get("name", "own")), tuple(codes), tuple(names), tuple(colours))
    return scheme, {str(code): "0" for code in ignored}


def _read_colour(text: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = bytes.fromhex(str(text).removeprefix("#"))
    except ValueError as error:
        raise OptionsError(f"scheme: {text!r} is no colour; write it as #rrggbb.") from error
    return red, green, blue


def _some_colour(number: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.65, 0.85 - 0.3 * (number % 2))
    return round(255 * red), round(255 * green), round(255 * blue)
