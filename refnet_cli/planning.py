"""From lists of scenes, as tables, STAC items or paths, to tasks."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from refnet_cli.card import find_weights, read_card
from refnet_cli.errors import ConfigError, InputMissingError, OptionsError
from refnet_cli.outputs import BLOCK
from refnet_cli.prediction.predict import PredictOptions
from refnet_cli.remote import is_remote, split_paths
from refnet_cli.scene import ScenePair
from refnet_cli.tasks import Task, check_distinct, identify
from refnet_cli.tiling import Window

COLUMNS = ("optical", "sar", "output")
_FIELD = re.compile(r"\{([\w.-]+)\}")


@dataclass(frozen=True)
class Templates:
    """Texts in which ``{field}`` stands for what a scene says of itself; a scene's own column goes first."""

    optical: str | None = None
    sar: str | None = None
    output: str | None = None
    outputs: tuple[str, ...] = ()
    """Further outputs, as `refnet_cli.prediction.predict.PredictOptions.outputs`."""


def read_scenes(text: str, folder: Path, null: bool = False) -> list[dict[str, str]]:
    """Read what is said of scenes: a STAC ItemCollection, a CSV table with a header, or paths of optical files.

    Parameters
    ----------
    text : str
        The whole list. It is STAC if it begins with a brace, and a table if its first line has a column "optical" or
        commas or semicolons; else each line is a path.
    folder : Path
        That relative paths in it are relative to.
    null : bool
        Paths end with a zero byte, as those of ``find -print0``.

    Returns
    -------
    list of dict
        The fields of each scene. Of STAC items ``id``, ``collection``, ``date`` and the ``href`` of each asset by its
        key; of tables the columns; of paths ``optical``.

    Raises
    ------
    ConfigError
        If it is empty or cannot be understood.
    """
    text = text.removeprefix("\ufeff")
    if null:
        scenes = [{"optical": path} for path in text.split("\0") if path]
    elif text.lstrip().startswith("{"):
        scenes = list(_read_items(text, folder))
    else:
        lines = text.splitlines()
        first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
        head = lines[first] if first < len(lines) else ""
        table = re.search(r"[,;\t]|^\"?optical\"?$", head, re.IGNORECASE) and not os.path.exists(folder / head)
        paths = (line.strip() for line in lines if line.strip())
        scenes = list(_read_table(lines[first:], first)) if table else [{"optical": path} for path in paths]
    if not scenes:
        raise ConfigError("The list of scenes is empty.")
    return scenes


