"""Training on labels of which some count more than others: weights of scenes, files of confidences, smoothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine

from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError
from refnet_cli.evaluation.confidence import Confidence
from refnet_cli.model.refnet import REFNet
from refnet_cli.tiles.window import Window
from refnet_cli.training.balance import cell_probabilities
from refnet_cli.training.batches import read_batches
from refnet_cli.training.checkpoint import CONFIDENCES, Checkpoints
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import SceneFiles
from refnet_cli.training.fit import fit
from refnet_cli.training.identity import training_identity
from refnet_cli.training.losses import LOSSES, choose_loss, labelled_weight
from refnet_cli.training.regions_file import read_regions
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.survey import count_classes, survey
from tests.helpers.scenes import CARD, PLACE, grid_of, make_labelled_scene, write

WHOLE = Window(0, 0, 160, 144)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = make_labelled_scene(folder / "north"), make_labelled_scene(folder / "south", "validation", seed=1)
    return TrainConfig(
        scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=2, batch=4, crop=64, tile=96,
        learning_rate=1e-3, device="cpu",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refnet_cli.training.result.draw_pictures", lambda *arguments: None)


def percents(seed: int = 0) -> np.ndarray:
    """Confidences in percent, of which a third are 0."""
    random = np.random.default_rng(seed)
    return np.where(random.random((160, 144)) < 1 / 3, 0, random.integers(1, 101, (160, 144))).astype(np.uint8)


def sure(config: TrainConfig, path: Path, **settings: Any) -> TrainConfig:
    """The config with confidences for the scene that is learned from."""
    return replace(config, scenes=(replace(config.scenes[0], confidence=path, **settings), *config.scenes[1:]))


@pytest.mark.parametrize(
    ("dtype", "unit", "nodata"),
    [("uint8", 100, None), ("int16", 100, -1), ("uint8", 100, 255), ("float32", 1, None), ("float64", 1, np.nan),
     ("float32", 1, -9999.0), ("uint16", 100, 0)],
)  # fmt: skip
def test_confidences_are_percent_or_shares(
    config: TrainConfig, tmp_path: Path, dtype: str, unit: int, nodata: float | None
) -> None:
    wanted = percents() / 100
    stored = (wanted * unit).round(6).astype(dtype)
    if nodata:
        stored[wanted == 0] = nodata
    path = write(tmp_path / "sure.tif", stored[None], ("confidence",), nodata=nodata)
    with SceneFiles.open(sure(config, path, label_weight=3.0).scenes[0], config) as region:
        np.testing.assert_allclose(region.read_weights(WHOLE), 3 * wanted, rtol=1e-5)
        labels = region.read_labels(WHOLE)
    with SceneFiles.open(config.scenes[0], config) as region:
        plain = region.read_labels(WHOLE)
        np.testing.assert_array_equal(region.read_weights(WHOLE), 1)
    np.testing.assert_array_equal(labels, np.where(wanted > 0, plain, 0))


def test_a_declared_scale_and_a_band(config: TrainConfig, tmp_path: Path) -> None:
    bands = np.stack([np.full((160, 144), 200), percents().astype(int) * 100]).astype(np.uint16)
    path = write(tmp_path / "two.tif", bands, ("a", "b"))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1.0, 1e-4), (0.0, 0.0)
    with SceneFiles.open(sure(config, path, confidence_band=2).scenes[0], config) as region:
        np.testing.assert_allclose(region.read_weights(WHOLE), percents() / 100, rtol=1e-5)
    with pytest.raises(OptionsError, match=r"confidence_band is 3, but the confidence file .*two\.tif has 2 bands"):
        SceneFiles.open(sure(config, path, confidence_band=3).scenes[0], config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((1, 160, 144), 101, np.uint8), "has the value 101. Integers must be percent, from 0 to 100"),
        (np.full((1, 160, 144), -5, np.int16), "has the value -5. Integers"),
        (np.full((1, 160, 144), 80, np.float32), "has the value 80. Floating-point numbers must be from 0 to 1"),
        (np.full((1, 160, 144), -0.5, np.float32), "has the value -0.5. Floating"),
    ],
)
def test_other_numbers_are_refused(config: TrainConfig, tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = write(tmp_path / "wrong.tif", values, ("confidence",), nodata=None)
    with pytest.raises(InputError, match=message):
        survey(sure(config, path))


def test_ones_in_whole_numbers_are_doubted(config: TrainConfig, tmp_path: Path) -> None:
    path = write(tmp_path / "mask.tif", (percents() > 0)[None].astype(np.uint8), ("confidence",))
    looks = survey(sure(config, path))
    assert [("1%" in " ".join(look.warnings)) for look in looks] == [True, False]


def test_files_that_are_missing_or_elsewhere(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"confidence file .*none\.tif"):
        survey(sure(config, tmp_path / "none.tif"))
    path = write(tmp_path / "far.tif", percents()[None], ("confidence",), Affine.translation(5e4, 0) @ PLACE)
    with pytest.raises(InputError, match=r"confidence file .*far\.tif does not overlap"):
        survey(sure(config, path))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("label_weight = 0", "label_weight is 0; it must be a number above 0"),
        ("label_weight = nan", "label_weight is nan"),
        ("label_weight = inf", "label_weight is inf"),
        ('confidence = "c.tif"\nconfidence_band = 0', "confidence_band is 0; it must be 1 or more"),
        ("confidence_band = 2", "confidence_band is set, but confidence is not"),
        ("confidence = 3", "it must be a path"),
        ('confidence = "https://a.org/c.tif"', r"scene-0: confidence is a URL\. Download the file"),
    ],
)
def test_entries_of_scenes_that_are_wrong(tmp_path: Path, entries: str, message: str) -> None:
    (tmp_path / "regions.toml").write_text(
        f'scheme = "esri-io"\n[[scenes]]\noptical = "a"\nsar = "b"\nlabels = "c"\n{entries}\n'
    )
    with pytest.raises(ConfigError, match=message):
        read_regions(tmp_path / "regions.toml")


def test_entries_of_the_file(tmp_path: Path) -> None:
    scene = '[[scenes]]\noptical = "a"\nsar = "b"\nlabels = "c"\n'
    scene += 'confidence = "d.tif"\nconfidence_band = 2\nlabel_weight = 2\n'
    (tmp_path / "regions.toml").write_text(
        'scheme = "esri-io"\nlabel_smoothing = 0.1\nbalance = "regions"\n' + scene
    )
    config = read_regions(tmp_path / "regions.toml")
    (found,) = config.scenes
    assert (found.confidence, found.confidence_band, found.label_weight) == (tmp_path / "d.tif", 2, 2.0)
    assert (config.label_smoothing, config.balance) == (0.1, "regions")
    for line, message in (
        ("label_smoothing = 0.6", "label_smoothing is 0.6; it must be from 0 to 0.5"),
        ('label_smoothing = 0.1\nloss = "focal"', "the loss focal does not support it"),
        ('balance = "classes"', "it must be regions"),
    ):
        (tmp_path / "regions.toml").write_text(f'scheme = "esri-io"\n{line}\n{scene}')
        with pytest.raises(ConfigError, match=message):
            read_regions(tmp_path / "regions.toml")


def test_other_grids(config: TrainConfig, tmp_path: Path) -> None:
    """Coarser pixels are taken at the grid pixel's centre; of finer ones, the mean, holes as 0; outside it is 0."""
    grid = grid_of(tmp_path_of(config))
    random = np.random.default_rng(1)
    coarse = random.integers(0, 101, (40, 36)).astype(np.uint8)
    path = write(tmp_path / "coarse.tif", coarse[None], ("c",), PLACE @ Affine.scale(4), nodata=None)
    found = Confidence.open(path, grid)
    np.testing.assert_allclose(found.read(WHOLE), np.kron(coarse, np.ones((4, 4))) / 100, rtol=1e-5)
    fine = random.random((80 * 4, 144 * 4)).astype(np.float32)
    fine[random.random(fine.shape) < 0.2] = np.nan
    path = write(tmp_path / "fine.tif", fine[None], ("c",), PLACE @ Affine.scale(1 / 4), nodata=np.nan)
    values = Confidence.open(path, grid).read(WHOLE)
    wanted = np.nan_to_num(fine).reshape(80, 4, 144, 4).mean((1, 3))
    np.testing.assert_allclose(values[:79], wanted[:79], atol=1e-3)
    assert not values[81:].any()
    parts = [Confidence.open(path, grid).read(Window(row, 7, 20, 31)) for row in range(0, 160, 20)]
    np.testing.assert_array_equal(np.concatenate(parts), values[:, 7:38])


