"""What codes of labels, maps and cards mean: official tables, tables that are easily confused, and files of 0.1."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from odc.geo.geobox import GeoBox
from safetensors.torch import save

from refnet_cli.classes.codes import explain_unknown
from refnet_cli.classes.scheme_files import read_label_codes, with_ignored
from refnet_cli.classes.schemes import CORINE_CODES, SCHEMES, ClassScheme
from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import METADATA, read_card, verify
from refnet_cli.model.weights import load_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.system.onnx_metadata import digest
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.initialise import initialise
from refnet_cli.training.survey import survey
from refnet_cli.training.validation import evaluate_weights
from tests.helpers.pages import blocks_of, page
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, make_labelled_scene, make_pair, write
from tests.helpers.small_models import entries, make_model

ROOT = Path(__file__).resolve().parents[2]
ESRI, TERRAMESH = SCHEMES["esri-io"], SCHEMES["terramesh"]
GRID = GeoBox((1, 50), PLACE, "EPSG:32633")
SMALL = 'encoder = "test_resnet"\nwidth = 16\nbatch = 1\ncrop = 64\n'
Names = list[str | None]


def raster(path: Path, codes: Sequence[int], dtype: str = "int16", nodata: float | None = None, **tags: str) -> Path:
    """A row of label pixels, the rest of the grid 0."""
    row = np.zeros((1, 1, 50), dtype)
    row[0, 0, : len(codes)] = codes
    write(path, row, ("labels",), nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, **tags)
    return path


def vector(path: Path, values: Sequence[Any]) -> Path:
    """A point in each of the first pixels of the row."""
    points = shapely.points(500_005 + 10 * np.arange(len(values)), 5_299_995)
    field = np.array(values, object if isinstance(values[0], str) else None)
    pyogrio.raw.write(
        path, shapely.to_wkb(points), [field], ["class"], crs="EPSG:32633", geometry_type="Point"
    )  # fmt: skip
    return path


def label_file(folder: Path, kind: str, codes: Sequence[int]) -> Path:
    """Codes in a raster, or in a vector file as numbers or text."""
    if kind == "raster":
        return raster(folder / "labels.tif", codes)
    return vector(folder / "labels.gpkg", list(codes) if kind == "numbers" else [str(code) for code in codes])


KINDS = pytest.mark.parametrize("kind", ["raster", "numbers", "texts"])


def names_of(labels: Labels, scheme: ClassScheme, count: int) -> Names:
    """Names of the classes of the first pixels; None where there is no label."""
    row = labels.read(Window(0, 0, 1, 50))[0]
    assert not row[count:].any()
    return [None if not index else scheme.names[index - 1] for index in row[:count].tolist()]


def tags_of(scheme: ClassScheme) -> dict[str, str]:
    return {f"CLASS_{code}": name for code, name in scheme.by_code.items()}


# Tables that are easily confused.


@KINDS
def test_official_codes_are_read_as_such(tmp_path: Path, kind: str) -> None:
    with open_labels(label_file(tmp_path, kind, ESRI.codes), GRID, ESRI) as labels:
        assert names_of(labels, ESRI, 9) == list(ESRI.names)
        assert labels.warnings == []


@KINDS
@pytest.mark.parametrize("codes", [(3,), (6,), (1, 2, 3, 4, 5, 6, 9), (3, 10)])
def test_codes_of_terramesh_alone_are_refused_by_its_name(tmp_path: Path, kind: str, codes: tuple[int, ...]) -> None:
    path = label_file(tmp_path, kind, codes)
    with pytest.raises(InputError, match=r'scheme = "terramesh"'):
        open_labels(path, GRID, ESRI)
    if 10 in codes:
        return
    with open_labels(path, GRID, TERRAMESH) as labels:  # as the message advises
        assert names_of(labels, TERRAMESH, len(codes)) == [TERRAMESH.by_code[code] for code in codes]
    mapping = {str(code): TERRAMESH.by_code[code] for code in codes}
    with open_labels(path, GRID, ESRI, meanings=mapping) as labels:
        assert names_of(labels, ESRI, len(codes)) == [TERRAMESH.by_code[code] for code in codes]
        assert labels.warnings == []


@KINDS
def test_codes_of_both_tables_that_a_mapping_leaves_out_say_nothing_of_the_other(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="are not in class scheme") as caught:
        open_labels(label_file(tmp_path, kind, (1, 7)), GRID, ESRI, meanings={"1": "1"})
    assert "terramesh" not in str(caught.value)


@KINDS
def test_codes_of_official_files_alone_are_refused_by_their_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r'scheme = "esri-io"'):
        open_labels(label_file(tmp_path, kind, (1, 11)), GRID, TERRAMESH)


@KINDS
@pytest.mark.parametrize(
    ("scheme", "other", "codes", "doubtful"),
    [
        ("esri-io", "terramesh", (1, 2, 4, 5), True),
        ("esri-io", "terramesh", (5,), True),
        ("esri-io", "terramesh", (1, 2), False),  # which mean the same in both
        ("esri-io", "terramesh", (1, 2, 5, 11), False),
        ("terramesh", "esri-io", (1, 2, 4, 5), True),
        ("terramesh", "esri-io", (1, 2, 3, 4), False),
        ("dynamic-world", "original", (1, 2, 8), True),
        ("dynamic-world", "original", (1, 2, 9), False),
        ("corine", "corine-level1", (1, 2, 5), True),
        ("corine", "corine-level1", (1, 12), False),
        ("corine", "level 2", (11, 12, 21, 23, 31, 32, 41), True),
        ("corine", "level 2", (11, 12, 25), False),
        ("corine-level1", "corine", (1, 2, 5), True),
        ("worldcover", "", (10, 20), False),
    ],
)
def test_codes_that_fit_two_tables_are_warned_of(
    tmp_path: Path, kind: str, scheme: str, other: str, codes: tuple[int, ...], doubtful: bool
) -> None:
    with open_labels(label_file(tmp_path, kind, codes), GRID, SCHEMES[scheme]) as labels:
        assert [other in warning for warning in labels.warnings] == [True] * doubtful
        expected = [SCHEMES[scheme].by_code[code] for code in codes]
        assert names_of(labels, SCHEMES[scheme], len(codes)) == expected


def test_names_are_never_doubtful(tmp_path: Path) -> None:
    path = vector(tmp_path / "a.gpkg", ["Water", "crops", "Built area"])
    for scheme in (ESRI, TERRAMESH):
        with open_labels(path, GRID, scheme) as labels:
            assert names_of(labels, scheme, 3) == ["Water", "Crops", "Built area"]
            assert labels.warnings == []


def test_a_scheme_of_ones_own_has_no_other_table(tmp_path: Path) -> None:
    own = ClassScheme("esri-io", (4, 5), ("Vineyard", "Orchard"), ((0, 0, 0),) * 2)
    with open_labels(raster(tmp_path / "a.tif", (4, 5)), GRID, own) as labels:
        assert labels.warnings == []


def test_mappings_to_codes_are_held_to_the_same(tmp_path: Path) -> None:
    """A regions file of 0.1 leads to its codes, too."""
    path = raster(tmp_path / "a.tif", (10, 40))
    with pytest.raises(OptionsError, match=r"has the targets 6, .*terramesh"):
        open_labels(path, GRID, ESRI, meanings={"10": "2", "40": "6"})
    for mapping, doubts in (({"10": "2", "40": "4"}, 1), ({"10": "Trees", "40": "Crops"}, 0), ({"10": "2"}, 0)):
        with open_labels(path, GRID, ESRI, meanings={"40": "0"} | mapping) as labels:
            assert len(labels.warnings) == doubts


@pytest.mark.long
def test_a_training_warns_once_of_all_its_label_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = tuple(make_labelled_scene(tmp_path / name, seed=seed) for seed, name in enumerate(("north", "south")))
    for scene in scenes:
        with rasterio.open(scene.labels, "r+") as file:
            labels = file.read()
            file.write(np.where(labels == 11, 5, labels))
    looked = survey(TrainConfig(scenes=scenes, scheme="esri-io", split="none", crop=64))
    assert [len(look.warnings) for look in looked] == [1, 0]
    (tmp_path / "regions.toml").write_text(
        f'scheme = "esri-io"\nsplit = "none"\n{SMALL}'
        + "".join(f'[[scenes]]\noptical = "{s.optical}"\nsar = "{s.sar}"\nlabels = "{s.labels}"\n' for s in scenes)
    )
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run"]) == 0
    assert re.findall(r"! ([\w-]+): the codes of the labels are read as", capsys.readouterr().err) == ["scene-0"]


def test_an_unstated_scheme_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_labelled_scene(tmp_path / "north")
    table = f'split = "none"\n{SMALL}[[scenes]]\noptical = "{scene.optical}"\n'
    table += f'sar = "{scene.sar}"\nlabels = "{scene.labels}"\n'
    (tmp_path / "regions.toml").write_text(table)
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run"]) == 78
    advice = capsys.readouterr().err
    (line,) = re.findall(r'scheme = "esri-io"', advice)
    (tmp_path / "regions.toml").write_text(line + "\n" + table)
    assert run(["train", str(tmp_path / "regions.toml"), "--dry-run"]) == 0


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float64, str])
def test_long_codes_stay_apart(tmp_path: Path, kind: Any) -> None:
    path = vector(tmp_path / "a.gpkg", [kind(code) for code in (12345671, 12345672, 12345673)])
    mapping = {"12345671": "Water", "12345672": "Trees", "12345673": "Crops"}
    with open_labels(path, GRID, ESRI, meanings=mapping) as labels:
        assert names_of(labels, ESRI, 3) == list(mapping.values())
    with pytest.raises(InputError, match="the classes 12345671, 12345672, 12345673,"):
        open_labels(path, GRID, ESRI)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("int32", -(2**31)), ("uint32", 2**32 - 1), ("float32", -3.4028235e38), ("float64", -1.7976931348623157e308),
     ("float32", 0.1), ("float64", -9999.25), ("float32", -np.inf)],
)  # fmt: skip
def test_undeclared_fills_of_any_size_are_ignored_as_the_message_advises(
    tmp_path: Path, dtype: str, fill: float
) -> None:
    row = np.zeros((1, 1, 50), dtype)
    row[0, 0, :3] = 1, fill, 11
    path = write(tmp_path / "a.tif", row, ("labels",), nodata=None)
    with pytest.raises(InputError, match="are not in class scheme") as refused:
        open_labels(path, GRID, ESRI)
    advice = re.search(r"ignore = \[.*?\]", str(refused.value))
    assert advice
    (tmp_path / "codes.toml").write_text(advice[0])
    codes, ignored = read_label_codes(tmp_path / "codes.toml")
    with open_labels(path, GRID, ESRI, meanings=with_ignored(ESRI, codes, ignored)) as labels:
        assert names_of(labels, ESRI, 3) == ["Water", None, "Rangeland"]


def test_a_number_in_ignore_is_rounded_as_the_raster_s(tmp_path: Path) -> None:
    """As a user writes it, of fewer digits than the raster's number has."""
    row = np.zeros((1, 1, 50), np.float32)
    row[0, 0, :2] = -3.4028235e38, 2
    path = write(tmp_path / "a.tif", row, ("labels",), nodata=None)
    (tmp_path / "codes.toml").write_text("ignore = [-3.40282347e+38]")
    _, ignored = read_label_codes(tmp_path / "codes.toml")
    with open_labels(path, GRID, ESRI, meanings=with_ignored(ESRI, None, ignored)) as labels:
        assert names_of(labels, ESRI, 2) == [None, "Trees"]


