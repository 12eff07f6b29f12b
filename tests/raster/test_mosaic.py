"""Adjacent files with the same bands are read as one image, and other files are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.merge import merge
from rasterio.transform import from_gcps

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.prediction.inspection import inspect
from refnet_cli.raster import mosaic as mosaic_module
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import examples
from tests.helpers.scenes import PLACE, write

BANDS = ("B02", "B03", "B04", "B08")
RADAR = ("VV", "VH")


def optical_image(height: int = 60, width: int = 80) -> np.ndarray:
    """Numbers that are each pixel's own place, with holes."""
    rows, columns = np.indices((height, width))
    image = np.stack([300 + rows * width + columns + 1000 * band for band in range(4)]) % 9000 + 100
    image[:, 20:25, 30:40] = 0
    return image.astype(np.uint16)


def sar_image(height: int = 60, width: int = 80) -> np.ndarray:
    """Power that tells each pixel's own place, with a hole."""
    rows, columns = np.indices((height, width))
    image = np.stack([0.05 + (rows * width + columns) / 1e5, 0.01 + (rows + height * columns) / 5e5])
    image[:, 40:44, 10:20] = np.nan
    return image.astype(np.float32)


def cut(
    folder: Path, image: np.ndarray, names: Sequence[str | None], boxes: Sequence[Window],
    transform: Affine = PLACE, **settings: Any,
) -> list[Path]:  # fmt: skip
    """Write windows of an image as files named by their corners, as Earth Engine does."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (row, column, height, width) in enumerate(boxes):
        part = image[:, row : row + height, column : column + width]
        place = transform @ Affine.translation(column, row)
        path = folder / f"{number:03d}-{row:010d}-{column:010d}.tif"
        paths.append(write(path, part, tuple(names), place, **settings))  # type: ignore[arg-type]
    return paths


def split(draw: st.DrawFn, height: int, width: int) -> list[Window]:
    """Draw rectangles that together cover an image, in any order."""
    boxes = [Window(0, 0, height, width)]
    for _ in range(draw(st.integers(1, 5))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        if draw(st.booleans()) and box.height > 1:
            first = draw(st.integers(1, box.height - 1))
            boxes += [box._replace(height=first), box._replace(row=box.row + first, height=box.height - first)]
        elif box.width > 1:
            first = draw(st.integers(1, box.width - 1))
            boxes += [box._replace(width=first), box._replace(column=box.column + first, width=box.width - first)]
        else:
            boxes.append(box)
    return draw(st.permutations(boxes))


def opened(optical: Any, sar: Any, **options: Any) -> ScenePair:
    return ScenePair.open(optical, sar, BANDS, RADAR, SceneOptions(sar_scale="power", **options))


def whole(pair: ScenePair) -> Any:
    return pair.read(Window(0, 0, *pair.grid.shape))


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_read_as_the_image_that_they_were_cut_from(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bit by bit, in any window, also where SAR lies on another grid and is resampled across the cuts."""
    folder = tmp_path_factory.mktemp("cut")
    coarse = Affine(23, 0, PLACE.c - 300, 0, -23, PLACE.f + 300) if data.draw(st.booleans()) else PLACE
    optical, sar = optical_image(), sar_image()
    plain = write(folder / "s2.tif", optical, BANDS), write(folder / "s1.tif", sar, RADAR, coarse, nodata=None)
    pieces = (
        cut(folder / "optical", optical, BANDS, data.draw(st.composite(split)(60, 80))),
        cut(folder / "sar", sar, RADAR, data.draw(st.composite(split)(60, 80)), coarse, nodata=None),
    )
    with opened(*plain) as one, opened(*pieces) as joined:
        assert joined.grid == one.grid
        for _ in range(4):
            row, column = data.draw(st.integers(0, 59)), data.draw(st.integers(0, 79))
            height, width = data.draw(st.integers(1, 60 - row)), data.draw(st.integers(1, 80 - column))
            window = Window(row, column, height, width)
            for expected, found in zip(one.read(window), joined.read(window), strict=True):
                np.testing.assert_array_equal(found, expected)


