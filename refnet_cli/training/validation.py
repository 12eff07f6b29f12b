"""Score a network on held-out pixels, predicted in the same way as by ``refnet predict``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refnet_cli.engines.base import Engine
from refnet_cli.engines.torch_engine import TorchEngine, choose_device
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.scores import Scores, confusion_matrix, score
from refnet_cli.model.card import Card
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights
from refnet_cli.outputs.rows import LOW, STEPS
from refnet_cli.prediction.stream import predict_rows
from refnet_cli.scan import choose_scan
from refnet_cli.scene.absent import absent_sensor
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.leakage import warn_of_leakage
from refnet_cli.training.split_advice import survey_or_advise
from refnet_cli.training.survey import log_warnings
from refnet_cli.types import Int64, Progress

LOG = logging.getLogger(__name__)


class Validation(NamedTuple):
    """Scores of a network on held-out pixels."""

    scores: Scores
    """Scores of all scenes together."""
    by_scene: dict[str, float]
    """Overall accuracy of each scene with held-out labels."""
    low_confidence: dict[str, float]
    """Share of low-confidence pixels among each scene's held-out pixels, labelled or not."""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores in the format of the card."""
        return self.scores.to_dict() | {"overall_accuracy_by_scene": self.by_scene}


def validate(
    net: REFNet,
    card: Card,
    scenes: Sequence[LabelledScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Score a network on the held-out pixels.

    Parameters
    ----------
    net : REFNet
        Not modified.
    card : Card
        Card of the network.
    scenes : sequence of LabelledScene
        Scenes with labelled held-out pixels.
    config : TrainConfig
        Options for reading the scenes.
    device : str
    scan : str, optional
        Kernel of the selective scan; by default chosen for the device.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles of all scenes.

    Returns
    -------
    Validation

    Raises
    ------
    InputError
        If no labelled pixel is held out, or a scene is unreadable.
    """
    engine = TorchEngine(net, card, device, scan=scan)
    names = card.scheme.names
    if not scenes:
        raise InputError("No labelled pixel is held out, so there is nothing to score.")
    tiles = [sum(map(len, scene.tiling(card.tile).rows())) for scene in scenes]
    counted = {}
    for number, scene in enumerate(scenes):
        before, total = sum(tiles[:number]), sum(tiles)

        def report(done: int, _: int, before: int = before, total: int = total) -> None:
            if progress:
                progress(before + done, total)

        counted[scene.name] = _count(scene, engine, config, report)
    return Validation(
        score(np.sum([matrix for matrix, _ in counted.values()], axis=0), names),
        {name: score(matrix, names).overall_accuracy for name, (matrix, _) in counted.items() if matrix.any()},
        {name: share for name, (_, share) in counted.items()},
    )


def _count(
    scene: LabelledScene, engine: Engine, config: TrainConfig, progress: Progress
) -> tuple[Int64, float]:
    """Return the confusion matrix of a scene's held-out pixels, and their share of low-confidence pixels."""
    card, low, seen = engine.card, 0, 0
    matrix = np.zeros((card.scheme.classes - 1,) * 2, np.int64)
    with scene.open(config) as files:
        tiling = scene.tiling(card.tile)
        for rows in predict_rows(files.pair, engine, tiling, progress, needed=scene.held_out):
            if not rows.valid.any():
                continue
            low += int(np.count_nonzero(rows.layer("max_probability") < LOW * STEPS))
            seen += int(np.count_nonzero(rows.valid))
            labels = files.labels.read(Window(rows.row, 0, *rows.valid.shape))
            predicted = np.where(rows.valid, 1 + np.asarray(rows.probabilities)[1:].argmax(0), 0).astype(np.uint8)
            matrix += confusion_matrix(labels, predicted, card.scheme.classes)
    return matrix, low / max(seen, 1)


def evaluate_weights(
    weights: str | Path, config: TrainConfig, device: str = "auto", progress: Progress | None = None
) -> tuple[Scores, dict[str, float]]:
    """Score weights on the held-out pixels of a regions file, or on all of its scenes if nothing is held out.

    Log warnings about scored scenes that overlap training scenes of the weights, and about labels that are ignored.

    Parameters
    ----------
    weights : str or Path
        A path, or the name of bundled weights.
    config : TrainConfig
        Scenes and split. Bands and tile size are taken from the weights.
    device : str
        ``auto``, or a torch device.
    progress : callable, optional
        See `validate`.

    Returns
    -------
    scores, by_scene
        Scores of all scenes together, and the overall accuracy of each scene.

    Raises
    ------
    OptionsError
        If the classes of the labels and of the weights differ.
    RefnetError
        If weights or scenes are not usable.
    """
    device = choose_device(device)
    net, card = load_weights(weights)
    if [name.casefold() for name in card.scheme.names] != [name.casefold() for name in config.classes.names]:
        raise OptionsError(
            f"{weights} predicts scheme {card.scheme.name!r}, but the labels are in {config.classes.name!r}. Map the "
            "label codes with label_codes, or choose weights for the labels' scheme."
        )
    config = replace(config, optical_bands=card.optical.bands, sar_bands=card.sar.bands)
    if config.method == "none":
        config = replace(config, scenes=tuple(replace(entry, split="validation") for entry in config.scenes))
    for entry in config.scenes:
        if config.role(entry) != "train":
            check_sensors(card, absent_sensor(entry.optical, entry.sar), f"Scene {entry.name}")
    choice = choose_scan(device.partition(":")[0], card.network.states)
    surveyed = survey_or_advise(config, learning=False)
    scenes = [scene for scene in surveyed if scene.scored]
    if choice.warning:
        LOG.warning(choice.warning)
    warn_of_leakage(card, config, surveyed)
    log_warnings(scenes)
    found = validate(net, card, scenes, config, device, progress=progress)
    return found.scores, found.by_scene
