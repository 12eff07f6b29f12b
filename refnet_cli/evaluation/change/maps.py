"""Two class maps on one grid and in one class scheme."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS

from refnet_cli.classes.crosswalk import CROSSWALKS, Crosswalk, read_crosswalk
from refnet_cli.classes.scheme_files import find_scheme, some_colour
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.change.transitions import classes_without_clouds
from refnet_cli.evaluation.class_map import choose_scheme, describe_map, tagged_scheme
from refnet_cli.evaluation.raster_labels import MAPS, RasterLabels
from refnet_cli.raster.georeference import crs_name
from refnet_cli.raster.raster import Raster
from refnet_cli.system.closing import Closing
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8


@dataclass(frozen=True)
class MapSchemes:
    """Class schemes of two maps, each a name or a TOML file; by default those in the maps' tags."""

    scheme: str | None = None
    """Scheme to compare them in; maps of another one are translated by a crosswalk."""
    old: str | None = None
    """Scheme of the old map, where its tags do not state it."""
    new: str | None = None


class _Translated(Closing):
    """A class map whose classes are those of another scheme."""

    def __init__(self, labels: RasterLabels, crosswalk: Crosswalk | None, target: ClassScheme) -> None:
        self.labels = labels
        self.clouds = 0
        """Pixels of clouds that were read."""
        number = {0: 0} | {code: number for number, code in enumerate(target.codes, 1)}
        codes = target.codes if crosswalk is None else crosswalk.table[list(crosswalk.source.codes)].tolist()
        self._table = np.array([0, *(number[code] for code in codes)], np.uint8)
        self._seen = classes_without_clouds(target)

    def close(self) -> None:
        self.labels.close()

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid as class indexes of the target, 0 for clouds."""
        found = self._table[self.labels.read(window)]
        seen = self._seen[found]
        self.clouds += int(np.count_nonzero(found != seen))
        return seen


class MapPair(Closing):
    """Two class maps on the grid of the first, as class indexes of one scheme; use ``MapPair.open``.

    Attributes
    ----------
    grid : GeoBox
        Grid of the old map.
    scheme : ClassScheme
    crosswalks : tuple of Crosswalk or None
        How the old and the new map are translated.
    warnings : list of str
    """

    def __init__(
        self, maps: tuple[_Translated, _Translated], grid: GeoBox, scheme: ClassScheme,
        crosswalks: tuple[Crosswalk | None, Crosswalk | None],
    ) -> None:  # fmt: skip
        self._maps = maps
        self.grid, self.scheme, self.crosswalks = grid, scheme, crosswalks
        self.resampled = not maps[1].labels.on_grid
        self.warnings = [*maps[0].labels.warnings, *maps[1].labels.warnings, *_warn_of_crosswalks(crosswalks, scheme)]

    @classmethod
    def open(cls, old: str | Path, new: str | Path, schemes: MapSchemes, *, resample: bool = False) -> MapPair:
        """Open two maps.

        Parameters
        ----------
        old, new : str or Path
            Rasters of class codes.
        schemes : MapSchemes
        resample : bool
            Whether the new map may be resampled to the grid of the old one: to the class at each pixel's centre, or
            the most frequent class if its pixels are smaller than half.

        Raises
        ------
        OptionsError
            If both are the same file, or a scheme is unknown, contradicts the tags or cannot be translated, or both
            maps have different schemes and none to compare them in is given.
        InputMissingError, InputError
            If a map is unreadable or has unknown codes, if the maps do not overlap, or if they have different pixels
            and may not be resampled.
        """
        grid, tagged = describe_map(old, "old map")
        tagged_new = _read_tags(new, "new map")[0]
        if os.path.samefile(old, new):
            raise OptionsError(f"{old} and {new} are the same file. Give two maps of different dates.")
        own = (
            choose_scheme(old, tagged, schemes.old, MAPS["old map"])[0],
            choose_scheme(new, tagged_new, schemes.new, MAPS["new map"])[0],
        )
        target, crosswalks = _choose_target((str(old), str(new)), own, schemes.scheme)
        opened: list[_Translated] = []
        try:
            for path, scheme, what, crosswalk in zip((old, new), own, ("old map", "new map"), crosswalks, strict=True):
                read_as = scheme if crosswalk is not None else target
                labels = RasterLabels.open(path, grid, read_as, what=what)
                opened.append(_Translated(labels, crosswalk, target))
            if not opened[1].labels.on_grid and not resample:
                raise _explain_grids(old, new, grid)
        except BaseException:
            for one in opened:
                one.close()
            raise
        pair = cls((opened[0], opened[1]), grid, target, crosswalks)
        pair.warnings += _warn_of_weights(_read_tags(old, "old map")[1], _read_tags(new, "new map")[1])
        return pair

    def close(self) -> None:
        """Close both files."""
        for one in self._maps:
            one.close()

    @property
    def clouds(self) -> int:
        """Number of pixels of both maps, as far as they were read, whose class is clouds."""
        return sum(one.clouds for one in self._maps)

    def read(self, window: Window) -> tuple[UInt8, UInt8]:
        """Read a window of the grid: class indexes of `scheme` in the old and the new map, 0 for no data or clouds."""
        return self._maps[0].read(window), self._maps[1].read(window)


def _choose_target(
    paths: tuple[str, str], own: tuple[ClassScheme, ClassScheme], asked: str | None
) -> tuple[ClassScheme, tuple[Crosswalk | None, Crosswalk | None]]:
    """Return the scheme to compare in, and the crosswalk of each map to it."""
    if asked is None:
        if own[0].by_code != own[1].by_code:
            raise OptionsError(_explain_schemes(paths, own))
        return _with_colours(*own), (None, None)
    target = find_scheme(asked)[0]
    first, second = (None if one.by_code == target.by_code else read_crosswalk(one, asked) for one in own)
    return target, (first, second)


def _with_colours(scheme: ClassScheme, other: ClassScheme) -> ClassScheme:
    """Return a scheme with colours that differ: its own, another map's, those of a known scheme, or some."""
    known = (one for one in (scheme, other, *SCHEMES.values()) if one.by_code == scheme.by_code)
    count = len(scheme.codes)
    for one in known:
        if len(set(one.colours)) > 1 or count == 1:
            colours = dict(zip(one.codes, one.colours, strict=True))
            return replace(scheme, colours=tuple(colours[code] for code in scheme.codes))
    return replace(scheme, colours=tuple(some_colour(number, count) for number in range(count)))


