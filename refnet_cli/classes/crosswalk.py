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
TRANSLATIONS: dict[tuple[str, str], dict[int, int]] = {
    ("dfc2020", "worldcover"): {1: 10, 2: 20, 3: 30, 4: 90, 5: 40, 6: 50, 7: 60, 8: 80},
    ("dfc2020", "esri-io"): {
        1: 2,
        2: 11, 3: 11,  # rangeland is both, shrubs and grass
        4: 4, 5: 5, 6: 7, 7: 8, 8: 1,
    },
    ("dfc2020", "dynamic-world"): {1: 2, 2: 6, 3: 3, 4: 4, 5: 5, 6: 7, 7: 8, 8: 1},
    ("dfc2020", "corine-level1"): {
        1: 3, 2: 3,
        3: 3,  # natural grassland; pastures would be agricultural areas
        4: 4, 5: 2, 6: 1,
        7: 3,  # rock and sand; quarries would be artificial surfaces
        8: 5,
    },
    ("worldcover", "dfc2020"): {
        10: 1, 20: 2, 30: 3, 40: 5, 50: 6, 60: 7,
        70: 0,  # snow and ice, which are not bare soil or rock, have no class
        80: 8, 90: 4,
        95: 4,  # wetlands include those with trees
        100: 3,  # as low plants; barren land is hardly covered at all
    },
    ("worldcover", "esri-io"): {
        10: 2, 20: 11, 30: 11, 40: 5, 50: 7, 60: 8, 70: 9, 80: 1, 90: 4,
        95: 4,  # open mangroves are flooded vegetation, dense ones count among the trees
        100: 11,  # as low plants
    },
    ("worldcover", "dynamic-world"): {
        10: 2, 20: 6, 30: 3, 40: 5, 50: 7, 60: 8, 70: 9, 80: 1, 90: 4,
        95: 4,  # open mangroves are flooded vegetation, dense ones count among the trees
        100: 3,  # as low plants
    },
    ("worldcover", "corine-level1"): {
        10: 3, 20: 3,
        30: 3,  # natural grassland; pastures would be agricultural areas
        40: 2, 50: 1,
        60: 3,  # rock and sand; quarries would be artificial surfaces
        70: 3,  # glaciers are open spaces there
        80: 5, 90: 4,
        95: 3,  # trees in water are forest
        100: 3,
    },
    ("esri-io", "dfc2020"): {
        1: 8, 2: 1, 4: 4, 5: 5, 7: 6, 8: 7,
        9: 0,  # snow and ice, as above
        10: 0,  # clouds hide what is there
        11: 3,  # also shrubs
    },
    ("esri-io", "worldcover"): {
        1: 80, 2: 10,
        4: 90,  # also paddies, and trees and shrubs that stand in water
        5: 40, 7: 50, 8: 60, 9: 70,
        10: 0,  # clouds hide what is there
        11: 30,  # also shrubs
    },
    ("esri-io", "dynamic-world"): {
        1: 1, 2: 2, 4: 4, 5: 5, 7: 7, 8: 8, 9: 9,
        10: 0,  # clouds hide what is there
        11: 3,  # also shrubs
    },
    ("esri-io", "corine-level1"): {
        1: 5, 2: 3,
        4: 4,  # also paddies, which are agricultural areas
        5: 2, 7: 1,
        8: 3,  # rock and sand; quarries would be artificial surfaces
        9: 3,  # glaciers are open spaces there
        10: 0,  # clouds hide what is there
        11: 3,  # grass and shrubs; pastures would be agricultural areas
    },
    ("dynamic-world", "dfc2020"): {
        1: 8, 2: 1, 3: 3, 4: 4, 5: 5, 6: 2, 7: 6, 8: 7,
        9: 0,  # snow and ice, as above
    },
    ("dynamic-world", "worldcover"): {
        1: 80, 2: 10, 3: 30,
        4: 90,  # also paddies, and trees and shrubs that stand in water
        5: 40, 6: 20, 7: 50, 8: 60, 9: 70,
    },
    ("dynamic-world", "esri-io"): {
        1: 1, 2: 2,
        3: 11,  # rangeland is both, grass and shrubs
        4: 4, 5: 5, 6: 11, 7: 7, 8: 8, 9: 9,
    },
    ("dynamic-world", "corine-level1"): {
        1: 5, 2: 3,
        3: 3,  # natural grassland; pastures would be agricultural areas
        4: 4,  # also paddies, which are agricultural areas
        5: 2, 6: 3, 7: 1,
        8: 3,  # rock and sand; quarries would be artificial surfaces
        9: 3,  # glaciers are open spaces there
    },
    ("corine", "dfc2020"): {
        1: 6, 2: 6, 3: 6, 4: 6, 5: 6,
        6: 6,  # runways and buildings, with grass between them
        7: 7, 8: 7, 9: 7,
        10: 3, 11: 3,  # lawns rather than the trees among them
        12: 5, 13: 5, 14: 5,
        15: 2, 16: 1, 17: 1,  # woody crops are shrubs or trees by their height
        18: 3,
        19: 5, 20: 5, 21: 5,  # mosaics of which fields are most
        22: 3,  # grass and fields under trees that stand apart
        23: 1, 24: 1, 25: 1,
        26: 3, 27: 2, 28: 2,
        29: 2,  # young trees among shrubs
        30: 7, 31: 7, 32: 7,
        33: 0,  # what burnt is not known
        34: 0,  # snow and ice, as above
        35: 4, 36: 4, 37: 4,
        38: 8,  # ponds in which water evaporates
        39: 7,  # mud and sand at low tide
        40: 8, 41: 8, 42: 8, 43: 8, 44: 8,
    },
    ("corine", "worldcover"): {
        1: 50, 2: 50, 3: 50, 4: 50, 5: 50,
        6: 50,  # runways and buildings, with grass between them
        7: 60, 8: 60, 9: 60,
        10: 30, 11: 30,  # lawns rather than the trees among them
        12: 40, 13: 40, 14: 40,
        15: 20, 16: 10, 17: 10,  # woody crops are shrubs or trees by their height
        18: 30,
        19: 40, 20: 40, 21: 40,  # mosaics of which fields are most
        22: 10,  # a tenth of the ground under trees suffices
        23: 10, 24: 10, 25: 10,
        26: 30, 27: 20, 28: 20,
        29: 20,  # young trees among shrubs
        30: 60, 31: 60, 32: 60,
        33: 0,  # what burnt is not known
        34: 70,
        35: 90, 36: 90, 37: 90,
        38: 80,  # ponds in which water evaporates
        39: 60,  # mud and sand at low tide
        40: 80, 41: 80, 42: 80, 43: 80, 44: 80,
    },
    ("corine", "esri-io"): {
        1: 7, 2: 7, 3: 7, 4: 7, 5: 7,
        6: 7,  # runways and buildings, with grass between them
        7: 8, 8: 8, 9: 8,
        10: 11, 11: 11,  # lawns rather than the trees among them
        12: 5, 13: 5,
        14: 4,  # paddies are flooded vegetation
        15: 5,  # not at tree height
        16: 2, 17: 2,
        18: 11,
        19: 5, 20: 5, 21: 5,  # mosaics of which fields are most
        22: 11,  # grass and fields under trees that stand apart
        23: 2, 24: 2, 25: 2,
        26: 11, 27: 11, 28: 11,
        29: 11,  # young trees among shrubs
        30: 8, 31: 8, 32: 8,
        33: 0,  # what burnt is not known
        34: 9,
        35: 4, 36: 4, 37: 4,
        38: 1,  # ponds in which water evaporates
        39: 8,  # mud and sand at low tide
        40: 1, 41: 1, 42: 1, 43: 1, 44: 1,
    },
    ("corine", "dynamic-world"): {
        1: 7, 2: 7, 3: 7, 4: 7, 5: 7,
        6: 7,  # runways and buildings, with grass between them
        7: 8, 8: 8, 9: 8,
        10: 3, 11: 3,  # lawns rather than the trees among them
        12: 5, 13: 5,
        14: 4,  # paddies are flooded vegetation
        15: 5,  # not at tree height
        16: 2, 17: 2,
        18: 3,
        19: 5, 20: 5, 21: 5,  # mosaics of which fields are most
        22: 3,  # grass and fields under trees that stand apart
        23: 2, 24: 2, 25: 2,
        26: 3, 27: 6, 28: 6,
        29: 6,  # young trees among shrubs
        30: 8, 31: 8, 32: 8,
        33: 0,  # what burnt is not known
        34: 9,
        35: 4, 36: 4, 37: 4,
        38: 1,  # ponds in which water evaporates
        39: 8,  # mud and sand at low tide
        40: 1, 41: 1, 42: 1, 43: 1, 44: 1,
    },
    ("corine", "corine-level1"): {
        1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1,
        12: 2, 13: 2, 14: 2, 15: 2, 16: 2, 17: 2, 18: 2, 19: 2, 20: 2, 21: 2, 22: 2,
        23: 3, 24: 3, 25: 3, 26: 3, 27: 3, 28: 3, 29: 3, 30: 3, 31: 3, 32: 3, 33: 3, 34: 3,
        35: 4, 36: 4, 37: 4, 38: 4, 39: 4,
        40: 5, 41: 5, 42: 5, 43: 5, 44: 5,
    },
    ("c2seg-bw", "dfc2020"): {
        1: 8,
        2: 6, 3: 6, 4: 6,
        5: 7,
        6: 3,  # lawns rather than the trees among them
        7: 5,
        8: 1,  # orchards rather than vineyards
        9: 3, 10: 1, 11: 2, 12: 7, 13: 4,
    },
    ("c2seg-bw", "worldcover"): {
        1: 80,
        2: 50, 3: 50, 4: 50,
        5: 60,
        6: 30,  # lawns rather than the trees among them
        7: 40,
        8: 10,  # orchards rather than vineyards
        9: 30, 10: 10, 11: 20, 12: 60, 13: 90,
    },
    ("c2seg-bw", "esri-io"): {
        1: 1,
        2: 7, 3: 7, 4: 7,
        5: 8,
        6: 11,  # lawns rather than the trees among them
        7: 5,
        8: 2,  # orchards rather than vineyards
        9: 11, 10: 2, 11: 11, 12: 8, 13: 4,
    },
    # "Others" may be anything that is not farmland, built up, water or forest.
    ("whu-opt-sar", "dfc2020"): {1: 5, 2: 6, 3: 6, 4: 8, 5: 1, 6: 6, 7: 0},
    ("whu-opt-sar", "worldcover"): {1: 40, 2: 50, 3: 50, 4: 80, 5: 10, 6: 50, 7: 0},
    ("whu-opt-sar", "esri-io"): {1: 5, 2: 7, 3: 7, 4: 1, 5: 2, 6: 7, 7: 0},
}  # fmt: skip


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
                f"({_list_classes(self.source)}), but gives {', '.join(map(str, given)) or 'none'}."
            )
        strange = sorted({code for _, code in self.codes} - {0, *self.target.codes})
        if strange:
            raise OptionsError(
                f"A translation leads to {', '.join(map(str, strange))}, which scheme {self.target.name!r} does not "
                f"have ({_list_classes(self.target)}; 0 is no data)."
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
            f"The weights call their class scheme {source.name!r}, but it has the classes {_list_classes(source)} "
            f"instead of {_list_classes(known)}; state in a mapping of your own what they become."
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
        f"the map has the codes of class scheme 'terramesh' ({_list_classes(scheme)}), which refnet 0.1 called "
        f"'esri-io'. Esri's own maps have other codes ({_list_classes(SCHEMES['esri-io'])}). Pass --scheme esri-io to "
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
                f"({_list_classes(scheme)})."
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


def _list_classes(scheme: ClassScheme) -> str:
    return ", ".join(f"{code} {name}" for code, name in scheme.by_code.items())
