"""Whether the results of tasks are complete and up to date."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from refnet_cli.batch.identity import identify
from refnet_cli.batch.sidecar import read_sidecar
from refnet_cli.batch.task import Task


def is_done(task: Task, identity: str) -> bool:
    """Return whether the files of a task have the sizes in its sidecar, and were made from the same inputs."""
    found = read_sidecar(task.sidecar)
    if found is None or found.get("id") != identity:
        return False
    try:
        sizes = {Path(file["path"]): file["bytes"] for file in found["files"]}
        return task.path in sizes and all(path.stat().st_size == size for path, size in sizes.items())
    except (OSError, KeyError, TypeError):
        return False


def is_finished(task: Task, identity: str) -> bool:
    """Return whether a task is done, or is a block of a finished map, which no longer needs it."""
    return is_done(task, identity) or is_merged(task)


def is_merged(task: Task) -> bool:
    """Return whether a task is a block of a finished map."""
    whole_map = replace(task, block=None)
    return task.block is not None and is_done(whole_map, identify(whole_map))


def missing(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks that are not finished."""
    return [task for task in tasks if not is_finished(task, identify(task))]
