"""Class probabilities smoothed where they agree, and left alone at edges, while rows come in.

Pure arithmetic on numpy arrays: no files, no network.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refnet_cli.types import Bool, Float32

ALIKE = 0.35
"""Distance between the probabilities of two pixels, as vectors, at which their say in each other has fallen to 61 %.

On made-up maps with rivers of 1 and 2 pixels and 2 % of wrong pixels whose class has a probability of 0.4 to 0.65, a
radius of 2 corrects 95 % of these and keeps all rivers down to a probability of 0.65. With 0.25 half of the wrong
pixels stay, with 0.45 a third of such rivers goes.
"""


@dataclass
class _Row:
    """A row whose neighbours are still coming in."""

    own: Float32
    """Its probabilities, 0 where they are not valid, shape (K, width)."""
    valid: Float32 | None
    """1 where they are, else 0, shape (width,); None if they all are."""
    total: Float32
    """Weighted sum of the window's probabilities so far, shape (K, width)."""
    weight: Float32
    """Sum of the weights so far, shape (width,)."""


class Smoother:
    """A bilateral filter of class probabilities that takes rows from north to south.

    Each valid pixel's vector p becomes the mean of those of the valid pixels in a window of (2 r + 1)^2 around it, with
    the weights exp(-d^2 / (2 (r / 1.5)^2)) exp(-|p_i - p_j|^2 / (2 s^2)): d is the distance in pixels, s `ALIKE`. The
    window ends at the map's edges, and pixels that are not valid neither give nor take. So single pixels of which the
    network was not sure follow their neighbours, and a narrow river of which it was sure stays.

    A pixel's result is the same to the last bit however rows are cut, and wherever above ``first - radius`` they begin.
    Holds ``radius + 1`` rows.

    Parameters
    ----------
    radius : int
        In pixels, r above, at least 1.
    classes : int
        Number of probability layers K.
    width, height : int
        Of the map, in pixels.
    top : int
        The first row that will be pushed.
    first : int, optional
        The first row to give out, by default the first whose neighbours are all there; those above it only serve as
        neighbours.

    Raises
    ------
    ValueError
        If the radius is less than 1, or ``top`` leaves out neighbours of ``first``.

    References
    ----------
    Tomasi, C. and Manduchi, R. (1998). Bilateral filtering for gray and color images. ICCV.
    """

    def __init__(
        self, radius: int, classes: int, width: int, height: int, top: int = 0, first: int | None = None
    ) -> None:
        if first is None:
            first = min(top + radius, height) if top else 0
        if radius < 1:
            raise ValueError(f"A radius of {radius} pixels smooths nothing; it takes at least 1.")
        if not 0 <= top <= max(first - radius, 0) or first > height:
            raise ValueError(f"Row {first} of {height} cannot be smoothed from row {top} on with a radius of {radius}.")
        self._radius, self._shape, self._height = radius, (classes, width), height
        self._next, self._first = top, first
        self._rows: deque[_Row] = deque()
        self._falloff = 2 * (radius / 1.5) ** 2

    def push(self, row: int, probabilities: Float32, valid: Bool) -> list[tuple[int, Float32]]:
        """Take the next rows, any number of them.

        Parameters
        ----------
        row : int
            The first of them; it follows the last one pushed.
        probabilities : float32 array, shape (K, rows, width)
        valid : bool array, shape (rows, width)

        Returns
        -------
        list of (int, float32 array of shape (K, rows, width))
            None or one: the first of the rows that are finished, and their probabilities. A row is finished as soon as
            ``radius`` rows below it, or the map's last, are there. What is not valid is as it came.

        Raises
        ------
        ValueError
            If the rows do not follow, or have another shape.
        """
        classes, width = self._shape
        if row != self._next or row + len(valid) > self._height:
            raise ValueError(f"Rows {row} to {row + len(valid)} do not follow row {self._next} of {self._height}.")
        if probabilities.shape != (classes, *valid.shape) or valid.shape[1] != width:
            raise ValueError(f"Probabilities have the shape {probabilities.shape} for {classes} x {width} pixels.")
        done: list[tuple[int, Float32]] = []
        for number in range(len(valid)):
            self._take(probabilities[:, number], valid[number])
            self._next += 1
            done += self._finish(0 if self._next == self._height else self._radius)
        done = [(number, smooth) for number, smooth in done if number >= self._first]
        return [(done[0][0], np.stack([smooth for _, smooth in done], axis=1))] if done else []

    def _take(self, probabilities: Float32, valid: Bool) -> None:
        own = np.where(valid, probabilities, np.float32(0))
        mask = None if valid.all() else valid.astype(np.float32)
        total = np.array(probabilities, np.float32, order="C")
        new = _Row(own, mask, total, np.ones(len(valid), np.float32))
        # Each pixel's sums grow in this order, however many rows come at once.
        for down, above in zip(range(len(self._rows), 0, -1), self._rows, strict=True):
            for right in range(-self._radius, self._radius + 1):
                self._meet(above, new, down, right)
        for right in range(1, self._radius + 1):
            self._meet(new, new, 0, right)
        self._rows.append(new)

    def _finish(self, kept: int) -> Iterator[tuple[int, Float32]]:
        while len(self._rows) > kept:
            row = self._rows.popleft()
            row.total /= row.weight
            yield self._next - len(self._rows) - 1, row.total

    def _meet(self, one: _Row, other: _Row, down: int, right: int) -> None:
        """Have pixels of a row and those so many rows below and columns to the right count for each other."""
        width = self._shape[1]
        here = slice(max(-right, 0), width - max(right, 0))
        there = slice(here.start + right, here.stop + right)
        if here.start >= here.stop:
            return
        mine, theirs = one.own[:, here], other.own[:, there]
        product = mine - theirs
        product *= product
        weight = product.sum(axis=0)
        weight *= np.float32(-0.5 / ALIKE**2)
        np.exp(weight, out=weight)
        weight *= np.float32(math.exp(-(down**2 + right**2) / self._falloff))
        for mask, place in ((one.valid, here), (other.valid, there)):
            if mask is not None:
                weight *= mask[place]
        one.total[:, here] += np.multiply(theirs, weight, out=product)
        one.weight[here] += weight
        other.total[:, there] += np.multiply(mine, weight, out=product)
        other.weight[there] += weight
