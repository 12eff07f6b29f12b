"""Single-sensor scenes: their pixels, their grid, and options and files that contradict them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasterio.warp import transform

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.prediction.inspection import inspect
from refnet_cli.scene.blocks import Patch, read_tile
from refnet_cli.scene.grid import GridNeededError
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.quality import UNREADABLE
from refnet_cli.tiles.window import Window
from tests.helpers.quick import few
from tests.helpers.safe import TILES, make_grd_safe, make_optical_safe
from tests.helpers.scenes import CARD, PLACE, grid_of, make_pair, write

BANDS, RADAR = ("B02", "B03", "B04", "B08"), ("VV", "VH")
HEIGHT, WIDTH = 130, 550  # more than a block


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files of both sensors on one grid, each with holes of its own."""

    def holes(optical: NDArray[Any], sar: NDArray[Any]) -> None:
        optical[:, 10:30, 500:530] = 0
        optical[1, 60, 60] = 0
        sar[:, 20:40, 510:540] = np.nan
        sar[1, 70, 80] = np.nan

    return dict(zip(("optical", "sar"), make_pair(tmp_path, HEIGHT, WIDTH, holes=holes), strict=True))


def opened(
    optical: Path | None, sar: Path | None, bands: tuple[str, ...] = BANDS, threads: int = 1, **options: Any
) -> ScenePair:
    return ScenePair.open(optical, sar, bands, RADAR, SceneOptions(**options), read_threads=threads)


def everything(pair: ScenePair) -> Patch:
    return pair.read(Window(0, 0, *pair.grid.shape))


def decided(pair: ScenePair, modality: str) -> dict[str, Any]:
    return {what: (value, how) for what, value, how in pair.decisions if what.startswith(f"{modality}.")}


def stored(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


def radar(path: Path, place: Affine, crs: str, height: int = 90, width: int = 110, **more: Any) -> Path:
    random = np.random.default_rng(7)
    power = random.gamma(4, 0.25, (2, height, width)) * np.array([[[0.08]], [[0.015]]])
    return write(path, power.astype(np.float32), RADAR, place, crs, nodata=None, **more)


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "threads", "missing"),
    few(
        product(("optical", "sar"), (1, 2), ("nodata", "use-other")),
        ("optical", 1, "nodata"), ("optical", 2, "use-other"), ("sar", 2, "nodata"), ("sar", 1, "use-other"),
    ),
)
def test_a_sensor_alone_is_read_as_in_a_pair(files: dict[str, Path], present: str, threads: int, missing: str) -> None:
    absent = "sar" if present == "optical" else "optical"
    with opened(**files) as pair:
        both, seen, wanted = everything(pair), pair.read_seen(Window(0, 0, HEIGHT, WIDTH)), decided(pair, present)
        levels, grid = pair.levels, pair.grid
    windows = [Window(0, 0, HEIGHT, WIDTH), Window(3, 490, 50, 60)]
    with opened(**{present: files[present], absent: None}, threads=threads, missing=missing) as pair:
        assert (pair.absent, pair.grid, pair.files) == (absent, grid, [files[present]])
        pair.prefetch(windows)
        for window in windows:
            here = np.s_[window.row : window.row + window.height, window.column : window.column + window.width]
            patch = pair.read(window)
            np.testing.assert_array_equal(getattr(patch, present), getattr(both, present)[:, *here])
            assert getattr(patch, absent).shape == getattr(both, absent)[:, *here].shape
            assert np.isnan(getattr(patch, absent)).all()
            valid = getattr(both, f"{present}_valid")[here]
            assert 0 < valid.mean() < 1
            np.testing.assert_array_equal(patch.valid, valid)
            np.testing.assert_array_equal(pair.read_valid(window), valid)
            np.testing.assert_array_equal(pair.read_seen(window), seen[here] & {"optical": 1, "sar": 2}[present])
        assert decided(pair, present) == wanted
        assert not decided(pair, absent)
        names = BANDS if present == "optical" else RADAR
        assert pair.levels == {name: levels[name] for name in names}
        assert not [what for what, _, _ in pair.decisions if what == "coreg"]


