"""SAFE products: their metadata, and what is refused."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.sensors.calibration import Calibration
from refnet_cli.sensors.safe.files import is_safe
from refnet_cli.sensors.safe.optical import OpticalProduct
from refnet_cli.sensors.safe.read import read_safe
from refnet_cli.sensors.safe.sar import SarProduct
from refnet_cli.sensors.sentinel2 import BANDS
from tests.helpers.safe import (
    NATIVE,
    TILES,
    at_resolution,
    bilinear_constants,
    make_grd_safe,
    make_optical_safe,
    random_ground,
    zone_of,
)

Edit = Callable[[str], str]


def optical(path: Path) -> OpticalProduct:
    product = read_safe(path)
    assert isinstance(product, OpticalProduct)
    return product


def sar(path: Path) -> SarProduct:
    product = read_safe(path)
    assert isinstance(product, SarProduct)
    return product


def read(path: str) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def edit(path: Path, change: Edit) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")


def check_bands(product: OpticalProduct, seeds: tuple[int, ...] = (0,)) -> None:
    """Every band opens through GDAL at its finest resolution and place, and gives the reflectance written."""
    for granule, seed in zip(product.granules, seeds, strict=True):
        ground = random_ground(seed=seed)
        finest = dict(NATIVE, B01=20) if product.level == "L2A" and product.baseline >= "04.00" else NATIVE
        assert list(granule.bands) == [b for b in sorted(BANDS) if product.level == "L1C" or b != "B10"]
        tile = re.search(r"_T(\d\d[A-Z]{3})", granule.name)[1]
        assert granule.zone == zone_of(tile)
        for band, path in granule.bands.items():
            with rasterio.open(path) as file:
                numbers = file.read(1)
                assert file.crs.to_string() == granule.zone
                corner = TILES[tile]
                assert file.transform == Affine(finest[band], 0, corner[0], 0, -finest[band], corner[1])
            reflectance = (numbers - product.offsets[band]) / product.quantification
            expected = at_resolution(ground[band], finest[band])
            kept = expected > 1 / product.quantification if product.offsets[band] == 0 else expected > -1
            np.testing.assert_allclose(reflectance[kept], expected[kept], atol=0.51e-4)
            assert (numbers > 0).all()


@pytest.mark.parametrize(
    ("level", "baseline", "given"),
    [
        ("L1C", "02.06", "folder"), ("L1C", "04.00", "metadata"), ("L2A", "03.01", "zip"), ("L2A", "05.11", "manifest"),
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("L1C", "03.01", "zip"), ("L1C", "05.11", "manifest"), ("L1C", "05.11", "zip"), ("L2A", "02.06", "folder"),
            ("L2A", "04.00", "metadata"), ("L2A", "05.11", "zip"),
        )),
    ],
)
def test_optical_products_of_all_times(tmp_path, level, baseline, given):
    path = make_optical_safe(tmp_path, level, baseline, zipped=given == "zip")
    name = path.name.removesuffix(".zip").removesuffix(".SAFE")
    path = {"metadata": path / f"MTD_MSI{level}.xml", "manifest": path / "manifest.safe"}.get(given, path)
    assert is_safe(path)
    product = optical(path)
    offset = 1000.0 if baseline >= "04.00" else 0.0
    assert (product.name, product.level, product.baseline, product.quantification) == (name, level, baseline, 10_000)
    assert product.path == (path if given in ("folder", "zip") else path.parent)
    assert product.offsets == dict.fromkeys(BANDS, offset)
    tag = "RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET"
    found = f"tag: {tag}=-1000 in" if offset else f"has no {tag}, and its processing baseline is {baseline}."
    assert found in product.offset_how
    check_bands(product)
    (granule,) = product.granules
    newer = "CLASSI" if baseline >= "04.00" else "CLOUDS"
    assert set(granule.masks) == {newer, *(["SCL"] if level == "L2A" else [])}
    if level == "L2A":
        assert read(granule.masks["SCL"]).shape == (1, 120, 120)
        assert (read(granule.masks["SCL"]) == 4).all()
    if newer == "CLASSI":
        assert read(granule.masks["CLASSI"]).shape == (3, 40, 40)


@pytest.mark.parametrize("zipped", [False, True])
def test_old_product_of_several_granules_in_two_zones(tmp_path, zipped):
    path = make_optical_safe(tmp_path, "L1C", "02.01", tiles=TILES, zipped=zipped)
    product = optical(path)
    assert product.name.startswith("S2A_OPER_PRD_MSIL1C_PDMC_")
    assert [granule.zone for granule in product.granules] == ["EPSG:32632", "EPSG:32633"]
    check_bands(product, (0, 1))
    assert all(granule.masks["CLOUDS"].endswith("_B00_MSIL1C.gml") for granule in product.granules)
    if not zipped:
        (metadata,) = path.glob("S2A_OPER_MTD_SAFL1C_*.xml")
        assert optical(metadata) == product


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("level", "baseline"), [("L1C", "02.01"), ("L2A", "02.05"), ("L2A", "05.09")])
def test_gdal_takes_the_products_of_these_tests_for_real_ones(tmp_path, level, baseline):
    path = make_optical_safe(tmp_path, level, baseline)
    (granule,) = optical(path).granules
    (metadata,) = (file for file in path.iterdir() if "MTD" in file.name)
    with rasterio.open(metadata, driver="SENTINEL2") as file:
        finest = next(name for name in file.subdatasets if ":10m:" in name)
    np.testing.assert_array_equal(
        read(finest)[:4], np.concatenate([read(granule.bands[n]) for n in ("B04", "B03", "B02", "B08")])
    )


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    folder, packed = make_optical_safe(tmp_path), make_grd_safe(tmp_path, zipped=True)
    monkeypatch.chdir(tmp_path)
    assert optical(Path(folder.name)) == optical(folder)
    assert sar(Path(packed.name)).measurements == sar(packed).measurements
    monkeypatch.chdir(folder)
    assert optical(Path(".")) == optical(Path("MTD_MSIL2A.xml")) == optical(folder)


def test_first_level_2a_names(tmp_path):
    """Users' own level 2A products of 2016 put the content in the middle of long names, without resolution folders."""
    path = make_optical_safe(tmp_path, "L2A", "02.04")
    (granule,) = (path / "GRANULE").iterdir()
    for image in sorted(granule.glob("IMG_DATA/R*m/*.jp2")):
        content, metres = image.stem.split("_")[-2:]
        names = {"SCL": f"S2A_USER_SCL_L2A_TL_SGS__20160119T144513_A003008_T32TQS_{metres}.jp2"}
        image.rename(image.parent / names.get(content, f"S2A_USER_MSI_L2A_TL_SGS__T32TQS_{content}_{metres}.jp2"))
    classes = next(granule.glob("IMG_DATA/R20m/*SCL*"))
    classes.rename(granule / "IMG_DATA" / classes.name)
    (granule / "MTD_TL.xml").rename(granule / "S2A_USER_MTD_L2A_TL_SGS__20160119T144513_A003008_T32TQS.xml")
    (path / "MTD_MSIL2A.xml").rename(path / "S2A_USER_MTD_SAFL2A_PDMC_20160119T144513.xml")
    product = optical(path)
    check_bands(product)
    assert read(product.granules[0].masks["SCL"]).shape == (1, 120, 120)


