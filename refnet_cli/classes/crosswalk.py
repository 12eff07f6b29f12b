"""Maps in another class scheme than the network's: which class becomes which, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.scheme_files import read_scheme
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.system.config import read_toml

# Judged by the targets' published definitions, not by the names alone: tree crops are trees there, quarries and dumps
# bare ground and not built. Where a target divides what the source does not, the commonest part is taken; a class
# without any counterpart becomes 0, "no data".
#
# No pair leads to "c2seg-bw", "whu-opt-sar" or "corine". They divide by use (pastures, permanent crops, industry,
# villages, roads), of which a map of cover knows nothing, and each of them divides what the others do not. No pair
# begins with "corine-level1", whose five classes each hold what the other schemes tell apart.
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
"""For each scheme the schemes that its maps can be written in, and what its codes become in each of these."""
TRANSLATIONS: dict[tuple[str, str], dict[int, int]] = {
    (source, target): dict(sorted((code, row[number]) for codes, row in rows.items() for code in codes))
    for source, (targets, rows) in _TABLES.items()
    for number, target in enumerate(targets)
}
"""From each scheme to each of those, by code."""


def _add_terramesh() -> None:
    """Add the pairs of "terramesh", which has the classes of "esri-io" by other codes."""
    old = {name: code for code, name in SCHEMES["terramesh"].by_code.items()}
    renumbered = {code: old[name] for code, name in SCHEMES["esri-io"].by_code.items()}
    for (source, target), codes in list(TRANSLATIONS.items()):
        if source == "esri-io":
            TRANSLATIONS["terramesh", target] = {renumbered[code]: new for code, new in codes.items()}
        elif target == "esri-io":
            TRANSLATIONS[source, "terramesh"] = {code: renumbered.get(new, 0) for code, new in codes.items()}
    TRANSLATIONS["esri-io", "terramesh"] = renumbered
    TRANSLATIONS["terramesh", "esri-io"] = {new: code for code, new in renumbered.items()}


_add_terramesh()


@dataclass(frozen=True)
class Translation:
    """What each class of one scheme is called in another.

    Parameters
    ----------
    source, target : ClassScheme
        The network's scheme and the map's.
    codes : tuple of (int, int)
        Each code of the source once, with its code in the target; 0 where the target has nothing like it.

    Raises
    ------
    OptionsError
        If a class of the source is missing or given twice, or a code belongs to neither scheme.
    """

    source: ClassScheme
    target: ClassScheme
    codes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        given = sorted(code for code, _ in self.codes)
        if given != sorted(self.source.codes):
            raise OptionsError(
                f"A translation must give each class of scheme {self.source.name!r} once "
                f"({self.source.listed}), but gives {', '.join(map(str, given)) or 'none'}."
            )
        strange = sorted({code for _, code in self.codes} - {0, *self.target.codes})
        if strange:
            raise OptionsError(
                f"A translation leads to {', '.join(map(str, strange))}, which scheme {self.target.name!r} does not "
                f"have ({self.target.listed}; 0 is no data)."
            )

    @property
    def table(self) -> NDArray[np.uint8]:
        """The target's code for every code of the source, shape (256,); 0 for numbers that are none."""
        table = np.zeros(256, np.uint8)
        for code, translated in self.codes:
            table[code] = translated
        return table

    @property
    def never(self) -> tuple[str, ...]:
        """Names of the target's classes that no class of the source becomes."""
        reached = {code for _, code in self.codes}
        return tuple(name for code, name in self.target.by_code.items() if code not in reached)

    def lines(self) -> list[str]:
        """Return the translation in words, one line for each class and one for what the map can never show."""
        before, after = self.source.by_code, self.target.by_code | {0: "no data"}
        lines = [f"{before[code]} -> {after[translated]}" for code, translated in self.codes]
        return [*lines, f"can never occur: {', '.join(self.never)}"] if self.never else lines

    def to_dict(self) -> dict[str, Any]:
        """Return the translation as plain dicts and strings, ready for JSON."""
        return {
            "source": self.source.name,
            "target": self.target.name,
            "codes": {str(code): translated for code, translated in self.codes},
        }


def find_translation(source: ClassScheme, name: str) -> Translation | None:
    """Look up how a network's classes are written in another scheme.

    Parameters
    ----------
    source : ClassScheme
        The network's scheme.
    name : str
        Name of the scheme that the map is to have, see `SCHEMES`.

    Returns
    -------
    Translation or None
        None if it is the network's own scheme.

    Raises
    ------
    OptionsError
        If there is no such scheme or no translation into it, or if the network's scheme bears the name of a known one
        without having its classes.

    Examples
    --------
    >>> find_translation(SCHEMES["esri-io"], "worldcover").lines()[:2]
    ['Water -> Permanent water bodies', 'Trees -> Tree cover']
    """
    if name not in {*SCHEMES, source.name}:
        raise OptionsError(f"Class scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}.")
    known = SCHEMES.get(source.name, source)
    if source.by_code != known.by_code:
        raise OptionsError(
            f"The weights call their class scheme {source.name!r}, but it has the classes {source.listed} "
            f"instead of {known.listed}; state in a mapping of your own what they become."
        )
    if name == source.name:
        return None
    codes = TRANSLATIONS.get((source.name, name))
    if codes is None:
        targets = [target for origin, target in TRANSLATIONS if origin == source.name]
        raise OptionsError(
            f"The classes of scheme {source.name!r} cannot be told in {name!r}; choose "
            f"{' or '.join(targets) + ', or ' if targets else ''}a mapping of your own."
        )
    return Translation(source, SCHEMES[name], tuple(codes.items()))


