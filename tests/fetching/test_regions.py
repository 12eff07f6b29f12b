"""The regions file and the table of fetched scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.templates import Templates
from refnet_cli.errors import OptionsError
from refnet_cli.fetching.options import BANDS, FetchOptions
from refnet_cli.fetching.regions import Fetched, places_of, regions_text, seasons_text, table_text
from refnet_cli.scene.season_files import read_season
from refnet_cli.system.marks import is_refnet_output
from refnet_cli.training.regions_file import read_folds, read_regions

FILES = ("s2.tif", "s1.tif", "labels.tif", "source.tif")


def scenes(folder: Path, *names: str) -> list[Fetched]:
    return [
        Fetched(name, name, folder / name if len(names) > 1 else folder, FILES, (700, 700), "2021-06-04", 1.0, "")
        for name in names
    ]


def test_one_scene_is_divided_into_blocks(tmp_path: Path) -> None:
    path = tmp_path / "regions.toml"
    path.write_text(regions_text(scenes(tmp_path, "scene"), tmp_path, BANDS))
    config = read_regions(path)
    assert (config.method, config.scheme, config.scenes[0].optical) == ("blocks", "esri-io", tmp_path / "s2.tif")
    assert config.steps is not None
    assert is_refnet_output(path)
    path.write_text(path.read_text().replace("steps", "# steps"))
    assert not is_refnet_output(path)


@pytest.mark.parametrize(("side", "steps", "every"), [(2200, 100, None), (10_980, 150, 50)])
def test_a_training_takes_half_an_hour_at_most(side: int, steps: int, every: int | None, tmp_path: Path) -> None:
    path = tmp_path / "regions.toml"
    path.write_text(regions_text([replace(*scenes(tmp_path, "scene"), shape=(side, side))], tmp_path, BANDS))
    config = read_regions(path)
    assert (config.steps, config.validate_every) == (steps, every)


def test_several_scenes_are_regions_to_hold_out(tmp_path: Path) -> None:
    path = tmp_path / "regions.toml"
    path.write_text(regions_text(scenes(tmp_path, "a", "b c", 'd"e'), tmp_path, BANDS))
    config = read_regions(path)
    assert (config.method, config.fold) == ("region", 'd"e')
    assert list(read_folds(path, "all")) == ["a", "b c", 'd"e']


def test_the_table_is_one_of_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "scenes.csv"
    path.write_text(table_text(scenes(tmp_path, "a", "b"), tmp_path))
    assert is_refnet_output(path)
    rows = read_scenes(path.read_text(), tmp_path)
    tasks = list(plan(rows, Templates(output="{name}.tif"), {}, tmp_path))
    assert [task.options.optical for task in tasks] == [(tmp_path / name / "s2.tif",) for name in "ab"]


def dated(folder: Path, years: tuple[str, ...] = ("2021", "2021")) -> list[Fetched]:
    """Two dates of each of two places, with labels of these years."""
    return [
        Fetched(f"{place}_{day}", place[:1], folder / f"{place}_{day}", FILES, (700, 700), day, 1.0, "", place, (year,))
        for place in ("a", "b c")
        for day, year in zip(("2021-06-04", "2021-07-04"), years, strict=True)
    ]


def test_dates_of_a_place_are_its_season(tmp_path: Path) -> None:
    places = places_of(dated(tmp_path))
    for place, dates in places.items():
        (tmp_path / place).mkdir()
        (tmp_path / place / "scenes.csv").write_text(table_text(dates, tmp_path / place))
        assert is_refnet_output(tmp_path / place / "scenes.csv")
        found = read_season(tmp_path / place)
        assert [date.date for date in found] == ["2021-06-04", "2021-07-04"]
        files = [path.resolve() for date in found for path in (*(date.optical or ()), *(date.sar or ()))]
        assert files == [date.folder / name for date in dates for name in ("s2.tif", "s1.tif")]
    path = tmp_path / "seasons.csv"
    path.write_text(seasons_text(places))
    assert is_refnet_output(path)
    tasks = list(plan(read_scenes(path.read_text(), tmp_path), Templates(), {}, tmp_path))
    assert [task.options.season for task in tasks] == [tmp_path / name for name in ("a", "b c")]
    assert [task.options.output for task in tasks] == [tmp_path / name / "lulc.tif" for name in ("a", "b c")]
    assert places_of(scenes(tmp_path, "a", "b")) == {}


def test_dates_of_a_place_with_the_same_labels_are_learned_as_a_season(tmp_path: Path) -> None:
    for place, dates in places_of(dated(tmp_path)).items():
        (tmp_path / place).mkdir()
        (tmp_path / place / "scenes.csv").write_text(table_text(dates, tmp_path / place))
    path = tmp_path / "regions.toml"
    for years, dates in ((("2021", "2021"), 2), (("2020", "2021"), 1)):
        path.write_text(regions_text(dated(tmp_path, years), tmp_path, BANDS))
        found = read_regions(path).scenes
        assert [(scene.region_name, scene.dates) for scene in found] == [("a", dates)] * 2 + [("b", dates)] * 2
        optical = [one.folder / "s2.tif" for one in dated(tmp_path)]
        given = [scene.optical if isinstance(scene.optical, Path) else (scene.optical or ())[0] for scene in found]
        assert [path.resolve() for path in given] == optical
    assert found[1].labels == tmp_path / "a_2021-07-04" / "labels.tif"


@pytest.mark.parametrize(
    "options",
    [
        {}, {"bbox": "1,2,3,4"}, {"bbox": "1,2,3,4", "tile": "33UUU", "dates": "2021-06-01"},
        {"bbox": "1,2,3,4", "dates": "2021"}, {"items": Path("a"), "dates": "2021-06-01"},
        {"bbox": "1,2,3,4", "dates": "2021-06-01", "min_clear": 95.0},
        {"bbox": "1,2,3,4", "dates": "2021-06-01", "orbit": "up"},
        {"bbox": "1,2,3,4", "dates": "2021-06-01", "bands": ("B02", "B02")},
        {"bbox": "1,2,3,4", "dates": "2021-06-01", "workers": 0},
        {"bbox": "1,2,3,4", "dates": "2021-06-01", "allow_host": ("http://a.org/",)},
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(options: dict[str, object]) -> None:
    with pytest.raises(OptionsError):
        FetchOptions(Path("out"), **options)  # type: ignore[arg-type]