def _explain_schemes(paths: tuple[str, str], own: tuple[ClassScheme, ClassScheme]) -> str:
    """Explain that two maps have different classes, and which schemes both can be translated to."""
    shared = [
        name for name in SCHEMES
        if all(SCHEMES[name].by_code == one.by_code or (one.name, name) in CROSSWALKS for one in own)
    ]  # fmt: skip
    known = f"{' or '.join(shared)}, or " if shared else ""
    both = " and ".join(f"{path} {one.name!r} ({one.listed})" for path, one in zip(paths, own, strict=True))
    return (
        f"The maps have different class schemes: {both}. Give the scheme to compare them in: --scheme with {known}a "
        "TOML file with your own mapping."
    )


def _explain_grids(old: str | Path, new: str | Path, grid: GeoBox) -> InputError:
    """Return the error that the pixels of two maps do not coincide."""
    raster = Raster(new, "new map")
    with raster.dataset:
        other: Any = GeoBox(raster.shape, raster.transform, raster.dataset.crs)
    pixels = [
        f"{abs(one.affine.a):.10g} x {abs(one.affine.e):.10g} in {crs_name(CRS.from_user_input(one.crs))}, corner at "
        f"{one.affine.c:.10g}, {one.affine.f:.10g}"
        for one in (grid, other)
    ]
    return InputError(
        f"The pixels of {new} ({pixels[1]}) are not those of {old} ({pixels[0]}). Make both maps on one "
        "grid (--grid of refnet predict), or pass --resample to bring the new map onto the old one's grid by nearest "
        "neighbour, which shows changes along the edges of classes that are none."
    )


def _warn_of_crosswalks(crosswalks: tuple[Crosswalk | None, Crosswalk | None], target: ClassScheme) -> list[str]:
    """Warn of classes that a translation drops, and of those that only one of the maps can have."""
    warnings = []
    for when, crosswalk in zip(("old", "new"), crosswalks, strict=True):
        dropped = [crosswalk.source.by_code[code] for code, to in crosswalk.codes if not to] if crosswalk else []
        if dropped:
            warnings.append(
                f"Classes of the {when} map without a counterpart in scheme {target.name!r} count as no data: "
                f"{', '.join(dropped)}."
            )
    never = [set(crosswalk.never) if crosswalk else set() for crosswalk in crosswalks]
    for when, only in (("old", never[0] - never[1]), ("new", never[1] - never[0])):
        if only:
            listed = ", ".join(name for name in target.names if name in only)
            warnings.append(
                f"The translated {when} map cannot have these classes of scheme {target.name!r}: {listed}. Changes "
                f"{'to' if when == 'old' else 'from'} them in the other map come from the translation."
            )
    return warnings


def _read_tags(path: str | Path, what: str) -> tuple[ClassScheme | None, dict[str, str]]:
    """Return the class scheme in a map's tags, and the tags of the file."""
    raster = Raster(path, what)
    with raster.dataset as dataset:
        return tagged_scheme(raster), dict(dataset.tags())


def _warn_of_weights(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Warn if the tags of two maps name different weights."""
    sums = [tags.get("REFNET_WEIGHTS_SHA256") for tags in (old, new)]
    if None in sums or sums[0] == sums[1]:
        return []
    names = [tags.get("REFNET_WEIGHTS", "unknown") for tags in (old, new)]
    return [
        f"The maps were made with different weights ({names[0]}, {names[1]}), so part of the changes is between the "
        "networks. Map both dates with the same weights."
    ]
