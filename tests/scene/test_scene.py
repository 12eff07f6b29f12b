"""Scene pairs: alignment, windows, refusals, and detection on real files."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.windows import Window as RasterWindow

from refnet_cli.errors import InputError, InputMissingError, OptionsError, RefnetError
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import examples, few
from tests.helpers.real_data import PLACES, SHIFTED, each_source
from tests.helpers.scenes import use_small_blocks

BANDS = ["B02", "B03", "B04", "B08"]
PLACE = Affine(10, 0, 600_000, 0, -10, 5_000_000)
MANIFEST = Path(__file__).parents[3] / "shared" / "badfiles" / "MANIFEST.json"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(
        name: str, values: Any, transform: Affine = PLACE, crs: Any = "EPSG:32631", **profile: Any
    ) -> Path:
        descriptions = profile.pop("descriptions", None)
        count, height, width = values.shape
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype,
            crs=crs, transform=transform, **profile,
        ) as file:  # fmt: skip
            file.write(values)
            if descriptions:
                file.descriptions = descriptions
        return tmp_path / name

    return write_file


def optical_values(height: int = 96, width: int = 96) -> np.ndarray:
    return np.random.default_rng(1).integers(100, 4000, (4, height, width)).astype(np.uint16)


def sar_values(height: int = 96, width: int = 96) -> np.ndarray:
    random = np.random.default_rng(2)
    level = np.array([-11.0, -18.0])[:, None, None] + 3 * random.standard_normal((2, height, width))
    return level.astype(np.float32)


def everything(pair: ScenePair) -> Any:
    return pair.read(Window(0, 0, *pair.grid.shape))


def decided(pair: ScenePair) -> dict[str, Any]:
    return {decision.what: decision.value for decision in pair.decisions}


# --- alignment: images whose values are their own place --------------------------------------------------------------

SIDE = 600  # more than one block


def place_image(crs: str, size: float, grid_transform: Affine, grid_crs: str, turn: float = 0.0) -> tuple[Any, Affine]:
    """Linear power that tells each pixel's place on the grid: 1 + column / 1000 and 1 + row / 1000."""
    columns, rows = np.array([0, SIDE, 0, SIDE, SIDE / 2]), np.array([0, 0, SIDE, SIDE, SIDE / 2])
    corners = Transformer.from_crs(grid_crs, crs, always_xy=True).transform(
        grid_transform.c + columns * 10, grid_transform.f - rows * 10
    )
    west, north = min(corners[0]), max(corners[1])
    step = size / 111_320 if crs == "EPSG:4326" else size / np.cos(np.radians(45)) if crs == "EPSG:3857" else size
    margin = 30 * step
    width = int((max(corners[0]) - west + 2 * margin) / step)
    height = int((north - min(corners[1]) + 2 * margin) / step)
    transform = Affine(step, 0, west - margin, 0, -step, north + margin)
    if turn:
        to_middle, back = Affine.translation(width / 2, height / 2), Affine.translation(-width / 2, -height / 2)
        transform = transform @ to_middle @ Affine.rotation(turn) @ back
    down, across = np.mgrid[:height, :width] + 0.5
    x = transform.a * across + transform.b * down + transform.c
    y = transform.d * across + transform.e * down + transform.f
    x, y = Transformer.from_crs(crs, grid_crs, always_xy=True).transform(x, y)
    column, row = (x - grid_transform.c) / 10, (grid_transform.f - y) / 10
    return np.stack([1 + (column + 200) / 1000, 1 + (row + 200) / 1000]).astype(np.float32), transform


def places_of(sar: np.ndarray) -> np.ndarray:
    return (10 ** (sar.astype(np.float64) / 10) - 1) * 1000 - 200


