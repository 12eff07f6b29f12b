"""Sampling: where labels lie, crops that are what they say, and batches that anyone can draw again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.card import Card
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.window import Window
from refnet_cli.training import sampler as sampling
from refnet_cli.training.batches import read_batches, standardised
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import SceneFiles
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.splits import TRAIN, VALIDATION
from refnet_cli.training.statistics import measure_statistics
from refnet_cli.training.survey import count_classes, survey
from tests.helpers.scenes import CARD, DRAWN, PLACE, make_labelled_scene, write


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = make_labelled_scene(folder / "north"), make_labelled_scene(folder / "south", "validation", seed=1)
    return TrainConfig(
        scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=6, batch=4, crop=64, tile=64
    )


def labels_of_the_scenes() -> np.ndarray:
    """What `make_labelled_scene` draws and both sensors see."""
    rows, columns = np.indices((160, 144))
    labels = np.choose((columns // 24 + rows // 40) % 3, [1, 2, 9])
    labels[:20, :20] = labels[-20:, -20:] = 0  # not labelled; not seen by SAR
    return labels


@pytest.mark.parametrize("cell", [16, 64])
@pytest.mark.parametrize("block", [300.0, 1100.0])
def test_labels_are_counted_where_both_sensors_saw(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, cell: int, block: float
) -> None:
    monkeypatch.setattr("refnet_cli.training.survey.CELL", cell)
    scenes = survey(replace(config, block=block))
    wanted = [int((labels_of_the_scenes() == index).sum()) for index in range(1, 10)]
    counts = count_classes(scenes, config)
    assert [list(pixels.values()) for pixels in counts.values()] == [wanted, wanted]
    for row, column, height, width in scenes[0].training.windows.tolist():
        assert labels_of_the_scenes()[row : row + height, column : column + width].any()


@pytest.mark.parametrize(("split", "crop"), [("blocks", 64), ("random", 64)])
def test_divided_scenes_are_counted_pixel_by_pixel(config: TrainConfig, split: str, crop: int) -> None:
    scenes = tuple(replace(scene, split=None) for scene in config.scenes)
    config = replace(config, scenes=scenes, split=split, block=400.0, crop=crop)  # type: ignore[arg-type]
    found = survey(config)
    training = np.zeros(10, int)
    for look in found:
        role = look.roles.read(Window(0, 0, 160, 144))
        labels = labels_of_the_scenes()
        assert look.validation.tolist() == np.bincount(labels[role == VALIDATION], minlength=10)[1:].tolist()
        training += np.bincount(labels[role == TRAIN], minlength=10)
    assert list(count_classes(found, config)["train"].values()) == training[1:].tolist()
    assert training[1:].any()
    assert any(look.validation.any() for look in found)


def test_crops_keep_sensors_and_labels_together(config: TrainConfig) -> None:
    sampler = Sampler(survey(config), config)
    seen = set()
    for number in range(40):
        crop = sampler.draw(0, number)
        labelled = crop.labels > 0
        assert np.array_equal((crop.optical[0][labelled] - 100) // 300, DRAWN[crop.labels[labelled]])
        assert np.isfinite(crop.sar[:, labelled]).all()
        seen.add(crop.optical.strides)
    assert len(seen) == 1  # turned crops are laid out again, not as views that slow torch down
    sampler.close()


def test_crops_learn_nothing_of_validation(config: TrainConfig) -> None:
    """Every label of a crop is a training pixel's: the scene's pixels carry their own places."""
    scenes = tuple(replace(scene, split=None) for scene in config.scenes)
    config = replace(config, scenes=scenes, split="random", crop=64, validation_share=0.4)
    found = survey(config)
    sampler = Sampler(found, config)
    with SceneFiles.open(scenes[0], config) as first, SceneFiles.open(scenes[1], config) as second:
        wholes = [region.pair.read(Window(0, 0, 160, 144)).optical[0] for region in (first, second)]
    for number in range(30):
        crop = sampler.draw(1, number, augmented=False)
        places = [
            (look, row, column)
            for look, whole in zip(found, wholes, strict=True)
            for row, column in np.argwhere(whole[:97, :81] == crop.optical[0, 0, 0]).tolist()
            if np.array_equal(whole[row : row + 64, column : column + 64], crop.optical[0])
        ]
        ((look, row, column),) = places
        assert (look.roles.read(Window(row, column, 64, 64))[crop.labels > 0] == TRAIN).all()


def test_a_scene_smaller_than_a_crop_is_filled_up_by_its_outermost_pixels(config: TrainConfig) -> None:
    config = replace(config, crop=192)
    sampler = Sampler(survey(config), config)
    crop = sampler.draw(0, 0, augmented=False)
    assert crop.optical.shape == (4, 192, 192)
    assert not crop.labels[:16].any()
    assert not crop.labels[:, -24:].any()
    assert np.array_equal(crop.labels[16:-16, 24:-24], labels_of_the_scenes())
    assert np.isnan(crop.optical[:, :16]).all()
    (filled,) = fill_gaps(crop.optical[None])
    scene = filled[:, 16:-16, 24:-24]
    np.testing.assert_array_equal(filled, np.pad(scene, ((0, 0), (16, 16), (24, 24)), "edge"))
    sampler.close()


def rare_scene(config: TrainConfig, folder: Path) -> TrainConfig:
    """A scene that is water but for a small wood."""
    labels = np.ones((1, 160, 144), np.uint8)
    labels[0, 70:80, 60:70] = 2
    scene = replace(config.scenes[0], labels=write(folder / "rare.tif", labels, ("labels",)))
    return replace(config, scenes=(scene,), split="none")


def test_sampling_by_classes_finds_what_is_rare(config: TrainConfig, tmp_path: Path) -> None:
    config = rare_scene(config, tmp_path)
    found = {}
    for how in ("area", "classes"):
        chosen = replace(config, sampling=how)  # type: ignore[arg-type]
        sampler = Sampler(survey(chosen), chosen)
        crops = [sampler.draw(0, number) for number in range(200)]
        found[how] = sum((crop.labels == 2).any() for crop in crops) / len(crops)
        sampler.close()
    assert found["classes"] > found["area"] + 0.1


def test_crops_depend_on_seed_step_and_number_alone(config: TrainConfig) -> None:
    first, second = (Sampler(survey(config), config) for _ in range(2))
    for number in range(5):
        second.draw(9, number)
    for one, other in zip(first.draw(4, 1)[:3], second.draw(4, 1)[:3], strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    assert not np.array_equal(first.draw(4, 1).optical, first.draw(5, 1).optical)
    assert not np.array_equal(first.draw(4, 1).optical, first.draw(4, 2).optical)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_the_same_for_any_number_of_threads_and_processes(
    config: TrainConfig, workers: int, processes: int
) -> None:
    config = replace(
        config, workers=workers, accumulate=2, jitter=0.1, modality_dropout=0.5, haze=0.1, sar_gain=1.0, sar_slope=1.0,
        sar_looks=2.0, shift=1.0, mix=0.5,
    )  # fmt: skip
    sampler = Sampler(survey(config), config)
    wanted = [standardised([sampler.draw(step, number) for number in range(4)], CARD) for step in range(2, 6)]
    for rank in range(processes):
        read = list(read_batches(sampler, CARD, config, 2, rank, processes))
        assert [len(passes) for passes in read] == [2] * 4
        for whole, passes in zip(wanted, read, strict=True):
            for name in ("optical", "sar", "labels"):
                mine = torch.cat([getattr(batch, name) for batch in passes])
                assert torch.equal(mine, getattr(whole, name)[rank::processes])
    assert all(torch.isfinite(tensor).all() for tensor in wanted[0][:3])


def test_unread_batches_end_with_their_reader(config: TrainConfig) -> None:
    def alive() -> bool:
        return any(thread.name.startswith("refnet-crops") for thread in threading.enumerate())

    sampler = Sampler(survey(config), config)
    batches = read_batches(sampler, CARD, config, 0)
    next(batches)
    assert alive()
    batches.close()
    assert not alive()
    assert list(read_batches(sampler, CARD, config, config.steps)) == []


def test_bad_crops_are_replaced_and_counted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = survey(config)
    sampler = Sampler(scenes, config)
    read, calls = SceneFiles.read, Counter[str]()

    def fail_sometimes(files: SceneFiles, window: Window) -> object:
        calls["all"] += 1
        if calls["all"] % 2:
            raise InputError("damaged")
        return read(files, window)

    monkeypatch.setattr(SceneFiles, "read", fail_sometimes)
    for number in range(4):
        assert sampler.draw(0, number).labels.any()
    assert sampler.skipped["unreadable"] >= 4
    monkeypatch.setattr(sampling, "ATTEMPTS", 20)
    monkeypatch.setattr(SceneFiles, "read", _always_damaged)
    with pytest.raises(InputError, match="20 crops in a row"):
        sampler.draw(0, 0)


def test_damaged_blocks_are_passed_over_and_counted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is learned there, nothing scored; where nothing at all can be read, it is said why."""
    read = SceneFiles.read_labels

    def fail_in_the_north_west(region: SceneFiles, window: Window) -> np.ndarray:
        if window.row < 50 and window.column < 50:
            raise InputError("damaged")
        return read(region, window)

    monkeypatch.setattr(SceneFiles, "read_labels", fail_in_the_north_west)
    training, validation = survey(replace(config, block=160.0))
    assert training.unreadable == validation.unreadable > 0
    assert training.training.counts.any()
    for windows in (training.training.windows, np.array(validation.roles.validation)):
        assert ((windows[:, 0] >= 50) | (windows[:, 1] >= 50)).all()
    monkeypatch.setattr(SceneFiles, "read_labels", _always_damaged)
    with pytest.raises(InputError, match="damaged"):
        survey(config)


