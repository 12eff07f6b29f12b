"""Help texts list what the dicts hold, which cost too much to import for a help text."""

from __future__ import annotations

import re

import click
import pytest

from refnet_cli.classes.crosswalk import CROSSWALKS
from refnet_cli.cli.main import commands
from refnet_cli.cli.predict import predict_command
from refnet_cli.model.weight_files import BUNDLED
from refnet_cli.outputs import OUTPUTS
from refnet_cli.scan import SCANS


@pytest.mark.parametrize(
    ("option", "before", "after", "names"),
    [("--output", "further outputs: ", ". ", [name for name in OUTPUTS if name != "classes"]),
     ("--scan", "selective scan: ", ". ", [*SCANS]),
     ("--scheme", "map in: ", ", or a TOML", sorted({target for _, target in CROSSWALKS}))],
)  # fmt: skip
def test_an_option_lists_every_name(option: str, before: str, after: str, names: list[str]) -> None:
    (text,) = (str(vars(made)["help"]) for made in predict_command.params if option in made.opts)
    assert re.split(r", | or ", text.partition(before)[2].partition(after)[0]) == names


def every_help(command: click.Command, context: click.Context | None = None) -> str:
    with click.Context(command, context, info_name=command.name) as here:
        below = command.commands.values() if isinstance(command, click.Group) else ()
        return command.get_help(here) + "".join(every_help(one, here) for one in below)


def test_every_help_names_the_bundled_weights() -> None:
    found = re.findall(r"\brefnet-(?!cli|batch)\w+", every_help(commands))
    assert len(found) > 3
    assert {*found} == {BUNDLED}
