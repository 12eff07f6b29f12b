"""Writes docs/options.md from the fields of `PredictOptions`: python -m refnet_cli.cli.options_table."""

from __future__ import annotations

import click

from refnet_cli.cli.options import default_of, on_command_line
from refnet_cli.cli.predict import predict_command
from refnet_cli.prediction.options import PredictOptions

INTRODUCTION = """# Options of `refnet predict`

`python -m refnet_cli.cli.options_table > docs/options.md` makes this page.

`refnet predict --config FILE` takes the same options from a TOML file, with underscores in their names
(`on_read_error = "mask"`). There `output` may be a list of what `-o` takes. In Python they are fields of
`PredictOptions`.

What an option affects says where it is recorded. *pixels*: in the map's tags and in the ids of `refnet batch`.
*elsewhere*: in ids, and in the map's tags or the report as something else (files, weights, decisions, engine).
*files*: in ids only. *run*: nowhere.

| option | default | affects | |
|---|---|---|---|
"""


def options_table() -> str:
    """Return docs/options.md."""
    context = click.Context(predict_command)
    given = {name: option for option in predict_command.params for name in option.opts}
    rows = []
    for field, _ in on_command_line(PredictOptions):
        option = given[f"--{field.name.replace('_', '-')}"]
        value = "" if getattr(option, "is_flag", False) else f" {option.make_metavar(context)}"
        names = ", ".join([*option.opts, *option.secondary_opts])
        cells = f"`{names}{value}`", default_of(field), field.metadata["affects"], field.metadata["help"]
        rows.append(" | ".join(cell.replace("|", r"\|") for cell in cells))
    return INTRODUCTION + "".join(f"| {row} |\n" for row in rows)


if __name__ == "__main__":
    click.echo(options_table(), nl=False)