def test_sar_alone_is_what_the_file_holds(tmp_path: Path) -> None:
    path = radar(tmp_path / "s1.tif", Affine(20, 0, 400_010, 0, -20, 7_000_030), "EPSG:32718")
    with opened(None, path) as pair:
        patch = everything(pair)
        assert pair.grid == grid_of(path)
        assert any("20 m wide" in warning for warning in pair.warnings)
    np.testing.assert_allclose(patch.sar, 10 * np.log10(stored(path)), rtol=1e-5)


def test_sar_of_a_file_a_band_lies_on_the_finest_grid(tmp_path: Path) -> None:
    fine = radar(tmp_path / "both.tif", PLACE, "EPSG:32633", 80, 120)
    values = stored(fine)
    vh = write(tmp_path / "VH.tif", values[1:], ("VH",), nodata=None)
    vv = write(tmp_path / "VV.tif", values[:1, ::2, ::2], ("VV",), Affine(20, 0, PLACE.c, 0, -20, PLACE.f), nodata=None)
    with ScenePair.open(None, [vv, vh], BANDS, RADAR) as pair:
        assert pair.grid == grid_of(vh)
        np.testing.assert_allclose(everything(pair).sar[1], 10 * np.log10(values[1]), rtol=1e-5)


def test_tiles_beyond_the_grid_keep_what_is_absent(files: dict[str, Path]) -> None:
    with opened(None, files["sar"]) as pair:
        patch = read_tile(pair, Window(100, 500, 64, 64))
        inside = everything(pair).sar[:, 100:, 500:]
    assert np.isnan(patch.optical).all()
    np.testing.assert_array_equal(patch.sar[:, :30, :50], inside)
    assert not patch.valid[30:].any()
    assert not patch.valid[:, 50:].any()
    assert patch.valid[:30, :50].any()


def test_what_cannot_be_read_is_marked(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    path = write(tmp_path / "s2.tif", random.integers(100, 4000, (4, 600, 600)).astype(np.uint16), BANDS)
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=3))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    with opened(path, None, on_read_error="mask") as pair:
        seen = pair.read_seen(Window(0, 0, 600, 600))
        assert (seen[256:512, 256:512] == UNREADABLE).all()
        assert (seen[:256, :256] == 1).all()
        assert pair.counts["optical_unreadable"] == np.count_nonzero(seen & UNREADABLE)


def test_clouds_of_an_optical_image_alone(tmp_path: Path) -> None:
    scl = np.full((120, 120), 4, np.uint8)
    scl[:40, :50] = 9
    product = make_optical_safe(tmp_path, classes={"32TQS": scl})
    with opened(product, None, mask_clouds=True) as pair:
        valid = everything(pair).valid
        assert pair.counts["optical_cloudy"] == 80 * 100
    assert valid.sum() == 240 * 240 - 80 * 100
    assert not valid[:80, :100].any()


@pytest.mark.parametrize("missing", ["nodata", "use-other"])
@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_an_only_sensor_without_measurements_is_refused(tmp_path: Path, sensor: str, missing: str) -> None:
    names = BANDS if sensor == "optical" else RADAR
    path = write(tmp_path / "x.tif", np.full((len(names), 90, 90), np.nan, np.float32), names, nodata=None)
    with pytest.raises(InputError, match="no valid pixel"):
        opened(**{"optical": None, "sar": None} | {sensor: path}, missing=missing)


# --- the grid --------------------------------------------------------------------------------------------------------


def on_points(path: Path) -> Path:
    """A SAR file that ground control points place, obliquely."""
    ground = Affine.translation(15.2, -33.1) @ Affine.rotation(12) @ Affine.scale(1e-4, -1e-4)
    points = [
        GroundControlPoint(row, column, *(ground @ (column, row))) for row in (0, 45, 90) for column in (0, 55, 110)
    ]
    power = np.random.default_rng(7).gamma(4, 0.02, (2, 90, 110)).astype(np.float32) * np.array([[[1]], [[0.2]]])
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=90, width=110, dtype="float32", gcps=points, crs="EPSG:4326"
    ) as file:
        file.write(power.astype(np.float32))
        file.descriptions = RADAR
    return path


