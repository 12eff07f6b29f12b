"""Products, the names of their bands and masks, class schemes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.classes.schemes import CORINE_CODES, SCHEMES, ClassScheme, rename_old
from refnet_cli.errors import WeightsError
from refnet_cli.sensors import PRODUCTS
from refnet_cli.sensors.bands import canonical_band


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_survive_json(name: str) -> None:
    scheme = SCHEMES[name]
    assert scheme.name == name
    assert scheme.classes == len(scheme.codes) + 1
    assert ClassScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


def test_scheme_tables() -> None:
    sizes = {
        "dfc2020": 9, "whu-opt-sar": 8, "c2seg-bw": 14, "worldcover": 12, "esri-io": 10, "terramesh": 10,
        "dynamic-world": 10, "corine": 45, "corine-level1": 6,
    }  # fmt: skip
    assert {name: SCHEMES[name].classes for name in sizes} == sizes
    assert SCHEMES["worldcover"].codes == (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
    assert SCHEMES["dfc2020"].colours[1] == (0, 51, 0)
    assert SCHEMES["c2seg-bw"].colours[5] == (255, 130, 255)
    assert SCHEMES["whu-opt-sar"].colours[0] == (204, 102, 1)
    assert SCHEMES["esri-io"].names[8] == "Rangeland"


ESRI = {
    1: "Water", 2: "Trees", 4: "Flooded vegetation", 5: "Crops", 7: "Built area", 8: "Bare ground", 9: "Snow/ice",
    10: "Clouds", 11: "Rangeland",
}  # fmt: skip
DYNAMIC_WORLD = {  # band "label" of GOOGLE/DYNAMICWORLD/V1
    0: ("Water", "419BDF"), 1: ("Trees", "397D49"), 2: ("Grass", "88B053"), 3: ("Flooded vegetation", "7A87C6"),
    4: ("Crops", "E49635"), 5: ("Shrub & scrub", "DFC35A"), 6: ("Built", "C4281B"), 7: ("Bare", "A59B8F"),
    8: ("Snow & ice", "B39FE1"),
}  # fmt: skip
# CLC_CODE and RGB of EEA's legend, which lists them in the order of the raster's codes.
CORINE = """
111 230-000-077  112 255-000-000  121 204-077-242  122 204-000-000  123 230-204-204  124 230-204-230  131 166-000-204
132 166-077-000  133 255-077-255  141 255-166-255  142 255-230-255  211 255-255-168  212 255-255-000  213 230-230-000
221 230-128-000  222 242-166-077  223 230-166-000  231 230-230-077  241 255-230-166  242 255-230-077  243 230-204-077
244 242-204-166  311 128-255-000  312 000-166-000  313 077-255-000  321 204-242-077  322 166-255-128  323 166-230-077
324 166-242-000  331 230-230-230  332 204-204-204  333 204-255-204  334 000-000-000  335 166-230-204  411 166-166-255
412 077-077-255  421 204-204-255  422 230-230-255  423 166-166-230  511 000-204-242  512 128-242-230  521 000-255-166
522 166-255-230  523 230-242-255
"""
CORINE_NAMES = {
    111: "Continuous urban fabric", 133: "Construction sites", 142: "Sport and leisure facilities",
    211: "Non-irrigated arable land", 244: "Agro-forestry areas",
    243: "Land principally occupied by agriculture, with significant areas of natural vegetation",
    311: "Broad-leaved forest", 324: "Transitional woodland-shrub",
    331: "Beaches, dunes, sands", 335: "Glaciers and perpetual snow", 411: "Inland marshes", 423: "Intertidal flats",
    511: "Water courses", 523: "Sea and ocean",
}  # fmt: skip


def test_esri_io_has_the_official_codes() -> None:
    assert SCHEMES["esri-io"].by_code == ESRI
    assert SCHEMES["terramesh"].by_code == dict(enumerate(ESRI.values(), 1))
    assert SCHEMES["terramesh"].colours == SCHEMES["esri-io"].colours


def test_dynamic_world_has_the_official_classes_one_further() -> None:
    scheme = SCHEMES["dynamic-world"]
    assert scheme.by_code == {code + 1: name for code, (name, _) in DYNAMIC_WORLD.items()}
    assert [bytes(colour).hex() for colour in scheme.colours] == [hue.lower() for _, hue in DYNAMIC_WORLD.values()]


def test_corine_has_the_official_legend() -> None:
    legend = dict(zip(CORINE.split()[::2], CORINE.split()[1::2], strict=True))
    assert tuple(map(int, legend)) == CORINE_CODES
    scheme = SCHEMES["corine"]
    assert scheme.codes == tuple(range(1, 45))
    assert [f"{red:03}-{green:03}-{blue:03}" for red, green, blue in scheme.colours] == list(legend.values())
    assert {code: scheme.names[CORINE_CODES.index(code)] for code in CORINE_NAMES} == CORINE_NAMES
    assert len(set(scheme.names)) == 44


def test_the_old_scheme_of_that_name_is_renamed_and_no_other() -> None:
    old = replace(SCHEMES["terramesh"], name="esri-io")
    assert ClassScheme.from_dict(old.to_dict()) == SCHEMES["terramesh"]
    grey = replace(old, colours=((1, 2, 3),) * 9)
    assert rename_old(grey) == replace(grey, name="terramesh")
    for other in (SCHEMES["esri-io"], replace(old, names=old.names[::-1]), replace(old, name="mine")):
        assert rename_old(other) is other


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
    with pytest.raises(WeightsError, match="lass scheme"):
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
