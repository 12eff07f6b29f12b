"""From tiles of a scene to rows of probabilities, while threads read ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.outputs.cog import BLOCK
from refnet_cli.outputs.output_set import OutputSet
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import Rows
from refnet_cli.prediction.job import Job
from refnet_cli.scene.pair import Patch, ScenePair, read_tile
from refnet_cli.system.prefetch import WriteBehind, read_ahead
from refnet_cli.tiles.rows import Finishing
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32, UInt8

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles."""
Needed = Callable[[Window], NDArray[np.bool_]]
AHEAD, BEHIND = 3, 2  # batches that are in the network or read for it, and that wait to be written


class Batch(NamedTuple):
    """Tiles to predict at once."""

    windows: list[Window]
    """May be none, at the end of a row of tiles."""
    optical: Float32
    """Shape (N, Bo, tile, tile)."""
    sar: Float32
    """Shape (N, Bs, tile, tile)."""
    skipped: int
    """Tiles without any valid pixel that were passed over since the batch before."""
    finished: UInt8 | None
    """After the last tiles of a row: what was seen of the rows that no later tile touches, shape (rows, width)."""


class Quicklooker:
    """Shows a quicklook what both sensors saw, while a scene is read.

    Parameters
    ----------
    pair : ScenePair
    look : Quicklook or None
        None to show nothing.
    """

    def __init__(self, pair: ScenePair, look: Quicklook | None) -> None:
        self._pair, self._look = pair, look

    def show(self, window: Window) -> None:
        """Show a window, block by block."""
        if self._look is None:
            return
        for piece in window.pieces(BLOCK):
            patch = self._pair.read(piece)
            self._look.add(piece.row, piece.column, patch.optical, patch.sar)


