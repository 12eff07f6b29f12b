"""How good a network is on ground that it never saw: predicted as ``refnet predict`` does, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.card import Card
from refnet_cli.engine import Engine
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.evaluate import Scores, confusion_matrix, score
from refnet_cli.figures import View
from refnet_cli.learned import warn_of_learned
from refnet_cli.model import REFNet
from refnet_cli.one_sensor import check_sensors
from refnet_cli.prediction.predict import Progress, predict_rows, read_tile, reading_threads
from refnet_cli.regions import TrainConfig
from refnet_cli.sampling import Region, SurveyedScene, survey
from refnet_cli.scan import choose_scan
from refnet_cli.scene import absent_sensor
from refnet_cli.splits import VALIDATION
from refnet_cli.threads import read_ahead
from refnet_cli.tiling import Tiling, Window
from refnet_cli.torch_engine import TorchEngine, choose_device
from refnet_cli.weights import load_weights

VIEWS = 4
MOST_PIXELS = 500_000  # that a temperature is fitted to
AHEAD = 3  # batches of tiles that are in the network or read for it

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


def validate(
    net: REFNet,
    card: Card,
    scenes: Sequence[SurveyedScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
    progress: Progress | None = None,
    low_confidence: dict[str, float] | None = None,
) -> tuple[Scores, dict[str, float]]:
    """Score a network on the pixels that are held out.

    Parameters
    ----------
    net : REFNet
        Left as it is.
    card : Card
        What it takes and gives.
    scenes : sequence of SurveyedScene
        Those with pixels to score.
    config : TrainConfig
        How scenes are read.
    device : str
    scan : str, optional
        Kernel of the selective scan; by default what suits the device.
    progress : callable, optional
        Told after every batch how many of a scene's tiles are done, and of how many.
    low_confidence : dict, optional
        Is given, by scene, the share of low-confidence pixels among those that are held out, labelled or not.

    Returns
    -------
    scores : Scores
        Of all scenes together.
    by_scene : dict
        Overall accuracy of each.

    Raises
    ------
    InputError
        If no labelled pixel is held out, or a scene cannot be read.
    """
    engine = TorchEngine(net, card, device, scan=scan)
    names = card.scheme.names
    counted = {look.scene.name: _count(look, engine, config, progress) for look in scenes}
    matrices = {name: matrix for name, (matrix, _) in counted.items()}
    if low_confidence is not None:
        low_confidence |= {name: share for name, (_, share) in counted.items()}
    if not matrices:
        raise InputError("No labelled pixel is held out to be scored.")
    by_scene = {name: score(matrix, names).overall_accuracy for name, matrix in matrices.items() if matrix.any()}
    return score(np.sum(list(matrices.values()), axis=0), names), by_scene


def _count(
    look: SurveyedScene, engine: Engine, config: TrainConfig, progress: Progress | None
) -> tuple[NDArray[np.int64], float]:
    """Confusion matrix of a scene's held-out pixels, and the share of them of low confidence."""
    card, low, seen = engine.card, 0, 0
    matrix = np.zeros((card.scheme.classes - 1,) * 2, np.int64)

    def wanted(window: Window) -> NDArray[np.bool_]:
        return np.asarray(look.roles.read(window) == VALIDATION)

    with Region.open(look.scene, config, read_threads=reading_threads()) as region:
        tiling = _tiling(look, card)
        for rows in predict_rows(region.pair, engine, tiling, progress, wanted=wanted):
            if not rows.valid.any():
                continue
            low += int(np.count_nonzero(rows.layer("low_confidence")))
            seen += int(np.count_nonzero(rows.valid))
            labels = region.labels.read(Window(rows.row, 0, *rows.valid.shape))
            predicted = np.where(rows.valid, 1 + np.asarray(rows.probabilities)[1:].argmax(0), 0).astype(np.uint8)
            matrix += confusion_matrix(labels, predicted, card.scheme.classes)
    return matrix, low / max(seen, 1)


def _tiling(look: SurveyedScene, card: Card) -> Tiling:
    """Tiles of a scene as ``refnet predict`` lays them by default."""
    height, width = look.grid.shape
    return Tiling.of(height, width, card.tile)