@pytest.mark.parametrize(
    ("baseline", "offset", "how"),
    [
        ("05.09", 1000.0, "its processing baseline is 05.09; 1000 is added from 04.00 on."),
        ("99.99", 0.0, "has no BOA_ADD_OFFSET, and its processing baseline is 99.99."),
    ],
)
def test_offsets_that_are_not_listed(tmp_path, baseline, offset, how):
    product = optical(make_optical_safe(tmp_path, baseline=baseline, listed=False))
    assert product.offsets == dict.fromkeys(BANDS, offset)
    assert product.offset_how.endswith(how)
    check_bands(product)


def test_offsets_that_differ_between_bands(tmp_path):
    path = make_optical_safe(tmp_path)
    edit(path / "MTD_MSIL2A.xml", lambda text: text.replace('band_id="8">-1000<', 'band_id="8"> -900.5\n<'))
    product = optical(path)
    assert product.offsets == dict.fromkeys(BANDS, 1000.0) | {"B8A": 900.5}
    assert product.offset_how == "tag: BOA_ADD_OFFSET=-1000 to -900.5 in MTD_MSIL2A.xml."


def test_other_quantification(tmp_path):
    path = make_optical_safe(tmp_path, "L1C", "02.01")
    (metadata,) = path.glob("S2A_OPER_MTD_SAFL1C_*.xml")
    edit(metadata, lambda text: text.replace(">10000<", ">1000<"))
    assert optical(path).quantification == 1000


def test_zone_from_the_tile_where_the_metadata_is_missing_or_silent(tmp_path):
    path = make_optical_safe(tmp_path, tiles={"55HBU": (600_000, 6_000_000)}, baseline="03.01")
    (metadata,) = path.glob("GRANULE/*/MTD_TL.xml")
    edit(metadata, lambda text: text.replace("HORIZONTAL_CS_CODE", "OTHER"))
    assert optical(path).granules[0].zone == "EPSG:32755"
    metadata.unlink()
    assert optical(path).granules[0].zone == "EPSG:32755"


