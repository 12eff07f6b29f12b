"""Predict the tiles of a scene, and stitch them to rows of probabilities while threads read ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refnet_cli.outputs.cog import BLOCK
from refnet_cli.outputs.journal import Counts
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import Rows
from refnet_cli.prediction.job import Job
from refnet_cli.scene.blocks import Patch, Scene
from refnet_cli.system.prefetch import WriteBehind, read_ahead
from refnet_cli.tiles.rows import RowAssembler
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32, Progress, UInt8, UInt16

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

Needed = Callable[[Window], NDArray[np.bool_]]
AHEAD, BEHIND = 3, 2  # batches that are read or in the network; batches that wait to be written


class RowSink(Protocol):
    """What receives the rows of a map: its outputs, or arrays."""

    def keep_counts(self, counts: Counts) -> None:
        """Keep the counts of the blocks that were read for the next rows."""

    def add(self, rows: Rows) -> None:
        """Take the next rows, from north to south."""


class Batch(NamedTuple):
    """Tiles that the network predicts in one call."""

    windows: list[Window]
    """Positions of the tiles; may be empty at the end of a row of tiles."""
    optical: Float32
    """Shape (N, Bo, tile, tile)."""
    sar: Float32
    """Shape (N, Bs, tile, tile)."""
    valid: list[Bool | None]
    """The pixels in which each tile counts; see `Scene.read_tiles`."""
    skipped: int
    """Tiles without a valid pixel that were skipped since the previous batch with any."""
    finished: UInt8 | UInt16 | None
    """After the last tiles of a row: the quality of the rows that no later tile overlaps, shape (rows, width)."""
    counts: Counts
    """Counts of the blocks that were read since the previous batch."""


class QuicklookFeed:
    """Adds the pixels of a scene to a quicklook while the scene is read.

    Parameters
    ----------
    pair : Scene
    quicklook : Quicklook or None
        None to do nothing.
    """

    def __init__(self, pair: Scene, quicklook: Quicklook | None) -> None:
        self._pair, self._quicklook = pair, quicklook

    def add(self, window: Window) -> None:
        """Add a window, block by block."""
        if self._quicklook is None:
            return
        for piece in window.pieces(BLOCK):
            patch = self._pair.read(piece)
            self._quicklook.add(piece.row, piece.column, patch.optical, patch.sar)


def write_rows(
    job: Job,
    pair: Scene,
    engine: Engine,
    first: int,
    outputs: RowSink,
    quicklook: Quicklook | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Predict the rows of a map, and write them to its outputs in a background thread.

    Parameters
    ----------
    job : Job
    pair : Scene
    engine : Engine
    first : int
        First row of the mapped area to predict; the rows above it are finished.
    outputs : RowSink
    quicklook : Quicklook, optional
        Receives the whole area, including finished rows.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.

    Returns
    -------
    dict
        Number of tiles that were ``run``, and ``skipped`` because they have no valid pixel.
    """
    counts = {"run": 0, "skipped": 0}
    tiling, area = job.tiling(pair.grid)
    missing = area._replace(row=area.row + first, height=area.height - first)
    feed = QuicklookFeed(pair, quicklook)
    feed.add(area._replace(height=first))
    if not missing.height:
        return counts
    assembler = RowAssembler(tiling, engine.card.network.classes, missing, job.options.smooth, pair.usable)
    if quicklook or assembler.stitched != area:  # otherwise the blocks of the area are being read already
        prefetch(pair, tiling, assembler.stitched)

    def take(batch: Batch, probabilities: Float32) -> None:
        outputs.keep_counts(batch.counts)
        for row, finished, seen in assembler.push(batch.windows, probabilities, batch.finished, batch.valid):
            rows = Rows(row - area.row, finished, pair.usable(seen), engine.card.scheme, job.crosswalk, seen)
            outputs.add(replace(rows, threshold=job.options.threshold))

    batches = _predict_batches(
        pair, engine, tiling, assembler.stitched, progress, counts,
        on_rows=lambda window: feed.add(window.within(missing)),
    )  # fmt: skip
    with closing(batches) as done, WriteBehind(BEHIND) as behind:
        for batch, probabilities in done:
            behind.call(take, batch, probabilities)
    return counts


