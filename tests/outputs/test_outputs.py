"""Class maps, previews and areas: what is written, what is left behind, and what a full disk does."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from refnet_cli.classes.crosswalk import find_crosswalk
from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputError, OutputError, StorageError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.outputs import cog as geotiff
from refnet_cli.outputs.areas.areas import AreaCounter
from refnet_cli.outputs.base import Output
from refnet_cli.outputs.cog import ClassMap
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.pictures.preview import Preview
from refnet_cli.outputs.rows import Rows, class_codes
from refnet_cli.sensors.quality import QUALITY
from tests.helpers.limits import file_size_limit, permissions_hold
from tests.helpers.quick import each_once, examples, few

SCHEME = SCHEMES["esri-io"]
TAGS = {"REFNET_VERSION": "1.2.3", "REFNET_OPTIONS": '{"note": "größer & <kleiner>"}'}
UTM = "EPSG:32633"
DATES = ("2020-07-01T10:10:31Z", "2020-07-03T05:09:12Z")


def utm_grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(10, 0, 399_960, 0, -10, 5_300_040), UTM)


def random_codes(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice(np.array((0, *SCHEME.codes), np.uint8), (height, width))


def as_probabilities(codes: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities whose most likely class is the code; layer 0 is the largest everywhere and must not matter."""
    layers = [np.full(codes.shape, 0.5), *(np.where(codes == code, 0.3, 0.1) for code in SCHEME.codes)]
    return np.stack(layers).astype(np.float32), codes > 0


