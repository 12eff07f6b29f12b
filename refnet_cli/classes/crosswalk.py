"""Crosswalks: write a map in another class scheme than the network's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.scheme_files import SchemeTable
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.system.config import read, read_toml

# The crosswalks follow the published class definitions of the targets, not the names: tree crops are trees there, and
# quarries and dumps are bare ground, not built area. If the target splits a class of the source, its most common part
# is used. A class without a counterpart becomes 0, "no data".
#
# "c2seg-bw", "whu-opt-sar" and "corine" are no targets: they distinguish land use (pastures, permanent crops, industry,
# villages, roads), which a land cover map does not contain. "corine-level1" is no source: each of its five classes
# covers several classes of the other schemes.
_TABLES: dict[str, tuple[tuple[str, ...], dict[tuple[int, ...], tuple[int, ...]]]] = {
    "dfc2020": (
        ("worldcover", "esri-io", "dynamic-world", "corine-level1"),
        {
            (1,): (10, 2, 2, 3),
            (2,): (20, 11, 6, 3),  # rangeland is both, shrubs and grass
            (3,): (30, 11, 3, 3),  # natural grassland; pastures would be agricultural areas
            (4,): (90, 4, 4, 4),
            (5,): (40, 5, 5, 2),
            (6,): (50, 7, 7, 1),
            (7,): (60, 8, 8, 3),  # rock and sand; quarries would be artificial surfaces
            (8,): (80, 1, 1, 5),
        },
    ),
    "worldcover": (
        ("dfc2020", "esri-io", "dynamic-world", "corine-level1"),
        {
            (10,): (1, 2, 2, 3),
            (20,): (2, 11, 6, 3),
            (30,): (3, 11, 3, 3),  # natural grassland; pastures would be agricultural areas
            (40,): (5, 5, 5, 2),
            (50,): (6, 7, 7, 1),
            (60,): (7, 8, 8, 3),  # rock and sand; quarries would be artificial surfaces
            (70,): (0, 9, 9, 3),  # DFC's barren is bare soil or rock; glaciers are CORINE's open spaces
            (80,): (8, 1, 1, 5),
            (90,): (4, 4, 4, 4),
            (95,): (4, 4, 4, 3),  # wetlands include those with trees; only open mangroves are flooded vegetation
            (100,): (3, 11, 3, 3),  # as low plants; barren land is hardly covered at all
        },
    ),
    "esri-io": (
        ("dfc2020", "worldcover", "dynamic-world", "corine-level1"),
        {
            (1,): (8, 80, 1, 5),
            (2,): (1, 10, 2, 3),
            (4,): (4, 90, 4, 4),  # also paddies, and trees and shrubs that stand in water
            (5,): (5, 40, 5, 2),
            (7,): (6, 50, 7, 1),
            (8,): (7, 60, 8, 3),  # rock and sand; quarries would be artificial surfaces
            (9,): (0, 70, 9, 3),  # snow and ice, as above
            (10,): (0, 0, 0, 0),  # clouds hide what is there
            (11,): (3, 30, 3, 3),  # also shrubs; pastures would be agricultural areas
        },
    ),
    "dynamic-world": (
        ("dfc2020", "worldcover", "esri-io", "corine-level1"),
        {
            (1,): (8, 80, 1, 5),
            (2,): (1, 10, 2, 3),
            (3,): (3, 30, 11, 3),  # natural grassland; pastures would be agricultural areas
            (4,): (4, 90, 4, 4),  # also paddies, and trees and shrubs that stand in water
            (5,): (5, 40, 5, 2),
            (6,): (2, 20, 11, 3),
            (7,): (6, 50, 7, 1),
            (8,): (7, 60, 8, 3),  # rock and sand; quarries would be artificial surfaces
            (9,): (0, 70, 9, 3),  # snow and ice, as above
        },
    ),
    "corine": (
        ("dfc2020", "worldcover", "esri-io", "dynamic-world", "corine-level1"),
        {
            (1, 2, 3, 4, 5): (6, 50, 7, 7, 1),
            (6,): (6, 50, 7, 7, 1),  # runways and buildings, with grass between them
            (7, 8, 9): (7, 60, 8, 8, 1),
            (10, 11): (3, 30, 11, 3, 1),  # lawns rather than the trees among them
            (12, 13): (5, 40, 5, 5, 2),
            (14,): (5, 40, 4, 4, 2),  # paddies are flooded vegetation
            (15,): (2, 20, 5, 5, 2),  # woody crops are shrubs or trees by their height
            (16, 17): (1, 10, 2, 2, 2),
            (18,): (3, 30, 11, 3, 2),
            (19, 20, 21): (5, 40, 5, 5, 2),  # mosaics of which fields are most
            (22,): (3, 10, 11, 3, 2),  # grass under scattered trees, of which a tenth suffices for WorldCover
            (23, 24, 25): (1, 10, 2, 2, 3),
            (26,): (3, 30, 11, 3, 3),
            (27, 28): (2, 20, 11, 6, 3),
            (29,): (2, 20, 11, 6, 3),  # young trees among shrubs
            (30, 31, 32): (7, 60, 8, 8, 3),
            (33,): (0, 0, 0, 0, 3),  # what burnt is not known
            (34,): (0, 70, 9, 9, 3),  # snow and ice, as above
            (35, 36, 37): (4, 90, 4, 4, 4),
            (38,): (8, 80, 1, 1, 4),  # ponds in which water evaporates
            (39,): (7, 60, 8, 8, 4),  # mud and sand at low tide
            (40, 41, 42, 43, 44): (8, 80, 1, 1, 5),
        },
    ),
    "c2seg-bw": (
        ("dfc2020", "worldcover", "esri-io"),
        {
            (1,): (8, 80, 1),
            (2, 3, 4): (6, 50, 7),
            (5,): (7, 60, 8),
            (6,): (3, 30, 11),  # lawns rather than the trees among them
            (7,): (5, 40, 5),
            (8,): (1, 10, 2),  # orchards rather than vineyards
            (9,): (3, 30, 11),
            (10,): (1, 10, 2),
            (11,): (2, 20, 11),
            (12,): (7, 60, 8),
            (13,): (4, 90, 4),
        },
    ),
    "whu-opt-sar": (
        ("dfc2020", "worldcover", "esri-io"),
        {
            (1,): (5, 40, 5),
            (2, 3, 6): (6, 50, 7),
            (4,): (8, 80, 1),
            (5,): (1, 10, 2),
            (7,): (0, 0, 0),  # "Others" may be anything that is not farmland, built up, water or forest
        },
    ),
}
"""For each source scheme: the target schemes, and the target codes of its codes."""
CROSSWALKS: dict[tuple[str, str], dict[int, int]] = {
    (source, target): dict(sorted((code, row[number]) for codes, row in rows.items() for code in codes))
    for source, (targets, rows) in _TABLES.items()
    for number, target in enumerate(targets)
}
"""Target code of each source code, by source and target scheme."""


def _add_terramesh() -> None:
    """Add the pairs of "terramesh", which has the classes of "esri-io" with other codes."""
    old = {name: code for code, name in SCHEMES["terramesh"].by_code.items()}
    renumbered = {code: old[name] for code, name in SCHEMES["esri-io"].by_code.items()}
    for (source, target), codes in list(CROSSWALKS.items()):
        if source == "esri-io":
            CROSSWALKS["terramesh", target] = {renumbered[code]: new for code, new in codes.items()}
        elif target == "esri-io":
            CROSSWALKS[source, "terramesh"] = {code: renumbered.get(new, 0) for code, new in codes.items()}
    CROSSWALKS["esri-io", "terramesh"] = renumbered
    CROSSWALKS["terramesh", "esri-io"] = {new: code for code, new in renumbered.items()}


_add_terramesh()


@dataclass(frozen=True)
class Crosswalk:
    """Mapping from the classes of one scheme to those of another.

    Parameters
    ----------
    source, target : ClassScheme
        The network's scheme and the map's.
    codes : tuple of (int, int)
        Pairs of source and target code, one for each source code; the target is 0 if it has no such class.

    Raises
    ------
    OptionsError
        If a class of the source is missing or given twice, or a code is in neither scheme.
    """

    source: ClassScheme
    target: ClassScheme
    codes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        given = sorted(code for code, _ in self.codes)
        if given != sorted(self.source.codes):
            raise OptionsError(
                f"A crosswalk must have each class of scheme {self.source.name!r} once "
                f"({self.source.listed}), but has {', '.join(map(str, given)) or 'none'}."
            )
        strange = sorted({code for _, code in self.codes} - {0, *self.target.codes})
        if strange:
            raise OptionsError(
                f"A crosswalk has the targets {', '.join(map(str, strange))}, which are not in scheme "
                f"{self.target.name!r} ({self.target.listed}; 0 is no data)."
            )

    @property
    def table(self) -> NDArray[np.uint8]:
        """Lookup table from source to target codes, shape (256,); 0 for all other numbers."""
        table = np.zeros(256, np.uint8)
        for code, target in self.codes:
            table[code] = target
        return table

    @property
    def never(self) -> tuple[str, ...]:
        """Names of the target's classes that no source class maps to."""
        reached = {code for _, code in self.codes}
        return tuple(name for code, name in self.target.by_code.items() if code not in reached)

    def lines(self) -> list[str]:
        """Return the crosswalk as text: one line per class, and one with the classes that can never occur."""
        before, after = self.source.by_code, self.target.by_code | {0: "no data"}
        lines = [f"{before[code]} -> {after[target]}" for code, target in self.codes]
        return [*lines, f"can never occur: {', '.join(self.never)}"] if self.never else lines

    def to_dict(self) -> dict[str, Any]:
        """Return the crosswalk as a plain dict, ready for JSON."""
        return {
            "source": self.source.name,
            "target": self.target.name,
            "codes": {str(code): target for code, target in self.codes},
        }