def _always_damaged(index: object, window: Window) -> object:
    raise InputError("damaged")


@pytest.mark.long
def test_more_scenes_than_may_be_open(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "choose_pool_size", lambda *_: (1, 1))
    scenes = tuple(replace(scene, split=None) for scene in config.scenes)
    config = replace(config, scenes=scenes, split="none", workers=3, batch=6, steps=2)
    sampler = Sampler(survey(config), config)
    assert len(list(read_batches(sampler, CARD, config, 0))) == config.steps
    assert sampler.pool.count <= 1
    sampler.close()
    assert not sampler.pool.count


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_crops_are_filled_before_a_sensor_is_dropped_and_gaps_stay_unlabelled(
    config: TrainConfig, dropout: float
) -> None:
    config = replace(config, crop=128, modality_dropout=dropout)
    sampler = Sampler(survey(config), config)
    gaps = 0
    for number in range(24):
        plain, crop = (sampler.draw(3, number, augmented=augmented) for augmented in (False, True))
        lacking = np.isnan(plain.sar[0])
        gaps += int(lacking.any())
        assert not plain.labels[lacking].any()
        assert np.array_equal(np.bincount(plain.labels.ravel()), np.bincount(crop.labels.ravel()))
        blank = [bool(np.isnan(image).any()) for image in (crop.optical, crop.sar)]
        assert sum(blank) == dropout
        assert blank == [bool(np.isnan(image).all()) for image in (crop.optical, crop.sar)]
        if not blank[1]:
            assert set(crop.sar[0].ravel()) == set(plain.sar[0][~lacking])
    assert gaps > 2
    sampler.close()


