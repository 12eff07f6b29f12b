"""The regions file and the table of fetched scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refnet_cli.batch.plan import Templates, plan, read_scenes
from refnet_cli.errors import OptionsError
from refnet_cli.fetching.options import BANDS, FetchOptions
from refnet_cli.fetching.regions import Fetched, regions_text, table_text
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
