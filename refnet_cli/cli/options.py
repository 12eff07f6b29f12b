"""Options of several commands, and how they become dataclasses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from click.shell_completion import CompletionItem

from refnet_cli.cli.usage import StrictCommand, refuse_removed, wildcard_remedy
from refnet_cli.engines.providers import PROVIDERS
from refnet_cli.errors import ConfigError
from refnet_cli.prediction.removed import REMOVED_OPTIONS, find_removed
from refnet_cli.system.options import alternatives
from refnet_cli.system.urls import Remote, is_remote, split_paths

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
PICTURE = (".png",)
TASK_LISTS = (".jsonl", ".ndjson", ".json", ".txt", "")
FILES = (".safetensors", ".onnx", ".pt", ".pth", ".tif", ".tiff", ".toml")


class NameList(click.ParamType):
    """Names separated by commas.

    Parameters
    ----------
    joins : bool
        Whether two of its values, with a comma between them, are a value.
    """

    name = "names"

    def __init__(self, joins: bool = True) -> None:
        self.joins = joins

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the text."""
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)


class PathList(click.ParamType):
    """A path or URL, or several separated by commas."""

    name, joins = "paths", True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path | Remote, ...]:
        """Split the text, unless all of it is a path with commas in it."""
        if not isinstance(value, str):
            return tuple(value)
        if remedy := wildcard_remedy(value):
            self.fail(f"{value} is a wildcard, which refnet does not expand. {remedy}", param, ctx)
        parts = [value] if os.path.exists(value) else split_paths(value)
        if not all(parts):
            shown = ",".join(str(Remote(part)) if is_remote(part) else part for part in parts)
            self.fail(f"{shown!r} has an empty path between commas.", param, ctx)
        return tuple(Remote(part) if is_remote(part) else Path(part) for part in parts)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell to complete a path."""
        return FILE.shell_complete(ctx, param, incomplete)


class Weights(click.ParamType):
    """A file of weights, or the name of bundled or fetched ones."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Keep a name, and make a path of all else."""
        from refnet_cli.model.weight_files import parse_weights

        chosen = parse_weights(value)
        return FILE.convert(chosen, param, ctx) if isinstance(chosen, Path) else chosen

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the names, and leave it to the shell to complete a path."""
        from refnet_cli.model.published import fetched_weights
        from refnet_cli.model.weight_files import BundledName

        known = dict.fromkeys((*get_args(BundledName), *(path.stem for path in fetched_weights())))
        names = [CompletionItem(name) for name in known if name.startswith(incomplete)]
        return [*FILE.shell_complete(ctx, param, incomplete), *names]  # in bash a path empties what came before it


WEIGHTS = Weights()
OVERWRITE = click.option(
    "--overwrite", is_flag=True, default=None, help="Replace existing files that refnet did not write."
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")
PREDICT, SCENE = "refnet_cli.prediction.options:PredictOptions", "refnet_cli.scene.options:SceneOptions"
OF_PREDICTION = "coreg", "missing", "on_read_error"
"""Options of scenes that matter to commands which make or describe a map."""
_TYPES: dict[Any, Any] = {
    tuple[Path, ...]: PathList(), tuple[str, ...]: NameList(), int: click.INT, float: click.FLOAT, str: click.STRING,
    Path: FILE,
}  # fmt: skip
"""Of the types that a field may have, the first of these tells that of the option."""
_SPECIAL: dict[str, dict[str, Any]] = {
    "output": {
        "param_decls": ["-o", "--output", "given_outputs"], "type": click.STRING, "multiple": True,
        "metavar": "[KIND=]PATH", "shell_complete": FILE.shell_complete,
    },
    "optical": {"param_decls": ["--optical", "--s2", "optical"]},
    "sar": {"param_decls": ["--sar", "--s1", "sar"]},
    "season": {"type": click.Path(path_type=Path)},
    "cache": {"type": FOLDER},
    "cloud_mask": {"type": FILE},  # with codes behind it, or a name, which its dataclass tells apart
    "bounds": {"type": NameList(joins=False), "metavar": "W,S,E,N[,CRS]"},
    "provider": {"type": click.Choice(list(PROVIDERS))},
}  # fmt: skip
"""What does not follow from a field's type."""