@dataclass(frozen=True)
class _ToKnownScheme:
    """A file with a translation into a scheme of `SCHEMES`."""

    scheme: Literal[*SCHEMES]  # type: ignore[valid-type]  # names that only the running program knows
    mapping: dict[str, str]
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ToOwnScheme(SchemeTable):
    """A file with a class scheme and a translation into it."""

    mapping: dict[str, str] = field(kw_only=True)


def find_crosswalk(source: ClassScheme, name: str) -> Crosswalk | None:
    """Look up the crosswalk from a network's scheme to another one.

    Parameters
    ----------
    source : ClassScheme
        The network's scheme.
    name : str
        Name of the map's scheme, see `SCHEMES`.

    Returns
    -------
    Crosswalk or None
        None if it is the network's own scheme.

    Raises
    ------
    OptionsError
        If there is no such scheme or no crosswalk to it, or if the network's scheme has the name of a known one but
        other classes.

    Examples
    --------
    >>> find_crosswalk(SCHEMES["esri-io"], "worldcover").lines()[:2]
    ['Water -> Permanent water bodies', 'Trees -> Tree cover']
    """
    if name not in {*SCHEMES, source.name}:
        raise OptionsError(f"Class scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}.")
    known = SCHEMES.get(source.name, source)
    if source.by_code != known.by_code:
        raise OptionsError(
            f"The class scheme to translate is named {source.name!r}, but it has the classes {source.listed} "
            f"instead of {known.listed}. Give --scheme a TOML file with your own mapping."
        )
    if name == source.name:
        return None
    codes = CROSSWALKS.get((source.name, name))
    if codes is None:
        targets = [target for origin, target in CROSSWALKS if origin == source.name]
        raise OptionsError(
            f"There is no crosswalk from scheme {source.name!r} to {name!r}. Choose "
            f"{' or '.join(targets) + ', or ' if targets else ''}a TOML file with your own mapping."
        )
    return Crosswalk(source, SCHEMES[name], tuple(codes.items()))


