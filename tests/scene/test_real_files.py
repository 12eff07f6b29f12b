"""Files as they come from archives and tools: what inspect says of them, and what a prediction then reads.

The expectations are those of the products' makers, written down before the program was asked.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import save_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import Patch, ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import few
from tests.helpers.real_data import ALL, EARTHNET, PLACES, SHIFTED, SSL4EO, each_source
from tests.helpers.safe import TILES, at_resolution, make_grd_safe, make_optical_safe, random_ground, write_jp2
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, write
from tests.helpers.simulated_data import MADE

BANDS = ("B02", "B03", "B04", "B08")
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
SIZE = 72
Files = Path | tuple[Path, ...]


# --- tools -----------------------------------------------------------------------------------------------------------


def listed(files: Files) -> str:
    return ",".join(map(str, files if isinstance(files, tuple) else (files,)))


def inspect(capsys: pytest.CaptureFixture[str], optical: Files | None, sar: Files | None, *options: Any) -> Any:
    """What ``refnet inspect --json`` prints of files that it must accept."""
    arguments = ["inspect", "--json", *map(str, options)]
    arguments += ["--optical", listed(optical)] if optical else []
    arguments += ["--sar", listed(sar)] if sar else []
    code = run(arguments)
    streams = capsys.readouterr()
    assert code == 0, streams.err
    return json.loads(streams.out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Exit code and message of a call that must fail, in one line."""
    code = run([*map(str, arguments)])
    streams = capsys.readouterr()
    assert code != 0
    message = streams.err.strip().splitlines()[-1]
    assert message.startswith("refnet: ")
    assert "Traceback" not in streams.err
    return code, message


def decided(found: Any) -> dict[str, Any]:
    return {decision["what"]: decision["value"] for decision in found["decisions"]}


def evidence(found: Any) -> dict[str, str]:
    """Kind of evidence of each decision: tag, description, name, ..."""
    return {decision["what"]: decision["how"].partition(":")[0] for decision in found["decisions"]}


def everything(
    optical: Files, sar: Files, options: SceneOptions | None = None, bands: Sequence[str] = BANDS
) -> tuple[Patch, dict[str, Any]]:
    with ScenePair.open(optical, sar, bands, ["VV", "VH"], options or SceneOptions()) as pair:
        patch = pair.read(Window(0, 0, *pair.grid.shape))
        return patch, {decision.what: decision.value for decision in pair.decisions}