def warn_of_old_codes(scheme: ClassScheme) -> list[str]:
    """Warn of a map in the codes that refnet 0.1 gave to Esri's classes."""
    if scheme.by_code != SCHEMES["terramesh"].by_code:
        return []
    return [
        f"the map has the codes of class scheme 'terramesh' ({scheme.listed}), which refnet 0.1 called "
        f"'esri-io'. Esri's own maps have other codes ({SCHEMES['esri-io'].listed}). Pass --scheme esri-io to "
        "write those, or --scheme terramesh to keep these without this warning."
    ]


def make_translation(source: ClassScheme, target: ClassScheme, mapping: Mapping[str, str]) -> Translation:
    """Make a translation of a mapping in words.

    Parameters
    ----------
    source, target : ClassScheme
        The network's scheme and the map's.
    mapping : mapping of str to str
        From each class of the source, by its code or its name in upper or lower case, to a code or name of the target;
        "0" stands for no data.

    Returns
    -------
    Translation
        In the order of the source's classes.

    Raises
    ------
    OptionsError
        If a class is unknown, missing or given twice.

    Examples
    --------
    >>> two = ClassScheme("two", (1, 2), ("Wet", "Dry"), ((0, 0, 255), (0, 255, 0)))
    >>> make_translation(two, SCHEMES["esri-io"], {"wet": "Water", "2": "0"}).codes
    ((1, 1), (2, 0))
    """
    before, after = _by_code_or_name(source), _by_code_or_name(target) | {"0": 0}
    for known, given, scheme in ((before, mapping.keys(), source), (after, mapping.values(), target)):
        unknown = sorted({text for text in given if text.casefold() not in known})
        if unknown:
            raise OptionsError(
                f"The mapping names {', '.join(unknown)}, which class scheme {scheme.name!r} does not have "
                f"({scheme.listed})."
            )
    pairs = [(before[text.casefold()], after[meaning.casefold()]) for text, meaning in mapping.items()]
    return Translation(source, target, tuple(sorted(pairs, key=lambda pair: source.codes.index(pair[0]))))


def read_translation(source: ClassScheme, given: str) -> Translation | None:
    """Find a translation by a scheme's name, or make that of a TOML file.

    Parameters
    ----------
    source : ClassScheme
    given : str
        A name, see `find_translation`; or a path that ends with ``.toml``. The file has either ``scheme``, the name of
        a known scheme, or ``name`` and ``classes`` of a new one as `read_scheme` takes them; and ``mapping``, a table
        from the source's codes or names to the target's, 0 for no data.

    Raises
    ------
    InputMissingError, ConfigError
        If the file cannot be read.
    OptionsError, WeightsError
        If it makes no translation, or leads to codes of esri-io that refnet 0.1 gave to other classes.
    """
    if not given.lower().endswith(".toml"):
        return find_translation(source, given)
    table = read_toml(Path(given))
    mapping = table.pop("mapping", None)
    if not isinstance(mapping, dict):
        raise OptionsError(f"{given} has no table [mapping] from codes or names to those of the new scheme.")
    if "scheme" in table:
        if table["scheme"] not in SCHEMES:
            raise OptionsError(f"{given} names scheme {table['scheme']!r}; known are {', '.join(SCHEMES)}.")
        target = SCHEMES[table["scheme"]]
    else:
        target, _ = read_scheme(table)
    meanings = {str(code): str(new) for code, new in mapping.items()}
    _refuse_codes_of_0_1(given, target, meanings.values())
    return make_translation(source, target, meanings)


def _refuse_codes_of_0_1(given: str, target: ClassScheme, meanings: Iterable[str]) -> None:
    """Refuse a mapping to codes of esri-io that were other classes of it in refnet 0.1.

    A mapping to names, or to a code that 0.1 did not have, is of this version.
    """
    codes = {int(new) for new in meanings if new.isdecimal()} - {0}
    old, now = SCHEMES["terramesh"].by_code, target.by_code
    differ = [code for code in sorted(codes) if old.get(code) != now.get(code)]
    if target == SCHEMES["esri-io"] and differ and codes <= old.keys():
        listed = ", ".join(f"{code} was {old[code]} and is {now.get(code, 'no class')}" for code in differ)
        raise OptionsError(
            f"{given} maps to scheme 'esri-io' by codes that had other meanings in refnet 0.1: {listed}. Write the "
            'names of the classes instead of codes, or scheme = "terramesh" for a map with the codes of refnet 0.1.'
        )


def _by_code_or_name(scheme: ClassScheme) -> dict[str, int]:
    names = scheme.by_code
    return {name.casefold(): code for code, name in names.items()} | {str(code): code for code in names}