def predict_rows(
    pair: Scene,
    engine: Engine,
    tiling: Tiling,
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
    needed: Needed | None = None,
) -> Generator[Rows, None, None]:
    """Predict a scene one row of tiles at a time, while a thread reads the next tiles.

    Nothing else may read from the pair until the generator is exhausted or closed.

    Parameters
    ----------
    pair : Scene
    engine : Engine
    tiling : Tiling
        Tiling of the pair's grid.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.
    counts : dict, optional
        Its entries ``run`` and ``skipped`` are incremented.
    needed : callable, optional
        Returns the mask of needed pixels for a window of the grid. Tiles without a needed pixel are skipped, and other
        pixels are not valid.

    Yields
    ------
    Rows
        From north to south, each row of the grid once.
    """
    prefetch(pair, tiling, tiling.whole, needed)
    assembler = RowAssembler(tiling, engine.card.network.classes, tiling.whole, 0, pair.usable)
    counts = counts if counts is not None else {"run": 0, "skipped": 0}
    with closing(_predict_batches(pair, engine, tiling, tiling.whole, progress, counts, needed)) as done:
        for batch, probabilities in done:
            for row, finished, seen in assembler.push(batch.windows, probabilities, batch.finished, batch.valid):
                yield Rows(row, finished, pair.usable(seen), engine.card.scheme, quality=seen)


def prefetch(pair: Scene, tiling: Tiling, area: Window, needed: Needed | None = None) -> None:
    """Start reading the blocks of the tiles of an area in the pair's threads."""
    inside = (window.clip(tiling.height, tiling.width) for windows in tiling.rows(area) for window in windows)
    pair.prefetch(window for window in inside if needed is None or needed(window).any())


def _read_seen(pair: Scene, window: Window, needed: Needed | None) -> UInt8 | UInt16:
    """Read the quality of a window's needed pixels; 0 elsewhere."""
    if needed is None:
        return pair.read_seen(window)
    chosen = needed(window)
    seen: UInt8 | UInt16 = np.zeros(chosen.shape, np.uint8)
    columns = np.flatnonzero(chosen.any(0))
    if len(columns):
        left, right = int(columns[0]), int(columns[-1]) + 1
        part = window._replace(column=window.column + left, width=right - left)
        seen[:, left:right] = pair.read_seen(part) * chosen[:, left:right]
    return seen


def _predict_batches(
    pair: Scene,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    progress: Progress | None,
    counts: dict[str, int],
    needed: Needed | None = None,
    on_rows: Callable[[Window], None] | None = None,
) -> Generator[tuple[Batch, Float32], None, None]:
    """Yield the batches of the tiles that overlap an area, with their probabilities, shape (N, K, tile, tile)."""
    total = sum(map(len, tiling.rows(area))) * pair.patches_per_tile
    empty = np.empty((0, engine.card.network.classes, tiling.tile, tiling.tile), np.float32)
    with closing(read_ahead(_read_batches(pair, engine, tiling, area, needed, on_rows), AHEAD)) as batches:
        for batch in batches:
            probabilities = engine.predict(batch.optical, batch.sar) if batch.windows else empty
            counts["run"] += len(batch.windows)
            counts["skipped"] += batch.skipped
            if progress:
                progress(counts["run"] + counts["skipped"], total)
            yield batch, probabilities


def _read_batches(
    pair: Scene,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    needed: Needed | None,
    on_rows: Callable[[Window], None] | None,
) -> Iterator[Batch]:
    """Read the tiles of an area that have a valid pixel, in batches of the engine's size."""
    top, end = area.row, area.row + area.height
    rows = list(tiling.rows(area))
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
        chosen: list[tuple[Window, Patch, Bool | None]] = []
        skipped = 0
        for window in windows:
            if not pair.usable(_read_seen(pair, window.clip(*pair.grid.shape), needed)).any():
                skipped += pair.patches_per_tile
                continue
            skipped += pair.patches_per_tile
            for patch, valid in pair.read_tiles(window):
                skipped -= 1
                chosen.append((window, patch, valid))
                if len(chosen) >= engine.batch:
                    yield _batch(pair, chosen, 0)
                    chosen = []
        bottom = end if later is None else min(later[0].row, end)
        if bottom <= top:  # no row is finished yet: the next tiles overlap them all
            yield _batch(pair, chosen, skipped)
            continue
        finished = area._replace(row=top, height=bottom - top)
        if on_rows:
            on_rows(finished)
        yield _batch(pair, chosen, skipped, _read_seen(pair, finished, needed))
        top = bottom


def _batch(
    pair: Scene, tiles: list[tuple[Window, Patch, Bool | None]], skipped: int, finished: UInt8 | UInt16 | None = None
) -> Batch:
    optical, sar = (
        np.stack(layers) if tiles else np.empty((0, 0, 0, 0), np.float32)
        for layers in ([patch.optical for _, patch, _ in tiles], [patch.sar for _, patch, _ in tiles])
    )
    valid = [counts for _, _, counts in tiles]
    return Batch([window for window, _, _ in tiles], optical, sar, valid, skipped, finished, pair.take_counts())