ODD: dict[str, Callable[[Path], Path]] = {
    "degrees": lambda path: radar(path, Affine(1e-4, 0, 15.0, 0, -1e-4, 47.85), "EPSG:4326"),
    "180 degrees": lambda path: radar(path, Affine(1e-4, 0, 179.995, 0, -1e-4, -17.0), "EPSG:4326"),
    "arctic": lambda path: radar(path, Affine(4e-3, 0, -40.0, 0, -1e-3, 86.0), "EPSG:4326"),
    "rotated": lambda path: radar(path, PLACE @ Affine.rotation(10), "EPSG:32633"),
    "south up": lambda path: radar(path, Affine(10, 0, 500_000, 0, 10, 5_300_000), "EPSG:32733"),
    "points": on_points,
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ODD)
def test_sar_alone_on_an_odd_grid_needs_another(tmp_path: Path, kind: str) -> None:
    """The command that the refusal names makes a grid on which the map holds all of the image."""
    path = ODD[kind](tmp_path / "s1.tif")
    with pytest.raises(GridNeededError, match="--grid") as refusal:
        opened(None, path, allow_gcps=True)
    assert refusal.value.exit_code == 64
    assert "s1.tif" in str(refusal.value)
    grid = create(str(refusal.value), tmp_path / "grid.tif")
    with opened(None, path, grid=grid, allow_gcps=True) as pair:
        assert pair.grid == grid_of(grid)
        assert pair.grid.crs.projected
        patch = everything(pair)
        corners = ground_corners(path, str(pair.grid.crs))
    columns, rows = np.array([~pair.grid.transform @ corner for corner in corners]).T
    for places, size in ((columns, pair.grid.shape[1]), (rows, pair.grid.shape[0])):
        assert places.min() == pytest.approx(0, abs=2)
        assert places.max() == pytest.approx(size, abs=2)
    assert patch.valid.mean() > 0.5


def create(message: str, path: Path) -> Path:
    """Make the raster that a refusal's gdal_create command makes."""
    found = re.search(r"-outsize (\d+) (\d+) -a_srs (EPSG:\d+) -a_ullr (\S+) (\S+) (\S+) (\S+) grid\.tif", message)
    assert found
    width, height = int(found[1]), int(found[2])
    west, north, east, south = map(float, found.groups()[3:])
    place = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    assert (place.a, place.e) == (10, -10)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype="uint8", crs=found[3], transform=place,
        sparse_ok=True,
    ):  # fmt: skip
        pass
    return path


def ground_corners(path: Path, crs: str) -> list[tuple[float, float]]:
    """The corners of a file in a reference system."""
    with rasterio.open(path) as file:
        points, points_crs = file.gcps
        if points:
            corners = [(p.x, p.y) for p in points if p.row in (0, 90) and p.col in (0, 110)]
        else:
            corners = [file.transform @ (x, y) for x in (0, file.width) for y in (0, file.height)]
        x, y = transform(file.crs or points_crs, crs, *zip(*corners, strict=True))
    return list(zip(x, y, strict=True))


@pytest.mark.parametrize("metres", [4, 20])
def test_the_pixels_of_sar_alone_may_not_be_sentinels(tmp_path: Path, metres: int) -> None:
    """The warning names a command whose raster ends it, also where it is cut by bounds; one of 10 m needs none."""
    place = Affine(metres, 0, 500_000, 0, -metres, 5_300_000)
    path = radar(tmp_path / "s1.tif", place, "EPSG:32633")
    with opened(None, path, bounds=("500000", "5299800", "500200", "5300000")) as pair:
        size, remedy = pair.warnings
    assert f"{metres} m wide" in size
    grid = create(remedy, tmp_path / "grid.tif")
    with opened(None, path, grid=grid) as pair:
        assert pair.warnings == []
        assert everything(pair).valid.mean() > 0.9
    with opened(None, radar(tmp_path / "ten.tif", PLACE, "EPSG:32633")) as pair:
        assert pair.warnings == []