def test_product_renamed_by_its_owner(tmp_path):
    path = make_optical_safe(tmp_path).rename(tmp_path / "my scene")
    product = optical(path)
    assert is_safe(path)
    assert product.name == "S2B_MSIL2A_20220125T101229_N0509_R022_T32TQS_20220125T125411"
    edit(path / "MTD_MSIL2A.xml", lambda text: text.replace(">S2B_MSIL2A", ">../S2B_MSIL2A"))
    assert optical(path).name == "my scene"


def test_files_that_some_systems_add_are_left_out(tmp_path):
    path = make_optical_safe(tmp_path)
    product = optical(path)
    for image in list(path.rglob("*.*")):
        image.with_name(f"._{image.name}").touch()
    assert optical(path) == product


def test_zip_of_the_content_without_its_folder(tmp_path):
    path = make_optical_safe(tmp_path)
    packed = tmp_path / "scene.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for member in path.rglob("*"):
            file.write(member, member.relative_to(path))
        file.writestr("__MACOSX/._MTD_MSIL2A.xml", "")
    assert is_safe(packed)
    check_bands(optical(packed))


@pytest.mark.parametrize("given", ["folder", "manifest", "zip"])
def test_grd(tmp_path, given):
    path = make_grd_safe(tmp_path, zipped=given == "zip")
    path = path / "manifest.safe" if given == "manifest" else path
    assert is_safe(path)
    product = sar(path)
    assert product.name == "S1B_IW_GRDH_1SDV_20210401T052623_20210401T052648_026269_032297_ECC8"
    assert (product.kind, product.mode, product.processor) == ("GRD", "IW", "003.31")
    assert product.start == "2021-04-01T05:26:23.794457"
    assert list(product.measurements) == list(product.calibrations) == ["VV", "VH"]
    for name, mean in (("VV", 0.08), ("VH", 0.015)):
        with rasterio.open(product.measurements[name]) as file:
            numbers = file.read(1).astype(float)
            points, crs = file.gcps
        constant = product.calibrations[name].gamma(0, 0, *numbers.shape)
        assert constant.dtype == np.float32
        np.testing.assert_allclose(constant, bilinear_constants(*np.indices(numbers.shape)), rtol=1e-6)
        assert (numbers**2 / constant**2).mean() == pytest.approx(mean, rel=0.01)
        assert len(points) == 210
        assert crs.to_epsg() == 4326


def test_grd_as_a_public_cloud_names_its_files(tmp_path):
    path = make_grd_safe(tmp_path)
    for file in [*path.rglob("*.tiff"), *path.rglob("*.xml")]:
        file.rename(file.with_name(re.sub(r"s1b-iw-grd-(\w+)-.*\.", r"iw-\1.", file.name)))
    product = sar(path)
    assert Path(product.measurements["VH"]).name == "iw-vh.tiff"
    assert product.calibrations.keys() == {"VV", "VH"}


def slow_constant(calibration: Calibration, row: int, column: int) -> float:
    """Bilinear interpolation as one would write it down, pixel by pixel."""

    def blend(position: float, places: np.ndarray, values: list[float]) -> float:
        if position <= places[0] or position >= places[-1]:
            return values[0] if position <= places[0] else values[-1]
        after = next(n for n, place in enumerate(places) if place > position)
        share = (position - places[after - 1]) / (places[after] - places[after - 1])
        return values[after - 1] * (1 - share) + values[after] * share

    vectors = zip(calibration.pixels, calibration.constants, strict=True)
    return blend(row, calibration.lines, [blend(column, pixels, list(values)) for pixels, values in vectors])


