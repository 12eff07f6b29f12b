"""Accuracy scores from a confusion matrix."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError
from refnet_cli.evaluation.areas import AreaEstimates
from refnet_cli.system.html import paragraphs, table
from refnet_cli.types import Float64, Int64


def confusion_matrix(labels: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Int64:
    """Count pixels by label (row) and prediction (column), both as class indexes; skip pixels where one is 0.

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
    """Scores of a map against labels, by class name; classes without a pixel in map and labels are left out.

    The precision of a class that is never mapped is 0, and so is the recall of a class without labels.
    """

    overall_accuracy: float
    balanced_accuracy: float
    """Mean recall of the classes with labels."""
    mean_iou: float
    mean_f1: float
    kappa: float
    precision: dict[str, float]
    """User's accuracy: share of the pixels mapped as a class that are labelled as it."""
    recall: dict[str, float]
    """Producer's accuracy: share of the pixels labelled as a class that are mapped as it."""
    f1: dict[str, float]
    iou: dict[str, float]
    labelled: dict[str, int]
    """Number of pixels by label."""
    confusion_matrix: list[list[int]]
    """Number of pixels by label (row) and prediction (column), in the class order of `labelled`."""
    pixels: int
    area_estimates: AreaEstimates | None = None
    """In hectares, where the labels are a probability sample."""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as a plain dict, ready for JSON; without area estimates if there are none."""
        found = asdict(replace(self, area_estimates=None))
        del found["area_estimates"]
        return found | ({"area_estimates": self.area_estimates.to_dict()} if self.area_estimates else {})

    def _repr_html_(self) -> str:
        """Show the scores of each class in a notebook."""
        each = self.precision, self.recall, self.f1, self.iou
        rows = [(name, f"{count:,}", *(f"{by[name]:.1%}" for by in each)) for name, count in self.labelled.items()]
        about = (
            f"Overall accuracy {self.overall_accuracy:.1%}, mean F1 {self.mean_f1:.1%}, mean IoU {self.mean_iou:.1%}, "
            f"kappa {self.kappa:.3f}; {self.pixels:,} pixels."
        )
        head = ("class", "labelled pixels", "precision", "recall", "F1", "IoU")
        found = table(rows, head, "Scores") + paragraphs([about])
        return found + (self.area_estimates._repr_html_() if self.area_estimates else "")


def score(matrix: Int64, names: tuple[str, ...]) -> Scores:
    """Compute scores from a confusion matrix.

    Parameters
    ----------
    matrix : int array, shape (classes, classes)
        Labels by row, predictions by column.
    names : tuple of str
        Name of each class.

    Raises
    ------
    InputError
        If the matrix is empty.

    Examples
    --------
    >>> score(np.array([[3, 1], [0, 4]]), ("water", "trees")).overall_accuracy
    0.875
    """
    total = int(matrix.sum())
    if not total:
        raise InputError("No labelled pixel has a class in the map, so there is nothing to score.")
    hits = np.diag(matrix).astype(float)
    labelled, predicted = matrix.sum(1), matrix.sum(0)
    present = labelled + predicted > 0
    precision, recall = _share(hits, predicted), _share(hits, labelled)
    iou, f1 = _share(hits, labelled + predicted - hits), _share(2 * hits, labelled + predicted)
    chance = float((labelled * predicted / total).sum()) / total
    accuracy = float(hits.sum()) / total

    def by_name(values: NDArray[Any]) -> dict[str, Any]:
        return {name: value for name, value, shown in zip(names, values.tolist(), present, strict=True) if shown}

    return Scores(
        overall_accuracy=accuracy,
        balanced_accuracy=float(recall[labelled > 0].mean()),
        mean_iou=float(iou[present].mean()),
        mean_f1=float(f1[present].mean()),
        kappa=(accuracy - chance) / (1 - chance) if chance < 1 else 1.0,
        precision=by_name(precision),
        recall=by_name(recall),
        f1=by_name(f1),
        iou=by_name(iou),
        labelled=by_name(labelled),
        confusion_matrix=matrix[np.ix_(present, present)].tolist(),
        pixels=total,
    )


def _share(part: Float64, whole: NDArray[Any]) -> Float64:
    shares: Float64 = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares
