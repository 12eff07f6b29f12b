"""Cloud masks: rasters of several kinds, and polygons."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.quality import CLOUD_MASKS
from refnet_cli.tiles.window import Window
from tests.helpers.safe import TILES, make_optical_safe, zone_of
from tests.helpers.scenes import PLACE, write

LEFT, TOP = TILES["32TQS"]
OUTLINES = """<?xml version="1.0"?><eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0"
 xmlns:gml="http://www.opengis.net/gml/3.2"><eop:maskMembers><eop:MaskFeature gml:id="OPAQUE.0"><eop:extentOf>
<gml:Polygon gml:id="OPAQUE.0_Polygon"><gml:exterior><gml:LinearRing><gml:posList srsDimension="2">{outer}</gml:posList>
</gml:LinearRing></gml:exterior><gml:interior><gml:LinearRing><gml:posList srsDimension="2">{inner}</gml:posList>
</gml:LinearRing></gml:interior></gml:Polygon></eop:extentOf></eop:MaskFeature></eop:maskMembers></eop:Mask>"""


def ring(top: int, left: int, bottom: int, right: int) -> str:
    """Corners of a rectangle of pixels in metres."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return " ".join(f"{LEFT + 10 * column} {TOP - 10 * row}" for column, row in corners)


def make_sar(folder: Path) -> Path:
    """SAR that covers tile 32TQS."""
    sar = np.stack([np.full((240, 240), 0.08), np.full((240, 240), 0.015)]).astype(np.float32)
    sar *= np.random.default_rng(0).gamma(4, 0.25, sar.shape).astype(np.float32)
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    return write(folder / "s1.tif", sar, ("VV", "VH"), place, zone_of("32TQS"), nodata=None)


def read_cloudy(optical: Path, sar: Path) -> tuple[np.ndarray, Any, int]:
    options = SceneOptions(mask_clouds=True)
    with ScenePair.open(optical, sar, ["B02", "B11"], ["VV", "VH"], options) as pair:
        patch = pair.read(Window(0, 0, *pair.grid.shape))
        (decision,) = (found for found in pair.decisions if found.what == "optical.clouds")
        return ~patch.optical_valid, decision.value, pair.counts["optical_cloudy"]


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_outlines_with_holes(tmp_path: Path, zipped: bool) -> None:
    folder = make_optical_safe(tmp_path, "L1C", "02.09")
    (gml,) = folder.rglob("MSK_CLOUDS_B00.gml")
    gml.write_text(OUTLINES.format(outer=ring(30, 40, 90, 120), inner=ring(50, 60, 70, 100)))
    product = Path(shutil.make_archive(str(tmp_path / folder.stem), "zip", tmp_path, folder.name)) if zipped else folder
    cloudy, name, count = read_cloudy(product, make_sar(tmp_path))
    expected = np.zeros((240, 240), bool)
    expected[30:90, 40:120] = True
    expected[50:70, 60:100] = False
    np.testing.assert_array_equal(cloudy, expected)
    assert (name, count) == ("MSK_CLOUDS", expected.sum())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3", "polygon of 3 numbers"),
        ("1 2 3 4 x 6", "not a number"),
    ],
)
def test_broken_outlines_are_refused(tmp_path: Path, text: str, match: str) -> None:
    folder = make_optical_safe(tmp_path, "L1C", "02.09")
    (gml,) = folder.rglob("MSK_CLOUDS_B00.gml")
    gml.write_text(OUTLINES.format(outer=text, inner=""))
    with pytest.raises(InputError, match=match):
        read_cloudy(folder, make_sar(tmp_path))


def test_classes_and_classification(tmp_path: Path) -> None:
    """The scene classification at 20 m goes before the cloud mask at 60 m, which level 1C has alone."""
    classes = np.full((120, 120), 4, np.uint8)
    classes[10:20, 30:50] = 9
    classes[40:50, 30:50] = 3
    classes[60:70, 30:50] = 11  # snow is no cloud
    clouds = np.zeros((3, 40, 40), np.uint8)
    clouds[0, 5:8, 5:8] = clouds[1, 20:22, 5:8] = clouds[2, 30:34] = 1
    given = {"classes": {"32TQS": classes}, "clouds": {"32TQS": clouds}}
    cloudy, name, _ = read_cloudy(make_optical_safe(tmp_path / "a", "L2A", **given), make_sar(tmp_path))
    np.testing.assert_array_equal(cloudy, np.kron(np.isin(classes, (3, 9)), np.ones((2, 2))) > 0)
    assert name == "SCL"
    cloudy, name, _ = read_cloudy(make_optical_safe(tmp_path / "b", "L1C", **given), make_sar(tmp_path))
    np.testing.assert_array_equal(cloudy, np.kron(clouds[:2].any(0), np.ones((6, 6))) > 0)
    assert name == "MSK_CLASSI"


