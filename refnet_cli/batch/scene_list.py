"""Read a list of scenes: a table, STAC items or paths."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from refnet_cli.batch.scene_tables import clean, decode, fit_row, is_table, read_rows
from refnet_cli.batch.stac_items import read_items
from refnet_cli.batch.templates import ListedColumn
from refnet_cli.errors import ConfigError, InputMissingError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import find_removed

COLUMNS = ("optical", "sar", "season", "output")
OPTION_COLUMNS = ("combine", "cloud_mask")
"""Options that a table may contain. In an empty cell, the option for all scenes applies."""


def read_list(source: Path | None, stdin: Any, null: bool = False) -> tuple[str, Path, str]:
    """Read the text of a list of scenes.

    Parameters
    ----------
    source : Path or None
        None for ``stdin``.
    stdin : file
        With a ``buffer`` of bytes.
    null : bool
        Whether the list consists of paths that end with a zero byte.

    Returns
    -------
    text : str
    folder : Path
        The folder of relative paths in the list.
    guessed : str
        The encoding, if it was guessed; else empty.

    Raises
    ------
    InputMissingError
        If the list cannot be read.
    ConfigError
        If the list is damaged.
    """
    folder = Path.cwd() if source is None else source.absolute().parent
    try:
        stored = stdin.buffer.read() if source is None else source.read_bytes()
    except OSError as error:
        raise InputMissingError(f"The list of scenes {source} cannot be read: {error.strerror}.") from error
    text, guessed = (os.fsdecode(stored), "") if null else decode(stored, folder)
    return text, folder, guessed


def read_scenes(text: str, folder: Path, null: bool = False, column: ListedColumn = "optical") -> list[dict[str, str]]:
    """Read scenes from a STAC ItemCollection, a CSV table with a header, or paths.

    Parameters
    ----------
    text : str
        The list. It is STAC if it begins with a brace. It is a table if its first line has commas, semicolons or a
        column "optical", "sar" or "season". Else each line is a path. In tables and paths, lines that begin with # are
        comments.
    folder : Path
        The folder of relative paths in the list.
    null : bool
        Whether paths end with a zero byte, as those of ``find -print0``.
    column : {"optical", "sar", "season"}
        What a list of paths contains: files of a sensor, or seasons.

    Returns
    -------
    list of dict
        The fields of each scene: of STAC items those of `refnet_cli.batch.stac_items.read_items`, of tables the
        columns, of paths the column.

    Raises
    ------
    ConfigError
        If the list is empty or cannot be understood.
    """
    text = text.removeprefix("\ufeff")
    if null:
        scenes: list[dict[str, str]] = [{column: path} for path in text.split("\0") if path]
    elif text.lstrip().startswith("{"):
        scenes = list(read_items(text, folder))
    else:
        lines = clean(text, folder)
        paths = (line.strip() for line in lines if line)
        scenes = list(_read_table(lines)) if is_table(lines, folder) else [{column: path} for path in paths]
    if not scenes:
        raise ConfigError("The list of scenes is empty.")
    return scenes


def _read_table(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    rows = read_rows(lines)
    _, names = next(rows, (0, []))
    known = *COLUMNS, *OPTION_COLUMNS
    columns = [name.lower() if name.lower() in known else name for name in names]
    _check_columns(columns)
    for number, values in rows:
        yield fit_row(columns, values, number)


def _check_columns(columns: Sequence[str]) -> None:
    """Refuse duplicate columns, and columns with the names of options for all scenes or of removed options."""
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise ConfigError(f"The table has two columns {twice[0]!r}. Remove one of them.")
    for name in columns:
        if removed := find_removed({name: f"{{{name}_file}}"}):
            raise ConfigError(
                f"The table has a column {name!r}, but {removed.said}. Rename the column to {name}_file and pass "
                f"--also {shlex.quote(removed.output)} instead."
            )
    options = {field.name for field in fields(PredictOptions)} - {*COLUMNS, *OPTION_COLUMNS}
    if wrong := sorted(options & {*columns}):
        flag = wrong[0].replace("_", "-")
        raise ConfigError(
            f"The table has a column {wrong[0]!r}, which is an option for all scenes. Remove the column and pass "
            f"--{flag} to refnet batch plan, or rename the column."
        )
