"""Scores from one confusion matrix per place, so that folds can be scored separately and pooled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.evaluation.scores import score

Counts = NDArray[np.int64]
NAMES = SCHEMES["esri-io"].names
FEWEST_PIXELS, FEWEST_COUNTRIES = 1000, 2


def balanced_classes(labelled: Mapping[str, Counts]) -> list[int]:
    """Return the classes, from 0, with at least 1,000 labelled pixels in each of two or more countries.

    Parameters
    ----------
    labelled : mapping
        Labelled pixels of each class by country, shape (classes,).
    """
    enough = np.sum([pixels >= FEWEST_PIXELS for pixels in labelled.values()], axis=0)
    return np.flatnonzero(enough >= FEWEST_COUNTRIES).tolist()


def pool(matrices: Mapping[str, Counts], group: Callable[[str], str]) -> dict[str, Counts]:
    """Sum the confusion matrices of places by group; ``group`` maps a place's name to its group."""
    found: dict[str, Counts] = {}
    for name, matrix in matrices.items():
        found[group(name)] = found.get(group(name), 0) + matrix
    return found


def summarise(matrices: Mapping[str, Counts], country: Mapping[str, str]) -> dict[str, Any]:
    """Return scores by country and pooled over all places.

    Parameters
    ----------
    matrices : mapping
        Confusion matrix of each place, labels by row and predictions by column, shape (classes, classes).
    country : mapping
        Country of each place.

    Returns
    -------
    dict
        ``balanced_classes``, ``pooled`` and ``by_country``. The latter two have ``overall_accuracy``;
        ``mean_over_places``, the mean overall accuracy of places; ``balanced_accuracy``, the mean recall of those
        `balanced_classes` that occur, or None if none does; ``recall``, ``precision`` and ``iou`` by class; and
        ``pixels``.
    """
    used = {name: matrix for name, matrix in matrices.items() if matrix.any()}
    by_country = pool(used, country.__getitem__)
    classes = balanced_classes({name: matrix.sum(1) for name, matrix in by_country.items()})
    by_place = {name: _accuracy(matrix) for name, matrix in used.items()}
    total = np.sum(list(by_country.values()), axis=0)
    return {
        "balanced_classes": [NAMES[index] for index in classes],
        "pooled": _describe(total, classes, by_place.values()),
        "by_country": {
            name: _describe(matrix, classes, [by_place[place] for place in used if country[place] == name])
            for name, matrix in sorted(by_country.items())
        },
    }


def accuracy_of(matrix: Counts, classes: Iterable[int]) -> float | None:
    """Return the overall accuracy over the pixels labelled as the given classes, from 1; None without such pixels."""
    rows = [index - 1 for index in sorted(classes)]
    pixels = int(matrix[rows].sum())
    return float(np.diag(matrix)[rows].sum()) / pixels if pixels else None


def _accuracy(matrix: Counts) -> float:
    return float(np.trace(matrix) / matrix.sum())


def _describe(matrix: Counts, classes: Iterable[int], by_place: Iterable[float]) -> dict[str, Any]:
    found = score(matrix, NAMES)
    recalls = [found.recall[NAMES[index]] for index in classes if matrix[index].any()]
    there = [name for name, pixels in found.labelled.items() if pixels]
    return {
        "overall_accuracy": found.overall_accuracy,
        "mean_over_places": float(np.mean(list(by_place))),
        "balanced_accuracy": float(np.mean(recalls)) if recalls else None,
        "mean_iou": float(np.mean([found.iou[name] for name in there])),
        "recall": {name: found.recall[name] for name in there},
        "precision": {name: found.precision[name] for name in there},
        "iou": {name: found.iou[name] for name in there},
        "labelled": {name: found.labelled[name] for name in there},
        "pixels": found.pixels,
    }


def format_score(value: float | None) -> str:
    """Return a number as text for tables; empty for None."""
    return "" if value is None else f"{value:.3f}"