def test_a_share_of_the_crops_is_mixed_of_two(config: TrainConfig, tmp_path: Path) -> None:
    """Scenes of one label each: what is mixed has both, unlike any crop of one scene."""
    scenes = []
    for code, scene in zip((1, 2), config.scenes, strict=True):
        with rasterio.open(scene.labels) as file:
            place = file.transform
        labels = write(tmp_path / f"{code}.tif", np.full((1, 160, 144), code, np.uint8), ("labels",), place)
        scenes.append(replace(scene, labels=labels, split=None))
    config = replace(config, scenes=tuple(scenes), split="none")
    sampler = Sampler(survey(config), config)
    mixing = Sampler(survey(config), replace(config, mix=0.5))
    shares = []
    for number in range(100):
        crop, same = mixing.draw(0, number), sampler.draw(0, number)
        codes = set(np.unique(crop.labels)) - {0}
        unmixed = all(np.array_equal(one, other) for one, other in zip(crop, same, strict=True))
        assert len(codes) == 1 or not unmixed
        assert codes & set(np.unique(same.labels))
        shares.append([not unmixed, len(codes) == 2])
        assert np.isfinite(crop.optical).all()
        assert np.isfinite(crop.sar).all()
    mixed, of_two = np.mean(shares, axis=0)
    assert mixed == pytest.approx(0.5, abs=0.15)
    assert of_two == pytest.approx(0.25, abs=0.12)
    sampler.close()
    mixing.close()


def test_without_a_sensor_its_input_is_the_mean(config: TrainConfig) -> None:
    sampler = Sampler(survey(config), config)
    batch = standardised([sampler.draw(0, 0)], CARD, "sar")
    assert not batch.sar.any()
    assert batch.optical.any()


def test_statistics_are_those_of_the_training_pixels(config: TrainConfig) -> None:
    sampler = Sampler(survey(config), config)
    optical, sar = measure_statistics(sampler, config, {"sar": {"VH": (-17.0, 4.0)}})
    with SceneFiles.open(config.scenes[0], config) as region:
        whole = region.pair.read(Window(0, 0, 160, 144))
    assert optical.mean == pytest.approx(np.nanmean(whole.optical, (1, 2)), rel=0.05)
    assert sar.std[0] == pytest.approx(np.nanstd(whole.sar[0]), rel=0.1)
    assert (sar.mean[1], sar.std[1]) == (-17.0, 4.0)  # what the weights were trained with
    assert Card("x", CARD.network, optical, sar, CARD.scheme).optical == optical


