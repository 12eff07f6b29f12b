"""User-defined class schemes and label codes from TOML files."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from refnet_cli.classes.codes import codes_of
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.system.config import read, read_toml


class ClassEntry(TypedDict, total=False):
    """A class: its name, by default its code, and its colour (#rrggbb), by default any."""

    name: str
    colour: str


@dataclass(frozen=True)
class SchemeTable:
    """A class scheme, as files describe it: its name, classes by their codes, and codes that are no label.

    Raises
    ------
    OptionsError
        If a class has no code, no colour or no name of its own.

    Examples
    --------
    >>> table = SchemeTable({"3": {"name": "Vineyard", "colour": "#aa0077"}}, ignore=("99",))
    >>> table.scheme.codes, table.scheme.names, table.scheme.colours, table.ignored
    ((3,), ('Vineyard',), ((170, 0, 119),), {'99': '0'})
    """

    classes: dict[str, str | ClassEntry]
    name: str = "own"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if wrong := [code for code in self.classes if not code.isdecimal()]:
            raise OptionsError(f"class {', '.join(wrong)} is no code; give each class a code from 1 to 255.")
        names = [name for name, _ in self._classes]
        if len({name.casefold() for name in names}) < len(names):
            raise OptionsError(f"classes must have names of their own; found {', '.join(names)}.")

    @property
    def _classes(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colours."""
        entries: list[ClassEntry] = [
            {"name": entry} if isinstance(entry, str) else {"name": code, **entry}
            for code, entry in self.classes.items()
        ]
        return [
            (entry["name"], _read_colour(entry["colour"]) if "colour" in entry else some_colour(number, len(entries)))
            for number, entry in enumerate(entries)
        ]

    @property
    def scheme(self) -> ClassScheme:
        """The class scheme, or a WeightsError if the classes make none."""
        names = tuple(name for name, _ in self._classes)
        return ClassScheme(self.name, tuple(map(int, self.classes)), names, tuple(one for _, one in self._classes))

    @property
    def ignored(self) -> dict[str, str]:
        """From each ignored code to 0, as `open_labels` takes it."""
        return dict.fromkeys(self.ignore, "0")


@dataclass(frozen=True)
class _SchemeFile:
    """A file that names a scheme, or describes one in a table next to other things."""

    scheme: str | SchemeTable
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class _LabelCodes:
    """A file that says what labels' codes mean."""

    mapping: dict[str, str] = field(default_factory=dict)
    label_codes: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mapping and self.label_codes:
            raise OptionsError("it has both a table mapping and a table label_codes; leave one of them.")
        if not (self.mapping or self.label_codes or self.ignore):
            raise OptionsError(
                "it does not say what the labels' codes mean: give a table [mapping] from codes or names to those of "
                'the class scheme, as 10 = "Trees", with 0 for no label; or ignore = [255], codes that are no label.'
            )


def find_scheme(given: str) -> tuple[ClassScheme, dict[str, str]]:
    """Look up a class scheme by its name, or read it from a TOML file.

    Parameters
    ----------
    given : str
        A name in `SCHEMES`; or a path that ends with ``.toml``. The file has the same format as for ``refnet predict
        --scheme``, or an entry ``scheme`` as in a regions file: a name or a table.

    Returns
    -------
    scheme : ClassScheme
    ignored : dict
        From each ignored code to 0, as `open_labels` takes it.

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
    if "scheme" in table:
        file = read(_SchemeFile, _only(table, "scheme", "ignore"), given, error=OptionsError)
        if isinstance(file.scheme, str):
            return _known_scheme(file.scheme), dict.fromkeys(file.ignore, "0")
        own = file.scheme
    else:
        own = read(SchemeTable, _only(table, *table.keys() - {"mapping", "label_codes"}), given, error=OptionsError)
    return own.scheme, own.ignored


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
    if not {"mapping", "label_codes"} & table.keys():
        table = {"mapping": _only(table, *table.keys() - {"ignore"})} | _only(table, "ignore")
    found = read(_LabelCodes, _only(table, "mapping", "label_codes", "ignore"), path, error=OptionsError)
    return found.mapping or found.label_codes or None, dict.fromkeys(found.ignore, "0")


def _only(table: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: entry for name, entry in table.items() if name in names}


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


def _read_colour(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError as error:
        raise OptionsError(f"{text!r} is no colour; write it as #rrggbb.") from error
    return red, green, blue


def some_colour(number: int, count: int) -> tuple[int, int, int]:
    """Return a colour for a class without one, given its number from 0 and how many there are."""
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.65, 0.85 - 0.3 * (number % 2))
    return round(255 * red), round(255 * green), round(255 * blue)
