"""What the codes of label files mean: by the file's own tags, or by a class scheme, which may not be the only fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from refnet_cli.classes.schemes import OTHER_CODES, SCHEMES, ClassScheme

RENUMBERED = ("esri-io", "terramesh")
"""Schemes of the same classes by other codes; refnet 0.1 called the second by the name of the first."""
_NAMES_OF_0_1 = {"built": "built area", "bare": "bare ground"}
"""Names in the tags of the label files that sample_data/simulate.py of refnet 0.1 wrote."""


@dataclass(frozen=True)
class _Table:
    """Another table of codes, whose files are easily taken for those of a scheme."""

    title: str
    names: Mapping[int, str]
    advice: str
    """What to do if a file has these codes."""


_MAPPING = "say what each code means: label_codes in a regions file, --mapping of refnet evaluate"
_CORINE_LEVEL2 = _Table(
    "those of CORINE's level 2",
    {
        11: "Urban fabric", 12: "Industrial, commercial and transport units",
        13: "Mine, dump and construction sites", 14: "Artificial, non-agricultural vegetated areas",
        21: "Arable land", 22: "Permanent crops", 23: "Pastures", 24: "Heterogeneous agricultural areas",
        31: "Forests", 32: "Scrub and/or herbaceous vegetation associations",
        33: "Open spaces with little or no vegetation",
        41: "Inland wetlands", 42: "Maritime wetlands", 51: "Inland waters", 52: "Marine waters",
    },
    f"If they are of level 2, {_MAPPING}.",
)  # fmt: skip
_OTHERS: dict[str, tuple[_Table, ...]] = {
    "esri-io": (_Table(
        "those of scheme 'terramesh'",
        SCHEMES["terramesh"].by_code,
        "Labels of TerraMesh, and of refnet 0.1, which called that scheme 'esri-io', have the other codes: state "
        f'scheme = "terramesh" in the regions file, pass --scheme terramesh to refnet evaluate if the map has no tags, '
        f'or {_MAPPING}. In Esri\'s first map of 2020, 3 is grass and 6 is '
        "scrub: map both to Rangeland.",
    ),),
    "terramesh": (_Table(
        "the official ones of scheme 'esri-io'",
        SCHEMES["esri-io"].by_code,
        "Labels from Esri / Impact Observatory have the official codes: state scheme = \"esri-io\" in the regions "
        f"file, pass --scheme esri-io to refnet evaluate if the map has no tags, or {_MAPPING}.",
    ),),
    "dynamic-world": (_Table(
        "the original ones of Dynamic World",
        {code - 1: name for code, name in SCHEMES["dynamic-world"].by_code.items()},
        "If 0 is water in the files, map 0 to 8: README.md, \"Class codes\", has the label_codes.",
    ),),
    "corine": (_Table(
        "those of scheme 'corine-level1'",
        SCHEMES["corine-level1"].by_code,
        f"If they are of level 1, {_MAPPING}.",
    ), _CORINE_LEVEL2),
    "corine-level1": (_Table(
        "those of scheme 'corine'",
        SCHEMES["corine"].by_code,
        f"If they are of level 3, {_MAPPING}, or give files with CORINE's codes of three digits.",
    ), _CORINE_LEVEL2),
}  # fmt: skip


def codes_of(scheme: ClassScheme) -> dict[int, int]:
    """Class index of every code that files of labels in a scheme may hold, without 0.

    Examples
    --------
    >>> codes_of(SCHEMES["corine"])[112], codes_of(SCHEMES["corine"])[2], codes_of(SCHEMES["corine-level1"])[523]
    (2, 2, 5)
    """
    own = {code: index for index, code in enumerate(scheme.codes, 1)}
    others = OTHER_CODES.get(scheme.name, {}) if _is_known(scheme) else {}
    return {other: own[code] for other, code in others.items()} | own


def tagged_classes(tags: Mapping[str, str]) -> dict[int, str]:
    """Names of classes by their codes, as the tags ``CLASS_<code>`` of a raster's band say."""
    return {int(tag[6:]): name.strip() for tag, name in tags.items() if re.fullmatch(r"CLASS_\d{1,9}", tag)}


