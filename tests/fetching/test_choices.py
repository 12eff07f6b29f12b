"""Choices of dates, passes and years, on items made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import shapely

from refnet_cli.errors import InputMissingError
from refnet_cli.fetching.area import area_of_bbox
from refnet_cli.fetching.catalogues import CATALOGUES
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.labels import choose_year, items_of_template
from refnet_cli.fetching.optical import (
    OpticalDate,
    Ranking,
    choose_dates,
    clearest_by_day,
    group_by_date,
    is_clear,
    median_of,
)
from refnet_cli.fetching.sar import choose_pass, group_by_pass

(AREA,) = area_of_bbox("13.2,52.4,13.3,52.5")
NEAR = datetime(2021, 6, 10, 10, tzinfo=UTC)


def optical(name: str, acquired: str, tile: str = "33UUU", baseline: str = "03.00") -> SceneItem:
    return SceneItem(name, "s2", acquired, {}, tile=tile, baseline=baseline)


def test_the_newest_processing_of_each_tile_and_pass_is_used() -> None:
    items = [
        optical("old", "2021-06-04T10:10:21Z"), optical("new", "2021-06-04T10:10:21Z", baseline="05.00"),
        optical("other", "2021-06-04T10:10:30Z", tile="32UPU"), optical("later", "2021-06-04T11:50:21Z"),
    ]  # fmt: skip
    first, second = group_by_date(items, 32633)
    assert [item.id for item in first.items] == ["new", "other"]  # tiles of the grid's zone first
    assert first.replaced == ("old",)
    assert [item.id for item in second.items] == ["later"]


def test_of_two_passes_on_a_day_the_clearer_one_is_a_scene() -> None:
    """They would have one name, and one date in a season."""
    times = {"2021-06-05T10:10:21Z": 0.4, "2021-06-04T10:10:21Z": 0.7, "2021-06-04T11:50:21Z": 0.9}
    items = [optical(time, time) for time in times]
    dates = [replace(date, clear=times[date.items[0].acquired]) for date in group_by_date(items, 32633)]
    for order in (dates, dates[::-1]):
        found = clearest_by_day(order)
        assert [date.items[0].acquired for date in found] == ["2021-06-04T11:50:21Z", "2021-06-05T10:10:21Z"]


def ranking(*masks: list[int]) -> Ranking:
    arrays = [np.array(mask, bool).reshape(2, 3) for mask in masks]
    dates = [OpticalDate((optical(f"{n}", "2021-06-04T10:10:21Z"),), mask.mean()) for n, mask in enumerate(arrays)]
    return Ranking(dates, [np.packbits(mask) for mask in arrays], np.ones((2, 3), bool), 20.0)


def test_dates_that_fill_nothing_are_left_out() -> None:
    found = ranking([1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0])
    chosen, share = choose_dates(found)
    assert [date.items[0].id for date in chosen] == ["0", "2"]
    assert share == pytest.approx(5 / 6)


def test_no_date_is_added_to_a_complete_one() -> None:
    assert len(choose_dates(ranking([1] * 6, [1] * 6))[0]) == 1


def test_clear_pixels_of_the_scene_classification() -> None:
    clear = is_clear(np.arange(14, dtype=np.uint8))
    assert np.flatnonzero(clear).tolist() == [2, 4, 5, 6, 7, 11]


def test_the_median_is_of_what_is_valid() -> None:
    dates = [np.array(values, np.uint16).reshape(1, 1, 3) for values in ([5, 0, 0], [9, 3, 0], [7, 8, 0], [1, 4, 0])]
    assert median_of(dates, np.zeros((1, 1, 3), np.uint16)).ravel().tolist() == [5, 4, 0]


def sar(name: str, acquired: str, orbit: int, direction: str = "ascending", share: float = 1.0) -> SceneItem:
    west, south, east, north = AREA.shape.bounds
    box = shapely.box(west - 1, south - 1, west + (east - west) * share + (share == 1.0), north + 1)
    return SceneItem(name, "s1", acquired, {}, shapely.geometry.mapping(box), orbit=orbit, direction=direction)


PASSES = group_by_pass(
    [
        sar("near but half", "2021-06-10T05:00:00Z", 1, share=0.5), sar("far", "2021-06-01T05:00:00Z", 2),
        sar("nearer", "2021-06-08T05:00:00Z", 2), sar("nearer too", "2021-06-08T05:00:25Z", 2),
        sar("down", "2021-06-09T05:00:00Z", 3, "descending"),
    ],
    AREA,
)  # fmt: skip


@pytest.mark.parametrize(
    ("orbit", "wanted"),
    [
        ("auto", ["down"]), ("ascending", ["nearer", "nearer too"]), ("2", ["nearer", "nearer too"]),
        ("1", ["near but half"]),
    ],
)  # fmt: skip
def test_the_pass_that_covers_most_and_is_nearest(orbit: str, wanted: list[str]) -> None:
    chosen = choose_pass(PASSES, orbit, NEAR)
    assert chosen is not None
    assert [item.id for item in chosen.items] == wanted


def test_an_orbit_that_is_not_there() -> None:
    assert choose_pass(PASSES, "77", NEAR) is None


def test_the_nearest_year_of_labels() -> None:
    items = [SceneItem(f"{year}", "l", f"{year}-01-01T00:00:00Z", {}) for year in (2020, 2021)]
    assert choose_year(items, 2023, "worldcover")[0] == 2021
    assert choose_year(items, 2018, "worldcover")[0] == 2020
    for year in (2017, 2024):
        with pytest.raises(InputMissingError, match="limit 2 years"):
            choose_year(items, year, "worldcover")


def test_tiles_of_labels_without_a_catalogue() -> None:
    items = items_of_template(CATALOGUES["earth-search"].labels["worldcover"], AREA)
    assert [item.id for item in items] == [
        "ESA_WorldCover_10m_2020_v100_N51E012_Map.tif", "ESA_WorldCover_10m_2021_v200_N51E012_Map.tif",
    ]  # fmt: skip
