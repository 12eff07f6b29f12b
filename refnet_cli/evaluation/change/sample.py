"""A probability sample of changes, and the accuracies and areas that it estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.areas import AreaEstimates, estimate_areas
from refnet_cli.evaluation.change.change_map import name_transition
from refnet_cli.evaluation.change.transitions import classes_without_clouds
from refnet_cli.evaluation.evaluate import read_meanings
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.raster.vectors import VECTORS
from refnet_cli.system.closing import Closing
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float64, Int64, UInt8

_LISTED = 8  # most strata that a message names


@dataclass(frozen=True)
class ChangeSample:
    """A probability sample: pixels of the old map's grid drawn at random, with the true class at both dates.

    Raises
    ------
    OptionsError
        If there are not one or two files, or one file cannot hold the classes of both dates.
    """

    files: tuple[str | Path, ...]
    """Labels of the old and of the new date, see `open_labels`; or one vector file with both in two fields."""
    old_field: str | None = None
    new_field: str | None = None
    layer: str | None = None
    """Layer of vector files."""
    meanings: Mapping[str, str] | str | Path | None = None
    """What the labels' codes and names mean, see `refnet_cli.evaluation.evaluate.evaluate`."""
    strata: str = "transitions"
    """What the sample was drawn from, see `Strata.of`."""

    def __post_init__(self) -> None:
        if len(self.files) not in (1, 2):
            raise OptionsError(f"A sample is one or two files, not {len(self.files)}: see --sample.")
        if len(self.files) == 2:
            return
        if Path(self.files[0]).suffix.lower() not in VECTORS:
            raise OptionsError(
                f"{self.files[0]} can hold the classes of one date only. Give the labels of both dates, the old one "
                "first: --sample old_labels.tif --sample new_labels.tif."
            )
        if self.old_field is None or self.old_field == self.new_field or self.new_field is None:
            raise OptionsError(
                f"Name the fields of {self.files[0]} with the true class at the old and at the new date: --old-field "
                "and --new-field, two different ones."
            )


@dataclass(frozen=True)
class Strata:
    """Groups of transitions, for which accuracies and areas are estimated."""

    names: tuple[str, ...]
    table: NDArray[np.int32]
    """Number of the group from 1 by class index at the old and at the new date, 0 for no data."""

    @classmethod
    def of(cls, given: str, scheme: ClassScheme) -> Strata:
        """Group the transitions of a scheme.

        Parameters
        ----------
        given : str
            "transitions", each by itself; "change", all that change and all that do not; or names or codes of classes
            with commas between them: loss and gain of these, what has them at both dates, and what at none.
        scheme : ClassScheme

        Raises
        ------
        OptionsError
            If a class is unknown.

        Examples
        --------
        >>> two = ClassScheme("two", (5, 7), ("Water", "Land"), ((0, 0, 200), (0, 200, 0)))
        >>> Strata.of("water", two).names
        ('loss of Water', 'gain of Water', 'stable Water', 'stable without Water')
        >>> Strata.of("water", two).table[1:, 1:].tolist()
        [[3, 1], [2, 4]]
        """
        classes = len(scheme.codes)
        old, new = np.indices((classes, classes))
        names: tuple[str, ...]
        if given == "transitions":
            numbers = old * classes + new + 1
            names = tuple(name_transition(one, other) for one in scheme.names for other in scheme.names)
        elif given == "change":
            numbers = np.where(old == new, 2, 1)
            names = ("change", "no change")
        else:
            chosen = _find_classes(given, scheme)
            title = " + ".join(scheme.names[index] for index in chosen)
            before, after = np.isin(old, chosen), np.isin(new, chosen)
            numbers = np.select([before & ~after, ~before & after, before & after], [1, 2, 3], 4)
            names = (f"loss of {title}", f"gain of {title}", f"stable {title}", f"stable without {title}")
        table = np.zeros((classes + 1, classes + 1), np.int32)
        table[1:, 1:] = numbers
        return cls(names, table)


def _find_classes(given: str, scheme: ClassScheme) -> list[int]:
    """Return the positions of classes, given by name or code with commas between them."""
    known = {name.casefold(): index for index, name in enumerate(scheme.names)}
    known |= {str(code): index for index, code in enumerate(scheme.codes)}
    if given.strip().casefold() in known:  # names may have commas
        return [known[given.strip().casefold()]]
    texts = [text.strip().casefold() for text in given.split(",")]
    if unknown := [text for text in texts if text not in known]:
        raise OptionsError(
            f"The strata {', '.join(map(repr, unknown))} are neither 'transitions' nor 'change' nor classes of scheme "
            f"{scheme.name!r} ({scheme.listed})."
        )
    return sorted({known[text] for text in texts})


@dataclass(frozen=True)
class ChangeEstimates:
    """What a sample says of the change, by stratum."""

    strata: str
    names: tuple[str, ...]
    """The strata that are mapped or sampled."""
    error_matrix: list[list[int]]
    """Sampled pixels by stratum of the labels (row) and of the maps (column)."""
    pixels: int
    estimates: AreaEstimates
    """In hectares."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimates as a plain dict, ready for JSON."""
        return {
            "strata": self.strata,
            "names": list(self.names),
            "error_matrix": self.error_matrix,
            "pixels": self.pixels,
            "area_estimates": self.estimates.to_dict(),
        }