def tmp_path_of(config: TrainConfig) -> Path:
    path = config.scenes[0].optical
    assert isinstance(path, Path)
    return path


def test_vector_labels_have_confidences_too(config: TrainConfig, tmp_path: Path) -> None:
    left, top = PLACE.c, PLACE.f
    pyogrio.raw.write(
        tmp_path / "labels.gpkg", shapely.to_wkb(np.array([shapely.box(left, top - 800, left + 700, top)])),
        [np.array(["Water"], object)], ["class"], crs="EPSG:32633", geometry_type="Polygon", driver="GPKG",
    )  # fmt: skip
    path = write(tmp_path / "sure.tif", percents()[None], ("c",))
    chosen = sure(config, path, labels=tmp_path / "labels.gpkg")
    counts = count_classes(survey(chosen), chosen)["train"]
    assert counts["Water"] == np.count_nonzero(percents()[:80, :70])
    assert sum(counts.values()) == counts["Water"]


@pytest.mark.long
def test_what_is_held_out_is_scored_alike_wherever_it_has_any_confidence(config: TrainConfig, tmp_path: Path) -> None:
    """Pixels with a confidence of 0 are not scored; others count 1."""
    place = Affine.translation(100_000, 0) @ PLACE
    path = write(tmp_path / "sure.tif", percents()[None], ("c",), place)
    scenes = config.scenes[0], replace(config.scenes[1], confidence=path, label_weight=0.01)
    result = fit(replace(config, scenes=scenes, steps=1), tmp_path / "run")
    with SceneFiles.open(config.scenes[1], config) as region:
        labels = region.read_labels(WHOLE)
    scored = int(np.count_nonzero(labels[percents() > 0]))
    assert scored < np.count_nonzero(labels)
    assert result.card.scores["validation"]["pixels"] == scored
    assert result.card.scores["calibration"]["pixels"] == scored