@pytest.mark.parametrize(
    ("name", "clear", "cloud"),
    [
        ("SCL", [2, 4, 5, 6, 7, 11], [0, 1, 3, 8, 9, 10]),
        ("QA60", [0, 1, 512], [1024, 2048, 3072]),
        ("FMASK", [0, 1, 16, 32, 64, 192], [2, 4, 8, 66, 255]),
        ("CLM", [0], [1, 255]),
        ("MSK_CLDPRB", [0, 49], [50, 100]),
        ("CLP", [0, 127], [128, 255]),
    ],
)
def test_what_the_numbers_mean(tmp_path: Path, name: str, clear: list[int], cloud: list[int]) -> None:
    """Each mask as a further band of a stack, as Earth Engine and Sentinel Hub write it."""
    numbers = np.array(clear + cloud, np.uint16)
    flagged = np.resize(np.array([False] * len(clear) + [True] * len(cloud)), (240, 240))
    optical = np.random.default_rng(0).integers(100, 900, (3, 240, 240)).astype(np.uint16)
    optical[2] = np.resize(numbers, (240, 240))
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    path = write(tmp_path / "s2.tif", optical, ("B2", "B11", name), place, zone_of("32TQS"), nodata=None)
    cloudy, found, count = read_cloudy(path, make_sar(tmp_path))
    np.testing.assert_array_equal(cloudy, flagged)
    assert (found, count) == (name, flagged.sum())


def test_every_mask_is_tried_above_or_by_a_product() -> None:
    assert set(CLOUD_MASKS) == {"SCL", "QA60", "FMASK", "CLM", "MSK_CLDPRB", "CLP", "MSK_CLASSI"}


def test_without_a_mask_there_is_nothing_to_mask_by(tmp_path: Path) -> None:
    optical = np.random.default_rng(0).integers(100, 900, (2, 240, 240)).astype(np.uint16)
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    path = write(tmp_path / "s2.tif", optical, ("B02", "B11"), place, zone_of("32TQS"))
    with pytest.raises(OptionsError, match="needs a cloud mask"):
        read_cloudy(path, make_sar(tmp_path))


def test_a_mask_in_three_bands_of_a_stack(tmp_path: Path) -> None:
    """Earth Engine's L1C: opaque clouds and cirrus are masked, snow is not, and reflectance is no mask."""
    optical = np.random.default_rng(0).integers(100, 900, (5, 240, 240)).astype(np.uint16)
    optical[2:] = 0
    optical[2, 10:60, 20:80] = optical[3, 100:110, 20:80] = optical[4, 200:] = 1
    names = ("B2", "B11", "MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS", "MSK_CLASSI_SNOW_ICE")
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    path = write(tmp_path / "s2.tif", optical, names, place, zone_of("32TQS"), nodata=None)
    cloudy, found, _ = read_cloudy(path, make_sar(tmp_path))
    np.testing.assert_array_equal(cloudy, optical[2:4].any(axis=0))
    assert found == "MSK_CLASSI"


def test_where_no_mask_reaches_nothing_is_clear(tmp_path: Path) -> None:
    optical = np.random.default_rng(0).integers(100, 900, (2, 240, 240)).astype(np.uint16)
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    stack = write(tmp_path / "s2.tif", optical, ("B2", "B11"), place, zone_of("32TQS"))
    mask = write(tmp_path / "SCL.tif", np.full((1, 60, 80), 4, np.uint8), ("SCL",), place, zone_of("32TQS"))
    with ScenePair.open((stack, mask), make_sar(tmp_path), ["B02"], ["VV"], SceneOptions(mask_clouds=True)) as pair:
        clear = pair.read(Window(0, 0, 240, 240)).optical_valid
    assert clear[:60, :80].all()
    assert clear.sum() == 60 * 80


def test_a_granule_without_a_mask_leaves_the_product_without_one(tmp_path: Path) -> None:
    tiles = {"32TQS": (LEFT, TOP), "32TQT": (LEFT, TOP + 2400)}
    folder = make_optical_safe(tmp_path, "L2A", "05.09", tiles=tiles)
    for path in (folder / "GRANULE").glob("*TQT*/IMG_DATA/*/*SCL*"):
        path.unlink()
    for path in (folder / "GRANULE").glob("*TQT*/QI_DATA/*CLASSI*"):
        path.unlink()
    with pytest.raises(OptionsError, match="needs a cloud mask"):
        read_cloudy(folder, make_sar(tmp_path))


def test_an_averaged_pixel_is_as_cloudy_as_what_is_cloudiest_in_it(tmp_path: Path) -> None:
    optical = np.random.default_rng(0).integers(100, 900, (3, 240, 240)).astype(np.uint16)
    optical[2] = 4
    optical[2, 41, 83] = 9
    place = type(PLACE)(10, 0, LEFT, 0, -10, TOP)
    stack = write(tmp_path / "s2.tif", optical, ("B2", "B11", "SCL"), place, zone_of("32TQS"))
    wide = place @ place.scale(10)
    coarse = write(tmp_path / "g.tif", np.ones((1, 24, 24), np.uint8), ("x",), wide, zone_of("32TQS"))
    options = SceneOptions(mask_clouds=True, grid=coarse)
    with ScenePair.open(stack, make_sar(tmp_path), ["B02"], ["VV"], options) as pair:
        cloudy = ~pair.read(Window(0, 0, 24, 24)).optical_valid
        assert "100 m wide" in " ".join(pair.warnings)
    assert np.argwhere(cloudy).tolist() == [[4, 8]]
