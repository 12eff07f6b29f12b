"""Maps in another class scheme than the network's: which class becomes which, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import OptionsError
from refnet_cli.products import SCHEMES, ClassScheme
from refnet_cli.schemes import read_scheme
from refnet_cli.tables import read_toml

# Judged by the targets' published definitions, not by the names alone: tree crops are trees there, quarries and dumps
# bare ground and not built. Where a target divides what the source does not, the commonest part is taken; a class
# without any counterpart becomes 0, "no data".
#
# No pair leads to "c2seg-bw" or "whu-opt-sar". They divide by use (pastures, permanent crops, industry, villages,
# roads), of which a map of cover knows nothing, and each of the two divides what the other does not.
TRANSLATIONS: dict[tuple[str, str], dict[int, int]] = {
    ("dfc2020", "worldcover"): {1: 10, 2: 20, 3: 30, 4: 90, 5: 40, 6: 50, 7: 60, 8: 80},
    ("dfc2020", "esri-io"): {
        1: 2,
        2: 9, 3: 9,  # rangeland is both, shrubs and grass
        4: 3, 5: 4, 6: 5, 7: 6, 8: 1,
    },
    ("worldcover", "dfc2020"): {
        10: 1, 20: 2, 30: 3, 40: 5, 50: 6, 60: 7,
        70: 0,  # snow and ice, which are not bare soil or rock, have no class
        80: 8, 90: 4,
        95: 4,  # wetlands include those with trees
        100: 3,  # as low plants; barren land is hardly covered at all
    },
    ("worldcover", "esri-io"): {
        10: 2, 20: 9, 30: 9, 40: 4, 50: 5, 60: 6, 70: 7, 80: 1, 90: 3,
        95: 3,  # open mangroves are flooded vegetation, dense ones count among the trees
        100: 9,  # as low plants
    },
    ("esri-io", "dfc2020"): {
        1: 8, 2: 1, 3: 4, 4: 5, 5: 6, 6: 7,
        7: 0,  # snow and ice, as above
        8: 0,  # clouds hide what is there
        9: 3,  # also shrubs
    },
    ("esri-io", "worldcover"): {
        1: 80, 2: 10,
        3: 90,  # also paddies, and trees and shrubs that stand in water
        4: 40, 5: 50, 6: 60, 7: 70,
        8: 0,  # clouds hide what is there
        9: 30,  # also shrubs
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
        2: 5, 3: 5, 4: 5,
        5: 6,
        6: 9,  # lawns rather than the trees among them
        7: 4,
        8: 2,  # orchards rather than vineyards
        9: 9, 10: 2, 11: 9, 12: 6, 13: 3,
    },
    # "Others" may be anything that is not farmland, built up, water or forest.
    ("whu-opt-sar", "dfc2020"): {1: 5, 2: 6, 3: 6, 4: 8, 5: 1, 6: 6, 7: 0},
    ("whu-opt-sar", "worldcover"): {1: 40, 2: 50, 3: 50, 4: 80, 5: 10, 6: 50, 7: 0},
    ("whu-opt-sar", "esri-io"): {1: 4, 2: 5, 3: 5, 4: 1, 5: 2, 6: 5, 7: 0},
}  # fmt: skip


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
        return tuple(name for code, name in _names(self.target).items() if code not in reached)

    def lines(self) -> list[str]:
        """Return the translation in words, one line for each class and one for what the map can never show."""
        before, after = _names(self.source), _names(self.target) | {0: "no data"}
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
    if _names(source) != _names(known):
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
        If it makes no translation.
    """
    if not given.endswith(".toml"):
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
    return make_translation(source, target, {str(code): str(new) for code, new in mapping.items()})


def _names(scheme: ClassScheme) -> dict[int, str]:
    return dict(zip(scheme.codes, scheme.names, strict=True))


def _by_code_or_name(scheme: ClassScheme) -> dict[str, int]:
    names = _names(scheme)
    return {name.casefold(): code for code, name in names.items()} | {str(code): code for code in names}


def _list_classes(scheme: ClassScheme) -> str:
    return ", ".join(f"{code} {name}" for code, name in _names(scheme).items())
