"""A training that tests of several packages share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from refnet_cli.training.result import TrainResult
from tests.helpers.once import once
from tests.helpers.scenes import make_labelled_scene


def small_config(factory: pytest.TempPathFactory) -> TrainConfig:
    """Learn from one scene and hold out another one."""

    def make(folder: Path) -> TrainConfig:
        scenes = make_labelled_scene(folder / "north"), make_labelled_scene(folder / "south", "validation", seed=1)
        return TrainConfig(
            scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=6, batch=2, crop=64, tile=96,
            learning_rate=3e-3, device="cpu", checkpoint_every=2, validate_every=3,
        )  # fmt: skip

    return once(factory, "training-scenes", make)


def shorten(patch: pytest.MonkeyPatch, *, pictures: bool = False) -> None:
    """Let trainings measure few crops and draw no pictures, which take half of the time of a short one."""
    for name in ("STATISTICS_CROPS", "LEAST_STATISTICS_CROPS"):
        patch.setattr(f"refnet_cli.training.statistics.{name}", 12)
    if not pictures:
        patch.setattr("refnet_cli.training.result.draw_pictures", lambda *arguments: None)


def learned(factory: pytest.TempPathFactory) -> TrainResult:
    """What `small_config` leads to in enough steps to have learned something."""
    config = replace(small_config(factory), steps=20, checkpoint_every=20, validate_every=20)

    def make(folder: Path) -> TrainResult:
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            return fit(config, folder)

    return once(factory, "training-learned", make)
