"""Products, the names of their bands and masks, class schemes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.errors import WeightsError
from refnet_cli.products import (
    PRODUCTS,
    SCHEMES,
    ClassScheme,
    canonical_band,
)


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_survive_json(name: str) -> None:
    scheme = SCHEMES[name]
    assert scheme.name == name
    assert scheme.classes == len(scheme.codes) + 1
    assert ClassScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


def test_scheme_tables() -> None:
    assert {name: scheme.classes for name, scheme in SCHEMES.items()} == {
        "dfc2020": 9, "whu-opt-sar": 8, "c2seg-bw": 14, "worldcover": 12, "esri-io": 10,
    }  # fmt: skip
    assert SCHEMES["worldcover"].codes == (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
    assert SCHEMES["dfc2020"].colours[1] == (0, 51, 0)
    assert SCHEMES["c2seg-bw"].colours[5] == (255, 130, 255)
    assert SCHEMES["whu-opt-sar"].colours[0] == (204, 102, 1)
    assert SCHEMES["esri-io"].names[8] == "Rangeland"


@pytest.mark.parametrize(
    "change",
    [
        {"codes": [1, 1]}, {"codes": [0, 1]}, {"codes": [1, 256]}, {"names": ["a"]}, {"codes": []},
        {"colours": [[0, 0, 0], [0, 0, 300]]}, {"colours": [[0, 0, 0], [0, 0]]}, {"codes": ["x", 2]}, {"extra": 1},
    ],
)  # fmt: skip
def test_bad_schemes_are_refused(change: dict[str, object]) -> None:
    good = {"name": "two", "codes": [1, 2], "names": ["a", "b"], "colours": [[0, 0, 0], [1, 1, 1]]}
    assert ClassScheme.from_dict(good).classes == 3
    with pytest.raises(WeightsError, match=r"two|exactly the fields"):
        ClassScheme.from_dict(good | change)


@pytest.mark.parametrize("band", PRODUCTS["sentinel-2-l1c"].bands)
def test_optical_descriptions(band: str) -> None:
    short = band.replace("B0", "B")
    for text in (band, short, band.lower(), f"{short} (something)", f"Sentinel-2 {band}", f"S2_{short}", f"{band}_10m"):
        assert canonical_band(text) == band, text


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("red", "B04"), ("Blue", "B02"), ("NIR", "B08"), ("Red Edge 2", "B06"), ("rededge1", "B05"), ("nir08", "B8A"),
        ("swir16", "B11"), ("swir22", "B12"), ("coastal", "B01"), ("VV_dB", "VV"), ("sigma0_VV", "VV"), ("VVdb", "VV"),
        ("Gamma0_VH_db", "VH"), ("hv", "HV"), ("VV/VH", None), ("VV_VH_ratio", None), ("Band 1", None), (None, None),
        ("QA60", None), ("B13", None), ("B4_mask", None), ("SCL", None), ("bands", None), ("", None), ("B1B2", None),
    ],
)  # fmt: skip
def test_other_descriptions(text: str | None, band: str | None) -> None:
    assert canonical_band(text) == band


@given(st.text())
def test_any_text_is_a_band_or_not(text: str) -> None:
    assert canonical_band(text) in {None, *PRODUCTS["sentinel-2-l1c"].bands, "VV", "VH", "HH", "HV"}
