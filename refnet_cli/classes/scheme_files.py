"""User-defined class schemes and label codes from TOML files."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refnet_cli.classes.codes import codes_of
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.system.config import read_toml


def read_scheme(table: Mapping[str, Any]) -> tuple[ClassScheme, dict[str, str]]:
    """Build a class scheme from a table.

    Parameters
    ----------
    table : mapping
        ``name``; ``classes``, a table from codes to names, or to tables of ``name`` and ``colour`` (#rrggbb); and
        ``ignore``, codes in label files that are no label.

    Returns
    -------
    scheme : ClassScheme
        Classes without a colour get a default one.
    ignored : dict
        Mapping from each ignored code to 0, for `open_labels`.

    Raises
    ------
    OptionsError, WeightsError
        If the table is not a valid scheme.

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
            raise OptionsError(f"scheme: class {code} is {entry!r}; it must be a code with a name, or name and colour.")
        codes.append(int(code))
        names.append(str(entry.get("name", code)))
        colours.append(_read_colour(entry["colour"]) if "colour" in entry else _some_colour(number, len(classes)))
    if len({name.casefold() for name in names}) < len(names):
        raise OptionsError(f"scheme: classes must have names of their own; found {', '.join(names)}.")
    scheme = ClassScheme(str(table.get("name", "own")), tuple(codes), tuple(names), tuple(colours))
    return scheme, _no_label(ignored)


def find_scheme(given: str) -> tuple[ClassScheme, dict[str, str]]:
    """Look up a class scheme by its name, or read it from a TOML file.

    Parameters
    ----------
    given : str
        A name in `SCHEMES`; or a path that ends with ``.toml``. The file has the same format as for ``refnet predict
        --scheme``, or an entry ``scheme`` as in a regions file: a name or a table.

    Returns
    -------
    scheme, ignored
        See `read_scheme`.

    Raises
    ------
    InputMissingError, ConfigError
        If the file cannot be read.
    OptionsError, WeightsError
        If there is no such scheme, or the file is not a valid scheme.
    """
    if not given.lower().endswith(".toml"):
        return _known_scheme(given), {}
    table = read_toml(Path(given))
    scheme = table.get("scheme")
    if isinstance(scheme, str):
        ignored = table.get("ignore", [])
        if not isinstance(ignored, list):
            raise OptionsError(f"{given}: ignore is {ignored!r}; it must be a list of codes, as [255].")
        return _known_scheme(scheme), _no_label(ignored)
    if scheme is None:
        scheme = {name: entry for name, entry in table.items() if name not in ("mapping", "label_codes")}
    return read_scheme(scheme)


def _known_scheme(name: str) -> ClassScheme:
    if name not in SCHEMES:
        raise OptionsError(
            f"Class scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}, or a file of your own that ends "
            "with .toml."
        )
    return SCHEMES[name]


def read_label_codes(path: Path) -> tuple[dict[str, str] | None, dict[str, str]]:
    """Read a mapping of label codes or names.

    Parameters
    ----------
    path : Path
        TOML file with a table ``mapping`` or ``label_codes`` from codes or names in the label file to the scheme's
        codes or names, or with these pairs at the top level; optionally with ``ignore``, a list of codes that are no
        label.

    Returns
    -------
    codes : dict or None
        None if the file only has ``ignore``.
    ignored : dict
        Mapping from each ignored code to 0.

    Raises
    ------
    InputMissingError, ConfigError
        If the file cannot be read.
    OptionsError
        If it has neither a mapping nor ``ignore``.
    """
    table = read_toml(path)
    ignored = table.pop("ignore", [])
    named = [name for name in ("mapping", "label_codes") if name in table]
    if len(named) > 1:
        raise OptionsError(f"{path} has both a table mapping and a table label_codes; leave one of them.")
    codes = table[named[0]] if named else table
    fitting = isinstance(codes, dict) and all(type(meaning) in (str, int) for meaning in codes.values())
    if not fitting or not isinstance(ignored, list) or not (codes or ignored):
        raise OptionsError(
            f"{path} does not say what the labels' codes mean: give a table [mapping] from codes or names to those of "
            "the class scheme, as 10 = \"Trees\", with 0 for no label; or ignore = [255], codes that are no label."
        )
    return {str(code): str(meaning) for code, meaning in codes.items()} or None, _no_label(ignored)


def with_ignored(
    scheme: ClassScheme, codes: Mapping[str, str] | None, ignored: Mapping[str, str]
) -> dict[str, str] | None:
    """Add ignored codes to a mapping of label codes; without a mapping, all codes and names map to themselves.

    Examples
    --------
    >>> with_ignored(SCHEMES["corine"], None, {"999": "0"})["112"]
    '112'
    """
    if not ignored:
        return None if codes is None else dict(codes)
    own = {str(code): str(code) for code in codes_of(scheme)} | {name: name for name in scheme.names}
    return (own if codes is None else dict(codes)) | dict(ignored)


def _no_label(codes: list[Any]) -> dict[str, str]:
    return {str(code): "0" for code in codes}


def _read_colour(text: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = bytes.fromhex(str(text).removeprefix("#"))
    except ValueError as error:
        raise OptionsError(f"scheme: {text!r} is no colour; write it as #rrggbb.") from error
    return red, green, blue


def _some_colour(number: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.65, 0.85 - 0.3 * (number % 2))
    return round(255 * red), round(255 * green), round(255 * blue)