def reflectance(bands: Iterable[str] = BANDS, size: int = SIZE) -> np.ndarray:
    """Reflectance x 10,000 with a lake, whole numbers; the bands' levels differ enough to tell them apart."""
    image = []
    for number in map(ALL.index, bands):
        random = np.random.default_rng(number)
        land = 300 + 250 * number + random.integers(0, 200, (size, size))
        land[: size // 3, : size // 2] = 20 + random.integers(0, 40, (size // 3, size // 2))
        image.append(land)
    return np.stack(image)


def levels(size: int = SIZE) -> np.ndarray:
    """VV and VH in dB, of land with speckle and a lake."""
    random = np.random.default_rng(6)
    land = np.array([-9.0, -15.5])[:, None, None] + np.zeros((2, size, size))
    land[:, : size // 3, : size // 2] -= 9
    return land + 10 * np.log10(random.gamma(5, 0.2, land.shape))


def as_scale(level: np.ndarray, scale: str) -> np.ndarray:
    if scale == "db100":
        return np.round(level * 100).astype(np.int16)
    return {"db": level, "power": 10 ** (level / 10), "amplitude": 10 ** (level / 20)}[scale].astype(np.float32)


@pytest.fixture
def optical(tmp_path: Path) -> Path:
    """An ordinary optical stack."""
    return write(tmp_path / "plain-s2.tif", reflectance().astype(np.uint16), BANDS)


@pytest.fixture
def sar(tmp_path: Path) -> Path:
    """An ordinary SAR stack."""
    return write(tmp_path / "plain-s1.tif", as_scale(levels(), "db"), ("VV", "VH"), nodata=None)


def tag(path: Path, **tags: str) -> Path:
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    return path


def each(folder: Path, pattern: str, values: np.ndarray, names: Sequence[str], **settings: Any) -> list[Path]:
    """One file per band, named by a pattern, at the bands' own resolutions if ``pixel`` gives them."""
    folder.mkdir(exist_ok=True)
    pixel = settings.pop("pixel", {})
    written = []
    for name, band in zip(names, values, strict=True):
        side = pixel.get(name, 10) // 10
        coarse = at_resolution(band, 10 * side) if side > 1 else band
        coarse = (coarse if band.dtype.kind == "f" else np.round(coarse)).astype(band.dtype)
        place = PLACE @ Affine.scale(side)
        written.append(write(folder / pattern.format(name), coarse[None], (None,), place, **settings))
    return written


# --- folders as data sets have them -----------------------------------------------------------------------------------


def raw(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def predict_quickly(optical: Files, sar: Files, output: Path, engine: PlaceEngine) -> np.ndarray:
    """The map of a free engine, with what predict does by default; its places must all be mapped."""
    report = predict(PredictOptions(optical, sar, output=output), engine)
    assert "coreg" in {decision["what"] for decision in report.decisions}
    return raw(output)[0]


@pytest.mark.parametrize(
    ("data", "place", "product"),
    each_source(
        [(PLACES[2], "S2L2A"), (PLACES[1], "S2L1C")],
        product(PLACES, ("S2L2A", "S2L1C")),
        pytest.mark.long,
    ),
    indirect=["data"],
)
def test_terramind(data: Path, capsys: Any, tmp_path: Path, place: str, product: str) -> None:
    folder = data / "terramind"
    pair = folder / product / f"{place}.tif", folder / "S1RTC" / f"{place}.tif"
    found = inspect(capsys, *pair)
    offset = 1000.0 if place in SHIFTED[product] else 0.0
    assert (found["optical"]["offset"], found["optical"]["level"]) == (offset, product.removeprefix("S2"))
    assert found["sar"]["scale"] == "db"
    assert [band["name"] for band in found["sar"]["bands"]] == ["VV", "VH"]
    assert [band["name"] for band in found["optical"]["bands"]] == [
        band for band in ALL if band != "B10" or product == "S2L1C"
    ]
    assert (found["fits"], found["overlap"]) == (True, 1)
    patch, _ = everything(*pair)
    np.testing.assert_array_equal(patch.optical, raw(pair[0])[[1, 2, 3, 7]] - offset)
    np.testing.assert_allclose(patch.sar, raw(pair[1]), atol=1e-4)
    if product == "S2L2A":
        brightest = patch.optical.argmax(0) + 1  # the free engine answers with the brightest band's class
        codes = np.array(PlaceEngine().card.scheme.codes)
        classes = predict_quickly(*pair, tmp_path / "map.tif", PlaceEngine())
        np.testing.assert_array_equal(classes, codes[brightest - 1])


@pytest.mark.parametrize(("data", "name"), each_source(MADE, EARTHNET, pytest.mark.long), indirect=["data"])
def test_bigearthnet(data: Path, capsys: Any, tmp_path: Path, name: str) -> None:
    folder = data / "bigearthnet"
    pair = folder / "BigEarthNet-S2-Example" / name, folder / "BigEarthNet-S1-Example" / EARTHNET[name]
    found = inspect(capsys, *pair)
    assert (found["optical"]["offset"], found["optical"]["level"]) == (0, "L2A")
    assert found["sar"]["scale"] == "db"
    assert {band["name"] for band in found["optical"]["bands"]} == set(ALL) - {"B10"}
    assert (found["grid"]["height"], found["grid"]["width"], found["fits"]) == (120, 120, True)
    assert evidence(found)["optical.bands"] == evidence(found)["sar.bands"] == "name"
    patch, _ = everything(*pair)
    for band, values in zip(BANDS, patch.optical, strict=True):
        np.testing.assert_array_equal(values, raw(pair[0] / f"{name}_{band}.tif")[0])
    for band, values in zip(("VV", "VH"), patch.sar, strict=True):
        np.testing.assert_allclose(values, raw(pair[1] / f"{EARTHNET[name]}_{band}.tif")[0], atol=1e-4)
    assert (predict_quickly(*pair, tmp_path / "map.tif", PlaceEngine()) > 0).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "level", "date"), each_source([*SSL4EO][1:2], SSL4EO, pytest.mark.long), indirect=["data"]
)
def test_ssl4eo(data: Path, capsys: Any, tmp_path: Path, level: str, date: str) -> None:
    folder = data / "ssl4eo"
    optical = folder / level / "0000200" / date
    (sar,) = (folder / "s1" / "0000200").glob(SSL4EO[level, date] + "*")
    found = inspect(capsys, optical, sar)
    assert (found["optical"]["offset"], found["optical"]["level"]) == (0, {"s2a": "L2A", "s2c": "L1C"}[level])
    assert found["sar"]["scale"] == "db"
    assert (found["grid"]["height"], found["grid"]["width"]) == raw(optical / "B2.tif").shape[1:]
    assert found["grid"]["crs"] == "EPSG:4326"
    assert found["overlap"] == pytest.approx(0.97, abs=0.03)
    patch, _ = everything(optical, sar)
    for name, values in zip(("B2", "B3", "B4", "B8"), patch.optical, strict=True):
        np.testing.assert_array_equal(values, raw(optical / f"{name}.tif")[0])
    for name, values in zip(("VV", "VH"), patch.sar, strict=True):
        assert np.nanmean(values) == pytest.approx(raw(sar / f"{name}.tif").mean(), abs=0.3)
    assert (predict_quickly(optical, sar, tmp_path / "map.tif", PlaceEngine()) > 0).mean() > 0.9


@pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
def test_coarse_bands_are_brought_to_the_finest_grid(data: Path) -> None:
    """A smooth band at 60 m must lie on its ground: its means over its own pixels stay what they were."""
    folder = data / "bigearthnet" / "BigEarthNet-S2-Example" / "S2A_MSIL2A_20170617T113321_4_55"
    sar = data / "bigearthnet" / "BigEarthNet-S1-Example" / EARTHNET[folder.name]
    bands = ("B02", "B05", "B09")
    patch, decisions = everything(folder, sar, bands=bands)
    assert decisions["optical.resampling"] != "none"
    for values, band, side in zip(patch.optical[1:], bands[1:], (2, 6), strict=True):
        coarse = raw(folder / f"{folder.name}_{band}.tif")[0].astype(float)
        means = values.astype(float).reshape(len(coarse), side, -1, side).mean((1, 3))
        assert np.corrcoef(means.ravel(), coarse.ravel())[0, 1] > 0.97
        shifted = np.corrcoef(means[1:].ravel(), coarse[:-1].ravel())[0, 1]
        assert np.corrcoef(means[1:].ravel(), coarse[1:].ravel())[0, 1] > shifted


def cross_utm(data: Path, month: str) -> tuple[tuple[Path, ...], Path]:
    folder = data / "cross_utm" / month
    return tuple(sorted(folder.glob("2019*.tif"))), next(folder.glob("S1*.tif"))


@pytest.mark.parametrize(("data", "month"), each_source(["Jun"], ["Jun", "Aug"], pytest.mark.long), indirect=["data"])
def test_single_polarisation_in_another_zone(data: Path, capsys: Any, tmp_path: Path, month: str) -> None:
    optical, sar = cross_utm(data, month)
    found = inspect(capsys, optical, sar)
    assert (found["optical"]["offset"], found["sar"]["scale"], found["fits"]) == (0, "db", False)
    assert found["missing"]
    assert "VH" in " ".join(found["missing"])
    assert "B08" in " ".join(found["missing"])
    assert found["grid"]["crs"] == "EPSG:32722"
    assert found["overlap"] == pytest.approx(0.99, abs=0.015)
    code, _ = refused(capsys, "predict", "--optical", listed(optical), "--sar", sar, "-o", tmp_path / "x.tif")
    assert code == 65
    visible = CARD.optical
    modality = Modality(visible.bands[:3], visible.unit, visible.mean[:3], visible.std[:3])
    weights = make_weights(tmp_path / "both.safetensors", modality, CARD.sar)
    arguments = ("predict", "--optical", listed(optical), "--sar", sar, "-o", tmp_path / "x.tif", "--weights")
    code, message = refused(capsys, *arguments, weights)
    assert code == 65
    assert "VH" in message
    assert not (tmp_path / "x.tif").exists()
    single = make_weights(
        tmp_path / "vv.safetensors", modality, Modality(("VV",), "dB", CARD.sar.mean[:1], CARD.sar.std[:1])
    )
    assert inspect(capsys, optical, sar, "--weights", single)["fits"] is True
    assert run([*map(str, arguments), str(single), "-q"]) == 0
    assert (raw(tmp_path / "x.tif")[0] > 0).mean() > 0.97


def make_weights(path: Path, optical: Modality, sar: Modality) -> Path:
    """Small untrained weights for some bands."""
    network = replace(CARD.network, optical_bands=len(optical.bands), sar_bands=len(sar.bands))
    torch.manual_seed(0)
    card: Card = replace(CARD, network=network, optical=optical, sar=sar, tile=128)
    save_weights(REFNet(network).eval(), card, path)
    return path


@pytest.mark.parametrize("data", few(["simulated", "real"], "simulated"), indirect=True)
def test_a_folder_of_both_sensors_as_the_downloader_leaves_it(data: Path, capsys: Any) -> None:
    """The optical files are told from the SAR file next to them."""
    folder = data / "cross_utm" / "Jun"
    optical, sar = cross_utm(data, "Jun")
    by_folder, by_files = inspect(capsys, folder, folder), inspect(capsys, optical, sar)
    assert by_folder["sar"]["paths"] == by_files["sar"]["paths"]
    assert by_folder["optical"]["offset"] == by_files["optical"]["offset"]
    names = [{band["name"] for band in found["optical"]["bands"]} for found in (by_folder, by_files)]
    assert names[0] == names[1]


# --- SAR units -------------------------------------------------------------------------------------------------------

SCALES = ("power", "amplitude", "db", "db100")


def maps_of_all_scales(optical: Path, sar: Path, folder: Path, capsys: Any, *options: Any) -> dict[str, np.ndarray]:
    """Class maps with the shipped weights of one scene in all units, found out by the program alone."""
    with rasterio.open(sar) as file:
        values, profile = file.read().astype(float), file.profile
    power = values if np.nanmedian(values) > 0 else 10 ** (values / 10)
    maps = {}
    for scale in SCALES:
        path = folder / f"{scale}.tif"
        numbers = as_scale(10 * np.log10(np.where(np.isnan(power), 1, power)), scale)
        hole = {"db100": -32_768, "db": np.nan}.get(scale, 0)
        numbers[np.isnan(power)] = hole
        with rasterio.open(path, "w", **(profile | {"dtype": numbers.dtype, "nodata": hole})) as file:
            file.write(numbers)
        output = folder / f"map-{scale}.tif"
        arguments = ["predict", "--optical", optical, "--sar", path, "-o", output, "--coreg", "off", "--json"]
        code = run([*map(str, arguments), *map(str, options)])
        streams = capsys.readouterr()
        assert code == 0, streams.err
        assert decided(json.loads(streams.out))["sar.scale"] == scale
        maps[scale] = raw(output)[0]
    return maps


@pytest.mark.long
def test_sample_in_all_units(tmp_path: Path, capsys: Any) -> None:
    bounds = "--bounds", "240000,6201640,241920,6203560"
    maps = maps_of_all_scales(SAMPLE / "s2.tif", SAMPLE / "s1.tif", tmp_path, capsys, *bounds)
    assert maps["power"].shape == (192, 192)
    assert (maps["power"] > 0).mean() > 0.5
    for scale in SCALES[1:]:
        assert (maps[scale] == maps["power"]).mean() >= 0.999, scale


@pytest.mark.long
def test_a_real_place_in_all_units(shared: Path, tmp_path: Path, capsys: Any) -> None:
    folder = shared / "data" / "terramind"
    pair = folder / "S2L2A" / "433D_629L_3_1.tif", folder / "S1RTC" / "433D_629L_3_1.tif"
    maps = maps_of_all_scales(*pair, tmp_path, capsys)
    for scale in SCALES[1:]:
        assert (maps[scale] == maps["power"]).mean() >= 0.999, scale


# --- SAFE products ---------------------------------------------------------------------------------------------------


def small_ground(seed: int = 0) -> dict[str, np.ndarray]:
    """Four bands at 10 m, 120 x 120 pixels."""
    ground = random_ground(120, 120, seed)
    return {band: ground[band] for band in BANDS}


def sar_about(path: Path, corner: tuple[float, float], crs: str, size: int = 140) -> Path:
    """SAR in dB that covers a tile of 120 x 120 pixels and a margin."""
    place = Affine(10, 0, corner[0] - 100, 0, -10, corner[1] + 100)
    return write(path, as_scale(levels(size), "db"), ("VV", "VH"), place, crs, nodata=None)


def expected_of(ground: dict[str, np.ndarray], offset: float) -> np.ndarray:
    """What a product can say of reflectances, times 10,000: whole numbers, and none below 1 with the offset."""
    exact = np.stack([ground[band] for band in BANDS]) * 10_000
    return np.maximum(np.round(exact), 1 - offset)


@pytest.mark.parametrize(
    ("level", "baseline", "given"),
    [
        ("L1C", "02.01", "folder"), ("L1C", "05.11", "zip"), ("L2A", "03.01", "metadata"), ("L2A", "04.00", "folder"),
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("L1C", "03.01", "zip"), ("L1C", "04.00", "metadata"), ("L2A", "02.05", "folder"), ("L2A", "02.14", "zip"),
            ("L2A", "05.09", "zip"), ("L2A", "05.11", "metadata"),
        )),
    ],
)  # fmt: skip
def test_safe_products_give_the_reflectance_that_was_written(
    tmp_path: Path, capsys: Any, level: str, baseline: str, given: str
) -> None:
    ground = small_ground()
    product = make_optical_safe(tmp_path, level, baseline, reflectance={"32TQS": ground}, zipped=given == "zip")
    path = product / f"MTD_MSI{level}.xml" if given == "metadata" else product
    sar = sar_about(tmp_path / "s1.tif", TILES["32TQS"], "EPSG:32632")
    offset = 1000 if baseline >= "04.00" else 0
    patch, decisions = everything(path, sar)
    np.testing.assert_allclose(patch.optical, expected_of(ground, offset), atol=0.01)
    assert (decisions["optical.level"], decisions["optical.offset"]) == (level, offset)
    found = inspect(capsys, path, sar, "--strict", "--sar-scale", "db")
    assert (found["optical"]["level"], found["optical"]["offset"]) == (level, offset)
    assert evidence(found)["optical.offset"] in ("tag", "metadata")
    assert evidence(found)["optical.bands"] in ("name", "tag")


