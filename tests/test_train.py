"""Training: what it learns from, that it learns, resumes exactly and leaves weights that predict."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refnet_cli import train
from refnet_cli.card import Card, read_card
from refnet_cli.cli import run
from refnet_cli.engine import Standardise, load_engine
from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError, StorageError, WeightsError
from refnet_cli.losses import LOSSES
from refnet_cli.model import REFNet
from refnet_cli.predict import PredictOptions, predict
from refnet_cli.tiling import Window
from refnet_cli.train import (
    Checkpoint,
    Progress,
    Region,
    Sampler,
    TrainConfig,
    TrainScene,
    draw_crops,
    fit,
    make_optimizer,
    read_regions,
    survey,
)
from refnet_cli.weights import load_weights
from tests.scenes import CARD, write


def make_scene(folder: Path, split: str = "train", seed: int = 0) -> TrainScene:
    """Stripes of water, trees and crops that each sensor sees plainly; a corner without labels, one without SAR."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows, columns = np.indices((160, 144))
    labels = np.choose((columns // 24 + rows // 40) % 3, [1, 2, 4])
    labels[:20, :20] = 0
    optical = 300 * labels + random.integers(0, 60, (4, *labels.shape)) + 100
    sar = 0.005 * 3.0 ** np.stack([labels, labels - 1.5]) * random.gamma(5, 0.2, (2, *labels.shape))
    sar[:, -20:, -20:] = np.nan
    return TrainScene(
        write(folder / "s2.tif", optical.astype(np.uint16), ("B02", "B03", "B04", "B08")),
        write(folder / "s1.tif", sar.astype(np.float32), ("VV", "VH"), nodata=None),
        write(folder / "labels.tif", labels[None].astype(np.uint8), ("labels",)),
        name=folder.name,
        split=split,
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = make_scene(folder / "north"), make_scene(folder / "south", "validation", seed=1)
    return TrainConfig(
        scenes=scenes, encoder="test_resnet", width=16, steps=6, batch=2, crop=64, tile=64, learning_rate=3e-3,
        device="cpu", checkpoint_every=2,
    )  # fmt: skip


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_weights(path, msie=True)[0].state_dict()


def test_resumed_equals_uninterrupted(config: TrainConfig, tmp_path: Path) -> None:
    class PulledPlugError(Exception):
        pass

    def pull(progress: Progress) -> None:
        if progress.step == 5:  # after the checkpoint of step 4
            raise PulledPlugError

    whole = fit(config, tmp_path / "whole")
    with pytest.raises(PulledPlugError):
        fit(config, tmp_path / "parts", pull)
    assert not (tmp_path / "parts" / "refnet.safetensors").exists()
    resumed = fit(config, tmp_path / "parts")
    assert resumed.losses == whole.losses[4:]
    ours, theirs = weights_of(resumed.weights), weights_of(whole.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.card == whole.card


def test_a_checkpoint_of_other_settings_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    fit(replace(config, steps=2), tmp_path)
    with pytest.raises(OptionsError, match="belongs to a training with other steps"):
        fit(config, tmp_path)


def test_a_checkpoint_is_the_old_or_the_new_one(config: TrainConfig, tmp_path: Path) -> None:
    net = REFNet(config.network)
    optimizer = make_optimizer(net, config)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 6)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", config, net, optimizer, schedule)
    checkpoint.save(3)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(StorageError):
            checkpoint.save(4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert checkpoint.load() == 3
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged; remove it"):
        checkpoint.load()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_it_learns_and_the_weights_predict(config: TrainConfig, tmp_path: Path) -> None:
    result = fit(replace(config, steps=30), tmp_path)
    assert np.mean(result.losses[-5:]) < 0.5 * result.losses[0]
    assert result.card.scores["validation"]["overall_accuracy"] > 0.8
    assert result.card.scores["validation"]["overall_accuracy_by_scene"].keys() == {"south"}
    assert (result.card.training["training_scenes"], result.card.training["steps"]) == (["north"], 30)
    scene = config.scenes[1]
    report = predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", result.weights, device="cpu"))
    assert report.weights["sha256"] == result.card.sha256
    again = fit(replace(config, init=result.weights, steps=1), tmp_path / "again")
    assert again.losses[0] < 0.5 * result.losses[0]
    with pytest.raises(WeightsError, match="wanted is"):
        fit(replace(config, init=result.weights, width=32), tmp_path / "other")


def test_crops_keep_sensors_and_labels_together(config: TrainConfig) -> None:
    with Region.open(config.scenes[0], config) as region:
        crops = draw_crops([region], 64, np.random.default_rng(0))
        seen = set()
        for _ in range(40):
            patch, labels = next(crops)
            labelled = labels > 0
            codes = np.array([0, *CARD.scheme.codes])[labels]
            assert np.array_equal((patch.optical[0][labelled] - 100) // 300, codes[labelled])
            assert not labelled[~patch.valid].any()
            seen.add(patch.optical.strides)
        assert len(seen) == 1  # turned crops are laid out anew, not as views that slow torch down


def test_batches_depend_on_seed_and_step_alone(config: TrainConfig) -> None:
    with Region.open(config.scenes[0], config) as region:
        first, second = (Sampler([region], config, CARD) for _ in range(2))
        for _ in range(3):
            second.batch(9)
        assert all(torch.equal(a, b) for a, b in zip(first.batch(4), second.batch(4), strict=True))
        assert not torch.equal(first.batch(4).optical, first.batch(5).optical)
        assert all(torch.isfinite(tensor).all() for tensor in first.batch(0))


def test_without_a_sensor_its_input_is_the_mean(config: TrainConfig) -> None:
    with Region.open(config.scenes[0], config) as region:
        batch = Sampler([region], replace(config, without="sar"), CARD).batch(0)
    assert not batch.sar.any()
    assert batch.optical.any()


def test_weights_trained_without_a_sensor_never_see_it(config: TrainConfig, tmp_path: Path) -> None:
    result = fit(replace(config, steps=1, without="sar"), tmp_path)
    variances = {n: x for n, x in weights_of(result.weights).items() if n.endswith("running_var")}
    assert all(bool((x == 1).all()) == n.startswith("sar_encoder.") for n, x in variances.items())
    engine = load_engine(result.weights, "cpu")
    random = np.random.default_rng(0)
    optical = random.uniform(100, 3000, (1, 4, 64, 64)).astype(np.float32)
    sar = random.uniform(-25, -5, (2, 1, 2, 64, 64)).astype(np.float32)
    assert np.array_equal(engine.predict(optical, sar[0]), engine.predict(optical, sar[1]))
    assert not np.array_equal(engine.predict(optical, sar[0]), engine.predict(optical[..., ::-1].copy(), sar[0]))


def test_validation_scenes_without_labels_do_not_lose_the_training(config: TrainConfig, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tif", np.zeros((1, 160, 144), np.uint8), ("labels",))
    scenes = config.scenes[0], replace(config.scenes[1], labels=bare)
    assert fit(replace(config, scenes=scenes, steps=1), tmp_path).card.scores == {}


def test_standardising() -> None:
    x = torch.tensor([[[[500.0, torch.nan]]]]).expand(1, 4, 1, 2)
    standard = Standardise(CARD.optical)(x)
    assert standard[0, :, 0, 0].tolist() == pytest.approx([0.5, -0.5, 0, -2000 / 900])
    assert not standard[..., 1].any()


def test_statistics_are_those_of_the_training_pixels(config: TrainConfig, tmp_path: Path) -> None:
    card: Card = fit(replace(config, steps=1), tmp_path).card
    with Region.open(config.scenes[0], config) as region:
        whole = region.pair.read(Window(0, 0, 160, 144))
    assert card.optical.mean == pytest.approx(np.nanmean(whole.optical, (1, 2)), rel=0.05)
    assert card.sar.std == pytest.approx(np.nanstd(whole.sar, (1, 2)), rel=0.1)


def test_decay_spares_a_and_d(config: TrainConfig) -> None:
    net = REFNet(config.network)
    decayed, plain = make_optimizer(net, config).param_groups
    assert plain["weight_decay"] == 0
    assert decayed["weight_decay"] == config.weight_decay
    assert len(plain["params"]) == 2 * 15
    assert len(plain["params"]) + len(decayed["params"]) == len(list(net.parameters()))


REGIONS = """
steps = 3
crop = 64
[[scenes]]
optical = "a/s2.tif"
sar = "/b/s1.tif"
labels = "labels.tif"
"""


def test_regions_file(tmp_path: Path) -> None:
    (tmp_path / "regions.toml").write_text(REGIONS)
    config = read_regions(tmp_path / "regions.toml")
    assert (config.steps, config.batch) == (3, 8)
    assert config.scenes[0].optical == tmp_path / "a" / "s2.tif"
    assert config.scenes[0].sar == Path("/b/s1.tif")
    assert (config.scenes[0].name, config.scenes[0].split) == ("scene-0", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "not valid TOML"),
        ("stepps = 3" + REGIONS, "unknown entries stepps"),
        (REGIONS + 'masks = "x"', "unknown entries masks"),
        (REGIONS + 'split = "test"', "must be train or validation"),
        (REGIONS + 'split = "validation"', "No scene is for training"),
        (REGIONS.replace("64", "50"), "whole number from 64"),
        (REGIONS.replace("64", "80"), "multiple of 32"),
        ('scheme = "mine"' + REGIONS, "'mine' is unknown"),
        ('without = "both"' + REGIONS, "must be optical or sar"),
        ('loss = "hinge"' + REGIONS, "Loss 'hinge' is unknown; choose one of cross-entropy, focal"),
        ("steps = 3", "No scene is for training"),
        ("[[scenes]]\noptical = 'x'", "missing"),
        ("scenes = 3", "scenes"),
        ('learning_rate = "x"' + REGIONS, "learning_rate is 'x'; wanted is a number"),
        ('optical_bands = "B02"' + REGIONS, "wanted is a list of names"),
        ('name = "../x"' + REGIONS, "must not lead elsewhere"),
        (REGIONS + 'sar_scale = "dB"', "wanted is db or db100 or power or amplitude"),
        (REGIONS + 'name = "a"' + REGIONS.replace("steps = 3\ncrop = 64", "") + 'name = "a"', "names of their own"),
    ],
)
def test_regions_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "regions.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_regions(tmp_path / "regions.toml")


def test_missing_regions_and_scenes(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputMissingError, match=r"none\.toml"):
        read_regions(tmp_path / "none.toml")
    scene = replace(config.scenes[0], labels=tmp_path / "none.tif")
    with pytest.raises(InputMissingError, match=r"none\.tif"):
        fit(replace(config, scenes=(scene,)), tmp_path)
    with pytest.raises(InputError, match="No training scene holds a crop"):
        fit(replace(config, crop=256), tmp_path)


def test_the_command(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = config.scenes[0]
    (tmp_path / "regions.toml").write_text(
        f'name = "mine"\nencoder = "test_resnet"\nwidth = 16\nsteps = 9\nbatch = 1\ncrop = 64\ntile = 64\n[[scenes]]\n'
        f'optical = "{scene.optical}"\nsar = "{scene.sar}"\nlabels = "{scene.labels}"\n'
    )
    code = run(["train", str(tmp_path / "regions.toml"), "-o", str(tmp_path / "out"), "--steps", "1", "--json"])
    assert code == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], card["training"]["steps"], card["scores"]) == ("mine", 1, {})
    assert read_card(tmp_path / "out" / "mine.safetensors").sha256 == card["sha256"]


@pytest.mark.parametrize("window", [64, 512])
def test_labels_are_counted_where_both_sensors_saw(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(train, "SURVEYED", window)
    rows, columns = np.indices((160, 144))
    labels = np.choose((columns // 24 + rows // 40) % 3, [1, 2, 4])
    labels[:20, :20] = labels[-20:, -20:] = 0  # not labelled; not seen by SAR
    counts = survey(config)
    assert list(counts) == ["train", "validation"]
    for pixels in counts.values():
        assert list(pixels.values()) == [int((labels == index).sum()) for index in range(1, 10)]


def test_a_dry_run_counts_and_warns(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = config.scenes[0]
    (tmp_path / "regions.toml").write_text(
        f'[[scenes]]\noptical = "{scene.optical}"\nsar = "{scene.sar}"\nlabels = "{scene.labels}"\n'
    )
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["labelled", "pixels", "train", "validation"]
    assert "warning: train has no pixel of Flooded vegetation, Built area" in captured.err
    assert "warning: validation has no pixel at all." in captured.err
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run", "--json", "-q"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out).keys() == {"train", "validation"}
    assert captured.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["regions.toml"]
    assert run(["train", str(tmp_path / "regions.toml")]) == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(config: TrainConfig, tmp_path: Path, loss: str) -> None:
    result = fit(replace(config, loss=loss, steps=30, checkpoint_every=30), tmp_path)
    assert np.mean(result.losses[-5:]) < 0.7 * np.mean(result.losses[:5])
    assert result.card.training["loss"] == loss
