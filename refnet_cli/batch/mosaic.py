"""Merge the blocks of a map. The files have the same bytes as those of a single run."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from refnet_cli.batch.identity import identify
from refnet_cli.batch.outcome import Outcome
from refnet_cli.batch.run import attempt
from refnet_cli.batch.sidecar import other_version, read_sidecar
from refnet_cli.batch.task import Task
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, InputMissingError, OptionsError
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
from refnet_cli.types import Progress
from refnet_cli.version import __version__


def merge_maps(tasks: Sequence[Task], overwrite: bool = False, progress: Progress | None = None) -> Generator[Outcome]:
    """Merge the blocks of each map that is not finished.

    Parameters
    ----------
    tasks : sequence of Task
    overwrite : bool
        Replace existing files that refnet did not write, even if the tasks do not allow it.
    progress : callable, optional
        Called with the number of merged blocks and the number of blocks of all maps.

    Yields
    ------
    Outcome
        One per map that has blocks.

    Raises
    ------
    OptionsError
        If no map has blocks.
    """
    if not blocks_by_map(tasks):
        raise OptionsError("These tasks have no blocks to merge. refnet batch plan --blocks divides maps into blocks.")
    if overwrite:
        tasks = [replace(task, options=replace(task.options, overwrite=True)) for task in tasks]
    maps, before = blocks_by_map(tasks), 0
    total = sum(map(len, maps))

    def report(done: int) -> None:
        if progress:
            progress(before + done, total)

    for blocks in maps:
        task = replace(blocks[0], block=None)
        yield attempt(task, partial(merge, blocks, report), "merge")
        before += len(blocks)
        report(0)


def blocks_by_map(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group the blocks among tasks by their map, in the order in which the maps first appear."""
    maps: dict[Any, list[Task]] = {}
    for task in tasks:
        if task.block is not None:
            maps.setdefault(task.options.output, []).append(task)
    return list(maps.values())


def merge(tasks: Sequence[Task], progress: Callable[[int], None] | None = None) -> Report:
    """Merge the blocks of one map and write its outputs.

    Parameters
    ----------
    tasks : sequence of Task
        All blocks of the map, finished.
    progress : callable, optional
        Called with the number of merged blocks.

    Returns
    -------
    Report

    Raises
    ------
    InputMissingError
        If a block is missing.
    OptionsError
        If an interrupted run of the same map is of another version of refnet.
    InputError
        If blocks are damaged, were made from other inputs, weights or options, or do not cover the grid; or if the map
        has no valid pixel.
    RefnetError
        If an output cannot be written.
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
    """Return the first report with the counts of all, and without the warnings about its run."""
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
        raise InputMissingError(f"The block {task.path} is missing. Run the batch first.")
    if version := other_version(found, exactly=True):
        raise InputError(
            f"The block {task.path} was made by refnet {version}. Refnet {__version__} merges only its own blocks. "
            f"Merge with refnet {version}, or make the blocks again with refnet batch run TASKS --overwrite."
        )
    if found.get("id") != identify(task):
        raise InputError(
            f"The block {task.path} was made from other inputs, weights or options than the task has now. Run the "
            "batch again."
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
    """Refuse blocks of different maps, and blocks that overlap or leave gaps."""
    for task, report in zip(tasks, reports, strict=True):
        if _of_map(report) != _of_map(reports[0]):
            raise InputError(
                f"The block {task.path} was made from other inputs, weights or options than {tasks[0].path}."
            )
    for task in tasks:
        block = _window(task)
        if block != block.clip(height, width):
            raise InputError(f"The block {task.path} is not within the map, which has become smaller. Plan again.")
    if not _cover(sorted(map(_window, tasks)), height, width):
        raise InputError(
            f"The blocks of {tasks[0].options.output} do not cover its {height} x {width} pixels. Plan again."
        )


def _of_map(report: Report) -> tuple[Any, ...]:
    return report.provenance.tags, report.grid, report.scheme


def _cover(blocks: Sequence[Window], height: int, width: int) -> bool:
    """Return whether sorted blocks form rows without gaps and overlaps."""
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
    assert task.block is not None  # the caller passes blocks only
    return task.block


def _read_rows(
    tasks: Sequence[Task], tags: dict[str, str], layers: tuple[str, ...], scheme: ClassScheme
) -> Iterator[FinishedRows]:
    """Yield rows of the full width."""
    ordered = sorted(tasks, key=_window)
    for top, side_by_side in groupby(ordered, key=lambda task: _window(task).row):
        shards = [read_shard(task.path, tags, layers, scheme, _window(task).height) for task in side_by_side]
        for parts in _in_step(shards):
            joined = {name: np.concatenate([part.layers[name] for part in parts], axis=-1) for name in layers}
            yield FinishedRows(top + parts[0].row, joined)


def _in_step(shards: Sequence[Iterator[FinishedRows]]) -> Iterator[list[FinishedRows]]:
    """Yield the same rows of all shards, which have the same height."""
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
