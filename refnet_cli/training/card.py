"""The card of the weights that a training produces: inputs, classes, and training settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from refnet_cli.model.card import SENSORS_ALONE, Card
from refnet_cli.model.encoders import describe_encoders
from refnet_cli.model.weight_files import is_pickled, read_card
from refnet_cli.prediction.drift import DISTRIBUTIONS, LEVELS
from refnet_cli.scene.options import SceneOptions
from refnet_cli.system.options import names, settings_of_result
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.initialise import InitialNetwork
from refnet_cli.training.leakage import TRAINING_GROUND, describe_training_ground
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.statistics import describe_inputs, measure_statistics
from refnet_cli.training.survey import count_classes, sensors_usable_alone
from refnet_cli.version import __version__


def card_of_init(config: TrainConfig) -> Card | None:
    """Read the card of the initial weights; None without initial weights or without a card."""
    init = Path(config.init) if config.init else None
    return None if init is None or is_pickled(init) else read_card(init)


def make_card(
    config: TrainConfig, sampler: Sampler, initial: InitialNetwork, init: Card | None, processes: int
) -> Card:
    """Create the card of the trained weights, without scores.

    Parameters
    ----------
    config : TrainConfig
    sampler : Sampler
        Its crops give the band statistics.
    initial : InitialNetwork
    init : Card or None
        See `card_of_init`.
    processes : int
        Number of training processes.
    """
    known = {"optical": initial.optical_statistics, "sar": initial.sar_statistics}
    if init and (unseen := init.training.get("without")):
        known.pop(unseen, None)  # that sensor was not trained, so its statistics may be placeholders
    optical, sar = measure_statistics(sampler, config, known)
    scenes = sampler.scenes
    training = _settings(config) | {
        "refnet": __version__,
        "start": initial.decisions,
        "split": config.method,
        "buffer": config.buffer,
        "pixels": count_classes(scenes, config),
        "scenes": {entry.name: config.role(entry) for entry in config.scenes},
        TRAINING_GROUND: describe_training_ground(config, scenes, init),
        "unreadable_blocks": {scene.name: scene.unreadable for scene in scenes if scene.unreadable},
        "scene_options": _scene_options(config),
        "decisions": {scene.name: scene.decided for scene in scenes},
        LEVELS: _levels(scenes),
        DISTRIBUTIONS: describe_inputs(sampler, config),
        "processes": processes,
        SENSORS_ALONE: sensors_usable_alone(config, scenes),
    }
    return Card(
        name=config.name,
        network=config.network,
        optical=optical,
        sar=sar,
        scheme=config.classes,
        tile=config.tile,
        licence=config.licence,
        notice=config.notice,
        training=training,
    )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the weights depend on, without local folders."""
    settings = settings_of_result(config) | {
        "scheme": config.classes.name,
        "init": Path(config.init).name if config.init else None,
        "encoder_weights": describe_encoders(config.encoders),
    }
    del settings["scenes"]
    return settings


def _scene_options(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Options of each scene that change its pixels and are not the defaults, wherever the regions file states them."""
    of_pixels = [field for field in fields(SceneOptions) if field.name in names(SceneOptions, "pixels")]
    stated = {
        scene.name: {f.name: value for f in of_pixels if (value := getattr(scene, f.name)) != f.default}
        for scene in config.scenes
    }
    return {name: options for name, options in stated.items() if options}


def _levels(scenes: Sequence[LabelledScene]) -> list[str]:
    """Return the processing levels of the optical training images, including "unknown"."""
    found = {scene.decided.get("optical.level") for scene in scenes if scene.trains}
    return sorted(level for level in found if level)
