"""What a training depends on, by which a checkpoint is known to be of the same one."""

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
    """Settings by name, as text; what only names the result, or its speed, is left out."""
    settings = _as_texts(config)
    settings["encoder_weights"] = identify_encoders(config.encoders)
    settings["scenes"] = str([_as_texts(scene) for scene in config.scenes])
    return settings


def what_training_depends_on(config: TrainConfig, scenes: Sequence[LabelledScene]) -> dict[str, str]:
    """Settings by name, as text, and what the labels are."""
    digest = hashlib.sha256()
    for scene in scenes:
        for array in (*scene.training, scene.validation, np.array(scene.roles.validation)):
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


def _as_texts(options: TrainConfig | TrainScene) -> dict[str, str]:
    return {name: _as_text(value) for name, value in settings_of_result(options, as_before=True).items()}


def _as_text(value: Any) -> str:
    return str(value.resolve() if isinstance(value, Path) else value)
