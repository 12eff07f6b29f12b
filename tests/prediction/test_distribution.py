"""What a network learned from as ranges: pixels of the same kind stay inside, and those of another do not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.errors import WeightsError
from refnet_cli.prediction.distribution import InputDistribution, describe_distributions
from tests.helpers.quick import examples

BANDS = ("B02", "B03", "B04", "B08")
LIMIT = 0.25
Float32 = NDArray[np.float32]


def ground(seed: int, count: int = 8000) -> Float32:
    """Reflectance x 10,000 of water, plants and soil: bands of a pixel rise and fall together."""
    random = np.random.default_rng(seed)
    means = np.array([[350, 300, 200, 60], [300, 550, 350, 3000], [900, 1200, 1500, 2200]])
    kinds = means[random.integers(0, 3, count)]
    values = kinds * np.exp(random.normal(0, 0.25, (count, 1)) + random.normal(0, 0.04, kinds.shape))
    return values.T.astype(np.float32)


def backscatter(seed: int, count: int = 8000) -> Float32:
    """VV and VH in dB."""
    random = np.random.default_rng(seed)
    common = random.normal(0, 3, count)
    return (np.array([[-11], [-17]]) + common + random.normal(0, 1.2, (2, count))).astype(np.float32)


def learned(values: Float32, bands: tuple[str, ...] = BANDS, sensor: str = "optical") -> InputDistribution:
    found = InputDistribution.of(values, bands, sensor)
    assert found is not None
    return found


KNOWN = learned(ground(0))


def hazy(values: Float32) -> Float32:
    return values * np.float32(0.9) + np.array([[600], [350], [200], [60]], np.float32)


def test_the_same_kind_of_ground_is_inside() -> None:
    for drift in KNOWN.compare(ground(1), "optical").values():
        assert drift.outside < 0.04
    for drift in learned(backscatter(0), ("VV", "VH"), "sar").compare(backscatter(1), "sar").values():
        assert drift.outside < 0.04


@settings(max_examples=examples(20), deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.floats(0, 1), scale=st.floats(0.5, 3))
def test_a_part_of_what_was_learned_from_is_inside(seed: int, kind: float, scale: float) -> None:
    """Also one of a single kind of ground, in any unit."""
    values = ground(seed % 50) * np.float32(scale)
    part = values[:, values[3] >= np.quantile(values[3], kind * 0.8)]
    for drift in learned(values).compare(part, "optical").values():
        share = 0.01 * values.shape[1] / part.shape[1]  # all that lie outside may be in this part
        assert drift.below <= share + 1e-3
        assert drift.above <= share + 1e-3


def test_brighter_pixels_are_above_and_darker_ones_below() -> None:
    bright, dark = (KNOWN.compare(ground(1) * np.float32(factor), "optical") for factor in (12, 0.02))
    for band in BANDS:
        assert bright[band].above > LIMIT
        assert bright[band].below == dark[band].above == 0
        assert dark[band].below > LIMIT or band == "B08"  # in which water is as dark
        assert dark[band].median < dark[band].seen[1] < bright[band].median
    sar = learned(backscatter(0), ("VV", "VH"), "sar")
    found = sar.compare(backscatter(1) + np.float32(10), "sar")
    assert all(drift.above > LIMIT > drift.below for drift in found.values())


def test_haze_is_found_where_no_band_leaves_its_range() -> None:
    found = KNOWN.compare(hazy(ground(1)), "optical")
    assert all(drift.below + drift.above < LIMIT for drift in found.values())
    assert found["B02"].higher > LIMIT > found["B02"].lower


def test_noise_with_the_bands_own_values_is_found() -> None:
    """Each band is shuffled, so that its values are exactly those that were learned from."""
    random = np.random.default_rng(3)
    found = KNOWN.compare(np.stack([random.permutation(band) for band in ground(0)]), "optical")
    assert all(drift.below + drift.above <= 0.02 for drift in found.values())
    assert max(drift.lower + drift.higher for drift in found.values()) > LIMIT


def test_bands_in_the_wrong_order_are_found() -> None:
    assert max(drift.outside for drift in KNOWN.compare(ground(1)[::-1], "optical").values()) > LIMIT
    sar = learned(backscatter(0), ("VV", "VH"), "sar")
    assert max(drift.outside for drift in sar.compare(backscatter(1)[::-1], "sar").values()) > LIMIT


def test_pixels_without_measurement_do_not_count() -> None:
    values = ground(1)
    holes = np.full((4, 500), np.nan, np.float32)
    holes[:3] = 60_000  # one band is missing
    assert KNOWN.compare(np.concatenate([values, holes], axis=1), "optical") == KNOWN.compare(values, "optical")
    assert learned(np.concatenate([holes, values], axis=1)) == learned(values)


def test_few_pixels_tell_nothing() -> None:
    assert InputDistribution.of(ground(0, 999), BANDS, "optical") is None
    assert InputDistribution.of(ground(0, 1000), BANDS, "optical") is not None
    assert KNOWN.compare(ground(1, 99) * 100, "optical") == {}
    assert KNOWN.compare(ground(1, 100) * 100, "optical").keys() == set(BANDS)


def test_a_single_band_and_bands_that_never_change() -> None:
    single = learned(ground(0)[:1], BANDS[:1])
    assert single.compare(ground(1)[:1], "optical")["B02"].outside < 0.04
    still = learned(np.full((2, 2000), 500, np.float32), BANDS[:2])
    assert [drift.outside for drift in still.compare(np.full((2, 200), 505, np.float32), "optical").values()] == [0, 0]
    assert [drift.above for drift in still.compare(np.full((2, 200), 600, np.float32), "optical").values()] == [1, 1]
    copies = learned(np.repeat(ground(0)[:1], 2, axis=0), BANDS[:2])
    assert max(drift.outside for drift in copies.compare(np.repeat(ground(1)[:1], 2, 0), "optical").values()) < 0.04


def test_json_holds_it() -> None:
    assert InputDistribution.from_dict(json.loads(json.dumps(KNOWN.to_dict()))) == KNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"quantiles": [[1, 2, 3]]}, {"centre": [1, 2, 3]}, {"relations": "none"}, {"unexplained": None},
        {"centre": [1, 2, 3, float("nan")]}, {"bands": list(BANDS[:3])}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_entries_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="the distribution"):
        InputDistribution.from_dict(KNOWN.to_dict() | changes)
    with pytest.raises(WeightsError, match="the distribution: it is None; it must be a table"):
        InputDistribution.from_dict(None)


def test_crops_count_alike_and_a_sensor_that_saw_nothing_is_left_out() -> None:
    bands = {"optical": BANDS, "sar": ("VV", "VH")}
    optical = [ground(seed, 4096).reshape(4, 64, 64) for seed in range(3)]
    nothing = np.full((2, 64, 64), np.nan, np.float32)
    found = describe_distributions([(crop, nothing) for crop in optical], bands)
    assert found.keys() == {"optical"}
    large, small = optical[0] * np.float32(4), optical[1][:, :32, :32]
    # The middle of two equal halves lies between them, however large the crops are.
    both = describe_distributions([(large, nothing), (np.tile(small, (1, 2, 2)), nothing)], bands)
    between = both["optical"]["quantiles"]
    assert all(np.median(small[n]) < between[n][1] < np.median(large[n]) for n in range(4))
