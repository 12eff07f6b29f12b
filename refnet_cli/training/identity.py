"""The identity of a training: everything it depends on, to check that a checkpoint belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.model.encoders import identify_encoders
from refnet_cli.system.options import settings_of_result
from refnet_cli.training.checkpoint import CONFIDENCES
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.distributed import started_processes


def describe_settings(config: TrainConfig) -> dict[str, str]:
    """Return the settings that affect the weights, as text; names and speed settings are left out."""
    settings = _as_texts(config)
    settings["encoder_weights"] = identify_encoders(config.encoders)
    settings["scenes"] = str([_as_texts(scene) for scene in config.scenes])
    return settings


def training_identity(config: TrainConfig, scenes: Sequence[LabelledScene]) -> dict[str, str]:
    """Return the settings as text, with digests of labels, split and confidence files."""
    digest = hashlib.sha256()
    for scene in scenes:
        for array in (*scene.training, scene.validation, np.array(scene.roles.validation)):
            digest.update(np.ascontiguousarray(array).tobytes())
    found = {"labels": digest.hexdigest(), "processes": str(started_processes())}
    return describe_settings(config) | found | _identify_confidences(config)


def _identify_confidences(config: TrainConfig) -> dict[str, str]:
    """Return a digest of the confidence files; empty without them.

    The digest of the labels only covers where the confidence is 0.
    """
    digest = hashlib.sha256()
    paths = [scene.confidence for scene in config.scenes if scene.confidence]
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {CONFIDENCES: digest.hexdigest()} if paths else {}


def _as_texts(options: TrainConfig | TrainScene) -> dict[str, str]:
    return {name: _as_text(value) for name, value in settings_of_result(options, as_before=True).items()}


def _as_text(value: Any) -> str:
    return str(value.resolve() if isinstance(value, Path) else value)