def test_weights_lie_on_their_pixels_in_every_crop(config: TrainConfig, tmp_path: Path) -> None:
    """The optical values of a crop say which pixel of the scene each is, turned and mirrored."""
    places = np.arange(160 * 144).reshape(160, 144).astype(np.uint16)
    optical = write(tmp_path / "s2.tif", np.stack([places] * 4), ("B02", "B03", "B04", "B08"), nodata=None)
    path = write(tmp_path / "sure.tif", percents()[None], ("c",))
    scene = replace(
        config.scenes[0], optical=optical, confidence=path, label_weight=2.0, optical_scale="dn", optical_offset=0.0
    )
    chosen = replace(config, scenes=(scene, config.scenes[1]))
    sampler = Sampler(survey(chosen), chosen)
    for number in range(20):
        crop = sampler.draw(0, number)
        assert crop.weights is not None
        labelled = crop.labels > 0
        pixels = np.rint(crop.optical[0][labelled]).astype(int)
        np.testing.assert_allclose(crop.weights[labelled], percents().ravel()[pixels] / 50, rtol=1e-5)
        assert (crop.weights[labelled] > 0).all()
    (batch,) = next(read_batches(sampler, CARD, chosen, 0))
    assert batch.weights is not None
    assert batch.weights.shape == batch.labels.shape
    sampler.close()


