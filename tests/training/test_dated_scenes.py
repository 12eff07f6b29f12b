"""A scene of several dates in a regions file: its dates share its crops, blocks and region."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from refnet_cli.errors import ConfigError
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.regions_file import read_regions
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.survey import survey
from tests.helpers.scenes import make_labelled_scene

DAYS = ("2021-05-01", "2021-06-01", "2021-07-01")
HEAD = 'scheme = "esri-io"\nsplit = "none"\nencoder = "test_resnet"\nwidth = 16\ncrop = 64\ntile = 64\n'


def write_regions(folder: Path, season: str) -> Path:
    """A place of three dates, and one of a single date."""
    place, other = make_labelled_scene(folder / "place"), make_labelled_scene(folder / "other", seed=1)
    path = folder / "regions.toml"
    path.write_text(
        f'{HEAD}[[scenes]]\nname = "place"\nseason = {season}\nlabels = "{place.labels}"\n'
        f'[[scenes]]\nname = "other"\noptical = "{other.optical}"\nsar = "{other.sar}"\nlabels = "{other.labels}"\n'
    )
    return path


def as_list() -> str:
    tables = (f'{{date = "{day}", optical = "place/s2.tif", sar = "place/s1.tif"}}' for day in DAYS)
    return f"[{', '.join(tables)}]"


def test_a_list_and_a_table_of_dates_are_the_same(tmp_path: Path) -> None:
    config = read_regions(write_regions(tmp_path / "a", as_list()))
    assert [scene.name for scene in config.scenes] == [*(f"place {day}" for day in DAYS), "other"]
    assert [scene.region_name for scene in config.scenes] == ["place"] * 3 + ["other"]
    assert [scene.dates for scene in config.scenes] == [3, 3, 3, 1]
    path = write_regions(tmp_path / "b", '"season.csv"')
    rows = "".join(f"{day},place/s2.tif,place/s1.tif\n" for day in DAYS)
    (tmp_path / "b" / "season.csv").write_text(f"date,optical,sar\n{rows}")
    others = read_regions(path)
    assert [(scene.name, scene.dates) for scene in others.scenes] == [(one.name, one.dates) for one in config.scenes]


@pytest.mark.parametrize("sampling", ["area", "classes"])
@pytest.mark.parametrize("balance", [None, "regions"])
def test_each_crop_draws_a_date(tmp_path: Path, sampling: str, balance: str | None) -> None:
    """All dates alike, and together as often as the other place, which has as many labels; a seed gives the same."""
    config = read_regions(write_regions(tmp_path, as_list()), {"sampling": sampling, "balance": balance})
    first, second = (draws(config) for _ in range(2))
    assert first == second
    counts = Counter(first)
    assert 0.42 < counts[3] / len(first) < 0.58
    assert all(0.11 < counts[number] / len(first) < 0.23 for number in range(3))


def draws(config: TrainConfig) -> list[int]:
    sampler = Sampler(survey(config), config)
    random = np.random.default_rng(0)
    found = [sampler._choose(random)[0] for _ in range(1200)]
    sampler.close()
    return found


@pytest.mark.parametrize(
    ("season", "match"),
    [
        ('"none.csv"', "does not exist"),
        ("3", "must be a file, a folder, or a list"),
        ('[{optical = "a.tif"}]', "must be a file, a folder, or a list"),
        ('[{date = "2021-05-01", optical = "a.tif"}, {date = "2021-05-01", optical = "b.tif"}]', "2021-05-01 twice"),
        (json.dumps("x") + '\noptical = "a.tif"', "has season and optical"),
        ('[{date = "2021-05-01", optical = "a.tif", image = "x"}]', "image"),
    ],
)
def test_wrong_seasons(tmp_path: Path, season: str, match: str) -> None:
    with pytest.raises(Exception, match=match) as caught:
        read_regions(write_regions(tmp_path, season))
    assert isinstance(caught.value, ConfigError) or "exist" in match
