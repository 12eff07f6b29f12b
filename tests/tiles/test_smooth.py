"""Smoothing: the filter pixel by pixel, its indifference to how rows come, and what it keeps and corrects."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.tiles.smooth import RANGE_SIGMA, Smoother
from tests.helpers.quick import examples

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


def some_map(height: int, width: int, classes: int = 4, seed: int = 0) -> tuple[Float32, Bool]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.7), (height, width)).transpose(2, 0, 1).astype(np.float32)
    valid = random.random((height, width)) < 0.8
    probabilities[:, ~valid] = np.nan
    return probabilities, valid


def smoothed(
    probabilities: Float32, valid: Bool, radius: int, cuts: list[int] | None = None, top: int = 0,
    first: int | None = None,
) -> tuple[int, Float32]:
    """Smooth a map in parts; the first row that came out and all of them."""
    classes, height, width = probabilities.shape
    smoother = Smoother(radius, classes, width, height, top, first)
    done = []
    for start, stop in pairwise([top, *sorted(cuts or []), height]):
        done += smoother.push(start, probabilities[:, start:stop], valid[start:stop])
        assert len(smoother._rows) <= radius
    for (row, part), (after, _) in pairwise(done):
        assert row + part.shape[1] == after
    return done[0][0], np.concatenate([part for _, part in done], axis=1)


def slow(probabilities: Float32, valid: Bool, radius: int) -> NDArray[np.float64]:
    """The formula, pixel by pixel."""
    _, height, width = probabilities.shape
    exact = probabilities.astype(float)
    out = exact.copy()
    for row, column in np.argwhere(valid):
        total, weights = 0.0, 0.0
        for y in range(max(row - radius, 0), min(row + radius + 1, height)):
            for x in range(max(column - radius, 0), min(column + radius + 1, width)):
                if valid[y, x]:
                    apart = ((exact[:, y, x] - exact[:, row, column]) ** 2).sum()
                    far = (y - row) ** 2 + (x - column) ** 2
                    weight = np.exp(-far / (2 * (radius / 1.5) ** 2)) * np.exp(-apart / (2 * RANGE_SIGMA**2))
                    total, weights = total + weight * exact[:, y, x], weights + weight
        out[:, row, column] = total / weights
    return out


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(9, 11), (1, 7), (8, 1), (1, 1), (2, 3)])
def test_each_pixel_is_the_weighted_mean_of_its_window(height: int, width: int, radius: int) -> None:
    probabilities, valid = some_map(height, width)
    row, found = smoothed(probabilities, valid, radius)
    assert row == 0
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(probabilities, valid, radius), rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(found[:, ~valid], probabilities[:, ~valid])
    np.testing.assert_allclose(found[:, valid].sum(axis=0), 1, rtol=2e-6)


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 3), st.integers(1, 25), st.integers(1, 40), st.data())
def test_last_bits_do_not_depend_on_how_rows_come(radius: int, height: int, width: int, data: st.DataObject) -> None:
    probabilities, valid = some_map(height, width, seed=height)
    _, whole = smoothed(probabilities, valid, radius)
    first = data.draw(st.integers(0, height - 1))
    top = data.draw(st.integers(0, max(first - radius, 0)))
    cuts = data.draw(st.lists(st.integers(top, height), max_size=6))
    row, found = smoothed(probabilities, valid, radius, cuts, top, first)
    assert row == first
    assert found.tobytes() == whole[:, first:].tobytes()


def test_rows_come_as_soon_as_their_neighbours_are_there() -> None:
    probabilities, valid = some_map(10, 5)
    smoother = Smoother(2, 4, 5, 10)
    came = [smoother.push(row, probabilities[:, row : row + 1], valid[row : row + 1]) for row in range(10)]
    assert [[(row, part.shape) for row, part in parts] for parts in came] == [
        [], [], *([(row, (4, 1, 5))] for row in range(7)), [(7, (4, 3, 5))],
    ]  # fmt: skip


def test_the_first_row_is_by_default_the_first_that_is_right() -> None:
    probabilities, valid = some_map(10, 5)
    _, whole = smoothed(probabilities, valid, 2)
    row, found = smoothed(probabilities, valid, 2, top=3)
    assert row == 5
    assert found.tobytes() == whole[:, 5:].tobytes()


def test_the_input_stays_as_it_is() -> None:
    probabilities, valid = some_map(10, 5)
    before = probabilities.copy()
    smoothed(probabilities, valid, 1)
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_an_edge_between_sure_halves_stays_sharp(radius: int) -> None:
    probabilities = np.zeros((3, 20, 30), np.float32)
    probabilities[1, :, :15] = probabilities[2, :, 15:] = 1
    _, found = smoothed(probabilities, np.ones((20, 30), bool), radius)
    np.testing.assert_allclose(found, probabilities, atol=2e-3)
    beyond = np.abs(np.arange(30) - 14.5) > radius
    np.testing.assert_array_equal(found[:, :, beyond], probabilities[:, :, beyond])


def test_narrow_rivers_stay_and_unsure_pixels_follow_their_neighbours() -> None:
    probabilities = np.empty((4, 40, 60), np.float32)
    probabilities[:] = np.array([0, 0.85, 0.1, 0.05])[:, None, None]
    river = np.zeros((40, 60), bool)
    river[:, 20] = river[:, 40:42] = True
    probabilities[:, river] = np.array([0, 0.2, 0.7, 0.1])[:, None]
    unsure = np.zeros_like(river)
    unsure[5::7, 5:60:10] = True
    unsure[river] = False
    probabilities[:, unsure] = np.array([0, 0.4, 0.05, 0.55])[:, None]
    before = probabilities.argmax(axis=0)
    assert (before[unsure] == 3).all()
    _, found = smoothed(probabilities, np.ones((40, 60), bool), 2)
    np.testing.assert_array_equal(found.argmax(axis=0), np.where(river, 2, 1))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="smooths nothing"):
        Smoother(0, 3, 5, 5)
    for top, first in ((1, 2), (-1, 3), (0, 6), (4, 4)):
        with pytest.raises(ValueError, match="cannot smooth row"):
            Smoother(2, 3, 5, 5, top, first)
    smoother = Smoother(1, 3, 5, 5)
    probabilities, valid = some_map(6, 5, 3)
    with pytest.raises(ValueError, match="do not follow row 0"):
        smoother.push(1, probabilities[:, :1], valid[:1])
    with pytest.raises(ValueError, match="do not follow"):
        smoother.push(0, probabilities, valid)
    with pytest.raises(ValueError, match="have the shape"):
        smoother.push(0, probabilities[:2, :5], valid[:5])
    with pytest.raises(ValueError, match="have the shape"):
        smoother.push(0, probabilities[:, :5, :4], valid[:5, :4])
