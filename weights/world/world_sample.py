"""A probability sample of reference classes in the held-out places, and the accuracies and areas that it estimates."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from world_scenes import Place

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError
from refnet_cli.evaluation.areas import AreaEstimates, estimate_areas, estimate_areas_by_strata
from refnet_cli.evaluation.label_codes import class_indexes, text_of
from refnet_cli.evaluation.scores import confusion_matrix
from refnet_cli.outputs.areas.areas import AreaCounter
from refnet_cli.raster.vectors import VectorFile
from refnet_cli.types import UInt8

FIELDS = ("class", "place", "stratum", "weight")
SUM_ERROR = 0.01
"""Most by which the weights of the strata may miss a sum of 1."""


@dataclass(frozen=True)
class Point:
    """A sampled pixel."""

    row: int
    """Number in the file, from 1."""
    longitude: float
    latitude: float
    label: int
    """Class index."""
    place: str = ""
    stratum: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Sample:
    """The points of a file; use ``Sample.read``.

    Without strata, all pixels of the held-out places had the same chance to be drawn. With them, those of a stratum
    had; the weight is the stratum's share of the area of all held-out places.
    """

    points: tuple[Point, ...]
    strata: Mapping[str, float] = field(default_factory=dict)
    """Weight of each stratum."""

    @classmethod
    def read(cls, path: Path, scheme: ClassScheme) -> Sample:
        """Read a table (.csv) or a vector file of points.

        Parameters
        ----------
        path : Path
            A table has the columns ``lon`` and ``lat``, or ``x``, ``y`` and ``crs``. Both have ``class``, a code or
            name of the scheme, and may have ``place``, ``stratum`` and ``weight``.
        scheme : ClassScheme

        Raises
        ------
        InputMissingError, InputError
            If the file cannot be used, has unknown classes, or strata or their weights are missing.
        """
        rows = _read_table(path) if path.suffix.lower() == ".csv" else _read_vectors(path)
        known = class_indexes(scheme)
        unknown = sorted({row["class"] for row in rows if not known.get(row["class"].casefold())})
        if unknown or not rows:
            what = f"has classes that {scheme.name} lacks: {', '.join(map(repr, unknown))}" if rows else "has no points"
            raise InputError(f"The sample {path} {what}. Its classes are {scheme.listed}.")
        points = tuple(
            Point(
                number, float(row["lon"]), float(row["lat"]), known[row["class"].casefold()], row.get("place", ""),
                row.get("stratum", ""), _number(row.get("weight", "") or "0", "weight", path, number),
            )
            for number, row in enumerate(rows, 1)
        )  # fmt: skip
        return cls(points, _weights_of(points, path))

    def locate(self, grids: Mapping[str, GeoBox], held_out: Sequence[Place], side: float) -> list[tuple[str, int, int]]:
        """Return place, row and column of each point; "", 0 and 0 in held-out places without a grid.

        Raises
        ------
        InputError
            If points lie outside all held-out places or not in the one that they name, or two are in one pixel.
        """
        outlines = {place.name: place.outline(side) for place in held_out if place.name not in grids}
        found = [_locate(point, grids, outlines) for point in self.points]
        outside = [str(point.row) for point, place in zip(self.points, found, strict=True) if place is None]
        if outside:
            raise InputError(
                f"{len(outside)} of {len(self.points)} points of the sample lie outside the held-out places, or not in "
                f"the place that they name: numbers {', '.join(outside[:10])}{', ...' * (len(outside) > 10)}."
            )
        located = [place for place in found if place is not None]
        mapped = [place for place in located if place[0]]
        if len(set(mapped)) < len(mapped):
            raise InputError(f"{len(mapped) - len(set(mapped))} points of the sample lie in the pixel of another one.")
        return located


@dataclass
class SampleMap:
    """Collects what is mapped in the places: the class at each point, and the area of each class in hectares."""

    sample: Sample
    located: Sequence[tuple[str, int, int]]
    scheme: ClassScheme

    def __post_init__(self) -> None:
        self.predicted = np.zeros(len(self.located), np.uint8)
        self.hectares = np.zeros(len(self.scheme.codes))

    def add(self, place: str, grid: GeoBox, predicted: UInt8) -> None:
        """Add the map of a place, class indexes of shape (H, W), 0 for no data."""
        areas = AreaCounter(grid, self.scheme)
        areas.add(0, np.array([0, *self.scheme.codes], np.uint8)[predicted])
        self.hectares += areas.by_code()[1:]
        for number, (name, row, column) in enumerate(self.located):
            if name == place:
                self.predicted[number] = predicted[row, column]

    def estimate(self) -> AreaEstimates:
        """Estimate accuracies and areas of the mapped places.

        Raises
        ------
        InputError
            If a class of the map, or a stratum, has fewer than two points.
        """
        labels = np.array([point.label for point in self.sample.points], np.uint8)
        if not self.sample.strata:
            matrix = confusion_matrix(labels, self.predicted, len(self.scheme.codes) + 1)
            return estimate_areas(matrix, self.hectares, self.scheme.names)
        names = list(self.sample.strata)
        strata = np.array([names.index(point.stratum) for point in self.sample.points])
        weights = np.array(list(self.sample.strata.values()))
        return estimate_areas_by_strata(strata, weights, labels, self.predicted, self.hectares, self.scheme.names)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimates for JSON, or why there are none."""
        counts = {"points": len(self.located), "without_map": int((self.predicted == 0).sum())}
        try:
            return counts | {"strata": dict(self.sample.strata), "estimates": self.estimate().to_dict()}
        except InputError as error:
            return counts | {"refused": str(error)}


