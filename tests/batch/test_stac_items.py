"""What STAC items say of the offset of Sentinel-2 images, from the plan of a batch to the decision."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.templates import Templates
from refnet_cli.errors import ConfigError, InputError, OptionsError
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.offset import stac_offset, stac_tags
from tests.helpers.batches import here
from tests.helpers.scenes import CARD, make_pair
from tests.helpers.small_models import write_model

BANDS = ("B02", "B03", "B04", "B08")
NAME = "S2A_MSIL2A_20240101T132241_N0510_R038_T22HBD_20240101T151503"
OLD = "S2A_MSIL2A_20200101T132241_N0213_R038_T22HBD_20200101T151503"
V1 = {"scale": 0.0001, "offset": -0.1}
V2 = {"raster:scale": 0.0001, "raster:offset": -0.1}


def item(properties: dict[str, Any], asset: dict[str, Any] | None = None, **about: Any) -> dict[str, Any]:
    hrefs = {**{band: f"{band}.tif" for band in BANDS}, "vv": "vv.tif", "vh": "vh.tif", "SCL": "SCL.tif"}
    assets: dict[str, Any] = {name: {"href": href} for name, href in hrefs.items()}
    for band in BANDS:
        assets[band] |= asset or {}
    about = {"id": "S2A_22HBD_20240101_0_L2A", "collection": "sentinel-2-l2a"} | about
    return {
        "type": "Feature", "stac_version": "1.0.0", "assets": assets,
        "properties": {"datetime": "2024-01-01T00:00:00Z"} | properties, **about,
    }  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx")


def planned(entry: Any, weights: Path, optical: str = "{B02},{B03},{B04},{B08}", **more: Any) -> Task:
    templates = Templates(optical, "{vv},{vh}", "/maps/{id}.tif")
    scenes = read_scenes(json.dumps(entry), Path("/data"))
    (task,) = plan(scenes, templates, {"weights": weights}, Path("/data"), **more)
    return task


CATALOGUES: dict[str, tuple[dict[str, Any], float | None]] = {
    "Earth Search, removed": (
        item({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}, {"raster:bands": [V1]}), 0),
    "Earth Search, not removed": (
        item({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False},
             {"raster:bands": [V1]}), 1000),
    "Earth Search, before": (
        item({"s2:processing_baseline": "02.13", "earthsearch:boa_offset_applied": False},
             {"raster:bands": [V1 | {"offset": 0}]}), 0),
    "Earth Search, Collection 1": (item({"s2:processing_baseline": "05.00"}, {"raster:bands": [V1]}), 1000),
    "Earth Search v0, Digital Earth Africa": (
        item({"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": True}), 0),
    "Planetary Computer": (item({"s2:processing_baseline": "05.10"}, id=NAME.replace("_N0510", "")), 1000),
    "Planetary Computer, before": (item({"s2:processing_baseline": "03.01"}), 0),
    "Copernicus Data Space": (item({"processing:version": "05.11"}, V2, id=NAME), 1000),
    "Copernicus Data Space, STAC 1.1 bands": (item({"processing:version": "05.11"}, {"bands": [V2]}), 1000),
    "by platform": (
        item({"processing:version": "5.1", "platform": "sentinel-2b"}, id="x", collection="mine"), 1000),
    "by the product's name": (item({"s2:product_uri": f"{NAME}.SAFE"}), 1000),
    "by the product's name, before": (item({"s2:product_uri": f"{OLD}.SAFE"}), 0),
    "by the id": (item({}, id=NAME), 1000),
    "by the bands alone": (item({}, {"raster:bands": [V1]}, id="x", collection="mine"), 1000),
    "nothing": (item({}), None),
    "made by users": (item({"s2:processing_baseline": "99.99"}), None),
    "null": (item({"s2:processing_baseline": None, "earthsearch:boa_offset_applied": None}), None),
    "of Sentinel-1": (
        item({"processing:version": "003.91", "constellation": "sentinel-1"}, id="S1A_IW", collection="s1"), None),
    "of another quantity": (item({}, {"raster:bands": [{"scale": 0.001, "offset": -0.1}]}), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUES)
def test_catalogues_in_their_spellings(name: str, weights: Path, said: list[str]) -> None:
    entry, offset = CATALOGUES[name]
    found = stac_offset(stac_tags(planned(entry, weights).options.stac))
    assert (found and found[0]) == offset
    assert found is None or found[1].startswith("stac: ")
    assert not [line for line in said if "does not exist" not in line]


@pytest.mark.parametrize(
    ("properties", "asset"),
    [
        ({"s2:processing_baseline": "05.10"}, {"raster:bands": [V1 | {"offset": 0}]}),
        ({"s2:processing_baseline": "03.01"}, V2),
        ({"s2:processing_baseline": "03.01", "sentinel:processing_baseline": "04.00"}, {}),
    ],
)
def test_an_item_that_contradicts_itself_is_left_to_the_values(
    properties: dict[str, Any], asset: dict[str, Any], weights: Path, pair: tuple[Path, Path], said: list[str]
) -> None:
    task = planned(item(properties, asset), weights)
    (line,) = (line for line in said if "does not exist" not in line)
    for part in ("! ", "contradicts itself", "processing_baseline=", "--optical-offset", str(task.path)):
        assert part in line
    decisions = decided(pair, task.options.stac)
    assert decisions["optical.offset"][1].startswith("values:")
    assert decisions["optical.stac"][0] == "contradictory"


def test_each_item_goes_by_its_own_word(weights: Path) -> None:
    entries = [dict(CATALOGUES[name][0], id=f"{number}") for number, name in enumerate(list(CATALOGUES)[:3])]
    templates = Templates("{B02},{B03},{B04},{B08}", "{vv},{vh}", "/maps/{id}.tif")
    scenes = read_scenes(json.dumps({"type": "FeatureCollection", "features": entries}), Path("/data"))
    tasks = plan(scenes, templates, {"weights": weights}, Path("/data"))
    offsets = [stac_offset(stac_tags(task.options.stac)) for task in tasks]
    assert [offset and offset[0] for offset in offsets] == [0, 1000, 0]


def test_what_the_item_says_holds_for_its_own_files(weights: Path) -> None:
    entry, _ = CATALOGUES["Earth Search, removed"]
    assert planned(entry, weights).options.stac
    assert planned(entry, weights, "/mine/{id}/s2.tif").options.stac is None


def test_the_original_files_keep_the_offset(weights: Path) -> None:
    """Earth Search's items also lead to ESA's JPEG 2000, from which nothing has been removed."""
    entry = deepcopy(CATALOGUES["Earth Search, removed"][0])
    for band in BANDS:
        entry["assets"][f"{band}-jp2"] = {"href": f"/x/{band}.jp2", "type": "image/jp2", "raster:bands": [V1]}
    originals = ",".join(f"{{{band}-jp2}}" for band in BANDS)
    found = stac_offset(stac_tags(planned(entry, weights, originals).options.stac))
    assert found == (1000, "stac: s2:processing_baseline=05.10, raster:offset=-1000.")
    with pytest.raises(ConfigError, match="partly ESA's JPEG 2000"):
        planned(entry, weights, "{B02-jp2},{B03},{B04},{B08}")


def test_assets_of_different_offsets_are_refused(weights: Path) -> None:
    entry = item({}, V2)
    entry["assets"]["B08"]["raster:offset"] = 0
    with pytest.raises(ConfigError, match=r"different offsets .*\(-1000, 0\)"):
        planned(entry, weights)
    assert planned(entry, weights, "{B02},{B03},{B04},{SCL}").options.stac


def test_the_command_line_and_a_config_win(weights: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "item.json").write_text(json.dumps(CATALOGUES["Planetary Computer"][0]))
    (tmp_path / "c.toml").write_text("optical_offset = 0\n")
    words = ["batch", "plan", tmp_path / "item.json", "--optical", "{B02},{B03},{B04},{B08}", "--sar", "{vv},{vh}",
             "--map", "{id}.tif", "--weights", weights]  # fmt: skip
    for more in (["--optical-offset", 0], ["--config", tmp_path / "c.toml"]):
        done = here(capfd, *words, *more)
        assert done.code == 0, done.err
        options = json.loads(done.out)["options"]
        assert "stac" not in options
        assert options["optical_offset"] == 0
    assert json.loads(here(capfd, *words).out)["options"]["stac"] == {"s2:processing_baseline": "05.10"}


def test_columns_of_tables_are_properties_too(weights: Path, tmp_path: Path) -> None:
    table = "optical,sar,output,s2:processing_baseline,earthsearch:boa_offset_applied\n"
    table += "a,b,c.tif,05.10,True\nd,e,f.tif,,\n"
    tasks = plan(read_scenes(table, tmp_path), Templates(), {"weights": weights}, tmp_path)
    first, second = (task.options.stac for task in tasks)
    assert stac_offset(stac_tags(first)) == (0, "stac: earthsearch:boa_offset_applied=True.")
    assert second is None


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Of which the values say 1000."""

    def brighten(optical: Any, sar: Any) -> None:
        optical += 950

    return make_pair(tmp_path, 60, 50, holes=brighten)


