"""Training: that it learns, resumes exactly, stops when asked, and leaves weights that predict."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.cli.main import run
from refnet_cli.engines.torch_engine import Standardise, load_torch_engine
from refnet_cli.errors import InputError, InputMissingError, OptionsError, TryAgainError, WeightsError
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.evaluation.scores import confusion_matrix, score
from refnet_cli.model.published_checkpoint import published_names, rename_published
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import read_card
from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scan import choose_scan
from refnet_cli.tiles.window import Window
from refnet_cli.training.batches import Batch
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.distributed import Processes
from refnet_cli.training.fit import fit
from refnet_cli.training.held_out import read_held_out
from refnet_cli.training.history import Step
from refnet_cli.training.identity import training_identity
from refnet_cli.training.learner import Learner, class_weights, make_optimizer, make_schedule
from refnet_cli.training.losses import LOSSES
from refnet_cli.training.result import TrainResult
from refnet_cli.training.run import Progress
from refnet_cli.training.splits import VALIDATION
from refnet_cli.training.survey import survey
from refnet_cli.training.validation import Validation, evaluate_weights
from tests.golden import Golden
from tests.helpers import trainings
from tests.helpers.messages import messages
from tests.helpers.once import once
from tests.helpers.programs import Process, refnet, start
from tests.helpers.real_data import each_source
from tests.helpers.scenes import CARD, PLACE, write


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return trainings.small_config(tmp_path_factory)


@pytest.fixture(scope="module")
def unscored(config: TrainConfig) -> TrainConfig:
    """Without validation, which takes half of the time of a short training."""
    return replace(config, scenes=config.scenes[:1], split="none")


pytestmark = pytest.mark.usefixtures("short_trainings")
SOUTH = Affine.translation(100_000, 0) @ PLACE


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_weights(path, msie=True)[0].state_dict()


class PulledPlugError(Exception):
    pass


def pull_at(step: int) -> Callable[[Progress], None]:
    def pull(progress: Progress) -> None:
        if progress.step == step:
            raise PulledPlugError

    return pull


ALL_AT_ONCE: dict[str, Any] = {
    "warmup": 2, "clip": 1.0, "jitter": 0.1, "modality_dropout": 0.3, "class_weights": "balanced", "ema": 0.8,
    "haze": 0.1, "sar_gain": 1.0, "sar_slope": 1.0, "sar_looks": 2.0, "shift": 1.0, "mix": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def full(config: TrainConfig) -> TrainConfig:
    return replace(config, tile=160, **ALL_AT_ONCE)


@dataclass
class Plain:
    """An undisturbed training with everything, and what it said."""

    result: TrainResult
    said: list[str]

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.result.weights.parent, folder))


@pytest.fixture(scope="module")
def plain(full: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    def make(folder: Path) -> Plain:
        with pytest.MonkeyPatch.context() as patch, messages() as said:
            trainings.shorten(patch, pictures=True)
            return Plain(fit(full, folder), said)

    return once(tmp_path_factory, "fit-plain", make)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return trainings.learned(tmp_path_factory)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 3, pytest.param(5, marks=pytest.mark.long)])
def test_resumed_equals_uninterrupted(full: TrainConfig, plain: Plain, tmp_path: Path, step: int) -> None:
    """Before the first checkpoint, at a validation, and after a checkpoint; then it leaves once because it is asked."""
    whole = plain.result
    with pytest.raises(PulledPlugError):
        fit(full, tmp_path / "parts", pull_at(step))
    assert not (tmp_path / "parts" / "refnet.safetensors").exists()
    questions = iter([False, False])
    with pytest.raises(TryAgainError, match="Run the same command again"):
        fit(full, tmp_path / "parts", stopping=lambda: next(questions, True))
    assert not (tmp_path / "parts" / "refnet.safetensors").exists()
    resumed = fit(full, tmp_path / "parts")
    assert resumed.history == whole.history
    ours, theirs = weights_of(resumed.weights), weights_of(whole.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.card == whole.card
    assert resumed.card.temperature != 1
    assert ALL_AT_ONCE.items() <= resumed.card.training.items()
    for table in ("steps.csv", "validations.csv"):
        assert (tmp_path / "parts" / table).read_bytes() == (whole.weights.parent / table).read_bytes()


@pytest.mark.long
def test_a_training_that_is_done_is_not_done_again(full: TrainConfig, plain: Plain, tmp_path: Path) -> None:
    steps: list[int] = []
    second = fit(full, plain.copy(tmp_path / "run"), lambda progress: steps.append(progress.step))
    assert steps == []
    assert second.card == plain.result.card


@pytest.mark.long
@pytest.mark.parametrize("limits", [(6,), (1, 2, 6)], ids=len)
def test_it_leaves_when_asked_and_goes_on(
    full: TrainConfig, plain: Plain, tmp_path: Path, limits: tuple[int, ...]
) -> None:
    for limit in limits:  # the last one lies in a validation
        questions = iter([False] * limit)
        with pytest.raises(TryAgainError, match="Run the same command again"):
            fit(full, tmp_path / "parts", stopping=lambda questions=questions: next(questions, True))  # type: ignore[misc]
    parts = fit(full, tmp_path / "parts")
    assert parts.history == plain.result.history
    assert parts.card == plain.result.card


@pytest.mark.long
def test_the_card_says_the_temperature_that_suits_what_is_held_out(
    config: TrainConfig, plain: Plain, learned: TrainResult
) -> None:
    result = plain.result
    assert json.dumps(read_card(result.weights).to_dict()) == json.dumps(result.card.to_dict())
    found = result.card.scores["calibration"]
    assert found["temperature"] == result.card.temperature != 1
    (labelled,) = (look for look in survey(config) if look.validation.any())
    assert found["pixels"] == labelled.validation.sum()
    assert found["nll_after"] < found["nll_before"]
    of_more_steps = learned.card.scores["calibration"]
    assert 0 <= of_more_steps["ece_after"] < of_more_steps["ece_before"] <= 1
    assert len([line for line in plain.said if line.startswith(f"temperature: {found['temperature']:g}, fitted")]) == 1
    # The scores are those of maps that the weights make, with their temperature.
    scores, by_scene = evaluate_weights(result.weights, config, "cpu")
    scored = result.card.scores["validation"]
    assert {name: scored[name] for name in scores.to_dict()} == scores.to_dict()
    assert scored["overall_accuracy_by_scene"] == by_scene


@pytest.mark.long
def test_without_enough_held_out_there_is_no_temperature(
    config: TrainConfig, tmp_path: Path, said: list[str]
) -> None:
    labels = np.zeros((1, 160, 144), np.uint8)
    labels[0, 40:50, 24:124] = 1
    few = write(tmp_path / "few.tif", labels[:, :, :123], ("labels",), SOUTH)
    scenes = config.scenes[0], replace(config.scenes[1], labels=few)
    result = fit(replace(config, scenes=scenes, steps=1), tmp_path / "few")
    assert result.card.scores["validation"]["pixels"] == 990
    assert result.card.temperature == 1
    assert "calibration" not in result.card.scores
    assert any("too few labelled pixels are held out" in line for line in said)
    north = replace(config.scenes[0], split=None)
    result = fit(replace(config, scenes=(north,), split="none", steps=1), tmp_path / "none")
    assert (result.card.temperature, result.card.scores) == (1, {})


def test_learning_starts_from_a_temperature_of_1(unscored: TrainConfig, tmp_path: Path) -> None:
    """Weights to start from may have one, of which neither the loss nor the new weights know."""
    torch.manual_seed(0)
    net, losses = REFNet(unscored.network), []
    for temperature in (1.0, 5.0):
        folder = tmp_path / str(temperature)
        folder.mkdir()
        save_weights(net, replace(CARD, network=net.config, temperature=temperature), folder / "w.safetensors")
        started = replace(unscored, init=folder / "w.safetensors", steps=1)
        result = fit(started, folder / "run")
        losses.append(result.history.steps)
        assert result.card.temperature == 1
    assert losses[0] == losses[1]


@pytest.mark.long
def test_it_leaves_while_it_calibrates(
    full: TrainConfig, plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = plain.copy(tmp_path / "parts")
    (parts / "refnet.safetensors").unlink()
    leaving: list[bool] = []

    def asked(*arguments: object) -> object:
        leaving.append(True)
        return read_held_out(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("refnet_cli.training.result.read_held_out", asked)
        with pytest.raises(TryAgainError, match="Run the same command again"):
            fit(full, parts, stopping=lambda: bool(leaving))
    assert not (parts / "refnet.safetensors").exists()
    assert fit(full, parts).card == plain.result.card


def test_a_checkpoint_of_other_settings_is_refused(full: TrainConfig, plain: Plain, tmp_path: Path) -> None:
    folder = plain.copy(tmp_path / "run")
    with pytest.raises(OptionsError, match=r"different settings \(.*haze.*steps"):
        fit(replace(full, steps=8, haze=0.2), folder)


def test_it_learns_and_the_weights_predict(config: TrainConfig, learned: TrainResult, tmp_path: Path) -> None:
    result, losses = learned, [step.loss for step in learned.history.steps]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert result.card.scores["validation"]["overall_accuracy"] > 0.8
    assert result.card.scores["validation"]["overall_accuracy_by_scene"].keys() == {"south"}
    assert result.card.training["steps"] == 20
    scene = config.scenes[1]
    report = predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", result.weights, device="cpu"))
    assert report.weights["sha256"] == result.card.sha256


@pytest.mark.long
def test_weights_trained_without_a_sensor_never_see_it(unscored: TrainConfig, tmp_path: Path) -> None:
    result = fit(replace(unscored, steps=1, without="sar"), tmp_path)
    variances = {n: x for n, x in weights_of(result.weights).items() if n.endswith("running_var")}
    assert all(bool((x == 1).all()) == n.startswith("sar_encoder.") for n, x in variances.items())
    engine = load_torch_engine(result.weights, "cpu")
    random = np.random.default_rng(0)
    optical = random.uniform(100, 3000, (1, 4, 64, 64)).astype(np.float32)
    sar = random.uniform(-25, -5, (2, 1, 2, 64, 64)).astype(np.float32)
    assert np.array_equal(engine.predict(optical, sar[0]), engine.predict(optical, sar[1]))
    assert not np.array_equal(engine.predict(optical, sar[0]), engine.predict(optical[..., ::-1].copy(), sar[0]))


@pytest.mark.long
def test_validation_scenes_without_labels_do_not_lose_the_training(config: TrainConfig, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tif", np.zeros((1, 160, 144), np.uint8), ("labels",), SOUTH)
    scenes = config.scenes[0], replace(config.scenes[1], labels=bare)
    assert fit(replace(config, scenes=scenes, steps=1), tmp_path).card.scores == {}


def test_standardising() -> None:
    x = torch.tensor([[[[500.0, torch.nan]]]]).expand(1, 4, 1, 2)
    standard = Standardise(CARD.optical)(x)
    assert standard[0, :, 0, 0].tolist() == pytest.approx([0.5, -0.5, 0, -2000 / 900])
    assert not standard[..., 1].any()


def test_decay_spares_a_and_d(config: TrainConfig) -> None:
    net = REFNet(config.network)
    decayed, plain = make_optimizer(net, config).param_groups
    assert plain["weight_decay"] == 0
    assert decayed["weight_decay"] == config.weight_decay
    assert len(plain["params"]) == 2 * 15
    assert len(plain["params"]) + len(decayed["params"]) == len(list(net.parameters()))


def test_missing_scenes_and_nothing_to_learn(config: TrainConfig, tmp_path: Path) -> None:
    scene = replace(config.scenes[0], labels=tmp_path / "none.tif")
    with pytest.raises(InputMissingError, match=r"none\.tif"):
        fit(replace(config, scenes=(scene,)), tmp_path)
    with pytest.raises(OptionsError, match="All scenes are for validation"):
        fit(replace(config, scenes=config.scenes[1:]), tmp_path)
    with pytest.raises(OptionsError, match="precision is bf16, which needs a GPU"):
        fit(replace(config, precision="bf16"), tmp_path)
    with pytest.raises(InputError, match=r"too small to hold out blocks .* this fits: block = \d+ \("):
        fit(replace(config, split="blocks", scenes=(replace(config.scenes[0], split=None),)), tmp_path)


def test_ground_that_two_scenes_see_is_not_validated_by_one_and_learned_by_the_other(config: TrainConfig) -> None:
    north = config.scenes[0]
    again = replace(north, name="again", split="validation")
    training, _ = survey(replace(config, scenes=(replace(north, split=None), again)))
    assert not training.training.counts.any()


def test_the_schedule_is_the_published_one(config: TrainConfig) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    ours, rates = make_schedule(optimizer, replace(config, steps=20)), []
    other = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = torch.optim.lr_scheduler.PolynomialLR(other, 20, 0.9)
    for _ in range(20):
        rates.append((ours.get_last_lr()[0], theirs.get_last_lr()[0]))
        for part in (optimizer, ours, other, theirs):
            part.step()
    assert [rate for rate, _ in rates] == pytest.approx([rate for _, rate in rates])


def test_warming_up(config: TrainConfig) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule, rates = make_schedule(optimizer, replace(config, steps=20, warmup=4)), []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.1


def test_balanced_weights_let_all_classes_count_alike(config: TrainConfig) -> None:
    scenes = survey(config)
    weights = class_weights(replace(config, class_weights="balanced"), scenes)
    assert weights is not None
    pixels = torch.from_numpy(scenes[0].training.counts.sum(0))
    products = (weights[1:] * pixels)[pixels > 0]
    assert products.tolist() == pytest.approx([products[0].item()] * 3, rel=1e-5)
    assert products.sum().item() == pytest.approx(pixels.sum().item(), rel=1e-5)
    by_name = dict.fromkeys(config.classes.names, 1.0) | {"Trees": 3.0}
    assert class_weights(replace(config, class_weights=by_name), scenes).tolist()[:4] == [0, 1, 3, 1]  # type: ignore[union-attr]
    assert class_weights(config, scenes) is None


@pytest.mark.long
def test_passes_add_up_to_the_step(unscored: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for batch norms, which see the images of a pass: with those at rest, nothing differs but rounding."""
    monkeypatch.setattr("refnet_cli.training.learner.set_training", lambda net, frozen: net.eval() and None)
    monkeypatch.setattr("refnet_cli.model.refnet.REFNet.forward", _with_auxiliary(REFNet.forward))
    config = replace(unscored, steps=2, batch=4, class_weights="balanced", clip=0.5, learning_rate=1e-3)
    at_once, in_two = (fit(replace(config, accumulate=n), tmp_path / str(n)) for n in (1, 2))
    for one, other in zip(at_once.history.steps, in_two.history.steps, strict=True):
        assert tuple(one) == pytest.approx(tuple(other), rel=1e-4)
    ours, theirs = weights_of(at_once.weights), weights_of(in_two.weights)
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=1e-4), name


