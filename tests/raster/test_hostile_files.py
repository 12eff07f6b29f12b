"""Malicious files that refer to others, exhaust memory or hide damage: each is refused or read correctly."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from refnet_cli.cli.main import run
from refnet_cli.cli.options import PathList
from refnet_cli.errors import InputError
from refnet_cli.evaluation.labels import open_labels
from refnet_cli.outputs.cog import ClassMap
from refnet_cli.outputs.rows import Rows
from refnet_cli.outputs.verify import verify_map
from refnet_cli.raster import vectors
from refnet_cli.raster.guard_jp2 import check_codestream
from refnet_cli.raster.guard_tiff import check_directories
from refnet_cli.raster.headers import ZipMember
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.vrt import raster_driver
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, PLACE, grid_of, make_pair, write

BASE = {"count": 1, "dtype": "uint16", "crs": "EPSG:32633", "transform": PLACE}


def in_thread(work: Callable[[], Any]) -> Any:
    """What a function returns, or raises, in a thread as those that read."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except InputError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    return found[0]


@cache
def peak_megabytes(code: str) -> float:
    """Most memory that a Python program takes in a process of its own."""
    code += "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(said.stdout.split()[-1])


def ones(path: Path, size: int, value: int = 5, **more: Any) -> Path:
    """A square GeoTIFF of one value."""
    with rasterio.open(path, "w", driver="GTiff", width=size, height=size, **BASE | more) as file:
        file.write(np.full((1, size, size), value, np.uint16))
    return path


def write_jp2(path: Path, values: np.ndarray, **more: Any) -> bytes:
    """A lossless JPEG 2000 file in tiles of 256 x 256 pixels."""
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=values.shape[0], width=values.shape[1], **BASE,
        **{"BLOCKXSIZE": 256, "BLOCKYSIZE": 256, "QUALITY": "100", "REVERSIBLE": "YES"} | more,
    ) as file:  # fmt: skip
        file.write(values[None])
    return path.read_bytes()


def vrt(path: Path, size: int, sources: str, more: str = "") -> Path:
    """A virtual raster of one band."""
    path.write_text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5300000, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="UInt16" band="1">{more}{sources}</VRTRasterBand></VRTDataset>'
    )
    return path


def source(name: str, given: str = "", taken: str = "", attributes: str = "", mask: bool = False) -> str:
    """A source next to the virtual raster; places as "xOff yOff xSize ySize"."""

    def rect(tag: str, text: str) -> str:
        pairs = zip(("xOff", "yOff", "xSize", "ySize"), text.split(), strict=False)
        return f"<{tag} {' '.join(f'{key}={value!r}' for key, value in pairs)}/>" if text else ""

    return (
        f'<ComplexSource {attributes}><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        f"<SourceBand>1</SourceBand>{rect('SrcRect', given)}{rect('DstRect', taken)}"
        f"{'<UseMaskBand>true</UseMaskBand>' if mask else ''}</ComplexSource>"
    )


def test_reading_threads_pass_over_files_beside_those_of_a_mosaic(tmp_path: Path) -> None:
    places, sources = [(row, column) for row in (0, 1024) for column in (0, 1024)], ""
    for number, (row, column) in enumerate(places):
        path = ones(tmp_path / f"{number}.tif", 1024, tiled=True)
        beside = {**BASE, "dtype": "uint8", "width": 1024, "height": 1024}
        with rasterio.open(f"{path}.msk", "w", driver="GTiff", **beside) as mask:
            mask.write(np.zeros((1, 1024, 1024), np.uint8))
            mask.update_tags(INTERNAL_MASK_FLAGS_1="2")
        sources += source(path.name, "0 0 1024 1024", f"{column} {row} 1024 1024", mask=True)
    mosaic = vrt(tmp_path / "mosaic.vrt", 2048, sources)

    def read() -> Any:
        return Raster(mosaic, "optical", allow_vrt=True).read_valid([1], Window(0, 0, 2048, 2048))[0]

    assert np.array_equal(in_thread(read), np.full((1, 2048, 2048), 5))


def test_truncated_jpeg_2000_is_an_error(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 9000, (512, 2048)).astype(np.uint16)
    data = write_jp2(tmp_path / "a.jp2", values)
    second = data.index(b"\xff\x90\0\x0a", data.index(b"\xff\x90\0\x0a") + 1)
    (tmp_path / "a.jp2").write_bytes(data[: second + 2000])
    found = in_thread(lambda: Raster(tmp_path / "a.jp2", "optical").read_valid([1], Window(0, 0, 512, 2048)))
    assert isinstance(found, InputError)
    assert "is damaged" in str(found)


