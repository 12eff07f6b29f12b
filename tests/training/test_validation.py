"""Validation: weights are scored as their maps would be, on what is held out and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.result import choose_views
from refnet_cli.training.survey import survey
from refnet_cli.training.validation import evaluate_weights, validate
from tests.helpers.messages import messages
from tests.helpers.scenes import CARD, DRAWN, make_labelled_scene

SMALL = replace(CARD, tile=96)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = tuple(make_labelled_scene(folder / name, seed=seed) for seed, name in enumerate(("north", "south")))
    return TrainConfig(scenes=scenes, scheme="esri-io", split="none", crop=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(REFNet(CARD.network), SMALL, path)
    return path


def write_regions(config: TrainConfig, path: Path, begin: str = "") -> Path:
    tables = [
        f'[[scenes]]\nname = "{s.name}"\noptical = "{s.optical}"\nsar = "{s.sar}"\nlabels = "{s.labels}"\n'
        for s in config.scenes
    ]
    path.write_text('scheme = "esri-io"\n' + begin + "".join(tables))
    return path


def test_weights_are_scored_as_their_maps_are(config: TrainConfig, weights: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    scores, by_scene = evaluate_weights(weights, config, "cpu", lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    total = 0
    for scene in config.scenes:
        predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", weights, device="cpu"))
        mapped = evaluate(tmp_path / "map.tif", scene.labels)
        assert by_scene[scene.name] == pytest.approx(mapped.overall_accuracy)
        total += mapped.pixels
    assert scores.pixels == total
    assert scores.overall_accuracy == pytest.approx(sum(by_scene.values()) / 2)


def test_only_what_is_held_out_is_read(config: TrainConfig, weights: Path) -> None:
    """A fold is scored on one region, whatever the other holds."""
    _, by_scene = evaluate_weights(weights, replace(config, split="region", fold="south"), "cpu")
    assert by_scene.keys() == {"south"}
    part = replace(config, split="random", validation_share=0.3)
    scores, _ = evaluate_weights(weights, part, "cpu")
    assert scores.pixels == sum(int(look.validation.sum()) for look in survey(part))
    assert 0 < scores.pixels < 30_000


def test_classes_of_another_scheme_are_refused(config: TrainConfig, weights: Path) -> None:
    with pytest.raises(OptionsError, match="predicts scheme 'esri-io', but the labels are in 'worldcover'"):
        evaluate_weights(weights, replace(config, scheme="worldcover"), "cpu")
    with pytest.raises(InputError, match="No labelled pixel is held out"):
        validate(REFNet(CARD.network), CARD, [], config)


@pytest.mark.parametrize("tile", [64, 256])
def test_views_show_one_place_in_all_four_ways(config: TrainConfig, tile: int) -> None:
    """Also where the scene is narrower than a tile, and tiles are smaller."""
    card = replace(CARD, tile=tile)
    scenes = survey(replace(config, split="region", fold="south"))
    net = REFNet(CARD.network).eval()
    views = choose_views(net, card, [look for look in scenes if look.validation.any()], config)
    assert [view.name for view in views] == ["south"]
    for view in views:
        sides = (64, 64) if tile == 64 else (128, 128)
        assert view.optical.shape == (3, *sides)
        assert view.sar.shape == (2, *sides)
        assert view.labels.shape == view.predicted.shape == sides
        labelled = view.labels > 0
        # The blue band tells the label (tests/helpers/scenes.py); red, green and blue are shown in this order.
        assert np.array_equal((view.optical[2][labelled] - 100) // 300, DRAWN[view.labels[labelled]])
        assert not view.predicted[~np.isfinite(view.sar).all(0)].any()


def test_bands_that_are_no_colours_are_shown_too(config: TrainConfig) -> None:
    optical = replace(CARD.optical, bands=("B08", "B11"), mean=(1.0, 1.0), std=(1.0, 1.0))
    card = Card("two", replace(CARD.network, optical_bands=2), optical, CARD.sar, CARD.scheme, tile=64)
    scenes = survey(replace(config, split="region", fold="south"))[1:]
    read_as = tuple(replace(scene, optical_bands=("1", "2")) for scene in config.scenes)
    config = replace(config, optical_bands=("B08", "B11"), scenes=read_as)
    scenes = [replace(look, entry=read_as[1]) for look in scenes]
    (view,) = choose_views(REFNet(card.network).eval(), card, scenes, config)
    assert view.optical.shape == (2, 64, 64)


def test_the_command_scores_weights(
    config: TrainConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regions = write_regions(config, tmp_path / "regions.toml", 'split = "none"\n')
    arguments = ["evaluate", "--weights", str(weights), "--regions", str(regions), "--device", "cpu"]
    assert run([*arguments, "--plot", str(tmp_path / "matrix.png"), "--fold", "south", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall_accuracy_by_scene"].keys() == {"south"}
    with Image.open(tmp_path / "matrix.png") as picture:
        assert min(picture.size) > 200
    assert run(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any("overall_accuracy" in line for line in shown)
    assert [line.split()[0] for line in shown[-2:]] == ["north", "south"]


def test_a_map_s_confusion_matrix_is_drawn(
    config: TrainConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = config.scenes[0]
    predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", weights, device="cpu"))
    arguments = ["evaluate", str(tmp_path / "map.tif"), str(scene.labels)]
    assert run([*arguments, "--plot", str(tmp_path / "matrix.png")]) == 0
    assert (tmp_path / "matrix.png").exists()
    (tmp_path / "labels.png").symlink_to(scene.labels)
    assert run([*arguments, "--plot", str(tmp_path / "labels.png")]) == 64
    assert "is the same file as" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["a.tif"], ["--weights", "w"], ["--regions", "r"], ["a.tif", "b.tif", "--weights", "w", "--regions", "r"],
        ["a.tif", "b.tif", "--weights", "w"], ["a.tif", "b.tif", "--fold", "x"],
        ["--weights", "w", "--regions", "r", "--sample"],
    ],
)  # fmt: skip
def test_ways_to_call_it_wrongly(arguments: list[str]) -> None:
    assert run(["evaluate", *arguments]) == 2


def test_windows_to_score_lie_in_the_grid(config: TrainConfig) -> None:
    windows = 0
    for look in survey(replace(config, split="random", validation_share=0.4)):
        assert all(window == window.clip(*look.grid.shape) for window in look.roles.validation)
        windows += len(look.roles.validation)
    assert windows > 1


def interrupt(*_: object, **__: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize(
    ("trained", "scored", "warned"),
    [
        ({"split": "region", "fold": "south"}, {"split": "region", "fold": "south"}, False),
        ({"split": "region", "fold": "north"}, {"split": "region", "fold": "south"}, True),
        pytest.param({"split": "random"}, {"split": "random"}, False, marks=pytest.mark.long),
        ({"split": "random"}, {"split": "random", "seed": 3}, True),
        pytest.param({"split": "random"}, {"split": "none"}, True, marks=pytest.mark.long),
        pytest.param({"split": "none"}, {"split": "region", "fold": "south"}, True, marks=pytest.mark.long),
    ],
)
def test_scores_of_what_was_learned_from_are_warned_of(
    config: TrainConfig, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any],
    scored: dict[str, Any], warned: bool,
) -> None:  # fmt: skip
    config = replace(config, tile=64)
    before = replace(config, **trained)
    net, card = load_weights(weights)
    training = {name: getattr(before, name) for name in ("seed", "block", "crop", "buffer", "validation_share")}
    training |= {"split": before.method, "scenes": {scene.name: before.role(scene) for scene in before.scenes}}
    save_weights(net, replace(card, training=training), tmp_path / "w.safetensors")
    monkeypatch.setattr("refnet_cli.training.validation.validate", interrupt)
    with messages() as said, pytest.raises(InterruptedError):
        evaluate_weights(tmp_path / "w.safetensors", replace(config, **scored), "cpu")
    assert bool(said) == warned
    assert all("optimistic" in line for line in said)