def decided(pair: tuple[Path, Path], stac: dict[str, str] | None, **options: Any) -> dict[str, tuple[Any, str]]:
    with ScenePair.open(*pair, CARD.optical.bands, CARD.sar.bands, SceneOptions(stac=stac, **options)) as opened:
        return {what: (value, how) for what, value, how in opened.decisions} | {"level": (opened.levels["B02"], "")}


REMOVED = {"earthsearch:boa_offset_applied": "true", "s2:processing_baseline": "05.10"}
ADDED = {"s2:processing_baseline": "05.10"}


def test_the_item_decides_before_the_values(pair: tuple[Path, Path]) -> None:
    by_values, removed, added = (decided(pair, stac) for stac in (None, REMOVED, ADDED))
    assert by_values["optical.offset"][0] == 1000
    assert removed["optical.offset"] == (0, "stac: earthsearch:boa_offset_applied=true.")
    assert added["optical.offset"] == (1000, "stac: s2:processing_baseline=05.10.")
    assert removed["level"][0] - added["level"][0] == pytest.approx(1000)
    assert decided(pair, REMOVED, strict=True, **{"sar_scale": "power"})["optical.offset"][0] == 0
    with pytest.raises(OptionsError, match="--strict forbids guesses"):
        decided(pair, None, strict=True, **{"sar_scale": "power"})
    assert decided(pair, REMOVED, optical_offset=1000)["optical.offset"] == (1000, "option: --optical-offset 1000.")


