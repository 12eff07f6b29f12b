"""How often crops are drawn from where: by pixels, by classes, by regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.types import Int64


def number_regions(scenes: Sequence[TrainScene]) -> Int64:
    """Number of each scene's region, counted from 0; a scene without one is a region of its own."""
    names = [scene.held_out_with for scene in scenes]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def chances_of_cells(counts: Int64, regions: Int64, config: TrainConfig) -> NDArray[np.float64]:
    """How likely each cell is where the next crop lies, up to a factor common to all.

    With ``sampling = "area"`` a cell has its share of all labelled pixels. With ``"classes"``, all classes that have
    labels are as likely, and a cell has its share of each class's pixels. ``balance = "regions"`` draws a region first,
    of all or of those that have the class, with a probability proportional to the square root of its pixels (of the
    class); a cell then has its share of the region's.

    Parameters
    ----------
    counts : int array, shape (n, classes)
        Labelled pixels of each class in each cell.
    regions : int array, shape (n,)
        Number of each cell's region.
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