@pytest.mark.parametrize(
    ("given", "taken", "attributes"),
    [
        ("0 0 17 1", "0 0 1 1", ""),
        ("0 0 1 65536", "0 0 1 1", ""),
        ("0 0 65536 65536", "0 0 nan nan", ""),
        ("0 0 inf 1", "0 0 1 1", ""),
        ("0 0 64 64", "0 0 0 64", ""),
        ("0 0 64 64", "0 0 -64 64", ""),
        ("0 0 64", "0 0 64 64", ""),
        ("", "0 0 64 64", 'resampling="average"'),
        ("0 0 64 64", "", 'resampling="average"'),
    ],
)
def test_virtual_rasters_shrink_little(tmp_path: Path, given: str, taken: str, attributes: str) -> None:
    ones(tmp_path / "a.tif", 64)
    with pytest.raises(InputError, match="downsamples a file by an unknown factor or by more than 16"):
        Raster(vrt(tmp_path / "a.vrt", 64, source("a.tif", given, taken, attributes)), "optical", allow_vrt=True)


def test_virtual_rasters_that_are_honest(tmp_path: Path) -> None:
    ones(tmp_path / "a.tif", 64)
    window = Window(0, 0, 4, 4)
    for made in (
        source("a.tif", "0 0 64 64", "0 0 4 4", 'resampling="average"'),
        source("a.tif", "0.5 0.5 4.0 4.0", "0 0 4 4"),
        source("a.tif", "0 0 64 64", "0 0 1_6 1_6"),  # GDAL is given 16, of which it would take 1
        source("a.tif", "0 0 2 2", "0 0 4 4", 'resampling="cubic"'),
        source("a.tif"),
    ):
        path = vrt(tmp_path / "a.vrt", 4, made, "<HideNoDataValue>1</HideNoDataValue>")
        assert (Raster(path, "optical", allow_vrt=True).read([1], window) == 5).all(), made


def test_virtual_rasters_behind_links_name_what_is_beside_their_target(tmp_path: Path) -> None:
    for folder, value in (("one", 5), ("two", 9)):
        (tmp_path / folder / "deep").mkdir(parents=True)
        ones(tmp_path / folder / "a.tif", 64, value)
    vrt(tmp_path / "one" / "a.vrt", 64, source("a.tif"))
    (tmp_path / "two" / "a.vrt").symlink_to(tmp_path / "one" / "a.vrt")
    # The parent of a linked folder is that of its target.
    (tmp_path / "two" / "link").symlink_to(tmp_path / "one" / "deep")
    vrt(tmp_path / "two" / "b.vrt", 64, source("link/../a.tif"))
    for name in ("a.vrt", "b.vrt"):
        path = tmp_path / "two" / name
        with rasterio.open(path) as file:
            assert (file.read(1) == 5).all()
        assert (Raster(path, "optical", allow_vrt=True).read([1], Window(0, 0, 64, 64)) == 5).all()


def claim(data: bytes, size: int, sides: int | None = None) -> bytes:
    """Have a JPEG 2000 file of one tile claim another size, and other sides of its code-blocks."""
    changed = bytearray(data)
    struct.pack_into(">II", changed, changed.index(b"ihdr") + 4, size, size)
    start = changed.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", changed, start + 8, size, size)
    struct.pack_into(">II", changed, start + 24, size, size)
    if sides is not None:
        place = changed.index(b"\xff\x52") + 10
        changed[place : place + 2] = bytes([sides, sides])
    return bytes(changed)


def in_header(data: bytes, more: bytes, before: bytes = b"\xff\x90\0\x0a") -> bytes:
    """Put something before the first marker of a kind; lengths that come before are left as they are."""
    place = data.index(before, data.index(b"\xff\x4f\xff\x51"))
    return data[:place] + more + data[place:]