def test_ground_range_products_alone_need_a_grid(tmp_path: Path) -> None:
    product = make_grd_safe(tmp_path, power={"VV": np.full((480, 400), 0.08), "VH": np.full((480, 400), 0.015)})
    with pytest.raises(InputError, match="--allow-gcps"):
        opened(None, product)
    with pytest.raises(GridNeededError, match="ground control points"):
        opened(None, product, allow_gcps=True)
    left, top = TILES["32TQS"]
    place = Affine(10, 0, left + 600, 0, -10, top - 600)
    grid = write(tmp_path / "dem.tif", np.ones((1, 120, 130), np.float32), ("height",), place, "EPSG:32632")
    with opened(None, product, allow_gcps=True, grid=grid) as pair:
        assert pair.grid == grid_of(grid)
        assert any("hundreds of metres" in warning for warning in pair.warnings)
        assert everything(pair).sar.mean((1, 2)) == pytest.approx(10 * np.log10([0.08, 0.015]), abs=0.1)


@pytest.mark.parametrize("present", ["optical", "sar"])
def test_a_stated_grid_and_bounds_count(files: dict[str, Path], tmp_path: Path, present: str) -> None:
    place = Affine(20, 0, PLACE.c + 200, 0, -20, PLACE.f - 100)
    grid = write(tmp_path / "grid.tif", np.ones((1, 40, 60), np.uint8), ("x",), place)
    alone: dict[str, Path | None] = {"optical": None, "sar": None} | {present: files[present]}
    bounds = tuple(str(edge) for edge in (place.c + 100, place.f - 600, place.c + 500, place.f - 200))
    with opened(**files, grid=grid) as pair:
        wanted = getattr(everything(pair), present)
    with opened(**alone, grid=grid) as pair:
        assert pair.grid == grid_of(grid)
        np.testing.assert_array_equal(getattr(everything(pair), present), wanted)
    with opened(**alone, grid=grid, bounds=bounds) as pair:
        np.testing.assert_array_equal(getattr(everything(pair), present), wanted[:, 10:30, 5:25])
    with opened(**alone, bounds=bounds) as pair:
        assert pair.grid.shape == (40, 40)
    with pytest.raises(OptionsError, match=r"outside the map's grid.* [EW] to .* [NS]\."):
        opened(**alone, bounds=("0", "0", "10", "10"))


@pytest.mark.parametrize("degrees", [True, False])
def test_optical_alone_keeps_its_own_grid(tmp_path: Path, degrees: bool) -> None:
    place, crs = (Affine(1e-4, 0, 15, 0, -1e-4, 47), "EPSG:4326") if degrees else (PLACE, "EPSG:32633")
    values = np.random.default_rng(2).integers(100, 3000, (4, 90, 100)).astype(np.uint16)
    path = write(tmp_path / "s2.tif", values, BANDS, place, crs)
    with opened(path, None) as pair:
        assert pair.grid == grid_of(path)
        np.testing.assert_array_equal(everything(pair).optical, values)


def test_of_several_zones_the_largest_is_mapped_with_a_warning(tmp_path: Path) -> None:
    (tile,) = (tile for tile in TILES if tile.startswith("33"))
    product = make_optical_safe(tmp_path, "L1C", "02.01", tiles=TILES)
    alone = {"32": 0, "33": 0}
    for name in TILES:
        alone[name[:2]] += 1
    largest = max(alone, key=lambda zone: alone[zone])  # the first of equals
    with opened(product, None) as pair:
        assert pair.grid.crs.to_epsg() == int(f"326{largest}")
        (decision,) = (found for found in pair.decisions if found.what == "optical.zone")
        assert decision.value == f"EPSG:326{largest}"
        assert any("EPSG:32632" in warning and "EPSG:32633" in warning for warning in pair.warnings)
    corner = TILES[tile]
    place = Affine(10, 0, corner[0] + 200, 0, -10, corner[1] - 200)
    with opened(product, radar(tmp_path / "s1.tif", place, "EPSG:32633")) as pair:
        assert pair.grid.crs.to_epsg() == 32633
        assert not any("EPSG:32632" in warning for warning in pair.warnings)


# --- options and files that do not fit --------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "optical": {
        "--optical-bands": {"optical_bands": BANDS},
        "--optical-offset": {"optical_offset": 0.0},
        "--optical-scale": {"optical_scale": "dn"},
    },
    "sar": {"--sar-bands": {"sar_bands": RADAR}, "--sar-scale": {"sar_scale": "power"}},
}


