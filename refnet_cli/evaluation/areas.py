"""Areas of classes estimated from a sample of labels, with their uncertainty (Olofsson and others, 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError
from refnet_cli.types import Float64, Int64

NORMAL_95 = 1.96
"""Standard errors on either side of an estimate that make a confidence interval of 95 %."""


class Estimate(NamedTuple):
    """A number and half the width of its confidence interval of 95 %."""

    value: float
    margin: float


@dataclass(frozen=True)
class AreaEstimates:
    """Accuracies and areas estimated from a probability sample of labels; classes by name."""

    overall_accuracy: Estimate
    precision: dict[str, Estimate]
    """User's accuracy."""
    recall: dict[str, Estimate]
    """Producer's accuracy, in shares of area; NaN for a class that the sample never found."""
    area: dict[str, Estimate]
    """Area of the class on the ground, in the unit of ``mapped``."""
    mapped: dict[str, float]
    """Area of the class in the map."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimates as a plain dict that JSON can hold; NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, Estimate):
                return {name: None if np.isnan(part) else part for name, part in value._asdict().items()}
            return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}


def estimate_areas(matrix: Int64, mapped: NDArray[np.float64], names: tuple[str, ...]) -> AreaEstimates:
    """Estimate accuracies and areas from labels drawn at random within each class of the map.

    The stratified estimators of Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of
    land change", Remote Sensing of Environment 148, with the map's classes as strata. A simple random sample of the
    whole map may be given too: it is then stratified afterwards.

    Parameters
    ----------
    matrix : int array, shape (classes, classes)
        Sampled pixels, labels by row, predictions by column.
    mapped : float array, shape (classes,)
        Area of each class in the map.
    names : tuple of str
        One a class; classes neither mapped nor sampled are left out.

    Raises
    ------
    InputError
        If a class of the map has fewer than two sampled pixels, which tell nothing of how much they vary.
    """
    sampled = matrix.sum(0)
    few = [name for name, area, count in zip(names, mapped, sampled, strict=True) if area > 0 and count < 2]
    if few:
        raise InputError(
            f"The sample has fewer than two pixels in these classes of the map: {', '.join(few)}. "
            "Estimates need two at least, and 50 or more to be of use."
        )
    weight = mapped / mapped.sum()
    share = np.divide(matrix, sampled, out=np.zeros(matrix.shape), where=sampled > 0)
    variance = share * (1 - share) / np.maximum(sampled - 1, 1)
    right, right_variance = np.diag(share), np.diag(variance)
    proportion = share @ weight
    there = (mapped > 0) | (proportion > 0)
    with np.errstate(invalid="ignore"):
        recall = weight * right / proportion
        # Of the ratio of two estimates, by its linear part.
        elsewhere = np.where(np.eye(len(names)), 0, variance) @ weight**2
        recall_variance = (weight**2 * (1 - recall) ** 2 * right_variance + recall**2 * elsewhere) / proportion**2

    def by_name(values: Float64, variances: Float64) -> dict[str, Estimate]:
        return {
            name: _estimate(value, spread)
            for name, value, spread, shown in zip(names, values, variances, there, strict=True)
            if shown
        }

    return AreaEstimates(
        overall_accuracy=_estimate(weight @ right, weight**2 @ right_variance),
        precision=by_name(right, right_variance),
        recall=by_name(recall, recall_variance),
        area=by_name(proportion * mapped.sum(), variance @ weight**2 * mapped.sum() ** 2),
        mapped={name: float(area) for name, area, shown in zip(names, mapped, there, strict=True) if shown},
    )


def _estimate(value: float, variance: float) -> Estimate:
    return Estimate(float(value), NORMAL_95 * float(np.sqrt(variance)))