@pytest.mark.parametrize(
    ("crs", "size", "turn"),
    few(
        [(crs, size, 0.0) for crs in ("EPSG:4326", "EPSG:32632", "EPSG:3857") for size in (10.0, 14.0, 20.0)]
        + [("EPSG:32632", 5.0, 0.0), ("EPSG:32631", 14.0, 0.0), ("EPSG:4326", 14.0, 30.0), ("EPSG:32632", 10.0, 180.0)],
        ("EPSG:32632", 10.0, 0.0), ("EPSG:3857", 20.0, 0.0), ("EPSG:4326", 14.0, 30.0), ("EPSG:32632", 10.0, 180.0),
    ),
)
def test_each_pixel_reads_its_own_place(write: Write, crs: str, size: float, turn: float) -> None:
    image, transform = place_image(crs, size, PLACE, "EPSG:32631", turn)
    sar = write("s1.tif", image, transform, crs)
    optical = write("s2.tif", optical_values(SIDE, SIDE))
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"], SceneOptions(sar_scale="power")) as pair:
        assert decided(pair)["sar.resampling"] == ("average" if size == 5.0 else "bilinear")
        patch = everything(pair)
    column, row = places_of(patch.sar)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    known = patch.sar_valid
    if turn == 30:  # the corners are not covered, and there is nothing to interpolate at the image's edge
        known = known & (abs(across - SIDE / 2) + abs(down - SIDE / 2) < SIDE / 2)
    assert known.mean() > (0.45 if turn == 30 else 0.9999)
    assert abs(column - across)[known].max() < 0.05
    assert abs(row - down)[known].max() < 0.05


@pytest.mark.parametrize(("west_of", "zone"), few(product(("180", "-180"), (60, 1)), ("180", 60), ("-180", 1)))
def test_antimeridian(write: Write, zone: int, west_of: str) -> None:
    crs = f"EPSG:326{zone:02d}"
    middle = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, 40)
    grid = Affine(10, 0, round(middle[0]) - 3000, 0, -10, round(middle[1]) + 3000)
    step = 10 / 111_320
    left = float(west_of) - 0.06
    transform = Affine(step, 0, left, 0, -step, 40.05)
    down, across = np.mgrid[:1150, :1350] + 0.5
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(left + across * step, 40.05 - down * step)
    image = np.stack([1 + ((x - grid.c) / 10 + 200) / 1000, 1 + ((grid.f - y) / 10 + 200) / 1000]).astype(np.float32)
    sar = write("s1.tif", np.where(image > 0, image, 0), transform, "EPSG:4326")
    optical = write("s2.tif", optical_values(600, 600), grid, crs)
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"], SceneOptions(sar_scale="power")) as pair:
        patch = everything(pair)
    assert patch.sar_valid.all()
    column, row = places_of(patch.sar)
    down, across = np.mgrid[:600, :600] + 0.5
    assert abs(column - across).max() < 0.05
    assert abs(row - down).max() < 0.05


def test_same_grid_is_passed_through(write: Write) -> None:
    values = sar_values(200, 650)
    values[:, 20:40, 30:60] = np.nan
    values[0, 100, 100] = np.inf
    optical = write("s2.tif", optical_values(200, 650))
    with ScenePair.open(optical, write("s1.tif", values), BANDS, ["VV", "VH"]) as pair:
        patch = everything(pair)
        assert pair.counts == {"sar_non_finite": pair.counts["sar_non_finite"]}
    np.testing.assert_array_equal(np.isfinite(patch.sar), np.isfinite(values))
    np.testing.assert_allclose(patch.sar[np.isfinite(values)], values[np.isfinite(values)], atol=1e-5)


def test_average_is_exact_even_in_many_pieces(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    power = np.random.default_rng(0).gamma(4, 0.02, (1, 480, 640)).astype(np.float32)
    power[0, 100:150, 200:260] = 0
    optical = write("s2.tif", optical_values(60, 80))
    sar = write("s1.tif", power, PLACE @ Affine.scale(1 / 8))
    results = []
    for piece in (1 << 24, 20_000):
        monkeypatch.setattr("refnet_cli.scene.resample._PIECE", piece)
        with ScenePair.open(optical, sar, BANDS, ["VV"], SceneOptions(sar_scale="power")) as pair:
            results.append(everything(pair).sar)
    tiles = np.where(power[0] > 0, power[0], np.nan).reshape(60, 8, 80, 8).swapaxes(1, 2).reshape(60, 80, 64)
    count = np.isfinite(tiles).sum(axis=2)
    expected = np.where(count >= 32, np.nansum(tiles, axis=2) / np.maximum(count, 1), np.nan)  # half of it known
    for result in results:
        np.testing.assert_allclose(result[0], 10 * np.log10(expected), atol=1e-4)


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenePair]:
    folder = tmp_path_factory.mktemp("windows")
    image, transform = place_image("EPSG:4326", 14, PLACE, "EPSG:32631")
    image[:, 300:330, 200:280] = np.nan
    for name, values, place, crs in (
        ("s2.tif", optical_values(SIDE, SIDE), PLACE, "EPSG:32631"), ("s1.tif", image, transform, "EPSG:4326")
    ):  # fmt: skip
        with rasterio.open(
            folder / name, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
            dtype=values.dtype, crs=crs, transform=place,
        ) as file:  # fmt: skip
            file.write(values)
    with ScenePair.open(
        folder / "s2.tif", folder / "s1.tif", BANDS, ["VV", "VH"], SceneOptions(sar_scale="power")
    ) as opened:
        opened._kept = 1  # so that windows make blocks again, in ever other orders
        yield opened