class SampleCounter(Closing):
    """Count the sampled pixels by the stratum of the labels and of the maps.

    Parameters
    ----------
    sample : ChangeSample
    grid : GeoBox
        Grid of the maps; each label must lie on one of its pixels.
    scheme : ClassScheme
        Scheme of maps and labels.

    Raises
    ------
    InputMissingError, InputError, OptionsError
        If a file is missing or not usable, or is not on the grid.
    """

    def __init__(self, sample: ChangeSample, grid: GeoBox, scheme: ClassScheme) -> None:
        self._sample, self._strata = sample, Strata.of(sample.strata, scheme)
        self._seen = classes_without_clouds(scheme)
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._one_date = self._without_class = 0
        meanings = read_meanings(sample.meanings, scheme, {})
        self._files = ExitStack()
        with ExitStack() as opening:
            self._labels: list[Labels] = [
                opening.enter_context(open_labels(path, grid, scheme, field, meanings, sample.layer))
                for path, field in _label_files(sample)
            ]
            for labels, (path, _) in zip(self._labels, _label_files(sample), strict=True):
                if not labels.on_grid:
                    raise InputError(
                        f"{path} is not on the grid of the old map. With a sample, each label must belong to exactly "
                        "one pixel: give points, or a raster with the pixels of the map."
                    )
            self._files = opening.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def add(self, window: Window, old: UInt8, new: UInt8) -> None:
        """Count the sampled pixels of a window, given the class indexes of both maps."""
        true_old, true_new = (self._seen[labels.read(window)] for labels in self._labels)
        self._one_date += int(np.count_nonzero((true_old > 0) != (true_new > 0)))
        sampled = (true_old > 0) & (true_new > 0)
        mapped = self._strata.table[old[sampled], new[sampled]]
        true = self._strata.table[true_old[sampled], true_new[sampled]]
        self._without_class += int(np.count_nonzero(mapped == 0))
        both, counts = np.unique(np.stack([true, mapped])[:, mapped > 0], axis=1, return_counts=True)
        for one, other, number in zip(*both.tolist(), counts.tolist(), strict=True):
            self._pairs[one, other] += number

    @property
    def warnings(self) -> list[str]:
        """Warnings about the labels."""
        found = [warning for labels in self._labels for warning in labels.warnings]
        for number, what in (
            (self._one_date, "a label of one date only"),
            (self._without_class, "no class in one of the maps"),
        ):
            if number:
                found.append(
                    f"{count(number, 'sampled pixel')} with {what} {'is' if number == 1 else 'are'} ignored. The "
                    "estimates hold for the rest of the sample only if that happened by chance."
                )
        return list(dict.fromkeys(found))

    def estimate(self, hectares: Float64) -> ChangeEstimates:
        """Estimate accuracies and areas; see `estimate_areas`.

        Parameters
        ----------
        hectares : float64 array, shape (classes, classes)
            Mapped area of each transition, old classes by row.

        Raises
        ------
        InputError
            If a mapped stratum has fewer than two sampled pixels.
        """
        table = self._strata.table[1:, 1:]
        weights = hectares.ravel()
        mapped = np.bincount(table.ravel(), weights, 1 + len(self._strata.names)).astype(np.float64)
        sampled = {number for pair in self._pairs for number in pair}
        present = [number for number in range(1, len(mapped)) if mapped[number] > 0 or number in sampled]
        place = {number: position for position, number in enumerate(present)}
        matrix: Int64 = np.zeros((len(present), len(present)), np.int64)
        for (true, stratum), number in self._pairs.items():
            matrix[place[true], place[stratum]] = number
        names = tuple(self._strata.names[number - 1] for number in present)
        _refuse_few(names, mapped[present], matrix)
        estimates = estimate_areas(matrix, mapped[present], names)
        return ChangeEstimates(self._sample.strata, names, matrix.tolist(), int(matrix.sum()), estimates)


def _refuse_few(names: tuple[str, ...], mapped: Float64, matrix: Int64) -> None:
    """Refuse a sample that has fewer than two pixels in a mapped stratum."""
    few = [name for name, area, sampled in zip(names, mapped, matrix.sum(0), strict=True) if area > 0 and sampled < 2]
    if few:
        listed = ", ".join(few[:_LISTED]) + (f" and {len(few) - _LISTED} more" if len(few) > _LISTED else "")
        raise InputError(
            f"The sample has fewer than 2 pixels in these strata of the maps: {listed}. Each needs at least 2, and 50 "
            "or more for useful estimates. Add samples; or, if the sample was drawn from coarser strata or from the "
            "whole map, name these: --strata change, or --strata with a class."
        )


def _label_files(sample: ChangeSample) -> list[tuple[str | Path, str | None]]:
    """Return path and field of the labels of the old and of the new date."""
    return [(sample.files[0], sample.old_field), (sample.files[-1], sample.new_field)]
