"""Seasons: composites against numpy on whole arrays, ensembles against separate predictions, and wrong tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError, RefnetError
from refnet_cli.prediction.stream import predict_rows
from refnet_cli.scene.options import Combine, SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.season import mean_power, median, open_season
from refnet_cli.scene.season_files import SceneDate, date_of, orbit_of, read_season
from refnet_cli.sensors.quality import CLOUD, SENSOR_BITS
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from tests.helpers.scenes import PLACE, PlaceEngine, use_small_blocks, write
from tests.helpers.seasons import BANDS, DAYS, RADAR, SHAPE, make_season, table_of, write_season

WHOLE = Window(0, 0, *SHAPE)
MASKED = SceneOptions(mask_clouds=True)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_season(tmp_path_factory.mktemp("season"))


def read_dates(dates: tuple[SceneDate, ...], options: SceneOptions) -> list[Any]:
    """Each date by itself on the whole grid: patch, quality, usable pixels."""
    found = []
    for scene in dates:
        with ScenePair.open(scene.optical, scene.sar, BANDS, RADAR, options) as pair:
            seen = pair.read_seen(WHOLE)
            found.append((pair.read(WHOLE), seen, pair.usable(seen)))
    return found


def over_dates(reduce: Callable[..., Any], stack: NDArray[Any]) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pixels that no date saw
        return np.asarray(reduce(stack, axis=0))


@pytest.mark.parametrize("missing", ["nodata", "use-other"])
def test_a_composite_is_numpy_s_median_and_the_mean_power(folder: Path, missing: Any) -> None:
    options = SceneOptions(mask_clouds=True, missing=missing)
    dates = read_season(folder)
    single = read_dates(dates, options)
    with open_season(dates, BANDS, RADAR, options, "composite", 2) as scene:
        patch, seen = scene.read(WHOLE), scene.read_seen(WHOLE)
        counts = scene.counts_in(WHOLE)
    images = np.stack([one.optical for one, *_ in single])
    np.testing.assert_array_equal(patch.optical, over_dates(np.nanmedian, images))
    power = over_dates(np.nanmean, 10 ** (np.stack([one.sar for one, *_ in single]).astype(np.float64) / 10))
    np.testing.assert_allclose(patch.sar, 10 * np.log10(power), atol=1e-5)
    times = np.sum([one.optical_valid for one, *_ in single], axis=0)
    sensors = seen & SENSOR_BITS
    np.testing.assert_array_equal(sensors & 1 > 0, times > 0)
    np.testing.assert_array_equal(sensors & 2 > 0, np.any([one.sar_valid for one, *_ in single], axis=0))
    np.testing.assert_array_equal(seen >> 8, np.where(sensors > 0, times, 0))
    cloudy = np.any([one & CLOUD > 0 for _, one, _ in single], axis=0) & (times == 0)
    np.testing.assert_array_equal(seen & CLOUD > 0, cloudy)
    assert {0, 1, 3} <= {*np.unique(times)}
    for scene_date, (one, *_) in zip(dates, single, strict=True):
        assert counts[f"seen_{scene_date.date}"] == one.optical_valid.sum()


@pytest.mark.parametrize("combine", ["composite", "ensemble"])
def test_a_pixel_is_the_same_in_every_window(folder: Path, combine: Combine) -> None:
    dates = read_season(folder)
    with open_season(dates, BANDS, RADAR, MASKED, combine) as scene:
        whole, seen = scene.read(WHOLE), scene.read_seen(WHOLE)
    random = np.random.default_rng(0)
    with open_season(dates, BANDS, RADAR, MASKED, combine, 3) as scene:
        for _ in range(12):
            row, column = (int(random.integers(size - 1)) for size in SHAPE)
            window = Window(row, column, 80, 70).clip(*SHAPE)
            rows, columns = slice(row, row + window.height), slice(column, column + window.width)
            np.testing.assert_array_equal(scene.read(window).optical, whole.optical[:, rows, columns])
            np.testing.assert_array_equal(scene.read(window).sar, whole.sar[:, rows, columns])
            np.testing.assert_array_equal(scene.read_seen(window), seen[rows, columns])


def rows_of(scene: Any, overlap: int = 32) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Probabilities, validity and quality of all rows."""
    tiling = Tiling.of(*scene.grid.shape, 128, overlap)
    found = list(predict_rows(scene, PlaceEngine(), tiling))  # type: ignore[arg-type]
    return (
        np.concatenate([rows.probabilities for rows in found], axis=1),  # type: ignore[arg-type]
        np.concatenate([rows.valid for rows in found]),
        np.concatenate([rows.quality for rows in found]),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("missing", ["nodata", "use-other"])
def test_an_ensemble_is_the_mean_of_separate_predictions(folder: Path, missing: Any) -> None:
    options = SceneOptions(mask_clouds=True, missing=missing)
    dates = read_season(folder)
    total, times = np.zeros((10, *SHAPE)), np.zeros(SHAPE)
    for scene in dates:
        with ScenePair.open(scene.optical, scene.sar, BANDS, RADAR, options) as pair:
            probabilities, valid, _ = rows_of(pair)
            total += np.where(valid, probabilities, 0)
            times += valid
    with open_season(dates, BANDS, RADAR, options, "ensemble") as season:
        found, usable, quality = rows_of(season)
        counts = season.counts_in(WHOLE)
    np.testing.assert_array_equal(usable, times > 0)
    np.testing.assert_array_equal(quality >> 8, times)
    np.testing.assert_allclose(found[:, usable], (total[:, usable] / times[usable]), atol=1e-6)
    assert sum(counts[f"seen_{scene.date}"] for scene in dates) == times.sum()


@pytest.mark.parametrize("combine", ["composite", "ensemble"])
def test_one_date_is_the_plain_prediction(folder: Path, combine: Combine) -> None:
    (scene, *_) = read_season(folder)
    with ScenePair.open(scene.optical, scene.sar, BANDS, RADAR, MASKED) as pair:
        expected, valid, quality = rows_of(pair)
    with open_season([scene], BANDS, RADAR, MASKED, combine) as season:
        found, same, counted = rows_of(season)
    np.testing.assert_array_equal(same, valid)
    np.testing.assert_array_equal(counted & 255, quality)
    np.testing.assert_array_equal(found[:, valid], expected[:, valid])


def test_the_median_of_random_stacks() -> None:
    random = np.random.default_rng(3)
    for count in range(1, 8):
        stack = random.normal(0, 1000, (count, 2, 9, 31)).astype(np.float32)
        stack[random.random(stack.shape) < 0.4] = np.nan
        np.testing.assert_array_equal(median(list(stack)), over_dates(np.nanmedian, stack))
        single = np.isfinite(stack).sum(axis=0) == 1
        np.testing.assert_array_equal(mean_power(list(stack / 100))[single], over_dates(np.nanmax, stack / 100)[single])


def test_a_table_is_sorted_and_relative_to_its_folder(folder: Path, tmp_path: Path) -> None:
    assert [scene.date for scene in read_season(table_of(folder))] == list(DAYS)
    assert read_season(table_of(folder)) == read_season(folder)
    rows = [("", f"{folder}/place_{DAYS[1]}/s2.tif", ""), (DAYS[0], "", f"{folder}/place_{DAYS[0]}/s1.tif")]
    found = read_season(write_season(tmp_path / "t.csv", rows))
    assert [(scene.date, scene.optical is None, scene.sar is None) for scene in found] == [
        (DAYS[0], True, False), (DAYS[1], False, True),
    ]  # fmt: skip
    (folder / "scenes.csv").write_text(
        "name;dates;optical;sar\n" + "".join(f"a;{day};place_{day}/s2.tif;place_{day}/s1.tif\n" for day in DAYS[1:])
    )
    assert read_season(folder) == read_season(table_of(folder))[1:]
    (folder / "scenes.csv").unlink()


def test_a_folder_of_products_pairs_the_nearest_passes(tmp_path: Path) -> None:
    for name in (
        "S2A_MSIL2A_20210601T101031_N0500_R022_T33UVP_20210601T130000.SAFE",
        "S2B_MSIL2A_20210611T101031_N0500_R022_T33UVP_20210611T130000.SAFE",
        "S1A_IW_GRDH_1SDV_20210603T050912_20210603T050937_038172_048123_1234.SAFE",
        "S1B_IW_GRDH_1SDV_20210609T050912_20210609T050937_027260_034123_1234.SAFE",
    ):
        (tmp_path / name).mkdir()
    found = read_season(tmp_path)
    assert [(scene.date, scene.sar[0].name[:3]) for scene in found if scene.sar] == [
        ("2021-06-01T10:10:31Z", "S1A"), ("2021-06-11T10:10:31Z", "S1B"),
    ]  # fmt: skip
    assert [orbit_of(scene.sar) for scene in found if scene.sar] == ["125", "109"]


def test_dates_of_names() -> None:
    for name, date in (("scene_20210601.tif", "2021-06-01"), ("a/2021-06-01/s2.tif", "2021-06-01"), ("x.tif", "")):
        assert date_of((Path(name),)) == date


WRONG: dict[str, tuple[Callable[[Path], Any], type[RefnetError], str]] = {
    "nothing": (lambda p: p / "none.csv", InputMissingError, "does not exist"),
    "empty": (lambda p: write_season(p / "t.csv", []), InputMissingError, "has no scene"),
    "columns": (lambda p: write_season(p / "t.csv", [], "date,image"), ConfigError, "has the columns date, image"),
    "short": (lambda p: write_season(p / "t.csv", [("2021-05-02", "a.tif")]), ConfigError, "Line 2 .*not have 3"),
    "date": (lambda p: write_season(p / "t.csv", [("May", "a.tif", "")]), ConfigError, "'May' is not a date"),
    "no date": (lambda p: write_season(p / "t.csv", [("", "a.tif", "")]), ConfigError, "Line 2 .* has no date"),
    "no file": (lambda p: write_season(p / "t.csv", [("2021-05-02", "", "")]), ConfigError, "neither optical nor SAR"),
    "twice": (
        lambda p: write_season(p / "t.csv", [("2021-05-02", "a.tif", ""), ("2021-05-02", "b.tif", "")]),
        InputError, "two scenes of 2021-05-02",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables(tmp_path: Path, name: str) -> None:
    make, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        read_season(make(tmp_path))


def change(folder: Path, path: str, **profile: Any) -> None:
    """Write a file of a season again, with another profile or fewer bands."""
    with rasterio.open(folder / path) as file:
        values, about, names = file.read(), file.profile | profile, file.descriptions
    count = about["count"]
    with rasterio.open(folder / path, "w", **about) as file:
        file.write(values[:count])
        file.descriptions = names[:count]


def test_errors_name_the_date(tmp_path: Path) -> None:
    days = DAYS[:3]
    for name, profile, match in (
        ("bands", {"count": 3}, "2021-06-01: .*B08"),
        ("crs", {"crs": None}, "2021-06-01: .*(coordinate|CRS|reference)"),
    ):
        place = make_season(tmp_path / name, days, (64, 70))
        change(place, f"place_{days[1]}/s2.tif", **profile)
        with pytest.raises(RefnetError, match=match):
            open_season(read_season(place), BANDS, RADAR, SceneOptions(), "composite")
    place = make_season(tmp_path / "masks", days, (64, 70))
    change(place, f"place_{days[2]}/s2.tif", count=4)
    with pytest.raises(OptionsError, match="2021-06-21: --mask-clouds needs a cloud mask"):
        open_season(read_season(place), BANDS, RADAR, MASKED, "composite")
    (place / f"place_{days[1]}" / "s1.tif").unlink()
    with pytest.raises(InputError, match="2021-06-01: there is no SAR file"):
        open_season(read_season(place), BANDS, RADAR, SceneOptions(), "ensemble")
    with open_season(read_season(place), BANDS, RADAR, SceneOptions(), "composite") as scene:
        assert scene.absent is None
    with pytest.raises(OptionsError, match="mask of one date"):
        open_season(read_season(place), BANDS, RADAR, SceneOptions(cloud_mask=place / "x.tif"), "composite")


def test_passes_of_other_orbits_and_copies_of_a_pass_are_left_out(tmp_path: Path) -> None:
    place = make_season(tmp_path, DAYS[:4], (64, 70), (22, 95, 22, 95))
    for day, time in zip(DAYS, ("2021-05-01T05:00:00Z", "x", "2021-05-01T05:00:00Z", "y"), strict=False):
        with rasterio.open(place / f"place_{day}" / "s1.tif", "r+") as file:
            file.update_tags(ACQUIRED=time)
    dates = read_season(place)
    kept = [dates[1], dates[3]]
    with open_season(dates, BANDS, RADAR, SceneOptions(), "composite") as scene:
        found = scene.read(Window(0, 0, 64, 70)).sar
        (decision,) = (one for one in scene.decisions if one.what == "sar.orbit")
        assert decision.value == "95 ascending"
        assert any("SAR of 2021-05-02 is left out" in text for text in scene.warnings)
    levels = []
    for one in kept:
        with ScenePair.open(None, one.sar, BANDS, RADAR) as pair:
            levels.append(pair.read(Window(0, 0, 64, 70)).sar)
    np.testing.assert_array_equal(found, mean_power(levels))


def test_passes_of_unknown_orbits_are_a_guess(tmp_path: Path) -> None:
    place = make_season(tmp_path, DAYS[:2], (64, 70))
    for day in DAYS[:2]:
        change(place, f"place_{day}/s1.tif")
    dates = read_season(place)
    with open_season(dates, BANDS, RADAR, SceneOptions(), "composite") as scene:
        assert any("orbit of the 2 SAR passes is unknown" in text for text in scene.warnings)
    with pytest.raises(OptionsError, match="tell their orbits"):
        open_season(dates, BANDS, RADAR, SceneOptions(strict=True), "composite")


def test_other_grids_are_warped_to_the_first(tmp_path: Path) -> None:
    place = make_season(tmp_path, DAYS[:2], (90, 100))
    random = np.random.default_rng(0)
    values = random.integers(300, 900, (5, 60, 70)).astype(np.uint16)
    values[4] = 4
    path = place / f"place_{DAYS[1]}" / "s2.tif"
    write(path, values, (*BANDS, "SCL"), PLACE @ PLACE.translation(-3, -4) @ PLACE.scale(2))
    dates = read_season(place)
    with open_season(dates, BANDS, RADAR, MASKED, "composite") as scene:
        assert scene.grid.shape == (90, 100)
        assert scene.grid.transform == PLACE
        assert any("2021-06-01: the optical image is not on the pixels" in text for text in scene.warnings)
        found = scene.read(Window(0, 0, 90, 100)).optical
    singles = []
    for one in dates:
        with ScenePair.open(one.optical, one.sar, BANDS, RADAR, MASKED, grid=scene.grid) as pair:
            singles.append(pair.read(Window(0, 0, 90, 100)).optical)
    np.testing.assert_array_equal(found, median(singles))
