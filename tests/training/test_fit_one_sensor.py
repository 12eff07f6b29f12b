"""Training on scenes of one sensor: what crops hold, what is refused, and what the card says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.errors import ConfigError, InputError, OptionsError
from refnet_cli.model.card import SENSORS_ALONE
from refnet_cli.model.weight_files import read_card
from refnet_cli.model.weights import load_weights
from refnet_cli.tiles.window import Window
from refnet_cli.training import statistics
from refnet_cli.training.batches import read_batches
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import SceneFiles
from refnet_cli.training.fit import fit
from refnet_cli.training.learner import Learner
from refnet_cli.training.regions_file import read_regions
from refnet_cli.training.result import TrainResult
from refnet_cli.training.run import Progress
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.statistics import measure_statistics
from refnet_cli.training.survey import sensors_usable_alone, survey
from refnet_cli.training.validation import evaluate_weights
from tests.helpers.messages import messages
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, make_labelled_scene
from tests.helpers.trainings import shorten

WHOLE = Window(0, 0, 160, 144)
SENSORS = ("optical", "sar")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainScene]:
    """Ground of its own for a pair, a scene of each sensor alone, and a pair that is held out."""
    folder = tmp_path_factory.mktemp("scenes")
    made = {name: make_labelled_scene(folder / name, seed=seed) for seed, name in enumerate(("pair", *SENSORS, "held"))}
    made["optical"] = replace(made["optical"], sar=None)
    made["sar"] = replace(made["sar"], optical=None)
    made["held"] = replace(made["held"], split="validation")
    return made


def configured(scenes: dict[str, TrainScene], *names: str, **settings: Any) -> TrainConfig:
    return TrainConfig(
        scenes=tuple(scenes[name] for name in names), scheme="esri-io", encoder="test_resnet", width=16,
        **{"batch": 4, "crop": 64, "tile": 160, "steps": 1, "learning_rate": 3e-3, "device": "cpu"} | settings,
    )  # fmt: skip


def other_of(sensor: str) -> str:
    return "sar" if sensor == "optical" else "optical"


def test_a_regions_file_may_leave_a_sensor_out(tmp_path: Path) -> None:
    path = tmp_path / "regions.toml"
    tables = '[[scenes]]\nsar = "b"\nlabels = "c"\n[[scenes]]\noptical = "a"\nlabels = "c"\n'
    path.write_text(f'scheme = "esri-io"\n{tables}')
    radar, optical = read_regions(path).scenes
    assert (radar.optical, radar.absent, radar.sar) == (None, "optical", tmp_path / "b")
    assert (optical.sar, optical.absent, optical.optical) == (None, "sar", tmp_path / "a")
    path.write_text('scheme = "esri-io"\n[[scenes]]\nlabels = "c"\n')
    with pytest.raises(ConfigError, match="lacks optical or sar"):
        read_regions(path)
    with pytest.raises(OptionsError, match="lacks optical or sar"):
        TrainScene(labels=Path("c"))
    with pytest.raises(OptionsError, match="lacks labels"):
        TrainScene(Path("a"), Path("b"))


@pytest.mark.parametrize("sensor", SENSORS)
def test_labels_count_where_the_only_sensor_saw(scenes: dict[str, TrainScene], sensor: str) -> None:
    config = configured(scenes, sensor, split="none")
    with SceneFiles.open(scenes[sensor], config) as region:
        stored = region.labels.read(WHOLE)
        patch, labels = region.read(Window(-10, -10, 180, 164))
        known = np.isfinite(getattr(region.pair.read(WHOLE), sensor)).all(0)
        assert known.all() == (sensor == "optical")  # a corner lacks SAR
        np.testing.assert_array_equal(labels[10:-10, 10:-10], np.where(known, stored, 0))
        np.testing.assert_array_equal(region.read_labels(WHOLE), np.where(known, stored, 0))
        assert np.isnan(getattr(patch, other_of(sensor))).all()
    (look,) = survey(config)
    assert look.training.counts.sum() == np.count_nonzero(np.where(known, stored, 0))


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_crops_lack_one_sensor_and_never_both(scenes: dict[str, TrainScene], dropout: float) -> None:
    config = configured(scenes, "pair", "optical", "sar", split="none", modality_dropout=dropout, jitter=0.1)
    sampler = Sampler(survey(config), config)
    kinds = set()
    for number in range(30):
        crop = sampler.draw(0, number)
        known = tuple(bool(np.isfinite(image).all()) for image in (crop.optical, crop.sar))
        assert known == tuple(bool(np.isfinite(image).any()) for image in (crop.optical, crop.sar))
        assert any(known)
        assert crop.labels.any()
        kinds.add(known)
    assert kinds == {(True, False), (False, True)} | ({(True, True)} if not dropout else set())
    for batches in read_batches(sampler, CARD, replace(config, batch=4), 0):
        assert all(torch.isfinite(x).all() for batch in batches for x in batch[:3])
    sampler.close()


@pytest.mark.parametrize("sensor", SENSORS)
def test_statistics_are_those_of_the_scenes_that_have_the_sensor(scenes: dict[str, TrainScene], sensor: str) -> None:
    """Scenes without it change neither its mean nor its spread, however many they are."""
    few = configured(scenes, "pair", split="none")
    alone = replace(scenes[other_of(sensor)], label_weight=1.0)
    many = replace(few, scenes=(few.scenes[0], *(replace(alone, name=f"alone-{n}") for n in range(3))))
    found = {}
    for config in (few, many):
        sampler = Sampler(survey(config), config)
        found[config is many] = measure_statistics(sampler, config, {})[SENSORS.index(sensor)]
        sampler.close()
    assert found[True].mean == pytest.approx(found[False].mean, rel=0.05)
    assert found[True].std == pytest.approx(found[False].std, rel=0.15)


def test_a_sensor_in_few_scenes_is_measured_in_enough_crops(
    scenes: dict[str, TrainScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "STATISTICS_CROPS", 1)
    monkeypatch.setattr(statistics, "LEAST_STATISTICS_CROPS", 3)
    config = configured(scenes, "optical", "sar", split="none")
    sampler = Sampler(survey(config), config)
    drawn, draw = [], sampler.draw

    def remember(step: int, number: int, *, augmented: bool = True) -> Any:
        drawn.append(draw(step, number, augmented=augmented))
        return drawn[-1]

    monkeypatch.setattr(sampler, "draw", remember)
    measure_statistics(sampler, config, {})
    found = [sum(bool(np.isfinite(getattr(crop, name)).any()) for crop in drawn) for name in SENSORS]
    assert min(found) == 3
    monkeypatch.setattr(statistics, "MOST_STATISTICS_CROPS", 1)
    with pytest.raises(InputError, match=r"(optical|sar) band has no valid value in 1 training crops"):
        measure_statistics(sampler, config, {})
    sampler.close()


@pytest.mark.parametrize("sensor", few(SENSORS, "sar"))
def test_a_training_of_one_sensor_says_what_to_write(
    scenes: dict[str, TrainScene], sensor: str, tmp_path: Path, short_trainings: None
) -> None:
    """Then it trains, and its statistics of the other sensor are never used."""
    absent = other_of(sensor)
    config = configured(scenes, sensor, "held")
    with pytest.raises(OptionsError, match=f'has {absent} files. Set without = "{absent}"'):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = fit(replace(config, without=absent), tmp_path / "run")  # type: ignore[arg-type]
    modality = getattr(result.card, absent)
    assert set(zip(modality.mean, modality.std, strict=True)) == {(0.0, 1.0)}
    assert result.card.sensors_alone == (sensor,)
    assert result.card.training[SENSORS_ALONE] == [sensor]
    both = replace(configured(scenes, "pair", split="none", steps=1), init=result.weights)
    measured = fit(both, tmp_path / "both").card  # of what nothing was measured, nothing is taken over
    assert 0 not in getattr(measured, absent).mean
    assert getattr(measured, sensor) == getattr(result.card, sensor)
    variances = {n: x for n, x in load_weights(result.weights)[0].state_dict().items() if n.endswith("running_var")}
    assert all(bool((x == 1).all()) == n.startswith(f"{absent}_encoder.") for n, x in variances.items())


def test_leaving_out_the_only_sensor_is_refused(scenes: dict[str, TrainScene]) -> None:
    with pytest.raises(OptionsError, match='sar has no optical file, and without = "sar" removes its only sensor'):
        configured(scenes, "pair", "sar", split="none", without="sar")
    configured(scenes, "pair", "optical", split="none", without="sar")


@pytest.mark.parametrize(
    ("names", "settings", "wanted"),
    [
        (("pair",), {}, []),
        (("pair",), {"modality_dropout": 0.1}, ["optical", "sar"]),
        (("pair", "optical"), {}, ["optical"]),
        (("pair", "sar"), {}, ["sar"]),
        (("optical", "sar"), {}, ["optical", "sar"]),
        (("pair",), {"without": "optical"}, ["sar"]),
    ],
)
def test_sensors_that_suffice(
    scenes: dict[str, TrainScene], names: tuple[str, ...], settings: dict[str, Any], wanted: list[str]
) -> None:
    config = configured(scenes, *names, split="none", **settings)
    assert sensors_usable_alone(config, survey(config)) == wanted


def test_scenes_that_are_only_scored_teach_nothing(scenes: dict[str, TrainScene]) -> None:
    config = configured(scenes, "pair", "optical", fold="optical")
    assert sensors_usable_alone(config, survey(config)) == []


class PulledPlugError(Exception):
    pass


@pytest.fixture(scope="module")
def mixed(scenes: dict[str, TrainScene]) -> TrainConfig:
    """Small batches, of which many have no crop with one of the sensors."""
    held = replace(scenes["held"], sar=None)
    return configured({**scenes, "held": held}, "pair", "optical", "sar", "held", batch=2, steps=5, checkpoint_every=3)


@pytest.fixture(scope="module")
def trained(mixed: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, pictures=True)
        return fit(mixed, tmp_path_factory.mktemp("mixed"))


@pytest.mark.long
def test_a_mixed_training_scores_with_the_one_sensor_that_there_is(mixed: TrainConfig, trained: TrainResult) -> None:
    """Pictures of a scene without SAR included."""
    card = read_card(trained.weights)
    assert card.sensors_alone == ("optical", "sar")
    assert (trained.weights.parent / "tiles.png").stat().st_size
    scores, _ = evaluate_weights(trained.weights, mixed, "cpu")
    assert scores.pixels == card.scores["validation"]["pixels"]
    assert scores.confusion_matrix == card.scores["validation"]["confusion_matrix"]
    tensors = load_weights(trained.weights)[0].state_dict()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


@pytest.mark.long
def test_a_mixed_training_goes_on_to_the_same_weights(
    mixed: TrainConfig, trained: TrainResult, tmp_path: Path, short_trainings: None
) -> None:
    def pull(progress: Progress) -> None:
        if progress.step == 4:
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        fit(mixed, tmp_path, pull)
    resumed = fit(mixed, tmp_path)
    assert resumed.history == trained.history
    ours, theirs = (load_weights(result.weights)[0].state_dict() for result in (resumed, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.long
def test_an_encoder_that_sees_nothing_keeps_its_statistics(
    scenes: dict[str, TrainScene], tmp_path: Path, short_trainings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes without any SAR leave SAR's running means and variances alone: they would shrink to nothing."""
    config = configured(scenes, "pair", "optical", split="none", batch=2, accumulate=2, steps=4)
    plain, seen = Learner.__dict__["_learn"], []

    def watch(learner: Learner, batch: Any, share: Any) -> Any:
        def state() -> list[torch.Tensor]:
            net = learner.net.sar_encoder.state_dict()
            return [tensor.clone() for name, tensor in net.items() if "running" in name]

        before = state()
        found = plain(learner, batch, share)
        same = all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
        seen.append((bool(batch.sar.any()), same))
        return found

    monkeypatch.setattr(Learner, "_learn", watch)
    fit(config, tmp_path)
    assert set(seen) == {(True, False), (False, True)}


@pytest.mark.long
def test_scoring_with_a_sensor_that_is_not_taught_warns(
    scenes: dict[str, TrainScene], tmp_path: Path, short_trainings: None
) -> None:
    held = replace(scenes["held"], sar=None)
    for dropout, count in ((0.0, 1), (0.5, 0)):
        config = configured({**scenes, "held": held}, "pair", "held", steps=1, modality_dropout=dropout)
        with messages() as said:
            fit(config, tmp_path / str(dropout))
        assert sum("held is scored with optical files alone" in line for line in said) == count
