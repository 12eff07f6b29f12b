"""How well a map agrees with reference labels: confusion matrix and scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.labels import Labels, describe_map
from refnet_cli.products import SCHEMES
from refnet_cli.tiling import Window

ROWS = 512

Counts = NDArray[np.int64]


def confusion_matrix(labels: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Counts:
    """Count pixels by label (row) and prediction (column), both as network indexes; pixels with a 0 are left out.

    Examples
    --------
    >>> confusion_matrix(np.array([1, 1, 2, 0], np.uint8), np.array([1, 2, 2, 1], np.uint8), 3).tolist()
    [[1, 1], [0, 1]]
    """
    known = (labels > 0) & (predicted > 0)
    pairs = labels[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)[1:, 1:]


@dataclass(frozen=True)
class Scores:
    """Agreement of a map with labels; classes without any pixel in either count in no mean."""

    overall_accuracy: float
    mean_iou: float
    mean_f1: float
    kappa: float
    iou: dict[str, float]
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as a plain dict that JSON can hold."""
        return asdict(self)


def score(matrix: Counts, names: tuple[str, ...]) -> Scores:
    """Score a confusion matrix.

    Parameters
    ----------
    matrix : int array, shape (classes, classes)
        Labels by row, predictions by column.
    names : tuple of str
        One a class.

    Raises
    ------
    InputError
        If it counts no pixel.

    Examples
    --------
    >>> score(np.array([[3, 1], [0, 4]]), ("water", "trees")).overall_accuracy
    0.875
    """
    total = int(matrix.sum())
    if not total:
        raise InputError("Map and labels have no labelled pixel in common; nothing can be scored.")
    hits = np.diag(matrix).astype(float)
    labelled, predicted = matrix.sum(1), matrix.sum(0)
    present = labelled + predicted > 0
    union = labelled + predicted - hits
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=present)
    chance = float((labelled * predicted / total).sum()) / total
    accuracy = float(hits.sum()) / total
    return Scores(
        overall_accuracy=accuracy,
        mean_iou=float(iou[present].mean()),
        mean_f1=float((2 * iou / (1 + iou))[present].mean()),
        kappa=(accuracy - chance) / (1 - chance) if chance < 1 else 1.0,
        iou={name: float(value) for name, value, there in zip(names, iou, present, strict=True) if there},
        pixels=total,
    )


def evaluate(map_path: str | Path, labels_path: str | Path, scheme: str | None = None) -> Scores:
    """Score a class map against reference labels.

    Parameters
    ----------
    map_path, labels_path : str or Path
        Rasters of codes of one class scheme; labels of another grid are brought onto the map's by nearest neighbour.
    scheme : str, optional
        Name of the class scheme; by default the one that the map's tags name.

    Returns
    -------
    Scores

    Raises
    ------
    OptionsError
        If the map names no scheme and none is given, or it is unknown.
    InputMissingError, InputError
        If a file cannot be read, has codes that are not in the scheme, or the two have no labelled pixel in common.
    """
    grid, tagged = describe_map(map_path)
    name = scheme or tagged
    if name not in SCHEMES:
        raise OptionsError(
            f"{map_path} names class scheme {name!r}; give one with --scheme: {', '.join(SCHEMES)}."
            if scheme is None
            else f"Class scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}."
        )
    meaning = SCHEMES[name]
    height, width = grid.shape
    matrix = np.zeros((meaning.classes - 1,) * 2, np.int64)
    with Labels.open(map_path, grid, meaning) as mapped, Labels.open(labels_path, grid, meaning) as labelled:
        for row in range(0, height, ROWS):
            window = Window(row, 0, min(ROWS, height - row), width)
            matrix += confusion_matrix(labelled.read(window), mapped.read(window), meaning.classes)
    return score(matrix, meaning.names)