@pytest.mark.long
def test_maps_of_a_product_and_of_a_stack_of_its_bands_are_equal(tmp_path: Path, capsys: Any) -> None:
    ground = small_ground()
    left, top = TILES["32TQS"]
    sar = sar_about(tmp_path / "s1.tif", (left, top), "EPSG:32632")
    product = make_optical_safe(tmp_path, "L2A", "05.09", reflectance={"32TQS": ground}, zipped=True)
    place = Affine(10, 0, left, 0, -10, top)
    stack = write(tmp_path / "s2.tif", expected_of(ground, 1000).astype(np.int16), BANDS, place, "EPSG:32632", None)
    first = predict_quickly(product, sar, tmp_path / "a.tif", PlaceEngine())
    predict(PredictOptions(stack, sar, output=tmp_path / "b.tif", optical_offset=0), PlaceEngine())
    np.testing.assert_array_equal(first, raw(tmp_path / "b.tif")[0])
    assert run(["predict", "--optical", str(product), "--sar", str(sar), "-o", str(tmp_path / "c.tif"), "-q"]) == 0
    assert (raw(tmp_path / "c.tif")[0] > 0).all()


@pytest.mark.parametrize(("tile", "zipped"), few(product(TILES, (False, True)), ("32TQS", True), ("33TTN", False)))
def test_the_granule_that_sar_lies_on_is_chosen(tmp_path: Path, capsys: Any, tile: str, zipped: bool) -> None:
    grounds = {name: small_ground(seed) for seed, name in enumerate(TILES)}
    # apart by more than they are wide, so that each ground is seen by one granule alone
    corners = {"32TQS": TILES["32TQS"], "33TTN": (TILES["33TTN"][0] + 6000, TILES["33TTN"][1])}
    product = make_optical_safe(tmp_path, "L1C", "02.01", tiles=corners, reflectance=grounds, zipped=zipped)
    crs = f"EPSG:326{tile[:2]}"
    sar = sar_about(tmp_path / "s1.tif", corners[tile], crs)
    found = inspect(capsys, product, sar)
    assert found["grid"]["crs"] == crs
    assert found["overlap"] == 1
    patch, _ = everything(product, sar)
    np.testing.assert_allclose(patch.optical, expected_of(grounds[tile], 0), atol=0.01)


def test_granules_of_one_zone_are_put_together(tmp_path: Path) -> None:
    left, top = TILES["32TQS"]
    grounds = {"32TQS": small_ground(0), "32TQT": small_ground(1)}
    corners = {"32TQS": (left, top), "32TQT": (left, top + 1200)}
    product = make_optical_safe(tmp_path, "L1C", "02.01", tiles=corners, reflectance=grounds)
    sar = sar_about(tmp_path / "s1.tif", (left, top + 1200), "EPSG:32632", 300)
    patch, _ = everything(product, sar)
    assert patch.optical.shape == (4, 240, 120)
    np.testing.assert_allclose(patch.optical[:, :120], expected_of(grounds["32TQT"], 0), atol=0.01)
    np.testing.assert_allclose(patch.optical[:, 120:], expected_of(grounds["32TQS"], 0), atol=0.01)


# Scene classification of Sen2Cor: 0 no data, 1 saturated or defective, 2 dark, 3 cloud shadow, 4 vegetation, 5 bare,
# 6 water, 7 unclassified, 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow.
CLOUDY, CLEAR = (3, 8, 9, 10), (2, 4, 5, 6, 11)


