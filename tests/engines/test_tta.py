"""Averages over the symmetries of a square: they turn with what is seen."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from refnet_cli.engines.torch_engine import load_torch_engine
from refnet_cli.engines.tta import SYMMETRIES, SymmetricEngine
from refnet_cli.model.weight_files import default_weights
from refnet_cli.tiles.gaps import fill_gaps
from tests.helpers.scenes import PlaceEngine

Floats = NDArray[np.float32]


def patches(count: int = 2, side: int = 64) -> tuple[Floats, Floats]:
    random = np.random.default_rng(3)
    optical = random.uniform(100, 3000, (count, 4, side, side)).astype(np.float32)
    sar = random.uniform(-25, 0, (count, 2, side, side)).astype(np.float32)
    optical[0, :, :9] = np.nan  # no pixel of it is equally near to two others
    return optical, sar


class Lopsided(PlaceEngine):
    """Sees each pixel's right neighbour in its place."""

    def predict(self, optical: Floats, sar: Floats) -> Floats:
        found: Floats = np.roll(super().predict(optical, sar), -1, axis=-1)
        return found


def turned(array: Floats, turns: int, mirrored: bool) -> Floats:
    return np.rot90(array[..., ::-1] if mirrored else array, turns, (-2, -1))


def test_there_are_eight() -> None:
    square = np.arange(9).reshape(3, 3)
    assert len({turned(square, *symmetry).tobytes() for symmetry in SYMMETRIES}) == 8


def test_what_depends_on_pixels_alone_stays() -> None:
    engine = PlaceEngine()
    found = SymmetricEngine(engine).predict(*patches())
    np.testing.assert_allclose(found, engine.predict(*map(fill_gaps, patches())), atol=1e-6)
    assert engine.calls == 8 * 2 + 2


def test_it_is_the_mean_of_what_is_said_of_each_view_turned_back() -> None:
    optical, sar = map(fill_gaps, patches())
    slow = []
    for turns, mirrored in product(range(4), (False, True)):
        said = Lopsided().predict(*(np.ascontiguousarray(turned(x, turns, mirrored)) for x in (optical, sar)))
        back = np.rot90(said, -turns, (-2, -1))
        slow.append(back[..., ::-1] if mirrored else back)
    found = SymmetricEngine(Lopsided()).predict(optical, sar)
    np.testing.assert_allclose(found, np.mean(slow, 0), atol=1e-6)
    assert np.abs(found - Lopsided().predict(optical, sar)).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "symmetry"),
    [
        ("lopsided", (1, False)), ("lopsided", (3, True)), ("network", (3, True)),
        pytest.param("network", (1, False), marks=pytest.mark.long),
    ],
    ids=str,
)  # fmt: skip
def test_it_turns_with_what_is_seen(kind: str, symmetry: tuple[int, bool]) -> None:
    engine: Any = Lopsided() if kind == "lopsided" else load_torch_engine(default_weights(), "cpu", 2)
    both = SymmetricEngine(engine)
    optical, sar = patches(1)
    seen = [np.ascontiguousarray(turned(x, *symmetry)) for x in (optical, sar)]
    np.testing.assert_allclose(both.predict(*seen), turned(both.predict(optical, sar), *symmetry), atol=2e-5)


def test_all_views_see_the_same_filled_patch() -> None:
    optical, sar = patches()
    optical[1, :, :9, :20] = np.nan  # with pixels that are equally near to two others
    filled = SymmetricEngine(Lopsided()).predict(fill_gaps(optical), fill_gaps(sar))
    np.testing.assert_array_equal(SymmetricEngine(Lopsided()).predict(optical, sar), filled)


def test_it_stands_for_the_engine() -> None:
    engine = PlaceEngine()
    both = SymmetricEngine(engine)
    assert (both.card, both.batch) == (engine.card, 3)
    both.batch = 2
    assert engine.batch == 2
    assert both.about == {"device": "none", "symmetries": "8"}