def indexes_by_name(tagged: Mapping[int, str], indexes: Mapping[str, int]) -> dict[int, int]:
    """Class index of every code whose name in a file's tags is known.

    Parameters
    ----------
    tagged : mapping of int to str
        See `tagged_classes`.
    indexes : mapping of str to int
        From names in lower case to class indexes.
    """
    found = {}
    for code, name in tagged.items():
        key = name.casefold()
        key = key if key in indexes else _NAMES_OF_0_1.get(key, key)
        if key in indexes:
            found[code] = indexes[key]
    return found


def explain_unknown(codes: Collection[float], scheme: ClassScheme) -> str:
    """Return a sentence that says in which other table codes are that a scheme lacks, or nothing."""
    said = ""
    for table in _other_tables(scheme):
        known = [int(code) for code in codes if code in table.names and code not in codes_of(scheme)]
        if known:
            said += f" But {_list(table.names, known)} are among {table.title}. {table.advice}"
    return said


def explain_mixed(codes: Collection[float], scheme: ClassScheme) -> str:
    """Return why codes cannot be read if some are a scheme's own and others stand for them, or nothing."""
    others = OTHER_CODES.get(scheme.name, {}) if _is_known(scheme) else {}
    long, short = ({int(code) for code in codes if code in known} for known in (others, scheme.by_code))
    if not long or not short:
        return ""
    return (
        f"holds codes of two kinds: {_list(_named(scheme, short), short)}, and "
        f"{_list(_named(scheme, long), long)}. One file has either those of three digits or the others. "
        f"Correct the file, or {_MAPPING}, by name."
    )


def _named(scheme: ClassScheme, codes: Collection[int]) -> dict[int, str]:
    """Names of the classes that codes of label files stand for in a scheme."""
    indexes = codes_of(scheme)
    return {code: scheme.names[indexes[code] - 1] for code in codes}


def warn_of_codes(codes: Collection[float], scheme: ClassScheme, what: str = "labels") -> list[str]:
    """Warn where codes fit another table as well as a scheme, and do not mean the same in both.

    The warning does not name the codes, so that it is the same one for all files of a kind.
    """
    return [warning for table in _other_tables(scheme) for warning in _warn_of_table(codes, scheme, table, what)]


def _warn_of_table(codes: Collection[float], scheme: ClassScheme, table: _Table, what: str) -> list[str]:
    names = scheme.by_code
    both = {code for code in codes if code}
    if not both or not all(code in names and code in table.names for code in both):
        return []
    if all(names[int(code)].casefold() == table.names[int(code)].casefold() for code in both):
        return []
    differ = [code for code in sorted(names.keys() & table.names.keys()) if names[code] != table.names[code]][:2]
    examples = " and ".join(f"{code} is {names[code]!r} or {table.names[code]!r}" for code in differ)
    advice = "Pass the scheme of the map: --scheme." if what == "map" else table.advice
    return [
        f"the codes of the {what} fit class scheme {scheme.name!r}, as which they are read, but {table.title} too "
        f"({examples}). {advice}"
    ]


def _list(names: Mapping[int, str], codes: Collection[int]) -> str:
    return ", ".join(f"{code} {names[code]}" for code in sorted(codes)[:5]) + ", ..." * (len(codes) > 5)


def _other_tables(scheme: ClassScheme) -> tuple[_Table, ...]:
    return _OTHERS.get(scheme.name, ()) if _is_known(scheme) else ()


def _is_known(scheme: ClassScheme) -> bool:
    """Whether a scheme has the classes that its name promises."""
    return scheme.name in SCHEMES and SCHEMES[scheme.name].by_code == scheme.by_code