# Rasters whose tags name their classes.


@pytest.mark.parametrize("scheme", [ESRI, TERRAMESH, SCHEMES["corine"]], ids=lambda scheme: scheme.name)
def test_tags_say_what_codes_mean(tmp_path: Path, scheme: ClassScheme) -> None:
    """Whatever the codes are, also those of another table."""
    random = np.random.default_rng(0)
    codes = random.permutation(np.arange(1, 200))[: len(scheme.names)].tolist()
    tags = {f"CLASS_{code}": name.upper() for code, name in zip(codes, scheme.names, strict=True)}
    with open_labels(raster(tmp_path / "a.tif", codes, **tags), GRID, scheme) as labels:
        assert names_of(labels, scheme, len(codes)) == list(scheme.names)
        assert labels.warnings == []


def test_labels_that_0_1_simulated_are_read_by_their_names(tmp_path: Path) -> None:
    old = {1: "water", 2: "trees", 3: "flooded vegetation", 4: "crops", 5: "built", 6: "bare", 7: "snow/ice",
           9: "rangeland"}  # fmt: skip
    path = raster(tmp_path / "a.tif", list(old), **{f"CLASS_{code}": name for code, name in old.items()})
    for scheme in (ESRI, TERRAMESH):
        with open_labels(path, GRID, scheme) as labels:
            assert names_of(labels, scheme, len(old)) == [TERRAMESH.by_code[code] for code in old]
            assert labels.warnings == []


