"""Writes what the QGIS plugin must know of the commands: python -m refnet_cli.cli.qgis_parameters.

The plugin runs in the Python of QGIS, where refnet is not installed, and so reads options, help texts and outputs from
this file, integrations/qgis/refnet/parameters.json.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import click

from refnet_cli.cli.main import commands
from refnet_cli.cli.options import NameList, PathList
from refnet_cli.outputs import OUTPUTS
from refnet_cli.system.options import texts
from refnet_cli.training.config import TrainConfig
from refnet_cli.version import __version__

COMMANDS = "predict", "train", "evaluate", "fetch", "compare"
_KINDS: tuple[tuple[type, str], ...] = (
    (PathList, "files"), (NameList, "text"), (click.Choice, "choice"),
    (type(click.INT), "integer"), (type(click.FLOAT), "number"),
)  # fmt: skip


def qgis_parameters() -> dict[str, Any]:
    """Return options and arguments of the commands that QGIS has, and the outputs of a map.

    Returns
    -------
    dict
        ``version`` of the program; ``commands``, by name, each with ``summary``, ``help`` and ``parameters``; and
        ``outputs``, by kind, without the map itself and its style, which QGIS always has made.
    """
    return {
        "version": __version__,
        "commands": {name: _describe_command(commands.commands[name]) for name in COMMANDS},
        "outputs": {
            kind: {
                "title": made.title or re.split(r"[.:](?:\s|$)", inspect.getdoc(made) or "")[0],
                "endings": list(made.suffixes),
            }
            for kind, made in OUTPUTS.items()
            if kind not in ("classes", "style")
        },
    }


def _describe_command(command: click.Command) -> dict[str, Any]:
    context = click.Context(command, info_name=f"refnet {command.name}")
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.expose_value]
    further = texts(TrainConfig) if command.name == "train" else {}  # entries of regions files have docstrings only
    return {
        "summary": command.short_help,
        "help": inspect.cleandoc(command.help or ""),
        "parameters": [_describe_parameter(one, context, further.get(one.name or "", "")) for one in shown],
    }


def _describe_parameter(parameter: click.Parameter, context: click.Context, text: str) -> dict[str, Any]:
    flag = max(parameter.opts, key=len)  # of an argument, its name
    found: dict[str, Any] = {
        "name": flag.strip("-_").replace("-", "_"),
        "kind": _kind_of(parameter),
        "required": parameter.required,
        "multiple": getattr(parameter, "multiple", False),
    }
    if isinstance(parameter.type, click.Choice):
        found["choices"] = list(parameter.type.choices)
    if isinstance(parameter, click.Option):
        record = parameter.get_help_record(context)
        found |= {"flag": flag, "help": (record and record[1]) or text}
        if parameter.secondary_opts:
            found["off"] = max(parameter.secondary_opts, key=len)
    return found


def _kind_of(parameter: click.Parameter) -> str:
    """Return what kind of value a parameter takes: a flag's is that it is given; a switch has two flags."""
    if getattr(parameter, "is_flag", False):
        return "switch" if parameter.secondary_opts else "flag"
    if isinstance(parameter.type, click.Path):
        return "file" if parameter.type.file_okay else "folder"
    return next((kind for made, kind in _KINDS if isinstance(parameter.type, made)), "text")


if __name__ == "__main__":
    click.echo(json.dumps(qgis_parameters(), indent=1))
