"""Score a map against reference labels: confusion matrix, scores, and stratified estimates from a sample."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.classes.scheme_files import read_label_codes, with_ignored
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError
from refnet_cli.evaluation.areas import estimate_areas
from refnet_cli.evaluation.class_map import choose_scheme, describe_map
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.evaluation.raster_labels import RasterLabels
from refnet_cli.evaluation.scores import Scores, confusion_matrix, score
from refnet_cli.outputs.areas.areas import AreaCounter
from refnet_cli.tiles.window import Window
from refnet_cli.types import Progress

LOG = logging.getLogger(__name__)
ROWS = 512


def evaluate(
    map_path: str | Path,
    labels_path: str | Path,
    scheme: str | None = None,
    *,
    sample: bool = False,
    field: str | None = None,
    layer: str | None = None,
    meanings: Mapping[str, str] | str | Path | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score a class map against reference labels; log warnings about both files.

    Parameters
    ----------
    map_path : str or Path
        Raster of class codes.
    labels_path : str or Path
        Raster of codes in the same scheme, resampled to the map's grid by nearest neighbour; or polygons or points with
        codes or class names.
    scheme : str, optional
        Name or TOML file of the class scheme, see `refnet_cli.classes.scheme_files.find_scheme`. The default is in the
        map's tags, and it must not contradict them.
    sample : bool
        The labels are a probability sample: pixels of the map's grid drawn at random, from the whole map or from each
        class. Estimate accuracies and areas with confidence intervals.
    field : str, optional
        Field with the class in a vector file of labels; required if it has several fields.
    layer : str, optional
        Layer of a vector file of labels; required if several layers have geometries.
    meanings : mapping of str to str, or path, optional
        Mapping from codes or names in the labels to the scheme's codes or names, 0 for no label; or a TOML file, see
        `refnet_cli.classes.scheme_files.read_label_codes`. By default the labels use the scheme's codes and names.
    progress : callable, optional
        Called with the number of compared rows of the map and of all rows.

    Returns
    -------
    Scores

    Raises
    ------
    OptionsError
        If neither the map's tags nor ``scheme`` name a class scheme, or it is unknown or contradicts the map's tags.
    InputMissingError, InputError
        If a file is unreadable or has unknown codes, if map and labels do not overlap, or if a sample is too small or
        on another grid.
    """
    grid, tagged = describe_map(map_path)
    meaning, ignored = choose_scheme(map_path, tagged, scheme)
    codes_mean = read_meanings(meanings, meaning, ignored)
    with (
        RasterLabels.open(map_path, grid, meaning, what="map") as mapped,
        open_labels(labels_path, grid, meaning, field, codes_mean, layer) as labelled,
    ):
        for warning in dict.fromkeys([*mapped.warnings, *labelled.warnings]):
            LOG.warning(warning)
        if isinstance(labelled, RasterLabels) and labelled.is_prediction and not mapped.is_prediction:
            LOG.warning(f"{labels_path} is a map of refnet and {map_path} is not: are they swapped? The map is first.")
        if sample:
            _check_sample(labelled, labels_path, map_path)
        return _score(mapped, labelled, grid, meaning, sample, progress)


def _check_sample(labelled: Labels, labels_path: str | Path, map_path: str | Path) -> None:
    if not labelled.on_grid:
        raise InputError(
            f"{labels_path} is not on the grid of {map_path}. With a sample, each label must belong to exactly one "
            "pixel of the map."
        )


def _score(
    mapped: Labels, labelled: Labels, grid: GeoBox, scheme: ClassScheme, sample: bool, progress: Progress | None
) -> Scores:
    """Compute the scores, and estimate areas if the labels are a sample."""
    height, width = grid.shape
    matrix = np.zeros((scheme.classes - 1,) * 2, np.int64)
    areas = AreaCounter(grid, scheme) if sample else None
    codes = np.array([0, *scheme.codes], np.uint8)
    for row in range(0, height, ROWS):
        window = Window(row, 0, min(ROWS, height - row), width)
        predicted = mapped.read(window)
        matrix += confusion_matrix(labelled.read(window), predicted, scheme.classes)
        if areas:
            areas.add(row, codes[predicted])
        if progress:
            progress(row + window.height, height)
    scores = score(matrix, scheme.names)
    if areas is None:
        return scores
    hectares = areas.hectares()
    estimates = estimate_areas(matrix, np.array([hectares[name] for name in scheme.names]), scheme.names)
    return replace(scores, area_estimates=estimates)


def read_meanings(
    given: Mapping[str, str] | str | Path | None, scheme: ClassScheme, ignored: Mapping[str, str]
) -> dict[str, str] | None:
    """Return the mapping of the labels' codes and names; None without one."""
    codes: dict[str, str] | None = None
    if isinstance(given, str | Path):
        codes, more = read_label_codes(Path(given))
        ignored = {**ignored, **more}
    elif given is not None:
        codes = {str(code): str(meaning) for code, meaning in given.items()}
    return with_ignored(scheme, codes, ignored)
