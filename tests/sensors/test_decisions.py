"""Detection of bands, units and offsets."""

from __future__ import annotations

import numpy as np
import pytest

from refnet_cli.errors import InputError
from refnet_cli.sensors import PRODUCTS
from refnet_cli.sensors.offset import detect_optical_offset
from refnet_cli.sensors.sentinel1 import check_sar_band_order, detect_sar_scale
from refnet_cli.sensors.sentinel2 import detect_optical_level, detect_optical_scale


def backscatter(like: float, cross: float, looks: float = 4.4, texture: float = 2.0) -> np.ndarray:
    """Simulate power of two bands: speckle times a varying ground."""
    random = np.random.default_rng(0)
    ground = 10 ** ((np.array([[like], [cross]]) + texture * random.standard_normal(20_000)) / 10)
    return ground * random.gamma(looks, 1 / looks, (2, 20_000))


@pytest.mark.parametrize("level", [(-10, -16), (-12, -18), (-14, -20), (-8, -15)])
def test_sar_scales(level: tuple[float, float]) -> None:
    power = backscatter(*level)
    assert detect_sar_scale(power, "float32")[0] == "power"
    assert detect_sar_scale(np.sqrt(power), "float32")[0] == "amplitude"
    assert detect_sar_scale(10 * np.log10(power), "float32")[0] == "db"
    assert detect_sar_scale(np.round(1000 * np.log10(power)), "int16")[0] == "db100"


def test_fill_values_do_not_decide() -> None:
    level = 10 * np.log10(backscatter(-12, -18))
    level[:, :9000] = -9999
    level[:, 9000:12_000] = np.nan
    level[:, 12_000:13_000] = 3e38
    assert detect_sar_scale(level, "float32")[0] == "db"


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.sqrt(backscatter(-20, -27, texture=0.5)), "float32"),  # amplitude of calm water, or power of filtered land
        (np.sqrt(backscatter(-12, -18)) * 800, "uint16"),
        (10 * np.log10(backscatter(-12, -18)) * 100 + 0.5, "float32"),
        (10 * np.log10(backscatter(-12, -18)) + 18, "float32"),
        (np.full((2, 9), np.nan), "float32"),
    ],
)
def test_doubtful_sar_is_refused(values: np.ndarray, dtype: str) -> None:
    with pytest.raises(InputError, match="--sar-scale"):
        detect_sar_scale(values, dtype)


def test_sar_order() -> None:
    level = 10 * np.log10(backscatter(-12, -18))
    assert "confirm the order" in check_sar_band_order(level, ["VV", "VH"])
    assert "confirm the order" in check_sar_band_order(level[::-1], ["VH", "VV"])
    assert "inconclusive" in check_sar_band_order(level[[0, 0]], ["HH", "HV"])
    assert "too few" in check_sar_band_order(level[:, :10], ["VV", "VH"])
    assert check_sar_band_order(level[:1], ["VV"]) == ""
    with pytest.raises(InputError, match="--sar-bands 2,1"):
        check_sar_band_order(level[::-1], ["VV", "VH"])


def test_optical_scale() -> None:
    values = np.random.default_rng(0).uniform(100, 4000, (3, 500))
    assert detect_optical_scale(values, "uint16")[0] == 1
    assert detect_optical_scale(values, "float32")[0] == 1
    assert detect_optical_scale(values / 10_000, "float32")[0] == 10_000
    for bad, dtype in ((values, "uint8"), (values / 100, "float32")):
        with pytest.raises(InputError):
            detect_optical_scale(bad, dtype)


NAMES = ["B02", "B03", "B04", "B08"]


def ground(lows: list[float]) -> np.ndarray:
    return np.array(lows)[:, None] + np.random.default_rng(0).uniform(0, 2500, (len(lows), 20_000))


@pytest.mark.parametrize(
    ("lows", "offset", "guess"),
    [
        ([60, 100, 80, 300], 0, False),
        ([1060, 1100, 1080, 1300], 1000, False),
        ([460, 750, 560, 1810], 0, False),
        ([560, 750, 560, 1810], 0, True),
        ([1100, 1600, 2200, 2700], 0, True),  # a desert: only blue is near 1000
        ([1073, 1003, 943, 933], 1000, True),  # a sea, with reflectance slightly below 0
        ([1073, 1003, 943, 763], 0, True),
        ([933, 1073, 1303, 1603], 0, True),  # a desert
        ([1115, 1315, 1715, 2215], 1000, True),  # gravel without the offset, or dark soil with it
        ([1270, 1430, 1320, 3180], 1000, False),  # vegetation
        ([1320, 1430, 1270, 3180], 1000, True),  # or haze
        ([1010, 1190, 1360, 1660], 1000, True),
        ([3700, 2800, 2600, 2500], 0, True),
    ],
)
def test_optical_offset_by_values(lows: list[float], offset: float, guess: bool) -> None:
    value, how = detect_optical_offset(ground(lows), NAMES, {})
    assert value == offset
    assert how.startswith("values:")
    assert ("guess" in how) == guess


@pytest.mark.parametrize(
    ("tags", "offset"),
    [
        ({"PROCESSING_BASELINE": "04.00"}, 1000),
        ({"s2:processing_baseline": "05.09"}, 1000),
        ({"PROCESSING_BASELINE": "N0301"}, 0),
        ({"BOA_ADD_OFFSET": "-1000"}, 1000),
        ({"PROCESSING_BASELINE": "05.09", "earthsearch:boa_offset_applied": "True"}, 0),
    ],
)
def test_optical_offset_by_tags(tags: dict[str, str], offset: float) -> None:
    value, how = detect_optical_offset(ground([1500, 1600, 1700, 2000]), NAMES, tags)
    assert value == offset
    assert how.startswith("tag:")
    if offset:
        with pytest.raises(InputError, match="--optical-offset"):
            detect_optical_offset(ground([60, 100, 80, 300]), NAMES, tags)


def test_optical_level() -> None:
    assert detect_optical_level([None] * 4, {"PRODUCT_TYPE": "S2MSI2A"})[0] == "L2A"
    assert detect_optical_level([None] * 4, {"PROCESSING_LEVEL": "Level-1C"})[0] == "L1C"
    assert detect_optical_level(PRODUCTS["sentinel-2-l1c"].bands, {})[0] == "L1C"
    assert detect_optical_level(PRODUCTS["sentinel-2-l2a"].bands, {})[0] == "L2A"
    assert detect_optical_level(NAMES, {})[0] == "unknown"
