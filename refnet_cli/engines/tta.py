"""Predictions averaged over the eight symmetries of a square: quarter turns, and each mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.types import Float32

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine


SYMMETRIES = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]
"""Quarter turns, after mirroring if any."""


class SymmetricEngine:
    """An engine that sees every patch in all eight ways and answers with the mean of what it finds.

    It takes eight times as long. What it says of a turned or mirrored patch is what it says of the patch, turned or
    mirrored, but for rounding.

    Parameters
    ----------
    engine : Engine
        Is closed with this one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.card = engine.card
        self.about = engine.about | {"symmetries": str(len(SYMMETRIES))}

    @property
    def batch(self) -> int:
        """How many patches to give at once."""
        return self._engine.batch

    @batch.setter
    def batch(self, batch: int) -> None:
        self._engine.batch = batch

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of square patches; see `refnet_cli.engines.base.Engine.predict`."""
        # Before turning: of pixels that are equally near, all views then see the same one.
        optical, sar = fill_gaps(optical), fill_gaps(sar)
        total: Float32 | None = None
        for symmetry, seen in zip(SYMMETRIES, _views(optical, sar), strict=True):
            found = _back(self._engine.predict(*seen), *symmetry)
            if total is None:
                total = np.array(found)  # what the engine returns may be its own
            else:
                total += found
        assert total is not None  # there are symmetries
        total /= len(SYMMETRIES)
        return total

    def close(self) -> object:
        """Close the engine."""
        return self._engine.close()


def _views(*arrays: Float32) -> Iterator[list[Float32]]:
    for turns, mirrored in SYMMETRIES:
        seen = [array[..., ::-1] if mirrored else array for array in arrays]
        yield [np.ascontiguousarray(np.rot90(array, turns, (-2, -1))) for array in seen]


def _back(array: Float32, turns: int, mirrored: bool) -> Float32:
    turned = np.rot90(array, -turns, (-2, -1))
    return turned[..., ::-1] if mirrored else turned
