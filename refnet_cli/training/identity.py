"""What a training depends on, by which a checkpoint is known to be of the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.model.encoders import identify_encoders
from refnet_cli.training.checkpoint import CONFIDENCES
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import SurveyedScene
from refnet_cli.training.distributed import started_processes

_SINCE_0_2: dict[str, Any] = {
    "label_layer": None, "stac": None, "label_weight": 1.0, "confidence": None, "confidence_band": 1,
    "balance": None, "label_smoothing": 0.0,
    "haze": 0.0, "sar_gain": 0.0, "sar_slope": 0.0, "sar_looks": 0.0, "shift": 0.0, "mix": 0.0,
}  # fmt: skip
"""Settings that 0.1 did not have, of all scenes or of one, with their defaults: left out where they have these, so that
older checkpoints still fit."""


def describe_settings(config: TrainConfig) -> dict[str, str]:
    """Settings by name, as text; what only names the result, or its speed, is left out."""
    spared = {"name", "licence", "notice", "device", "scan", "checkpoint_every", "workers", "scenes", "encoder_sha256"}
    settings = {name: text for name, text in _settled(config).items() if name not in spared}
    # Checksums are a part of what identifies encoders.
    settings["encoder_weights"] = identify_encoders(config.encoders)
    return settings | {"scenes": str([_settled(scene) for scene in config.scenes])}


def what_training_depends_on(config: TrainConfig, scenes: Sequence[SurveyedScene]) -> dict[str, str]:
    """Settings by name, as text, and what the labels are."""
    digest = hashlib.sha256()
    for look in scenes:
        for array in (*look.training, look.validation, np.array(look.roles.validation)):
            digest.update(np.ascontiguousarray(array).tobytes())
    found = {"labels": digest.hexdigest(), "processes": str(started_processes())}
    return describe_settings(config) | found | _identify_confidences(config)


def _identify_confidences(config: TrainConfig) -> dict[str, str]:
    """What the files of confidences hold, of which the labels show only where it is 0; nothing without such files."""
    digest = hashlib.sha256()
    paths = [scene.confidence for scene in config.scenes if scene.confidence]
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {CONFIDENCES: digest.hexdigest()} if paths else {}


def _settled(options: TrainConfig | TrainScene) -> dict[str, str]:
    """Fields by name, as text, without newer ones that have their defaults."""
    found = asdict(options).items()
    return {name: _as_text(value) for name, value in found if name not in _SINCE_0_2 or value != _SINCE_0_2[name]}


def _as_text(value: Any) -> str:
    return str(value.resolve() if isinstance(value, Path) else value)