@pytest.mark.parametrize(
    ("sensor", "option"), [(sensor, option) for sensor, options in OPTIONS.items() for option in options]
)
def test_options_need_the_files_of_their_sensor(files: dict[str, Path], sensor: str, option: str) -> None:
    other = {"optical": "sar", "sar": "optical"}[sensor]
    with opened(**{sensor: files[sensor], other: None}, **OPTIONS[sensor][option]) as pair:
        assert pair.absent == other
    with pytest.raises(OptionsError, match=rf"{option} .*--{sensor}"):
        opened(**{other: files[other], sensor: None}, **OPTIONS[sensor][option])


def test_clouds_are_not_masked_without_an_optical_image(files: dict[str, Path]) -> None:
    with pytest.raises(OptionsError, match=r"--mask-clouds .*--optical"):
        opened(None, files["sar"], mask_clouds=True)


@pytest.mark.parametrize("present", ["optical", "sar"])
@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"coreg": "off"}, ""), ({"coreg": "check"}, ""), ({"coreg": "auto"}, "--coreg auto"),
        ({"coreg": "require"}, "--coreg require"), ({"extent": "intersection"}, "--extent intersection"),
    ],
)  # fmt: skip
def test_what_compares_both_sensors(
    files: dict[str, Path], present: str, options: dict[str, Any], refused: str
) -> None:
    alone: dict[str, Path | None] = {"optical": None, "sar": None} | {present: files[present]}
    if refused:
        with pytest.raises(OptionsError, match=refused):
            opened(**alone, **options)
        return
    with opened(**alone, **options) as pair:
        assert "coreg" not in {found.what for found in pair.decisions}
        with pytest.raises(OptionsError, match="needs optical and SAR"):
            pair.estimate_shift()


def test_neither_sensor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionsError, match="Pass --optical, --sar or both"):
        opened(None, None)
    with pytest.raises(OptionsError, match="Pass --optical, --sar or both"):
        inspect(None, None, CARD)
    assert run(["inspect"]) == 2
    assert "give --optical, --sar or both" in capsys.readouterr().err


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("given", ["optical", "sar"])
def test_files_of_the_other_sensor_are_recognised(tmp_path: Path, given: str, names: bool) -> None:
    other = {"optical": "sar", "sar": "optical"}[given]
    said = {"optical": BANDS[:2], "sar": RADAR}[other] if names else (None, None)
    random = np.random.default_rng(4)
    values: NDArray[Any] = random.integers(300, 3000, (2, 90, 90)).astype(np.uint16)
    if other == "sar":
        values = random.normal(-14, 3, (2, 90, 90)).astype(np.float32)
    path = write(tmp_path / "x.tif", values, said, nodata=None)  # type: ignore[arg-type]
    for look in (
        lambda files: opened(**files, bands=BANDS[:2]),
        lambda files: inspect(**files),
    ):
        with pytest.raises(InputError, match=rf"--{given} .*x\.tif is an? \w+ image .* Pass it with --{other} instead"):
            look({given: path, other: None})


@pytest.mark.parametrize("given", ["optical", "sar"])
def test_products_of_the_other_sensor_are_recognised(tmp_path: Path, given: str) -> None:
    product = make_grd_safe(tmp_path) if given == "optical" else make_optical_safe(tmp_path)
    other = {"optical": "sar", "sar": "optical"}[given]
    with pytest.raises(InputError, match=f"Pass it with --{other}"):
        opened(**{given: product, other: None}, allow_gcps=True)


@pytest.mark.parametrize("given", ["optical", "sar"])
def test_folders_of_the_other_sensor_are_recognised(tmp_path: Path, given: str) -> None:
    other = "sar" if given == "optical" else "optical"
    names = BANDS if other == "optical" else RADAR
    (tmp_path / "scene").mkdir()
    for name in names:
        write(tmp_path / "scene" / f"{name}.tif", np.full((1, 90, 90), 0.1, np.float32), (name,))
    with pytest.raises(InputError, match=f"Pass it with --{other}"):
        opened(**{"optical": None, "sar": None} | {given: tmp_path / "scene"})


