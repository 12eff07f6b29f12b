"""What a training depends on: the fields of its config say it themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.system.options import option, settings_of_result
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.identity import describe_settings

SCENE = TrainScene(Path("optical.tif"), Path("sar.tif"), Path("labels.tif"), name="place")
CONFIG = TrainConfig(scenes=(SCENE,), scheme="esri-io")
NEVER_MATTERS: dict[str, Any] = {
    "name": "other", "licence": "CC0", "notice": "Mind the gap.", "device": "cpu", "scan": "torch",
    "checkpoint_every": 7, "workers": 5, "encoder_sha256": None, "cache": Path("store"), "cache_size": 5.0,
}  # fmt: skip
MATTERS: dict[str, Any] = {
    "steps": 5, "batch": 4, "seed": 3, "haze": 0.1, "mix": 0.5, "precision": "bf16", "accumulate": 2, "loss": "focal",
    "scheme": "dfc2020", "scenes": (replace(SCENE, label_weight=2.0),), "patience": 3, "without": "sar",
}  # fmt: skip


@dataclass
class Options:
    plain: int = 1
    newer: int = option(2, affects="pixels", since="0.2")
    title: str = option("map", affects="files")
    threads: int = option(3, affects="run")


def test_what_says_nothing_affects_pixels() -> None:
    assert settings_of_result(Options()) == {"plain": 1, "newer": 2}


def test_newer_options_with_their_defaults_are_as_before() -> None:
    assert settings_of_result(Options(title="a", threads=9), as_before=True) == {"plain": 1}
    assert settings_of_result(Options(newer=5), as_before=True) == {"plain": 1, "newer": 5}


def test_exactly_these_settings_never_matter() -> None:
    assert {each.name for each in fields(TrainConfig)} - settings_of_result(CONFIG).keys() == NEVER_MATTERS.keys()
    assert describe_settings(replace(CONFIG, **NEVER_MATTERS)) == describe_settings(CONFIG)


@pytest.mark.parametrize("name", MATTERS)
def test_others_matter(name: str) -> None:
    before, after = describe_settings(CONFIG), describe_settings(replace(CONFIG, **{name: MATTERS[name]}))
    assert {key for key in before | after if before.get(key) != after.get(key)} == {name}


def test_an_option_of_a_scene_that_has_its_default_is_not_written() -> None:
    assert "label_weight" not in describe_settings(CONFIG)["scenes"]
    assert "'label_weight': '2.0'" in describe_settings(replace(CONFIG, scenes=MATTERS["scenes"]))["scenes"]