@pytest.mark.parametrize("window", [(0, 0, 300, 130), (117, 35, 9, 50), (350, 90, 60, 60), (240, 129, 1, 1)])
def test_calibration_equals_a_slow_loop(tmp_path, window):
    power = {"HH": np.full((300, 130), 0.1)}

    def uneven(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return 500 + 90 * np.sin(rows / 50 + columns / 30)

    path = make_grd_safe(tmp_path, power=power, constants=uneven)
    (metadata,) = path.glob("annotation/calibration/calibration-*-hh-*.xml")
    # The second vector leaves out a pixel of the others; the last comes before its turn.
    edit(metadata, lambda text: drop_pixel(swap_vectors(text)))
    calibration = sar(path).calibrations["HH"]
    assert list(calibration.lines) == [0, 120, 240, 360]
    assert [len(pixels) for pixels in calibration.pixels] == [5, 4, 5, 5]
    row, column, height, width = window
    slow = [[slow_constant(calibration, row + y, column + x) for x in range(width)] for y in range(height)]
    np.testing.assert_allclose(calibration.gamma(*window), slow, rtol=1e-6)


def swap_vectors(text: str) -> str:
    *_, third, fourth = re.findall(r"<calibrationVector>.*?</calibrationVector>", text, re.DOTALL)
    return text.replace(fourth, "@").replace(third, fourth).replace("@", third)


def drop_pixel(text: str) -> str:
    vectors = re.findall(r"<calibrationVector>.*?</calibrationVector>", text, re.DOTALL)
    shorter = re.sub(r">([^ <]+) [^ <]+ ([^<]*)<", r">\1 \2<", vectors[1])
    return text.replace(vectors[1], shorter)


def test_a_single_vector_holds_everywhere():
    calibration = Calibration(np.array([3.0]), (np.array([0.0, 4.0]),), (np.array([2.0, 4.0]),))
    assert calibration.gamma(0, 0, 5, 6).tolist() == [[2, 2.5, 3, 3.5, 4, 4]] * 5
    with pytest.raises(ValueError, match="no calibration"):
        calibration.gamma(0, 0, 0, 6)


def refuse(path: Path, match: str, error: type[Exception] = InputError) -> None:
    with pytest.raises(error, match=match) as caught:
        read_safe(path)
    assert str(path) in str(caught.value)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>\n<n1:'


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace("<n1:", BOMB, 1), "document type"),
        (lambda text: text.replace("<n1:", '<!DOCTYPE x SYSTEM "file:///etc/passwd"><n1:', 1), "document type"),
        (lambda text: text[: len(text) // 2], "cannot be read as XML"),
        (lambda text: "", "cannot be read as XML"),
        (lambda text: text.replace("UTF-8", "no-such-code"), "cannot be read as XML"),
        (lambda text: text.replace("Level-2A_User_Product", "Level-1B_User_Product"), "'Level-1B_User_Product'"),
        (lambda text: "<html>" + "x" * 200 + "</html>", "'html'"),
        (lambda text: text.replace("05.09", "5.9 or so"), "invalid processing baseline '5.9 or so'"),
        (lambda text: text.replace("BOA_Q", "OTHER_Q"), "'' for BOA_QUANTIFICATION_VALUE"),
        (lambda text: text.replace(">10000<", ">0<"), "must be above 0"),
        (lambda text: text.replace(">10000<", ">nan<"), "not a number"),
        (lambda text: text.replace('"8">-1000', '"8">much'), "'much' for BOA_ADD_OFFSET"),
        (lambda text: text.replace('band_id="12"', 'band_id="13"'), "unknown band '13'"),
        (lambda text: text.replace('<BOA_ADD_OFFSET band_id="1">-1000</BOA_ADD_OFFSET>', ""), "ADD_OFFSET for B02"),
    ],
)
def test_optical_metadata_is_refused(tmp_path, change, match):
    path = make_optical_safe(tmp_path, reflectance={"32TQS": {"B02": np.full((60, 60), 0.1)}})
    edit(path / "MTD_MSIL2A.xml", change)
    assert is_safe(path)
    refuse(path, match)


@pytest.mark.parametrize(
    ("pattern", "change", "match"),
    [
        ("manifest.safe", lambda text: text.replace("GRD</", "SLC</"), r"complex \(SLC\).*terrain-corrected"),
        ("manifest.safe", lambda text: text.replace("GRD</", "OCN</"), "product type 'OCN'"),
        ("manifest.safe", lambda text: text.replace("<xfdu", BOMB.replace("<n1:", "<xfdu"), 1), "document type"),
        ("**/calibration-*-vh-*", lambda text: text[:-40], "cannot be read as XML"),
        ("**/calibration-*-vh-*", lambda text: re.sub(">0 40 ", ">0 ", text, count=1), "do not match"),
        ("**/calibration-*-vh-*", lambda text: text.replace(">0 40 ", ">40 0 ", 1), "do not match"),
        ("**/calibration-*-vh-*", lambda text: re.sub('(<gamma count="11">)', r"\1-", text), "not above 0"),
        ("**/calibration-*-vh-*", lambda text: re.sub('(<gamma count="11">)', r"\1nan", text), "not all numbers"),
        ("**/calibration-*-vh-*", lambda text: text.replace("<line>0<", "<line>none<"), "'none' for a vector's line"),
        ("**/calibration-*-vh-*", lambda text: text.replace("calibrationVector>", "other>"), "no calibration vectors"),
    ],
)
def test_sar_metadata_is_refused(tmp_path, pattern, change, match):
    path = make_grd_safe(tmp_path)
    (file,) = path.glob(pattern)
    edit(file, change)
    refuse(path, match)


