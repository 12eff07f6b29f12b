"""Files of tasks, and the conflicts between tasks that are refused."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from refnet_cli.batch.failures import failure_path
from refnet_cli.batch.identity import dates_of, inputs_of
from refnet_cli.batch.sidecar import sidecar_path
from refnet_cli.batch.task import Task
from refnet_cli.errors import ConfigError, InputMissingError
from refnet_cli.scene.season_files import table_of_season
from refnet_cli.system.urls import Remote


def read_tasks(source: Path) -> list[Task]:
    """Read a file of tasks, one JSON object per line.

    Raises
    ------
    InputMissingError
        If the file cannot be read.
    ConfigError
        If a line is not a task, or tasks conflict; see `check_distinct`.
    """
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissingError(f"The file of tasks {source} cannot be read: {error}.") from error
    tasks = [Task.from_line(line, source.absolute()) for line in lines if line.strip()]
    check_distinct(tasks)
    return tasks


def check_distinct(tasks: Iterable[Task]) -> None:
    """Check that each file is written by one task only, and by none if a task reads it.

    Raises
    ------
    ConfigError
        If two tasks write the same file, or a task writes a file that any of them reads, or into a folder that any of
        them reads.
    """
    seen: set[Path] = set()
    maps: dict[Path, Path] = {}
    read: set[Path] = set()
    for task in tasks:
        if (path := _absolute(task.path)) in seen:
            raise ConfigError(f"Two tasks write {task.path}. Give each scene an output of its own.")
        seen.add(path)
        inputs = inputs_of(task.options, dates_of(task.options))
        read.update(_absolute(path) for path in inputs if not isinstance(path, Remote))
        if task.options.season:
            read.add(_absolute(table_of_season(task.options.season)))
        output = _absolute(task.options.output)
        for written in map(_absolute, task.options.output_paths.values()):
            if maps.setdefault(written, output) != output:
                raise ConfigError(f"Two tasks write {written}. Give each scene outputs of its own.")
    sidecars = {file for output in maps.values() for file in (sidecar_path(output), failure_path(output))}
    for written in (*maps, *sidecars):
        if written in maps and written in sidecars:
            raise ConfigError(
                f"An output has the name {written}, which the batch needs for the state of a map. Choose another name."
            )
        if written in read:
            raise ConfigError(f"A task writes {written}, which a task reads. Choose another output.")
        if folder := next((folder for folder in written.parents if folder in read), None):
            raise ConfigError(
                f"A task writes {written} into the folder {folder}, which a task reads. The new file would change that "
                "input. Choose an output outside of the folder."
            )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
