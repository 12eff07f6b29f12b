"""Codes of label files: their meaning by tags or class scheme, and warnings if they also fit another class table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from refnet_cli.classes.schemes import OTHER_CODES, SCHEMES, ClassScheme

RENUMBERED = ("esri-io", "terramesh")
"""Schemes with the same classes and different codes; refnet 0.1 used the first name for the second scheme."""
_NAMES_OF_0_1 = {"built": "built area", "bare": "bare ground"}
"""Class names in the tags of label files by sample_data/simulate.py of refnet 0.1."""


@dataclass(frozen=True)
class _Table:
    """Another table of codes that is easily confused with a scheme."""

    title: str
    names: Mapping[int, str]
    advice: str
    """Advice for files with these codes."""


_MAPPING = "map the codes (label_codes in a regions file, --mapping of refnet evaluate)"
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
        "Labels of TerraMesh and of refnet 0.1, which used the name 'esri-io' for them, have the codes of 'terramesh'. "
        'Set scheme = "terramesh" in the regions file, pass --scheme terramesh to refnet evaluate if the map has no '
        f"tags, or {_MAPPING}. In Esri's first map of 2020, 3 is grass and 6 is scrub: map both to Rangeland.",
    ),),
    "terramesh": (_Table(
        "the official ones of scheme 'esri-io'",
        SCHEMES["esri-io"].by_code,
        "Labels from Esri / Impact Observatory have the official codes. Set scheme = \"esri-io\" in the regions file, "
        f"pass --scheme esri-io to refnet evaluate if the map has no tags, or {_MAPPING}.",
    ),),
    "dynamic-world": (_Table(
        "the original ones of Dynamic World",
        {code - 1: name for code, name in SCHEMES["dynamic-world"].by_code.items()},
        "If 0 is water in the files, map 0 to 8 as described in docs/reference/class-codes.md.",
    ),),
    "corine": (_Table(
        "those of scheme 'corine-level1'",
        SCHEMES["corine-level1"].by_code,
        f"If they are of level 1, {_MAPPING}.",
    ), _CORINE_LEVEL2),
    "corine-level1": (_Table(
        "those of scheme 'corine'",
        SCHEMES["corine"].by_code,
        f"If they are of level 3, {_MAPPING}, or use files with CORINE's three-digit codes.",
    ), _CORINE_LEVEL2),
}  # fmt: skip


def codes_of(scheme: ClassScheme) -> dict[int, int]:
    """Return the class index of every valid code in label files of a scheme, without 0.

    Examples
    --------
    >>> codes_of(SCHEMES["corine"])[112], codes_of(SCHEMES["corine"])[2], codes_of(SCHEMES["corine-level1"])[523]
    (2, 2, 5)
    """
    own = {code: index for index, code in enumerate(scheme.codes, 1)}
    others = OTHER_CODES.get(scheme.name, {}) if _is_known(scheme) else {}
    return {other: own[code] for other, code in others.items()} | own


def tagged_classes(tags: Mapping[str, str]) -> dict[int, str]:
    """Return the class names by code from the tags ``CLASS_<code>`` of a raster's band."""
    return {int(tag[6:]): name.strip() for tag, name in tags.items() if re.fullmatch(r"CLASS_\d{1,9}", tag)}


def indexes_by_name(tagged: Mapping[int, str], indexes: Mapping[str, int]) -> dict[int, int]:
    """Return the class index of every code whose name in the file's tags is known.

    Parameters
    ----------
    tagged : mapping of int to str
        See `tagged_classes`.
    indexes : mapping of str to int
        Class index of each name, in lower case.
    """
    found = {}
    for code, name in tagged.items():
        key = name.casefold()
        key = key if key in indexes else _NAMES_OF_0_1.get(key, key)
        if key in indexes:
            found[code] = indexes[key]
    return found


def explain_unknown(codes: Collection[float], scheme: ClassScheme) -> str:
    """Return a sentence on the other tables that contain the unknown codes; empty if there are none."""
    text = ""
    for table in _other_tables(scheme):
        known = [int(code) for code in codes if code in table.names and code not in codes_of(scheme)]
        if known:
            text += f" But {_list(table.names, known)} are among {table.title}. {table.advice}"
    return text or _name_scheme_of(codes, scheme)


def _name_scheme_of(codes: Collection[float], scheme: ClassScheme) -> str:
    """Return a sentence that names the only other scheme with all of these codes; empty without or with several."""
    others = [one for one in SCHEMES.values() if one.name != scheme.name and set(codes) <= codes_of(one).keys()]
    if [one.name for one in others] == ["corine", "corine-level1"]:  # the second has the codes of the first too
        others.pop()
    if len(others) != 1 or not codes:
        return ""
    whole = {int(code) for code in codes}
    return f" In scheme {others[0].name!r} they are {_list(_named(others[0], whole), sorted(whole))}."


def explain_mixed(codes: Collection[float], scheme: ClassScheme) -> str:
    """Return an error text if codes mix a scheme's own codes with their long form; empty otherwise."""
    others = OTHER_CODES.get(scheme.name, {}) if _is_known(scheme) else {}
    long, short = ({int(code) for code in codes if code in known} for known in (others, scheme.by_code))
    if not long or not short:
        return ""
    return (
        f"mixes two kinds of codes: {_list(_named(scheme, short), short)}, and "
        f"{_list(_named(scheme, long), long)}. A file must have either three-digit codes or the others. Correct the "
        f"file, or {_MAPPING} by name."
    )


def _named(scheme: ClassScheme, codes: Collection[int]) -> dict[int, str]:
    """Return the class names of codes in label files of a scheme."""
    indexes = codes_of(scheme)
    return {code: scheme.names[indexes[code] - 1] for code in codes}


def warn_of_codes(codes: Collection[float], scheme: ClassScheme, what: str = "labels") -> list[str]:
    """Warn if codes fit both a scheme and another table in which they have other meanings.

    The warning does not list the codes of the file, so it is the same for all files of a kind.
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
        f"the codes of the {what} are read as class scheme {scheme.name!r}, but also match {table.title} "
        f"({examples}). {advice}"
    ]


def _list(names: Mapping[int, str], codes: Collection[int]) -> str:
    return ", ".join(f"{code} {names[code]}" for code in sorted(codes)[:5]) + ", ..." * (len(codes) > 5)


def _other_tables(scheme: ClassScheme) -> tuple[_Table, ...]:
    return _OTHERS.get(scheme.name, ()) if _is_known(scheme) else ()


def _is_known(scheme: ClassScheme) -> bool:
    """Return whether a scheme is one of SCHEMES, by name and classes."""
    return scheme.name in SCHEMES and SCHEMES[scheme.name].by_code == scheme.by_code
