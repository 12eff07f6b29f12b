"""Refuse command lines with repeated options, removed names, or wildcards that the shell has expanded."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import click

from refnet_cli.prediction.removed import find_removed
from refnet_cli.system.urls import hide_secrets, is_remote

_MOST = 12  # names that a message lists


class _Strict(click.Command):
    """A command whose options of one value are given once, and whose arguments are all expected."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what click would pass over, or refuse without a remedy."""
        if ctx.resilient_parsing:  # a command line that is not yet complete
            return super().parse_args(ctx, args)
        given, extra = _every_value(self, ctx, args)
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        if any(option.is_flag and option.is_eager and given.get(option.name or "") for option in options):
            return super().parse_args(ctx, args)  # help is needed most where other options are wrong
        for option in options:
            if not option.multiple:
                _refuse_repeated(option, given.get(option.name or "", []), ctx)
        if extra and not ctx.allow_extra_args:
            _refuse_extra(self, args, extra, given, ctx)
        return super().parse_args(ctx, args)


class StrictCommand(_Strict):
    """See `_Strict`."""


class StrictGroup(_Strict, click.Group):
    """The same for a group, and for the commands in it."""

    command_class = StrictCommand
    group_class = type


def _every_value(command: click.Command, ctx: click.Context, args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return all values of each option by its name, in their order, and the arguments that belong to nothing."""
    twin = copy(command)
    twin.params = []
    for parameter in command.get_params(ctx):
        repeated = copy(parameter)
        if isinstance(repeated, click.Option):
            repeated.multiple = True
        twin.params.append(repeated)
    twin.add_help_option = False  # it is among the parameters
    values, extra, _ = twin.make_parser(ctx).parse_args(list(args))
    return values, extra


def _refuse_repeated(option: click.Option, values: Sequence[Any], ctx: click.Context) -> None:
    """Raise a usage error where an option has two values; a flag that is given twice says nothing new."""
    name = max(option.opts, key=len)
    if option.is_flag:
        if len(set(values)) > 1:
            names = " and ".join((*option.opts, *option.secondary_opts))
            raise click.UsageError(f"{names} contradict each other. Give one of them.", ctx)
        return
    if len(values) < 2:
        return
    shown = [hide_secrets(str(value)) for value in values]
    advice = _together(name, list(map(str, values))) if getattr(option.type, "joins", False) else "Give it once."
    raise click.UsageError(f"{name} is given {len(values)} times: {', '.join(shown[:_MOST])}. {advice}", ctx)


def _refuse_extra(
    command: click.Command, args: Sequence[str], extra: Sequence[str], given: dict[str, Any], ctx: click.Context
) -> None:
    """Raise a usage error for arguments that belong to nothing, as a wildcard leaves them that the shell replaced."""
    listed = ", ".join(extra[:_MOST]) + (f" and {len(extra) - _MOST} more" if len(extra) > _MOST else "")
    for option, values in _runs(command, ctx, args):
        if values[-1] not in extra:
            continue
        name = max(option.opts, key=len)
        found = f"{name} takes one value, but {len(values)} follow it"
        if getattr(option.type, "joins", False):
            why = "The shell replaces a wildcard by names with blanks between them."
            raise click.UsageError(f"{found}. {why}{_forgotten(command, given, ctx)} {_together(name, values)}", ctx)
        raise click.UsageError(f"{found}: {', '.join(values[:_MOST])}. Give one.", ctx)
    places = [str(parameter.make_metavar(ctx)) for parameter in _arguments(command, ctx)]
    takes = f"takes {' and '.join(places)} only" if places else "takes options only"
    again = f" Run {ctx.command_path} once for each." if places else ""
    raise click.UsageError(f"{ctx.command_path} {takes}. These arguments are too many: {listed}.{again}", ctx)


def _forgotten(command: click.Command, given: dict[str, Any], ctx: click.Context) -> str:
    """Name the options of paths that are not given: one of the arguments may be theirs."""
    names = [
        max(option.opts, key=len)
        for option in command.get_params(ctx)
        if isinstance(option, click.Option) and option.type.name == "paths" and not given.get(option.name or "")
    ]
    return f" If {names[0]} was forgotten, put it before its files." if names else ""


def _together(name: str, values: Sequence[str]) -> str:
    """Say how to give values together: with commas, or as a folder where commas cannot separate them."""
    values = list(dict.fromkeys(values))
    if len(values) == 1:
        return "Give it once."
    if len(values) > _MOST or any("," in value and os.path.exists(value) for value in values):
        return f"Put the files into a folder of their own and give the folder: {name} FOLDER"
    return f"Separate them by commas: {name} {_joined([hide_secrets(value) for value in values])}"


def _joined(values: Sequence[str]) -> str:
    # After a URL, whose own commas stay, a relative path begins with ./
    after_url = [False, *map(is_remote, values)]
    begins = ("/", "./", "../", "http:", "https:")
    parts = [
        f"./{value}" if after and not value.startswith(begins) else value
        for value, after in zip(values, after_url, strict=False)
    ]
    text = ",".join(parts)
    return f"'{text}'" if any(letter.isspace() for letter in text) else text


def _runs(command: click.Command, ctx: click.Context, args: Sequence[str]) -> Iterator[tuple[click.Option, list[str]]]:
    """Yield each option of one value with all that follows it up to the next option."""
    options = {
        name: parameter
        for parameter in command.get_params(ctx)
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for name in parameter.opts
    }
    at = 0
    while at < len(args) and args[at] != "--":
        name, equals, value = args[at].partition("=")
        at += 1
        if name not in options:
            continue
        values = [value] if equals else list(args[at : at + 1])
        at += not equals
        while at < len(args) and not args[at].startswith("-"):
            values.append(args[at])
            at += 1
        yield options[name], values


def _arguments(command: click.Command, ctx: click.Context) -> Iterator[click.Argument]:
    return (parameter for parameter in command.get_params(ctx) if isinstance(parameter, click.Argument))


def refuse_removed(flag: str, options: Mapping[str, Any], outputs: Iterable[str] = ()) -> None:
    """Raise a usage error that names what takes the place of an option or an output that earlier versions had.

    Parameters
    ----------
    flag : str
        Option of the command that takes outputs.
    options : mapping
        Values of options by their names.
    outputs : iterable of str
        Outputs, KIND or KIND=PATH.
    """
    if removed := find_removed(options, outputs):
        raise click.UsageError(f"The {removed.said}. Pass {flag} {shlex.quote(removed.output)} instead.")


def wildcard_remedy(text: str) -> str | None:
    """Return how to give the files that a wildcard stands for, which refnet does not replace by names.

    Parameters
    ----------
    text : str
        An option's value.

    Returns
    -------
    str or None
        None where it is a URL, a file's name, or stands for no file.
    """
    if is_remote(text) or os.path.exists(text) or not (found := sorted(glob.glob(text))):
        return None
    if len(found) > _MOST:
        return "Put the files into a folder of their own and give the folder."
    return f"Separate the files by commas: {_joined(found)}"