def _with_auxiliary(forward: Callable[..., object]) -> Callable[..., object]:
    def called(net: REFNet, optical: torch.Tensor, sar: torch.Tensor, auxiliary: bool | None = None) -> object:
        return forward(net, optical, sar, net.config.msie if auxiliary is None else auxiliary)

    return called


def test_the_moving_average_is_what_is_kept(unscored: TrainConfig, tmp_path: Path) -> None:
    """Against an average made by hand of the weights after every step; by names, batch norms' statistics too."""
    config, seen = replace(unscored, steps=3, ema=0.6), []
    plain = Learner.__dict__["step"]

    def remember(learner: Learner, number: int, batches: list[Batch]) -> Step:
        found: Step = plain(learner, number, batches)
        seen.append({name: tensor.clone() for name, tensor in learner.net.state_dict().items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", remember)
        kept = weights_of(fit(config, tmp_path).weights)
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            wanted = seen[0][name]
            for state in seen[1:]:
                wanted = 0.6 * wanted + 0.4 * state[name]
            assert torch.allclose(tensor, wanted, rtol=1e-4, atol=1e-6), name


def test_it_stops_when_validations_get_no_better(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = score(np.eye(9, dtype=np.int64), config.classes.names)
    validations = iter([Validation(replace(found, mean_iou=iou), {}, {}) for iou in (0.3, 0.5, 0.4, 0.5)])
    monkeypatch.setattr("refnet_cli.training.trainer.validate", lambda *_: next(validations))
    result = fit(replace(config, steps=50, validate_every=1, patience=2), tmp_path)
    assert [step.step for step in result.history.steps] == [1, 2, 3, 4]
    assert result.card.training["steps_done"] == 4
    assert result.card.scores["validation"]["step"] == 2


@pytest.mark.long
def test_the_best_network_is_kept(config: TrainConfig, tmp_path: Path) -> None:
    """Weights and scores are those of one and the same step, which need not be the last."""
    result = fit(replace(config, steps=4, validate_every=2, learning_rate=1e-2), tmp_path)
    scored = result.card.scores["validation"]
    best = max(result.history.validations, key=lambda scores: scores["mean_iou"])
    assert scored["step"] == best["step"]
    assert scored["mean_iou"] == pytest.approx(best["mean_iou"], abs=0.02)  # which knew no temperature
    south = config.scenes[1]
    predict(PredictOptions(south.optical, south.sar, tmp_path / "map.tif", result.weights, device="cpu"))
    again = evaluate(tmp_path / "map.tif", south.labels)
    assert again.overall_accuracy == pytest.approx(scored["overall_accuracy"], abs=1e-9)
    assert again.confusion_matrix == scored["confusion_matrix"]


def test_only_held_out_pixels_are_scored(config: TrainConfig, tmp_path: Path) -> None:
    """Validation in patches gives what a map of the whole scene gives there."""
    scene = replace(config.scenes[0], split=None)
    config = replace(config, scenes=(scene,), split="random", validation_share=0.3, steps=1)
    result = fit(config, tmp_path)
    scored = result.card.scores["validation"]
    assert (scored["split"], scored["leaky"]) == ("random", True)
    (look,) = survey(config)
    predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", result.weights, device="cpu"))
    with rasterio.open(tmp_path / "map.tif") as mapped, rasterio.open(scene.labels) as labelled:
        held_out = look.roles.read(Window(0, 0, *look.grid.shape)) == VALIDATION
        labels = np.where(held_out, labelled.read(1), 0)
        total = confusion_matrix(labels, mapped.read(1), max(config.classes.codes) + 1)
    assert scored["pixels"] == total.sum() > 0
    assert scored["overall_accuracy"] == pytest.approx(np.trace(total) / total.sum())


@pytest.mark.parametrize(
    ("data", "side", "steps"),
    each_source([(64, 40)], [(64, 120), (224, 600)]),
    indirect=["data"],
)
@pytest.mark.long
def test_it_learns_a_tile_by_heart(data: Path, tmp_path: Path, side: int, steps: int) -> None:
    terramind, name = data / "terramind", "433D_629L_3_1.tif"
    with rasterio.open(terramind / "LULC" / name) as file:
        labels, transform, crs = file.read(), file.transform, file.crs
    labels[:, side:] = labels[:, :, side:] = 0
    scene = TrainScene(
        terramind / "S2L2A" / name, terramind / "S1RTC" / name,
        write(tmp_path / name, labels, ("labels",), transform, crs), name="433D",
    )  # fmt: skip
    config = TrainConfig(
        scenes=(scene,), scheme="terramesh", encoder="test_resnet", width=32, steps=steps, batch=4,
        crop=min(side, 128), tile=224,
        learning_rate=5e-3, warmup=10, clip=1.0, split="none", device="cpu", checkpoint_every=steps,
    )  # fmt: skip
    result = fit(config, tmp_path / "run")
    scores, _ = evaluate_weights(result.weights, config, "cpu")
    assert scores.pixels == side**2
    assert scores.overall_accuracy > 0.95


@pytest.mark.long
def test_a_scheme_of_ones_own_goes_all_the_way(config: TrainConfig, tmp_path: Path) -> None:
    scheme = ClassScheme("mine", (1, 2, 11), ("Pond", "Wood", "Field"), ((0, 0, 255), (0, 99, 0), (200, 200, 0)))
    result = fit(replace(config, scheme=scheme, steps=1), tmp_path)
    assert result.card.scheme == scheme
    assert result.card.training["scheme"] == "mine"
    south = config.scenes[1]
    predict(PredictOptions(south.optical, south.sar, tmp_path / "map.tif", result.weights, device="cpu"))
    assert evaluate(tmp_path / "map.tif", south.labels).labelled.keys() == {"Pond", "Wood", "Field"}


def test_other_labels_are_another_training(unscored: TrainConfig, tmp_path: Path) -> None:
    labels = tmp_path / "labels.tif"
    labels.write_bytes(unscored.scenes[0].labels.read_bytes())
    config = replace(unscored, scenes=(replace(unscored.scenes[0], labels=labels),))
    before = training_identity(config, survey(config))
    with rasterio.open(labels, "r+") as file:
        file.write(np.full((1, 10, 10), 4, np.uint8), window=((60, 70), (60, 70)))
    after = training_identity(config, survey(config))
    assert [name for name, value in before.items() if after[name] != value] == ["labels"]


def test_want_of_memory_is_told(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("refnet_cli.training.learner.training_loss", fail)
    with pytest.raises(TryAgainError, match=r"with 2 crops per pass\. Raise accumulate"):
        fit(config, tmp_path)


def test_what_a_training_leaves(plain: Plain) -> None:
    result, folder = plain.result, plain.result.weights.parent
    assert {path.name for path in folder.iterdir()} == {
        "refnet.safetensors", "checkpoints", "steps.csv", "validations.csv", "tensorboard", "curves.png",
        "confusion.png", "tiles.png",
    }  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "best.pt", "step-000000004.pt", "step-000000006.pt",
    }  # fmt: skip
    for name in ("curves", "confusion", "tiles"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.size[0] > 300
    with (folder / "steps.csv").open() as file:
        assert [Step(int(r["step"]), *(float(r[n]) for n in Step._fields[1:])) for r in csv.DictReader(file)] == (
            result.history.steps
        )
    with (folder / "validations.csv").open() as file:
        assert [float(row["mean_iou"]) for row in csv.DictReader(file)] == [
            scores["mean_iou"] for scores in result.history.validations
        ]
    training = result.card.training
    assert (training["split"], training["buffer"]) == ("region", 160)
    assert training["scenes"] == {"north": "train", "south": "validation"}
    assert training["pixels"]["train"] == training["pixels"]["validation"]
    assert training["start"] == ["network: from scratch"]


def test_starting_from_other_weights(unscored: TrainConfig, learned: TrainResult, tmp_path: Path) -> None:
    fewer = replace(unscored, init=learned.weights, optical_bands=("B04", "B02"), steps=1, freeze="encoders")
    frozen = fit(fewer, tmp_path / "fewer")
    assert any("first convolution" in line or "optical" in line for line in frozen.card.training["start"])
    ours, theirs = weights_of(frozen.weights), weights_of(learned.weights)
    same = [name for name in theirs if name.startswith("sar_encoder.")]
    assert same
    assert all(torch.equal(ours[name], theirs[name]) for name in same)
    assert not torch.equal(ours["head.classify.weight"], theirs["head.classify.weight"])
    with pytest.raises(WeightsError):
        fit(replace(unscored, init=learned.weights, width=32), tmp_path / "other")


@pytest.mark.long
def test_interrupted_before_the_first_step_the_start_is_validated_again(
    config: TrainConfig, learned: TrainResult, tmp_path: Path
) -> None:
    better = replace(config, init=learned.weights, encoder=None, width=None, steps=4, validate_every=4)
    with pytest.raises(TryAgainError, match="Stopped before the first step"):
        fit(better, tmp_path / "run", stopping=lambda: True)
    with pytest.raises(TryAgainError, match="Stopped after step 2"):
        fit(better, tmp_path / "run", stopping=lambda: len((tmp_path / "run" / "steps.csv").read_text().split()) > 2)
    result = fit(better, tmp_path / "run")
    assert [scores["step"] for scores in result.history.validations] == [0, 4]
    assert result.history == fit(better, tmp_path / "whole").history


def test_where_nothing_is_gained_the_start_is_kept(
    config: TrainConfig, learned: TrainResult, tmp_path: Path, said: list[str]
) -> None:
    """Weights to start from are validated before the first step; what is gained is measured from there."""
    spoilt = replace(
        config, init=learned.weights, encoder=None, width=None, steps=1, validate_every=1, learning_rate=0.03
    )
    result = fit(spoilt, tmp_path)
    assert result.history.steps[0].loss < 0.5 * learned.history.steps[0].loss
    assert result.card.optical == learned.card.optical  # the statistics that it was trained with
    scored, known = result.card.scores["validation"], result.history.validations
    assert (scored["step"], [scores["step"] for scores in known]) == (0, [0, 1])
    assert scored["mean_iou"] == pytest.approx(known[0]["mean_iou"], abs=0.02)  # which knew no temperature
    before = learned.card.scores["validation"]["mean_iou"]
    assert known[0]["mean_iou"] == pytest.approx(before, abs=0.02)  # which knew a temperature
    with (tmp_path / "validations.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1"]
    ours, theirs = weights_of(result.weights), weights_of(learned.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (warning,) = (line for line in said if "-> best" in line)
    gain = f"mean IoU: start {known[0]['mean_iou']:.3f} -> best {known[1]['mean_iou']:.3f} at step 1"
    assert warning.startswith(f"! {gain}: not better than where it began")
    assert "lower learning_rate (now 0.03)" in warning


def test_the_command(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = config.scenes[0]
    (tmp_path / "regions.toml").write_text(
        'name = "mine"\nscheme = "esri-io"\nencoder = "test_resnet"\nwidth = 16\nsteps = 9\nbatch = 1\n'
        'crop = 64\ntile = 64\nsplit = "none"\n[[scenes]]\n'
        'name = "north"\nsar_scale = "power"\nmissing = "use-other"\nallow_remote = true\n'
        f'optical = "{scene.optical}"\nsar = "{scene.sar}"\nlabels = "{scene.labels}"\n'
    )
    (cache := tmp_path / "cache").mkdir()  # as an earlier training leaves it
    words = ["train", str(tmp_path / "regions.toml"), "-o", str(tmp_path / "out"), "--steps", "1", "--json"]
    assert run([*words, "--cache", str(cache)]) == 0
    assert [*cache.iterdir()]
    captured = capsys.readouterr()
    card = json.loads(captured.out)
    assert (card["name"], card["training"]["steps"], card["scores"]) == ("mine", 1, {})
    assert card["training"]["scene_options"] == {"north": {"sar_scale": "power", "missing": "use-other"}}
    assert read_card(tmp_path / "out" / "mine.safetensors").sha256 == card["sha256"]
    program, *words = shlex.split(captured.err.partition("\nnext\n")[2].replace("\\\n", ""))
    assert (program, run(words)) == ("refnet", 0)
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'lulc.tif'}\n"


@pytest.mark.long
def test_a_dry_run_counts_and_warns(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = config.scenes[0]
    (tmp_path / "regions.toml").write_text(
        'scheme = "esri-io"\nsplit = "none"\nencoder = "test_resnet"\nwidth = 16\nbatch = 1\ncrop = 64\n'
        f'[[scenes]]\noptical = "{scene.optical}"\nsar = "{scene.sar}"\nlabels = "{scene.labels}"\n'
    )
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["labelled", "pixels", "train", "validation"]
    assert "! train has no pixel of Flooded vegetation, Crops, Built area" in captured.err
    assert "! validation has no pixel at all." in captured.err
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run", "--json", "-q"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out).keys() == {"train", "validation", "scenes", "time"}
    assert captured.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["regions.toml"]
    assert run(["train", str(tmp_path / "regions.toml")]) == 2


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=() if loss == "cross-entropy" else pytest.mark.long) for loss in LOSSES]
)
def test_every_loss_learns(config: TrainConfig, tmp_path: Path, learned: TrainResult, loss: str) -> None:
    result = learned
    if loss != config.loss:
        result = fit(replace(config, loss=loss, steps=20, checkpoint_every=20, validate_every=20), tmp_path)
    losses = [step.loss for step in result.history.steps]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert result.card.training["loss"] == loss


def test_one_step_of_the_published_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradient norms of a step are the published code's, and the weights move as AdamW's formula says."""
    golden = Golden("resnet18")
    monkeypatch.setattr("refnet_cli.training.learner.set_training", lambda net, frozen: net.eval() and None)
    monkeypatch.setattr("refnet_cli.model.refnet.REFNet.forward", _with_auxiliary(REFNet.forward))
    unread = TrainScene(Path("a"), Path("b"), Path("c"))
    published = TrainConfig(scenes=(unread,), scheme="dfc2020", encoder="resnet18", width=32, device="cpu")
    before = {name: parameter.detach().clone() for name, parameter in golden.net.named_parameters()}
    learner = Learner(published, golden.net, None, Processes("cpu", "fp32"), choose_scan("cpu", 1, None).name)
    step = learner.step(0, [Batch(golden.optical, golden.sar, golden.labels)])
    assert step.loss == pytest.approx(golden.stored["main_loss"].item(), rel=1e-5)
    assert step.auxiliary_loss == pytest.approx(golden.stored["aux_loss"].item(), rel=1e-5)
    assert step.learning_rate == 5e-4
    parameters = dict(golden.net.named_parameters())
    names = [rename_published(str(name), published_names()) for name in golden.stored["grad_names"]]
    ours = np.array([parameters[name].grad.norm().item() for name in names])  # type: ignore[union-attr]
    theirs = golden.stored["grad_norms"]
    assert np.abs(ours - theirs).max() < 1e-4 * theirs.max()
    for name, parameter in parameters.items():
        decay = 0 if name.endswith((".a_log", ".d_skip")) else 5e-4
        gradient = parameter.grad
        assert gradient is not None
        # The first step of AdamW: both moments are the gradient's own.
        wanted = before[name] * (1 - 5e-4 * decay) - 5e-4 * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(parameter, wanted, rtol=1e-4, atol=1e-7), name


REGIONS = """
name = "mine"
scheme = "esri-io"
encoder = "test_resnet"
width = 16
steps = {steps}
batch = 2
crop = 64
tile = 64
learning_rate = 3e-3
checkpoint_every = 2
validate_every = 5
device = "cpu"
"""
SCENE = """
[[scenes]]
name = "{scene.name}"
optical = "{scene.optical}"
sar = "{scene.sar}"
labels = "{scene.labels}"
"""


def write_regions(config: TrainConfig, path: Path, steps: int) -> Path:
    scenes = [SCENE.format(scene=scene) + f'split = "{config.role(scene)}"\n' for scene in config.scenes]
    path.write_text(REGIONS.format(steps=steps) + "".join(scenes))
    return path


def start_training(regions: Path, folder: Path) -> Process:
    return start("-m", "refnet_cli", "train", regions, "-o", folder)


def wait_for_steps(folder: Path, count: int, process: Process) -> None:
    table = folder / "steps.csv"
    while not table.exists() or len(table.read_text().splitlines()) <= count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def same_results(folder: Path, other: Path) -> bool:
    names = ("mine.safetensors", "steps.csv", "validations.csv")
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_has_a_checkpoint_written(config: TrainConfig, tmp_path: Path, number: signal.Signals) -> None:
    regions = write_regions(config, tmp_path / "regions.toml", 1000)
    process = start_training(regions, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 3, process)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == ""
    done = len((tmp_path / "run" / "steps.csv").read_text().splitlines()) - 1
    assert (tmp_path / "run" / "checkpoints" / f"step-{done:09}.pt").exists()
    said = f"Stopped after step {done}. Its checkpoint, the tables and the best network so far are in"
    assert f"{said} {tmp_path / 'run'}. Run the same command again to resume." in errors


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.long)])
def test_killed_at_random_it_ends_as_if_undisturbed(config: TrainConfig, tmp_path: Path, kills: int) -> None:
    steps = 4 if kills == 1 else 40
    regions = write_regions(config, tmp_path / "regions.toml", steps)
    train = partial(refnet, "train", regions, "-o")
    assert train(tmp_path / "whole").returncode == 0
    random = np.random.default_rng(7)
    for kill in range(kills):
        process = start_training(regions, tmp_path / "parts")
        wait_for_steps(tmp_path / "parts", int((kill + 0.5) * steps / kills), process)
        time.sleep(random.uniform(0, 0.4))
        process.kill()
        process.communicate()
    done = train(tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    assert same_results(tmp_path / "parts", tmp_path / "whole")
    assert not list((tmp_path / "parts").glob("**/.*.tmp"))


def test_one_training_at_a_time_has_a_folder(unscored: TrainConfig, tmp_path: Path) -> None:
    """One that is done is not done again, and what a killed writer left is removed."""
    folder, config = tmp_path / "run", replace(unscored, steps=1)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".step-000000002.pt.123.tmp").write_bytes(b"half")
    tried: list[int] = []

    def meanwhile(progress: Progress) -> None:
        assert (folder / ".training.refnet").exists()
        with pytest.raises(TryAgainError, match="another run"):
            fit(unscored, folder)
        tried.append(progress.step)

    first = fit(config, folder, meanwhile)
    assert fit(config, folder, meanwhile).card == first.card
    assert tried == [1]
    assert not list(folder.glob("**/.*"))