def warn_of_old_codes(scheme: ClassScheme) -> list[str]:
    """Warn of a map with the codes that refnet 0.1 used for Esri's classes."""
    if scheme.by_code != SCHEMES["terramesh"].by_code:
        return []
    return [
        f"the map has the codes of class scheme 'terramesh' ({scheme.listed}), which refnet 0.1 called 'esri-io'. "
        f"Esri's maps have other codes ({SCHEMES['esri-io'].listed}). Pass --scheme esri-io to write Esri's codes, or "
        "--scheme terramesh to keep the current ones without this warning."
    ]


def make_crosswalk(source: ClassScheme, target: ClassScheme, mapping: Mapping[str, str]) -> Crosswalk:
    """Build a crosswalk from a mapping of codes or names.

    Parameters
    ----------
    source, target : ClassScheme
        The network's scheme and the map's.
    mapping : mapping of str to str
        Code or case-insensitive name of each source class, and code or name of its target class; "0" is no data.

    Returns
    -------
    Crosswalk
        In the order of the source's classes.

    Raises
    ------
    OptionsError
        If a class is unknown, missing or given twice.

    Examples
    --------
    >>> two = ClassScheme("two", (1, 2), ("Wet", "Dry"), ((0, 0, 255), (0, 255, 0)))
    >>> make_crosswalk(two, SCHEMES["esri-io"], {"wet": "Water", "2": "0"}).codes
    ((1, 1), (2, 0))
    """
    before, after = _by_code_or_name(source), _by_code_or_name(target) | {"0": 0}
    for known, given, scheme in ((before, mapping.keys(), source), (after, mapping.values(), target)):
        unknown = sorted({text for text in given if text.casefold() not in known})
        if unknown:
            raise OptionsError(
                f"The mapping has {', '.join(unknown)}, which are not in class scheme {scheme.name!r} "
                f"({scheme.listed})."
            )
    pairs = [(before[text.casefold()], after[meaning.casefold()]) for text, meaning in mapping.items()]
    return Crosswalk(source, target, tuple(sorted(pairs, key=lambda pair: source.codes.index(pair[0]))))


