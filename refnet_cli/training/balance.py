"""Sampling probabilities of crops: by pixels, by classes, by regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.types import Float64, Int64


def index_regions(scenes: Sequence[TrainScene]) -> Int64:
    """Return the index of each scene's region; a scene without a region is its own."""
    names = [scene.region_name for scene in scenes]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def cell_probabilities(counts: Int64 | Float64, regions: Int64, config: TrainConfig) -> NDArray[np.float64]:
    """Return the probability that the next crop is drawn from each cell, not normalised.

    With ``sampling = "area"`` it is proportional to the cell's labelled pixels. With ``"classes"`` all classes with
    labels have the same probability, and a cell is drawn in proportion to its pixels of the class. ``balance =
    "regions"`` draws a region first, in proportion to the square root of its labelled pixels (of the class), and then a
    cell in proportion to its pixels.

    Parameters
    ----------
    counts : int or float array, shape (n, classes)
        Labelled pixels of each class in each cell, divided among the dates of a place.
    regions : int array, shape (n,)
        Index of each cell's region.
    config : TrainConfig

    Returns
    -------
    float array, shape (n,)
    """
    pixels = counts[:, counts.any(0)]
    if config.balance is None:
        return np.asarray(counts.sum(1) if config.sampling == "area" else (pixels / pixels.sum(0)).sum(1), float)
    if config.sampling == "area":
        pixels = pixels.sum(1, keepdims=True)
    totals = np.zeros((regions.max() + 1, pixels.shape[1]))
    np.add.at(totals, regions, pixels)
    drawn = np.sqrt(totals) / np.sqrt(totals).sum(0)
    each = np.divide(drawn, totals, out=np.zeros_like(totals), where=totals > 0)
    return np.asarray((pixels * each[regions]).sum(1))