@pytest.mark.parametrize("zipped", few([False, True], True))
def test_scene_classification_of_a_product(tmp_path: Path, zipped: bool) -> None:
    classes = np.full((60, 60), 4, np.uint8)
    for number, code in enumerate((*CLOUDY, *CLEAR)):
        classes[10:14, 6 * number : 6 * number + 6] = code
    product = make_optical_safe(
        tmp_path, reflectance={"32TQS": small_ground()}, classes={"32TQS": classes}, zipped=zipped
    )
    sar = sar_about(tmp_path / "s1.tif", TILES["32TQS"], "EPSG:32632")
    plain, _ = everything(product, sar)
    masked, decisions = everything(product, sar, SceneOptions(mask_clouds=True))
    assert plain.optical_valid.all()
    assert any("cloud" in what or "mask" in what for what in decisions)
    fine = classes.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(masked.optical_valid, ~np.isin(fine, CLOUDY))
    np.testing.assert_array_equal(masked.optical[:, masked.optical_valid], plain.optical[:, masked.optical_valid])


def test_cloud_mask_of_level_1c(tmp_path: Path) -> None:
    clouds = np.zeros((3, 20, 20), np.uint8)
    clouds[0, 3:5, 4:9] = clouds[1, 8, 8] = clouds[2, 12:14, :5] = 1
    product = make_optical_safe(
        tmp_path, "L1C", "05.09", reflectance={"32TQS": small_ground()}, clouds={"32TQS": clouds}
    )
    sar = sar_about(tmp_path / "s1.tif", TILES["32TQS"], "EPSG:32632")
    masked, _ = everything(product, sar, SceneOptions(mask_clouds=True))
    expected = (clouds[0] + clouds[1] == 0).repeat(6, 0).repeat(6, 1)  # snow is no cloud
    np.testing.assert_array_equal(masked.optical_valid, expected)


CLOUDS = """<?xml version="1.0" encoding="UTF-8"?>
<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="CLOUDS">
<gml:boundedBy><gml:Envelope srsName="urn:ogc:def:crs:EPSG::32632"><gml:lowerCorner>{west} {south}</gml:lowerCorner>
<gml:upperCorner>{east} {north}</gml:upperCorner></gml:Envelope></gml:boundedBy>
<eop:maskMembers><eop:MaskFeature gml:id="{kind}.0">
<eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}</eop:maskType>
<eop:extentOf><gml:Polygon gml:id="{kind}.0_Polygon"><gml:exterior><gml:LinearRing><gml:posList srsDimension="2">
{west} {north} {east} {north} {east} {south} {west} {south} {west} {north}
</gml:posList></gml:LinearRing></gml:exterior></gml:Polygon></eop:extentOf></eop:MaskFeature></eop:maskMembers></eop:Mask>
"""


@pytest.mark.parametrize(
    ("kind", "zipped"), few(product(("OPAQUE", "CIRRUS"), (False, True)), ("OPAQUE", True), ("CIRRUS", False))
)
def test_cloud_polygons_of_old_level_1c(tmp_path: Path, kind: str, zipped: bool) -> None:
    product = make_optical_safe(tmp_path, "L1C", "03.01", reflectance={"32TQS": small_ground()})
    left, top = (round(edge) for edge in TILES["32TQS"])
    (path,) = product.rglob("MSK_CLOUDS_B00.gml")
    path.write_text(CLOUDS.format(kind=kind, west=left + 200, east=left + 500, south=top - 700, north=top - 300))
    if zipped:
        archive = Path(shutil.make_archive(str(product), "zip", tmp_path, product.name))
        shutil.rmtree(product)
        product = archive
    sar = sar_about(tmp_path / "s1.tif", TILES["32TQS"], "EPSG:32632")
    masked, _ = everything(product, sar, SceneOptions(mask_clouds=True))
    expected = np.ones((120, 120), bool)
    expected[30:70, 20:50] = False
    np.testing.assert_array_equal(masked.optical_valid, expected)


def test_masking_clouds_without_a_mask_is_refused(optical: Path, sar: Path, capsys: Any, tmp_path: Path) -> None:
    code, message = refused(
        capsys, "predict", "--optical", optical, "--sar", sar, "--mask-clouds", "-o", tmp_path / "x.tif"
    )
    assert code == 64
    assert "--mask-clouds" in message


@pytest.mark.parametrize("given", few(["folder", "zip", "manifest"], "zip"))
def test_ground_range_products(tmp_path: Path, capsys: Any, given: str) -> None:
    optical = make_optical_safe(tmp_path, reflectance={"32TQS": small_ground()})
    power = {"VV": np.full((480, 400), 0.08), "VH": np.full((480, 400), 0.015)}
    product = make_grd_safe(tmp_path, power=power, zipped=given == "zip")
    path = product / "manifest.safe" if given == "manifest" else product
    out = tmp_path / "x.tif"
    code, message = refused(capsys, "predict", "--optical", optical, "--sar", path, "-o", out)
    assert code == 65
    assert "terrain" in message
    assert "--allow-gcps" in message
    assert refused(capsys, "inspect", "--optical", optical, "--sar", path)[0] == 65
    found = inspect(capsys, optical, path, "--allow-gcps")
    assert found["fits"] is True
    patch, _ = everything(optical, path, SceneOptions(allow_gcps=True))
    assert patch.sar_valid.all()
    for name, values in zip(("VV", "VH"), patch.sar, strict=True):  # numbers are whole, and so inexact
        assert 10 ** (values.astype(float) / 10).mean() == pytest.approx(power[name][0, 0], rel=0.01)
    predict(PredictOptions(optical, path, output=out, allow_gcps=True, coreg="off"), PlaceEngine())
    assert (raw(out)[0] > 0).all()


# --- optical product styles ------------------------------------------------------------------------------------------

NATIVE = dict(zip(ALL, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20), strict=True))


@dataclass
class Style:
    """Optical files of some maker, and what must be found out about them."""

    make: Callable[[Path], Files]
    how: str
    """Evidence of the bands."""
    offset: float = 0
    level: str | None = None


def esa(folder: Path) -> Path:
    """GDAL's driver for SAFE products, as gdal_translate writes it: the 10 m bands begin with the red one."""
    names = ("B4, central wavelength 665 nm", "B3, central wavelength 560 nm", "B2, central wavelength 490 nm",
             "B8, central wavelength 842 nm")  # fmt: skip
    return write(folder / "s2.tif", reflectance(("B04", "B03", "B02", "B08")).astype(np.uint16), names, nodata=None)


def sentinel_hub(folder: Path) -> Path:
    values = (reflectance(("B08", "B04", "B03", "B02")) / 10_000).astype(np.float32)
    return write(folder / "response.tif", values, ("B08", "B04", "B03", "B02"), nodata=None)


def earth_engine(folder: Path) -> Path:
    """An export of COPERNICUS/S2_SR_HARMONIZED with all of its bands, from which the offset is gone."""
    bands = [band for band in ALL if band != "B10"]
    values = reflectance(bands).astype(np.uint16)
    extra = {"AOT": 150, "WVP": 1200, "SCL": 4, "TCI_R": 80, "TCI_G": 80, "TCI_B": 80, "MSK_CLDPRB": 0,
             "MSK_SNWPRB": 0, "QA10": 0, "QA20": 0, "QA60": 0}  # fmt: skip
    names = [re.sub(r"B0(\d)", r"B\1", band) for band in bands] + list(extra)
    layers = np.stack([np.full((SIZE, SIZE), value, np.uint16) for value in extra.values()])
    return write(folder / "ee.tif", np.concatenate([values, layers]), tuple(names), nodata=None)


def planetary_computer(folder: Path) -> Path:
    """Band files of the archive of ESA's products: the offset is in the numbers and in no tag."""
    files = folder / "pc"
    names = ("B02", "B03", "B04", "B05", "B08", "B11")
    values = (reflectance(names) + 1000).astype(np.uint16)
    for name, band in zip(names, values, strict=True):
        each(files, f"T32TQM_20220615T101559_{{}}_{NATIVE[name]}m.tif", band[None], [name], pixel=NATIVE)
    scl = np.full((1, SIZE, SIZE), 4, np.uint8)
    each(files, "T32TQM_20220615T101559_{}_20m.tif", scl, ["SCL"], pixel={"SCL": 20})
    return files