def write_rows(
    job: Job,
    pair: ScenePair,
    engine: Engine,
    first: int,
    outputs: OutputSet,
    look: Quicklook | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Predict the rows of a map and give them to its outputs, in a thread of their own.

    Parameters
    ----------
    job : Job
    pair : ScenePair
    engine : Engine
    first : int
        Row of the mapped area; those above it are finished.
    outputs : OutputSet
    look : Quicklook, optional
        Is shown the whole area.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.

    Returns
    -------
    dict
        How many tiles were ``run``, and how many ``skipped`` because no pixel is valid.
    """
    counts = {"run": 0, "skipped": 0}
    tiling, area = job.tiling(pair.grid)
    missing = area._replace(row=area.row + first, height=area.height - first)
    looker = Quicklooker(pair, look)
    looker.show(area._replace(height=first))
    if not missing.height:
        return counts
    finishing = Finishing(tiling, engine.card.network.classes, missing, job.options.smooth, pair.usable)
    if look or finishing.stitched != area:  # else the threads have begun to read what the whole area needs
        expect(pair, tiling, finishing.stitched)

    def take(batch: Batch, probabilities: Float32) -> None:
        for row, finished, seen in finishing.take(batch.windows, probabilities, batch.finished):
            rows = Rows(row - area.row, finished, pair.usable(seen), engine.card.scheme, job.translation, seen)
            outputs.add(replace(rows, threshold=job.options.threshold))

    batches = _predict_batches(
        pair, engine, tiling, finishing.stitched, progress, counts,
        look_at=lambda window: looker.show(window.within(missing)),
    )  # fmt: skip
    with closing(batches) as done, WriteBehind(BEHIND) as behind:
        for batch, probabilities in done:
            behind.call(take, batch, probabilities)
    return counts


def predict_rows(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
    needed: Needed | None = None,
) -> Generator[Rows, None, None]:
    """Predict a scene, row of tiles by row of tiles, while a thread reads the next tiles.

    Until it is exhausted or closed, nothing else may read from the pair.

    Parameters
    ----------
    pair : ScenePair
    engine : Engine
    tiling : Tiling
        Of the pair's grid.
    progress : callable, optional
        Told after every batch how many tiles are done, and of how many.
    counts : dict, optional
        Its entries ``run`` and ``skipped`` are counted up.
    needed : callable, optional
        Says which pixels of a window of the grid are needed; tiles without any are skipped, and the others are not
        valid.

    Yields
    ------
    Rows
        From north to south, each row of the grid once.
    """
    expect(pair, tiling, tiling.whole, needed)
    finishing = Finishing(tiling, engine.card.network.classes, tiling.whole, 0, pair.usable)
    counts = counts if counts is not None else {"run": 0, "skipped": 0}
    with closing(_predict_batches(pair, engine, tiling, tiling.whole, progress, counts, needed)) as done:
        for batch, probabilities in done:
            for row, finished, seen in finishing.take(batch.windows, probabilities, batch.finished):
                yield Rows(row, finished, pair.usable(seen), engine.card.scheme, quality=seen)


def expect(pair: ScenePair, tiling: Tiling, area: Window, needed: Needed | None = None) -> None:
    """Have the pair's threads begin to read what the tiles of an area need."""
    inside = (window.clip(tiling.height, tiling.width) for windows in tiling.rows(area) for window in windows)
    pair.prefetch(window for window in inside if needed is None or needed(window).any())


def _read_seen(pair: ScenePair, window: Window, needed: Needed | None) -> UInt8:
    """Read what was seen of a window's needed pixels, and nothing where no pixel is needed."""
    if needed is None:
        return pair.read_seen(window)
    chosen = needed(window)
    seen = np.zeros(chosen.shape, np.uint8)
    columns = np.flatnonzero(chosen.any(0))
    if len(columns):
        left, right = int(columns[0]), int(columns[-1]) + 1
        part = window._replace(column=window.column + left, width=right - left)
        seen[:, left:right] = pair.read_seen(part) * chosen[:, left:right]
    return seen


def _predict_batches(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    progress: Progress | None,
    counts: dict[str, int],
    needed: Needed | None = None,
    look_at: Callable[[Window], None] | None = None,
) -> Generator[tuple[Batch, Float32], None, None]:
    """Yield batches with their probabilities, shape (N, K, tile, tile), of the tiles that touch an area."""
    total = sum(map(len, tiling.rows(area)))
    nothing = np.empty((0, engine.card.network.classes, tiling.tile, tiling.tile), np.float32)
    with closing(read_ahead(_read_batches(pair, engine, tiling, area, needed, look_at), AHEAD)) as batches:
        for batch in batches:
            probabilities = engine.predict(batch.optical, batch.sar) if batch.windows else nothing
            counts["run"] += len(batch.windows)
            counts["skipped"] += batch.skipped
            if progress:
                progress(counts["run"] + counts["skipped"], total)
            yield batch, probabilities


def _read_batches(
    pair: ScenePair,
    engine: Engine,
    tiling: Tiling,
    area: Window,
    needed: Needed | None,
    look_at: Callable[[Window], None] | None,
) -> Iterator[Batch]:
    """Read the tiles of an area that have any valid pixel, as many at once as the engine likes."""
    top, end = area.row, area.row + area.height
    rows = list(tiling.rows(area))
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
        chosen: list[tuple[Window, Patch]] = []
        skipped = 0
        for window in windows:
            if not pair.usable(_read_seen(pair, window.clip(*pair.grid.shape), needed)).any():
                skipped += 1
                continue
            chosen.append((window, read_tile(pair, window)))
            if len(chosen) >= engine.batch:
                yield _batch(chosen, skipped)
                chosen, skipped = [], 0
        bottom = end if later is None else min(later[0].row, end)
        if bottom <= top:  # these tiles have a say further below
            yield _batch(chosen, skipped)
            continue
        finished = area._replace(row=top, height=bottom - top)
        if look_at:
            look_at(finished)
        yield _batch(chosen, skipped, _read_seen(pair, finished, needed))
        top = bottom


def _batch(tiles: list[tuple[Window, Patch]], skipped: int, finished: UInt8 | None = None) -> Batch:
    optical, sar = (
        np.stack(layers) if tiles else np.empty((0, 0, 0, 0), np.float32)
        for layers in ([patch.optical for _, patch in tiles], [patch.sar for _, patch in tiles])
    )
    return Batch([window for window, _ in tiles], optical, sar, skipped, finished)
