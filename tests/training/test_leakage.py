"""Ground that weights learned from: kept in their cards, and found again by position, for any names of scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from refnet_cli.errors import WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import read_card
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.fit import fit
from refnet_cli.training.leakage import TRAINING_GROUND, describe_training_ground, training_ground, warn_of_leakage
from refnet_cli.training.survey import survey
from tests.helpers.messages import messages
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, make_labelled_scene

WIDTH = 144  # pixels of a scene


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainScene, ...]:
    folder = tmp_path_factory.mktemp("scenes")
    return tuple(make_labelled_scene(folder / name, seed=seed) for seed, name in enumerate(("north", "south")))


def config_of(scenes: Sequence[TrainScene], **options: Any) -> TrainConfig:
    return TrainConfig(scenes=tuple(scenes), scheme="esri-io", crop=64, tile=64, **options)


def card_of(config: TrainConfig, start: Card | None = None) -> Card:
    """Card of weights that a training made, as it comes back from a file."""
    training = {TRAINING_GROUND: describe_training_ground(config, survey(config), start)}
    return replace(CARD, name=config.name, training=json.loads(json.dumps(training)))


def renamed(scenes: Sequence[TrainScene]) -> list[TrainScene]:
    return [replace(scene, name=f"other {number}") for number, scene in enumerate(scenes)]


def moved(scene: TrainScene, folder: Path, columns: float) -> TrainScene:
    """The same files some columns to the east, under the same name."""
    folder.mkdir()
    places = {}
    for name in ("optical", "sar", "labels"):
        source = getattr(scene, name)
        with rasterio.open(source) as file:
            profile, values, names = file.profile, file.read(), file.descriptions
        profile["transform"] = profile["transform"] @ Affine.translation(columns, 0)
        places[name] = folder / source.name
        with rasterio.open(places[name], "w", **profile) as file:
            file.write(values)
            file.descriptions = names
    return replace(scene, **places)


def said(card: Card, config: TrainConfig) -> list[str]:
    with messages() as lines:
        warn_of_leakage(card, config, survey(config))
    return lines


REGION: dict[str, Any] = {"split": "region", "fold": "south"}


@pytest.mark.parametrize(
    ("trained", "scored", "warned"),
    [
        ("south", {"split": "region", "fold": "other 1"}, []),
        ("south", {"split": "region", "fold": "other 0"}, ["other 0"]),
        pytest.param("south", {"split": "none"}, ["other 0"], marks=pytest.mark.long),
        pytest.param("south", {"split": "random"}, ["other 0"], marks=pytest.mark.long),
        ("random", {"split": "random"}, []),
        ("random", {"split": "random", "seed": 3}, ["other 0", "other 1"]),
        pytest.param(
            "random", {"split": "random", "validation_share": 0.3}, ["other 0", "other 1"], marks=pytest.mark.long
        ),
        pytest.param("random", {"split": "none"}, ["other 0", "other 1"], marks=pytest.mark.long),
        ("none", {"split": "region", "fold": "other 1"}, ["other 1"]),
    ],
)
def test_ground_is_known_again_under_other_names(
    trained: str, scored: dict[str, Any], warned: list[str], scenes: tuple[TrainScene, ...]
) -> None:
    card = card_of(config_of(scenes, **(REGION if trained == "south" else {"split": trained})))
    config = config_of(renamed(scenes), **scored)
    if config.method == "none":
        config = replace(config, scenes=tuple(replace(scene, split="validation") for scene in config.scenes))
    lines = said(card, config)
    assert warned == [name for name in ("other 0", "other 1") if any(f"scene {name} overlaps" in x for x in lines)]
    assert all("scores are optimistic" in line and ("north" in line or "south" in line) for line in lines)


@pytest.mark.parametrize(
    ("columns", "warned"),
    few(
        [(WIDTH - 10, True), (-WIDTH + 10, True), (WIDTH, False), (-WIDTH, False)],
        (WIDTH - 10, True), (-WIDTH, False),
    ),
)
def test_names_alone_prove_nothing(columns: int, warned: bool, scenes: tuple[TrainScene, ...], tmp_path: Path) -> None:
    """A scene of the same name on other ground is new; what overlaps by some pixels is not, neighbours are."""
    card = card_of(config_of(scenes[:1], split="none"))
    other = replace(moved(scenes[0], tmp_path / "moved", columns), split="validation")
    assert bool(said(card, config_of([other, scenes[1]], split="region"))) == warned


def test_what_was_held_out_of_an_overlapping_scene_was_not_learned(scenes: tuple[TrainScene, ...]) -> None:
    again = replace(scenes[0], name="again", split="validation")
    card = card_of(config_of([scenes[0], again, scenes[1]], split="region"))
    alone = replace(again, name="alone")
    assert not said(card, config_of([alone, scenes[1]], split="region"))


def test_ground_of_the_weights_that_a_training_started_from_is_kept(scenes: tuple[TrainScene, ...]) -> None:
    first = card_of(config_of(scenes[:1], split="none", name="first"))
    second = card_of(config_of(scenes[1:], split="none", name="second"), first)
    third = card_of(config_of(scenes[1:], split="none", name="third"), second)
    assert [training["name"] for training in training_ground(third)] == ["third", "second", "first"]
    scored = config_of([replace(renamed(scenes)[0], split="validation"), scenes[1]], split="region")
    (line,) = said(third, scored)
    assert "other 0" in line
    assert "north" in line


def test_outlines_are_the_grids(scenes: tuple[TrainScene, ...]) -> None:
    config = config_of(scenes, split="none")
    surveyed: list[LabelledScene] = survey(config)
    (training,) = describe_training_ground(config, surveyed, None)
    for look in surveyed:
        outline = shapely.geometry.shape(training["scenes"][look.name]["outline"])
        with rasterio.open(look.entry.optical) as file:
            box = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        assert outline.bounds == pytest.approx(box, abs=2e-5)
    assert len(json.dumps(training)) < 400 * len(scenes)


def test_cards_without_positions_are_judged_by_names_and_say_so(scenes: tuple[TrainScene, ...]) -> None:
    card = replace(CARD, training={"scenes": {"north": "train"}, "split": "none"})
    held_out = [replace(scenes[0], split="validation"), replace(scenes[1], name="new", split="validation")]
    lines = said(card, config_of(held_out, split="region"))
    assert ["north" in line for line in lines] == [True, False]
    assert "whose outlines the card lacks" in lines[0]
    assert "lacks the outlines of some training scenes" in lines[1]
    assert len(said(replace(CARD, training={}), config_of(held_out, split="region"))) == 1


@pytest.mark.parametrize("found", [3, [3], [{"scenes": {"a": {}}}], [{"name": "x", "split": {}, "scenes": {"a": {
    "role": "train", "outline": {"type": "Polygon", "coordinates": 5}}}}]])  # fmt: skip
def test_ground_that_makes_no_sense_is_refused(found: Any) -> None:
    with pytest.raises(WeightsError, match=r"training\.ground"):
        training_ground(replace(CARD, training={TRAINING_GROUND: found}))


@pytest.mark.long
def test_a_training_keeps_its_ground_and_warns_of_that_of_its_start(
    scenes: tuple[TrainScene, ...], tmp_path: Path
) -> None:
    config = config_of(scenes, encoder="test_resnet", width=16, steps=1, batch=1, device="cpu", name="first")
    with messages() as lines:
        first = fit(replace(config, split="region", fold="south"), tmp_path / "first")
    assert not any("overlaps training scenes" in line for line in lines)
    assert [entry["role"] for entry in training_ground(read_card(first.weights))[0]["scenes"].values()] == [
        "train", "validation",
    ]  # fmt: skip
    again = replace(config, name="second", scenes=tuple(renamed(scenes)), init=first.weights)
    with messages() as lines:
        same = fit(replace(again, split="region", fold="other 1"), tmp_path / "same")
    assert not any("overlaps training scenes" in line for line in lines)
    assert len(training_ground(same.card)) == 2
    with messages() as lines:
        fit(replace(again, split="region", fold="other 0"), tmp_path / "other")
    assert any("scene other 0 overlaps training scenes" in line for line in lines)
