"""Class schemes: the codes, names and colours of the classes of a map."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from refnet_cli.errors import WeightsError
from refnet_cli.system.config import read

CORINE_CODES = (
    111, 112, 121, 122, 123, 124, 131, 132, 133, 141, 142,
    211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244,
    311, 312, 313, 321, 322, 323, 324, 331, 332, 333, 334, 335,
    411, 412, 421, 422, 423, 511, 512, 521, 522, 523,
)  # fmt: skip
"""CORINE's three-digit codes, in the order of the codes 1 to 44 in its rasters."""
OTHER_CODES: dict[str, dict[int, int]] = {
    "corine": {long: short for short, long in enumerate(CORINE_CODES, 1)},
    "corine-level1": {long: long // 100 for long in CORINE_CODES},
}
"""Alternative codes in label files by scheme, and the scheme's codes that they stand for."""


@dataclass(frozen=True)
class ClassScheme:
    """The classes of a map. Code 0 always means "no data" and is not listed.

    The network's class ``i`` (from 1) has the code ``codes[i - 1]``.

    Parameters
    ----------
    name : str
        Key of the scheme.
    codes : tuple of int
        Codes in the map, unique, 1 to 255.
    names : tuple of str
        Names of the classes.
    colours : tuple of (int, int, int)
        Red, green and blue, 0 to 255.

    Raises
    ------
    WeightsError
        If the fields contradict each other.
    """

    name: str
    codes: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.codes or not len(self.codes) == len(self.names) == len(self.colours):
            raise WeightsError(
                f"Class scheme {self.name!r} has {len(self.codes)} codes, {len(self.names)} names and "
                f"{len(self.colours)} colours; it needs the same number of each, at least one."
            )
        if len(set(self.codes)) < len(self.codes) or not all(1 <= code <= 255 for code in self.codes):
            raise WeightsError(f"Class scheme {self.name!r} has codes {self.codes}; they must be unique, 1 to 255.")
        if not all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in self.colours):
            raise WeightsError(f"Class scheme {self.name!r} has a colour that is not three numbers from 0 to 255.")

    @property
    def classes(self) -> int:
        """Number of the network's classes, including "no data"."""
        return len(self.codes) + 1

    @property
    def by_code(self) -> dict[int, str]:
        """Class names by code."""
        return dict(zip(self.codes, self.names, strict=True))

    @property
    def listed(self) -> str:
        """Codes and names of the classes, for messages."""
        return ", ".join(f"{code} {name}" for code, name in self.by_code.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the scheme as a plain dict, ready for JSON."""
        return {
            "name": self.name,
            "codes": list(self.codes),
            "names": list(self.names),
            "colours": [list(colour) for colour in self.colours],
        }

    @classmethod
    def from_dict(cls, entries: Any) -> ClassScheme:
        """Build a scheme from the result of ``to_dict``; schemes of refnet 0.1 are renamed, see `rename_old`.

        Raises
        ------
        WeightsError
            If a field is missing, unknown or of the wrong kind.
        """
        return rename_old(read(cls, entries, "The class scheme", error=WeightsError))


def _scheme(name: str, table: str) -> ClassScheme:
    rows = [re.fullmatch(r"(\d+) (.+) ([0-9a-f]{6})", row.strip()) for row in table.strip().splitlines()]
    fields = [row.groups() for row in rows if row]
    return ClassScheme(
        name=name,
        codes=tuple(int(code) for code, _, _ in fields),
        names=tuple(label for _, label, _ in fields),
        colours=tuple((int(hue[:2], 16), int(hue[2:4], 16), int(hue[4:], 16)) for _, _, hue in fields),
    )


_TABLES = {
    "dfc2020": """
        1 Forests 008000
        2 Shrublands 003300
        3 Grasslands adff2f
        4 Wetlands cd853f
        5 Croplands f5deb3
        6 Urban/built-up 708090
        7 Barren d2b48c
        8 Water 000080""",
    "whu-opt-sar": """
        1 Farmland cc6601
        2 City fe0000
        3 Village ffff01
        4 Water 0000fe
        5 Forest 55a601
        6 Road 5dffff
        7 Others 986699""",
    "c2seg-bw": """
        1 Surface water 00ffff
        2 Street ffffff
        3 Urban fabric ff0000
        4 Industrial, commercial and transport dca0dc
        5 Mine, dump and construction 9600d2
        6 Artificial vegetated ff82ff
        7 Arable land ffdc82
        8 Permanent crops ce8540
        9 Pastures bdb76b
        10 Forests 00ff00
        11 Shrub 9acd32
        12 Open spaces 8b4513
        13 Inland wetlands 826fff""",
    "worldcover": """
        10 Tree cover 006400
        20 Shrubland ffbb22
        30 Grassland ffff4c
        40 Cropland f096ff
        50 Built-up fa0000
        60 Bare/sparse vegetation b4b4b4
        70 Snow and ice f0f0f0
        80 Permanent water bodies 0064c8
        90 Herbaceous wetland 0096a0
        95 Mangroves 00cf75
        100 Moss and lichen fae6a0""",
    "esri-io": """
        1 Water 419bdf
        2 Trees 397d49
        4 Flooded vegetation 7a87c6
        5 Crops e49635
        7 Built area c4281b
        8 Bare ground a59b8f
        9 Snow/ice a8ebff
        10 Clouds 616161
        11 Rangeland e3e2c3""",
    "terramesh": """
        1 Water 419bdf
        2 Trees 397d49
        3 Flooded vegetation 7a87c6
        4 Crops e49635
        5 Built area c4281b
        6 Bare ground a59b8f
        7 Snow/ice a8ebff
        8 Clouds 616161
        9 Rangeland e3e2c3""",
    "dynamic-world": """
        1 Water 419bdf
        2 Trees 397d49
        3 Grass 88b053
        4 Flooded vegetation 7a87c6
        5 Crops e49635
        6 Shrub & scrub dfc35a
        7 Built c4281b
        8 Bare a59b8f
        9 Snow & ice b39fe1""",
    "corine": """
        1 Continuous urban fabric e6004d
        2 Discontinuous urban fabric ff0000
        3 Industrial or commercial units cc4df2
        4 Road and rail networks and associated land cc0000
        5 Port areas e6cccc
        6 Airports e6cce6
        7 Mineral extraction sites a600cc
        8 Dump sites a64d00
        9 Construction sites ff4dff
        10 Green urban areas ffa6ff
        11 Sport and leisure facilities ffe6ff
        12 Non-irrigated arable land ffffa8
        13 Permanently irrigated land ffff00
        14 Rice fields e6e600
        15 Vineyards e68000
        16 Fruit trees and berry plantations f2a64d
        17 Olive groves e6a600
        18 Pastures e6e64d
        19 Annual crops associated with permanent crops ffe6a6
        20 Complex cultivation patterns ffe64d
        21 Land principally occupied by agriculture, with significant areas of natural vegetation e6cc4d
        22 Agro-forestry areas f2cca6
        23 Broad-leaved forest 80ff00
        24 Coniferous forest 00a600
        25 Mixed forest 4dff00
        26 Natural grasslands ccf24d
        27 Moors and heathland a6ff80
        28 Sclerophyllous vegetation a6e64d
        29 Transitional woodland-shrub a6f200
        30 Beaches, dunes, sands e6e6e6
        31 Bare rocks cccccc
        32 Sparsely vegetated areas ccffcc
        33 Burnt areas 000000
        34 Glaciers and perpetual snow a6e6cc
        35 Inland marshes a6a6ff
        36 Peat bogs 4d4dff
        37 Salt marshes ccccff
        38 Salines e6e6ff
        39 Intertidal flats a6a6e6
        40 Water courses 00ccf2
        41 Water bodies 80f2e6
        42 Coastal lagoons 00ffa6
        43 Estuaries a6ffe6
        44 Sea and ocean e6f2ff""",
    "corine-level1": """
        1 Artificial surfaces e6004d
        2 Agricultural areas ffffa8
        3 Forest and semi-natural areas 80ff00
        4 Wetlands a6a6ff
        5 Water bodies 00ccf2""",
}
SCHEMES: dict[str, ClassScheme] = {name: _scheme(name, table) for name, table in _TABLES.items()}


def rename_old(scheme: ClassScheme) -> ClassScheme:
    """Return a stored scheme with its current name; refnet 0.1 used the name ``esri-io`` for ``terramesh``."""
    same = dict(zip(scheme.codes, scheme.names, strict=True)) == SCHEMES["terramesh"].by_code
    return replace(scheme, name="terramesh") if scheme.name == "esri-io" and same else scheme