def quality_of(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Some quality that tells the bands apart: 0 to 3 for every code."""
    return (codes // 2 % 4).astype(np.uint8)


def rows_of(row: int, codes: NDArray[np.uint8]) -> Rows:
    return Rows(row, *as_probabilities(codes), SCHEME, quality=quality_of(codes))


def feed(output: Output, codes: NDArray[np.uint8], cuts: list[int]) -> None:
    for top, bottom in pairwise([0, *sorted(cuts), len(codes)]):
        output.write(rows_of(top, codes[top:bottom]))


def write_map(
    path: Path, grid: GeoBox, codes: NDArray[np.uint8], cuts: list[int] | None = None, quality: bool = False
) -> Path:
    with ClassMap(path, grid, SCHEME, TAGS, quality=quality) as output:
        feed(output, codes, cuts or [])
    return path


both = pytest.mark.parametrize("quality", [False, True], ids=["one band", "two bands"])


GRIDS = {
    "utm": utm_grid(700, 1100),
    "geographic": GeoBox((520, 30), Affine(0.1 / 3, 0, 11.123456789, 0, -0.1 / 7, 48.987654321), "EPSG:4326"),
    "web mercator, one pixel": GeoBox((1, 1), Affine(10, 0, 1_113_194.9, 0, -10, 6_446_275.8), "EPSG:3857"),
    "LAEA, one long row": GeoBox((1, 3000), Affine(20, 0, 4_321_000, 0, -20, 3_210_000), "EPSG:3035"),
    "rotated": GeoBox((40, 600), Affine(8, 3, 5e5, 3, -8, 5e6), UTM),
    "south up": GeoBox((600, 40), Affine(10, 0, 5e5, 0, 10, 5e6), UTM),
    "no authority": GeoBox(
        (30, 40), Affine(10, 0, 1e4, 0, -10, 2e4), "+proj=tmerc +lat_0=47.3 +lon_0=11.9 +k=1 +ellps=GRS80 +units=m"
    ),
}


@pytest.mark.parametrize(("name", "quality"), each_once(GRIDS, [False, True]))
def test_class_map_is_a_valid_cog_on_exactly_the_grid(name: str, quality: bool, tmp_path: Path) -> None:
    grid = GRIDS[name]
    codes = random_codes(*grid.shape)
    path = write_map(tmp_path / "map.tif", grid, codes, [len(codes) // 3], quality)

    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as raster:
        assert raster.shape == grid.shape
        assert raster.transform == grid.affine
        assert raster.crs == CRS.from_wkt(grid.crs.to_wkt())
        np.testing.assert_array_equal(raster.read(), [codes, quality_of(codes)][: 1 + quality])
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]


@both
def test_class_map_carries_names_colours_and_tags_inside(quality: bool, tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", utm_grid(600, 600), random_codes(600, 600), quality=quality)
    with rasterio.open(path) as raster:
        assert (raster.dtypes, raster.nodata) == (("uint8",) * (1 + quality), 0)
        assert raster.descriptions == ("land cover class", "quality")[: 1 + quality]
        assert TAGS.items() <= raster.tags().items()
        assert raster.tags(1)["CLASS_SCHEME"] == SCHEME.name
        assert {int(key[6:]): value for key, value in raster.tags(1).items() if key[6:].isdigit()} == dict(
            zip(SCHEME.codes, SCHEME.names, strict=True)
        )
        colours = raster.colormap(1)
        assert [colours[code][:3] for code in SCHEME.codes] == list(SCHEME.colours)
        assert raster.overviews(1) == [2]
        assert set(np.unique(raster.read(1, out_shape=(300, 300)))) <= {0, *SCHEME.codes}


def test_quality_is_a_plain_band_beside_the_coloured_one(tmp_path: Path) -> None:
    """GDAL alone would call it opacity, and viewers would show hardly anything of the map."""
    path = write_map(tmp_path / "map.tif", utm_grid(1100, 60), random_codes(1100, 60), quality=True)
    for level in ({}, {"overview_level": 0}, {"overview_level": 1}):
        with rasterio.open(path, **level) as raster:
            assert raster.colorinterp == (ColorInterp.palette, ColorInterp.undefined)
            assert raster.mask_flag_enums == ([MaskFlags.nodata], [MaskFlags.nodata])
    with rasterio.open(path) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags = {key: text for key, text in raster.tags(2).items() if key.startswith("QUALITY")}
    assert tags == {f"QUALITY_{number}": meaning for number, meaning in enumerate(QUALITY)}
    assert QUALITY == ("no data", "optical only", "SAR only", "optical and SAR")


@pytest.mark.parametrize("options", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}], ids=str)
def test_a_band_is_no_longer_marked_as_opacity(options: dict[str, str], tmp_path: Path) -> None:
    bands = np.array([random_codes(40, 30), quality_of(random_codes(40, 30, seed=1))])
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 2, "height": 40, "width": 30, "crs": UTM}
    with rasterio.open(tmp_path / "plain.tif", "w", transform=utm_grid(40, 30).affine, **profile) as raster:
        raster.write_colormap(1, {1: (255, 0, 0)})
        raster.write(bands)
    path = tmp_path / "copy.tif"
    rasterio.shutil.copy(tmp_path / "plain.tif", path, driver="GTiff", **options)
    before = path.read_bytes()
    with rasterio.open(path) as raster:
        assert raster.colorinterp == (ColorInterp.palette, ColorInterp.alpha)

    geotiff._unmark_opacity(path)
    with rasterio.open(path) as raster:
        assert raster.colorinterp == (ColorInterp.palette, ColorInterp.undefined)
        np.testing.assert_array_equal(raster.read(), bands)
    after = path.read_bytes()
    assert len(after) == len(before)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("size", [0, 6, 200])
def test_directories_that_are_cut_off_are_told(size: int, tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", utm_grid(30, 30), random_codes(30, 30), quality=True)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OSError, match="directories differ from what was written"):
        geotiff._unmark_opacity(path)


def test_quality_is_left_out_where_it_is_not_wanted(tmp_path: Path) -> None:
    codes = random_codes(30, 40)
    path = write_map(tmp_path / "map.tif", utm_grid(30, 40), codes)
    with ClassMap(tmp_path / "without.tif", utm_grid(30, 40), SCHEME, TAGS) as output:
        output.write(Rows(0, *as_probabilities(codes), SCHEME))
    assert path.read_bytes() == (tmp_path / "without.tif").read_bytes()


def test_quality_that_is_missing_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    probabilities, valid = as_probabilities(random_codes(30, 40))
    output = ClassMap(tmp_path / "map.tif", utm_grid(30, 40), SCHEME, TAGS, quality=True)
    with pytest.raises(ValueError, match="rows have no quality"):
        output.write(Rows(0, probabilities, valid, SCHEME))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"\(29, 40\); expected \(30, 40\)"):
        Rows(0, probabilities, valid, SCHEME, quality=np.zeros((29, 40), np.uint8))


def test_overviews_show_the_commonest_class_and_quality(tmp_path: Path) -> None:
    # One pixel of four: a nearest-neighbour overview would show nothing else.
    codes = np.full((1024, 64), SCHEME.codes[0], np.uint8)
    codes[::2, ::2] = SCHEME.codes[-1]
    quality = np.full((1024, 64), 3, np.uint8)
    quality[1::2, ::2] = 1
    for bands in (1, 2):
        with ClassMap(tmp_path / "map.tif", utm_grid(1024, 64), SCHEME, TAGS, quality=bands == 2) as output:
            output.write(Rows(0, *as_probabilities(codes), SCHEME, quality=quality))
        with rasterio.open(tmp_path / "map.tif", overview_level=0) as overview:
            assert overview.count == bands
            assert (overview.read(1) == SCHEME.codes[0]).all()
            assert (overview.read(bands) == (SCHEME.codes[0], 3)[bands - 1]).all()


def test_the_quality_changes_nothing_of_the_classes_overviews(tmp_path: Path) -> None:
    codes = random_codes(900, 110)
    classes = []
    for quality in (False, True):
        path = write_map(tmp_path / "map.tif", utm_grid(900, 110), codes, quality=quality)
        with rasterio.open(path, overview_level=0) as overview:
            classes.append(overview.read(1))
    np.testing.assert_array_equal(*classes)


@both
@settings(max_examples=examples(15), deadline=None)
@given(height=st.integers(1, 1300), width=st.integers(1, 200), data=st.data())
def test_same_bytes_however_the_rows_arrive(
    height: int, width: int, data: st.DataObject, quality: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("maps")
    cuts = data.draw(st.lists(st.integers(0, height), max_size=6))
    codes = random_codes(height, width)
    one = write_map(folder / "one.tif", utm_grid(height, width), codes, quality=quality)
    many = write_map(folder / "many.tif", utm_grid(height, width), codes, cuts, quality)
    assert one.read_bytes() == many.read_bytes()


def test_class_codes_against_argmax() -> None:
    random = np.random.default_rng(1)
    probabilities = random.random((SCHEME.classes, 50, 60), np.float32)
    valid = random.random((50, 60)) < 0.7
    expected = np.where(valid, np.array(SCHEME.codes, np.uint8)[probabilities[1:].argmax(axis=0)], 0)
    np.testing.assert_array_equal(class_codes(probabilities, valid, SCHEME), expected)


@pytest.mark.parametrize("value", [0, np.nan])
def test_no_probability_is_no_data(value: float) -> None:
    probabilities = np.full((SCHEME.classes, 2, 3), value, np.float32)
    assert not class_codes(probabilities, np.ones((2, 3), bool), SCHEME).any()


def test_translated_codes() -> None:
    crosswalk = find_crosswalk(SCHEME, "worldcover")
    codes = random_codes(50, 60)
    rows = Rows(0, *as_probabilities(codes), SCHEME, crosswalk)
    assert rows.code_scheme == SCHEMES["worldcover"]
    expected = np.select([codes == code for code, _ in crosswalk.codes], [code for _, code in crosswalk.codes])
    np.testing.assert_array_equal(rows.codes, expected)
    assert rows.codes.dtype == np.uint8
    assert rows_of(0, codes).code_scheme == SCHEME


def test_a_crosswalk_of_another_scheme_is_refused() -> None:
    crosswalk = find_crosswalk(SCHEMES["dfc2020"], "worldcover")
    with pytest.raises(ValueError, match="'dfc2020', not 'esri-io'"):
        Rows(0, *as_probabilities(random_codes(5, 6)), SCHEME, crosswalk)


def test_a_map_in_another_scheme_carries_its_names_and_colours(tmp_path: Path) -> None:
    codes, target = random_codes(30, 40), SCHEMES["worldcover"]
    rows = Rows(0, *as_probabilities(codes), SCHEME, find_crosswalk(SCHEME, "worldcover"))
    with ClassMap(tmp_path / "map.tif", utm_grid(30, 40), target, TAGS) as output:
        output.write(rows)
    with rasterio.open(tmp_path / "map.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), rows.codes)
        assert raster.tags(1)["CLASS_SCHEME"] == "worldcover"
        assert raster.tags(1)["CLASS_95"] == "Mangroves"
        assert raster.colormap(1)[80][:3] == (0, 100, 200)


def named(kind: str, name: str = "result") -> str:
    """A name that ends as the kind's files do: some tell their format by it."""
    return f"{name}{Path(OUTPUTS[kind].ending).suffix}"


@pytest.mark.parametrize("kind", OUTPUTS)
class TestEveryOutput:
    grid = utm_grid(600, 70)
    codes = np.repeat(np.repeat(random_codes(60, 7), 10, 0), 10, 1)  # single pixels would make too many polygons

    def make(self, kind: str, path: Path) -> Output:
        return OUTPUTS[kind].make(path, MapContext(path, self.grid, SCHEME, TAGS, acquired=DATES))

    def complete(self, output: Output) -> None:
        feed(output, self.codes, [])
        output.finish()

    def test_finish_leaves_its_files_alone(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / named(kind)
        output = self.make(kind, path)
        feed(output, self.codes, [100])
        assert not path.exists()
        assert output.finish() == path
        assert output.finish() == path
        output.abort()
        assert output.files[0] == path
        assert sorted(tmp_path.iterdir()) == sorted(output.files)

    def test_bytes_depend_on_the_input_alone(self, kind: str, tmp_path: Path) -> None:
        made = []
        for name, cuts in {"a": [1, 599], "b": [300, 300]}.items():
            (tmp_path / name).mkdir()
            with self.make(kind, tmp_path / name / named(kind)) as output:
                feed(output, self.codes, cuts)
            made.append({file.name: file.read_bytes() for file in output.files})
        assert made[0] == made[1]

    def test_an_exception_leaves_the_old_file(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / named(kind)
        path.write_text("old")

        def interrupted() -> None:
            with self.make(kind, path) as output:
                output.write(rows_of(0, self.codes[:550]))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_old_file_is_replaced_through_a_link(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "real").write_text("old")
        link = named(kind, "link")
        (tmp_path / link).symlink_to(tmp_path / "far" / "real")
        with self.make(kind, tmp_path / link) as output:
            feed(output, self.codes, [])
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / "far" / "real").stat().st_size > 3

    def test_missing_rows_are_refused(self, kind: str, tmp_path: Path) -> None:
        output = self.make(kind, tmp_path / named(kind))
        output.write(rows_of(0, self.codes[:-1]))
        with pytest.raises(ValueError, match="599 of 600 rows"):
            output.finish()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("row", "rows"), [(1, 10), (0, 601)])
    def test_rows_out_of_order_are_refused(self, kind: str, row: int, rows: int, tmp_path: Path) -> None:
        output = self.make(kind, tmp_path / named(kind))
        with pytest.raises(ValueError, match="do not follow row 0"):
            output.write(rows_of(row, random_codes(rows, 70)))
        output.abort()
        output.abort()
        with pytest.raises(ValueError, match="no more rows"):
            output.write(rows_of(0, self.codes))
        assert list(tmp_path.iterdir()) == []

    def test_another_number_of_classes_is_refused(self, kind: str, tmp_path: Path) -> None:
        probabilities, valid = as_probabilities(self.codes)
        with pytest.raises(ValueError, match="expected"), self.make(kind, tmp_path / named(kind)) as output:
            output.write(Rows(0, probabilities[:-1], valid, SCHEME))
        assert list(tmp_path.iterdir()) == []

    def test_translated_rows_are_taken_by_the_scheme_of_their_codes(self, kind: str, tmp_path: Path) -> None:
        crosswalk = find_crosswalk(SCHEME, "worldcover")
        rows = Rows(0, *as_probabilities(self.codes), SCHEME, crosswalk, quality_of(self.codes))
        path = tmp_path / named(kind)
        with OUTPUTS[kind].make(path, MapContext(path, self.grid, crosswalk.target, TAGS, acquired=DATES)) as output:
            output.write(rows)
        assert sorted(tmp_path.iterdir()) == sorted(output.files)
        for file in output.files:
            file.unlink()
        other = tmp_path / named(kind, "other")
        with pytest.raises(ValueError, match="'worldcover' cannot be written to"), self.make(kind, other) as output:
            output.write(rows)
        assert list(tmp_path.iterdir()) == []

    def test_places_where_nothing_can_be_made(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        long = "x" * 300
        places = ["", f"file/{named(kind)}", long + named(kind), f"missing/{long}/{named(kind)}"]
        for place in places:
            with pytest.raises(OutputError, match=r"cannot be created|is a folder"):
                self.make(kind, tmp_path / place)
        with pytest.raises(OutputError, match="a folder or a device"):
            self.make(kind, Path("/dev/null"))
        assert [file.name for file in tmp_path.iterdir()] == ["file"]

    def test_a_missing_folder_is_created_and_goes_with_what_fails(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "deeper" / named(kind)
        output = self.make(kind, path)
        output.abort()
        assert list(tmp_path.iterdir()) == []
        self.complete(self.make(kind, path))
        assert path.is_file()

    def test_a_folder_without_permission(self, kind: str, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with permissions_hold(), pytest.raises(OutputError, match="cannot be created"):
            self.make(kind, tmp_path / named(kind))
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_the_old_file(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / named(kind)
        with self.make(kind, path) as output:
            feed(output, self.codes, [])
        size = path.stat().st_size
        for file in output.files:
            file.write_text("old")
        for limit in (0, min(300, size - 1), size // 4, size // 2, max(size - 1000, 1), size - 1):
            output = self.make(kind, path)
            with file_size_limit(limit), pytest.raises(StorageError, match="Free some space"):
                self.complete(output)
            assert {file.read_text() for file in output.files} == {"old"}
            assert sorted(tmp_path.iterdir()) == sorted(output.files)


@pytest.mark.parametrize("quality", few([False, True], False))
def test_a_disk_that_fills_up_during_the_last_copy(
    quality: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL itself reports nothing when only the last block is cut."""
    grid, codes = utm_grid(600, 560), random_codes(600, 560)
    size = write_map(tmp_path / "map.tif", grid, codes, quality=quality).stat().st_size
    (tmp_path / "map.tif").unlink()
    copy: Callable[..., None] = rasterio.shutil.copy
    for missing in (1, 2, 4, 5, 100, 5000, size // 3, size // 2, size - 2000):

        with ExitStack() as limits:  # the disk stays full until the run has said why it failed

            def limited(*arguments: object, room: int = size - missing, **options: object) -> None:
                limits.enter_context(file_size_limit(room))
                copy(*arguments, **options)

            monkeypatch.setattr(rasterio.shutil, "copy", limited)
            output = ClassMap(tmp_path / "map.tif", grid, SCHEME, TAGS, quality=quality)
            feed(output, codes, [])
            with pytest.raises(StorageError, match="Free some space"):
                output.finish()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@both
@pytest.mark.parametrize("stage", ["working.tif", "complete.tif"])
def test_damage_at_any_place_is_found(
    stage: str, quality: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes lost on their way, in the working file or the copy, at full size or in an overview."""
    grid = utm_grid(1100, 1100)
    codes = np.repeat(np.repeat(random_codes(110, 110), 10, 0), 10, 1)
    copy: Callable[..., None] = rasterio.shutil.copy
    for share in (0.3, 0.5, 0.7, 0.9):

        def damaging(source: Path, target: Path, share: float = share, **options: object) -> None:
            def zero(file: Path) -> None:
                data = bytearray(file.read_bytes())
                start = int(share * len(data))
                data[start : start + 600] = bytes(600)
                file.write_bytes(data)

            if stage == "working.tif":
                zero(source)
            copy(source, target, **options)
            if stage == "complete.tif":
                zero(target)

        monkeypatch.setattr(rasterio.shutil, "copy", damaging)
        with pytest.raises(StorageError), ClassMap(tmp_path / "map.tif", grid, SCHEME, TAGS, quality=quality) as output:
            feed(output, codes, [])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("band", [1, 2])
def test_one_changed_pixel_of_either_band_is_found(
    band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy: Callable[..., None] = rasterio.shutil.copy
    last = Window(1099, 99, 1, 1)

    def changing(source: Path, target: Path, **options: object) -> None:
        with rasterio.open(source, "r+") as raster:
            raster.write(raster.read(band, window=last) ^ 1, band, window=last)
        copy(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", changing)
    with pytest.raises(StorageError, match="block 0, 2 differs"):
        write_map(tmp_path / "map.tif", utm_grid(100, 1100), random_codes(100, 1100), quality=True)
    assert list(tmp_path.iterdir()) == []


@both
def test_memory_grows_with_the_width_alone(quality: bool, tmp_path: Path) -> None:
    buffers = []
    for height in (600, 60_000):
        output = ClassMap(tmp_path / "map.tif", utm_grid(height, 300), SCHEME, TAGS, quality=quality)
        buffers.append(output._buffer.nbytes)
        output.abort()
    assert buffers[0] == buffers[1]


@pytest.mark.parametrize(("height", "width"), [(64, 80), (2500, 300), (1, 5000)])
def test_preview_shows_the_map_and_its_classes(height: int, width: int, tmp_path: Path) -> None:
    codes = np.full((height, width), SCHEME.codes[1], np.uint8)
    codes[:, : width // 2] = SCHEME.codes[3]
    codes[:, : width // 4] = 0
    context = MapContext(tmp_path / "map.tif", utm_grid(height, width), SCHEME, TAGS)
    with Preview(tmp_path / "map.png", context) as output:
        feed(output, codes, [height // 2])
    with Image.open(tmp_path / "map.png") as image:
        assert image.text == TAGS
        picture = np.asarray(image)
    assert picture.shape[2] == 4
    assert max(picture.shape) <= 1400
    row = picture[0]
    assert row[0, 3] == 0
    scale = math.ceil(max(height, width) / 1000) / max(1, 600 // max(height, width))
    assert tuple(row[int(0.4 * width / scale)]) == (*SCHEME.colours[3], 255)
    assert tuple(row[int(0.9 * width / scale)]) == (*SCHEME.colours[1], 255)
    legend = picture[:, math.ceil(width / scale) :, :3]
    shown = [(legend == colour).all(axis=2).sum() > 100 for colour in SCHEME.colours]  # letters have colours too
    assert np.flatnonzero(shown).tolist() == [1, 3]


def test_preview_of_a_map_without_data(tmp_path: Path) -> None:
    with Preview(tmp_path / "map.png", MapContext(tmp_path / "map.tif", utm_grid(10, 10), SCHEME, {})) as output:
        feed(output, np.zeros((10, 10), np.uint8), [])
    with Image.open(tmp_path / "map.png") as image:
        assert image.getextrema()[3][0] == 0


def area_of_everything(grid: GeoBox) -> float:
    counter = AreaCounter(grid, SCHEME)
    counter.add(0, np.full(grid.shape, SCHEME.codes[0], np.uint8))
    areas = counter.hectares()
    assert set(areas) == set(SCHEME.names)
    assert sum(areas.values()) == areas[SCHEME.names[0]]
    return areas[SCHEME.names[0]]


def test_area_on_a_utm_grid() -> None:
    assert area_of_everything(utm_grid(1000, 1300)) == pytest.approx(1000 * 1300 * 0.01, rel=2e-3)


def test_area_on_a_geographic_grid_is_that_of_the_bounding_polygon() -> None:
    grid = GeoBox((900, 1000), Affine(0.001, 0, 11, 0, -0.001, 60), "EPSG:4326")
    west, south, east, north = grid.boundingbox.bbox
    along = np.linspace(0, 1, 20_001)
    longitude = np.concatenate([west + (east - west) * along, east - (east - west) * along])
    latitude = np.concatenate([np.full(along.size, south), np.full(along.size, north)])
    exact = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(longitude, latitude)[0]) / 10_000
    assert area_of_everything(grid) == pytest.approx(exact, rel=1e-7)


def test_area_in_web_mercator_at_60_degrees_north_is_a_quarter() -> None:
    grid = GeoBox((300, 300), Affine(10, 0, 1_000_000, 0, -10, 8_399_738 + 1500), "EPSG:3857")
    nominal = 300 * 300 * 0.01
    assert area_of_everything(grid) / nominal == pytest.approx(0.25, rel=6e-3)


def test_area_in_an_equal_area_projection_across_its_whole_range() -> None:
    grid = GeoBox((500, 700), Affine(1000, 0, 3_000_000, 0, -1000, 2_500_000), "EPSG:3035")
    assert area_of_everything(grid) == pytest.approx(500 * 700 * 100, rel=1e-5)


def test_area_across_the_antimeridian_and_at_the_pole() -> None:
    fiji = GeoBox((200, 300), Affine(0.01, 0, 178.5, 0, -0.01, -16), "EPSG:4326")
    elsewhere = GeoBox((200, 300), Affine(0.01, 0, 20, 0, -0.01, -16), "EPSG:4326")
    assert area_of_everything(fiji) == pytest.approx(area_of_everything(elsewhere), rel=1e-9)
    pole = GeoBox((200, 200), Affine(1000, 0, -100_000, 0, -1000, 100_000), "EPSG:6931")
    assert area_of_everything(pole) == pytest.approx(200 * 200 * 100, rel=1e-5)


def test_area_in_grads() -> None:
    """A geographic system of the old French kind, whose unit is not the degree."""
    grads = GeoBox((100, 100), Affine(0.001, 0, 2, 0, -0.001, 52), "EPSG:4807")
    assert area_of_everything(grads) == pytest.approx(
        10 * 10 * math.cos(math.radians(51.95 * 0.9)) * 100, rel=6e-3  # a grad of latitude is about 100 km
    )


@settings(max_examples=examples(20), deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), data=st.data())
def test_areas_do_not_depend_on_how_rows_arrive(height: int, width: int, data: st.DataObject) -> None:
    codes = random_codes(height, width)
    grid = utm_grid(height, width)
    counter = AreaCounter(grid, SCHEME)
    for top, bottom in pairwise([0, *sorted(data.draw(st.lists(st.integers(0, height), max_size=5))), height]):
        counter.add(top, codes[top:bottom])
    areas = counter.hectares()
    counts = np.bincount(codes.ravel(), minlength=256)
    for code, name in zip(SCHEME.codes, SCHEME.names, strict=True):
        assert areas[name] == pytest.approx(counts[code] * 0.01, rel=2e-3)


def test_area_needs_every_row_in_order() -> None:
    counter = AreaCounter(utm_grid(10, 10), SCHEME)
    with pytest.raises(ValueError, match="do not follow"):
        counter.add(1, random_codes(9, 10))
    counter.add(0, random_codes(9, 10))
    with pytest.raises(ValueError, match="all 10 rows; only 9"):
        counter.hectares()


def test_area_needs_a_place_on_the_earth() -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(InputError, match="is not tied to the Earth"):
        AreaCounter(GeoBox((2, 2), Affine(1, 0, 0, 0, -1, 0), local), SCHEME)
