"""What a training leaves: the best network's weights, with scores and a temperature, and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.engines.base import Engine
from refnet_cli.engines.torch_engine import TorchEngine
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import save_weights
from refnet_cli.plots import View, draw_confusion, draw_curves, draw_views
from refnet_cli.prediction.low_confidence import ENTRY, describe_shares
from refnet_cli.scene.pair import read_tile
from refnet_cli.tiles.window import Window
from refnet_cli.training.calibration import fit_temperature
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.held_out import HeldOut, read_held_out
from refnet_cli.training.history import History
from refnet_cli.training.trainer import Trainer
from refnet_cli.training.validation import validate

LOG = logging.getLogger(__name__)
RESULTS = ("steps.csv", "validations.csv", "curves.png", "confusion.png", "tiles.png")
"""What a run's folder holds in addition to weights, checkpoints and what TensorBoard shows."""
VIEWS = 4


@dataclass
class TrainResult:
    """What came out of a training."""

    weights: Path
    card: Card
    """In other processes than the first, without scores."""
    history: History
    first: bool = True
    """Whether this is the first process, or the only one."""
    held_out: HeldOut | None = None
    """What the temperature was fitted to; None if nothing is held out."""


def existing_results(folder: Path, name: str) -> list[Path]:
    """Return what a training may replace, and has not itself written before it was interrupted."""
    weights = folder / f"{name}.safetensors"
    if any((folder / "checkpoints").glob("step-*.pt")):
        return [weights]
    return [weights, folder / "checkpoints" / "best.pt", *(folder / result for result in RESULTS)]


def finish(trainer: Trainer, skipped: Mapping[str, int]) -> TrainResult:
    """Write the best network's weights, with the temperature that suits them, and pictures of how it went.

    Parameters
    ----------
    trainer : Trainer
        When it has trained.
    skipped : mapping of str to int
        How many crops were passed over, by reason.

    Raises
    ------
    TryAgainError
        If it was to leave; what was trained is in the last checkpoint.
    """
    config, run, history = trainer.config, trainer.run, trainer.history
    path = run.folder / f"{config.name}.safetensors"
    if not run.processes.first:
        run.processes.end()
        return TrainResult(path, trainer.card, history, first=False)
    net = trainer.best_network()
    training = trainer.card.training | {"steps_done": len(history.steps)}
    card, held_out = replace(trainer.card, training=training, scores=_scores_of(trainer)), None
    if history.best:
        leave_if_asked = run.leave_if_asked(len(history.steps))
        held_out = read_held_out(net, card, trainer.scored, config, run.device, run.scan, leave_if_asked)
        card = _calibrate(net, card, held_out, trainer)
    if skipped:
        LOG.info("crops passed over: " + ", ".join(f"{n} {why}" for why, n in skipped.items()))
    card = save_weights(net, card, path)
    draw_pictures(net, card, trainer)
    run.processes.end()
    return TrainResult(path, card, history, held_out=held_out)


def _scores_of(trainer: Trainer) -> dict[str, Any]:
    """Scores of the best validation, as a card holds them."""
    best, method = trainer.history.best, trainer.config.method
    if best is None:
        return {}
    chosen = f"the best of {len(trainer.history.validations)} validations by mean IoU, which flatters a little"
    return {"validation": best | {"split": method, "leaky": method == "random", "chosen": chosen}}


def _calibrate(net: REFNet, card: Card, held_out: HeldOut, trainer: Trainer) -> Card:
    """Fit the temperature of the network that is saved; its scores are then those of maps made with it."""
    run = trainer.run
    fitted = fit_temperature(*held_out)
    if fitted is None:
        LOG.info("temperature: 1, for too few labelled pixels are held out to fit one")
        return card
    LOG.info(
        f"temperature: {fitted.temperature:g}, fitted to {fitted.pixels:,} held-out pixels; expected calibration "
        f"error {fitted.ece_before:.4f} without it, {fitted.ece_after:.4f} with it"
    )
    card = replace(card, temperature=fitted.temperature)
    leave_if_asked = run.leave_if_asked(len(trainer.history.steps))
    # Where tiles overlap, what is blended are probabilities, and a class may change.
    found = validate(net, card, trainer.scored, trainer.config, run.device, run.scan, leave_if_asked)
    validation = card.scores["validation"] | found.to_dict()
    calibration = fitted.to_dict() | {ENTRY: describe_shares(list(found.low_confidence.values()))}
    return replace(card, scores=card.scores | {"validation": validation, "calibration": calibration})


def draw_pictures(net: REFNet, card: Card, trainer: Trainer) -> None:
    """Draw curves of loss and scores and, where anything is held out, the confusion matrix and views of tiles."""
    run, history = trainer.run, trainer.history
    draw_curves(run.folder / "curves.png", [(step.step, step.loss) for step in history.steps], history.validations)
    if card.scores:
        scores = card.scores["validation"]
        matrix = np.array(scores["confusion_matrix"])
        draw_confusion(run.folder / "confusion.png", matrix, list(scores["labelled"]), card.name)
        views = choose_views(net, card, trainer.scored, trainer.config, run.device, run.scan)
        draw_views(run.folder / "tiles.png", views, card.scheme)


def choose_views(
    net: REFNet,
    card: Card,
    scenes: Sequence[LabelledScene],
    config: TrainConfig,
    device: str = "cpu",
    scan: str | None = None,
) -> list[View]:
    """Tiles of held-out ground, at most four, as sensors, labels and network see them; see `validate`."""
    engine = TorchEngine(net, card, device, scan=scan)
    places = [(scene, window) for scene in scenes for window in scene.roles.validation]
    spread = np.linspace(0, len(places) - 1, min(VIEWS, len(places))).round().astype(int)
    return [_view(scene, window, engine, config) for scene, window in (places[index] for index in spread)]


def _view(scene: LabelledScene, window: Window, engine: Engine, config: TrainConfig) -> View:
    card = engine.card
    height, width = scene.grid.shape
    tile = _around(window, scene.tiling(card.tile).tile, height, width)
    inside = tile.clip(height, width)
    part = inside.slices_in(tile)
    with scene.open(config) as files:
        patch, labels = read_tile(files.pair, tile), files.labels.read(inside)
    predicted = 1 + engine.predict(patch.optical[None], patch.sar[None])[0, 1:].argmax(0)
    predicted = np.where(patch.valid, predicted, 0).astype(np.uint8)
    optical = patch.optical[[card.optical.bands.index(band) for band in _shown(card.optical.bands)]]
    return View(scene.name, optical[:, *part], patch.sar[:, *part], labels, predicted[part])


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
