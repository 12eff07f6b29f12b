"""Maps in another class scheme than the network's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.classes.crosswalk import (
    CROSSWALKS,
    Crosswalk,
    find_crosswalk,
    make_crosswalk,
    read_crosswalk,
    warn_of_old_codes,
)
from refnet_cli.classes.schemes import CORINE_CODES, SCHEMES, ClassScheme
from refnet_cli.errors import InputMissingError, OptionsError

COLOUR = (0, 0, 0)
TWO = ClassScheme("two", (3, 7), ("Wet", "Dry"), (COLOUR, COLOUR))
PAIRS = pytest.mark.parametrize("pair", CROSSWALKS, ids=" to ".join)

# Classes that mean the same in every scheme that has them, whatever they are called.
ALIKE = {
    "water": {"Water", "Surface water", "Permanent water bodies", "Water bodies", "Water courses", "Sea and ocean"},
    "trees": {"Forests", "Forest", "Trees", "Tree cover", "Mixed forest", "Coniferous forest"},
    "crops": {"Croplands", "Cropland", "Crops", "Farmland", "Arable land", "Non-irrigated arable land"},
    "built": {
        "Urban/built-up", "Built-up", "Built area", "Built", "Continuous urban fabric", "City", "Village",
        "Urban fabric", "Street", "Road",
    },
    "bare": {"Barren", "Bare/sparse vegetation", "Bare ground", "Bare", "Open spaces", "Bare rocks"},
    "snow": {"Snow and ice", "Snow/ice", "Snow & ice", "Glaciers and perpetual snow"},
    "grass": {"Grasslands", "Grassland", "Grass", "Rangeland", "Pastures", "Natural grasslands"},
    "shrubs": {"Shrublands", "Shrubland", "Shrub", "Shrub & scrub", "Moors and heathland"},
    "wetland": {"Wetlands", "Herbaceous wetland", "Flooded vegetation", "Inland wetlands", "Inland marshes"},
}  # fmt: skip


def find(source: str, target: str) -> Crosswalk:
    crosswalk = find_crosswalk(SCHEMES[source], target)
    assert crosswalk is not None
    return crosswalk


def in_words(crosswalk: Crosswalk) -> dict[str, str]:
    return dict(line.split(" -> ") for line in crosswalk.lines() if " -> " in line)


@PAIRS
def test_every_class_is_translated_into_one_that_exists(pair: tuple[str, str]) -> None:
    source, target = (SCHEMES[name] for name in pair)
    codes = CROSSWALKS[pair]
    assert source != target
    assert tuple(codes) == source.codes  # in the scheme's order, so that the words come in it
    assert set(codes.values()) <= {0, *target.codes}


@PAIRS
def test_classes_of_one_meaning_keep_it(pair: tuple[str, str]) -> None:
    """A class that the target has under any name becomes that one, and never one of another meaning."""
    target = set(SCHEMES[pair[1]].names)
    for name, translated in in_words(find(*pair)).items():
        for alike in ALIKE.values():
            if name in alike and alike & target:
                assert translated in alike


LOST = {"whu-opt-sar": {"Others"}, "esri-io": {"Clouds"}, "terramesh": {"Clouds"}, "corine": {"Burnt areas"}}


@PAIRS
def test_no_data_stands_for_what_the_target_cannot_show(pair: tuple[str, str]) -> None:
    lost = {name for name, translated in in_words(find(*pair)).items() if translated == "no data"}
    assert lost == {
        ("worldcover", "dfc2020"): {"Snow and ice"},
        ("dynamic-world", "dfc2020"): {"Snow & ice"},
        ("esri-io", "dfc2020"): {"Snow/ice", "Clouds"},
        ("terramesh", "dfc2020"): {"Snow/ice", "Clouds"},
        ("corine", "dfc2020"): {"Burnt areas", "Glaciers and perpetual snow"},
        ("esri-io", "terramesh"): set(),
        ("terramesh", "esri-io"): set(),
        ("corine", "corine-level1"): set(),
    }.get(pair, set(LOST.get(pair[0], ())))


@pytest.mark.parametrize("names", [
    ("dfc2020", "worldcover"), ("esri-io", "worldcover"), ("dfc2020", "esri-io"), ("dfc2020", "dynamic-world"),
    ("dynamic-world", "worldcover"), ("esri-io", "terramesh"), ("esri-io", "dynamic-world"),
])  # fmt: skip
def test_there_and_back(names: tuple[str, str]) -> None:
    """The poorer scheme comes back as it was, but for what was merged and what the other lacks."""
    there, back = find(*names), find(*reversed(names))
    returned = back.table[there.table]
    changed = {code for code in there.source.codes if returned[code] != code}
    expected = {"Shrublands"} if names == ("dfc2020", "esri-io") else {"Clouds"} & set(there.source.names)
    expected -= {"Clouds"} if names[1] == "terramesh" else set()
    assert {name for code, name in zip(there.source.codes, there.source.names, strict=True) if code in changed} == (
        expected
    )


def test_nothing_leads_to_schemes_of_use() -> None:
    of_use = {"whu-opt-sar", "c2seg-bw", "corine"}
    assert of_use <= {source for source, _ in CROSSWALKS}
    assert not of_use & {target for _, target in CROSSWALKS}


COVER = ("dfc2020", "worldcover", "esri-io", "terramesh", "dynamic-world")


def test_maps_of_cover_lead_to_each_other_and_to_level_1() -> None:
    pairs = {(source, target) for source in COVER for target in (*COVER, "corine-level1") if source != target}
    pairs |= {("corine", target) for target in (*COVER, "corine-level1")}
    assert pairs <= set(CROSSWALKS)


def test_level_1_of_corine_is_the_first_digit() -> None:
    codes = CROSSWALKS["corine", "corine-level1"]
    assert [codes[short] for short in SCHEMES["corine"].codes] == [long // 100 for long in CORINE_CODES]


@pytest.mark.parametrize("other", [name for name in SCHEMES if name not in ("esri-io", "terramesh")])
def test_terramesh_is_esri_io_by_name(other: str) -> None:
    for pair, twin in ((("esri-io", other), ("terramesh", other)), ((other, "esri-io"), (other, "terramesh"))):
        assert (pair in CROSSWALKS) == (twin in CROSSWALKS)
        if pair in CROSSWALKS:
            assert in_words(find(*pair)) == in_words(find(*twin))
    assert all(old == new for old, new in in_words(find("terramesh", "esri-io")).items())


def test_old_codes_are_warned_of_and_official_ones_are_not() -> None:
    (warning,) = warn_of_old_codes(SCHEMES["terramesh"])
    assert "--scheme esri-io" in warning
    assert "4 Crops" in warning
    assert not any(warn_of_old_codes(scheme) for name, scheme in SCHEMES.items() if name != "terramesh")


@PAIRS
@given(codes=st.lists(st.integers(0, 255), min_size=1))
def test_the_table_agrees_with_the_codes(pair: tuple[str, str], codes: list[int]) -> None:
    crosswalk = find(*pair)
    assert (crosswalk.table.dtype, crosswalk.table.shape) == (np.uint8, (256,))
    translated = crosswalk.table[np.array(codes, np.uint8)]
    assert translated.tolist() == [CROSSWALKS[pair].get(code, 0) for code in codes]


def test_in_words() -> None:
    lines = find("esri-io", "worldcover").lines()
    assert lines[0] == "Water -> Permanent water bodies"
    assert "Rangeland -> Grassland" in lines
    assert "Clouds -> no data" in lines
    assert lines[-1] == "can never occur: Shrubland, Mangroves, Moss and lichen"
    assert len(lines) == 10
    assert not find("worldcover", "dfc2020").never
    assert len(find("worldcover", "dfc2020").lines()) == 11


@PAIRS
def test_in_json(pair: tuple[str, str]) -> None:
    fields = json.loads(json.dumps(find(*pair).to_dict()))
    assert (fields["source"], fields["target"]) == pair
    assert {int(code): translated for code, translated in fields["codes"].items()} == CROSSWALKS[pair]


@pytest.mark.parametrize("scheme", [*SCHEMES.values(), TWO], ids=lambda scheme: scheme.name)
def test_the_networks_own_scheme_needs_no_crosswalk(scheme: ClassScheme) -> None:
    assert find_crosswalk(scheme, scheme.name) is None


def test_another_scheme_must_be_known() -> None:
    with pytest.raises(OptionsError, match=r"'mars' is unknown; choose one of dfc2020, whu-opt-sar, .*esri-io"):
        find_crosswalk(SCHEMES["esri-io"], "mars")


@pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a in SCHEMES for b in SCHEMES if a != b and (a, b) not in CROSSWALKS]
)
def test_what_would_lose_too_much_is_refused_with_what_there_is(source: str, target: str) -> None:
    with pytest.raises(OptionsError, match=f"{source}.*to .{target}") as error:
        find_crosswalk(SCHEMES[source], target)
    for origin, possible in CROSSWALKS:
        assert origin != source or possible in str(error.value)


def test_a_scheme_of_ones_own_has_no_crosswalk() -> None:
    with pytest.raises(OptionsError, match=r"scheme 'two' to 'worldcover'\. Choose a TOML file with your own"):
        find_crosswalk(TWO, "worldcover")


@pytest.mark.parametrize("target", ["worldcover", "esri-io"])
def test_a_known_name_with_other_classes_is_refused(target: str) -> None:
    esri = SCHEMES["esri-io"]
    some = ClassScheme(esri.name, esri.codes[:5], esri.names[:5], esri.colours[:5])
    swapped = replace(esri, names=(esri.names[1], esri.names[0], *esri.names[2:]))
    for scheme in (some, swapped):
        with pytest.raises(OptionsError, match=r"is named 'esri-io', but .* 1 .* instead of 1 Water"):
            find_crosswalk(scheme, target)


def test_a_known_scheme_in_other_colours_and_order_is_taken() -> None:
    esri = SCHEMES["esri-io"]
    other = ClassScheme(esri.name, esri.codes[::-1], esri.names[::-1], (COLOUR,) * len(esri.codes))
    crosswalk = find_crosswalk(other, "worldcover")
    assert crosswalk is not None
    assert crosswalk.source is other
    np.testing.assert_array_equal(crosswalk.table, find("esri-io", "worldcover").table)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([(3, 1)], r"each class of scheme 'two' once \(3 Wet, 7 Dry\), but has 3"),
        ([(3, 1), (3, 2), (7, 1)], "but has 3, 3, 7"),
        ([(3, 1), (7, 1), (8, 1)], "but has 3, 7, 8"),
        ([], "but has none"),
        ([(3, 1), (7, 12)], "has the targets 12, which are not in scheme 'esri-io'"),
    ],
)
def test_crosswalks_that_fit_no_scheme(codes: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        Crosswalk(TWO, SCHEMES["esri-io"], tuple(codes))


@pytest.mark.parametrize(
    "mapping",
    [
        {"Wet": "Water", "Dry": "Bare ground"},
        {"7": "8", "3": "1"},
        {"wet": "WATER", "7": "bare ground"},
    ],
)
def test_a_mapping_by_codes_or_names(mapping: dict[str, str]) -> None:
    assert make_crosswalk(TWO, SCHEMES["esri-io"], mapping).codes == ((3, 1), (7, 8))


def test_a_mapping_to_no_data_and_into_a_scheme_of_ones_own() -> None:
    mapping = dict.fromkeys(SCHEMES["dfc2020"].names, "Dry") | {"Water": "Wet", "Barren": "0"}
    crosswalk = make_crosswalk(SCHEMES["dfc2020"], TWO, mapping)
    assert in_words(crosswalk)["Water"] == "Wet"
    assert in_words(crosswalk)["Barren"] == "no data"
    assert in_words(crosswalk)["Forests"] == "Dry"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"Wet": "Water", "Moist": "Water", "Dry": "0"}, "has Moist, which are not in class scheme 'two'"),
        ({"0": "1", "Wet": "Water", "Dry": "0"}, "has 0, which are not in class scheme 'two'"),
        ({"Wet": "Sea", "Dry": "0"}, "has Sea, which are not in class scheme 'esri-io' .*1 Water"),
        ({"Wet": "Water"}, "each class of scheme 'two' once"),
        ({"Wet": "Water", "3": "Water", "Dry": "0"}, "but has 3, 3, 7"),
    ],
)
def test_mappings_that_fit_no_scheme(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make_crosswalk(TWO, SCHEMES["esri-io"], mapping)


TABLE = """
{scheme}
[mapping]
{mapping}
"""
OWN = """
name = "two"
[classes]
1 = { name = "Wet", colour = "#0000ff" }
7 = "Dry"
"""
ALL = """
Water = {wet}
Trees = {dry}
4 = {dry}
Crops = {dry}
7 = {dry}
8 = {dry}
9 = {wet}
10 = 0
Rangeland = {dry}
"""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(TABLE.format(scheme=OWN, mapping=ALL.format(wet='"Wet"', dry=7)))
    found = read_crosswalk(SCHEMES["esri-io"], str(path))
    assert found is not None
    assert found.target.names == ("Wet", "Dry")
    assert dict(found.codes) == {1: 1, 2: 7, 4: 7, 5: 7, 7: 7, 8: 7, 9: 1, 10: 0, 11: 7}
    path.write_text(TABLE.format(scheme='scheme = "worldcover"', mapping=ALL.format(wet=80, dry='"Tree cover"')))
    found = read_crosswalk(SCHEMES["esri-io"], str(path))
    assert found is not None
    assert (found.target, found.table[2]) == (SCHEMES["worldcover"], 10)
    assert read_crosswalk(SCHEMES["esri-io"], str(path.rename(tmp_path / "OWN.TOML"))) == found
    named, none = read_crosswalk(SCHEMES["esri-io"], "worldcover"), read_crosswalk(SCHEMES["esri-io"], "esri-io")
    assert named is not None
    assert none is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('scheme = "worldcover"', "mapping"),
        ('scheme = "worldcovers"\n[mapping]\nWater = 80', "'worldcovers'; it must be dfc2020, "),
        (TABLE.format(scheme=OWN, mapping="Water = 1"), "Trees"),
        ('sceme = "worldcover"\n[mapping]\nWater = 80', r"classes is missing(.|\n)*entries sceme; known are classes"),
    ],
)
def test_files_that_are_no_crosswalk(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(OptionsError, match=message):
        read_crosswalk(SCHEMES["esri-io"], str(path))
    with pytest.raises(InputMissingError):
        read_crosswalk(SCHEMES["esri-io"], str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("crops", "built", "scheme", "refused"),
    [
        ("4", "5", "esri-io", True),  # of 0.1
        ("3", "6", "esri-io", True),
        ("5", "1", "esri-io", True),  # nothing says of which version the codes are
        ('"Crops"', '"Built area"', "esri-io", False),
        ("5", "11", "esri-io", False),
        ("2", "1", "esri-io", False),  # the same classes in both versions
        ("4", "5", "terramesh", False),
    ],
)
def test_codes_that_meant_other_classes_in_0_1_are_refused(
    tmp_path: Path, crops: str, built: str, scheme: str, refused: bool
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        f'scheme = "{scheme}"\n[mapping]\n'
        + "".join(f"{code} = {crops}\n" for code in SCHEMES["terramesh"].codes[:5])
        + "".join(f"{code} = {built}\n" for code in SCHEMES["terramesh"].codes[5:])
    )
    if refused:
        with pytest.raises(OptionsError, match=r"names.*or scheme = \"terramesh\""):
            read_crosswalk(SCHEMES["terramesh"], str(path))
    else:
        assert read_crosswalk(SCHEMES["terramesh"], str(path)) is not None