class HeldOut(NamedTuple):
    """Some of the labelled pixels that are held out, and what a network says of them."""

    logits: Float32
    """Shape (n, K)."""
    labels: UInt8
    """Network indexes, shape (n,)."""


def read_held_out(
    net: REFNet,
    card: Card,
    scenes: Sequence[SurveyedScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
    progress: Progress | None = None,
) -> HeldOut:
    """Predict pixels that are held out: all, or as many of each tile, drawn by the config's seed.

    Each counts with the logits of the tile in which it lies furthest inside; maps blend tiles that overlap. The card's
    temperature does not matter. See `validate` for the parameters.

    Raises
    ------
    InputError
        If a scene cannot be read.
    """
    engine = TorchEngine(net, card, device, scan=scan, softmax=False)
    random = np.random.default_rng(config.seed)
    tiles = [_scored_tiles(look, card) for look in scenes]
    most = max(MOST_PIXELS // max(sum(map(len, tiles)), 1), 1)
    logits, labels = [np.empty((0, card.network.classes), np.float32)], [np.empty(0, np.uint8)]
    for look, places in zip(scenes, tiles, strict=True):
        with (
            Region.open(look.scene, config, read_threads=reading_threads()) as region,
            closing(read_ahead(_read_scored(region, look, places, engine.batch), AHEAD)) as batches,
        ):
            for done, optical, sar, labelled in batches:
                for found, wanted in zip(engine.predict(optical, sar), labelled, strict=True):
                    pixels = random.permutation(np.flatnonzero(wanted))[:most]
                    logits.append(found.reshape(len(found), -1)[:, pixels].T)
                    labels.append(wanted.ravel()[pixels])
                if progress:
                    progress(done, len(places))
    return HeldOut(np.concatenate(logits), np.concatenate(labels))


def _scored_tiles(look: SurveyedScene, card: Card) -> list[tuple[Window, Window]]:
    """Tiles of a scene, each with the part of the grid that is its own, of those with any held-out pixel there."""
    tiling = _tiling(look, card)
    found = []
    for row, top, bottom in _share_out(tiling.row_starts, tiling.overlap // 2, tiling.height):
        for column, left, right in _share_out(tiling.column_starts, tiling.overlap // 2, tiling.width):
            own = Window(top, left, bottom - top, right - left)
            if (look.roles.read(own) == VALIDATION).any():
                found.append((Window(row, column, tiling.tile, tiling.tile), own))
    return found


def _share_out(starts: Sequence[int], margin: int, size: int) -> Iterable[tuple[int, int, int]]:
    """Start of each tile along an axis, and first pixel and end of what is its own; every pixel is one tile's.

    Examples
    --------
    >>> list(_share_out([-2, 10, 15], 2, 29))
    [(-2, 0, 12), (10, 12, 17), (15, 17, 29)]
    """
    firsts = [0, *(start + margin for start in starts[1:])]
    return zip(starts, firsts, [*firsts[1:], size], strict=True)


def _read_scored(
    region: Region, look: SurveyedScene, tiles: Sequence[tuple[Window, Window]], size: int
) -> Iterator[tuple[int, Float32, Float32, UInt8]]:
    """How many tiles are done, what both sensors saw in some, and the labels of their own held-out pixels, else 0.

    Of ``size`` tiles at once, those that have any such label.
    """
    for start in range(0, len(tiles), size):
        chosen = tiles[start : start + size]
        patches, labels = [], []
        for tile, own in chosen:
            patch, found = region.read(tile)
            top, left = own.row - tile.row, own.column - tile.column
            part = np.s_[top : top + own.height, left : left + own.width]
            scored = np.zeros_like(found)
            scored[part] = np.where(look.roles.read(own) == VALIDATION, found[part], 0)
            if scored.any():
                patches.append(patch)
                labels.append(scored)
        if patches:
            done = start + len(chosen)
            yield done, np.stack([p.optical for p in patches]), np.stack([p.sar for p in patches]), np.stack(labels)


def evaluate_weights(
    weights: str | Path, config: TrainConfig, device: str = "auto", tell: Callable[[str], None] | None = None
) -> tuple[Scores, dict[str, float]]:
    """Score weights on what a regions file holds out, or on all of its scenes where it holds out nothing.

    Parameters
    ----------
    weights : str or Path
        A path, or the name of bundled weights.
    config : TrainConfig
        Scenes, and how they are split; bands, and the tiles to predict, are those of the weights.
    device : str
        ``auto``, or a torch device.
    tell : callable, optional
        Told in a line each what of the scored ground the weights may have learned from, and what of the labels counts
        as no label although it looks like one.

    Returns
    -------
    scores, by_scene
        See `validate`.

    Raises
    ------
    OptionsError
        If the classes are not those of the weights.
    RefnetError
        If weights or scenes cannot be used.
    """
    device = choose_device(device)
    net, card = load_weights(weights)
    if [name.casefold() for name in card.scheme.names] != [name.casefold() for name in config.classes.names]:
        raise OptionsError(
            f"{weights} gives classes of scheme {card.scheme.name!r}, the labels are of {config.classes.name!r}: map "
            "them with label_codes, or choose weights of their scheme."
        )
    config = replace(config, optical_bands=card.optical.bands, sar_bands=card.sar.bands)
    if config.method == "none":
        whole = tuple(replace(scene, split="validation") for scene in config.scenes)
        config = replace(config, scenes=whole)
    for scene in config.scenes:
        if config.role(scene) != "train":
            check_sensors(card, absent_sensor(scene.optical, scene.sar), f"Scene {scene.name}")
    choice = choose_scan(device.partition(":")[0], card.network.states)
    surveyed = survey(config)
    scenes = [look for look in surveyed if look.validation.any()]
    if tell:
        kernel = [f"warning: {choice.warning}"] if choice.warning else []
        labels = (f"warning: {look.scene.name}: {warning}" for look in scenes for warning in look.warnings)
        for line in (*kernel, *warn_of_learned(card, config, surveyed), *labels):
            tell(line)
    return validate(net, card, scenes, config, device)


def choose_views(
    net: REFNet,
    card: Card,
    scenes: Sequence[SurveyedScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
) -> list[View]:
    """Tiles of held-out ground, at most four, as sensors, labels and network see them; see `validate`."""
    engine = TorchEngine(net, card, device, scan=scan)
    places = [(look, window) for look in scenes for window in look.roles.validation]
    spread = np.linspace(0, len(places) - 1, min(VIEWS, len(places))).round().astype(int)
    return [_view(look, window, engine, config) for look, window in (places[index] for index in spread)]


def _view(look: SurveyedScene, window: Window, engine: Engine, config: TrainConfig) -> View:
    card = engine.card
    height, width = look.grid.shape
    tile = _around(window, _tiling(look, card).tile, height, width)
    inside = tile.clip(height, width)
    top, left = inside.row - tile.row, inside.column - tile.column
    part = np.s_[top : top + inside.height, left : left + inside.width]
    with Region.open(look.scene, config) as region:
        patch, labels = read_tile(region.pair, tile), region.labels.read(inside)
    predicted = 1 + engine.predict(patch.optical[None], patch.sar[None])[0, 1:].argmax(0)
    predicted = np.where(patch.valid, predicted, 0).astype(np.uint8)
    optical = patch.optical[[card.optical.bands.index(band) for band in _shown(card.optical.bands)]]
    return View(look.scene.name, optical[:, *part], patch.sar[:, *part], labels, predicted[part])


def _around(window: Window, side: int, height: int, width: int) -> Window:
    """Square window around another's centre, moved into a grid as far as it fits."""

    def place(first: int, length: int, size: int) -> int:
        return min(max(first + (length - side) // 2, 0), size - side) if size >= side else -((side - size) // 2)

    return Window(
        place(window.row, window.height, height), place(window.column, window.width, width), side, side
    )  # fmt: skip


def _shown(bands: Sequence[str]) -> Sequence[str]:
    """Bands to show as red, green and blue: those that are so, else the first ones."""
    colours = [band for band in ("B04", "B03", "B02") if band in bands]
    return colours if len(colours) == 3 else bands[:3]
