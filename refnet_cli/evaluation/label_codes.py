"""What codes and names of label files stand for: the network's class indexes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from refnet_cli.classes.codes import codes_of, explain_unknown
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError


def class_indexes(scheme: ClassScheme, meanings: Mapping[str, str] | None = None) -> dict[str, int]:
    """Class index of every code, as text, and of every name in lower case, that labels may hold; 0 is no label.

    Parameters and what it raises are those of `open_labels`.

    Examples
    --------
    >>> class_indexes(ClassScheme("two", (5, 7), ("Water", "Land"), ((0, 0, 255), (0, 255, 0))))
    {'0': 0, '5': 1, 'water': 1, '7': 2, 'land': 2}
    """
    own = {"0": 0}
    for index, (code, name) in enumerate(zip(scheme.codes, scheme.names, strict=True), 1):
        own |= {str(code): index, name.casefold(): index}
    own |= {str(code): index for code, index in codes_of(scheme).items()}
    if meanings is None:
        return own
    strange = sorted({meaning for meaning in meanings.values() if meaning.casefold() not in own})
    if strange:
        raise OptionsError(
            f"The label mapping leads to {', '.join(strange)}, which class scheme {scheme.name!r} does not have "
            f"({scheme.listed}).{explain_unknown(numbers_among(strange), scheme)}"
        )
    return {"0": 0} | {value.casefold(): own[meaning.casefold()] for value, meaning in meanings.items()}


def advise_on_unknown(unknown: str) -> str:
    """What to do about a code or name of a label file that the scheme does not have."""
    value = unknown if re.fullmatch(r"-?\d+", unknown) else json.dumps(unknown, ensure_ascii=False)
    return (
        f"Say what they mean in a TOML file: --mapping codes.toml with ignore = [{value}] if they are no label, or "
        f"with [mapping] and a line as {value} = \"Trees\" for each code of the file. In a regions file, write "
        "label_codes, or choose the labels' scheme."
    )


def numbers_among(texts: Collection[str]) -> set[int]:
    """Those texts that are codes."""
    return {int(text) for text in texts if re.fullmatch(r"-?\d+", text)}


def text_of(value: Any) -> str:
    """Write a value so that another value has another text; whole numbers without a point."""
    if isinstance(value, bool | int | np.bool_ | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else str(value)
    return str(value).strip()