def hls(folder: Path, product: str = "S30") -> Path:
    """Harmonized Landsat Sentinel-2: 30 m, signed, scaled, and the offset is gone whatever the baseline says."""
    files = folder / "hls"
    names = ("B02", "B03", "B04", "B08")
    values = reflectance(names).astype(np.int16)
    values[:, -2:, -2:] = -9999
    for path in each(files, f"HLS.{product}.T32TQM.2022166T101559.v2.0.{{}}.tif", values, names, nodata=-9999):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.0001,), (0.0,)
            file.update_tags(
                HLS_PROCESSING_TIME="2023-01-27T01:39:03Z", PROCESSING_BASELINE="05.09", ACCODE="LaSRC v3.2.0",
                add_offset="0", scale_factor="0.0001", SPACECRAFT_NAME="Sentinel-2A",
            )  # fmt: skip
    return files


def scaled(folder: Path) -> Path:
    """A scale and an offset as GDAL knows them, which say all there is to say."""
    path = write(folder / "scaled.tif", (reflectance() + 1000).astype(np.uint16), BANDS)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0001,) * 4, (-0.1,) * 4
    return path


def only_scaled(folder: Path) -> Path:
    """A scale alone: the file says that there is no offset."""
    path = write(folder / "scaled.tif", reflectance().astype(np.uint16), BANDS)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0001,) * 4
    return path


def mixed_files(folder: Path) -> tuple[Path, ...]:
    names = ("B12", "B08", "B01", "B04", "B03", "B02")
    values = reflectance(names).astype(np.uint16)
    return tuple(each(folder / "files", "{}.tif", values, names, pixel=NATIVE))


def without_names(folder: Path) -> Path:
    names = [band for band in ALL if band != "B10"]
    return write(folder / "stack.tif", reflectance(names).astype(np.int16), (None,) * 12, nodata=None)


def jpeg2000(folder: Path) -> Path:
    """Images taken out of a product's folder."""
    corner = PLACE.c, PLACE.f
    for band, values in zip(BANDS, reflectance() + 1000, strict=True):
        path = folder / "IMG_DATA" / f"T33TUN_20230615T101559_{band}_10m.jp2"
        write_jp2(path, values[None].astype(np.uint16), corner, 10, "33TUN")
    return folder / "IMG_DATA"


def floating(folder: Path) -> Path:
    """Whole numbers in a file of fractions, with NaN where there is nothing, as exports of mosaics are."""
    values = reflectance().astype(np.float32)
    values[:, -1, -1] = np.nan
    return write(folder / "mosaic.tif", values, BANDS, nodata=None)


STYLES = {
    "floating": Style(floating, "description"),
    "esa": Style(esa, "description"),
    "sentinel_hub": Style(sentinel_hub, "description"),
    "earth_engine": Style(earth_engine, "description", level="L2A"),
    "planetary_computer": Style(planetary_computer, "name", 1000),
    "hls": Style(hls, "name"),
    "scaled": Style(scaled, "description"),
    "only_scaled": Style(only_scaled, "description"),
    "mixed_files": Style(mixed_files, "name"),
    "without_names": Style(without_names, "count", level="L2A"),
    "jpeg2000": Style(jpeg2000, "name", 1000),
}


@pytest.mark.parametrize("name", STYLES)
def test_optical_styles(name: str, sar: Path, capsys: Any, tmp_path: Path) -> None:
    style = STYLES[name]
    files = style.make(tmp_path)
    found = inspect(capsys, files, sar)
    assert found["optical"]["offset"] == style.offset or name == "scaled"  # there, the tags hold it
    assert evidence(found)["optical.bands"] == style.how
    assert style.level is None or found["optical"]["level"] == style.level
    assert found["fits"] is True, found["missing"]
    patch, _ = everything(files, sar)
    seen = patch.optical_valid
    assert seen.mean() > 0.99
    np.testing.assert_allclose(patch.optical[:, seen], reflectance()[:, seen], atol=0.02)
    assert seen.all() or name in ("hls", "floating")


def test_level_by_names_that_only_level_2a_has(sar: Path, capsys: Any, tmp_path: Path) -> None:
    """The resolution in the name, and the scene classification next to the bands."""
    assert inspect(capsys, planetary_computer(tmp_path), sar)["optical"]["level"] == "L2A"


def test_hls_of_baseline_5_has_no_offset_left(sar: Path, capsys: Any, tmp_path: Path) -> None:
    """Even where nothing is dark, and the values alone would allow an offset."""
    files = hls(tmp_path)
    for path in files.glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            values = file.read()
            file.write(np.where(values < 0, values, values + 1100))
    found = inspect(capsys, files, sar)
    assert found["optical"]["offset"] == 0
    assert evidence(found)["optical.offset"] in ("tag", "name")
    patch, _ = everything(files, sar)
    np.testing.assert_allclose(patch.optical[:, 0], reflectance()[:, 0] + 1100, atol=0.02)
    assert not patch.optical_valid[-2:, -2:].any()
    assert patch.optical_valid.sum() == SIZE * SIZE - 4


def test_landsat_of_hls_is_refused(sar: Path, capsys: Any, tmp_path: Path) -> None:
    files = hls(tmp_path, "L30")
    code, message = refused(capsys, "predict", "--optical", files, "--sar", sar, "-o", tmp_path / "x.tif")
    assert code == 65
    assert "Landsat" in message
    single = ",".join(str(files / f"HLS.L30.T32TQM.2022166T101559.v2.0.{band}.tif") for band in BANDS)
    assert refused(capsys, "inspect", "--optical", single)[0] == 65


@pytest.mark.parametrize(
    ("tags", "shift", "offset"),
    [
        ({"PROCESSING_BASELINE": "05.09"}, 1000, 1000),
        ({"PROCESSING_BASELINE": "04.00"}, 1000, 1000),
        ({"PROCESSING_BASELINE": "03.01"}, 0, 0),
        ({"PROCESSING_BASELINE": "02.14"}, 0, 0),
    ],
)
def test_offset_by_baseline_tag_where_values_say_nothing(
    sar: Path, capsys: Any, tmp_path: Path, tags: dict[str, str], shift: int, offset: float
) -> None:
    values = reflectance() + 1200 + shift  # bright ground
    path = tag(write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS), **tags)
    found = inspect(capsys, path, sar)
    assert (found["optical"]["offset"], evidence(found)["optical.offset"]) == (offset, "tag")
    patch, _ = everything(path, sar)
    np.testing.assert_array_equal(patch.optical, reflectance() + 1200)


@pytest.mark.parametrize("add", [0.0, 0.8])
def test_reflectance_above_one_and_of_snow(sar: Path, capsys: Any, tmp_path: Path, add: float) -> None:
    values = (reflectance() / 10_000 + add).astype(np.float32)
    values[:, 40:, 40:] = 1.35
    path = write(tmp_path / "s2.tif", values, BANDS, nodata=None)
    patch, _ = everything(path, sar)
    np.testing.assert_allclose(patch.optical, values * 10_000, rtol=1e-5)


