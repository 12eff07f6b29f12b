"""Resolution of a user's paths: folders, zips, products in folders, pictures next to bands, sidecar files."""

from __future__ import annotations

import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, InputMissingError, RefnetError
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.inputs import find_files
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import few
from tests.helpers.safe import TILES, make_grd_safe, make_optical_safe
from tests.helpers.scenes import PLACE, write

BANDS = ("B02", "B03", "B04", "B08")
RADAR = ("VV", "VH")
SIDE = 72
HYP3 = "S1A_IW_20220721T051225_DVP_RTC10_G_gpuned_8A1C"
NRB = "S1A_IW_NRB__1SDV_20220721T051225_043835_053C58_33TUK_4F09"


def optical_image() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 3000, (4, SIDE, SIDE)).astype(np.uint16)


def power() -> np.ndarray:
    random = np.random.default_rng(1)
    return (np.array([0.08, 0.015])[:, None, None] * random.gamma(4, 0.25, (2, SIDE, SIDE))).astype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Plain stacks of both sensors."""
    return (
        write(tmp_path / "plain-s2.tif", optical_image(), BANDS),
        write(tmp_path / "plain-s1.tif", power(), RADAR, nodata=None),
    )


def band_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, band in zip(BANDS, optical_image(), strict=True):
        write(folder / f"scene_{name}.tif", band[None], ("",))
    return folder


def hyp3(folder: Path) -> Path:
    """A product as HyP3 unpacks it, with what else lies in it."""
    product = folder / HYP3
    product.mkdir(parents=True)
    for name, band in zip(RADAR, power(), strict=True):
        write(product / f"{HYP3}_{name}.tif", band[None], ("",), nodata=0)
    write(product / f"{HYP3}_rgb.tif", np.full((3, SIDE, SIDE), 90, np.uint8), ("", "", ""))
    write(product / f"{HYP3}_ls_map.tif", np.full((1, SIDE, SIDE), 1, np.uint8), ("",))
    (product / f"{HYP3}.README.md.txt").write_text("about")
    return product


def nrb(folder: Path) -> Path:
    """A normalised radar backscatter product, with the rasters that lie next to the measurements."""
    product = folder / NRB
    for inner in ("measurement", "annotation"):
        (product / inner).mkdir(parents=True)
    (product / "manifest.safe").write_text(
        '<xfdu xmlns:s="http://a.org/s"><s:productType>NRB</s:productType></xfdu>', encoding="utf-8"
    )
    stem = "s1a-iw-nrb-20220721t051225-043835-053c58-33tuk"
    for name, band in zip(RADAR, power(), strict=True):
        write(product / "measurement" / f"{stem}-{name.lower()}-g-lin.tif", band[None], ("",), nodata=-9999)
        (product / "measurement" / f"{stem}-{name.lower()}-g-log.vrt").write_text("<VRTDataset/>")
        write(product / "annotation" / f"{stem}-ei-{name.lower()}.tif", band[None], ("",), nodata=-9999)
    return product


def zipped(path: Path) -> Path:
    """A zip of a folder, next to it."""
    return Path(shutil.make_archive(str(path), "zip", path.parent, path.name))


def moved_into(folder: Path, path: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.move(path, folder)
    return folder


def opened(optical: Any, sar: Any, **options: Any) -> ScenePair:
    return ScenePair.open(optical, sar, BANDS, RADAR, SceneOptions(**options))


def assert_reads_as(pair: tuple[Path, Path], optical: Any, sar: Any, **options: Any) -> None:
    with opened(*pair) as plain, opened(optical, sar, **options) as found:
        window = Window(0, 0, *plain.grid.shape)
        for expected, values in zip(plain.read(window), found.read(window), strict=True):
            assert np.isfinite(expected).any()
            np.testing.assert_array_equal(values, expected)


SAR_PLACES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: hyp3(folder),
    "folder in a folder": lambda folder: hyp3(folder / "downloads").parent,
    "zip": lambda folder: zipped(hyp3(folder)),
    "zip in a folder": lambda folder: moved_into(folder / "zips", zipped(hyp3(folder))),
    "NRB": nrb,
    "NRB in a folder": lambda folder: nrb(folder / "products").parent,
    "zip of NRB": lambda folder: zipped(nrb(folder)),
    "measurement of NRB": lambda folder: nrb(folder) / "measurement",
}


@pytest.mark.parametrize(
    "place", few(SAR_PLACES, "folder in a folder", "zip", "zip in a folder", "NRB", "measurement of NRB")
)
def test_terrain_corrected_products_wherever_they_lie(tmp_path: Path, pair: tuple[Path, Path], place: str) -> None:
    given = SAR_PLACES[place](tmp_path / "in")
    with opened(pair[0], given) as found:
        (scale,) = (decision for decision in found.decisions if decision.what == "sar.scale")
        assert (scale.value, scale.how.partition(":")[0]) == ("power", "name")
    assert_reads_as(pair, pair[0], given)


def test_a_zip_of_band_files(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    archive = zipped(band_files(tmp_path / "scene"))
    assert_reads_as(pair, archive, pair[1])
    with opened(archive, pair[1]) as found:
        assert found.files == [archive, pair[1]]
    out = tmp_path / "map.tif"
    assert run(["predict", "--optical", str(archive), "--sar", str(pair[1]), "-o", str(out), "-q"]) == 0
    assert out.exists()


def add_dot_files(folder: Path) -> None:
    (folder / "._scene_B02.tif").write_bytes(b"\0\5\26\7Mac OS X")
    (folder / ".scene_B03.tif.swp.tif").write_bytes(b"")


def add_pictures(folder: Path) -> None:
    picture = np.full((3, SIDE, SIDE), 90, np.uint8)
    (folder / "quicklook.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "preview.png").write_bytes(b"\x89PNG")
    for name in ("thumbnail", "browse"):
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=3, height=SIDE, width=SIDE, dtype="uint8"
        ) as file:  # fmt: skip
            file.write(picture)
    write(folder / "T33UUP_20200101T101010_TCI_10m.tif", picture, ("", "", ""))


def add_other_sensor(folder: Path) -> None:
    write(folder / "s1.tif", power(), RADAR, nodata=None)
    write(folder / "scene_VV.tif", power()[:1], ("",), nodata=None)


@pytest.mark.parametrize("add", [add_dot_files, add_pictures, add_other_sensor])
def test_what_lies_next_to_bands_is_passed_over(
    tmp_path: Path, pair: tuple[Path, Path], add: Callable[[Path], None]
) -> None:
    folder = band_files(tmp_path / "scene")
    add(folder)
    assert_reads_as(pair, folder, pair[1])


def test_a_band_without_a_place_is_no_picture(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = band_files(tmp_path / "scene")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(
        folder / "scene_B08.tif", "w", driver="GTiff", count=1, height=SIDE, width=SIDE, dtype="uint16"
    ) as file:  # fmt: skip
        file.write(optical_image()[3:])
    with pytest.raises(InputError, match=r"scene_B08\.tif.*no coordinate reference system"):
        opened(folder, pair[1])


def test_a_folder_of_pictures_alone_is_said(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    add_pictures(folder)
    (folder / "T33UUP_20200101T101010_TCI_10m.tif").unlink()
    with pytest.raises(InputMissingError, match="pictures without georeferencing"):
        opened(folder, pair[1])


def test_a_safe_folder_within_a_folder_is_found(tmp_path: Path) -> None:
    left, top = TILES["32TQS"]
    product = make_optical_safe(tmp_path / "in")
    sar = write(
        tmp_path / "s1.tif", power(), RADAR, PLACE.__class__(10, 0, left, 0, -10, top), "EPSG:32632", nodata=None
    )
    with opened(product, sar) as plain, opened(tmp_path / "in", sar) as found:
        assert found.grid == plain.grid
        assert found.files == plain.files
    grd = make_grd_safe(tmp_path / "radar")
    for given in (grd, tmp_path / "radar"):
        (files,) = find_files(given, "sar", SceneOptions(allow_gcps=True))
        assert files.product is not None
        assert files.product.path == grd
        with pytest.raises(InputError, match="not terrain-corrected"):
            find_files(given, "sar", SceneOptions())


def test_products_of_each_sensor_in_one_folder_are_told_apart_and_several_of_one_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    optical, sar = make_optical_safe(folder), nrb(folder)
    for modality, product in (("optical", optical), ("sar", sar)):
        (files, *_) = find_files(folder, modality, SceneOptions())
        assert all(str(path).startswith(str(product)) for path in files.on_disk(range(len(files.paths))))
    shutil.move(zipped(hyp3(tmp_path / "other")), folder)  # whose terrain model is no optical image
    assert find_files(folder, "optical", SceneOptions())[0].product is not None
    shutil.copytree(sar, folder / sar.name.replace("4F09", "0000"))
    with pytest.raises(InputError, match=r"3 usable products.*RTC10.*0000.*4F09"):
        find_files(folder, "sar", SceneOptions())


def test_a_product_next_to_files_that_do_not_fit_is_named(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    product = make_optical_safe(tmp_path / "in")
    shutil.copy(pair[1], tmp_path / "in" / "s1.tif")
    with pytest.raises(InputError, match=re.escape(str(product))):
        opened(tmp_path / "in", pair[1])


@pytest.mark.parametrize("member", ["../evil_VV.tif", "/evil_VV.tif", "a/../../evil_VV.tif", "..\\evil_VV.tif"])
def test_zips_that_lead_out_of_their_folder_are_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / f"{HYP3}.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, b"II*\0")
    with pytest.raises(InputError, match="point outside the archive"):
        find_files(path, "sar", SceneOptions())


def too_many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(3):
            file.writestr(f"{number}.tif", b"")


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("VV.tif", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("VV.tif", b"")


def cut_off(path: Path) -> None:
    archive = zipped(hyp3(path.parent / "whole"))
    path.write_bytes(archive.read_bytes()[:-200])


def without_rasters(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", b"")


@pytest.mark.parametrize(
    ("make", "match"),
    [(too_many, "contains 3 files"), (twice, "of the same name"), (cut_off, "cannot be read as a zip"),
     (without_rasters, "contains no")],
)  # fmt: skip
def test_zips_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], match: str
) -> None:
    monkeypatch.setattr("refnet_cli.sensors.safe.files._MEMBERS", 2)
    path = tmp_path / "given.zip"
    make(path)
    with pytest.raises(InputError, match=match):
        find_files(path, "sar", SceneOptions())


def test_a_header_in_a_zip_is_checked_before_it_is_read(tmp_path: Path) -> None:
    """As are those on the disk: of an image that claims very many images."""
    product = hyp3(tmp_path / "in")
    image = product / f"{HYP3}_VV.tif"
    data = image.read_bytes()
    first = struct.unpack_from("<I", data, 4)[0]
    entry = struct.pack("<HHHII", 1, 256, 3, 1, 9)
    chain = b"".join(entry + struct.pack("<I", len(data) + 18 * (number + 1)) for number in range(400))
    count = struct.unpack_from("<H", data, first)[0]
    end = first + 2 + 12 * count
    image.write_bytes(data[:end] + struct.pack("<I", len(data)) + data[end + 4 :] + chain)
    with pytest.raises(InputError, match="contains more than 256 images"):
        Raster(image, "SAR")
    optical = write(tmp_path / "s2.tif", optical_image(), BANDS)
    with pytest.raises(InputError, match="contains more than 256 images"):
        opened(optical, zipped(product))


# --- files next to an image ------------------------------------------------------------------------------------------


def without(path: Path, names: bool = True, crs: bool = False, place: bool = False) -> Path:
    """Write the optical image, lacking things that a sidecar may hold."""
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=SIDE, width=SIDE, dtype="uint16", nodata=0,
        crs=None if crs else "EPSG:32633", transform=None if place else PLACE,
    ) as file:  # fmt: skip
        file.write(optical_image())
        if not names:
            file.descriptions = BANDS
    return path


NAMES = "".join(
    f'<PAMRasterBand band="{number}"><Description>{name}</Description></PAMRasterBand>'
    for number, name in enumerate(BANDS, 1)
)
COLOURS = "".join(
    f'<PAMRasterBand band="{number}"><ColorInterp>{colour}</ColorInterp></PAMRasterBand>'
    for number, colour in enumerate(("Blue", "Green", "Red", "NIR"), 1)
)
BAND_TAGS = "".join(
    f'<PAMRasterBand band="{number}"><Metadata><MDI key="BandName">{name}</MDI></Metadata></PAMRasterBand>'
    for number, name in enumerate(BANDS, 1)
)
NUMBERED_TAGS = "<Metadata>" + "".join(
    f'<MDI key="Band_{number}">{name}</MDI>' for number, name in enumerate(("Blue", "Green", "Red", "NIR"), 1)
) + "</Metadata>"  # fmt: skip
WKT = rasterio.CRS.from_epsg(32633).to_wkt()
SRS = f"<PAMDataset><SRS>{WKT}</SRS></PAMDataset>"
WORLD = "10\n0\n0\n-10\n500005\n5299995\n"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("lacks", "sidecars"),
    [
        ({"names": True}, {"s2.tif.aux.xml": f"<PAMDataset>{NAMES}</PAMDataset>"}),
        ({"names": True}, {"s2.tif.aux.xml": f"<PAMDataset>{COLOURS}</PAMDataset>"}),
        ({"names": True}, {"s2.tif.aux.xml": f"<PAMDataset>{BAND_TAGS}</PAMDataset>"}),
        ({"names": True}, {"s2.tif.aux.xml": f"<PAMDataset>{NUMBERED_TAGS}</PAMDataset>"}),
        ({"names": False, "crs": True}, {"s2.tif.aux.xml": SRS}),
        ({"names": False, "crs": True}, {"s2.prj": WKT}),
        ({"names": False, "place": True}, {"s2.tfw": WORLD}),
        ({"names": False, "place": True}, {"s2.tifw": WORLD}),
        ({"names": False, "place": True}, {"s2.wld": WORLD}),
        ({"names": False, "crs": True, "place": True}, {"s2.tfw": WORLD, "s2.prj": WKT}),
        ({"names": False, "crs": True, "place": True}, {"s2.tfw": WORLD, "s2.tif.aux.xml": SRS}),
    ],
)
def test_sidecars_are_named_and_the_advice_makes_one_file(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, lacks: dict[str, bool],
    sidecars: dict[str, str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = without(tmp_path / "s2.tif", **lacks)
    for name, text in sidecars.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RefnetError) as refusal:
        opened(path, pair[1])
    message = str(refusal.value)
    assert str(path) in message
    assert all(name in message for name in sidecars)
    (advice,) = re.findall(r"`gdal_translate (?:-a_srs (\S+) )?(\S+) (\S+)`", message)
    rasterio.shutil.copy(advice[1], advice[2], driver="GTiff")  # what gdal_translate does
    if advice[0]:
        with rasterio.open(advice[2], "r+") as file:
            file.crs = rasterio.CRS.from_string(Path(advice[0]).read_text(encoding="utf-8"))
    for name in sidecars:
        (tmp_path / name).unlink()
    assert_reads_as(pair, tmp_path / advice[2], pair[1])


VALUES = {
    "nodata": "<NoDataValue>2</NoDataValue>",
    "scale and offset": "<Offset>0</Offset><Scale>0.0001</Scale>",
    "nodata, scale and offset": "<NoDataValue>2</NoDataValue><Offset>-0.005</Offset><Scale>0.0001</Scale>",
}


@pytest.mark.parametrize("kind", [*VALUES, "a mask"])
def test_sidecars_that_say_what_values_mean_are_warned_of_and_the_advice_makes_one_file(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "s2.tif", optical_image(), BANDS, nodata=None)
    if kind == "a mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            file.write_mask(np.arange(SIDE)[:, None].repeat(SIDE, axis=1) > 8)
    else:
        bands = "".join(f'<PAMRasterBand band="{n}">{VALUES[kind]}</PAMRasterBand>' for n in (1, 2, 3, 4))
        (tmp_path / "s2.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>", encoding="utf-8")
    with opened(path, pair[1]) as found:
        (warning,) = (text for text in found.warnings if "next to" in text)
    assert f"({kind}) next to {path}" in warning
    (advice,) = re.findall(r"`gdal_translate --config (\w+) (\w+) (\S+) (\S+)`", warning)
    with rasterio.Env(**{advice[0]: advice[1]}):
        rasterio.shutil.copy(advice[2], advice[3], driver="GTiff")  # what gdal_translate does
    with rasterio.open(advice[3]) as file:
        assert ("nodata" in kind) == (file.nodata == 2)
        assert ("scale" in kind) == (file.scales[0] == 0.0001)
    with opened(tmp_path / advice[3], pair[1]) as found:
        assert not any("next to" in text for text in found.warnings)
        assert found.read(Window(0, 0, SIDE, SIDE)).optical_valid[0].any() == (kind != "a mask")


@pytest.mark.parametrize(
    "text", ["<Offset>0</Offset><Scale>1</Scale>", "<Scale>1.0</Scale>", "<NoDataValue>0</NoDataValue>"]
)
def test_sidecars_that_say_nothing_new_of_values_are_no_warning(
    tmp_path: Path, pair: tuple[Path, Path], text: str
) -> None:
    xml = f'<PAMDataset><PAMRasterBand band="1">{text}</PAMRasterBand></PAMDataset>'
    Path(f"{pair[0]}.aux.xml").write_text(xml, encoding="utf-8")
    with opened(*pair) as found:
        assert not any("next to" in warning for warning in found.warnings)


def test_names_in_a_sidecar_of_sar_let_no_guess_pass(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    path = write(tmp_path / "s1.tif", power()[::-1], (None, None), nodata=None)
    names = NAMES.replace("B02", "VH").replace("B03", "VV")
    (tmp_path / "s1.tif.aux.xml").write_text(f"<PAMDataset>{names}</PAMDataset>", encoding="utf-8")
    with pytest.raises(InputError, match=r"s1\.tif\.aux\.xml.*gdal_translate.*--sar-bands"):
        opened(pair[0], path)
    assert_reads_as(pair, pair[0], path, sar_bands=("2", "1"))


@pytest.mark.parametrize(
    "text",
    ["<PAMDataset><PAMRasterBand><Description></Description></PAMRasterBand></PAMDataset>",
     "<PAMDataset><PAMRasterBand><Metadata><MDI key='STATISTICS_MEAN'>1</MDI></Metadata></PAMRasterBand></PAMDataset>",
     "<PAMDataset><PAMRasterBand><Description>Band 1</Description><ColorInterp>Red</ColorInterp></PAMRasterBand>"
     "<PAMRasterBand><Description>Band 2</Description></PAMRasterBand></PAMDataset>",
     "<PAMDataset><Metadata><MDI key='Band_1'>Band 1</MDI><MDI key='description'>blue</MDI></Metadata></PAMDataset>",
     "no XML"],
)  # fmt: skip
def test_sidecars_without_names_change_nothing(tmp_path: Path, pair: tuple[Path, Path], text: str) -> None:
    path = write(tmp_path / "s1.tif", power(), (None, None), nodata=None)
    (tmp_path / "s1.tif.aux.xml").write_text(text, encoding="utf-8")
    assert_reads_as(pair, pair[0], path)


def test_names_in_the_file_count_whatever_a_sidecar_says(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    Path(f"{pair[0]}.aux.xml").write_text(f"<PAMDataset>{NAMES}</PAMDataset>".replace("B02", "B12"), encoding="utf-8")
    with opened(*pair) as found:
        assert next(each.value for each in found.decisions if each.what == "optical.bands") == [1, 2, 3, 4]


# --- codecs ----------------------------------------------------------------------------------------------------------

CODECS = {50_000: "ZSTD", 50_001: "WEBP", 50_002: "JXL", 34_887: "LERC", 34_925: "LZMA"}


@pytest.mark.parametrize("code", CODECS)
def test_a_codec_that_is_missing_is_no_damage(tmp_path: Path, code: int) -> None:
    path = tmp_path / "s2.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=SIDE, width=SIDE, dtype="uint16", crs="EPSG:32633", transform=PLACE,
        compress="lzw",
    ) as file:  # fmt: skip
        file.write(optical_image()[:1])
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    entries = range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12)
    (place,) = (entry for entry in entries if struct.unpack_from("<H", data, entry)[0] == 259)
    struct.pack_into("<H", data, place + 8, code)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError) as refusal:
        Raster(path, "optical").read([1], Window(0, 0, SIDE, SIDE))
    message = str(refusal.value)
    if "missing codec" in str(refusal.value.__cause__):
        assert CODECS[code] in message
        assert "gdal_translate -co COMPRESS=DEFLATE s2.tif" in message
        assert "Repair or re-download" not in message
    else:  # this GDAL has the codec, to which the pixels are damaged
        assert "damaged" in message or "cannot be opened" in message