def read_crosswalk(source: ClassScheme, given: str) -> Crosswalk | None:
    """Find a crosswalk by the target scheme's name, or read it from a TOML file.

    Parameters
    ----------
    source : ClassScheme
    given : str
        A name, see `find_crosswalk`; or a path that ends with ``.toml``. The file has either ``scheme``, the name of a
        known scheme, or ``name`` and ``classes`` of a new scheme, see `SchemeTable`; and ``mapping``, a table from the
        source's codes or names to the target's, 0 for no data.

    Raises
    ------
    InputMissingError, ConfigError
        If the file cannot be read.
    OptionsError, WeightsError
        If it is not a valid crosswalk, or maps to codes of esri-io that had other meanings in refnet 0.1.
    """
    if not given.lower().endswith(".toml"):
        return find_crosswalk(source, given)
    table = read_toml(Path(given))
    if "scheme" in table:
        known = read(_ToKnownScheme, table, given, error=OptionsError)
        target, mapping = SCHEMES[known.scheme], known.mapping
    else:
        own = read(_ToOwnScheme, table, given, error=OptionsError)
        target, mapping = own.scheme, own.mapping
    _refuse_codes_of_0_1(given, target, mapping.values())
    return make_crosswalk(source, target, mapping)


def _refuse_codes_of_0_1(given: str, target: ClassScheme, meanings: Iterable[str]) -> None:
    """Refuse a mapping to codes of esri-io that had other meanings in refnet 0.1.

    A mapping to names, or to a code that 0.1 did not have, was written for this version.
    """
    codes = {int(new) for new in meanings if new.isdecimal()} - {0}
    old, now = SCHEMES["terramesh"].by_code, target.by_code
    differ = [code for code in sorted(codes) if old.get(code) != now.get(code)]
    if target == SCHEMES["esri-io"] and differ and codes <= old.keys():
        listed = ", ".join(f"{code} was {old[code]} and is {now.get(code, 'no class')}" for code in differ)
        raise OptionsError(
            f"{given} maps to codes of scheme 'esri-io' that had other meanings in refnet 0.1: {listed}. Use class "
            'names instead of codes, or scheme = "terramesh" for a map with the codes of refnet 0.1.'
        )


def _by_code_or_name(scheme: ClassScheme) -> dict[str, int]:
    names = scheme.by_code
    return {name.casefold(): code for code, name in names.items()} | {str(code): code for code in names}
