"""Augmentation: turned crops stay what they are, and each effect is the one that was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.errors import OptionsError
from refnet_cli.training.augmentation.augment import EFFECTS, Crop, add_gap, augment, drop_sensor, mix
from refnet_cli.training.augmentation.backscatter import shift_image
from refnet_cli.training.augmentation.haze import HAZE, add_haze, max_haze
from refnet_cli.training.config import TrainConfig, TrainScene

SCENE = TrainScene(Path("optical.tif"), Path("sar.tif"), Path("labels.tif"), name="place")
PLAIN = TrainConfig(scenes=(SCENE,), scheme="esri-io", optical_bands=("B02", "B08"), split="none")
FULL = replace(PLAIN, jitter=0.1, haze=0.1, sar_gain=1.0, sar_slope=1.0, sar_looks=2.0, shift=1.5)


def make_crop() -> Crop:
    """Pixels that carry their own places."""
    rows, columns = np.indices((64, 64))
    places = np.stack([rows, columns]).astype(np.float32) + 1
    return Crop(places, np.stack([-rows - 1.0, -columns - 1.0]).astype(np.float32), (rows % 7).astype(np.uint8))


def make_flat_crop(optical: float = 2000.0, sar: float = -12.0, side: int = 64) -> Crop:
    shape = 2, side, side
    return Crop(np.full(shape, optical, np.float32), np.full(shape, sar, np.float32), np.ones(shape[1:], np.uint8))


def changes_of_sar(config: TrainConfig, number: int, side: int = 64) -> np.ndarray:
    """Decibels that the effects add to a flat crop, for seeds from 0 on, shape (number, bands, side, side)."""
    plain = make_flat_crop(side=side)
    crops = [augment(plain, np.random.default_rng(seed), config) for seed in range(number)]
    assert all(np.array_equal(crop.optical, plain.optical) for crop in crops)
    assert all(np.array_equal(crop.labels, plain.labels) for crop in crops)
    return np.stack([crop.sar for crop in crops]) + 12.0


def test_the_eight_symmetries_and_no_others() -> None:
    seen = set()
    for seed in range(100):
        crop = augment(make_crop(), np.random.default_rng(seed), PLAIN)
        assert np.array_equal(crop.optical, -crop.sar)
        assert np.array_equal(crop.labels, (crop.optical[0] - 1) % 7)
        seen.add(crop.optical[:, [0, 0, -1], [0, -1, 0]].tobytes())
    assert len(seen) == 8


def test_what_is_off_draws_no_random_number() -> None:
    """So that trainings that began before there was an effect go on as they began."""
    used, expected = np.random.default_rng(5), np.random.default_rng(5)
    drop_sensor(augment(add_gap(make_crop(), used, 0.0), used, PLAIN), used, 0.0)
    expected.integers(4)
    expected.integers(2)
    assert used.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("name", EFFECTS)
def test_each_effect_changes_one_sensor_or_jitter_both(name: str) -> None:
    config = replace(PLAIN, **{name: getattr(FULL, name)})
    changed: set[str] = set()
    for seed in range(10):
        crop, same = (augment(make_crop(), np.random.default_rng(seed), chosen) for chosen in (config, PLAIN))
        assert np.array_equal(crop.labels, same.labels)
        changed |= {sensor for sensor in ("optical", "sar") if (getattr(crop, sensor) != getattr(same, sensor)).any()}
    assert changed == {"jitter": {"optical", "sar"}, "haze": {"optical"}}.get(name, {"sar"})


def test_jitter_scales_reflectance_and_shifts_decibels() -> None:
    plain, spread = make_crop(), []
    for seed in range(300):
        crop = augment(plain, np.random.default_rng(seed), replace(PLAIN, jitter=0.1))
        same = augment(plain, np.random.default_rng(seed), PLAIN)
        factors, shifts = crop.optical / same.optical, crop.sar - same.sar
        assert np.ptp(factors, axis=(1, 2)).max() < 1e-4
        assert np.ptp(shifts, axis=(1, 2)).max() < 1e-4
        spread.append([*np.log(factors[:, 0, 0]), *shifts[:, 0, 0]])
    wanted = [0.1 * 1.25**0.5] * 2 + [1.25**0.5] * 2
    assert np.std(spread, axis=0) == pytest.approx(wanted, rel=0.15)
    assert np.array_equal(plain.optical, make_crop().optical)


@pytest.mark.parametrize("path", [0.01, 0.077, 0.2])
def test_haze_that_is_added_can_be_removed(path: float) -> None:
    scene = np.random.default_rng(0).uniform(1, 6000, (len(HAZE), 16, 16)).astype(np.float32)
    hazy = add_haze(scene, list(HAZE), path)
    np.testing.assert_allclose(add_haze(hazy, list(HAZE), -path), scene, rtol=1e-4, atol=0.1)
    blue = list(HAZE).index("B02")
    assert add_haze(np.ones_like(scene), list(HAZE), path)[blue, 0, 0] == pytest.approx(10_000 * path, abs=1.5)
    assert np.ptp(hazy[blue]) < np.ptp(scene[blue])  # it takes contrast away
    assert add_haze(scene, list(HAZE), -0.3).min() == 1


def test_no_more_haze_is_removed_than_the_darkest_pixels_have() -> None:
    random = np.random.default_rng(0)
    crop = make_flat_crop()._replace(optical=random.uniform(400, 3000, (2, 64, 64)).astype(np.float32))
    assert max_haze(crop.optical, PLAIN.optical_bands) == pytest.approx(0.04, abs=0.01)
    crop.optical[:, 8, 8] = 1  # one dark pixel, of a dead detector for instance, is not enough
    assert max_haze(crop.optical, PLAIN.optical_bands) == pytest.approx(0.04, abs=0.01)
    crop.optical[:, 8, 8] = 400
    hazes = []
    for seed in range(300):
        changed, same = (
            augment(crop, np.random.default_rng(seed), chosen) for chosen in (replace(PLAIN, haze=0.2), PLAIN)
        )
        assert (changed.optical[0] > 1).mean() > 0.97
        rise = (changed.optical[0] - same.optical[0]).ravel()[np.argsort(same.optical[0], axis=None)[:1]]
        hazes.append(float(rise[0]) / 10_000)
    assert min(hazes) == pytest.approx(-0.04, abs=0.01)
    assert max(hazes) == pytest.approx(0.2, abs=0.03)
    assert 0.05 < np.mean(np.array(hazes) < 0) < 0.4


@pytest.mark.parametrize(("place", "offset"), [("38D_378R_2_3", 0), ("433D_629L_3_1", 1000), ("637U_59R_1_3", 0)])
def test_haze_is_what_lies_between_l2a_and_l1c(shared: Path, place: str, offset: int) -> None:
    """Measured on both levels of real places: haze of some strength removes most of the difference, either way."""
    bands = ["B02", "B03", "B04", "B08", "B11", "B12"]
    numbers = {"S2L2A": [2, 3, 4, 8, 11, 12], "S2L1C": [2, 3, 4, 8, 12, 13]}
    levels = {}
    for level, indexes in numbers.items():
        with rasterio.open(shared / "data" / "terramind" / level / f"{place}.tif") as file:
            levels[level] = file.read(indexes).astype(np.float32) - offset
    ground, top = levels["S2L2A"], levels["S2L1C"]

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.median(np.abs(one - other), axis=(1, 2)).mean())

    strengths = np.arange(0.05, 0.13, 0.01)
    assert min(difference(add_haze(ground, bands, path), top) for path in strengths) < 0.35 * difference(ground, top)
    assert min(difference(add_haze(top, bands, -path), ground) for path in strengths) < 0.35 * difference(ground, top)
    assert min(strengths) < max_haze(top, bands) < 0.15
    assert max_haze(ground, bands) < 0.5 * max_haze(top, bands)


def test_gain_of_sar_is_common_to_polarisations_and_a_third_their_own() -> None:
    changes = changes_of_sar(replace(PLAIN, sar_gain=1.5), 500, side=32)
    assert np.ptp(changes, axis=(2, 3)).max() < 1e-4
    gains = changes[:, :, 0, 0]
    assert gains.mean() == pytest.approx(0, abs=0.2)
    assert gains.std(0) == pytest.approx([1.5 * (10 / 9) ** 0.5] * 2, rel=0.1)
    assert (gains[:, 0] - gains[:, 1]).std() == pytest.approx(0.5 * 2**0.5, rel=0.1)


def test_slope_of_sar_is_a_plane_in_any_direction() -> None:
    changes = changes_of_sar(replace(PLAIN, sar_slope=2.0), 500, side=33)
    assert np.array_equal(changes[:, 0], changes[:, 1])
    planes = changes[:, 0].astype(np.float64)
    for axis in (1, 2):
        assert np.abs(np.diff(planes, 2, axis=axis)).max() < 1e-5
    assert planes[:, 16, 16] == pytest.approx(0, abs=1e-5)
    rise = np.stack([planes[:, -1, 16] - planes[:, 0, 16], planes[:, 16, -1] - planes[:, 16, 0]])
    assert np.hypot(*rise).std() == pytest.approx(2.0 * (1 - 2 / np.pi) ** 0.5, rel=0.1)  # of a half-normal
    assert np.sqrt((rise**2).sum(0).mean()) == pytest.approx(2.0, rel=0.1)
    angles = np.arctan2(*rise)
    assert all(np.sum((angles > start) & (angles <= start + np.pi / 4)) > 30 for start in np.linspace(-np.pi, 2.35, 8))


def test_speckle_keeps_mean_power_and_has_the_looks_that_are_asked_for() -> None:
    power = 10 ** (changes_of_sar(replace(PLAIN, sar_looks=2.0), 300, side=96).astype(np.float64) / 10)
    untouched = (power == 1).all((1, 2, 3))
    assert untouched.mean() == pytest.approx(1 / 3, abs=0.08)
    speckled = power[~untouched]
    assert speckled.mean((2, 3)) == pytest.approx(np.ones(speckled.shape[:2]), abs=0.04)
    looks = 1 / speckled.var((2, 3))
    assert looks[:, 0] == pytest.approx(looks[:, 1], rel=0.15)
    assert looks.min() == pytest.approx(2, rel=0.1)
    assert looks.max() == pytest.approx(40, rel=0.1)
    assert np.median(looks) == pytest.approx(40**0.5 * 2**0.5, rel=0.25)  # even on a logarithmic scale
    both = [np.corrcoef(vv.ravel(), vh.ravel())[0, 1] for vv, vh in speckled]
    assert np.abs(both).max() < 0.05
    neighbours = [np.corrcoef(vv[:, 1:].ravel(), vv[:, :-1].ravel())[0, 1] for vv, _ in speckled]
    assert np.abs(neighbours).max() < 0.05


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (-3, 2), (0, 0), (9, -9)])
def test_whole_shifts_copy_pixels_and_repeat_the_outermost(down: int, right: int) -> None:
    image = np.random.default_rng(0).normal(-12, 3, (2, 7, 8)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (9, 9), (9, 9)), "edge")
    expected = padded[:, 9 - down : 16 - down, 9 - right : 17 - right]
    assert np.array_equal(shift_image(image, down, right), expected)


@pytest.mark.parametrize(("down", "right"), [(0.25, 0.0), (0.0, -0.5), (-1.75, 0.9), (2.5, 2.5)])
def test_parts_of_a_pixel_are_interpolated_in_power(down: float, right: float) -> None:
    rows, columns = np.indices((20, 20))
    power = (100.0 + 3 * rows + 2 * columns)[None]
    found = 10 ** (shift_image((10 * np.log10(power)).astype(np.float32), down, right) / 10)
    inside = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(found[inside], (power - 3 * down - 2 * right)[inside], rtol=1e-4)


def test_a_pixel_without_data_does_not_spread_when_moved() -> None:
    image = np.full((1, 9, 9), -10, np.float32)
    image[0, 4, 4] = np.nan
    missing = np.argwhere(np.isnan(shift_image(image, 0.3, 1.3)))
    assert missing.tolist() == [[0, 4, 5]]
    assert np.isnan(shift_image(np.full_like(image, np.nan), 0.3, 0.3)).all()


def test_sar_moves_no_further_than_asked_and_in_half_of_the_crops_by_whole_pixels() -> None:
    config, rows = replace(PLAIN, shift=2.0), []
    power = 1000.0 + np.stack([np.indices((64, 64))[0]] * 2)
    crop = make_flat_crop()._replace(sar=(10 * np.log10(power)).astype(np.float32))
    for seed in range(400):
        changed, same = (augment(crop, np.random.default_rng(seed), chosen) for chosen in (config, PLAIN))
        difference = 10 ** (changed.sar[0, 32, 32] / 10) - 10 ** (same.sar[0, 32, 32] / 10)
        rows.append(float(difference))
        assert np.array_equal(changed.optical, same.optical)
    offsets = np.abs(rows)
    assert 1.9 < offsets.max() < 2.02
    assert np.mean(np.abs(offsets - np.rint(offsets)) < 0.005) == pytest.approx(0.5, abs=0.1)
    assert np.mean(rows) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("absent", ["optical", "sar", None])
def test_what_has_no_data_stays_without(absent: str | None) -> None:
    crop = make_flat_crop()
    crop.optical[:, 10:14, 20:22] = crop.sar[:, 40:50, 7:9] = np.nan
    if absent:
        getattr(crop, absent)[...] = np.nan
    config = replace(FULL, shift=0.0)
    for seed in range(20):
        changed, same = (augment(crop, np.random.default_rng(seed), chosen) for chosen in (config, PLAIN))
        for sensor in ("optical", "sar"):
            assert np.array_equal(np.isnan(getattr(changed, sensor)), np.isnan(getattr(same, sensor)))
    if absent == "sar":
        assert np.isnan(augment(crop, np.random.default_rng(0), FULL).sar).all()


def test_with_everything_on_values_stay_measurements() -> None:
    crop, random = make_crop(), np.random.default_rng(1)
    for _ in range(50):
        changed = mix(augment(crop, random, FULL), augment(crop, random, FULL), random)
        assert (changed.optical.dtype, changed.sar.dtype, changed.labels.dtype) == (np.float32, np.float32, np.uint8)
        assert np.isfinite(changed.optical).all()
        assert np.isfinite(changed.sar).all()
        assert changed.optical.min() >= 1
    assert all(np.array_equal(one, other) for one, other in zip(crop, make_crop(), strict=True))


def test_mixed_crops_keep_sensors_and_labels_together_and_the_seam_unlabelled() -> None:
    first, second = make_flat_crop(1000, -10), make_flat_crop(2000, -20)
    second.labels[...] = 2
    areas, seams = [], []
    for seed in range(200):
        mixed = mix(first, second, np.random.default_rng(seed))
        inside = mixed.optical[0] == 2000
        areas.append(inside.mean())
        assert np.array_equal(mixed.sar == -20, np.stack([inside] * 2))
        assert np.array_equal(mixed.optical == 2000, np.stack([inside] * 2))
        around = np.lib.stride_tricks.sliding_window_view(np.pad(inside, 1, "edge"), (3, 3))
        pure = around.all((2, 3)) | ~around.any((2, 3))
        assert np.array_equal(mixed.labels, np.where(pure, 1 + inside, 0))
        seams.append((~pure).mean())
    assert min(areas) == pytest.approx(0.2, abs=0.03)
    assert max(areas) == pytest.approx(0.8, abs=0.03)
    assert 0 < min(seams) <= max(seams) < 0.2  # shapes, not scattered pixels
    assert (first.labels == 1).all()


def test_crops_of_different_sensors_or_without_a_label_left_are_not_mixed() -> None:
    whole, single = make_flat_crop(), make_flat_crop(sar=np.nan)
    for seed in range(5):
        random = np.random.default_rng(seed)
        assert mix(whole, single, random) is whole
        assert mix(single, whole, random) is single
        assert mix(single, single, random) is not single
    bare = whole._replace(labels=np.zeros_like(whole.labels))
    rare = whole._replace(labels=bare.labels.copy())
    rare.labels[30, 30] = 3
    found = [mix(rare, bare, np.random.default_rng(seed)) for seed in range(50)]
    assert all(crop.labels.any() for crop in found)
    assert {crop is rare for crop in found} == {True, False}


def test_gaps_take_pixels_of_one_sensor_or_both_and_labels_where_no_sensor_is_left() -> None:
    crop, shares, which = make_crop(), [], Counter()
    random = np.random.default_rng(0)
    for _ in range(400):
        cut = add_gap(crop, random, 1.0)
        lost = [np.isnan(image).any(0) for image in (cut.optical, cut.sar)]
        for image, whole, gone in ((cut.optical, crop.optical, lost[0]), (cut.sar, crop.sar, lost[1])):
            assert np.array_equal(image[:, ~gone], whole[:, ~gone])
            assert np.isnan(image[:, gone]).all()
        both = lost[0] & lost[1]
        assert np.array_equal(cut.labels, np.where(both, 0, crop.labels))
        assert not lost[0].any() or not lost[1].any() or np.array_equal(*lost)
        which[lost[0].any(), lost[1].any()] += 1
        shares.append(max(gone.mean() for gone in lost))
    assert which[True, True] > which[True, False] > 60 < which[False, True]
    assert max(shares) < 0.9
    assert np.mean(shares) > 0.3


def test_as_many_crops_have_gaps_as_asked_for_and_all_keep_a_label() -> None:
    crop = make_flat_crop()
    labelled = crop._replace(labels=np.zeros_like(crop.labels))
    labelled.labels[2, 60] = 3
    random = np.random.default_rng(1)
    assert all((add_gap(labelled, random, 1.0).labels == 3).sum() == 1 for _ in range(200))
    cut = sum(np.isnan(add_gap(crop, random, 0.3).optical).any() for _ in range(2000))
    assert 300 < cut < 700  # of 0.3, three in four are of the optical image, and some frames are all of the crop


def test_modality_dropout_blanks_one_sensor_as_often_as_the_other() -> None:
    missing: Counter[tuple[bool, bool]] = Counter()
    for seed in range(600):
        crop = drop_sensor(make_crop(), np.random.default_rng(seed), 0.5)
        missing[bool(np.isnan(crop.optical).all()), bool(np.isnan(crop.sar).all())] += 1
    assert missing[True, True] == 0
    assert missing[True, False] == pytest.approx(150, abs=45)
    assert missing[False, True] == pytest.approx(150, abs=45)


@pytest.mark.parametrize("absent", ["optical", "sar"])
def test_the_only_sensor_of_a_crop_is_not_dropped(absent: str) -> None:
    crop = make_crop()
    getattr(crop, absent)[...] = np.nan
    for seed in range(20):
        kept = drop_sensor(crop, np.random.default_rng(seed), 1.0)
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(kept[:3], crop[:3], strict=True))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"haze": 650.0}, "haze is 650.0; it must be from 0 to 0.3"),
        ({"haze": 0.1, "optical_bands": ("B02", "panchromatic")}, "haze needs Sentinel-2 bands, .* panchromatic"),
        ({"sar_looks": 0.5}, "sar_looks is 0.5; it must be 0 .no extra speckle., or 1 or more"),
        ({"sar_gain": -1.0}, "sar_gain is -1.0"),
        ({"sar_slope": float("nan")}, "sar_slope is nan"),
        ({"shift": 17.0}, "shift is 17.0; it must be from 0 to 16"),
        ({"mix": 1.1}, "mix is 1.1; it must be from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionsError, match=why):
        replace(PLAIN, **settings)
    assert replace(PLAIN, optical_bands=("B02", "panchromatic")).haze == 0