def test_a_folder_of_both_sensors_is_read_for_the_one_that_is_given(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    for path, names in ((files["optical"], BANDS), (files["sar"], RADAR)):
        for values, name in zip(stored(path), names, strict=True):
            write(folder / f"{name}.tif", values[None], (None,), nodata=None)  # type: ignore[arg-type]
    for sensor, count in (("optical", 4), ("sar", 2)):
        with opened(**{"optical": None, "sar": None} | {sensor: folder}) as pair:
            assert len(pair.files) == count


# --- refnet inspect ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "suffice"),
    [
        pytest.param({}, (), marks=pytest.mark.long), ({"modality_dropout": 0.0}, ()),
        ({"modality_dropout": 0.2}, ("optical", "sar")),
        ({"modality_dropout": 0.2, "sensors_alone": ["sar"]}, ("sar",)),
        pytest.param({"sensors_alone": ["optical"]}, ("optical",), marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_inspect_says_whether_a_sensor_suffices(
    files: dict[str, Path], training: dict[str, Any], suffice: tuple[str, ...]
) -> None:
    card = replace(CARD, training=training)
    for sensor, path in files.items():
        other = {"optical": "sar", "sar": "optical"}[sensor]
        found = inspect(**{sensor: path, other: None}, card=card)
        assert found.fits is (sensor in suffice)
        assert getattr(found, other) is None
        assert getattr(found, sensor) is not None
        assert found.grid is not None
        assert (found.grid["height"], found.grid["width"]) == (HEIGHT, WIDTH)
        assert bool(found.drift) is found.fits
        assert set(found.drift) <= set(BANDS if sensor == "optical" else RADAR)
        assert any(f"Give --{other} too" in reason for reason in found.missing) is not found.fits
    assert inspect(**files, card=card).fits is True


def test_inspect_describes_sar_that_needs_a_grid(tmp_path: Path) -> None:
    card = replace(CARD, training={"modality_dropout": 0.5})
    path = ODD["degrees"](tmp_path / "s1.tif")
    found = inspect(None, path, card)
    assert (found.fits, found.grid) == (False, None)
    assert found.sar is not None
    assert [band.name for band in found.sar.bands] == ["VV", "VH"]
    (reason,) = found.missing
    grid = create(reason, tmp_path / "grid.tif")
    found = inspect(None, path, card, SceneOptions(grid=grid))
    assert (found.fits, found.missing) == (True, [])
    assert found.overlap == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("sensor", "name"), [("optical", "Sentinel-2"), ("sar", "Sentinel-1")])
def test_what_inspect_prints(
    files: dict[str, Path], sensor: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"optical": "Sentinel-1", "sar": "Sentinel-2"}[sensor]
    assert run(["inspect", f"--{sensor}", str(files[sensor])]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"The {name} files alone (do not )?fit the weights", text)
    assert f"grid: {HEIGHT} x {WIDTH} pixels of 10 m in EPSG:32633" in text
    assert not re.search(rf"^{other}", text, re.MULTILINE)
    assert run(["inspect", "--json", f"--{sensor}", str(files[sensor])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["fits"] is True) is ("files alone fit" in text)


@pytest.mark.parametrize("option", ["--sar-scale=db", "--sar-bands=VV,VH", "--coreg=auto", "--extent=intersection"])
def test_inspect_refuses_options_of_the_absent_sensor(
    files: dict[str, Path], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", "--optical", str(files["optical"]), option]) == 64
    assert option.partition("=")[0] in capsys.readouterr().err


def test_files_of_the_other_sensor_that_are_not_used_are_named(tmp_path: Path) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    with ScenePair.open([optical, sar], None, BANDS, RADAR) as alone:
        (warning,) = (text for text in alone.warnings if "not used" in text)
    assert warning.startswith(f"{sar} is given with --optical and has the SAR bands VV, VH")
    for given in ((optical, None), (tmp_path, tmp_path)):
        with ScenePair.open(*given, BANDS, RADAR) as scene:
            assert not [text for text in scene.warnings if "not used" in text]
