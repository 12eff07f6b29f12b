"""The schedule of a training that starts from weights: by the labels where it is not stated, and kept when resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.errors import OptionsError, TryAgainError
from refnet_cli.training import fine_tuning
from refnet_cli.training.checkpoint import read_settings
from refnet_cli.training.config import PUBLISHED_SCHEDULE, Schedule, TrainConfig
from refnet_cli.training.fine_tuning import round_steps, with_schedule
from refnet_cli.training.fit import fit
from refnet_cli.training.survey import survey
from tests.helpers.scenes import make_labelled_scene


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    scene = make_labelled_scene(tmp_path_factory.mktemp("scene") / "north")
    return TrainConfig(
        scenes=(scene,), scheme="esri-io", encoder="test_resnet", width=16, batch=1, crop=64, tile=64, split="none",
        device="cpu", checkpoint_every=1,
    )  # fmt: skip


def test_labels_say_how_many_steps_there_are(config: TrainConfig, said: list[str]) -> None:
    scenes = survey(config)
    pixels = int(scenes[0].training.counts.sum())
    started = replace(config, init="shipped")
    made = with_schedule(started, scenes)
    steps = round_steps(pixels)
    rate, clip = fine_tuning.LEARNING_RATE, fine_tuning.CLIP
    assert made.schedule == Schedule(steps, rate, steps // fine_tuning.WARMUP_SHARE, clip)
    (line,) = (line for line in said if line.startswith("schedule: "))
    assert f"{steps:,} steps for {pixels:,} labelled pixels, learning rate {rate:g}" in line
    assert round_steps(4 * 50_000) == 2 * round_steps(50_000)


@pytest.mark.parametrize("stated", [{"steps": 9}, {"learning_rate": 1e-3, "clip": 5.0}, {"warmup": 3}])
def test_what_is_stated_holds(config: TrainConfig, stated: dict[str, Any]) -> None:
    made = with_schedule(replace(config, init="shipped", **stated), survey(config))
    assert {name: getattr(made, name) for name in stated} == stated
    assert None not in made.schedule


def test_without_weights_to_start_from_the_published_schedule_holds(config: TrainConfig) -> None:
    assert with_schedule(config, survey(config)).schedule == PUBLISHED_SCHEDULE
    assert config.resolved().steps == PUBLISHED_SCHEDULE.steps
    assert with_schedule(replace(config, warmup=3), survey(config)).schedule == PUBLISHED_SCHEDULE._replace(warmup=3)


def test_a_warm_up_that_is_too_long_is_refused(config: TrainConfig) -> None:
    with pytest.raises(OptionsError, match="warmup is 5000; it must be less than steps"):
        with_schedule(replace(config, init="shipped", warmup=5000), survey(config))


@pytest.mark.long
def test_an_interrupted_training_keeps_its_schedule(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Also that of a version with other defaults, which may not have clipped gradients."""
    monkeypatch.setattr("refnet_cli.training.result.draw_pictures", lambda *arguments: None)
    first = fit(replace(config, steps=1), tmp_path / "first").weights
    started = replace(config, init=first, encoder=None, width=None)
    before = {"steps": "3", "learning_rate": "0.0005", "warmup": "0", "clip": "None"}
    with monkeypatch.context() as older:
        older.setattr(fine_tuning, "_choose", lambda config, pixels: fine_tuning._read(before))
        with pytest.raises(TryAgainError):
            fit(started, tmp_path / "run", stopping=lambda: True)
    assert before.items() <= (read_settings(tmp_path / "run" / "checkpoints") or {}).items()
    result = fit(started, tmp_path / "run")
    assert result.history.steps[0].learning_rate == 0.0005
    assert result.card.training["steps"] == len(result.history.steps) == 3
    assert result.card.training["clip"] is None
    assert any("are those of the interrupted training" in line for line in said)
    with pytest.raises(OptionsError, match=r"different settings .*learning_rate"):
        fit(replace(started, learning_rate=1e-3), tmp_path / "run")


def test_a_folder_without_checkpoints_has_no_settings(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "none") is None
    (tmp_path / "step-000000001.pt").write_bytes(b"damaged")
    assert read_settings(tmp_path) is None