@pytest.fixture(scope="module")
def one_tile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A JPEG 2000 file of one tile without halvings."""
    path = tmp_path_factory.mktemp("jp2") / "a.jp2"
    return write_jp2(path, np.full((64, 64), 9, np.uint16), BLOCKXSIZE=64, BLOCKYSIZE=64, RESOLUTIONS=1)


def test_jpeg_2000_with_very_many_code_blocks_is_refused(tmp_path: Path, one_tile: bytes) -> None:
    check_codestream(io.BytesIO(claim(one_tile, 10_980 * 2, 3)))  # as four bands of 10980 x 10980 in 32 x 32
    check_codestream(io.BytesIO(one_tile))
    coding = one_tile[one_tile.index(b"\xff\x52") :][:14]
    small = coding[:10] + bytes(2) + coding[12:]
    honest = claim(one_tile, 16_384)
    precincts = b"\xff\x52\0\x0d\x01" + coding[5:14] + b"\x11"
    of_band = b"\xff\x53\0\x09\0\0" + small[9:14]
    comments = (b"\xff\x64\xff\xff" + bytes(65_533)) * 17
    # One row, in which no code-block is full.
    start = honest.index(b"\xff\x4f\xff\x51") + 8
    row = honest[:start] + struct.pack(">II", 1 << 25, 1) + honest[start + 8 : start + 16] + struct.pack(
        ">II", 1 << 25, 1
    ) + honest[start + 24 :]  # fmt: skip
    part = in_header(honest, small, b"\xff\x93")
    first = honest.index(b"\xff\x90\0\x0a")
    # The lengths of parts lead behind the file's end, where one is that no other leads to.
    hidden = in_header(honest, b"\xff\x55\0\x08\0\x40" + struct.pack(">I", len(honest) - first))
    hidden += b"\xff\x90\0\x0a" + struct.pack(">HIBB", 0, 0, 0, 1) + small + b"\xff\x93"
    for name, data in {
        "main header": claim(one_tile, 16_384, 0),
        "second in the main header": in_header(honest, small),
        "of a band": in_header(honest, of_band),
        "precincts": in_header(honest, precincts),
        "header of a tile": part,
        "behind a marker that is not known": in_header(honest, b"\xff\x6f\xff\xf0" + small),
        "by lengths": hidden,
        "in a row": in_header(row, coding[:10] + b"\0\x08" + coding[12:]),
        "long header": in_header(honest, comments + small),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=r"code-blocks|header"), (tmp_path / name).open("rb") as file:
            check_codestream(file)
    check_codestream(io.BytesIO(honest))
    tiles = bytearray(claim(one_tile, 1 << 16))
    struct.pack_into(">II", tiles, start + 16, 64, 64)
    with pytest.raises(InputError, match="tiles of 1 bands"):
        check_codestream(io.BytesIO(tiles))

    path = tmp_path / "many.jp2"
    path.write_bytes(claim(one_tile, 16_384, 0))
    with zipfile.ZipFile(tmp_path / "many.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "a/many.jp2")
    stack = vrt(tmp_path / "many.vrt", 64, source("many.jp2", "0 0 64 64", "0 0 64 64"))
    for given in (path, stack, ZipMember(f"/vsizip/{{{tmp_path / 'many.zip'}}}/a/many.jp2")):
        with pytest.raises(InputError, match="code-blocks"):
            Raster(given, "optical", allow_vrt=True)


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 30, 100, 150, 200, 250, 300])
def test_damaged_headers_of_jpeg_2000_are_left_to_gdal(tmp_path: Path, one_tile: bytes, cut: int) -> None:
    check_codestream(io.BytesIO(one_tile[:cut]))
    (tmp_path / "a.jp2").write_bytes(one_tile[:cut])
    with pytest.raises(InputError, match="cannot be opened as"):
        Raster(tmp_path / "a.jp2", "optical")


def with_directory(data: bytes, entries: list[tuple[int, int, int]], times: int = 1) -> bytes:
    """Add directories, of tags and their types and values, to a TIFF file of one."""
    big = data[2] == 43
    number, address, value = ("<Q", "<Q", "<HHQQ") if big else ("<H", "<I", "<HHII")
    (place,) = struct.unpack_from(address, data, 8 if big else 4)
    (count,) = struct.unpack_from(number, data, place)
    changed = bytearray(data + bytes(len(data) % 2))
    link = place + struct.calcsize(number) + count * struct.calcsize(value)
    for _ in range(times):
        struct.pack_into(address, changed, link, len(changed))
        changed += struct.pack(number, len(entries))
        changed += b"".join(struct.pack(value, tag, kind, 1, number) for tag, kind, number in entries)
        link = len(changed)
        changed += struct.pack(address, 0)
    return bytes(changed)


def hidden(side: int, *more: tuple[int, int, int], strip: bool = False) -> list[tuple[int, int, int]]:
    """The directory of a mask in large tiles, or one strip."""
    size = [(256, 4, side), (257, 4, side), (278, 4, 2**32 - 1)] if strip else [(322, 4, side), (323, 4, side)]
    entries = [(254, 4, 4), (256, 4, 100), (257, 4, 100), (258, 3, 1), (277, 3, 1), *size, *more]
    return sorted({tag: (tag, kind, number) for tag, kind, number in entries}.values())


@pytest.mark.parametrize("kind", ["NO", "YES"], ids=["classic", "BigTIFF"])
def test_masks_and_overviews_in_huge_blocks_are_refused(tmp_path: Path, kind: str) -> None:
    path = ones(tmp_path / "a.tif", 100, BIGTIFF=kind)
    data = path.read_bytes()
    for entries in (hidden(16_384), hidden(8192, (258, 3, 32), (277, 3, 4), (284, 3, 2)),
                    hidden(8192, (258, 3, 16), (277, 3, 2)), hidden(16_384, strip=True)):  # fmt: skip
        check_directories(io.BytesIO(with_directory(data, entries)))  # of 256 MB
    for entries in (hidden(16_400), hidden(8192, (258, 3, 32), (277, 3, 4)), hidden(8192, (258, 3, 33)),
                    hidden(32_768, (258, 8, 1)), hidden(16_400, strip=True)):  # fmt: skip
        path.write_bytes(with_directory(data, entries))
        with pytest.raises(InputError, match=r"a mask or overview in blocks of over 256 MB, the limit\. Rewrite it"):
            Raster(path, "optical")
        # One that only another names.
        whole = with_directory(data, [(330, 4, len(with_directory(data, [(330, 4, 0)])))])
        whole += with_directory(data, entries)[len(data) + len(data) % 2 :]
        with pytest.raises(InputError, match="a mask or overview"):
            check_directories(io.BytesIO(whole))
    check_directories(io.BytesIO(with_directory(data, hidden(64), 255)))
    path.write_bytes(with_directory(data, hidden(64), 256))
    with pytest.raises(InputError, match="more than 256 images"):
        Raster(path, "optical")


def test_damaged_directories_are_left_to_gdal(tmp_path: Path) -> None:
    path = ones(tmp_path / "a.tif", 100)
    data = with_directory(path.read_bytes(), hidden(64))
    for cut in range(0, len(data), 7):
        check_directories(io.BytesIO(data[:cut]))
    circle = bytearray(data)
    struct.pack_into("<I", circle, len(circle) - 4, struct.unpack_from("<I", circle, 4)[0])
    check_directories(io.BytesIO(circle))
    far = b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 1)
    path.write_bytes(far)
    with pytest.raises(InputError, match="cannot be opened as"):
        Raster(path, "optical")


def test_headers_in_zips_are_read_as_gdal_reads_them(tmp_path: Path) -> None:
    path = ones(tmp_path / "a.tiff", 100)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "good.tiff")
        archive.writestr("bad.tiff", with_directory(path.read_bytes(), hidden(32_768)))
    where = f"/vsizip/{{{tmp_path / 'a.zip'}}}/"
    assert (Raster(ZipMember(f"{where}good.tiff"), "optical").read([1], Window(0, 0, 100, 100)) == 5).all()
    with pytest.raises(InputError, match="a mask or overview"):
        Raster(ZipMember(f"{where}bad.tiff"), "optical")


def test_no_driver_is_chosen_by_half_a_signature(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    for begin, driver in (
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
        (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87", None),
        (b"HEADjP  \r\n\x87\n", None),
    ):
        path.write_bytes(begin)
        assert raster_driver(path) == driver


@pytest.mark.long
@pytest.mark.parametrize("thing", few(["{}", "[[1.5,2]]", "[]"], "[[1.5,2]]"))
def test_geojson_of_very_many_things_takes_little_memory(tmp_path: Path, thing: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"a":[' + ",".join([thing] * (8_000_000 // (len(thing) + 1))) + "]}")
    code = f"from refnet_cli.raster.vectors import _refuse_links; _refuse_links({str(path)!r}, '')"
    assert peak_megabytes(code) - peak_megabytes("import refnet_cli.raster.vectors") < 100


def test_geojson_over_a_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optical, _ = make_pair(tmp_path, 40, 50)
    (tmp_path / "a.geojson").write_text('{"a": 1}' + " " * 100)
    monkeypatch.setattr(vectors, "_MAX_JSON", 100)
    with pytest.raises(InputError, match=r"limit .* Convert it to GeoPackage"):
        open_labels(tmp_path / "a.geojson", grid_of(optical), CARD.scheme)


def test_no_number_hides_a_link_in_geojson(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    link = '"crs": {"type": "link", "properties": {"href": "http://127.0.0.1:1"}}'
    many = f'"a": [{"[1, 2], " * 400_000} []],'
    for before in ("", '"bbox": [1, 2],', '"a": "[1", "b": "2]",', many, '"a": "[1]\\"",'):
        path.write_text(f'{{"type": "FeatureCollection", {before} {link}, "features": [[[[[[[1]]]]]], []]}}')
        with pytest.raises(InputError, match="only has a link"):
            vectors._refuse_links(str(path), "The file")
        path.write_text(path.read_text().replace('"link"', '"name"'))
        vectors._refuse_links(str(path), "The file")


def test_a_name_that_is_too_long_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, sar = make_pair(tmp_path, 20, 20)
    for length in (300, 5000):
        assert run(["inspect", "--optical", "a" * length, "--sar", str(sar)]) == 66
        assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("secret", ["12?ss@", "12/ss@", "12#ss@", "12?s/s@", "1/2@3@"])
def test_no_part_of_a_password_is_taken_for_a_host(secret: str) -> None:
    remote = Remote(f"https://user:{secret}example.com/a.jp2")
    assert str(remote) == "https://..."
    assert remote.redact(f"x {remote.url} y") == "x https://... y"


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("a.tif, b.tif", ["a.tif", "b.tif"]),
        ("https://a.b/c?bands=1,2,3&d=4", ["https://a.b/c?bands=1,2,3&d=4"]),
        ("https://a.b/c?d=1,2, HTTPS://e.f/g,/vsicurl/http://h/i", ["https://a.b/c?d=1,2", "https://e.f/g", "http://h/i"]),
        ("https://a.b/c?d=1,2,./e.tif,../f.tif,/g.tif", ["https://a.b/c?d=1,2", "e.tif", "../f.tif", "/g.tif"]),
        ("a.tif,b.tif,https://a.b/c,d", ["a.tif", "b.tif", "https://a.b/c,d"]),
    ],
)
def test_commas_in_urls_part_nothing(given: str, parts: list[str]) -> None:
    found = PathList().convert(given, None, None)
    assert [part.url if isinstance(part, Remote) else str(part) for part in found] == parts


def test_an_empty_path_is_told_without_what_is_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--optical", "https://user:word@a.b/c?key=1,2,/d.tif,,e.tif", "--sar", "a.tif"]) == 2
    said = capsys.readouterr().err
    assert "empty path" in said
    assert not any(secret in said for secret in ("user", "word", "key"))


def make_map(path: Path) -> Path:
    """A map with an overview."""
    grid = GeoBox((600, 700), PLACE, "EPSG:32633")
    with ClassMap(path, grid, CARD.scheme, {}) as output:
        codes = np.random.default_rng(1).choice(CARD.scheme.codes, (600, 700)).astype(np.uint8)
        output.write(Rows(0, None, np.ones((600, 700), bool), CARD.scheme, found={"codes": codes}))
    return path


def test_a_map_whose_overview_claims_more_than_the_file_is_damaged(tmp_path: Path) -> None:
    """Its last block is the file's last, so that with more than that its end is still repeated behind it."""
    path = make_map(tmp_path / "map.tif")
    verify_map(path)
    data = bytearray(path.read_bytes())
    with rasterio.open(path, overview_level=0) as file:
        size = int(file.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1))
    place = data.index(struct.pack("<HHII", 325, 4, 1, size))
    struct.pack_into("<I", data, place + 8, len(data))
    path.write_bytes(data)
    with pytest.raises(rasterio.errors.RasterioError), rasterio.open(path, overview_level=0) as file:
        file.read()
    with pytest.raises(InputError, match="is damaged"):
        verify_map(path)


def test_what_is_no_map_is_not_read_to_be_verified(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((1, 300, 300), np.uint16), ("a",))
    with rasterio.open(path, "r+") as file:
        file.update_tags(REFNET_CHECKSUM="1")
    with pytest.raises(InputError, match="was rewritten by another program"):
        verify_map(path)