class OptionsCommand(StrictCommand):
    """A command with options that are fields of a dataclass, which is imported when they are first asked for.

    Parameters
    ----------
    groups : mapping of str to sequence of str, optional
        Names of options by the heading under which help lists them; the others follow under the last one.
    """

    _params: list[Any]

    def __init__(self, *arguments: Any, groups: Mapping[str, Sequence[str]] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.groups = groups or {}

    @property
    def params(self) -> list[click.Parameter]:
        """Options and arguments."""
        self._params = [
            made for entry in self._params for made in (entry.make() if isinstance(entry, _Fields) else [entry])
        ]
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = params

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, under the headings of their groups if there are any."""
        if not self.groups:
            super().format_options(ctx, formatter)
            return
        left = {parameter.name: parameter.get_help_record(ctx) for parameter in self.get_params(ctx)}
        listed = [(title, [left.pop(name) for name in names]) for title, names in self.groups.items()]
        listed[-1][1].extend(left.values())
        for title, records in listed:
            with formatter.section(title):
                formatter.write_dl([record for record in records if record])


@dataclass(frozen=True)
class _Fields:
    """Stands among the parameters of an `OptionsCommand` for the options that `field_options` describes."""

    kind: str
    without: Sequence[str]
    defaults: bool

    def make(self) -> list[click.Option]:
        return [
            _make_option(field, kinds, self.defaults)
            for field, kinds in on_command_line(resolve_name(self.kind))
            if field.name not in self.without
        ]


def field_options(
    kind: str, *, without: Sequence[str] = (), defaults: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that are fields of a dataclass to an `OptionsCommand`.

    Parameters
    ----------
    kind : str
        The dataclass, as ``module:name``.
    without : sequence of str
        Names of fields that are not options of the command.
    defaults : bool
        Whether help texts have the defaults.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        vars(command).setdefault("__click_params__", []).append(_Fields(kind, without, defaults))
        return command

    return add


def on_command_line(kind: type[Any]) -> list[tuple[Field[Any], tuple[Any, ...]]]:
    """Return the fields that are options of their own, with their types, in the order of the dataclass's arguments.

    Fields without a help text and tables are for files only, and ``--output`` gives ``outputs`` too.
    """
    hints = get_type_hints(kind)
    ordered = sorted(fields(kind), key=lambda field: bool(field.kw_only))
    named = [field for field in ordered if field.metadata.get("help") and field.name != "outputs"]
    typed = [(field, alternatives(hints[field.name])) for field in named]
    return [(field, kinds) for field, kinds in typed if not any(get_origin(kind) is dict for kind in kinds)]


def default_of(field: Field[Any]) -> str:
    """Return the default of a field for its help text; empty if by default nothing is done."""
    if field.metadata["default_text"] or any(field.default is nothing for nothing in (MISSING, None, False)):
        return str(field.metadata["default_text"])
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _make_option(field: Field[Any], kinds: Sequence[Any], defaults: bool) -> click.Option:
    flag = f"--{field.name.replace('_', '-')}"
    default = default_of(field) if defaults else field.metadata["default_text"]
    about = {
        "param_decls": [f"{flag}/--no-{flag[2:]}" if field.default is True else flag],
        "help": field.metadata["help"] + (f"  [default: {default}]" if default else ""),
        "metavar": field.metadata["metavar"],
    }
    about |= {"is_flag": True, "default": None} if bool in kinds else {"type": _type_of(kinds)}
    return click.Option(**about | _SPECIAL.get(field.name, {}))


def _type_of(kinds: Sequence[Any]) -> Any:
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return WEIGHTS if Path in kinds else click.Choice(choices)
    return next(made for kind, made in _TYPES.items() if kind in kinds)


def removed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``refnet predict`` refuse options of earlier versions, with their replacement."""

    def refuse(context: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            refuse_removed("-o", {str(option.name): value})

    for name in REMOVED_OPTIONS:
        command = click.option(f"--{name}", hidden=True, expose_value=False, callback=refuse)(command)
    return command


def print_paths(paths: Iterable[str], null: bool) -> None:
    """Print paths, each on a line or with a zero byte at its end."""
    for path in paths:
        click.echo(path, nl=not null)
        if null:
            click.echo("\0", nl=False)


def check_output(
    output: Path | None,
    endings: Sequence[str],
    inputs: Iterable[Path | Remote | None],
    overwrite: bool | None,
    remedy: str = "",
) -> None:
    """Refuse a file to write, if there is one, that cannot be written, or in whose place another one lies."""
    from refnet_cli.system import marks

    if output is not None:
        paths = [path for path in inputs if isinstance(path, Path)]
        marks.check_output(output, endings, "this output", paths, bool(overwrite), remedy)


def with_outputs(given: dict[str, Any]) -> dict[str, Any]:
    """Tell the map from the further outputs among what ``--output`` was given."""
    outputs = given.pop("given_outputs")
    refuse_removed("-o", {}, outputs)
    map_, further = _divide(outputs)
    return given | {"output": Path(map_) if map_ else None, "outputs": further or None}


def _divide(texts: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the path of the map among outputs, if it is there, and the further outputs."""
    texts = list(texts)
    if len(texts) == 1 and "=" not in texts[0] and Path(texts[0]).suffix:
        return texts[0], ()  # a path: names of outputs have no dot
    from refnet_cli.outputs import OUTPUTS  # takes half a second to import

    maps, further = [], []
    for text in texts:
        kind, _, path = text.partition("=")
        if kind == "classes" and path:
            maps.append(path)
        elif kind in OUTPUTS:
            further.append(text)
        else:
            maps.append(text)
    if len(maps) > 1:
        raise click.UsageError(
            f"{' and '.join(maps)} are two class maps. Further outputs are given as KIND or KIND=PATH, with KIND one "
            f"of {', '.join(OUTPUTS)}."
        )
    if "-" in maps or any(text.endswith("=-") for text in further):
        raise click.UsageError(
            "A map cannot go to stdout: it is checked and then moved into place as a whole, and a Cloud Optimized "
            "GeoTIFF begins with what is known last. Write it to a file, whose path is printed: "
            "cp \"$(refnet predict ... -o lulc.tif)\" elsewhere."
        )
    return maps[0] if maps else None, tuple(further)


def read_config(kind: type[Any], config: Path) -> dict[str, Any]:
    """Read a config file; paths in it, those inside texts too, are relative to its folder.

    ``output`` may be a list, of what ``--output`` takes.
    """
    from refnet_cli.system.config import read, read_toml, some

    table = read_toml(config)
    given = table.get("output")
    lists = [entry for entry in (given, table.get("outputs")) if isinstance(entry, list)]
    if removed := find_removed(table, [output for entry in lists for output in entry]):
        instead = json.dumps(removed.output, ensure_ascii=False)
        raise ConfigError(f"{config}: {removed.said}. Write outputs = [{instead}] instead.")
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        map_, further = _divide(table.pop("output"))
        table |= {"output": map_} if map_ is not None else {}
        if isinstance(table.setdefault("outputs", []), list):
            table["outputs"] = [*further, *table["outputs"]]
    values: dict[str, Any] = read(some(kind), table, config, config.parent)  # type: ignore[arg-type]  # made here
    if str(values.get("scheme", "")).lower().endswith(".toml"):
        values["scheme"] = str(config.parent / values["scheme"])
    if "outputs" in values:
        split = [(text, *text.partition("=")[::2]) for text in values["outputs"]]
        values["outputs"] = tuple(f"{name}={config.parent / path}" if path else text for text, name, path in split)
    return values


def fill(kind: type[Any], given: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """Return the options that the command line gives and, behind it, those of a config file."""
    values = read_config(kind, config) if config else {}
    values |= {name: value for name, value in given.items() if value is not None}
    if not {"optical", "sar", "season"} & values.keys():
        said = "Nothing to map: give --optical, --sar or both, or --season."
        raise click.UsageError(said, click.get_current_context())
    if "output" not in values:
        raise click.UsageError("Missing option '--output'.", click.get_current_context())
    return values