def _read_table(lines: Sequence[str], before: int) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of which lines stand before; empty lines are passed over."""
    separator = max(",;\t", key=lines[0].count)
    text = "\n".join(line if line.strip() else "" for line in lines)
    rows = csv.DictReader(io.StringIO(text), delimiter=separator, restkey="", strict=True)
    options = sorted({field.name for field in fields(PredictOptions)} - {*COLUMNS})
    columns = [name.strip() for name in rows.fieldnames or []]
    columns = [name.lower() if name.lower() in COLUMNS else name for name in columns]
    rows.fieldnames = columns
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise ConfigError(f"The table has two columns {twice[0]!r}: leave one of them.")
    wrong = [name for name in columns if name in options]
    if wrong:
        raise ConfigError(f"The table has a column {wrong[0]!r}, but options hold for all scenes: give it as one.")
    try:
        for row in rows:
            if "" in row or None in row.values():
                number = before + rows.line_num
                raise ConfigError(f"Line {number} of the table has not {len(columns)} columns, as its first line has.")
            yield {name: value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise ConfigError(f"The table cannot be read: {error}.") from error


def _read_items(text: str, folder: Path) -> Iterator[dict[str, str]]:
    try:
        collection = json.loads(text)
        for item in collection["features"] if collection["type"] == "FeatureCollection" else [collection]:
            assets = {name: _href(asset["href"], folder) for name, asset in item["assets"].items()}
            date = str(item["properties"].get("datetime") or item["properties"].get("start_datetime") or "")
            yield assets | {"id": item["id"], "collection": str(item.get("collection") or ""), "date": date[:10]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"The list is no STAC Item or ItemCollection ({error!r}).") from error


def _href(href: str, folder: Path) -> str:
    if href.startswith("file://"):
        return unquote(urlsplit(href).path)
    return href if is_remote(href) or href.startswith("/") else str(folder / href)


def plan(
    scenes: Sequence[Mapping[str, str]],
    templates: Templates,
    options: Mapping[str, Any],
    folder: Path,
    block: int | None = None,
) -> Iterator[Task]:
    """Make tasks of scenes.

    Parameters
    ----------
    scenes : sequence of mapping
        What `read_scenes` returned.
    templates : Templates
    options : mapping
        Of `refnet_cli.prediction.predict.PredictOptions`, the same for all.
    folder : Path
        That paths in columns are relative to; those in templates are relative to the working directory.
    block : int, optional
        Side of the blocks that maps are cut into, in pixels.

    Yields
    ------
    Task
        In the order of the scenes, blocks from north to south and west to east.

    Raises
    ------
    OptionsError
        If a scene lacks a field that a template names, or the blocks are impossible.
    ConfigError
        If two scenes would make the same map.
    InputError, InputMissingError
        If blocks are wanted and a scene cannot be opened to see how large it is.
    """
    if block is not None and (block < BLOCK or block % BLOCK):
        raise OptionsError(f"Blocks of {block} pixels are no whole tiles of the map: give a multiple of {BLOCK}.")
    tasks = [_task(scene, templates, options, folder) for scene in scenes]
    check_distinct(tasks)
    for task in tasks:
        for part in [None] if block is None else _blocks(task.options, block):
            placed = replace(task, block=part)
            yield replace(placed, id=identify(placed))


def _task(scene: Mapping[str, str], templates: Templates, options: Mapping[str, Any], folder: Path) -> Task:
    optical = _fill_in("optical", scene, templates.optical, scene, folder)
    place = _inputs(optical)[0]
    of_file = {
        "path": optical, "name": place.name, "stem": _stem(place), "parent": str(place.parent),
        "folder": place.parent.name,
    }  # fmt: skip
    fields_ = of_file | dict(scene)
    sar, output = (_fill_in(name, scene, getattr(templates, name), fields_, folder) for name in ("sar", "output"))
    further = tuple(_placed(_resolved(text, fields_)) for text in templates.outputs)
    given: dict[str, Any] = {
        name: Path(os.path.abspath(value)) if isinstance(value, Path) else value for name, value in options.items()
    }
    if str(given.get("scheme", "")).endswith(".toml"):
        given["scheme"] = os.path.abspath(given["scheme"])
    return Task(PredictOptions(_inputs(optical), _inputs(sar), Path(output), outputs=further, **given))


def _placed(output: str) -> str:
    kind, equals, path = output.partition("=")
    return f"{kind}={os.path.abspath(path)}" if equals else output


def _stem(path: Path) -> str:
    return re.sub(r"\.(tiff?|jp2|safe|zip|vrt)$", "", path.name, flags=re.IGNORECASE)


def _fill_in(
    what: str, scene: Mapping[str, str], template: str | None, known: Mapping[str, str], folder: Path
) -> str:
    """Return a scene's own column, else what the template says; both with absolute paths."""
    if scene.get(what):
        return _absolute(what, scene[what], folder)
    if template is None:
        raise OptionsError(
            f"Nothing tells the {what} of the scenes: give the table a column {what!r}, or "
            f"--{'map' if what == 'output' else what} a text with fields in braces, of {_listed(known)}."
        )
    return _absolute(what, _resolved(template, known), Path.cwd())


def _resolved(template: str, known: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise OptionsError(f"{template!r} names {{{found[1]}}}, but a scene has {_listed(known)}.")
        return known[found[1]]

    return _FIELD.sub(value, template)


def _listed(known: Mapping[str, str]) -> str:
    return ", ".join(f"{{{name}}}" for name in known)


def _absolute(what: str, text: str, folder: Path) -> str:
    one = what == "output" or os.path.exists(folder / text)  # only inputs may be several
    parts = [text] if one else split_paths(text)
    return ",".join(part if is_remote(part) else os.path.abspath(folder / part) for part in parts)


def _inputs(text: str) -> tuple[Path, ...]:
    return tuple(map(Path, [text] if os.path.exists(text) else split_paths(text)))


def _blocks(options: PredictOptions, side: int) -> Iterator[Window]:
    card = read_card(find_weights(options.weights))
    scene = replace(options.scene, coreg="off")
    with ScenePair.open(options.optical, options.sar, card.optical.bands, card.sar.bands, scene) as pair:
        height, width = pair.grid.shape
    for row in range(0, height, side):
        for column in range(0, width, side):
            yield Window(row, column, side, side).clip(height, width)


def read_list(source: Path | None, stdin: Any) -> tuple[str, Path]:
    """Return the text of a list of scenes, and the folder that its paths are relative to.

    Raises
    ------
    InputMissingError
        If it cannot be read.
    """
    if source is None:
        return stdin.buffer.read().decode("utf-8", errors="surrogateescape"), Path.cwd()
    try:
        return source.read_text(encoding="utf-8"), source.absolute().parent
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissingError(f"The list of scenes {source} cannot be read: {error}.") from error
