"""From tiles to finished rows: areas of a grid have no border that a larger area has not, smoothed or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.tiles.rows import RowAssembler
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from tests.helpers.quick import examples

CLASSES = 3


def usable(seen: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return seen == 3


def finish(
    tiling: Tiling, area: Window, radius: int, seen: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What a prediction does; probabilities and what was seen, over the area."""
    assembler = RowAssembler(tiling, CLASSES, area, radius, usable)
    around = assembler.stitched
    rows, top, found, next_row = list(tiling.rows(around)), around.row, [], area.row
    for windows, later in zip(rows, [*rows[1:], None], strict=True):
        for first in range(0, len(windows), batch):
            some = windows[first : first + batch]
            shape = (CLASSES, tiling.tile, tiling.tile)
            tiles = np.stack([np.random.default_rng(abs(hash(w))).random(shape, np.float32) for w in some])
            end = around.row + around.height
            bottom = end if later is None else min(later[0].row, end)
            last = first + batch >= len(windows) and bottom > top
            columns = slice(around.column, around.column + around.width)
            for row, probabilities, there in assembler.push(some, tiles, seen[top:bottom, columns] if last else None):
                assert row == next_row
                assert probabilities.shape == (CLASSES, *there.shape)
                next_row += len(there)
                found.append((probabilities, there))
            top = bottom if last else top
    assert next_row == area.row + area.height
    return np.concatenate([part for part, _ in found], 1), np.concatenate([there for _, there in found])


@settings(deadline=None, max_examples=examples(60))
@given(st.data())
def test_an_area_is_that_part_of_the_whole(data: st.DataObject) -> None:
    tile = data.draw(st.integers(4, 24))
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    tiling = Tiling(height, width, tile, data.draw(st.integers(0, tile // 2)))
    radius = data.draw(st.integers(0, 3))
    row, column = data.draw(st.integers(0, tiling.height - 1)), data.draw(st.integers(0, tiling.width - 1))
    area = Window(
        row, column, data.draw(st.integers(1, tiling.height - row)), data.draw(st.integers(1, tiling.width - column))
    )
    seen = np.random.default_rng(7).integers(2, 4, (tiling.height, tiling.width)).astype(np.uint8)
    whole, whole_seen = finish(tiling, tiling.whole, radius, seen, 3)
    found, found_seen = finish(tiling, area, radius, seen, data.draw(st.integers(1, 5)))
    part = np.s_[area.row : area.row + area.height, area.column : area.column + area.width]
    np.testing.assert_array_equal(found, whole[:, *part])
    np.testing.assert_array_equal(found_seen, seen[part])
    np.testing.assert_array_equal(whole_seen, seen)


@pytest.mark.parametrize("radius", [0, 2])
def test_smoothing_changes_something_and_only_if_it_is_wanted(radius: int) -> None:
    tiling = Tiling(30, 30, 16, 4)
    seen = np.full((30, 30), 3, np.uint8)
    plain, _ = finish(tiling, tiling.whole, 0, seen, 2)
    found, _ = finish(tiling, tiling.whole, radius, seen, 2)
    assert np.array_equal(plain, found) == (radius == 0)