def test_offset_by_the_date_in_names_of_esa(sar: Path, tmp_path: Path) -> None:
    """Images that ESA named and that were sensed after 25 January 2022 hold the offset, bright or not."""
    values = (reflectance() + 1000 + 2500).astype(np.uint16)
    files = each(tmp_path / "snow", "T32TQM_20220615T101559_{}_10m.tif", values, BANDS)
    patch, decisions = everything(tuple(files), sar)
    assert decisions["optical.offset"] == 1000
    np.testing.assert_array_equal(patch.optical, reflectance() + 2500)


def test_scale_and_offset_tags_are_applied_once(sar: Path, tmp_path: Path) -> None:
    """Dark values just above 1000 after scaling must not lose another 1000."""
    path = write(tmp_path / "s2.tif", (reflectance() + 2000).astype(np.uint16), BANDS)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0001,) * 4, (-0.1,) * 4
    patch, _ = everything(path, sar)
    np.testing.assert_allclose(patch.optical, reflectance() + 1000, atol=0.02)


def test_saturated_and_empty_pixels_are_invalid(sar: Path, tmp_path: Path) -> None:
    values = reflectance().astype(np.uint16)
    values[2, 30, 40] = 65_535
    values[:, 50, :] = 0
    values[1, 60, 60] = 0  # a single band's zero is a value where no nodata is declared
    patch, _ = everything(write(tmp_path / "s2.tif", values, BANDS, nodata=None), sar)
    expected = np.ones((SIZE, SIZE), bool)
    expected[30, 40] = expected[50] = False
    np.testing.assert_array_equal(patch.optical_valid, expected)


def test_saturation_in_band_files_and_in_a_coarse_band(sar: Path, tmp_path: Path) -> None:
    names = ("B02", "B11")
    values = reflectance(names).astype(np.uint16)
    files = each(tmp_path / "files", "{}.tif", values, names, pixel=NATIVE)
    with rasterio.open(files[1], "r+") as file:
        numbers = file.read()
        numbers[0, 10, 12] = 65_535
        numbers[0, 20, 5] = 0
        file.write(numbers)
    patch, _ = everything(tuple(files), sar, bands=names)
    invalid = ~patch.optical_valid
    assert invalid[20:22, 24:26].all()
    assert invalid[40:42, 10:12].all()
    assert invalid.sum() == 8
    assert patch.optical[1][patch.optical_valid].max() < 4000  # nothing bleeds


def with_masks(folder: Path, **masks: tuple[int, int]) -> Path:
    """An Earth Engine export with some masks: background and the value of pixels [10:20, 30:40]."""
    layers = []
    for background, value in masks.values():
        layer = np.full((SIZE, SIZE), background, np.uint16)
        layer[10:20, 30:40] = value
        layers.append(layer)
    values = np.concatenate([reflectance(), layers]).astype(np.uint16)
    return write(folder / "ee.tif", values, ("B2", "B3", "B4", "B8", *masks), nodata=None)


@pytest.mark.parametrize(
    ("masks", "cloudy"),
    [
        ({"QA60": (0, 1024)}, True),  # bit 10: opaque
        ({"QA60": (0, 2048)}, True),  # bit 11: cirrus
        ({"QA60": (0, 1)}, False),
        ({"SCL": (4, 9)}, True),
        ({"SCL": (4, 3)}, True),
        ({"SCL": (4, 11)}, False),
        ({"MSK_CLDPRB": (0, 95)}, True),
        ({"MSK_CLDPRB": (0, 2)}, False),
    ],
)
def test_masks_of_earth_engine(
    sar: Path, capsys: Any, tmp_path: Path, masks: dict[str, tuple[int, int]], cloudy: bool
) -> None:
    path = with_masks(tmp_path, **masks)
    plain, _ = everything(path, sar)
    assert plain.optical_valid.all()
    masked, decisions = everything(path, sar, SceneOptions(mask_clouds=True))
    expected = np.ones((SIZE, SIZE), bool)
    expected[10:20, 30:40] = not cloudy
    np.testing.assert_array_equal(masked.optical_valid, expected)
    assert any(next(iter(masks)) in str(value) for value in decisions.values())
    output = tmp_path / "map.tif"
    predict(PredictOptions(path, sar, output=output, mask_clouds=True, coreg="off"), PlaceEngine())
    np.testing.assert_array_equal(raw(output)[0] > 0, expected)


def test_classification_beside_band_files(sar: Path, tmp_path: Path) -> None:
    files = planetary_computer(tmp_path)
    (scl,) = files.glob("*_SCL_20m.tif")
    with rasterio.open(scl, "r+") as file:
        classes = file.read()
        classes[0, 5:10, 15:20] = 9
        file.write(classes)
    assert everything(files, sar)[0].optical_valid.all()
    masked, _ = everything(files, sar, SceneOptions(mask_clouds=True))
    expected = np.ones((SIZE, SIZE), bool)
    expected[10:20, 30:40] = False
    np.testing.assert_array_equal(masked.optical_valid, expected)
    paths = tuple(sorted(files.glob("*.tif")))
    np.testing.assert_array_equal(everything(paths, sar, SceneOptions(mask_clouds=True))[0].optical_valid, expected)


def test_fmask_of_hls(sar: Path, tmp_path: Path) -> None:
    """Bit 1 is cloud, 2 adjacent, 3 cloud shadow, 4 snow, 5 water; bits 6 and 7 tell of aerosol."""
    files = hls(tmp_path)
    fmask = np.full((1, SIZE, SIZE), 0b01000000, np.uint8)
    fmask[0, 10:20, 30:40] |= 0b10
    fmask[0, 30:40, 30:40] |= 0b1000
    fmask[0, 50:60, 30:40] |= 0b110000
    write(files / "HLS.S30.T32TQM.2022166T101559.v2.0.Fmask.tif", fmask, (None,), nodata=255)
    masked, _ = everything(files, sar, SceneOptions(mask_clouds=True))
    expected = np.ones((SIZE, SIZE), bool)
    expected[10:20, 30:40] = expected[30:40, 30:40] = expected[-2:, -2:] = False
    np.testing.assert_array_equal(masked.optical_valid, expected)


# --- SAR product styles ----------------------------------------------------------------------------------------------

GRD = "S1A_IW_GRDH_1SDV_20220101T054321_20220101T054346_041271_04E7B2"


def hyp3(kind: str, scale: str) -> Callable[[Path], Files]:
    def make(folder: Path) -> Files:
        name = f"S1A_IW_20220101T054321_DVP_RTC30_{kind}_8A1C_{{}}.tif"
        return tuple(each(folder / "rtc", name, as_scale(levels(), scale), ("VH", "VV")[::-1], nodata=0))

    return make


def microsoft(folder: Path) -> Files:
    values = as_scale(levels(), "power")
    return tuple(each(folder / "measurement", "iw-{}.rtc.tiff", values, ("vv", "vh"), nodata=-32_768))


def snap(unit: str, scale: str) -> Callable[[Path], Files]:
    def make(folder: Path) -> Files:
        names = tuple(f"{unit.format(polarisation)}" for polarisation in ("VH", "VV"))
        return write(folder / f"{GRD}_TC.tif", as_scale(levels()[::-1], scale), names, nodata=0)

    return make


def engine_export(folder: Path) -> Files:
    values = np.concatenate([as_scale(levels(), "db"), np.full((1, SIZE, SIZE), 38.5, np.float32)])
    return write(folder / f"{GRD}.tif", values, ("VV", "VH", "angle"), nodata=None)


def own(scale: str, names: tuple[str | None, str | None]) -> Callable[[Path], Files]:
    def make(folder: Path) -> Files:
        return write(folder / "s1.tif", as_scale(levels(), scale), names, nodata=None)

    return make


def folder_of_files(folder: Path) -> Files:
    each(folder / "s1", f"{GRD}_{{}}.tif", as_scale(levels(), "db100"), ("VV", "VH"), nodata=-32_768)
    return folder / "s1"


