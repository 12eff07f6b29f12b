"""The card of weights to be: what they take and give, and all that they were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refnet_cli.model.card import SENSORS_ALONE, Card
from refnet_cli.model.encoders import describe_encoders
from refnet_cli.model.weight_files import is_pickled, read_card
from refnet_cli.prediction.drift import LEVELS, SEEN
from refnet_cli.system.options import settings_of_result
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.initialise import Start
from refnet_cli.training.learned import GROUND, describe_ground
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.statistics import measure, see
from refnet_cli.training.survey import count_classes, sensors_that_suffice
from refnet_cli.version import __version__


def card_of_init(config: TrainConfig) -> Card | None:
    """Card of the weights that a training starts from; None if there are none or they have no card."""
    init = Path(config.init) if config.init else None
    return None if init is None or is_pickled(init) else read_card(init)


def make_card(config: TrainConfig, sampler: Sampler, initial: Start, init: Card | None, processes: int) -> Card:
    """Make the card of the weights to be, without scores.

    Parameters
    ----------
    config : TrainConfig
    sampler : Sampler
        Of the scenes; some of its crops are measured.
    initial : Start
    init : Card or None
        See `card_of_init`.
    processes : int
        How many train together.
    """
    known = {"optical": initial.optical_statistics, "sar": initial.sar_statistics}
    if init and (unseen := init.training.get("without")):
        known.pop(unseen, None)  # its encoder learned nothing, perhaps since there was nothing to measure
    optical, sar = measure(sampler, config, known)
    scenes = sampler.scenes
    training = _settings(config) | {
        "refnet": __version__,
        "start": initial.decisions,
        "split": config.method,
        "buffer": config.buffer,
        "pixels": count_classes(scenes, config),
        "scenes": {entry.name: config.role(entry) for entry in config.scenes},
        GROUND: describe_ground(config, scenes, init),
        "unreadable_blocks": {scene.name: scene.unreadable for scene in scenes if scene.unreadable},
        "decisions": {scene.name: scene.decided for scene in scenes},
        LEVELS: _levels(scenes),
        SEEN: see(sampler, config),
        "processes": processes,
        SENSORS_ALONE: sensors_that_suffice(config, scenes),
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
    """Settings that the weights depend on, without paths of this machine."""
    settings = settings_of_result(config) | {
        "scheme": config.classes.name,
        "init": Path(config.init).name if config.init else None,
        "encoder_weights": describe_encoders(config.encoders),
    }
    del settings["scenes"]
    return settings


def _levels(scenes: Sequence[LabelledScene]) -> list[str]:
    """Processing levels of the optical images that are learned from; "unknown" among them where that is so."""
    found = {scene.decided.get("optical.level") for scene in scenes if scene.trains}
    return sorted(level for level in found if level)
