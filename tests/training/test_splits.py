"""Splits: validation keeps its distance from training, on the ground and whatever the scenes; classes are balanced."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from refnet_cli.errors import InputError
from refnet_cli.tiles.window import Window
from refnet_cli.training.splits import (
    TRAIN,
    UNUSED,
    VALIDATION,
    Block,
    BlockGrid,
    GroundBox,
    Roles,
    choose_validation_blocks,
    cut_into_blocks,
    draw_validation_blocks,
    ground_box,
    make_block_grid,
)
from tests.helpers.quick import examples


def make_grid(height: int, width: int, left: float = 600_000, top: float = 5_300_000, pixel: float = 10) -> GeoBox:
    return GeoBox((height, width), Affine(pixel, 0, left, 0, -pixel, top), "EPSG:32633")


def centres(grid: GeoBox, chosen: np.ndarray) -> np.ndarray:
    """Ground coordinates of chosen pixels' centres, shape (n, 2)."""
    rows, columns = np.nonzero(chosen)
    transform = grid.transform
    return np.stack([transform.c + (columns + 0.5) * transform.a, transform.f + (rows + 0.5) * transform.e], axis=1)


def smallest_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Chebyshev distance of the nearest two points."""
    return min(float(np.abs(second - point).max(1).min()) for point in first)


def divide(
    grids: list[GeoBox], metres: float, buffer: int, share: float, seed: int
) -> tuple[list[Roles], list[dict[Block, Window]]]:
    """Divide grids whose every pixel is labelled with one of two classes, in stripes."""
    cuts = [cut_into_blocks(grid, make_block_grid(grid, metres)) for grid in grids]
    counts: dict[Block, np.ndarray] = {}
    rings: dict[BlockGrid, int] = {}
    for grid, blocks in zip(grids, cuts, strict=True):
        for block, window in blocks.items():
            first = sum((window.column + column) // 3 % 2 for column in range(window.width)) * window.height
            pixels = np.array([first, window.height * window.width - first])
            counts[block] = counts.get(block, np.zeros(2, np.int64)) + pixels
            ring = int(np.ceil(buffer * grid.resolution.x / block.grid.across))
            rings[block.grid] = max(rings.get(block.grid, 0), ring)
    chosen = choose_validation_blocks(counts, rings, share, seed)
    windows = [[window for block, window in blocks.items() if block in chosen] for blocks in cuts]
    held_out = [ground_box(grid, window) for grid, mine in zip(grids, windows, strict=True) for window in mine]
    roles = [Roles(grid, True, mine, held_out, buffer) for grid, mine in zip(grids, windows, strict=True)]
    return roles, cuts


@settings(max_examples=examples(60), deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 60), st.integers(20, 60)), min_size=1, max_size=3),
    places=st.lists(st.tuples(st.integers(-300, 300), st.integers(-300, 300)), min_size=3, max_size=3),
    block=st.sampled_from([80.0, 100.0, 130.0]),
    buffer=st.integers(1, 12),
    share=st.sampled_from([0.1, 0.2, 0.4]),
    seed=st.integers(0, 100),
)
def test_no_validation_pixel_is_within_the_buffer_of_a_training_pixel(
    sizes: list[tuple[int, int]], places: list[tuple[int, int]], block: float, buffer: int, share: float, seed: int
) -> None:
    """Also from scene to scene: they may overlap, and their pixels need not lie on each other."""
    grids = [
        make_grid(height, width, 600_000 + x, 5_300_000 + y)
        for (height, width), (x, y) in zip(sizes, places, strict=False)
    ]
    try:
        all_roles, _ = divide(grids, block, buffer, share, seed)
    except InputError:  # too small to be divided, and said so
        return
    found = [roles.read(Window(0, 0, *grid.shape)) for roles, grid in zip(all_roles, grids, strict=True)]
    training = np.concatenate([centres(g, role == TRAIN) for g, role in zip(grids, found, strict=True)])
    validation = np.concatenate([centres(g, role == VALIDATION) for g, role in zip(grids, found, strict=True)])
    assert len(validation)
    if len(training):
        assert smallest_distance(validation, training) > buffer * 10


def test_scenes_of_another_zone_keep_their_distance_too() -> None:
    """What one scene validates is neither learned from by a scene of the neighbouring UTM zone."""
    east = make_grid(120, 120, 250_000, 5_300_000)
    way = Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True)
    x, y = way.transform(250_600, 5_299_400)
    west = GeoBox((120, 120), Affine(10, 0, x - 600, 0, -10, y + 600), "EPSG:32632")
    held = Window(40, 40, 30, 30)
    roles = Roles(west, True, [], [ground_box(east, held)], 5).read(Window(0, 0, 120, 120))
    mask = np.zeros((120, 120), bool)
    mask[40:70, 40:70] = True
    validated = np.stack(way.transform(*centres(east, mask).T), axis=1)
    assert smallest_distance(validated, centres(west, roles == TRAIN)) > 50
    assert (roles == UNUSED).sum() < 60 * 60  # and not much more than that is lost


def test_far_away_ground_takes_nothing() -> None:
    grid = make_grid(50, 50)
    far = [GroundBox("EPSG:32633", (0.0, 0.0, 10.0, 10.0)), GroundBox("EPSG:32760", (5e5, 5e6, 6e5, 6e6))]
    assert (Roles(grid, True, [], far, 9).read(Window(0, 0, 50, 50)) == TRAIN).all()


@settings(max_examples=examples(40), deadline=None)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), left=st.floats(5e5, 6e5), top=st.floats(1e6, 9e6),
    metres=st.floats(15, 900), crs=st.sampled_from(["EPSG:32633", "EPSG:4326"]),
)  # fmt: skip
def test_every_pixel_is_in_one_square(
    height: int, width: int, left: float, top: float, metres: float, crs: str
) -> None:
    degrees = crs == "EPSG:4326"
    transform = Affine(1e-4, 0, left / 1e5, 0, -1e-4, top / 1e6 * 8) if degrees else Affine(10, 0, left, 0, -10, top)
    grid = GeoBox((height, width), transform, crs)
    seen = np.zeros((height, width), int)
    for window in cut_into_blocks(grid, make_block_grid(grid, metres)).values():
        seen[window.row : window.row + window.height, window.column : window.column + window.width] += 1
    assert (seen == 1).all()


def test_scenes_that_see_the_same_ground_share_squares() -> None:
    whole = make_grid(100, 100)
    part = make_grid(30, 40, 600_000 + 200, 5_300_000 - 300)
    blocks, theirs = (cut_into_blocks(grid, make_block_grid(grid, 128)) for grid in (whole, part))
    for block, window in theirs.items():
        moved = Window(window.row + 30, window.column + 20, window.height, window.width)
        around = blocks[block]
        assert around.row <= moved.row
        assert moved.column + moved.width <= around.column + around.width


def test_windows_of_roles_are_parts_of_the_whole() -> None:
    grid = make_grid(60, 60)
    (roles,), _ = divide([grid], 100, 8, 0.2, 0)
    whole = roles.read(Window(0, 0, 60, 60))
    for window in (Window(0, 0, 7, 9), Window(13, 22, 31, 30), Window(59, 59, 1, 1)):
        part = whole[window.row : window.row + window.height, window.column : window.column + window.width]
        assert np.array_equal(roles.read(window), part)


def test_each_class_has_about_its_share() -> None:
    """Classes lie in patches; a Sentinel-2 tile has room enough to give each its share, and little is lost."""
    block_grid = BlockGrid("EPSG:32633", 2560, 2560)
    random = np.random.default_rng(0)
    counts = {
        Block(block_grid, row, column): (65_536 * random.dirichlet(np.full(6, 0.2))).astype(np.int64)
        for row in range(43) for column in range(43)
    }  # fmt: skip
    chosen = choose_validation_blocks(counts, {block_grid: 1}, 0.2, 0)
    shares = sum(counts[block] for block in chosen) / sum(counts.values())
    assert shares == pytest.approx(0.2, abs=0.02)
    near = {
        Block(block_grid, block.row + down, block.column + right)
        for block in chosen for down in (-1, 0, 1) for right in (-1, 0, 1)
    }  # fmt: skip
    assert len(counts.keys() - near) > 0.7 * len(counts)
    assert chosen == choose_validation_blocks(counts, {block_grid: 1}, 0.2, 0)


def test_squares_of_two_zones_that_lie_on_each_other_are_seen_to_do_so() -> None:
    """Where two UTM zones overlap, what one scene validates is lost to the other, and both get their share."""
    east = make_grid(500, 500, 240_000, 5_300_000)
    x, y = Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True).transform(240_000, 5_300_000)
    west = GeoBox((500, 500), Affine(10, 0, x, 0, -10, y), "EPSG:32632")
    all_roles, _ = divide([east, west], 500, 40, 0.2, 0)
    for roles in all_roles:
        found = roles.read(Window(0, 0, 500, 500))
        assert (found == TRAIN).mean() > 0.3
    validated = [(roles.read(Window(0, 0, 500, 500)) == VALIDATION).mean() for roles in all_roles]
    assert 0.1 < sum(validated) / 2 < 0.25


@settings(max_examples=examples(30), deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=2, max_size=60), share=st.sampled_from([0.1, 0.5]))
def test_squares_are_drawn_at_random(sizes: list[int], share: float) -> None:
    block_grid = BlockGrid("EPSG:32633", 100, 100)
    counts = {Block(block_grid, 0, number): np.array([size, 1]) for number, size in enumerate(sizes)}
    drawn = draw_validation_blocks(counts, share, 0)
    pixels = sum(int(counts[block].sum()) for block in drawn)
    total = sum(int(found.sum()) for found in counts.values())
    assert share * total <= pixels <= share * total + max(sizes) + 1
    if len(sizes) > 40:
        assert len({frozenset(draw_validation_blocks(counts, share, seed)) for seed in range(5)}) > 1


def test_rings_do_not_reach_where_nothing_is() -> None:
    """The number of blocks in play counts, not how far they are apart."""
    block_grid = BlockGrid("EPSG:32633", 2560, 2560)
    counts = {Block(block_grid, 1000 * number, -number): np.array([5, 5]) for number in range(20)}
    assert len(choose_validation_blocks(counts, {block_grid: 1}, 0.2, 3)) == 4


def test_too_little_ground_is_refused() -> None:
    with pytest.raises(InputError, match="too small to hold out blocks"):
        divide([make_grid(20, 20)], 2560, 256, 0.2, 0)
    block_grid = BlockGrid("x", 1, 1)
    with pytest.raises(InputError, match="too small to hold out blocks"):
        choose_validation_blocks({Block(block_grid, 0, 0): np.zeros(3, np.int64)}, {block_grid: 1}, 0.2, 0)


def test_a_grid_without_a_reference_system_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be split into blocks"):
        make_block_grid(GeoBox((5, 5), Affine.identity(), None), 100)
