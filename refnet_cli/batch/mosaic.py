"""The blocks of a map put together: a pure function of their shards, with the bytes of a single run."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from refnet_cli.batch.task import Task, identify, other_version, read_sidecar
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.outputs import needs_quicklook
from refnet_cli.outputs.base import sha256_of
from refnet_cli.outputs.block_file import read_look, read_shard
from refnet_cli.outputs.journal import FinishedRows
from refnet_cli.outputs.output_set import OutputSet
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.resume_log import refuse_other_version
from refnet_cli.prediction.job import context_of, files_of, resolve_season
from refnet_cli.prediction.predict import add_sidecars, complete, rows_of
from refnet_cli.prediction.report import Report
from refnet_cli.system.marks import check_replaceable
from refnet_cli.tiles.window import Window
from refnet_cli.version import __version__


def merge(tasks: Sequence[Task], progress: Callable[[int], None] | None = None) -> Report:
    """Put the blocks of a map together and make its outputs.

    Parameters
    ----------
    tasks : sequence of Task
        All blocks of one map, each done.
    progress : callable, optional
        Called with how many of them are put together.

    Returns
    -------
    Report

    Raises
    ------
    InputMissingError
        If a block is missing.
    OptionsError
        If a run of another version of refnet for the same map was interrupted.
    InputError
        If blocks are damaged, are of other inputs, weights or options than the tasks now, or do not cover the grid; or
        the map shows nothing.
    RefnetError
        If an output cannot be made.
    """
    if tasks[0].options.resume:
        refuse_other_version(tasks[0].options.output)
    check_replaceable(files_of(tasks[0].options), tasks[0].options.overwrite)
    reports = [_report(task) for task in tasks]
    options, _ = resolve_season(tasks[0].options)
    scheme = ClassScheme.from_dict(reports[0].scheme)
    report = _joined(reports)
    grid = GeoBox((report.grid["height"], report.grid["width"]), Affine(*report.grid["transform"]), report.wkt)
    _check_blocks(tasks, reports, *grid.shape)
    tags = report.provenance.tags
    ends = sorted(block.row + block.height for block in map(_window, tasks))
    look = _look(tasks) if needs_quicklook(options.output_paths) else None
    with ExitStack() as stack:
        outputs = OutputSet(context_of(options, scheme, grid, tags, look), options.output_paths, stack)
        for finished in _read_rows(tasks, tags, outputs.layers, scheme):
            outputs.add(rows_of(finished, scheme, options.either))
            if progress:
                progress(bisect_right(ends, finished.row + finished.rows))
        report = complete(report, outputs)
    return add_sidecars(report, options, scheme)


def _joined(reports: Sequence[Report]) -> Report:
    """Return the first report with what all of them count, and without warnings of its run."""
    first = reports[0]
    counts = sum((Counter(report.counts) for report in reports), Counter())
    return replace(
        first,
        warnings=[warning for warning in first.warnings if warning not in first.warnings_of_run],
        warnings_of_run=[],
        counts=dict(sorted(counts.items())),
        tiles=dict(sum((Counter(report.tiles) for report in reports), Counter())),
    )


def _look(tasks: Sequence[Task]) -> Quicklook:
    look, *others = [read_look(task.path) for task in tasks]
    for other in others:
        look.merge(other)
    return look


def _report(task: Task) -> Report:
    found = _sidecar(task)
    try:
        report = Report(**found["report"])
        _ = report.provenance.tags
        Affine(*report.grid["transform"])
        return report
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{task.sidecar} is damaged, or of another version of refnet ({error!r}). Remove it and run the "
            "batch again."
        ) from error


def _sidecar(task: Task) -> dict[str, Any]:
    found = read_sidecar(task.sidecar)
    if found is None:
        raise InputMissingError(f"The block {task.path} is missing: run the batch first.")
    if version := other_version(found, exactly=True):
        raise InputError(
            f"The block {task.path} was made by refnet {version}, and refnet {__version__} merges its own only. Merge "
            f"the blocks with refnet {version}, or make them again: refnet batch run TASKS --overwrite."
        )
    if found.get("id") != identify(task):
        raise InputError(
            f"The block {task.path} is of other inputs, weights or options than the task has now: run the batch again."
        )
    try:
        sums = {Path(file["path"]): file["sha256"] for file in found["files"]}
    except (KeyError, TypeError):
        sums = {}
    if task.path not in sums:
        raise InputError(f"{task.sidecar} is damaged. Remove it and run the batch again.")
    for path, sha256 in sums.items():
        if path.exists() and sha256_of(path) != sha256:
            raise InputError(f"{path} is damaged. Remove it and run the batch again.")
    return found


def _check_blocks(tasks: Sequence[Task], reports: Sequence[Report], height: int, width: int) -> None:
    """Refuse blocks that are of different maps, or leave out or share pixels."""
    for task, report in zip(tasks, reports, strict=True):
        if _of_map(report) != _of_map(reports[0]):
            raise InputError(f"The block {task.path} is of other inputs, weights or options than {tasks[0].path}.")
    for task in tasks:
        block = _window(task)
        if block != block.clip(height, width):
            raise InputError(f"The block {task.path} lies beyond the map, which has become smaller: plan again.")
    if not _cover(sorted(map(_window, tasks)), height, width):
        raise InputError(
            f"The blocks of {tasks[0].options.output} do not cover its {height} x {width} pixels: plan again."
        )


def _of_map(report: Report) -> tuple[Any, ...]:
    return report.provenance.tags, report.grid, report.scheme


def _cover(blocks: Sequence[Window], height: int, width: int) -> bool:
    """Tell whether blocks, ordered, lie in rows that leave out and share nothing."""
    top = 0
    for row, side_by_side in groupby(blocks, key=lambda block: block.row):
        in_row = list(side_by_side)
        ends = [0, *(block.column + block.width for block in in_row)]
        heights = {block.height for block in in_row}
        if row != top or len(heights) > 1 or [*(block.column for block in in_row), width] != ends:
            return False
        top += heights.pop()
    return top == height


def _window(task: Task) -> Window:
    assert task.block is not None  # the caller has chosen blocks
    return task.block


def _read_rows(
    tasks: Sequence[Task], tags: dict[str, str], layers: tuple[str, ...], scheme: ClassScheme
) -> Iterator[FinishedRows]:
    """Yield rows over the whole width."""
    ordered = sorted(tasks, key=_window)
    for top, side_by_side in groupby(ordered, key=lambda task: _window(task).row):
        shards = [read_shard(task.path, tags, layers, scheme, _window(task).height) for task in side_by_side]
        for parts in _in_step(shards):
            joined = {name: np.concatenate([part.layers[name] for part in parts], axis=-1) for name in layers}
            yield FinishedRows(top + parts[0].row, joined)


def _in_step(shards: Sequence[Iterator[FinishedRows]]) -> Iterator[list[FinishedRows]]:
    """Yield rows of shards of one height so that all are of the same rows."""
    held: list[FinishedRows | None] = [None] * len(shards)
    while True:
        held = [part or next(shard, None) for part, shard in zip(held, shards, strict=True)]
        parts = [part for part in held if part is not None]
        if len(parts) < len(held):
            return
        rows = min(part.rows for part in parts)
        yield [_cut(part, slice(None, rows)) for part in parts]
        held = [_cut(part, slice(rows, None)) if part.rows > rows else None for part in parts]


def _cut(part: FinishedRows, rows: slice) -> FinishedRows:
    layers = {name: layer[..., rows, :] for name, layer in part.layers.items()}
    return FinishedRows(part.row + (rows.start or 0), layers)


def blocks_by_map(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group the blocks among tasks by the map that they are of, in the order in which maps come first."""
    maps: dict[Any, list[Task]] = {}
    for task in tasks:
        if task.block is not None:
            maps.setdefault(task.options.output, []).append(task)
    return list(maps.values())
