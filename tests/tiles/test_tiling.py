"""Tiles cover the grid, and stitching gives back what the tiles were cut from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.errors import OptionsError
from refnet_cli.tiles.stitch import Stitcher
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window

Floats = NDArray[np.float32]


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    tile = draw(st.integers(2, 40))
    return Tiling(
        draw(st.integers(1, 130)), draw(st.integers(1, 130)), tile=tile, overlap=draw(st.integers(0, tile // 2))
    )


def stitched(tiling: Tiling, engine: Callable[[Window], Floats], classes: int) -> Iterator[tuple[int, Floats]]:
    """What a prediction does: one row of tiles after the other, taking out rows as they are finished."""
    stitcher = Stitcher(tiling, classes)
    rows = list(tiling.rows())
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
        for window in windows:
            stitcher.add(window, engine(window))
        yield stitcher.finish_rows(tiling.height if later is None else later[0].row)


def place_function(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Floats:
    """Three different smooth functions of a pixel's place, between 0 and 1, shape (3, rows, columns)."""
    y, x = rows[:, None].astype(float), columns[None, :].astype(float)
    return np.stack([np.sin(y / 7) ** 2 + 0 * x, np.cos(x / 5 + y / 11) ** 2, (x + 3 * y) % 17 / 17]).astype(np.float32)


@given(tilings())
def test_every_pixel_lies_in_a_tile(tiling: Tiling) -> None:
    hit = np.zeros((tiling.height, tiling.width), int)
    for windows in tiling.rows():
        for window in windows:
            assert (window.height, window.width) == (tiling.tile, tiling.tile)
            inside = window.clip(tiling.height, tiling.width)
            assert inside.height > 0
            assert inside.width > 0
            hit[inside.row : inside.row + inside.height, inside.column : inside.column + inside.width] += 1
    assert hit.min() >= 1
    assert len(tiling) == sum(len(windows) for windows in tiling.rows())


