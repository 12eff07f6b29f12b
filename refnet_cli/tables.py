"""Options from TOML files: tables become the fields of a dataclass, with every key and type checked."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from refnet_cli.errors import ConfigError, InputMissingError
from refnet_cli.remote import Remote, is_remote


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputMissingError
        If it cannot be read.
    ConfigError
        If it is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputMissingError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def read_table(kind: type[Any], table: dict[str, Any], file: Path) -> dict[str, Any]:
    """Turn a table of a file into arguments of a dataclass.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are paths, numbers, texts, truth values, tuples of texts, numbers or paths, literals,
        or tables of texts or numbers.
    table : dict
    file : Path
        The file that the table comes from; paths in it are relative to its folder.

    Returns
    -------
    dict
        By field name; fields that the table leaves out are absent.

    Raises
    ------
    ConfigError
        If a key is unknown or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(f"{file} has unknown entries {', '.join(unknown)}; known are {', '.join(known)}.")
    values = {}
    for name, value in table.items():
        one_of = get_origin(hints[name]) in (Union, UnionType)
        kinds = get_args(hints[name]) if one_of else (hints[name],)
        converted = [_convert(value, kind, file.parent) for kind in kinds if kind is not NoneType]
        fitting = [made for made in converted if made is not None]
        if fitting and _has_empty_path(value, kinds):
            raise ConfigError(f"{file}: {name} has an empty path. Name the file, or leave {name} out.")
        if not fitting:
            wanted = " or ".join(_describe(kind) for kind in kinds if kind is not NoneType)
            raise ConfigError(f"{file}: {name} is {value!r}; wanted is {wanted}.")
        values[name] = fitting[0]
    return values


def _convert(value: Any, kind: Any, folder: Path) -> Any:
    """Return the value as that kind, None if it is of another."""
    if kind is Path:
        return _place(value, folder) if isinstance(value, str) else None
    if get_origin(kind) is tuple:
        named = isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)
        if not named or (get_args(kind)[0] is Path and not all(isinstance(item, str) for item in value)):
            return None
        if get_args(kind)[0] is float:
            return None if any(isinstance(item, str | bool) for item in value) else tuple(map(float, value))
        return tuple(_place(item, folder) if get_args(kind)[0] is Path else str(item) for item in value)
    if get_origin(kind) is dict:
        return _convert_table(value, get_args(kind)[1])
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind else None


def _has_empty_path(value: Any, kinds: Sequence[Any]) -> bool:
    """Whether a text of a value that is a path or paths is empty, which would name the folder of the file."""
    texts = value if isinstance(value, list) else [value]
    return any(kind is Path or Path in get_args(kind) for kind in kinds) and "" in texts


def _place(text: str, folder: Path) -> Path | Remote:
    return Remote(text) if is_remote(text) else folder / text


def _convert_table(value: Any, kind: type[str] | type[float]) -> dict[str, Any] | None:
    """Return the table with values of that kind, whole numbers as either; None if it is none."""
    fitting = (str, int) if kind is str else (float, int)
    if not isinstance(value, dict) or not all(type(item) in fitting for item in value.values()):
        return None
    return {key: kind(item) for key, item in value.items()}


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return {Path: "a list of paths", float: "a list of numbers"}.get(get_args(kind)[0], "a list of names")
    if get_origin(kind) is dict:
        return "a table of numbers" if get_args(kind)[1] is float else "a table of texts or whole numbers"
    return {Path: "a path", int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
