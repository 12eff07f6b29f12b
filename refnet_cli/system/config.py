"""What people write: TOML and JSON become dataclasses, with every key and type checked.

Options, regions files, lists of tasks, cards of weights and class schemes are all read here, by the types of the fields
of dataclasses. cattrs goes through them and collects what does not fit. What values mean, a dataclass checks itself.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from refnet_cli.errors import ConfigError, InputMissingError, OptionsError, RefnetError, WeightsError
from refnet_cli.system.options import alternatives
from refnet_cli.system.urls import Remote, is_remote

Kind = TypeVar("Kind")
Hook = Callable[[Any, Any], Any]
"""What makes something of a plain value and a type, as cattrs calls it."""
_WORDS: dict[Any, str] = {
    Path: "a path", int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    Any: "a value",
}  # fmt: skip
_LONGEST = 200  # characters of a key or value that messages show


class _MisfitError(Exception):
    """A value has another type than its place; holds the value."""


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


def read(
    kind: type[Kind], entries: Any, where: object, folder: Path = Path(), error: type[RefnetError] = ConfigError
) -> Kind:
    """Make a dataclass of plain entries.

    Parameters
    ----------
    kind : type
        A dataclass, or `some` of one. Its fields are paths, numbers, texts, truth values, literals, other such
        dataclasses, and tuples and tables of these. Among several texts numbers are texts, as in ``sar_bands = [1]``.
    entries : object
        A dict as JSON and TOML give it.
    where : object
        What errors begin with: the file.
    folder : Path
        What paths in the entries are relative to.
    error : type
        What to raise.

    Raises
    ------
    RefnetError
        An ``error`` that lists all faults: unknown and missing keys, values of wrong types, and what the dataclasses
        themselves refuse.
    """
    from cattrs import transform_error  # not for `refnet --help`, which must be quick

    try:
        made: Kind = _converter(folder).structure(entries, kind)
        return made
    except Exception as found:
        said = [_place(*line.rsplit(" @ $", 1)) for line in transform_error(found, "$", _say)]
        lines = [f"{where}: {len(said)} entries are wrong.", *said] if len(said) > 1 else [f"{where}: {said[0]}"]
        raise error("\n  ".join(lines)) from found


@cache
def some(kind: Any) -> Any:
    """Return the type of a table with any of the fields of a dataclass, which `read` makes a dict of."""
    return TypedDict(kind.__name__, get_type_hints(kind), total=False)  # type: ignore[operator]


@lru_cache(maxsize=8)
def _converter(folder: Path) -> Any:
    """Return what makes dataclasses of plain entries, with paths relative to a folder.

    By itself cattrs takes "2" for a number, True for 1, and a text for a list of letters.
    """
    from cattrs import Converter

    def path(text: Any, _: Any) -> Path | Remote:
        if not _exactly(text, str):
            raise _MisfitError(text)
        return Remote(text) if is_remote(text) else folder / text

    converter: Any = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path, path)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook_func(_is_of(Literal), _exactly)
    converter.register_structure_hook_factory(_is_of(Union, UnionType), _one_of)
    converter.register_structure_hook_factory(_is_of(tuple), _tuple)
    converter.register_structure_hook_factory(_is_of(dict), _table)
    converter.register_structure_hook_factory(lambda kind: is_dataclass(kind) or is_typeddict(kind), _dataclass)
    return converter


def _is_of(*origins: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) in origins


def _exactly(value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    elif kind is float:
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
    else:
        fits = type(value) is kind
    if not fits:
        raise _MisfitError(value)
    return float(value) if kind is float else value


def _one_of(kind: Any, converter: Any) -> Hook:
    """Return what makes the first of several types that fits; if none does, the nearest says what is wrong."""
    hooks = [(converter.get_structure_hook(one), one) for one in alternatives(kind)]

    def make(value: Any, _: Any) -> Any:
        if value is None and NoneType in get_args(kind):
            return None
        nearest: Exception = _MisfitError(value)
        for hook, one in hooks:
            try:
                return hook(value, one)
            except _MisfitError:
                continue
            except Exception as error:
                nearest = error
        raise nearest

    return make


def _tuple(kind: Any, converter: Any) -> Hook:
    item, *others = get_args(kind)
    items = GenericAlias(list, (str | int | float if item is str else item,))

    def make(value: Any, _: Any) -> tuple[Any, ...]:
        if others != [...] and len(value) != 1 + len(others):
            raise _MisfitError(value)
        made = converter.structure(value, items)
        return tuple(map(str, made) if item is str else made)

    return _only((list, tuple), make)


def _table(kind: Any, converter: Any) -> Hook:
    item = get_args(kind)[1]
    items = GenericAlias(Mapping, (str, str | int if item is str else item))

    def make(value: Any, _: Any) -> dict[str, Any]:
        made = converter.structure(value, items)
        return {name: str(entry) if item is str else entry for name, entry in made.items()}

    return _only(dict, make)


def _dataclass(kind: Any, converter: Any) -> Hook:
    from cattrs.gen import make_dict_structure_fn, typeddicts

    make = typeddicts.make_dict_structure_fn if is_typeddict(kind) else make_dict_structure_fn
    return _only(dict, make(kind, converter))


def _only(form: type[Any] | tuple[type[Any], ...], make: Hook) -> Hook:
    def hook(value: Any, kind: Any) -> Any:
        if not isinstance(value, form):
            raise _MisfitError(value)
        return make(value, kind)

    return hook


def _say(error: BaseException, kind: Any) -> str:
    """Put a fault into words that go on from the name of its place."""
    from cattrs import ForbiddenExtraKeysError

    needed = f"it must be {'a table' if kind is None else _describe(kind)}."
    if isinstance(error, _MisfitError):
        value = error.args[0]
        if value == "" and Path in alternatives(kind):
            return " has an empty path. Name the file, or leave the entry out."
        finite = not isinstance(value, float) or abs(value) <= sys.float_info.max
        return f" is {_shorten(repr(value))}; {needed if finite else 'it must be finite.'}"
    if isinstance(error, ForbiddenExtraKeysError):
        known = tuple(get_type_hints(error.cl))
        names = ", ".join(name if name.isprintable() else repr(name) for name in sorted(error.extra_fields))
        meant = _suggest(error.extra_fields, known)
        return f": unknown entries {_shorten(names)}; known are {', '.join(known)}.{meant}"
    if isinstance(error, ConfigError | OptionsError | WeightsError):
        return f": {error}"
    if isinstance(error, KeyError) and kind is not None:
        return f" is missing; {needed}"
    raise error  # of another kind; or, as a dataclass was made, a bug


def _suggest(names: Iterable[str], known: Sequence[str]) -> str:
    """Name the known entries that misspelt ones are like."""
    like = [found[0] for name in sorted(names) if (found := get_close_matches(name.replace("-", "_"), known, 1))]
    return f" Did you mean {', '.join(dict.fromkeys(like))}?" if like else ""


def _place(said: str, place: str) -> str:
    """Begin what is wrong with the name of its place, which is empty for the whole."""
    return f"{place.removeprefix('.')}{said}" if place else said.removeprefix(": ") if said[0] == ":" else f"it{said}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _describe(kind: Any) -> str:
    *some, last = _words(kind)
    return f"{', '.join(some)} or {last}" if some else last


def _words(kind: Any) -> list[str]:
    """Return what the types that a hint allows are called; a literal is each of its values."""
    kinds = alternatives(kind)
    return [word for one in kinds if not (one is int and float in kinds) for word in _names(one)]


def _names(kind: Any) -> list[str]:
    inside = get_args(kind)
    if get_origin(kind) is Literal:
        return [str(value) for value in inside]
    if get_origin(kind) is tuple:
        number = "" if inside[-1] is Ellipsis else f"{len(inside)} "
        return [f"a list of {number}{'names' if inside[0] is str else _plural(inside[0])}"]
    if get_origin(kind) is dict:
        return [f"a table of {'texts or whole numbers' if inside[1] is str else _plural(inside[1])}"]
    return [_WORDS.get(kind, "a table")]


def _plural(kind: Any) -> str:
    words = (" ".join(word.split(" of ")[0].split()[1:]) for word in _words(kind))
    return " or ".join(f"{word}s" for word in words)
