"""Where scenes cannot be divided, the error names the largest settings that fit, and they do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.training import split_advice
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.split_advice import EIGHTHS, STEP, survey_or_advise
from refnet_cli.training.splits import SplitError
from refnet_cli.training.survey import count_classes, survey
from tests.helpers.scenes import make_labelled_scene

FITTING = re.compile(
    r"(\w+ = [\d.]+(?: and \w+ = [\d.]+)*) \(([\d,]+) labelled pixels for training, ([\d,]+) for validation\)"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Of a scene of 160 x 144 pixels, 1.6 x 1.44 km."""
    scene = make_labelled_scene(tmp_path_factory.mktemp("scene") / "north")
    return TrainConfig(scenes=(scene,), scheme="esri-io", split="blocks", tile=64, crop=64)


def advice_of(config: TrainConfig) -> list[tuple[dict[str, Any], tuple[int, int]]]:
    """Settings that the error names, and how many labelled pixels it says are learned from and scored."""
    with pytest.raises(SplitError) as caught:
        survey_or_advise(config)
    found = []
    for named, *pixels in FITTING.findall(str(caught.value)):
        settings = {name: float(value) for name, value in (part.split(" = ") for part in named.split(" and "))}
        whole = {name: value if name == "block" else int(value) for name, value in settings.items()}
        learned, scored = (int(number.replace(",", "")) for number in pixels)
        found.append((whole, (learned, scored)))
    return found


def pixels_of(config: TrainConfig) -> tuple[int, int]:
    counts = count_classes(survey(config), config)
    return sum(counts["train"].values()), sum(counts["validation"].values())


def fits(config: TrainConfig) -> bool:
    try:
        learned, scored = pixels_of(config)
    except SplitError:
        return False
    return 0 < scored <= learned


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, {"block"}), pytest.param({"block": 320.0, "tile": 160}, {"tile"}, marks=pytest.mark.long),
     pytest.param({"tile": 256, "crop": 256}, {"block", "tile", "crop"}, marks=pytest.mark.long)],
)  # fmt: skip
def test_what_it_names_fits_and_nothing_larger_does(
    config: TrainConfig, settings: dict[str, Any], names: set[str]
) -> None:
    config = replace(config, **settings)
    advised = advice_of(config)
    assert any(named.keys() == names for named, _ in advised)
    for named, pixels in advised:
        assert pixels_of(replace(config, **named)) == pixels
        if named.keys() == {"block"}:
            larger = [config.block * eighths / 8 for eighths in EIGHTHS if config.block * eighths / 8 > named["block"]]
            assert not any(fits(replace(config, block=block)) for block in larger)
        elif "block" not in named:
            sides = range(max(named.values()) + STEP, max(config.tile, config.crop) + 1, STEP)
            assert not any(fits(replace(config, **dict.fromkeys(named, side))) for side in sides)


def test_a_buffer_that_takes_all_training_ground(config: TrainConfig) -> None:
    """A neighbour that is held out: a smaller buffer fits, smaller blocks would not help."""
    (north,) = config.scenes
    near = replace(north, name="near", split="validation")
    config = replace(config, scenes=(north, _moved(near, 1700)), split=None, tile=160, crop=96)
    assert [named.keys() for named, _ in advice_of(replace(config, tile=320))] == [{"tile"}]
    assert all(scene.grid for scene in survey_or_advise(config))


def _moved(scene: Any, metres: float) -> Any:
    """Copy a scene's files and move them to the east."""
    files = {}
    for name in ("optical", "sar", "labels"):
        path = getattr(scene, name)
        files[name] = path.with_name(f"moved-{path.name}")
        files[name].write_bytes(path.read_bytes())
        with rasterio.open(files[name], "r+") as file:
            file.transform = rasterio.Affine.translation(metres, 0) @ file.transform
    return replace(scene, **files)


def label_a_square(config: TrainConfig, folder: Path, side: int) -> TrainConfig:
    """Of the scene, with no other labels than those of a square."""
    (north,) = config.scenes
    labels = folder / "labels.tif"
    labels.write_bytes(north.labels.read_bytes())
    with rasterio.open(labels, "r+") as file:
        codes = np.zeros((1, 160, 144), np.uint8)
        codes[:, 30 : 30 + side, 30 : 30 + side] = 1
        file.write(codes)
    return replace(config, scenes=(replace(north, labels=labels),))


def test_a_patch_that_holds_all_labels(config: TrainConfig, tmp_path: Path) -> None:
    """Patches at random are as large as crops."""
    ((named, _),) = advice_of(replace(label_a_square(config, tmp_path, 70), split="random", crop=1024))
    assert named.keys() == {"crop"}


def test_where_nothing_fits_it_says_so(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"No smaller block, tile or crop fits these scenes\. Add regions"):
        survey_or_advise(label_a_square(config, tmp_path, 20))


def test_large_scenes_are_not_read_again_and_again(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_advice, "MOST_PIXELS", 160 * 144 - 1)
    assert advice_of(config) == []