def test_incomplete_products(tmp_path):
    optical_path = make_optical_safe(tmp_path, reflectance={"32TQS": {"B02": np.full((60, 60), 0.1)}})
    (granule,) = optical_path.glob("GRANULE/*")
    shutil.rmtree(granule / "IMG_DATA")
    refuse(optical_path, "contains no band images")
    shutil.rmtree(optical_path / "GRANULE")
    refuse(optical_path, "contains no granules")
    (optical_path / "MTD_MSIL1C.xml").touch()
    refuse(optical_path, "several products")
    sar_path = make_grd_safe(tmp_path)
    image = next(sar_path.glob("measurement/*-vv-*"))
    shutil.copy(image, image.with_name("iw-vv.tiff"))
    refuse(sar_path, "contains both")
    shutil.rmtree(sar_path / "annotation")
    image.unlink()
    refuse(sar_path, "no calibration of VH, VV")
    shutil.rmtree(sar_path / "measurement")
    refuse(sar_path, "no images in measurement")


@pytest.mark.parametrize(("code", "match"), [("EPSG:4326", "not a UTM zone"), ("", "UTM zone of granule")])
def test_granules_without_a_zone(tmp_path, code, match):
    path = make_optical_safe(tmp_path, reflectance={"32TQS": {"B02": np.full((60, 60), 0.1)}})
    (granule,) = path.glob("GRANULE/*")
    edit(granule / "MTD_TL.xml", lambda text: text.replace("EPSG:32632", code))
    granule.rename(granule.with_name("granule"))
    refuse(path, match)


def test_what_is_no_product(tmp_path):
    (tmp_path / "scene.zip").write_bytes(b"not a zip" * 100)
    (tmp_path / "scene.tif").write_bytes(b"II")
    empty = tmp_path / "S2B_MSIL2A.SAFE"
    empty.mkdir()
    for path, match in (
        (empty, "contains none of MTD_MSIL1C.xml"),
        (tmp_path / "scene.zip", "cannot be read as a zip"),
        (tmp_path / "scene.tif", "zip of a SAFE product"),
    ):
        assert is_safe(path) == (path == empty)
        refuse(path, match)
    for missing in ("S2B_MSIL2A_none.SAFE", "manifest.safe", "x" * 300):
        assert not is_safe(tmp_path / missing)
        refuse(tmp_path / missing, "does not exist|cannot be read", InputMissingError)
    assert not is_safe(tmp_path)


def test_unreadable_metadata(tmp_path, monkeypatch):
    path = make_grd_safe(tmp_path)

    def forbid(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    refuse(path, r"\(Permission denied\). Check its permissions", InputMissingError)


def test_truncated_zips(tmp_path):
    whole = make_optical_safe(tmp_path, zipped=True)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    assert is_safe(whole)  # by its name, so that its user learns what is wrong with it
    refuse(whole, "cannot be read as a zip.*Re-download")
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("S2.SAFE/MTD_MSIL2A.xml", "<whole/>")
    whole.write_bytes(whole.read_bytes().replace(b"<whole/>", b"<other/>"))
    refuse(whole, r"cannot be read as XML \(Bad CRC-32")


@pytest.mark.parametrize("name", ["../evil.jp2", "/evil.jp2", "S2.SAFE/../../evil.jp2", "C:/evil.jp2", "..\\evil.jp2"])
def test_zips_that_lead_out_of_their_folder(tmp_path, name):
    path = tmp_path / "S2.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("S2.SAFE/MTD_MSIL2A.xml", "<x/>")
        file.writestr(name, "")
    assert is_safe(path)
    refuse(path, "point outside the archive")


def test_zips_of_too_much(tmp_path, monkeypatch):
    path = tmp_path / "S2.zip"
    with zipfile.ZipFile(path, "w") as file:
        for product in "ab":
            file.writestr(f"{product}.SAFE/MTD_MSIL2A.xml", "<x/>")
    refuse(path, "contains 2 SAFE products")
    monkeypatch.setattr("refnet_cli.sensors.safe.files._MEMBERS", 1)
    refuse(path, "contains 2 files")
    refuse(make_grd_safe(tmp_path), "over 1 files")


def test_xml_that_unpacks_to_too_much(tmp_path):
    path = tmp_path / "S2.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("MTD_MSIL2A.xml", "w") as member:
        for _ in range(65):
            member.write(b" " * 2**20)
    refuse(path, "larger than 16 MB")