def test_tags_that_name_other_classes_are_refused_and_can_be_mapped(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", (1, 2), CLASS_1="Acker", CLASS_2="Wald")
    with pytest.raises(InputError, match=r"1 'Acker', 2 'Wald', but the scheme's classes are 1 Water"):
        open_labels(path, GRID, ESRI)
    for mapping in ({"Acker": "Crops", "Wald": "Trees"}, {"1": "Crops", "2": "Trees"}):
        with open_labels(path, GRID, ESRI, meanings=mapping) as labels:
            assert names_of(labels, ESRI, 2) == ["Crops", "Trees"]


def test_codes_that_the_tags_leave_out_are_refused(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", (1, 2), CLASS_1="Trees")
    with pytest.raises(InputError, match=r"has the codes 2.*2 'nothing'"):
        open_labels(path, GRID, ESRI)


def test_a_mapping_overrides_tags(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", (1, 2, 5), **tags_of(ESRI))
    own = {str(code): str(code) for code in ESRI.codes} | {name: name for name in ESRI.names}
    with open_labels(path, GRID, ESRI, meanings=own | {"5": "0", "2": "Rangeland"}) as labels:
        assert names_of(labels, ESRI, 3) == ["Water", "Rangeland", None]


def test_a_mapping_of_codes_to_themselves_overrides_tags(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", (1, 2, 5), CLASS_1="Water", CLASS_2="Trees", CLASS_5="Urban")
    mapping = {"1": "1", "2": "2", "7": "7"}
    for code, name in (("5", "Crops"), ("7", "Built area")):
        with open_labels(path, GRID, ESRI, meanings=mapping | {"5": code}) as labels:
            assert names_of(labels, ESRI, 3) == ["Water", "Trees", name]
    with pytest.raises(InputError, match=r"lacks 1 'Water', 2 'Trees' \(names from the file's tags"):
        open_labels(path, GRID, ESRI, meanings={"5": "Built area"})
    with pytest.raises(InputError, match=r"5 'Urban', but the scheme's classes"):
        open_labels(path, GRID, ESRI, meanings=with_ignored(ESRI, None, {"255": "0"}))


# CORINE and Dynamic World as they are published.


@pytest.mark.parametrize("kind", ["uint16", "int16", "numbers", "texts"])
@pytest.mark.parametrize("scheme", ["corine", "corine-level1"])
def test_corine_s_codes_of_three_digits(tmp_path: Path, kind: str, scheme: str) -> None:
    if kind.endswith("16"):
        path = raster(tmp_path / "a.tif", CORINE_CODES, kind)
    else:
        path = label_file(tmp_path, kind, CORINE_CODES)
    names = SCHEMES[scheme].names
    with open_labels(path, GRID, SCHEMES[scheme]) as labels:
        expected = names if scheme == "corine" else [names[code // 100 - 1] for code in CORINE_CODES]
        assert names_of(labels, SCHEMES[scheme], 44) == list(expected)
        assert labels.warnings == []


@pytest.mark.parametrize("scheme", ["corine", "corine-level1"])
def test_corine_s_codes_of_three_digits_next_to_codes_that_are_no_label(tmp_path: Path, scheme: str) -> None:
    path = raster(tmp_path / "a.tif", (112, 999, 523))
    names = SCHEMES[scheme].names
    expected = [names[1], None, names[43]] if scheme == "corine" else [names[0], None, names[4]]
    with open_labels(path, GRID, SCHEMES[scheme], meanings=with_ignored(SCHEMES[scheme], None, {"999": "0"})) as labels:
        assert names_of(labels, SCHEMES[scheme], 3) == expected


@KINDS
@pytest.mark.parametrize("scheme", ["corine", "corine-level1"])
def test_corine_s_codes_of_two_kinds_in_one_file_are_refused(tmp_path: Path, kind: str, scheme: str) -> None:
    path = label_file(tmp_path, kind, (111, 2, 211))
    with pytest.raises(InputError, match=r"two kinds of codes: 2 .*111 .*211 "):
        open_labels(path, GRID, SCHEMES[scheme])
    mapping = {str(code): SCHEMES[scheme].names[0] for code in (111, 2, 211)}
    with open_labels(path, GRID, SCHEMES[scheme], meanings=mapping) as labels:
        assert names_of(labels, SCHEMES[scheme], 3) == [SCHEMES[scheme].names[0]] * 3


@KINDS
def test_corine_s_codes_of_level_2_alone_are_explained(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"51 Inland waters are among those of CORINE's level 2"):
        open_labels(label_file(tmp_path, kind, (11, 21, 51)), GRID, SCHEMES["corine"])


def test_corine_s_raster_codes(tmp_path: Path) -> None:
    scheme = SCHEMES["corine"]
    with open_labels(raster(tmp_path / "a.tif", scheme.codes), GRID, scheme) as labels:
        assert names_of(labels, scheme, 44) == list(scheme.names)
    with pytest.raises(InputError, match=r"has the codes 6, 44.*'corine'"):
        open_labels(raster(tmp_path / "a.tif", (1, 6, 44)), GRID, SCHEMES["corine-level1"])


@pytest.mark.parametrize("nodata", [48, 128, 255, 999, -32768])
def test_corine_s_no_data_is_no_label_where_it_is_declared(tmp_path: Path, nodata: int) -> None:
    scheme = SCHEMES["corine"]
    codes = [112, nodata, 311]
    with open_labels(raster(tmp_path / "a.tif", codes, nodata=nodata), GRID, scheme) as labels:
        assert names_of(labels, scheme, 3) == ["Discontinuous urban fabric", None, "Broad-leaved forest"]
    with pytest.raises(InputError, match=f"has the codes {nodata},"):
        open_labels(raster(tmp_path / "a.tif", codes), GRID, scheme)


ORIGINAL = ["Water", "Trees", "Grass", "Flooded vegetation", "Crops", "Shrub & scrub", "Built", "Bare", "Snow & ice"]


@pytest.mark.parametrize("kind", ["raster", "nodata", "numbers", "texts"])
def test_original_dynamic_world_as_the_docs_say(tmp_path: Path, kind: str) -> None:
    """0 is water there, even where a program has declared it as no data."""
    (block,) = blocks_of(page("reference/class-codes"), "toml")
    settings = tomllib.loads(block)
    scheme = SCHEMES[settings["scheme"]]
    codes = [*range(9), *range(9)]
    if kind in ("raster", "nodata"):
        path = raster(tmp_path / "a.tif", codes + [7] * 32, nodata=0 if kind == "nodata" else None)
    else:
        path = label_file(tmp_path, kind, codes)
    with open_labels(path, GRID, scheme, meanings=settings["label_codes"]) as labels:
        row = labels.read(Window(0, 0, 1, 50))[0]
        assert [scheme.names[index - 1] for index in row[:18].tolist()] == ORIGINAL * 2
        assert ["declares 0 as nodata" in warning for warning in labels.warnings] == [True] * (kind == "nodata")


# Maps.


def codes_map(path: Path, scheme: ClassScheme, name: str | None = None) -> Path:
    """A map with all codes of a scheme, as refnet writes it; under the name of a scheme, or without tags."""
    codes = np.resize(np.array(scheme.codes, np.uint8), (1, 40, 30))
    write(path, codes, ("land cover class",))
    if name is not None:
        with rasterio.open(path, "r+") as file:
            file.update_tags(1, CLASS_SCHEME=name, **tags_of(scheme))
            file.write_colormap(1, {0: (0, 0, 0)} | dict(zip(scheme.codes, scheme.colours, strict=True)))
    return path


def renumbered(path: Path, source: Path, scheme: ClassScheme, other: ClassScheme, **tags: str) -> Path:
    """Labels that agree with a map, in the codes of another scheme of the same classes."""
    with rasterio.open(source) as file:
        codes = file.read()
    table = np.zeros(256, np.uint8)
    table[list(scheme.codes)] = other.codes
    write(path, table[codes], ("labels",))
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, **tags)
    return path


def test_maps_of_0_1_are_read_by_their_class_names(tmp_path: Path) -> None:
    old = codes_map(tmp_path / "old.tif", TERRAMESH, "esri-io")
    same = renumbered(tmp_path / "same.tif", old, TERRAMESH, TERRAMESH)
    official = renumbered(tmp_path / "official.tif", old, TERRAMESH, ESRI, **tags_of(ESRI))
    for labels in (same, official):
        scores = evaluate(old, labels)
        assert scores.overall_accuracy == 1
        assert list(scores.iou) == list(TERRAMESH.names)
    assert evaluate(old, same, "terramesh").overall_accuracy == 1
    bare = renumbered(tmp_path / "bare.tif", old, TERRAMESH, ESRI)
    with pytest.raises(InputError, match=r"has the codes 10, 11, .*esri-io"):
        evaluate(old, bare)


@pytest.mark.parametrize(
    ("map_scheme", "name", "asked", "fits"),
    [
        (TERRAMESH, "esri-io", "esri-io", False),  # a map of 0.1
        (TERRAMESH, "esri-io", "terramesh", True),
        (TERRAMESH, "terramesh", "esri-io", False),
        (ESRI, "esri-io", "terramesh", False),
        (ESRI, "esri-io", "esri-io", True),
        (ESRI, "esri-io", "worldcover", False),
        (SCHEMES["worldcover"], "worldcover", "dfc2020", False),
        (ESRI, None, "esri-io", True),
    ],
)
def test_a_scheme_must_not_contradict_the_tags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    map_scheme: ClassScheme, name: str | None, asked: str, fits: bool,
) -> None:  # fmt: skip
    path = codes_map(tmp_path / "map.tif", map_scheme, name)
    labels = renumbered(tmp_path / "labels.tif", path, map_scheme, map_scheme)
    assert run(["evaluate", str(path), str(labels), "--scheme", asked]) == (0 if fits else 64)
    if not fits:
        assert "Remove --scheme" in capsys.readouterr().err
        assert run(["evaluate", str(path), str(labels)]) == 0
    assert "overall_accuracy   1.0000" in capsys.readouterr().out


def test_evaluating_warns_once_of_doubtful_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = codes_map(tmp_path / "map.tif", ESRI, "esri-io")
    with rasterio.open(path) as file:
        codes = file.read()
    labels = write(tmp_path / "labels.tif", np.where(codes == 5, 5, 0).astype(np.uint8), ("labels",))
    assert run(["evaluate", str(path), str(labels)]) == 0
    assert capsys.readouterr().err.count("! ") == 1
    bare = codes_map(tmp_path / "bare.tif", ESRI)
    assert run(["evaluate", str(bare), str(labels), "--scheme", "esri-io"]) == 0
    assert capsys.readouterr().err.count("! ") == 1


def test_doubtful_codes_of_a_map_are_said_of_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "map.tif", np.resize(np.array([1, 4, 5], np.uint8), (1, 40, 30)), ("map",))
    assert run(["evaluate", str(path), str(path), "--scheme", "esri-io"]) == 0
    of_map, of_labels = [line for line in capsys.readouterr().err.splitlines() if "! " in line]
    assert "the codes of the map are read as" in of_map
    assert "regions file" not in of_map
    assert "the codes of the labels are read as" in of_labels
    assert "--scheme terramesh" in of_labels
    assert run(["evaluate", str(path), str(path), "--scheme", "terramesh"]) == 0


@KINDS
def test_the_scheme_that_has_the_codes_is_named_before_other_advice(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"3 Flooded vegetation are among.*ignore = \[3\]"):
        open_labels(label_file(tmp_path, kind, (1, 3)), GRID, ESRI)


def test_tags_name_the_classes_of_a_map_without_colours(tmp_path: Path) -> None:
    path = codes_map(tmp_path / "map.tif", ESRI)
    labels = renumbered(tmp_path / "labels.tif", path, ESRI, ESRI)
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, CLASS_SCHEME="esri-io", **tags_of(ESRI))
    assert evaluate(path, labels).overall_accuracy == 1
    with pytest.raises(OptionsError, match="Remove --scheme"):
        evaluate(path, labels, "terramesh")


# Weights of 0.1.


OLD = {**TERRAMESH.to_dict(), "name": "esri-io"}


def plain(card: dict[str, Any]) -> bytes:
    """What the checksum of 0.1 covers of a card."""
    return json.dumps(card | {"sha256": ""}, sort_keys=True).encode()


@pytest.fixture(scope="module")
def old_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as 0.1 wrote them: the scheme's old name in the card, and the checksum over that."""
    torch.manual_seed(0)
    tensors = {name: tensor.contiguous() for name, tensor in REFNet(CARD.network).state_dict().items()}
    card: dict[str, Any] = json.loads(json.dumps(replace(CARD, tile=64, notice="old").to_dict())) | {"scheme": OLD}
    content = save(tensors, metadata={METADATA: json.dumps(card)})
    start_of_tensors = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start_of_tensors])
    directory = {name: entry for name, entry in header.items() if name != "__metadata__"}
    total = hashlib.sha256(plain(card) + json.dumps(directory, sort_keys=True).encode())
    total.update(content[start_of_tensors:])
    path = tmp_path_factory.mktemp("old") / "old.safetensors"
    path.write_bytes(save(tensors, metadata={METADATA: json.dumps(card | {"sha256": total.hexdigest()})}))
    return path


