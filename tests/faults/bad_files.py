"""Files that a careful program refuses or survives, made of a good pair: samples of kinds, not a list of all."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from tests.helpers.scenes import PLACE, write

SIDE = 128
OPTICAL, SAR = "good_s2.tif", "good_s1.tif"


class Kind(NamedTuple):
    """A kind of file."""

    make: Callable[[Path, Path], object]
    """Writes it, given its path and that of the good file in whose place it is used."""
    expect: str = "reject"
    """``reject``, ``accept``, or ``reject-only-with-checksum`` where TIFF itself cannot see the damage."""
    used_as: str = "sar"


def make_bad_files(folder: Path) -> Path:
    """Write the good pair and a file of each of `KINDS` into a folder, and return that."""
    random = np.random.default_rng(4)
    optical = random.integers(100, 900, (4, SIDE, SIDE)) + np.array([0, 200, 100, 1800])[:, None, None]
    write(folder / OPTICAL, optical.astype(np.uint16), ("B02", "B03", "B04", "B08"))
    write(folder / SAR, levels(), ("VV", "VH"), nodata=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # which some of them are not
        for name, kind in KINDS.items():
            kind.make(folder / name, folder / (SAR if kind.used_as == "sar" else OPTICAL))
    return folder


def levels() -> NDArray[np.float32]:
    """Land with speckle, in dB."""
    speckle = np.random.default_rng(3).gamma(5, 0.2, (2, SIDE, SIDE))
    return (np.array([-9, -15.5])[:, None, None] + 10 * np.log10(speckle)).astype(np.float32)


def saved(values: NDArray[Any], transform: Affine = PLACE, crs: str = "EPSG:32633") -> Callable[[Path, Path], object]:
    """Make a SAR file of values, at a place."""
    return lambda path, good: write(path, values, ("VV", "VH")[: len(values)], transform, crs, nodata=None)


def changed(
    edit: Callable[[NDArray[np.float32]], object], kind: type[Any] = np.float32
) -> Callable[[Path, Path], object]:
    """Make a SAR file whose values are edited in place, stored as another kind of number."""

    def make(path: Path, good: Path) -> None:
        values = levels()
        edit(values)
        write(path, values.astype(kind), ("VV", "VH"), nodata=None)

    return make


def text(content: str) -> Callable[[Path, Path], object]:
    """Make a file of text; GOOD stands for the good file's name."""
    return lambda path, good: path.write_text(content.replace("GOOD", good.name))


def damaged(edit: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path, Path], object]:
    """Make a file of the good one's bytes."""
    return lambda path, good: path.write_bytes(edit(bytearray(good.read_bytes())))


def flipped(data: bytearray) -> bytearray:
    """Change bytes in the middle of the pixels, which are compressed."""
    (offsets,) = struct.unpack_from("<I", data, place_of(data, 324))
    start = struct.unpack_from("<I", data, offsets)[0] if count_of(data, 324) > 1 else offsets
    data[start + 200 : start + 232] = bytes(32)
    return data