HALVES = (Window(0, 0, 60, 50), Window(0, 50, 60, 30))


@pytest.mark.parametrize("nodata", [0, None, 65_535])
def test_overlapping_pieces_fill_each_others_holes(tmp_path: Path, nodata: float | None) -> None:
    image = np.where(optical_image() == 0, 0 if nodata is None else nodata, optical_image()).astype(np.uint16)
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = cut(tmp_path / "s2", image, BANDS, (Window(0, 0, 60, 50), Window(0, 35, 60, 45)), nodata=nodata)
    with rasterio.open(paths[1], "r+") as second:
        values = second.read()
        values[:, 20:25, :5] = 777  # what the first lacks
        values[:, 50:, :15] = 888  # what the first has
        second.write(values)
    with opened(paths, sar) as pair:
        found = whole(pair).optical
        assert any("overlap and differ" in warning for warning in pair.warnings)
    assert (found[:, 20:25, 35:40] == 777).all()
    np.testing.assert_array_equal(found[:, 50:, 35:50], optical_image()[:, 50:, 35:50])


def half_a_pixel_on(values: np.ndarray, first: int, last: int, fill: float) -> np.ndarray:
    """Columns of an image, resampled half a pixel to the right while fills on both sides counted as numbers."""
    values = values.astype(np.float64)
    values[:, :, :first], values[:, :, last:] = fill, fill
    return (values[:, :, :-1] + values[:, :, 1:]) / 2


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("fill", [-9999, 1])
def test_overlapping_pieces_that_are_blended_with_their_fills(tmp_path: Path, fill: int, declared: bool) -> None:
    """Each covers the other's fill, and its own blended edge is no measurement all the same."""
    random = np.random.default_rng(0)
    image = 1000 + np.array([300, 500, 400, 2500])[:, None, None] * random.uniform(0.3, 1.7, (4, 120, 301))
    right = half_a_pixel_on(image, 0, 301, fill)
    parts = half_a_pixel_on(image, 0, 180, fill)[:, :, :200], half_a_pixel_on(image, 120, 301, fill)[:, :, 100:]
    paths = [
        write(
            tmp_path / f"{column}.tif", np.round(part).astype(np.int16), BANDS, PLACE @ Affine.translation(column, 0),
            nodata=fill if declared else None,
        )
        for column, part in zip((0, 100), parts, strict=True)
    ]  # fmt: skip
    radar = np.resize(sar_image(), (2, 120, 300))
    with opened(paths, write(tmp_path / "s1.tif", radar, RADAR, nodata=None)) as pair:
        found = whole(pair).optical
        decided = {decision.what: decision.value for decision in pair.decisions}
    assert decided["optical.offset"] == 1000
    if not declared:
        assert decided["optical.fill"] == fill
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, right - 1000, atol=0.51)


