"""What a catalogue says of scenes, and what is not believed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from refnet_cli.fetching.catalogues import CATALOGUES, OpticalCollection
from refnet_cli.fetching.items import ItemError, read_optical, read_sar, usable

PC: OpticalCollection = CATALOGUES["planetary-computer"].optical  # type: ignore[assignment]
ES: OpticalCollection = CATALOGUES["earth-search"].optical  # type: ignore[assignment]
BANDS = ("B02", "B8A")


def optical(**properties: Any) -> dict[str, Any]:
    return {
        "id": "S2A_MSIL2A_20210604T101021_R022_T33UUU_20210605T034512",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [[[13, 52], [14, 52], [14, 53], [13, 52]]]},
        "properties": {
            "datetime": "2021-06-04T10:10:21.024000Z", "s2:processing_baseline": "03.00", "s2:mgrs_tile": "33UUU",
            "eo:cloud_cover": 12.5,
        } | properties,
        "assets": {name: {"href": f"https://a.org/{name}.tif"} for name in ("B02", "B8A", "SCL")},
    }  # fmt: skip


def test_an_item() -> None:
    item = read_optical(optical(), PC, BANDS)
    assert (item.acquired, item.tile, item.baseline, item.offset, item.cloud) == (
        "2021-06-04T10:10:21Z", "33UUU", "03.00", 0.0, 12.5,
    )  # fmt: skip
    assert item.hrefs["SCL"] == "https://a.org/SCL.tif"


def test_an_item_of_another_level_is_refused() -> None:
    raw = optical(**{"s2:product_type": "S2MSI1C"})
    with pytest.raises(ItemError, match="is of level L1C, but its collection of level L2A"):
        read_optical(raw, PC, BANDS)
    raw["id"] = raw["id"].replace("MSIL2A", "MSIL1C")
    assert read_optical(raw, replace(PC, level="L1C"), BANDS).id == raw["id"]


@pytest.mark.parametrize(("baseline", "offset"), [("02.14", 0), ("03.01", 0), ("04.00", 1000), ("05.11", 1000)])
def test_the_offset_follows_from_the_baseline(baseline: str, offset: float) -> None:
    assert read_optical(optical(**{"s2:processing_baseline": baseline}), PC, BANDS).offset == offset


@pytest.mark.parametrize(
    "properties",
    [
        {"s2:processing_baseline": None},
        {"s2:processing_baseline": "99.99"},
        {"s2:processing_baseline": "05.00", "s2:product_uri": "S2A_MSIL2A_20210604T101021_N0300_R022_T33UUU_X.SAFE"},
        {"earthsearch:boa_offset_applied": True},
        {"datetime": "2020-06-04T10:10:21Z"},
        {"datetime": None},
    ],
)
def test_what_does_not_tell_the_offset_or_date_is_left_out(properties: dict[str, Any]) -> None:
    with pytest.raises(ItemError):
        read_optical(optical(**properties), PC, BANDS)


def declared(offset: float, scale: float = 1e-4, **properties: Any) -> dict[str, Any]:
    raw = optical(**properties) | {"collection": "sentinel-2-c1-l2a"}
    bands = {"raster:bands": [{"scale": scale, "offset": offset}]}
    names = {"blue": "B02", "nir08": "B8A", "scl": "SCL"}
    raw["assets"] = {name: raw["assets"][band] | copy.deepcopy(bands) for name, band in names.items()}
    return raw


def test_declared_offsets() -> None:
    assert read_optical(declared(-0.1, **{"s2:processing_baseline": "05.00"}), ES, BANDS).offset == 1000
    assert read_optical(declared(0.0), ES, BANDS).offset == 0
    for raw in (declared(-0.1), declared(-0.1, 1e-3), declared(0.0, **{"s2:processing_baseline": "05.00"})):
        with pytest.raises(ItemError):
            read_optical(raw, ES, BANDS)
    raw = declared(-0.1, **{"s2:processing_baseline": "05.00"})
    raw["assets"]["blue"]["raster:bands"][0]["offset"] = 0
    with pytest.raises(ItemError, match="different offsets"):
        read_optical(raw, ES, BANDS)


def test_items_without_vh_are_left_out() -> None:
    raw = {
        "id": "S1A_IW_GRDH_1SDV_20210601T053000_20210601T053025_038123_047FAA_rtc",
        "properties": {
            "datetime": "2021-06-01T05:30:00Z", "sat:relative_orbit": 95, "sat:orbit_state": "descending",
        },
        "assets": {"vv": {"href": "https://a.org/vv.tif"}},
    }  # fmt: skip
    about = CATALOGUES["planetary-computer"].sar
    assert about is not None
    item, why = usable(raw, read_sar, about, ("VV", "VH"))
    assert item is None
    assert "no asset vh" in why
    found, _ = usable(raw, read_sar, about, ("VV",))
    assert found is not None
    assert (found.orbit, found.direction) == (95, "descending")


@pytest.mark.parametrize(
    "raw", [{}, {"id": 1}, {"id": "a", "properties": []}, {"id": "a", "properties": {}, "assets": 3}]
)
def test_nonsense_is_left_out(raw: dict[str, Any]) -> None:
    assert usable(raw, read_optical, PC, BANDS)[0] is None


def test_a_footprint_across_180_degrees() -> None:
    item = read_optical(optical(), PC, BANDS)
    ring = [[179.0, -17.0], [-179.0, -17.0], [-179.0, -16.0], [179.0, -16.0], [179.0, -17.0]]
    shape = replace(item, footprint={"type": "Polygon", "coordinates": [ring]}).shape
    assert sorted(part.bounds[0] for part in shape.geoms) == [-180.0, 179.0]