@pytest.fixture(scope="module")
def whole(pair: ScenePair) -> Any:
    return everything(pair)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, 300), st.integers(1, 300))
def test_same_bytes_whatever_the_window(
    pair: ScenePair, whole: Any, row: int, column: int, height: int, width: int
) -> None:
    window = Window(row, column, height, width).clip(SIDE, SIDE)
    patch = pair.read(window)
    inside = np.s_[:, row : row + window.height, column : column + window.width]
    assert patch.optical.tobytes() == np.ascontiguousarray(whole.optical[inside]).tobytes()
    assert patch.sar.tobytes() == np.ascontiguousarray(whole.sar[inside]).tobytes()


def test_window_must_lie_inside(pair: ScenePair) -> None:
    for window in (Window(-1, 0, 5, 5), Window(0, SIDE - 2, 3, 3), Window(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="not inside the grid"):
            pair.read(window)


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def large_pair(write: Write, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Optical of 3 x 6 blocks, SAR shifted by part of a pixel."""
    use_small_blocks(monkeypatch, 128)
    shifted = PLACE @ Affine.translation(0.3, 0.4)
    return write("s2.tif", optical_values(350, 675)), write("s1.tif", sar_values(350, 675), shifted)


def test_threads_change_no_value_and_no_count(large_pair: tuple[Path, Path]) -> None:
    windows = [Window(row, column, 50, 75) for row in (0, 150) for column in range(0, 375, 75)]
    read = []
    for threads, announced in ((1, []), (1, windows), (4, windows), (4, windows[::2])):
        with ScenePair.open(*large_pair, BANDS, ["VV", "VH"], read_threads=threads) as pair:
            pair.prefetch(announced)
            patches = [pair.read(window) for window in windows]
            assert all((pair.read_valid(w) == p.valid).all() for w, p in zip(windows, patches, strict=True))
            read.append((b"".join(p.optical.tobytes() + p.sar.tobytes() for p in patches), dict(pair.counts)))
    assert all(each == read[0] for each in read)


@pytest.mark.long
def test_threads_can_be_given_up_while_they_read(large_pair: tuple[Path, Path]) -> None:
    windows = [Window(row, column, 128, 128) for row in (0, 128) for column in range(0, 256, 128)]
    read = []
    for threads, fewer in ((1, 1), (4, 2), (4, 1), (2, 3)):
        with ScenePair.open(*large_pair, BANDS, ["VV", "VH"], read_threads=threads) as pair:
            pair.prefetch(windows)
            pair.use_threads(fewer)
            assert pair._files.qsize() <= min(threads, fewer)
            patches = [pair.read(window) for window in windows]
            assert len(pair._ahead) <= 2 * fewer
            read.append(b"".join(patch.optical.tobytes() + patch.sar.tobytes() for patch in patches))
    assert all(each == read[0] for each in read)


@pytest.mark.parametrize("threads", few([1, 3], 3))
def test_blocks_in_memory_are_bounded(
    large_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    alive: set[int] = set()
    made, most = [], 0
    make = ScenePair.make_block

    def counting(self: ScenePair, key: tuple[int, int]) -> Any:
        nonlocal most
        block = make(self, key)
        made.append(key)
        alive.add(id(block.seen))
        weakref.finalize(block.seen, alive.discard, id(block.seen))
        most = max(most, len(alive))
        return block

    monkeypatch.setattr(ScenePair, "make_block", counting)
    with ScenePair.open(*large_pair, BANDS, ["VV", "VH"], kept_blocks=2, read_threads=threads) as pair:
        windows = [Window(row, column, 75, 75) for row in (0, 150, 275) for column in range(0, 675, 75)]
        pair.prefetch(windows)
        pair._threads.submit(int).result()
        for window in windows:
            pair.read(window)
            assert len(pair._ahead) <= 2 * threads
    assert most <= 2 + 2 * threads + 1  # one is being cut up
    assert set(made) == {(row, column) for row in range(3) for column in range(6)}


def test_each_thread_has_files_of_its_own_and_all_are_closed(
    large_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    create = Raster.__init__

    def noting(self: Raster, *arguments: Any) -> None:
        create(self, *arguments)
        opened.append(self.dataset)

    monkeypatch.setattr(Raster, "__init__", noting)
    before = threading.active_count()
    with ScenePair.open(*large_pair, BANDS, ["VV", "VH"], read_threads=3) as pair:
        pair.prefetch([Window(0, 0, 350, 675)])
    assert len(opened) == 6
    assert all(dataset.closed for dataset in opened)
    assert threading.active_count() == before


def test_grids_shifted_by_whole_pixels_are_not_resampled(write: Write) -> None:
    values = sar_values(300, 300)
    values[1, 50:60, 70:90] = np.nan
    optical = write("s2.tif", optical_values(200, 240), PLACE @ Affine.translation(100, 150))
    with ScenePair.open(optical, write("s1.tif", values), BANDS, ["VV", "VH"]) as pair:
        patch = everything(pair)
        for part in pair._sar.groups:
            part.alignment._shift = None  # as if they were not
        pair._blocks.clear()
        warped = everything(pair)
    assert decided(pair)["overlap"] < 1
    assert np.isnan(patch.sar[:, 150:]).all()
    np.testing.assert_allclose(patch.sar[:, :150, :200], values[:, 150:, 100:], atol=1e-5)
    np.testing.assert_array_equal(np.isnan(patch.sar), np.isnan(warped.sar))
    np.testing.assert_allclose(patch.sar, warped.sar, atol=1e-5)


# --- units, masks, bands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "convert"),
    [
        ("db", lambda level: level),
        ("db100", lambda level: np.round(level * 100).astype(np.int16)),
        ("power", lambda level: 10 ** (level / 10)),
        ("amplitude", lambda level: 10 ** (level / 20)),
    ],
)
def test_units_are_recognised_and_converted(write: Write, scale: str, convert: Callable[[Any], Any]) -> None:
    level = sar_values()
    sar = write("s1.tif", convert(level))
    with ScenePair.open(write("s2.tif", optical_values()), sar, BANDS, ["VV", "VH"]) as pair:
        assert decided(pair)["sar.scale"] == scale
        np.testing.assert_allclose(everything(pair).sar, level, atol=0.006)


def test_clamped_and_impossible_values_are_counted(write: Write) -> None:
    level = sar_values()
    level[0, :3] = np.linspace(-75, -61, 288).reshape(3, 96)
    level[1, 5] = np.linspace(1e30, 3e38, 96)
    level[1, 6] = np.linspace(-59, -46, 96)
    with ScenePair.open(write("s2.tif", optical_values()), write("s1.tif", level), BANDS, ["VV", "VH"]) as pair:
        patch = everything(pair)
        assert pair.counts == {"sar_clamped": 288, "sar_impossible": 96}
        everything(pair)
        assert pair.counts["sar_clamped"] == 288
    assert (patch.sar[0, :3] == -60).all()
    assert not patch.sar_valid[5].any()
    assert patch.sar_valid.sum() == 95 * 96


def test_optical_becomes_reflectance_with_holes(write: Write) -> None:
    values = optical_values()
    values[:, 0] = 0
    values[1, 1] = 0
    values[2, 2] = 65_535
    with ScenePair.open(write("s2.tif", values), write("s1.tif", sar_values()), BANDS, ["VV", "VH"]) as pair:
        patch = everything(pair)
    assert not patch.optical_valid[0].any()
    assert patch.optical_valid[1].all()
    assert not patch.optical_valid[2].any()
    np.testing.assert_array_equal(patch.optical[:, 3:], values[:, 3:])
    np.testing.assert_array_equal(patch.valid, patch.optical_valid & patch.sar_valid)


def test_offset_scale_and_options(write: Write) -> None:
    sar = write("s1.tif", sar_values())
    shifted = optical_values() + 900
    with ScenePair.open(write("a.tif", shifted), sar, BANDS, ["VV", "VH"]) as pair:
        assert decided(pair)["optical.offset"] == 1000
        np.testing.assert_array_equal(everything(pair).optical, shifted.astype(np.float32) - 1000)
    options = SceneOptions(optical_offset=0, optical_bands=("4", "3", "2", "1"))
    with ScenePair.open(write("b.tif", shifted), sar, BANDS, ["VV", "VH"], options) as pair:
        np.testing.assert_array_equal(everything(pair).optical, shifted[::-1])
    fraction = (optical_values() / 10_000).astype(np.float32)
    with ScenePair.open(write("c.tif", fraction), sar, BANDS, ["VV", "VH"]) as pair:
        np.testing.assert_allclose(everything(pair).optical, optical_values(), rtol=1e-5)
    with rasterio.open(write("d.tif", optical_values() + 1000), "r+") as file:
        file.scales, file.offsets = (1e-4,) * 4, (-0.1,) * 4
    with ScenePair.open(Path(file.name), sar, BANDS, ["VV", "VH"]) as pair:
        np.testing.assert_allclose(everything(pair).optical, optical_values(), atol=0.01)


def test_bands_by_description(write: Write) -> None:
    values = np.concatenate([optical_values(), optical_values()[:1]])
    optical = write("s2.tif", values, descriptions=["B8 (nir)", "B4", "B3", "B2", "QA60"])
    sar = write("s1.tif", sar_values(), descriptions=["Gamma0_VH_db", "Gamma0_VV_db"])
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"]) as pair:
        assert decided(pair)["optical.bands"] == [4, 3, 2, 1]
        assert decided(pair)["sar.bands"] == [2, 1]


# --- refusals --------------------------------------------------------------------------------------------------------


def refuse(optical: Any, sar: Any, match: str, kind: type[RefnetError] = InputError) -> None:
    with pytest.raises(kind, match=match) as caught:
        ScenePair.open(optical, sar, BANDS, ["VV", "VH"])
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_refused_paths(write: Write, tmp_path: Path) -> None:
    optical = write("s2.tif", optical_values())
    refuse(optical, tmp_path / "none.tif", "does not exist", InputMissingError)
    (tmp_path / "empty").mkdir()
    refuse(optical, tmp_path / "empty", "contains no GeoTIFF", InputMissingError)
    refuse(optical, "/vsicurl/http://a.b/c.tif", "not a local file")
    refuse(optical, "https://a.b/c.tif", "not a local file")
    (tmp_path / "page.tif").write_text("<html>")
    refuse(optical, tmp_path / "page.tif", "is HTML or XML")


def test_refused_places(write: Write) -> None:
    optical = write("s2.tif", optical_values())
    values = sar_values()
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    refuse(optical, write("a.tif", values, crs=None), "no coordinate reference system")
    refuse(optical, write("b.tif", values, crs=local), "local coordinate system")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        identity = write("c.tif", values, Affine.identity())
    refuse(optical, identity, "not georeferenced")
    refuse(optical, write("d.tif", values, Affine(10, 0, 600_960, 0, -10, 5_000_000)), r"\(600960, .*\(600000, ")
    refuse(optical, write("e.tif", values.astype(np.complex64)), "complex")
    for name, turned in (("f.tif", Affine.rotation(10)), ("g.tif", Affine.scale(1, -1)), ("h.tif", Affine.shear(5))):
        turned_place = Affine.translation(600_000, 5_000_000) @ Affine.scale(10, -10) @ turned
        refuse(write(name, optical_values(), turned_place), write("s1.tif", values), "north-up")
    points = [GroundControlPoint(row, col, 6e5 + col, 5e6 - row) for row in (0, 90) for col in (0, 90)]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        gcps = write("gcps.tif", values, Affine.identity(), gcps=points)
    refuse(optical, gcps, "terrain-correct")


def test_refused_content(write: Write) -> None:
    optical, sar = write("s2.tif", optical_values()), write("s1.tif", sar_values())
    refuse(write("a.tif", optical_values()[:3]), sar, "3 bands")
    refuse(write("b.tif", np.repeat(optical_values(), 2, axis=0)), sar, "--optical-bands")
    refuse(write("c.tif", (optical_values() // 20).astype(np.uint8)), sar, "8-bit")
    refuse(write("d.tif", np.zeros((4, 96, 96), np.uint16)), sar, "no valid pixel")
    refuse(optical, write("e.tif", np.full((2, 96, 96), np.nan, np.float32)), "no valid pixel")
    refuse(optical, write("f.tif", sar_values()[::-1]), "--sar-bands 2,1")
    refuse(optical, write("g.tif", (10 ** (sar_values() / 20) * 1000).astype(np.uint16)), "calibrate")
    with pytest.raises(OptionsError, match="--sar-scale"):
        SceneOptions(sar_scale="nepers")  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="--sar-bands"):
        ScenePair.open(optical, sar, BANDS, ["VV", "VH"], SceneOptions(sar_bands=("1", "3")))


def test_damage_in_mid_scene_is_located(write: Write) -> None:
    values = np.random.default_rng(3).integers(100, 4000, (4, 1200, 1200)).astype(np.uint16)
    optical = write("s2.tif", values, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
    sar = write("s1.tif", sar_values(1200, 1200))
    with rasterio.open(optical) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_8_8", "TIFF", bidx=3))
    content = bytearray(optical.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    optical.write_bytes(content)
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"]) as pair:
        pair.read(Window(0, 0, 512, 512))
        with pytest.raises(InputError, match=r"s2\.tif is damaged: band \d is unreadable in rows 1024"):
            pair.read(Window(1024, 1024, 100, 100))
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"], SceneOptions(on_read_error="mask")) as pair:
        patch = everything(pair)
        unread = ~patch.optical_valid
        assert unread[1024:1152, 1024:1152].all()
        assert 128**2 <= unread.sum() == pair.counts["optical_unreadable"] <= 4 * 128**2
        np.testing.assert_array_equal(patch.optical[:, ~unread], values[:, ~unread])
        assert patch.sar_valid[:1100, :1100].all()


# --- files that nobody made for this --------------------------------------------------------------------------------


def manifest() -> list[Any]:
    """What the folder next to the checkout says of its files; tests/faults/bad_files.py makes others."""
    if not MANIFEST.exists():
        return [pytest.param({}, id="none")]
    return [pytest.param(entry, id=entry["file"]) for entry in json.loads(MANIFEST.read_text())]


@pytest.mark.parametrize("entry", manifest())
def test_bad_files(shared: Path, entry: dict[str, str]) -> None:
    folder = shared / "badfiles"
    paths = {entry["used_as"]: folder / entry["file"]}
    other = "sar" if entry["used_as"] == "optical" else "optical"
    paths[other] = folder / entry["partner"]

    def run() -> float:
        with ScenePair.open(paths["optical"], paths["sar"], BANDS, ["VV", "VH"]) as pair:
            return float(everything(pair).valid.mean())

    if entry["expect"] == "reject":
        with pytest.raises(RefnetError) as caught:
            run()
        assert entry["file"] in str(caught.value)
        assert caught.value.exit_code in (64, 65, 66)
    else:
        assert run() > 0


TERRAMIND = [
    (place, product, 1000.0 if place in shifted else 0.0) for product, shifted in SHIFTED.items() for place in PLACES
]


@pytest.mark.parametrize(
    ("data", "place", "product", "offset"), each_source(TERRAMIND[::3], TERRAMIND, pytest.mark.long), indirect=["data"]
)
def test_pairs_of_one_grid(data: Path, place: str, product: str, offset: float) -> None:
    folder = data / "terramind"
    with ScenePair.open(
        folder / product / f"{place}.tif", folder / "S1RTC" / f"{place}.tif", BANDS, ["VV", "VH"]
    ) as pair:
        found = decided(pair)
        assert (found["optical.offset"], found["sar.scale"], found["optical.bands"]) == (offset, "db", [2, 3, 4, 8])
        assert everything(pair).valid.all()
        json.dumps(found)


@pytest.mark.parametrize(("data", "month"), each_source(["Jun"], ["Jun", "Aug"]), indirect=["data"])
def test_a_pair_across_zones(data: Path, tmp_path: Path, month: str) -> None:
    folder = data / "cross_utm" / month
    names = ("B2", "B3", "B4")
    files = [next(folder.glob(f"*.{name}.tif")) for name in names]
    with rasterio.open(files[0]) as first:
        profile = first.profile | {"count": 3}
    with rasterio.open(tmp_path / "s2.tif", "w", **profile) as stack:
        for index, path in enumerate(files, 1):
            with rasterio.open(path) as file:
                stack.write(file.read(1, window=RasterWindow(0, 0, file.width, file.height)), index)
    with ScenePair.open(tmp_path / "s2.tif", next(folder.glob("S1*.tif")), ["B02", "B03", "B04"], ["VV"]) as pair:
        found = decided(pair)
        assert (found["optical.offset"], found["sar.scale"]) == (0.0, "db")
        assert found["overlap"] == pytest.approx(everything(pair).sar_valid.mean(), abs=0.02)