def test_equal_overlaps_are_no_warning(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = cut(tmp_path / "s2", optical_image(), BANDS, (Window(0, 0, 60, 50), Window(0, 35, 60, 45)))
    with opened(paths, sar) as pair:
        assert not pair.warnings
        assert ("optical.pieces", 2) in [(found.what, found.value) for found in pair.decisions]


@pytest.mark.parametrize("starts", [(0, 23, 46, 69), (0, 35, 70)])
def test_narrow_last_tiles_of_overlapping_ones_are_joined(tmp_path: Path, starts: tuple[int, ...]) -> None:
    """As gdal_retile cuts them; most of the last one is overlap."""
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    plain = write(tmp_path / "s2.tif", optical_image(), BANDS)
    side = starts[1] + 8
    boxes = [Window(0, start, 60, min(side, 80 - start)) for start in starts]
    with opened(plain, sar) as one, opened(cut(tmp_path / "s2", optical_image(), BANDS, boxes), sar) as joined:
        np.testing.assert_array_equal(whole(joined).optical, whole(one).optical)


@pytest.mark.parametrize("with_alpha", [0, 1])
def test_a_piece_with_alpha_and_one_without_are_joined(tmp_path: Path, with_alpha: int) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    plain = write(tmp_path / "s2.tif", optical_image(), BANDS)
    paths = cut(tmp_path / "s2", optical_image(), BANDS, HALVES)
    with rasterio.open(paths[with_alpha]) as file:
        values = file.read()
        place = file.transform
    hole = np.full((1, *values.shape[1:]), 255, np.uint16)
    hole[:, 50:, 5:9] = 0
    write(paths[with_alpha], np.concatenate([values, hole]), (*BANDS, "alpha"), place)
    expected = optical_image()
    first = HALVES[with_alpha].column
    expected[:, 50:, first + 5 : first + 9] = 0
    with opened(plain, sar) as one, opened(paths, sar) as joined:
        np.testing.assert_array_equal(whole(joined).optical_valid, (expected > 0).all(0))
        assert joined.grid == one.grid


@pytest.mark.parametrize(
    ("first", "second", "commands"),
    [((0, 1, 2, 3), (3, 2, 1, 0), 1), ((0, 1, 2, 3), (0, 4, 1, 2, 3), 1), ((4, 3, 0, 2, 1), (0, 1, 2, 3), 2)],
)
@pytest.mark.parametrize("option", [None, BANDS])
def test_tiles_of_other_bands_are_joined_after_what_the_message_says(
    tmp_path: Path, first: tuple[int, ...], second: tuple[int, ...], commands: int, option: tuple[str, ...] | None
) -> None:
    """And never is one of them taken alone."""
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    plain = write(tmp_path / "s2.tif", optical_image(), BANDS)
    image = np.concatenate([optical_image(), np.full((1, 60, 80), 4, np.uint16)])
    names = (*BANDS, "SCL")
    paths = [
        cut(tmp_path / str(number), image[list(order)], [names[band] for band in order], (HALVES[number],))[0]
        for number, order in enumerate((first, second))
    ]
    with pytest.raises((InputError, OptionsError), match="are adjacent, but have different bands") as refusal:
        opened(paths, sar, optical_bands=option)
    advice = re.findall(r"`gdal_translate ((?:-b \d )+)(\S+) (\S+)`", str(refusal.value))
    assert len(advice) == commands
    for bands, path, name in advice:  # what gdal_translate does
        numbers = list(map(int, bands.replace("-b", "").split()))
        with rasterio.open(path) as file:
            texts = tuple(file.descriptions[band - 1] for band in numbers)
            write(tmp_path / name, file.read(numbers), texts, file.transform)
        paths[paths.index(Path(path))] = tmp_path / name
    with opened(plain, sar) as one, opened(paths, sar) as joined:
        np.testing.assert_array_equal(whole(joined).optical, whole(one).optical)


def test_folders_of_neighbouring_tiles_in_one_folder_are_joined_as_the_message_says(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    plain = write(tmp_path / "s2.tif", optical_image(), BANDS)
    for side, box in zip(("west", "east"), HALVES, strict=True):
        (tmp_path / "in" / side).mkdir(parents=True)
        cut(tmp_path / "in" / side, optical_image(), BANDS, (box,))
    with pytest.raises(InputError, match="Pass one of them") as refusal:
        opened(tmp_path / "in", sar)
    (advice,) = re.findall(r"--optical (\S+)\.$", str(refusal.value))
    with opened(plain, sar) as one, opened(advice.split(","), sar) as joined:
        np.testing.assert_array_equal(whole(joined).optical, whole(one).optical)


def test_gaps_are_no_data(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    boxes = Window(0, 0, 60, 20), Window(10, 50, 50, 30)
    paths = cut(tmp_path / "s2", optical_image() + 1, BANDS, boxes, nodata=None)
    with opened(paths, sar) as pair:
        valid = whole(pair).optical_valid
    expected = np.zeros((60, 80), bool)
    expected[:, :20] = expected[10:, 50:] = True
    np.testing.assert_array_equal(valid, expected)


def test_files_of_a_band_are_cut_too(tmp_path: Path) -> None:
    optical, sar = optical_image(), sar_image()
    plain = write(tmp_path / "s2.tif", optical, BANDS), write(tmp_path / "s1.tif", sar, RADAR, nodata=None)
    pieces = []
    for name, band in zip(BANDS, optical, strict=True):
        for path in cut(tmp_path / name, band[None], (None,), HALVES):
            pieces.append(path.rename(tmp_path / name / f"{path.stem}_{name}.tif"))
    with opened(plain[0], plain[1]) as one, opened(pieces, plain[1]) as joined:
        np.testing.assert_array_equal(whole(joined).optical, whole(one).optical)


def test_bands_without_names_are_cut_too(tmp_path: Path) -> None:
    plain = write(tmp_path / "s2.tif", optical_image(), BANDS)
    pieces = cut(tmp_path / "sar", sar_image(), (None, None), HALVES, nodata=None)
    uncut = write(tmp_path / "s1.tif", sar_image(), (None, None), nodata=None)
    with opened(plain, uncut) as one, opened(plain, pieces) as joined:
        np.testing.assert_array_equal(whole(joined).sar, whole(one).sar)


@pytest.mark.long
def test_hundreds_of_pieces_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.tile(optical_image(), (1, 1, 2))[:, :, :160]
    plain = write(tmp_path / "s2.tif", image, BANDS)
    sar = write(tmp_path / "s1.tif", np.tile(sar_image(), (1, 1, 2)), RADAR, nodata=None)
    boxes = [Window(row, column, 4, 8) for row in range(0, 60, 4) for column in range(0, 160, 8)]
    paths = cut(tmp_path / "pieces", image, BANDS, boxes)
    assert len(paths) == 300
    with opened(plain, sar) as one, opened(tmp_path / "pieces", sar, on_read_error="fail") as joined:
        before = len(list(Path("/proc/self/fd").iterdir()))
        np.testing.assert_array_equal(whole(joined).optical, whole(one).optical)
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= mosaic_module.MAX_OPEN
        assert set(paths) <= set(joined.files)  # none of which may be replaced


def changed(path: Path, **change: Any) -> None:
    with rasterio.open(path, "r+") as file:
        for name, value in change.items():
            setattr(file, name, value)


@pytest.mark.parametrize(
    ("place", "match", "advice"),
    [
        (PLACE @ Affine.translation(50.3, 0), "0.3 columns", "gdalwarp -t_srs EPSG:32633 -tr 10 10 -tap"),
        (Affine(20, 0, PLACE.c + 500, 0, -20, PLACE.f), "10 x 10 and 20 x 20", "gdalwarp"),
        (Affine(20, 0, PLACE.c, 0, -20, PLACE.f), "same ground", "Use only one"),
        (PLACE, "same ground", "Use only one"),
        (PLACE @ Affine.translation(5, 5), "same ground", "Use only one"),
    ],
)
def test_what_lies_on_no_common_grid_is_refused_with_the_way_to_join_it(
    tmp_path: Path, place: Affine, match: str, advice: str
) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = [
        write(tmp_path / "a.tif", optical_image()[:, :, :50], BANDS),
        write(tmp_path / "b.tif", optical_image()[:, :, 50:], BANDS, place),
    ]
    with pytest.raises(InputError, match=match) as refusal:
        opened(paths, sar)
    for word in (advice, "--optical-bands", str(paths[0]), str(paths[1])):
        assert word in str(refusal.value)
    with opened(paths, sar, optical_bands=("1", "2", "3", "4")) as pair:  # one of them, as the message says
        assert pair.grid.shape == (60, 50)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_the_advice_for_pieces_of_other_grids_makes_one_image(tmp_path: Path) -> None:
    optical = write(tmp_path / "s2.tif", optical_image(), BANDS)
    image = np.nan_to_num(sar_image(), nan=0.1)
    paths = [
        write(tmp_path / "a.tif", image[:, :, :50], RADAR, nodata=None),
        write(tmp_path / "b.tif", image[:, :, 50:], RADAR, PLACE @ Affine.translation(50.3, 0.2), nodata=None),
    ]
    with pytest.raises(InputError) as refusal:
        opened(optical, paths)
    (advice,) = re.findall(r"`gdalwarp -t_srs (\S+) -tr (\S+) (\S+) -tap (\S+) (\S+) (\S+)`", str(refusal.value))
    assert advice[3:5] == tuple(map(str, paths))
    with rasterio.open(paths[0]) as file:
        assert file.crs.to_string() == advice[0]
    size = float(advice[1]), float(advice[2])
    joined = tmp_path / advice[5]
    # Like gdalwarp, which does not come with rasterio; gdalwarp keeps the bands' names.
    merge(paths, res=size, target_aligned_pixels=True, dst_path=joined)
    with rasterio.open(joined, "r+") as file:
        file.descriptions = RADAR
    with opened(optical, joined) as pair:
        assert whole(pair).sar_valid.mean() > 0.9


def test_pieces_in_two_reference_systems_are_refused(tmp_path: Path) -> None:
    optical = write(tmp_path / "s2.tif", optical_image(), BANDS)
    paths = [
        write(tmp_path / f"{zone}.tif", sar_image(), RADAR, PLACE, f"EPSG:{zone}", nodata=None)
        for zone in (32633, 32634)
    ]
    with pytest.raises(InputError, match=r"EPSG:32633 and EPSG:32634.*gdalwarp"):
        opened(optical, paths)


@pytest.mark.parametrize(
    "change", [{"scales": (0.0001,) * 4}, {"offsets": (-0.1,) * 4}, {"units": ("reflectance",) * 4}]
)
def test_pieces_that_are_stored_differently_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = cut(tmp_path / "s2", optical_image(), BANDS, HALVES)
    changed(paths[1], **change)
    with pytest.raises(InputError, match=f"stored differently .{next(iter(change))}"):
        opened(paths, sar)


def test_pieces_of_different_baselines_are_refused(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = cut(tmp_path / "s2", optical_image(), BANDS, HALVES)
    for path, baseline in zip(paths, ("02.14", "05.09"), strict=True):
        with rasterio.open(path, "r+") as file:
            file.update_tags(PROCESSING_BASELINE=baseline)
    with pytest.raises(InputError, match=r"offsets by tag or name 0\.0 and 1000\.0"):
        opened(paths, sar)


@pytest.mark.parametrize(
    ("stems", "warned"),
    [
        (("S1A_IW_20220721T051225_DVP_RTC10_G_gpuned_8A1C", "S1A_IW_20220721T051250_DVP_RTC10_G_gpuned_9B2D"), False),
        (("S1A_IW_20220721T051225_DVP_RTC10_G_gpuned_8A1C", "S1A_IW_20220802T051225_DVP_RTC10_G_gpuned_9B2D"), True),
        (("s1_2022-07-21", "s1_2022-08-02"), True),
        (("s1_20220721_a", "s1_20220721_b"), False),
    ],
)
def test_pieces_of_different_dates_are_warned_of(tmp_path: Path, stems: tuple[str, str], warned: bool) -> None:
    """Slices of one pass follow each other within seconds."""
    optical = write(tmp_path / "s2.tif", optical_image(), BANDS)
    paths = [
        path.rename(tmp_path / f"{stem}.tif")
        for path, stem in zip(cut(tmp_path / "s1", sar_image(), RADAR, HALVES, nodata=None), stems, strict=True)
    ]
    with opened(optical, paths) as pair:
        assert any(stems[0] in warning and stems[1] in warning for warning in pair.warnings) == warned
        assert whole(pair).sar_valid[0].all()
    assert any("different acquisition times" in warning for warning in inspect(optical, paths).warnings) == warned


def test_neighbouring_tiles_of_two_dates_are_warned_of_and_bands_of_two_dates_refused(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    files = {}
    for tile, date, box in (("T33UUP", "20200101", HALVES[0]), ("T33UVP", "20200106", HALVES[1])):
        for name, band in zip(BANDS, optical_image(), strict=True):
            (path,) = cut(tmp_path / tile, band[None], (None,), (box,))
            files[tile, name] = path.rename(path.with_name(f"{tile}_{date}T101010_{name}_10m.tif"))
    with opened(list(files.values()), sar, optical_offset=0) as pair:
        assert any("different acquisition times" in warning for warning in pair.warnings)
        np.testing.assert_array_equal(whole(pair).optical_valid, optical_image()[0] > 0)
    path = files["T33UUP", "B08"]
    files["T33UUP", "B08"] = path.rename(path.with_name(path.name.replace("20200101", "20200601")))
    with pytest.raises(InputError, match="different times"):
        opened(list(files.values()), sar)


def test_pieces_placed_by_control_points_are_refused(tmp_path: Path) -> None:
    optical = write(tmp_path / "s2.tif", optical_image(), BANDS)
    paths = []
    for name in "ab":
        corners = [(row, column) for row in (0, 30, 60) for column in (0, 40, 80)]
        points = [
            rasterio.control.GroundControlPoint(row, column, PLACE.c + 10 * column, PLACE.f - 10 * row)
            for row, column in corners
        ]
        assert from_gcps(points).almost_equals(PLACE)
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", count=2, height=60, width=80, dtype="float32", gcps=points,
            crs="EPSG:32633",
        ) as file:  # fmt: skip
            file.write(sar_image())
            file.descriptions = RADAR
        paths.append(tmp_path / f"{name}.tif")
    with pytest.raises(InputError, match="ground control points"):
        opened(optical, paths, allow_gcps=True)


def test_a_damaged_piece_is_named_or_left_out(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    paths = cut(tmp_path / "s2", optical_image(), BANDS, HALVES)
    data = paths[1].read_bytes()
    half = len(data) // 2
    paths[1].write_bytes(data[:half] + bytes(2000) + data[half + 2000 :])
    with pytest.raises(InputError, match=paths[1].name):
        opened(paths, sar)
    with opened(paths, sar, on_read_error="mask") as pair:
        found = whole(pair).optical
    expected = np.where(optical_image() == 0, np.nan, optical_image())
    assert np.isnan(found[:, :, 50:]).all()
    np.testing.assert_array_equal(found[:, :, :40], expected[:, :, :40])  # what is given up is at least 60 x 40 pixels


def test_masks_are_joined(tmp_path: Path) -> None:
    sar = write(tmp_path / "s1.tif", sar_image(), RADAR, nodata=None)
    clouds = np.zeros((1, 60, 80), np.uint16)
    clouds[:, 10:30, 40:70] = 1 << 10
    image = np.concatenate([optical_image(), clouds])
    paths = cut(tmp_path / "s2", image, (*BANDS, "QA60"), HALVES)
    with opened(paths, sar, mask_clouds=True) as pair:
        valid = whole(pair).optical_valid
    np.testing.assert_array_equal(valid, (optical_image()[0] > 0) & (clouds[0] == 0))


def test_the_map_of_pieces_is_that_of_the_whole(tmp_path: Path) -> None:
    optical, sar = optical_image(96, 96), sar_image(96, 96)
    boxes = (Window(0, 0, 96, 40), Window(0, 40, 50, 56), Window(50, 40, 46, 56))
    plain = write(tmp_path / "s2.tif", optical, BANDS), write(tmp_path / "s1.tif", sar, RADAR, nodata=None)
    cut(tmp_path / "optical", optical, BANDS, boxes)
    cut(tmp_path / "sar", sar, RADAR, boxes, nodata=None)
    maps = []
    for name, files in (("one", plain), ("joined", (tmp_path / "optical", tmp_path / "sar"))):
        path = tmp_path / f"{name}.tif"
        arguments = ["--optical", files[0], "--sar", files[1], "--sar-scale", "power", "-o", path, "-q"]
        assert run(["predict", *map(str, arguments)]) == 0
        with rasterio.open(path) as file:
            maps.append(file.read())
    np.testing.assert_array_equal(*maps)
    assert (maps[0] > 0).any()
