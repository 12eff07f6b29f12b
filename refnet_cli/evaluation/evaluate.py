"""How well a map agrees with reference labels: confusion matrix, scores, and areas estimated from a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.schemes import find_scheme, read_label_codes, with_ignored
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.labels import RasterLabels, describe_map, open_labels
from refnet_cli.outputs import AreaCounter
from refnet_cli.sensors.bands import SCHEMES, ClassScheme
from refnet_cli.tiles.tiling import Window

ROWS = 512
NORMAL_95 = 1.96
"""Standard errors on either side of an estimate that make a confidence interval of 95 %."""

Counts = NDArray[np.int64]
Reals = NDArray[np.float64]


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


class Estimate(NamedTuple):
    """A number and half the width of its confidence interval of 95 %."""

    value: float
    margin: float


@dataclass(frozen=True)
class AreaEstimates:
    """What a probability sample of labels tells of accuracy and areas; classes by name."""

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


@dataclass(frozen=True)
class Scores:
    """Agreement of a map with labels, classes by name; those without any pixel in either are left out.

    A share of nothing counts as 0: the precision of a class that was never mapped, the recall of one never labelled.
    """

    overall_accuracy: float
    balanced_accuracy: float
    """Mean recall of the classes that have labels."""
    mean_iou: float
    mean_f1: float
    kappa: float
    precision: dict[str, float]
    """User's accuracy: of the pixels mapped as a class, the share that is labelled so."""
    recall: dict[str, float]
    """Producer's accuracy: of the pixels labelled as a class, the share that is mapped so."""
    f1: dict[str, float]
    iou: dict[str, float]
    labelled: dict[str, int]
    """Pixels by label."""
    confusion_matrix: list[list[int]]
    """Pixels by label (row) and prediction (column), in the order of the classes in `labelled`."""
    pixels: int
    area_estimates: AreaEstimates | None = None
    """In hectares, where the labels are a probability sample."""

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as a plain dict that JSON can hold, without area estimates where there are none."""
        found = asdict(replace(self, area_estimates=None))
        del found["area_estimates"]
        return found | ({"area_estimates": self.area_estimates.to_dict()} if self.area_estimates else {})


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
    precision, recall = _share(hits, predicted), _share(hits, labelled)
    iou, f1 = _share(hits, labelled + predicted - hits), _share(2 * hits, labelled + predicted)
    chance = float((labelled * predicted / total).sum()) / total
    accuracy = float(hits.sum()) / total

    def by_name(values: NDArray[Any]) -> dict[str, Any]:
        return {name: value for name, value, there in zip(names, values.tolist(), present, strict=True) if there}

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


def _share(part: Reals, whole: NDArray[Any]) -> Reals:
    shares: Reals = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


def estimate_areas(matrix: Counts, mapped: NDArray[np.float64], names: tuple[str, ...]) -> AreaEstimates:
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

    def by_name(values: Reals, variances: Reals) -> dict[str, Estimate]:
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


def evaluate(
    map_path: str | Path,
    labels_path: str | Path,
    scheme: str | None = None,
    *,
    sample: bool = False,
    field: str | None = None,
    layer: str | None = None,
    meanings: Mapping[str, str] | str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Scores:
    """Score a class map against reference labels.

    Parameters
    ----------
    map_path : str or Path
        Raster of codes of a class scheme.
    labels_path : str or Path
        Raster of codes of the same scheme, brought onto the map's grid by nearest neighbour, or polygons or points with
        such codes or the classes' names.
    scheme : str, optional
        Name of the class scheme, or a TOML file of one, see `refnet_cli.classes.schemes.find_scheme`; by default
        the one that the map's tags name, which it must not contradict.
    sample : bool
        The labels are a probability sample: pixels of the map's grid drawn at random within each class of the map, or
        at random over the whole of it. Estimate accuracies and areas with confidence intervals.
    field : str, optional
        Field of a vector file of labels that holds the class; needed where it has several.
    layer : str, optional
        Layer of a vector file of labels; needed where several have shapes.
    meanings : mapping of str to str, or path, optional
        From codes or names in the labels to the scheme's codes or names, 0 for no label; or a TOML file of them, see
        `refnet_cli.classes.schemes.read_label_codes`. By default codes and names mean themselves.
    tell : callable, optional
        Told in a line each what of the labels is doubtful.

    Returns
    -------
    Scores

    Raises
    ------
    OptionsError
        If the map names no scheme and none is given, or it is unknown or contradicts the map's tags.
    InputMissingError, InputError
        If a file cannot be read, has codes that are not in the scheme, or the two have no labelled pixel in common; if
        a sample is on another grid or too small.
    """
    grid, tagged = describe_map(map_path)
    meaning, ignored = (tagged, {}) if scheme is None else find_scheme(str(scheme))
    if meaning is None:
        raise OptionsError(
            f"{map_path} does not say what its classes are; give a scheme with --scheme: {', '.join(SCHEMES)}, or a "
            "file of your own that ends with .toml."
        )
    if tagged is not None:
        _refuse_contradiction(map_path, tagged, meaning)
    codes_mean = _read_meanings(meanings, meaning, ignored)
    height, width = grid.shape
    matrix = np.zeros((meaning.classes - 1,) * 2, np.int64)
    areas = AreaCounter(grid, meaning) if sample else None
    codes = np.array([0, *meaning.codes], np.uint8)
    with (
        RasterLabels.open(map_path, grid, meaning, what="map") as mapped,
        open_labels(labels_path, grid, meaning, field, codes_mean, layer) as labelled,
    ):
        if tell:
            for warning in dict.fromkeys([*mapped.warnings, *labelled.warnings]):
                tell(f"warning: {warning}")
        if areas and not labelled.on_grid:
            raise InputError(
                f"{labels_path} does not lie on the pixels of {map_path}: a sample's label must be of one of the map's "
                "pixels, or it would count for several or for none."
            )
        for row in range(0, height, ROWS):
            window = Window(row, 0, min(ROWS, height - row), width)
            predicted = mapped.read(window)
            matrix += confusion_matrix(labelled.read(window), predicted, meaning.classes)
            if areas:
                areas.add(row, codes[predicted])
    scores = score(matrix, meaning.names)
    if areas is None:
        return scores
    hectares = np.array([areas.hectares()[name] for name in meaning.names])
    return replace(scores, area_estimates=estimate_areas(matrix, hectares, meaning.names))


def _refuse_contradiction(map_path: str | Path, tagged: ClassScheme, asked: ClassScheme) -> None:
    """Refuse a scheme in which a map's codes have other names than in the map's tags."""
    names = asked.by_code
    other = [code for code, name in tagged.by_code.items() if names.get(code, "").casefold() != name.casefold()]
    if other:
        listed = ", ".join(f"{code} {tagged.by_code[code]}" for code in other)
        old = ", which refnet 0.1 called 'esri-io'" if tagged.name == "terramesh" else ""
        raise OptionsError(
            f"The tags of {map_path} say that its classes are of scheme {tagged.name!r}{old}. Among them are {listed}, "
            f"which scheme {asked.name!r} does not have by these codes: leave --scheme out. It is for maps whose tags "
            "do not name their classes."
        )


def _read_meanings(
    given: Mapping[str, str] | str | Path | None, scheme: ClassScheme, ignored: Mapping[str, str]
) -> dict[str, str] | None:
    """What the labels' codes and names stand for; None if themselves."""
    codes: dict[str, str] | None = None
    if isinstance(given, str | Path):
        codes, more = read_label_codes(Path(given))
        ignored = {**ignored, **more}
    elif given is not None:
        codes = {str(code): str(meaning) for code, meaning in given.items()}
    return with_ignored(scheme, codes, ignored)