def test_crops_without_weights_have_none(config: TrainConfig) -> None:
    sampler = Sampler(survey(config), config)
    assert sampler.draw(0, 0).weights is None
    (batch,) = next(read_batches(sampler, CARD, config, 0))
    assert batch.weights is None
    sampler.close()


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 5, 6, 7, generator=generator)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator)
    return logits.requires_grad_(), labels, torch.randint(1, 4, (2, 6, 7), generator=generator).float()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.0, 1.0, 2.0, 0.5, 1.5])])
def test_a_pixel_of_weight_two_is_two_pixels(name: str, class_weights: torch.Tensor | None) -> None:
    """Every pixel repeated as often as its weight says gives the same loss and gradients as the weights."""
    logits, labels, pixels = make()
    ours = LOSSES[name](logits, labels, class_weights, pixels)
    times = pixels.long().ravel()
    spread = torch.repeat_interleave(logits.movedim(1, -1).reshape(-1, 5), times, dim=0).T[None, :, None]
    theirs = LOSSES[name](spread, torch.repeat_interleave(labels.ravel(), times)[None, None], class_weights, None)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for one, other in zip(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    each = torch.ones(5) if class_weights is None else class_weights
    pairs = zip(labels.ravel(), pixels.ravel(), strict=True)
    wanted = sum(float(each[label] * weight) for label, weight in pairs if label)
    assert labelled_weight(labels, class_weights, pixels).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_change_nothing(name: str) -> None:
    logits, labels, _ = make()
    plain = LOSSES[name](logits, labels, None, None).item()
    for weight in (1.0, 0.01):
        found = LOSSES[name](logits, labels, None, torch.full(labels.shape, weight)).item()
        assert found == pytest.approx(plain, rel=1e-5)
    assert LOSSES[name](logits, labels, None, torch.zeros(labels.shape)).item() == 0


@pytest.mark.parametrize("name", ["cross-entropy", "cross-entropy-and-dice"])
def test_smoothing_against_the_formula(name: str) -> None:
    """The target is 1 - s at the label, and s / 4 more at each of the four real classes."""
    logits, labels, pixels = make()
    total, weight = torch.tensor(0.0), 0.0
    for index in (labels > 0).nonzero():
        sample, row, column = index.tolist()
        logs = torch.log_softmax(logits[sample, :, row, column], 0)
        target = torch.tensor([0.0, 0.05, 0.05, 0.05, 0.05])
        target[labels[sample, row, column]] += 0.8
        total = total - pixels[sample, row, column] * (target * logs).sum()
        weight += float(pixels[sample, row, column])
    dice = LOSSES[name](logits, labels, None, pixels) - LOSSES["cross-entropy"](logits, labels, None, pixels)
    found = choose_loss(name, 0.2)(logits, labels, None, pixels)
    assert found.item() == pytest.approx((total / weight + dice).item(), rel=1e-5)
    assert choose_loss(name)(logits, labels, None, None).item() == LOSSES[name](logits, labels, None, None).item()


def test_a_smoothed_loss_is_least_at_the_smoothed_labels() -> None:
    """And never pays for class 0, which is no class."""
    target = torch.tensor([1e-9, 0.05, 0.05, 0.85, 0.05])
    labels = torch.full((1, 1, 1), 3)
    logits = torch.log(target).view(1, 5, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(choose_loss("cross-entropy", 0.2)(logits, labels, None, None), logits)
    assert float(gradient.abs().max()) < 1e-6


def _with_auxiliary(forward: Callable[..., object]) -> Callable[..., object]:
    def called(net: REFNet, optical: torch.Tensor, sar: torch.Tensor, auxiliary: bool | None = None) -> object:
        return forward(net, optical, sar, net.config.msie if auxiliary is None else auxiliary)

    return called


@pytest.mark.long
def test_weighted_passes_add_up_to_the_step(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for batch norms, which see the images of a pass: with those at rest, nothing differs but rounding."""
    monkeypatch.setattr("refnet_cli.training.learner.set_training", lambda net, frozen: net.eval() and None)
    monkeypatch.setattr("refnet_cli.model.refnet.REFNet.forward", _with_auxiliary(REFNet.forward))
    ramp = np.linspace(1, 100, 160 * 144).reshape(1, 160, 144).astype(np.uint8)  # passes differ in their weight
    chosen = sure(config, write(tmp_path / "sure.tif", ramp, ("c",)), label_weight=2.0)
    chosen = replace(chosen, scenes=chosen.scenes[:1], split="none")
    chosen = replace(chosen, class_weights="balanced", clip=0.5, label_smoothing=0.1)
    at_once, in_two = (fit(replace(chosen, accumulate=n), tmp_path / str(n)) for n in (1, 2))
    for one, other in zip(at_once.history.steps, in_two.history.steps, strict=True):
        assert tuple(one) == pytest.approx(tuple(other), rel=1e-4)
    plain = fit(replace(chosen, scenes=config.scenes[:1]), tmp_path / "plain")
    assert plain.history.steps[0].loss != pytest.approx(at_once.history.steps[0].loss, rel=1e-4)


@pytest.mark.long
def test_a_scene_of_little_weight_teaches_little(config: TrainConfig, tmp_path: Path) -> None:
    """Wrong labels of a weight near 0 give the losses of no such labels, where a step has both."""
    lying = np.full((1, 160, 144), 5, np.uint8)
    confidence = np.full((1, 160, 144), 100, np.uint8)
    lying[0, :80] = 0
    labels = np.where(lying > 0, lying, 1).astype(np.uint8)
    path = write(tmp_path / "labels.tif", labels, ("labels",))
    losses = []
    for weak in (0, 1):
        confidence[0, 80:] = weak
        sure_path = write(tmp_path / f"sure-{weak}.tif", confidence, ("c",), nodata=None)
        scene = replace(config.scenes[0], labels=path, confidence=sure_path, split=None)
        chosen = replace(config, scenes=(scene,), split="none", crop=160, batch=1, steps=1)
        losses.append(fit(chosen, tmp_path / f"run-{weak}").history.steps[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_training_depends_on_what_the_confidences_are(config: TrainConfig, tmp_path: Path) -> None:
    """Also where they are 0 at the same places, so that the labels are the same; a copy of the file is the same."""

    def settings_of(name: str, values: np.ndarray) -> dict[str, str]:
        chosen = sure(config, write(tmp_path / f"{name}.tif", values[None], ("confidence",)))
        found = training_identity(chosen, survey(chosen))
        return {key: text for key, text in found.items() if key != "scenes"}  # which holds the path

    values = percents()
    first, copy, other = (
        settings_of(*of) for of in (("a", values), ("b", values), ("c", np.where(values > 0, 100, 0).astype(np.uint8)))
    )
    assert first == copy
    assert {key for key in first if first[key] != other[key]} == {CONFIDENCES}
    assert CONFIDENCES not in training_identity(config, survey(config))
    Checkpoints(tmp_path / "out", first, {}).save(3)
    assert Checkpoints(tmp_path / "out", copy, {}).load() == 3
    with pytest.raises(OptionsError, match=r"different settings \(confidences\)\. Choose another folder"):
        Checkpoints(tmp_path / "out", other, {}).load()


def test_confidences_that_leave_no_label_are_doubted(config: TrainConfig, tmp_path: Path) -> None:
    """As of a wrong band."""
    bands = np.stack([np.zeros((160, 144), np.uint8), percents()])
    path = write(tmp_path / "sure.tif", bands, ("class", "confidence"))
    grid = grid_of(path)
    none, some = (Confidence.open(path, grid, band) for band in (1, 2))
    assert not some.warnings
    assert "has a confidence of 0 everywhere" in none.warnings[0]
    assert "confidence_band, which is 1" in none.warnings[0]
    none.close()
    some.close()


@pytest.mark.long
def test_old_settings_of_a_checkpoint_leave_new_keys_out(config: TrainConfig, tmp_path: Path) -> None:
    """A run at the defaults has none of the newer settings, so that runs of older versions go on; one with has."""
    fit(replace(config, steps=1), tmp_path / "plain")
    state = torch.load(tmp_path / "plain" / "checkpoints" / "step-000000001.pt", weights_only=True)
    new = ("balance", "label_smoothing", "label_weight", "confidence")
    assert not [name for name in new if name in state["settings"] or name in state["settings"]["scenes"]]
    for setting in ({"balance": "regions"}, {"label_smoothing": 0.1}):
        with pytest.raises(OptionsError, match=rf"different settings \({next(iter(setting))}\)"):
            fit(replace(config, steps=1, **setting), tmp_path / "plain")  # type: ignore[arg-type]
    scenes = replace(config.scenes[0], label_weight=2.0), config.scenes[1]
    with pytest.raises(OptionsError, match=r"different settings \(scenes\)"):
        fit(replace(config, steps=1, scenes=scenes), tmp_path / "plain")


@pytest.mark.parametrize("sampling", ["area", "classes"])
def test_regions_are_drawn_by_the_square_root_of_their_pixels(config: TrainConfig, sampling: str) -> None:
    """Drawn cells, counted by region and, of the class that a cell has most of, by class."""
    counts = np.zeros((9, 3), np.int64)
    counts[:4, 0] = 400  # region 0: 1600 pixels of the first class in four cells, and 900 of the second in one
    counts[4, 1] = 900
    counts[5, 0] = 100  # region 1: 100 pixels of the first
    counts[6, 1] = 100  # region 2: 100 pixels of the second in one cell, 300 in another
    counts[7, 1] = 300
    regions = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2])
    chosen = replace(config, sampling=sampling, balance="regions")  # type: ignore[arg-type]
    chances = cell_probabilities(counts, regions, chosen)
    cells = np.random.default_rng(0).choice(9, 40_000, p=chances / chances.sum())
    found = np.bincount(cells, minlength=9) / 40_000
    if sampling == "area":  # roots 50, 10 and 20, of 80
        wanted = np.array([50 / 80 * 0.64 / 4] * 4 + [50 / 80 * 0.36, 10 / 80, 20 / 80 / 4, 20 / 80 * 3 / 4, 0])
    else:  # half of all draws for each class: roots 40 and 10 of the first, 30 and 20 of the second
        wanted = np.array([0.4 / 4] * 4 + [0.3, 0.1, 0.2 / 4, 0.2 * 3 / 4, 0])
    assert found == pytest.approx(wanted, abs=0.01)
    plain = cell_probabilities(counts, regions, replace(chosen, balance=None))
    assert plain[5] / plain.sum() < found[5] / 2


def test_a_balanced_sampler_draws_from_small_regions(config: TrainConfig, tmp_path: Path) -> None:
    """A region of three scenes, one of a scene whose labels are a corner, each name counted once however often."""
    labels = np.zeros((1, 160, 144), np.uint8)
    labels[0, 30:42, 30:42] = 1
    place = Affine.translation(200_000, 0) @ PLACE
    small = make_labelled_scene(tmp_path / "small", seed=2)
    small = replace(small, labels=write(tmp_path / "few.tif", labels, ("labels",), place))
    north = [replace(config.scenes[0], name=f"north-{n}", region="north") for n in range(3)]
    shares = {}
    for balance in (None, "regions"):
        chosen = replace(config, scenes=(*north, small), split="none", balance=balance)  # type: ignore[arg-type]
        looks = survey(chosen)
        sampler, random = Sampler(looks, chosen), np.random.default_rng(3)
        drawn = [sampler._choose(random)[0] for _ in range(20_000)]
        pixels = [int(look.training.counts.sum()) for look in looks]
        shares[balance] = np.bincount(drawn, minlength=4) / 20_000
        sampler.close()
    total = np.array(pixels)
    assert shares[None] == pytest.approx(total / total.sum(), abs=0.01)
    roots = np.sqrt([total[:3].sum(), total[3]])
    wanted = roots / roots.sum()
    assert shares["regions"] == pytest.approx([*[wanted[0] / 3] * 3, wanted[1]], abs=0.01)