def test_old_cards_load_as_terramesh_and_keep_their_checksum(
    old_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = verify(old_weights)
    assert card.scheme == TERRAMESH
    assert load_weights(old_weights)[1].scheme == TERRAMESH
    assert run(["weights", "verify", str(old_weights)]) == 0
    assert card.sha256 in capsys.readouterr().out
    content = old_weights.read_bytes()
    changed = old_weights.with_name("changed.safetensors")
    changed.write_bytes(content.replace(b"esri-io", b"esri-xx"))
    assert run(["weights", "verify", str(changed)]) == 78


def test_old_onnx_models_too(tmp_path: Path) -> None:
    card: dict[str, Any] = json.loads(json.dumps(CARD.to_dict())) | {"scheme": OLD}
    path = tmp_path / "old.onnx"
    body = make_model().SerializeToString()
    path.write_bytes(body + entries({METADATA: json.dumps(card)}))
    card["sha256"] = hashlib.sha256(plain(card) + digest(path, without=METADATA)).hexdigest()
    path.write_bytes(body + entries({METADATA: json.dumps(card)}))
    assert verify(path).scheme == TERRAMESH


def test_maps_of_old_weights_keep_the_old_codes_and_say_so(
    old_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optical, sar = make_pair(tmp_path, 70, 80)
    words = ["predict", "--optical", str(optical), "--sar", str(sar), "--weights", str(old_weights), "--device", "cpu"]
    made = {}
    for scheme, warned in ((None, 1), ("terramesh", 0), ("esri-io", 0)):
        out = tmp_path / f"{scheme}.tif"
        assert run([*words, "-o", str(out), "--json", *(["--scheme", scheme] if scheme else [])]) == 0
        said = capsys.readouterr()
        assert said.err.count("which refnet 0.1 called") == warned
        assert sum("--scheme esri-io" in text for text in json.loads(said.out)["warnings"]) == warned
        with rasterio.open(out) as file:
            made[scheme] = [file.tags(1)[f"CLASS_{code}"] if code else "" for code in file.read(1).ravel().tolist()]
            assert file.tags(1)["CLASS_SCHEME"] == (scheme or "terramesh")
            assert file.tags(1)["CLASS_4"] == ("Flooded vegetation" if scheme == "esri-io" else "Crops")
    assert made[None] == made["terramesh"] == made["esri-io"]
    assert len(set(made[None])) > 1


def test_new_weights_of_official_codes_say_nothing(tmp_path: Path) -> None:
    report = predict(PredictOptions(*make_pair(tmp_path, 70, 80), tmp_path / "map.tif"), PlaceEngine())
    assert not any("terramesh" in warning for warning in report.warnings)


def test_a_training_from_old_weights_takes_all_classes_over(old_weights: Path) -> None:
    begun = initialise(CARD.network, CARD.optical.bands, CARD.sar.bands, ESRI, old_weights, None, 0)
    assert any(line.startswith("head: 9 classes copied") and "new" not in line for line in begun.decisions)
    known = load_weights(old_weights)[0].state_dict()
    for name in ("head.classify.weight", "head.classify.bias"):
        assert torch.equal(begun.net.state_dict()[name], known[name])


def test_old_weights_are_scored_on_labels_of_either_table(old_weights: Path, tmp_path: Path) -> None:
    scene = make_labelled_scene(tmp_path / "north")
    config = TrainConfig(scenes=(scene,), scheme="esri-io", split="none", crop=64)
    scores, _ = evaluate_weights(old_weights, config, "cpu")
    with rasterio.open(scene.labels, "r+") as file:
        labels = file.read()
        file.write(np.where(labels == 11, 9, labels))
    assert evaluate_weights(old_weights, replace(config, scheme="terramesh"), "cpu")[0] == scores
    assert set(scores.labelled) >= {"Water", "Trees", "Rangeland"}


def test_the_bundled_cards_have_official_codes() -> None:
    for name in ("refnet-base.safetensors", "refnet-base.onnx"):
        card = verify(ROOT / "weights" / name)
        assert card.scheme == ESRI
        assert read_card(ROOT / "weights" / name) == card


def test_a_card_in_plain_form_is_renamed_too() -> None:
    assert Card.from_dict(json.loads(json.dumps(CARD.to_dict())) | {"scheme": OLD}).scheme == TERRAMESH


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({30, 60, 100}, "In scheme 'worldcover' they are 30 Grassland, 60 "),
        ({211, 231, 243, 311}, "In scheme 'corine' they are 211 "),
        ({30, 200}, ""),
        ({3}, ""),
    ],
)
def test_codes_of_another_scheme_are_named(codes: set[float], said: str) -> None:
    found = explain_unknown(codes, SCHEMES["esri-io"])
    assert found.strip().startswith(said)
    assert ("In scheme" in found) == bool(said)
