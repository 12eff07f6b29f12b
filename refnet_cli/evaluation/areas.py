"""Stratified estimates of accuracy and area from a sample, with confidence intervals (Olofsson, Stehman 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError
from refnet_cli.system.html import paragraphs, table
from refnet_cli.types import Float64, Int64

NORMAL_95 = 1.96
"""Half-width of a 95% confidence interval in standard errors."""


class Estimate(NamedTuple):
    """An estimate, and the half-width of its 95% confidence interval."""

    value: float
    margin: float


@dataclass(frozen=True)
class AreaEstimates:
    """Accuracies and areas of classes, estimated from a probability sample of labels."""

    overall_accuracy: Estimate
    precision: dict[str, Estimate]
    """User's accuracy."""
    recall: dict[str, Estimate]
    """Producer's accuracy, weighted by area; NaN for a class without labels in the sample."""
    area: dict[str, Estimate]
    """Area of the class on the ground, in the unit of ``mapped``."""
    mapped: dict[str, float]
    """Area of the class in the map."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimates as a plain dict, ready for JSON; NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, Estimate):
                return {name: None if np.isnan(part) else part for name, part in value._asdict().items()}
            return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}

    def _repr_html_(self) -> str:
        """Show the estimates of each class in a notebook."""
        rows = [
            (name, f"{self.mapped[name]:,.1f}", f"{area.value:,.1f} ± {area.margin:,.1f}",
             *(f"{by[name].value:.1%} ± {by[name].margin:.1%}" for by in (self.precision, self.recall)))
            for name, area in self.area.items()
        ]  # fmt: skip
        head = ("class", "mapped area", "estimated area", "precision", "recall")
        accuracy = f"Overall accuracy {self.overall_accuracy.value:.1%} ± {self.overall_accuracy.margin:.1%}."
        return table(rows, head, "Estimates with 95% confidence intervals") + paragraphs([accuracy])


def estimate_areas(matrix: Int64, mapped: NDArray[np.float64], names: tuple[str, ...]) -> AreaEstimates:
    """Estimate accuracies and areas from a random sample of labels, stratified by map class.

    Use the stratified estimators of Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of
    land change", Remote Sensing of Environment 148, with the map's classes as strata. A simple random sample of the
    whole map is valid too: it is post-stratified.

    Parameters
    ----------
    matrix : int array, shape (classes, classes)
        Number of sampled pixels, labels by row, predictions by column.
    mapped : float array, shape (classes,)
        Area of each class in the map.
    names : tuple of str
        Name of each class; classes that are neither mapped nor sampled are left out.

    Raises
    ------
    InputError
        If a class of the map has fewer than two sampled pixels, too few for a variance.
    """
    sampled = matrix.sum(0)
    few = [name for name, area, count in zip(names, mapped, sampled, strict=True) if area > 0 and count < 2]
    if few:
        raise InputError(
            f"The sample has fewer than 2 pixels in these classes of the map: {', '.join(few)}. Add samples: each "
            "class needs at least 2 pixels, and 50 or more for useful estimates."
        )
    weight = mapped / mapped.sum()
    share = np.divide(matrix, sampled, out=np.zeros(matrix.shape), where=sampled > 0)
    variance = share * (1 - share) / np.maximum(sampled - 1, 1)
    right, right_variance = np.diag(share), np.diag(variance)
    proportion = share @ weight
    present = (mapped > 0) | (proportion > 0)
    with np.errstate(invalid="ignore"):
        recall = weight * right / proportion
        # Variance of a ratio of two estimates, by linearisation.
        elsewhere = np.where(np.eye(len(names)), 0, variance) @ weight**2
        recall_variance = (weight**2 * (1 - recall) ** 2 * right_variance + recall**2 * elsewhere) / proportion**2

    def by_name(values: Float64, variances: Float64) -> dict[str, Estimate]:
        return {
            name: _estimate(value, spread)
            for name, value, spread, shown in zip(names, values, variances, present, strict=True)
            if shown
        }

    return AreaEstimates(
        overall_accuracy=_estimate(weight @ right, weight**2 @ right_variance),
        precision=by_name(right, right_variance),
        recall=by_name(recall, recall_variance),
        area=by_name(proportion * mapped.sum(), variance @ weight**2 * mapped.sum() ** 2),
        mapped={name: float(area) for name, area, shown in zip(names, mapped, present, strict=True) if shown},
    )


def estimate_areas_by_strata(
    strata: NDArray[np.intp],
    weights: NDArray[np.float64],
    labels: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    mapped: NDArray[np.float64],
    names: tuple[str, ...],
) -> AreaEstimates:
    """Estimate accuracies and areas from a random sample of labels in strata that are not the map's classes.

    Use the ratio estimators of Stehman 2014, "Estimating area and map accuracy for stratified random sampling when the
    strata are different from the map classes", International Journal of Remote Sensing 35. Samples without a class in
    the map are outside the part of the strata that is estimated.

    Parameters
    ----------
    strata : int array, shape (samples,)
        Number of each sample's stratum, from 0.
    weights : float array, shape (strata,)
        Area of each stratum, in any unit.
    labels, predicted : uint8 array, shape (samples,)
        Class index of each sample from 1, in the labels and in the map; predictions may be 0 for no class.
    mapped : float array, shape (classes,)
        Area of each class in the map.
    names : tuple of str
        Name of each class; classes that are neither mapped nor sampled are left out.

    Raises
    ------
    InputError
        If a stratum has fewer than two samples, too few for a variance, or no sample has a class in the map.
    """
    count = np.bincount(strata, minlength=len(weights))
    if (few := int((count < 2).sum())) or not predicted.any():
        what = f"{few} of {len(weights)} strata have fewer than 2 samples" if few else "No sample lies on the map"
        raise InputError(f"{what}. Each stratum needs at least 2 samples, and 50 or more for useful estimates.")

    def ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Estimate:
        """Estimate which share of one area another is, with its variance by linearisation."""
        total = float(weights @ (np.bincount(strata, whole, len(weights)) / count))
        if not total:
            return Estimate(float("nan"), float("nan"))
        value = float(weights @ (np.bincount(strata, part, len(weights)) / count)) / total
        rest = part - value * whole
        mean = np.bincount(strata, rest, len(weights)) / count
        spread = np.bincount(strata, (rest - mean[strata]) ** 2, len(weights)) / (count - 1)
        return _estimate(value, float(weights**2 @ (spread / count)) / total**2)

    inside, right, size = predicted > 0, (labels == predicted) & (predicted > 0), float(mapped.sum())
    classes = {
        name: index for index, name in enumerate(names, 1)
        if mapped[index - 1] > 0 or ((labels == index) & inside).any()
    }  # fmt: skip
    return AreaEstimates(
        overall_accuracy=ratio(right, inside),
        precision={name: ratio(right & (labels == index), predicted == index) for name, index in classes.items()},
        recall={name: ratio(right & (labels == index), inside & (labels == index)) for name, index in classes.items()},
        area={
            name: Estimate(*(size * value for value in ratio(inside & (labels == index), inside)))
            for name, index in classes.items()
        },
        mapped={name: float(mapped[index - 1]) for name, index in classes.items()},
    )


def _estimate(value: float, variance: float) -> Estimate:
    return Estimate(float(value), NORMAL_95 * float(np.sqrt(variance)))