def test_without_any_label_nothing_is_drawn(config: TrainConfig, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tif", np.zeros((1, 160, 144), np.uint8), ("labels",), PLACE)
    config = replace(config, scenes=(replace(config.scenes[0], labels=bare),), split="none")
    with pytest.raises(InputError, match=r"No pixel has a class in .*bare\.tif and data from the sensors"):
        Sampler(survey(config), config)


def test_label_codes_of_a_scene(config: TrainConfig) -> None:
    scenes = replace(config.scenes[0], label_codes={"1": "Rangeland", "2": "0", "11": "Water"}), config.scenes[1]
    config = replace(config, scenes=scenes)
    counts = count_classes(survey(config), config)
    assert counts["train"]["Rangeland"] == counts["validation"]["Water"]
    assert counts["train"]["Water"] == counts["validation"]["Rangeland"]
    assert counts["train"]["Trees"] == 0


@pytest.mark.long
def test_a_layer_of_labels_is_chosen_and_gaps_in_it_are_told(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = config.scenes[0]
    left, top = PLACE.c, PLACE.f
    stripes = [shapely.box(left + 300 * n, top - 1000, left + 300 * (n + 1), top) for n in range(3)]
    names = {"2020": ["Water", "Trees", None], "2021": ["Trees", "Trees", "Water"]}
    for layer, values in names.items():
        pyogrio.raw.write(
            tmp_path / "labels.gpkg", shapely.to_wkb(np.array(stripes)), [np.array(values, object)], ["class"],
            crs="EPSG:32633", geometry_type="Polygon", layer=layer, driver="GPKG", append=layer == "2021",
        )  # fmt: skip
    begin = 'scheme = "esri-io"\nsplit = "none"\nencoder = "test_resnet"\nwidth = 16\nbatch = 1\ncrop = 64\n'
    begin += '[[scenes]]\nname = "north"\nlabels = "labels.gpkg"\n'
    begin += f'optical = "{scene.optical}"\nsar = "{scene.sar}"\n'
    regions = tmp_path / "regions.toml"
    counts = {}
    for layer in names:
        regions.write_text(f'{begin}label_layer = "{layer}"\n')
        assert run(["train", str(regions), "--dry-run", "--json"]) == 0
        shown = capsys.readouterr()
        counts[layer] = json.loads(shown.out)["train"]
        assert ("! north: 1 of the 3 shapes" in shown.err) == (layer == "2020")
    assert counts["2020"]["Water"] == counts["2020"]["Trees"] == 3000
    assert (counts["2021"]["Trees"], counts["2021"]["Water"]) == (6000, 3000)
    regions.write_text(begin)
    assert run(["train", str(regions), "--dry-run"]) == 64
    assert "label_layer" in capsys.readouterr().err


def test_a_folder_of_band_files_gives_the_same_crops_as_a_stack(config: TrainConfig, tmp_path: Path) -> None:
    """And with more files than may be open at once."""
    scenes = []
    for scene in config.scenes:
        folder = tmp_path / scene.name
        folder.mkdir()
        for path in (scene.optical, scene.sar):
            assert isinstance(path, Path)
            with rasterio.open(path) as file:
                for band, name in zip(file.read(), file.descriptions, strict=True):
                    write(folder / f"{name}.tif", band[None], (None,), file.transform, file.crs, file.nodata)
        sar = tuple(folder / f"{name}.tif" for name in ("VH", "VV"))
        scenes.append(replace(scene, optical=folder, sar=sar))
    config = replace(config, steps=1)
    apart = replace(config, scenes=tuple(scenes))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "choose_pool_size", lambda *_: (1, 1))
        crops = [list(read_batches(Sampler(survey(chosen), chosen), CARD, chosen, 0)) for chosen in (config, apart)]
    assert len(crops[0]) == config.steps
    for ((whole,), (split,)) in zip(*crops, strict=True):
        for name in ("optical", "sar", "labels"):
            assert torch.equal(getattr(whole, name), getattr(split, name))


def test_clouds_and_guesses_of_a_scene(config: TrainConfig, tmp_path: Path) -> None:
    """Clouds are not learned from; what may not be guessed is refused."""
    scene = config.scenes[0]
    assert isinstance(scene.optical, Path)
    clouds = np.full((1, 160, 144), 4, np.uint8)
    clouds[0, 40:80] = 9
    masked = replace(scene, optical=(scene.optical, write(tmp_path / "SCL.tif", clouds, (None,))), mask_clouds=True)
    labels = labels_of_the_scenes()
    labels[40:80] = 0
    with SceneFiles.open(masked, config) as region:
        np.testing.assert_array_equal(region.read_labels(Window(0, 0, 160, 144)), labels)
    with pytest.raises(OptionsError, match="--strict"):
        SceneFiles.open(replace(scene, strict=True), config)
