"""Options as fields of dataclasses, each defined once: its type, its default, its help text, and what it affects.

The command line, config files, tags of maps, ids of tasks and docs/options.md are made from these fields.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, field, fields
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

Affects = Literal["pixels", "elsewhere", "files", "run"]
"""What an option affects, and so where it is recorded:

``pixels``
    The pixels of a map. It is in the map's tags and in the ids of tasks.
``elsewhere``
    The pixels too, but another tag or the engine's entry records it. It is in ids only.
``files``
    Which files are written, and what is in those other than the map. It is in ids only.
``run``
    How the program runs. It is in neither.
"""
Kind = TypeVar("Kind")


def option(
    default: Any = MISSING,
    *,
    help: str = "",
    affects: Affects,
    default_text: str = "",
    metavar: str | None = None,
    since: str | None = None,
    default_factory: Callable[[], Any] | Any = MISSING,
) -> Any:
    """Define a field of a dataclass of options.

    Parameters
    ----------
    default, default_factory
        As of `dataclasses.field`.
    help : str
        What the option is, for ``--help`` and for readers of the class; options of files only may be described by a
        docstring instead.
    affects : str
        See `Affects`.
    default_text : str
        What help texts say in place of the default.
    metavar : str, optional
        Name of its value in help texts; by default that of its type.
    since : str, optional
        The version that brought it. Ids of tasks leave it out where it has its default, and so hold across versions.
    """
    about = {"help": help, "affects": affects, "default_text": default_text, "metavar": metavar, "since": since}
    return field(default=default, default_factory=default_factory, metadata=about)


@cache
def names(kind: type[Any], *affects: Affects) -> frozenset[str]:
    """Return the names of the options of a dataclass that affect one of these."""
    return frozenset(field.name for field in fields(kind) if _affected_by(field) in affects)


def texts(kind: type[Any]) -> dict[str, str]:
    """Return what each field of a dataclass is: its help text, or the docstring below it; "" where there is neither."""
    found: dict[str, str] = {}
    for base in (each for each in kind.__mro__ if "__dataclass_fields__" in vars(each)):
        found = _docstrings(base) | found
    return {field.name: field.metadata.get("help") or found.get(field.name, "") for field in fields(kind)}


@cache
def _docstrings(kind: type[Any]) -> dict[str, str]:
    """Return the strings that stand below the fields of a class, by field."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for stated, below in pairwise(tree.body):
        text = getattr(getattr(below, "value", None), "value", None)
        if isinstance(stated, ast.AnnAssign) and isinstance(stated.target, ast.Name) and isinstance(text, str):
            found[stated.target.id] = " ".join(text.split())
    return found


def _affected_by(field: Field[Any]) -> Affects:
    """Return what a field affects: the pixels where it does not say, so that no field is forgotten."""
    found: Affects = field.metadata.get("affects", "pixels")
    return found


def settings_of_result(options: Any, *, as_before: bool = False) -> dict[str, Any]:
    """Return the options that a result depends on, by name, with nested dataclasses as dicts.

    Parameters
    ----------
    options : dataclass instance
    as_before : bool
        Leave out options newer than 0.1 that have their defaults, so that what 0.1 wrote still compares equal.
    """
    values = asdict(options)
    return {
        field.name: values[field.name]
        for field in fields(options)
        if _affected_by(field) in ("pixels", "elsewhere")
        and not (as_before and field.metadata.get("since") and values[field.name] == field.default)
    }


def narrow(options: Any, kind: type[Kind]) -> Kind:
    """Return options as a dataclass that they inherit from, without the fields that they add to it."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a type hint allows, but for None.

    Examples
    --------
    >>> alternatives(int | str | None)
    (<class 'int'>, <class 'str'>)
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind is not NoneType)