def test_an_item_that_the_values_contradict_is_refused(tmp_path: Path) -> None:
    dark = make_pair(tmp_path, 60, 50)
    with pytest.raises(InputError, match=r"s2:processing_baseline=05.10 declares that 1000 .*--optical-offset 0 or"):
        decided(dark, ADDED)


def set_tags(path: Path, **tags: str) -> None:
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)


def test_an_item_that_the_files_contradict_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    set_tags(pair[0], processing_baseline="05.10")
    with pytest.raises(InputError, match=r"STAC Item gives an offset of 0 .* files give 1000 .*--optical-offset"):
        decided(pair, REMOVED)
    assert decided(pair, ADDED)["optical.offset"][0] == 1000
    assert decided(pair, REMOVED, optical_offset=0)["optical.offset"][0] == 0


def test_a_name_tells_what_was_before_the_offset_was_removed(pair: tuple[Path, Path]) -> None:
    named = pair[0].rename(pair[0].with_name(f"{NAME}.tif")), pair[1]
    assert decided(named, REMOVED)["optical.offset"][0] == 0
    with pytest.raises(InputError, match="STAC Item gives an offset of 0"):
        decided(named, {"s2:processing_baseline": "03.01"})


def test_an_offset_that_the_file_declares_has_to_agree(pair: tuple[Path, Path]) -> None:
    with rasterio.open(pair[0], "r+") as file:
        file.scales, file.offsets = [0.0001] * 4, [-0.1] * 4
    assert decided(pair, ADDED)["optical.offset"][0] == pytest.approx(1000)
    with pytest.raises(InputError, match="STAC Item gives an offset of 0"):
        decided(pair, REMOVED)


def test_a_task_maps_as_its_item_says(weights: Path, tmp_path: Path, capfd: Any) -> None:
    """Of the same files, a map by the item is that by the option, and not that by the values."""
    pair = make_pair(tmp_path, 60, 50, holes=lambda optical, sar: optical.__iadd__(np.uint16(950)))
    entry = item({"earthsearch:boa_offset_applied": True})
    entry["assets"] |= {"s2": {"href": str(pair[0])}, "s1": {"href": str(pair[1])}}
    (tmp_path / "item.json").write_text(json.dumps(entry))
    maps = []
    for name, more in (("stac", []), ("option", ["--optical-offset", 0]), ("other", ["--optical-offset", 1000])):
        tasks, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.tif"
        words = ["batch", "plan", tmp_path / "item.json", "-o", tasks, "--optical", "{s2}", "--sar", "{s1}"]
        assert here(capfd, *words, "--map", output, "--also", "probabilities", "--weights", weights, *more).code == 0
        done = here(capfd, "batch", "run", tasks)
        assert done.code == 0, done.err
        with rasterio.open(tmp_path / f"{name}_probabilities.tif") as file:
            maps.append(file.read())
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])
    with rasterio.open(tmp_path / "stac.tif") as file:
        assert "stac: earthsearch:boa_offset_applied=true." in file.tags()["REFNET_DECISIONS"]
