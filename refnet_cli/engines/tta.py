"""Test-time augmentation: average predictions over the eight symmetries of a square (rotations and mirror images)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.types import Float32

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine


SYMMETRIES = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]
"""(Number of quarter turns, whether the patch is mirrored before)."""


class SymmetricEngine:
    """An engine that predicts every patch in all eight orientations and returns the mean.

    It takes eight times as long. The result for a rotated or mirrored patch is the rotated or mirrored result of the
    patch, apart from rounding.

    Parameters
    ----------
    engine : Engine
        The underlying engine; closed with this one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.card = engine.card
        self.about = engine.about | {"symmetries": str(len(SYMMETRIES))}

    @property
    def batch(self) -> int:
        """Patches per batch."""
        return self._engine.batch

    @batch.setter
    def batch(self, batch: int) -> None:
        self._engine.batch = batch

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of square patches; see `refnet_cli.engines.base.Engine.predict`."""
        # Before rotating, so that ties between equally near pixels are the same in all orientations.
        optical, sar = fill_gaps(optical), fill_gaps(sar)
        total: Float32 | None = None
        for symmetry, seen in zip(SYMMETRIES, _views(optical, sar), strict=True):
            found = _back(self._engine.predict(*seen), *symmetry)
            if total is None:
                total = np.array(found)  # a copy: the engine may reuse its array
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
