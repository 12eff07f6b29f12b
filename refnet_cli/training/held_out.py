"""Logits of held-out pixels, for temperature scaling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from refnet_cli.engines.torch_engine import TorchEngine
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.system.prefetch import read_ahead
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene, SceneFiles
from refnet_cli.types import Float32, Progress, UInt8

MOST_PIXELS = 500_000  # maximum number of pixels for fitting a temperature
AHEAD = 3  # batches of tiles that are read or in the network


class HeldOut(NamedTuple):
    """A sample of the labelled held-out pixels, with the network's logits."""

    logits: Float32
    """Logits, shape (n, K)."""
    labels: UInt8
    """Class indexes, shape (n,)."""


def read_held_out(
    net: REFNet,
    card: Card,
    scenes: Sequence[LabelledScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
    progress: Progress | None = None,
) -> HeldOut:
    """Predict the held-out pixels: all of them, or the same number from each tile, drawn with the config's seed.

    A pixel gets the logits of the tile whose edge is farthest away; maps blend overlapping tiles instead. The card's
    temperature is not applied. See `validate` for the parameters.

    Raises
    ------
    InputError
        If a scene is unreadable.
    """
    engine = TorchEngine(net, card, device, scan=scan, softmax=False)
    random = np.random.default_rng(config.seed)
    tiles = [scored_tiles(scene, card.tile) for scene in scenes]
    most = max(MOST_PIXELS // max(sum(map(len, tiles)), 1), 1)
    logits, labels = [np.empty((0, card.network.classes), np.float32)], [np.empty(0, np.uint8)]
    for scene, own in zip(scenes, tiles, strict=True):
        with (
            scene.open(config) as files,
            closing(read_ahead(_read_scored(files, scene, own, engine.batch), AHEAD)) as batches,
        ):
            for done, optical, sar, labelled in batches:
                for found, expected in zip(engine.predict(optical, sar), labelled, strict=True):
                    pixels = random.permutation(np.flatnonzero(expected))[:most]
                    logits.append(found.reshape(len(found), -1)[:, pixels].T)
                    labels.append(expected.ravel()[pixels])
                if progress:
                    progress(done, len(own))
    return HeldOut(np.concatenate(logits), np.concatenate(labels))


def scored_tiles(scene: LabelledScene, side: int) -> list[tuple[Window, Window]]:
    """Return the tiles with held-out pixels in their core, each with the window of its core."""
    tiling = scene.tiling(side)
    found = []
    for row, top, bottom in _cores(tiling.row_starts, tiling.overlap // 2, tiling.height):
        for column, left, right in _cores(tiling.column_starts, tiling.overlap // 2, tiling.width):
            own = Window(top, left, bottom - top, right - left)
            if scene.held_out(own).any():
                found.append((Window(row, column, tiling.tile, tiling.tile), own))
    return found


def _cores(starts: Sequence[int], margin: int, size: int) -> Iterable[tuple[int, int, int]]:
    """Return start, first core pixel and end of the core of each tile along an axis; cores do not overlap.

    Examples
    --------
    >>> list(_cores([-2, 10, 15], 2, 29))
    [(-2, 0, 12), (10, 12, 17), (15, 17, 29)]
    """
    firsts = [0, *(start + margin for start in starts[1:])]
    return zip(starts, firsts, [*firsts[1:], size], strict=True)


def _read_scored(
    files: SceneFiles, scene: LabelledScene, tiles: Sequence[tuple[Window, Window]], size: int
) -> Iterator[tuple[int, Float32, Float32, UInt8]]:
    """Yield batches: number of finished tiles, optical, SAR, and labels of held-out pixels in the cores, 0 elsewhere.

    A batch has the tiles with such labels among the next ``size`` tiles.
    """
    for start in range(0, len(tiles), size):
        chosen = tiles[start : start + size]
        patches, labels = [], []
        for tile, own in chosen:
            patch, found = files.read(tile)
            part = own.slices_in(tile)
            scored = np.zeros_like(found)
            scored[part] = np.where(scene.held_out(own), found[part], 0)
            if scored.any():
                patches.append(patch)
                labels.append(scored)
        if patches:
            done = start + len(chosen)
            yield done, np.stack([p.optical for p in patches]), np.stack([p.sar for p in patches]), np.stack(labels)
