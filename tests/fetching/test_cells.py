"""The parts of a window that are read hold all wanted pixels, and touch no block of the file without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refnet_cli.fetching.reading import GridFile
from refnet_cli.tiles.window import Window


def grid_file(block: tuple[int, int], shift: tuple[int, int] | None) -> Any:
    raster = SimpleNamespace(dataset=SimpleNamespace(block_shapes=[block]))
    return GridFile(None, "B02", raster, SimpleNamespace(shift=shift))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_each_block_with_a_wanted_pixel_is_read_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    block = int(random.choice([64, 128, 256])), int(random.choice([64, 128]))
    shift = int(random.integers(-300, 300)), int(random.integers(-300, 300))  # columns and rows
    window = Window(int(random.integers(0, 500)), int(random.integers(0, 500)), *map(int, random.integers(1, 700, 2)))
    wanted = np.zeros(window[2:], bool)
    for _ in range(random.integers(1, 6)):
        row, column = (int(random.integers(0, side)) for side in wanted.shape)
        wanted[row : row + 40, column : column + 30] |= random.random() < 0.9
    needed = {
        ((window.row + row + shift[1]) // block[0], (window.column + column + shift[0]) // block[1])
        for row, column in np.argwhere(wanted)
    }
    read, seen = np.zeros_like(wanted), []
    for cell in grid_file(block, shift).cells(window, wanted):
        assert not read[cell.slices_in(window)].any()
        read[cell.slices_in(window)] = True
        corners = [(cell.row, cell.column), (cell.row + cell.height - 1, cell.column + cell.width - 1)]
        blocks = {((row + shift[1]) // block[0], (column + shift[0]) // block[1]) for row, column in corners}
        assert len(blocks) == 1
        seen += blocks
    assert read[wanted].all()
    assert set(seen) == needed
    assert len(seen) == len(needed)


def test_strips_are_cut_into_few_parts() -> None:
    window = Window(0, 0, 512, 4000)
    cells = grid_file((1, 4000), (0, 0)).cells(window, np.ones((512, 4000), bool))
    assert len(cells) == 8


@pytest.mark.parametrize(("hole", "parts"), [(None, 1), (Window(256, 0, 256, 256), 7)])
def test_what_is_warped_is_read_in_one_piece_where_all_of_it_is_wanted(hole: Window | None, parts: int) -> None:
    window, wanted = Window(100, 200, 1024, 512), np.ones((1024, 512), bool)
    if hole:
        wanted[hole.row : hole.row + hole.height, hole.column : hole.column + hole.width] = False
    cells = grid_file((512, 512), None).cells(window, wanted)
    assert len(cells) == parts
    read = np.zeros_like(wanted)
    for cell in cells:
        read[cell.slices_in(window)] = True
    np.testing.assert_array_equal(read, wanted)