@given(tilings())
def test_tiles_follow_each_other_by_one_stride(tiling: Tiling) -> None:
    """All but the last, which ends half an overlap behind the grid and is never the same as the one before it."""
    stride = tiling.tile - tiling.overlap
    for size, starts in ((tiling.height, tiling.row_starts), (tiling.width, tiling.column_starts)):
        steps = np.diff(starts)
        assert set(steps[:-1]) <= {stride}
        assert ((steps > 0) & (steps <= stride)).all()
        if size > tiling.tile:
            assert starts[0] == -(tiling.overlap // 2)
            assert starts[-1] + tiling.tile == size + tiling.overlap // 2


@given(tilings())
def test_pixels_lie_well_inside_some_tile(tiling: Tiling) -> None:
    """Half an overlap from the tile's edge, so that the edge's poor predictions weigh little anywhere."""
    for size, starts in ((tiling.height, tiling.row_starts), (tiling.width, tiling.column_starts)):
        if size <= tiling.tile:
            continue
        places = np.arange(size)[:, None] - np.array(starts)
        margin = np.minimum(places, tiling.tile - 1 - places).max(axis=1)
        assert margin.min() >= (tiling.overlap - 1) // 2


@settings(deadline=None)
@given(tilings())
def test_constant_one_stays_one(tiling: Tiling) -> None:
    ones = np.ones((2, tiling.tile, tiling.tile), np.float32)
    for _, finished in stitched(tiling, lambda window: ones, 2):
        np.testing.assert_allclose(finished, 1, atol=2e-6)


@settings(deadline=None)
@given(tilings())
def test_a_function_of_place_comes_back(tiling: Tiling) -> None:
    def engine(window: Window) -> Floats:
        return place_function(
            np.arange(window.row, window.row + window.height), np.arange(window.column, window.column + window.width)
        )

    expected = place_function(np.arange(tiling.height), np.arange(tiling.width))
    next_row = 0
    for row, finished in stitched(tiling, engine, 3):
        assert row == next_row
        next_row += finished.shape[1]
        assert finished.dtype == np.float32
        assert finished.shape[2] == tiling.width
        np.testing.assert_allclose(finished, expected[:, row:next_row], atol=1e-5)
    assert next_row == tiling.height


@settings(deadline=None)
@given(tilings(), st.data())
def test_finished_rows_are_never_touched_again(tiling: Tiling, data: st.DataObject) -> None:
    """Rows handed out are the same if every later tile says something else."""
    cut = data.draw(st.integers(0, len(tiling.row_starts) - 1))

    def engine(later: float) -> Callable[[Window], Floats]:
        return lambda window: np.full(
            (1, tiling.tile, tiling.tile), later if window.row > tiling.row_starts[cut] else 0.5, np.float32
        )

    for number, (first, second) in enumerate(
        zip(stitched(tiling, engine(0), 1), stitched(tiling, engine(1), 1), strict=True)
    ):
        if number <= cut:
            np.testing.assert_array_equal(first[1], second[1])
        if number < len(tiling.row_starts) - 1:
            assert first[0] + first[1].shape[1] <= tiling.row_starts[number + 1] or first[1].shape[1] == 0


@pytest.mark.parametrize("overlap", [0, 1, 16, 31, 32, 128])
def test_weights_are_even_but_for_the_outer_half_of_the_overlap(overlap: int) -> None:
    blend = Tiling(1000, 1000, 256, overlap).blend
    assert blend.dtype == np.float32
    assert (blend > 0).all()
    assert np.array_equal(blend, blend[::-1])
    assert (np.diff(blend[:128]) >= 0).all()
    np.testing.assert_allclose(blend[overlap // 2 + 1 : 255 - overlap // 2], 1, atol=1e-6)


def test_a_seam_between_tiles_is_smooth() -> None:
    """Tiles that disagree meet in a ramp over the overlap, without a step at either tile's edge."""
    tiling = Tiling(64, 1000, 256, 64)

    def engine(window: Window) -> Floats:
        return np.full((1, 256, 256), tiling.column_starts.index(window.column) % 2, np.float32)

    ((_, finished),) = stitched(tiling, engine, 1)
    assert np.abs(np.diff(finished[0, 0])).max() < np.pi / 64 + 1e-3


def test_tiles_left_out_leave_zeros() -> None:
    stitcher = Stitcher(Tiling(10, 10, 8, 2), 2)
    row, finished = stitcher.finish_rows(5)
    assert (row, finished.shape) == (0, (2, 5, 10))
    assert not finished.any()


def test_no_rows_are_finished_before_the_grid_begins() -> None:
    stitcher = Stitcher(Tiling(100, 10, 8, 4), 2)
    assert stitcher.finish_rows(-2)[1].shape == (2, 0, 10)
    assert stitcher.finish_rows(5)[0] == 0
    assert stitcher.finish_rows(3)[0] == 5
    assert stitcher.finish_rows(5)[1].shape == (2, 0, 10)


def test_buffers_do_not_depend_on_the_height() -> None:
    def held(height: int) -> int:
        return sum(
            value.nbytes for value in vars(Stitcher(Tiling(height, 500), 9)).values() if isinstance(value, np.ndarray)
        )

    assert held(100) == held(100_000) == (9 + 1) * 256 * 500 * 4


@given(
    window=st.builds(
        Window, st.integers(-50, 50), st.integers(-50, 50), height=st.integers(0, 60), width=st.integers(0, 60)
    ),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_clip_is_the_intersection(window: Window, height: int, width: int) -> None:
    def pixels(window: Window) -> set[tuple[int, int]]:
        return {
            (row, column)
            for row in range(window.row, window.row + window.height)
            for column in range(window.column, window.column + window.width)
        }

    grid = pixels(Window(0, 0, height, width))
    assert pixels(window.clip(height, width)) == pixels(window) & grid


@given(height=st.integers(1, 600), width=st.integers(1, 600), tile=st.sampled_from([64, 128, 256]))
def test_tiles_reach_beyond_a_small_grid_by_little(height: int, width: int, tile: int) -> None:
    """By less than the network's step, or half an overlap as on every grid, wherever a tile of 64 fits."""
    tiling = Tiling.of(height, width, tile)
    assert tiling.tile == tile or tiling.tile <= max(min(height, width), 64) < tile + 32
    assert tiling.tile % 32 == 0
    if min(height, width) >= 64:
        for starts, size in ((tiling.row_starts, height), (tiling.column_starts, width)):
            assert -starts[0] <= tiling.overlap // 2
            assert starts[-1] + tiling.tile - size <= tiling.overlap // 2
    if min(height, width) >= tile:
        assert tiling == Tiling(height, width, tile, tile // 4)


def test_an_overlap_is_kept_or_made_smaller_with_the_tiles() -> None:
    assert Tiling.of(1000, 1000, 256, 0).overlap == Tiling.of(100, 1000, 256, 0).overlap == 0
    assert Tiling.of(1000, 1000, 256, 128).overlap == 128
    assert Tiling.of(100, 1000, 256, 128) == Tiling(100, 1000, 96, 48)
    assert Tiling.of(100, 1000, 256, 32) == Tiling(100, 1000, 96, 32)
    with pytest.raises(OptionsError, match="tiles of 256"):
        Tiling.of(100, 100, 256, 129)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, 3)])
def test_empty_grids_are_refused(height: int, width: int) -> None:
    with pytest.raises(OptionsError, match="at least one"):
        Tiling(height, width)


@pytest.mark.parametrize(("tile", "overlap"), [(1, 0), (256, 129), (256, -1)])
def test_unsuitable_overlaps_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(OptionsError, match=f"{overlap} pixels does not suit tiles of {tile}"):
        Tiling(100, 100, tile, overlap)


@settings(deadline=None)
@given(tilings(), st.data())
def test_an_area_is_that_part_of_the_whole_to_the_last_bit(tiling: Tiling, data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, tiling.height - 1)), data.draw(st.integers(0, tiling.width - 1))
    area = Window(
        row, column, data.draw(st.integers(1, tiling.height - row)), data.draw(st.integers(1, tiling.width - column))
    )

    def engine(window: Window) -> Floats:
        return np.random.default_rng(abs(hash(window))).random((2, tiling.tile, tiling.tile), np.float32)

    whole = np.concatenate([finished for _, finished in stitched(tiling, engine, 2)], axis=1)
    stitcher, found, ran = Stitcher(tiling, 2, area), [], set()
    rows = list(tiling.rows(area))
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
        for window in windows:
            stitcher.add(window, engine(window))
            ran.add(window)
        top, finished = stitcher.finish_rows(tiling.height if later is None else later[0].row)
        assert top == area.row + sum(part.shape[1] for part in found)
        found.append(finished)
    part = np.s_[:, area.row : area.row + area.height, area.column : area.column + area.width]
    np.testing.assert_array_equal(np.concatenate(found, axis=1), whole[part])
    touching = {w for row in tiling.rows() for w in row if w.within(area).height and w.within(area).width}
    assert ran == touching