SAR_STYLES = {
    "hyp3 power": (hyp3("G_gpuned", "power"), "power", "name", "name"),
    "hyp3 dB": (hyp3("G_gduned", "db"), "db", "name", "name"),
    "hyp3 amplitude": (hyp3("G_gauned", "amplitude"), "amplitude", "name", "name"),
    "microsoft": (microsoft, "power", "name", "name"),
    "snap dB": (snap("Sigma0_{}_db", "db"), "db", "description", "description"),
    "snap power": (snap("Sigma0_{}", "power"), "power", "description", "values"),
    "snap gamma": (snap("Gamma0_{}", "power"), "power", "description", "values"),
    "earth engine": (engine_export, "db", "description", "values"),
    "power": (own("power", ("VV", "VH")), "power", "description", "values"),
    "amplitude": (own("amplitude", ("VV", "VH")), "amplitude", "description", "values"),
    "dB x 100": (own("db100", ("VV", "VH")), "db100", "description", "values"),
    "without names": (own("db", (None, None)), "db", "count", "values"),
    "folder": (folder_of_files, "db100", "name", "values"),
}


@pytest.mark.parametrize("name", SAR_STYLES)
def test_sar_styles(name: str, optical: Path, capsys: Any, tmp_path: Path) -> None:
    make, scale, bands_how, scale_how = SAR_STYLES[name]
    files = make(tmp_path)
    found = inspect(capsys, optical, files)
    assert found["sar"]["scale"] == decided(found)["sar.scale"] == scale
    assert evidence(found)["sar.bands"] == bands_how
    assert evidence(found)["sar.scale"] in (scale_how, "description")
    assert found["fits"] is True
    patch, _ = everything(optical, files)
    np.testing.assert_allclose(patch.sar, levels(), atol=0.006)


@pytest.mark.parametrize(("kind", "scale"), [("G_gpuned", "power"), ("G_gauned", "amplitude")])
def test_a_name_outweighs_doubtful_values(optical: Path, capsys: Any, tmp_path: Path, kind: str, scale: str) -> None:
    """All but calm water and nothing else: as power it looks like nothing on land."""
    level = levels() - 8
    name = f"S1A_IW_20220101T054321_DVP_RTC30_{kind}_8A1C_{{}}.tif"
    files = tuple(each(tmp_path / "rtc", name, as_scale(level, scale), ("VV", "VH"), nodata=0))
    found = inspect(capsys, optical, files)
    assert (found["sar"]["scale"], evidence(found)["sar.scale"]) == (scale, "name")
    np.testing.assert_allclose(everything(optical, files)[0].sar, level, atol=0.006)


@pytest.mark.parametrize(
    ("pattern", "names", "scale"),
    [
        ("S1A_IW_20220101T054321_DVP_RTC30_G_gpuned_8A1C_{}.tif", (None, None), "db"),
        ("S1A_IW_20220101T054321_DVP_RTC30_G_gduned_8A1C_{}.tif", (None, None), "power"),
        (None, ("Sigma0_VV_db", "Sigma0_VH_db"), "power"),
    ],
)
def test_values_that_contradict_the_name_are_refused(
    optical: Path, capsys: Any, tmp_path: Path, pattern: str | None, names: tuple[str | None, ...], scale: str
) -> None:
    values = as_scale(levels(), scale)
    files: Files = write(tmp_path / "s1.tif", values, names, nodata=None)
    if pattern:
        files = tuple(each(tmp_path / "rtc", pattern, values, ("VV", "VH"), nodata=None))
    arguments = ("predict", "--optical", optical, "--sar", listed(files), "-o", tmp_path / "x.tif")
    code, message = refused(capsys, *arguments)
    assert code == 65
    assert "--sar-scale" in message
    np.testing.assert_allclose(everything(optical, files, SceneOptions(sar_scale=scale))[0].sar, levels(), atol=0.006)


def test_radar_numbers_that_were_never_calibrated_are_refused(optical: Path, capsys: Any, tmp_path: Path) -> None:
    values = 300 * as_scale(levels(), "amplitude")
    path = write(tmp_path / "s1.tif", values, ("Amplitude_VV", "Amplitude_VH"), nodata=0)
    code, message = refused(capsys, "predict", "--optical", optical, "--sar", path, "-o", tmp_path / "x.tif")
    assert (code, "calibrat" in message) == (65, True)


@pytest.mark.parametrize(("scale", "told"), [("db", "power"), ("power", "db"), ("db100", "power"), ("db", "db100")])
def test_an_option_that_contradicts_the_values_is_not_taken_in_silence(
    optical: Path, capsys: Any, tmp_path: Path, scale: str, told: str
) -> None:
    """What no radar can have measured is refused; what none did in training is warned of."""
    path = write(tmp_path / "s1.tif", as_scale(levels(), scale), ("VV", "VH"), nodata=None)
    out = tmp_path / "x.tif"
    arguments = ["predict", "--optical", optical, "--sar", path, "-o", out, "--sar-scale", told, "--json"]
    code = run([*map(str, arguments)])
    streams = capsys.readouterr()
    if scale in ("db", "db100") or told == "db":
        assert code == 64
    else:
        assert code == 0
        assert "VH" in " ".join(json.loads(streams.out)["warnings"])


def test_files_beside_the_radar_image_are_left_out(optical: Path, capsys: Any, tmp_path: Path) -> None:
    """A folder as HyP3 unpacks it: incidence angles, shadow masks and terrain lie there too."""
    files = hyp3("G_gpuned", "power")(tmp_path)
    assert isinstance(files, tuple)
    stem = str(files[0]).removesuffix("_VV.tif")
    for name, value in (("inc_map", 0.6), ("ls_map", 1.0), ("dem", 300.0), ("area", 90.0), ("rgb", 120.0)):
        write(Path(f"{stem}_{name}.tif"), np.full((1, SIZE, SIZE), value, np.float32), (None,))
    found = inspect(capsys, optical, files[0].parent)
    assert found["fits"] is True
    assert found["sar"]["scale"] == "power"
    np.testing.assert_allclose(everything(optical, files[0].parent)[0].sar, levels(), atol=0.006)


@pytest.mark.parametrize(
    ("names", "missing"), [(("HH", "HV"), ("VV", "VH")), (("VV",), ("VH",)), (("VH",), ("VV",)), (("HH",), ("VV",))]
)
@pytest.mark.parametrize("separate", [False, True])
def test_other_polarisations_than_those_of_the_weights(
    optical: Path, capsys: Any, tmp_path: Path, names: tuple[str, ...], missing: tuple[str, ...], separate: bool
) -> None:
    values = as_scale(levels()[: len(names)], "db")
    files: Files = write(tmp_path / "s1.tif", values, names, nodata=None)
    if separate:
        files = tuple(each(tmp_path / "s1", f"{GRD}_{{}}.tif", values, names, nodata=None))
    found = inspect(capsys, optical, files)
    assert found["fits"] is False
    assert all(name in " ".join(found["missing"]) for name in missing)
    assert [band["name"] for band in found["sar"]["bands"]] == list(names)
    out = tmp_path / "x.tif"
    code, message = refused(capsys, "predict", "--optical", optical, "--sar", listed(files), "-o", out)
    assert code == 65
    assert all(name in message for name in (*missing, *names))
    assert not out.exists()