def directory(data: bytes | bytearray) -> tuple[int, int]:
    """Where the entries of a classic TIFF's first directory begin, and how many they are."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    return start + 2, count


def place_of(data: bytes | bytearray, tag: int) -> int:
    """Where the value of a tag lies, or its offset."""
    start, count = directory(data)
    places = range(start, start + 12 * count, 12)
    return next(place + 8 for place in places if struct.unpack_from("<H", data, place)[0] == tag)


def count_of(data: bytes | bytearray, tag: int) -> int:
    return int(struct.unpack_from("<I", data, place_of(data, tag) - 4)[0])


def with_tag(tag: int, value: int) -> Callable[[bytearray], bytearray]:
    """Set a tag to one whole number of 32 bits."""

    def edit(data: bytearray) -> bytearray:
        struct.pack_into("<HII", data, place_of(data, tag) - 6, 4, 1, value)
        return data

    return edit


def looped(data: bytearray) -> bytearray:
    """Have the directory follow itself, without any entry that describes pixels."""
    start, _ = directory(data)
    struct.pack_into("<H", data, start - 2, 1)
    struct.pack_into("<I", data, start + 12, start - 2)
    return data


def uncompressed(path: Path, good: Path) -> None:
    """Make an uncompressed file with other bytes in its middle."""
    with rasterio.open(good) as file:
        profile = file.profile | {"compress": "none"}
        with rasterio.open(path, "w", **profile) as made:
            made.write(file.read())
            made.descriptions = file.descriptions
    data = bytearray(path.read_bytes())
    place = struct.unpack_from("<I", data, place_of(data, 324))[0]
    data[place + 5000 : place + 5064] = bytes(range(64))
    path.write_bytes(data)


def by_control_points(path: Path, good: Path) -> None:
    """Make a file that only ground control points place."""
    points = [GroundControlPoint(row, column, 15 + column / 1e4, 47.8 - row / 1e4) for row in (0, SIDE)
              for column in (0, SIDE)]  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", count=2, height=SIDE, width=SIDE, dtype="float32") as file:
        file.write(levels())
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)
        file.descriptions = ("VV", "VH")


def without_reference_system(path: Path, good: Path) -> None:
    with rasterio.open(path, "w", driver="GTiff", count=2, height=SIDE, width=SIDE, dtype="float32",
                       transform=PLACE) as file:  # fmt: skip
        file.write(levels())
        file.descriptions = ("VV", "VH")


VRT = """<VRTDataset rasterXSize="128" rasterYSize="128"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 10, 0, 5300000, 0, -10</GeoTransform>{}</VRTDataset>"""
RAW = """<VRTRasterBand dataType="Float32" band="{}" subClass="VRTRawRasterBand"><SourceFilename>/etc/passwd
</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>4</PixelOffset><LineOffset>512</LineOffset></VRTRasterBand>"""
PYTHON = """<VRTRasterBand dataType="Float32" band="{}" subClass="VRTDerivedRasterBand"><PixelFunctionType>f.one
</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage><ComplexSource><SourceFilename
relativeToVRT="1">GOOD</SourceFilename></ComplexSource></VRTRasterBand>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>http://refnet.invalid/${z}/${x}/${y}.png</ServerUrl></Service>
<DataWindow><UpperLeftX>500000</UpperLeftX><UpperLeftY>5300000</UpperLeftY><LowerRightX>501280</LowerRightX>
<LowerRightY>5298720</LowerRightY><TileLevel>1</TileLevel></DataWindow><BandsCount>2</BandsCount></GDAL_WMS>"""
ANTIMERIDIAN = Affine(1e-4, 0, 180.1, 0, -1e-4, 47.85)
ONE_PIXEL = Affine(10, 0, PLACE.c + 400, 0, -10, PLACE.f - 400)

KINDS = {
    "html_page.tif": Kind(text("<html><body>403 Forbidden</body></html>")),
    "lfs_pointer.tif": Kind(text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 292795\n")),
    "empty.tif": Kind(text("")),
    "one_band.tif": Kind(saved(levels()[:1])),
    "one_pixel.tif": Kind(saved(levels()[:, 40:41, 40:41], ONE_PIXEL), "accept"),
    "all_nan.tif": Kind(changed(lambda values: values.fill(np.nan))),
    "beyond_180.tif": Kind(saved(levels(), ANTIMERIDIAN, "EPSG:4326")),
    "complex.tif": Kind(changed(lambda values: None, np.complex64)),
    "far_away.tif": Kind(saved(levels(), Affine.translation(200_000, 0) @ PLACE)),
    "touching_edge.tif": Kind(saved(levels(), Affine.translation(10 * SIDE, 0) @ PLACE)),
    "identity_transform.tif": Kind(saved(levels(), Affine.identity())),
    "no_reference_system.tif": Kind(without_reference_system),
    "by_control_points.tif": Kind(by_control_points),
    "float64.tif": Kind(changed(lambda values: None, np.float64), "accept"),
    "huge_values.tif": Kind(changed(lambda values: values[:, 50:53, 50:53].fill(3e38)), "accept"),
    "inf_and_nan.tif": Kind(changed(lambda values: values[:, 60:70].__setitem__((0, slice(0, 3)), np.inf)), "accept"),
    "rotated.tif": Kind(
        saved(np.kron(levels(), np.ones((2, 2))).astype(np.float32)[:, :SIDE, :SIDE],
              PLACE @ Affine.translation(-20, 40) @ Affine.rotation(-20)), "accept",
    ),
    "south_up.tif": Kind(
        saved(levels()[:, ::-1].copy(), Affine(10, 0, PLACE.c, 0, 10, PLACE.f - 10 * SIDE)), "accept"
    ),
    "truncated.tif": Kind(damaged(lambda data: data[: len(data) * 6 // 10])),
    "flipped_s2.tif": Kind(damaged(flipped), used_as="optical"),
    "silently_flipped_s2.tif": Kind(uncompressed, "reject-only-with-checksum", "optical"),
    "huge_blocks.tif": Kind(damaged(lambda data: with_tag(323, 2**20)(with_tag(322, 2**20)(data)))),
    "blocks_of_no_width.tif": Kind(damaged(with_tag(322, 0))),
    "no_rows.tif": Kind(damaged(with_tag(257, 0))),
    "endless_directories.tif": Kind(damaged(looped)),
    "vrt_of_raw_bytes.tif": Kind(text(VRT.format(RAW.format(1) + RAW.format(2)))),
    "vrt_of_python.vrt": Kind(text(VRT.format(PYTHON.format(1) + PYTHON.format(2)))),
    "wms.tif": Kind(text(WMS)),
}  # fmt: skip
