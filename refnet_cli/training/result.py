"""Results of a training: the best weights with scores and temperature, and plots."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet_cli.engines.base import Engine
from refnet_cli.engines.torch_engine import TorchEngine
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import save_weights
from refnet_cli.prediction.low_confidence import LOW_CONFIDENCE, describe_shares
from refnet_cli.scene.blocks import read_tile
from refnet_cli.tiles.window import Window
from refnet_cli.training.calibration import fit_temperature
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.held_out import HeldOut, read_held_out
from refnet_cli.training.history import History
from refnet_cli.training.trainer import Trainer
from refnet_cli.training.validation import validate

if TYPE_CHECKING:
    from refnet_cli.plots import View

LOG = logging.getLogger(__name__)
PICTURES = ("curves.png", "confusion.png", "tiles.png")
RESULTS = ("steps.csv", "validations.csv", *PICTURES)
"""Files in a run's folder besides weights, checkpoints and TensorBoard events."""
VIEWS = 4


@dataclass
class TrainResult:
    """Weights, card and history of a finished training."""

    weights: Path
    card: Card
    """Has scores in the first process only."""
    history: History
    first: bool = True
    """Whether this is the first or only process."""
    held_out: HeldOut | None = None
    """Pixels that the temperature was fitted to; None if nothing is held out."""
    pictures: tuple[Path, ...] = ()
    """The plots that were written."""


def existing_results(folder: Path, name: str) -> list[Path]:
    """Return the paths that a training would replace, without those of its own interrupted run."""
    weights = folder / f"{name}.safetensors"
    if any((folder / "checkpoints").glob("step-*.pt")):
        return [weights]
    return [weights, folder / "checkpoints" / "best.pt", *(folder / result for result in RESULTS)]


def finish(trainer: Trainer, skipped: Mapping[str, int]) -> TrainResult:
    """Calibrate the best network, write its weights, and draw the plots.

    Parameters
    ----------
    trainer : Trainer
        After training.
    skipped : mapping of str to int
        Number of skipped crops, by reason.

    Raises
    ------
    TryAgainError
        If a stop was requested. The last checkpoint has the whole training.
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
        stop_callback = run.stop_callback(len(history.steps))
        held_out = read_held_out(net, card, trainer.scored, config, run.device, run.scan, stop_callback)
        card = _calibrate(net, card, held_out, trainer)
    _compare_with_start(trainer)
    if skipped:
        LOG.info("skipped crops: " + ", ".join(f"{n} {why}" for why, n in skipped.items()))
    card = save_weights(net, card, path)
    draw_pictures(net, card, trainer)
    run.processes.end()
    pictures = tuple(picture for name in PICTURES if (picture := run.folder / name).exists())
    return TrainResult(path, card, history, held_out=held_out, pictures=pictures)


def _compare_with_start(trainer: Trainer) -> None:
    """Log what was gained over the weights that the training started from, and what to do where that is nothing."""
    start, best, config = trainer.history.start, trainer.history.best_trained, trainer.config
    if not start or not best:
        return
    gain = f"mean IoU: start {start['mean_iou']:.3f} -> best {best['mean_iou']:.3f} at step {best['step']}"
    if best["mean_iou"] > start["mean_iou"]:
        LOG.info(gain)
        return
    LOG.warning(
        f"{gain}: not better than where it began. The weights that it began with are kept. Check what the labels' "
        f"codes mean, label more ground like that which is held out, or lower learning_rate (now "
        f"{config.schedule.learning_rate:g})."
    )


def _scores_of(trainer: Trainer) -> dict[str, Any]:
    """Return the scores of the best validation in the format of the card."""
    best, method = trainer.history.best, trainer.config.method
    if best is None:
        return {}
    chosen = f"the best of {len(trainer.history.validations)} validations by mean IoU, so slightly optimistic"
    return {"validation": best | {"split": method, "leaky": method == "random", "chosen": chosen}}


def _calibrate(net: REFNet, card: Card, held_out: HeldOut, trainer: Trainer) -> Card:
    """Fit the temperature, and score the network again with it, because it affects blended tiles."""
    run = trainer.run
    fitted = fit_temperature(*held_out)
    if fitted is None:
        LOG.info("temperature: 1, because too few labelled pixels are held out to fit one")
        return card
    LOG.info(
        f"temperature: {fitted.temperature:g}, fitted to {fitted.pixels:,} held-out pixels; expected calibration "
        f"error {fitted.ece_before:.4f} without it, {fitted.ece_after:.4f} with it"
    )
    card = replace(card, temperature=fitted.temperature)
    stop_callback = run.stop_callback(len(trainer.history.steps))
    # Overlapping tiles are blended as probabilities, so the temperature may change a class.
    found = validate(net, card, trainer.scored, trainer.config, run.device, run.scan, stop_callback)
    validation = card.scores["validation"] | found.to_dict()
    calibration = fitted.to_dict() | {LOW_CONFIDENCE: describe_shares(list(found.low_confidence.values()))}
    return replace(card, scores=card.scores | {"validation": validation, "calibration": calibration})


def draw_pictures(net: REFNet, card: Card, trainer: Trainer) -> None:
    """Plot loss and scores and, if anything is held out, the confusion matrix and example tiles."""
    from refnet_cli.plots import draw_confusion, draw_curves, draw_views  # matplotlib is only needed at the end

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
    """Return inputs, labels and predictions of up to four held-out tiles; see `validate` for the parameters."""
    engine = TorchEngine(net, card, device, scan=scan)
    windows = [(scene, window) for scene in scenes for window in scene.roles.validation]
    spread = np.linspace(0, len(windows) - 1, min(VIEWS, len(windows))).round().astype(int)
    return [_view(scene, window, engine, config) for scene, window in (windows[index] for index in spread)]


def _view(scene: LabelledScene, window: Window, engine: Engine, config: TrainConfig) -> View:
    from refnet_cli.plots import View

    card = engine.card
    height, width = scene.grid.shape
    tile = _centred_window(window, scene.tiling(card.tile).tile, height, width)
    inside = tile.clip(height, width)
    part = inside.slices_in(tile)
    with scene.open(config) as files:
        patch, labels = read_tile(files.pair, tile), files.labels.read(inside)
    predicted = 1 + engine.predict(patch.optical[None], patch.sar[None])[0, 1:].argmax(0)
    predicted = np.where(patch.valid, predicted, 0).astype(np.uint8)
    optical = patch.optical[[card.optical.bands.index(band) for band in _rgb_bands(card.optical.bands)]]
    return View(scene.name, optical[:, *part], patch.sar[:, *part], labels, predicted[part])


def _centred_window(window: Window, side: int, height: int, width: int) -> Window:
    """Return a square window with the same centre, shifted into the grid if possible."""

    def start(first: int, length: int, size: int) -> int:
        return min(max(first + (length - side) // 2, 0), size - side) if size >= side else -((side - size) // 2)

    return Window(
        start(window.row, window.height, height), start(window.column, window.width, width), side, side
    )  # fmt: skip


def _rgb_bands(bands: Sequence[str]) -> Sequence[str]:
    """Return the bands to show as red, green and blue: B04, B03 and B02 if available, otherwise the first three."""
    colours = [band for band in ("B04", "B03", "B02") if band in bands]
    return colours if len(colours) == 3 else bands[:3]