def sample_page(scores: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[str]:
    """Return the lines of the page of scores on a sample, by sensors used."""
    first = next(iter(scores.values()))
    lines = [
        "", "## From a probability sample", "",
        f"{first['points']} points, {first['without_map']} of them without a map and left out. Accuracies and areas "
        "are estimated with 95 % intervals from the first season of each held-out place (Olofsson et al. 2014; with "
        "strata Stehman 2014). They hold if the points were drawn as the sample's strata say. An interval of ± 0.000 "
        "means that all points of the class are right, or all wrong; with few points it is too narrow.",
    ]  # fmt: skip
    for used, found in scores.items():
        if "refused" in found:
            lines += ["", f"{titles[used].capitalize()}: no estimates. {found['refused']}"]
            continue
        about = found["estimates"]
        lines += [
            "", f"{titles[used].capitalize()}: overall accuracy {_share(about['overall_accuracy'])}.", "",
            "| class | mapped, ha | estimated, ha | user's accuracy | producer's accuracy |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, area in about["area"].items():
            hectares = f"{area['value']:,.1f} ± {area['margin']:,.1f}"
            accuracies = " | ".join(_share(about[kind][name]) for kind in ("precision", "recall"))
            lines.append(f"| {name} | {about['mapped'][name]:,.1f} | {hectares} | {accuracies} |")
    return lines


def _share(estimate: Mapping[str, float | None]) -> str:
    value, margin = estimate["value"], estimate["margin"]
    return "-" if value is None or margin is None else f"{value:.3f} ± {margin:.3f}"


def _locate(
    point: Point, grids: Mapping[str, GeoBox], outlines: Mapping[str, shapely.Polygon]
) -> tuple[str, int, int] | None:
    for name, grid in grids.items():
        if point.place in ("", name):
            x, y = Transformer.from_crs(4326, str(grid.crs), always_xy=True).transform(point.longitude, point.latitude)
            if np.isfinite([x, y]).all():
                place = grid.affine  # north up, see `refnet_cli.fetching.plan.GridTable`
                column, row = int(np.floor((x - place.c) / place.a)), int(np.floor((y - place.f) / place.e))
                if 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]:
                    return name, row, column
    where = shapely.Point(point.longitude, point.latitude)
    inside = any(point.place in ("", name) and outline.covers(where) for name, outline in outlines.items())
    return ("", 0, 0) if inside else None


def _weights_of(points: Sequence[Point], path: Path) -> dict[str, float]:
    """Return the weight of each stratum; none without strata."""
    without = sum(not point.stratum for point in points)
    if without == len(points) and not any(point.weight for point in points):
        return {}
    if without:
        raise InputError(f"{without} of {len(points)} points of {path} have no stratum.")
    pairs = {(point.stratum, point.weight) for point in points}
    weights = dict(sorted(pairs))
    if len(pairs) > len(weights) or min(weights.values()) <= 0:
        raise InputError(f"Each stratum of {path} needs one weight above 0: its share of the held-out places' area.")
    if abs(sum(weights.values()) - 1) > SUM_ERROR:
        raise InputError(f"The weights of the {len(weights)} strata of {path} sum to {sum(weights.values()):.3f}, not "
                         "to 1: a stratum is missing, or they are no shares of the area.")  # fmt: skip
    return weights


def _number(text: str, what: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"Point {number} of {path} has the {what} {text!r}, which is no number.")
    return value


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[dict[str, Any]] = [
                {str(key).strip().lower(): value.strip() for key, value in row.items() if isinstance(value, str)}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The sample {path} cannot be read: {error}") from error
    columns = set(rows[0]) if rows else set()
    if rows and ("class" not in columns or not ({"lon", "lat"} <= columns or {"x", "y", "crs"} <= columns)):
        raise InputError(f"The sample {path} needs the columns class and lon, lat, or class and x, y, crs.")
    for number, row in enumerate(rows, 1):
        names = ("lon", "lat") if "lon" in columns else ("x", "y")
        x, y = (_number(row.get(name, ""), name, path, number) for name in names)
        if "lon" not in columns:
            try:
                x, y = Transformer.from_crs(CRS.from_user_input(row["crs"]), 4326, always_xy=True).transform(x, y)
            except CRSError as error:
                raise InputError(f"Point {number} of {path} has the unknown crs {row['crs']!r}.") from error
        row |= {"lon": x, "lat": y, "class": row.get("class", "")}
    return rows


def _read_vectors(path: Path) -> list[dict[str, Any]]:
    file = VectorFile.open(path, "sample", None, "a file with one layer")
    fields = [name for name in FIELDS if name in file.fields]
    if "class" not in fields:
        raise InputError(f"{file.name} has no field class; its fields are {', '.join(file.fields) or 'none'}.")
    shapes, values = file.read(fields)
    if not all(shape is not None and shape.geom_type == "Point" and not shape.is_empty for shape in shapes):
        raise InputError(f"{file.name} has shapes other than points. Give one point in each pixel that was drawn.")
    x, y = Transformer.from_crs(file.crs, 4326, always_xy=True).transform(shapely.get_x(shapes), shapely.get_y(shapes))
    texts = [["" if value is None or value != value else text_of(value) for value in column] for column in values]
    return [dict(zip(fields, row, strict=True)) | {"lon": lon, "lat": lat}
            for lon, lat, *row in zip(x, y, *texts, strict=True)]  # fmt: skip