def test_both_polarisations_for_weights_of_one(optical: Path, capsys: Any, tmp_path: Path) -> None:
    modality = Modality(("VH",), "dB", CARD.sar.mean[1:], CARD.sar.std[1:])
    weights = make_weights(tmp_path / "vh.safetensors", CARD.optical, modality)
    sar = write(tmp_path / "s1.tif", as_scale(levels(), "db"), ("VV", "VH"), nodata=None)
    found = inspect(capsys, optical, sar, "--weights", weights)
    assert (found["fits"], decided(found)["sar.bands"]) == (True, [2])


# --- what inspect tells ----------------------------------------------------------------------------------------------


def test_every_decision_tells_its_kind_of_evidence(optical: Path, sar: Path, capsys: Any) -> None:
    found = inspect(capsys, optical, sar)
    kinds = {"tag", "metadata", "description", "name", "count", "type", "values", "option"}
    assert set(evidence(found).values()) <= kinds
    assert {"optical.bands", "optical.level", "optical.offset", "optical.scale", "sar.bands", "sar.scale", "grid",
            "overlap", "optical.resampling", "sar.resampling", "coreg"} <= evidence(found).keys()  # fmt: skip
    assert all(set(decision) == {"what", "value", "how"} for decision in found["decisions"])
    told = inspect(capsys, optical, sar, "--optical-offset", "0", "--sar-scale", "db", "--optical-bands", "1,2,3,4")
    for what in ("optical.offset", "sar.scale", "optical.bands"):
        assert evidence(told)[what] == "option"


def test_the_report_for_people_names_what_matters(optical: Path, sar: Path, capsys: Any) -> None:
    assert run(["inspect", "--optical", str(optical), "--sar", str(sar)]) == 0
    text = capsys.readouterr().out
    for word in (*BANDS, "VV", "VH", "uint16", "float32", "optical.offset", "sar.scale", "EPSG:32633", "overlap",
                 "resampling", "refnet-base"):  # fmt: skip
        assert word in text, word


@pytest.mark.parametrize(
    ("sensor", "band", "shift", "warned"), [("sar", 0, 13, True), ("sar", 1, 5, False), ("optical", 3, 0, False)]
)
def test_drift_is_told_and_warned_of_above_two(
    tmp_path: Path, capsys: Any, sensor: str, band: int, shift: float, warned: bool
) -> None:
    optical, level = reflectance(), levels()
    means = np.array([*CARD.optical.mean, *CARD.sar.mean])
    deviations = np.array([*CARD.optical.std, *CARD.sar.std])
    if sensor == "sar":
        level[band] += shift
    weights = make_weights(tmp_path / "w.safetensors", CARD.optical, CARD.sar)
    pair = (write(tmp_path / "s2.tif", optical.astype(np.uint16), BANDS),
            write(tmp_path / "s1.tif", as_scale(level, "db"), ("VV", "VH"), nodata=None))  # fmt: skip
    found = inspect(capsys, *pair, "--weights", weights)
    expected = (np.array([*optical.mean((1, 2)), *level.mean((1, 2))]) - means) / deviations
    assert list(found["drift"].values()) == pytest.approx(list(expected), abs=0.15)
    name = ("VV", "VH")[band] if sensor == "sar" else BANDS[band]
    assert any(name in warning for warning in found["warnings"]) == warned
    beyond = {each for each, value in found["drift"].items() if abs(value) > 2}
    assert {each for each in found["drift"] if any(each in warning for warning in found["warnings"])} == beyond


def test_one_sensor_alone(optical: Path, sar: Path, capsys: Any) -> None:
    found = inspect(capsys, optical, None)
    assert (found["sar"], found["optical"]["offset"]) == (None, 0)
    found = inspect(capsys, None, sar)
    assert (found["optical"], found["sar"]["scale"]) == (None, "db")
    assert run(["inspect"]) in (2, 64)


def test_strict_refuses_each_guess_until_it_is_told(capsys: Any, tmp_path: Path) -> None:
    optical = without_names(tmp_path)
    sar = write(tmp_path / "s1.tif", as_scale(levels(), "db"), (None, None), nodata=None)
    told: list[str] = []
    answers = {"--optical-bands": "2,3,4,8", "--optical-offset": "0", "--sar-bands": "1,2", "--sar-scale": "db"}
    for option, answer in answers.items():
        for command, *rest in (("inspect",), ("predict", "-o", tmp_path / "x.tif")):
            code, message = refused(capsys, command, "--optical", optical, "--sar", sar, "--strict", *told, *rest)
            assert code in (64, 65)
            assert option in message
        told += [option, answer]
    found = inspect(capsys, optical, sar, "--strict", *told)
    assert found["fits"] is True
    arguments = ["predict", "--optical", optical, "--sar", sar, "--strict", *told, "-o", tmp_path / "x.tif", "-q"]
    assert run([*map(str, arguments)]) == 0
    assert not {option for option in answers if option.lstrip("-").replace("-", ".") in evidence(found)} - {
        option for option in answers if evidence(found)[option.lstrip("-").replace("-", ".")] == "option"
    }


@pytest.mark.parametrize("name", ["sentinel_hub", "planetary_computer", "hls", "scaled"])
def test_what_names_and_tags_say_is_no_guess(name: str, capsys: Any, tmp_path: Path) -> None:
    files = STYLES[name].make(tmp_path)
    sar = hyp3("G_gpuned", "power")(tmp_path)
    options = {"sentinel_hub": ("--optical-offset", "0", "--optical-scale", "reflectance"),
               "planetary_computer": ("--optical-offset", "1000")}.get(name, ())  # fmt: skip
    assert inspect(capsys, files, sar, "--strict", *options)["fits"] is True


def test_exit_codes(optical: Path, sar: Path, capsys: Any, tmp_path: Path) -> None:
    assert refused(capsys, "inspect", "--optical", tmp_path / "none.tif", "--sar", sar)[0] == 66
    assert refused(capsys, "inspect", "--optical", f"{optical},{tmp_path}/none.tif", "--sar", sar)[0] == 66
    arguments = ("predict", "--optical", optical, "--sar", sar, "-o", tmp_path / "x.tif")
    assert refused(capsys, *arguments, "--sar-bands", "1,9")[0] == 64
    assert refused(capsys, *arguments, "--optical-bands", "1,2,3")[0] == 64
    assert refused(capsys, "inspect", "--optical", optical, "--sar", sar, "--weights", tmp_path / "none")[0] == 66
    (tmp_path / "text.tif").write_text("no raster")
    assert refused(capsys, "inspect", "--optical", tmp_path / "text.tif", "--sar", sar)[0] == 65
    for wrong in (("--sar-scale", "nepers"), ("--extent", "moon"), ("--coreg", "maybe"), ("--optical-offset", "x")):
        assert run(["inspect", "--optical", str(optical), "--sar", str(sar), *wrong]) == 2
        capsys.readouterr()


def test_files_that_belong_to_different_scenes_are_refused(sar: Path, capsys: Any, tmp_path: Path) -> None:
    """Band files of two places, or one band twice, make no image."""
    near = each(tmp_path / "a", "T33TUN_20230615T101559_{}_10m.tif", reflectance().astype(np.uint16), BANDS)
    far = write(
        tmp_path / "T33TUP_20230615T101559_B08_10m.tif", reflectance(("B08",)).astype(np.uint16), (None,),
        Affine.translation(0, 90_000) @ PLACE,
    )  # fmt: skip
    assert refused(capsys, "inspect", "--optical", listed((*near[:3], far)), "--sar", sar)[0] in (64, 65)
    other = write(tmp_path / "T33TUN_20230718T101559_B08_10m.tif", reflectance(("B08",)).astype(np.uint16), (None,))
    with pytest.raises(RefnetError) as caught:
        everything((*near, other), sar)
    assert isinstance(caught.value, InputError | OptionsError)
    assert "B08" in str(caught.value)
