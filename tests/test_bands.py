"""Which band of a file is which, by everything that the file says of its bands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.products import PRODUCTS
from refnet_cli.scene.bands import choose_bands


@given(st.permutations(PRODUCTS["sentinel-2-l1c"].bands), st.integers(1, 13))
def test_described_bands_are_found_in_any_order(order: list[str], count: int) -> None:
    wanted = sorted(order[:count])
    indexes, how = choose_bands(wanted, order, "optical")
    assert [order[index - 1] for index in indexes] == wanted
    assert how.startswith("description")


def test_bands_by_count() -> None:
    assert choose_bands(["B04", "B11"], [None] * 12, "optical")[0] == (4, 11)
    assert choose_bands(["B04", "B11"], [None] * 13, "optical")[0] == (4, 12)
    assert choose_bands(["B04", "B03"], [None] * 2, "optical") == (
        (1, 2), "count: a guess, 2 bands without known names are taken in the wanted order: B04, B03.",
    )  # fmt: skip
    assert choose_bands(["VV", "VH"], ["bands", "bands"], "sar")[0] == (1, 2)


def test_numbered_bands_are_not_names() -> None:
    generic = ["B1", "B2", "B3", "B4"]
    assert choose_bands(["B02", "B03", "B04", "B08"], generic, "optical")[1].startswith("count")
    with pytest.raises(InputError, match="--optical-bands"):
        choose_bands(["B02", "B03", "B04"], generic, "optical")


@pytest.mark.parametrize(
    ("wanted", "found", "match"),
    [
        (["B02", "B03"], [None], "has 1 band,"),
        (["B02"], [None] * 5, "without names"),
        (["B02"], ["B3", "B4"], "no band B02"),
        (["B02"], ["B2", "blue", "B4"], "several bands B02"),
    ],
)
def test_bands_that_cannot_be_found(wanted: list[str], found: list[str | None], match: str) -> None:
    with pytest.raises(InputError, match=match):
        choose_bands(wanted, found, "optical")


def test_bands_by_option() -> None:
    wanted, found = ["B02", "B03"], ["x", "green", "blue"]
    assert choose_bands(wanted, found, "optical", ["3", "2"]) == ((3, 2), "option: --optical-bands 3,2.")
    assert choose_bands(wanted, found, "optical", ["B2", "green"])[0] == (3, 2)
    for option in (["3"], ["0", "1"], ["4", "1"], ["B08", "1"]):
        with pytest.raises(OptionsError, match="--optical-bands"):
            choose_bands(wanted, found, "optical", option)
