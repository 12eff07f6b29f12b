"""refnet schemes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from refnet_cli.cli.terminal import print_rows
from refnet_cli.cli.usage import StrictCommand
from refnet_cli.system.words import count

if TYPE_CHECKING:
    from refnet_cli.classes.schemes import ClassScheme

FEW = 4
"""Number of classes of each scheme in the list of all schemes."""


@click.command("schemes", cls=StrictCommand, short_help="List class schemes and their classes.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def schemes_command(name: str | None, as_json: bool) -> None:
    """List the class schemes, or show the scheme NAME, which can also be a TOML file.

    A scheme is shown with code, colour and name of each class, and the schemes to and from which maps can be
    translated. Code 0 is nodata in all schemes.
    """
    from refnet_cli.classes.scheme_files import find_scheme
    from refnet_cli.classes.schemes import SCHEMES

    if name is None:
        if as_json:
            click.echo(json.dumps([to_dict(scheme) for scheme in SCHEMES.values()], indent=2))
        else:
            print_rows((scheme.name, describe_names(scheme)) for scheme in SCHEMES.values())
        return
    scheme = find_scheme(name)[0]
    if as_json:
        click.echo(json.dumps(to_dict(scheme), indent=2))
        return
    click.echo(f"{scheme.name}: {count(len(scheme.names), 'class', 'classes')}, 0 is no data")
    for line in describe_classes(scheme):
        click.echo(line)
    print_rows(_describe_crosswalks(scheme))


def to_dict(scheme: ClassScheme) -> dict[str, Any]:
    """Return a scheme with its crosswalks as plain values."""
    to, since = crosswalks(scheme)
    classes = zip(scheme.codes, scheme.names, hex_colours(scheme), strict=True)
    return {
        "name": scheme.name,
        "classes": [{"code": code, "name": name, "colour": colour} for code, name, colour in classes],
        "crosswalks_to": to,
        "crosswalks_from": since,
    }


def crosswalks(scheme: ClassScheme) -> tuple[list[str], list[str]]:
    """Return the schemes that maps of a scheme can be translated to, and those that can be translated to it."""
    from refnet_cli.classes.crosswalk import CROSSWALKS
    from refnet_cli.classes.schemes import SCHEMES

    if SCHEMES.get(scheme.name) != scheme:
        return [], []
    to = sorted(target for source, target in CROSSWALKS if source == scheme.name)
    return to, sorted(source for source, target in CROSSWALKS if target == scheme.name)


def hex_colours(scheme: ClassScheme) -> list[str]:
    """Return the colours as #rrggbb."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in scheme.colours]


def describe_names(scheme: ClassScheme) -> str:
    """Return the number of classes and the names of some."""
    names = scheme.names if len(scheme.names) <= FEW + 1 else scheme.names[:FEW]
    more = len(scheme.names) - len(names)
    return f"{count(len(scheme.names), 'class', 'classes')}: {', '.join(names)}{f' and {more} more' if more else ''}"


def describe_classes(scheme: ClassScheme) -> Iterator[str]:
    """Yield a line for each class, with its colour on a terminal."""
    painted = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    rows = zip(scheme.codes, scheme.names, scheme.colours, hex_colours(scheme), strict=True)
    for code, name, colour, shown in rows:
        block = click.style("    ", bg=colour) + "  " if painted else ""
        yield f"{code:>4}  {block}{shown}  {name}"


def _describe_crosswalks(scheme: ClassScheme) -> list[tuple[str, str]]:
    to, since = crosswalks(scheme)
    return [("Maps to", ", ".join(to) or "no other scheme"), ("Maps from", ", ".join(since) or "no other scheme")]
