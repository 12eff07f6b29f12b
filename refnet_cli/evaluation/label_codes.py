"""Map the codes and names in label files to class indexes."""

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
    """Return the class index of every valid code, as text, and name, in lower case; 0 is no label.

    See `open_labels` for parameters and errors.

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
            f"The label mapping has the targets {', '.join(strange)}, which are not in class scheme {scheme.name!r} "
            f"({scheme.listed}).{explain_unknown(numbers_among(strange), scheme)}"
        )
    return {"0": 0} | {value.casefold(): own[meaning.casefold()] for value, meaning in meanings.items()}


def advise_on_unknown(unknown: str) -> str:
    """Return advice for a code or name in a label file that is not in the scheme."""
    value = unknown if re.fullmatch(r"-?\d+", unknown) else json.dumps(unknown, ensure_ascii=False)
    return (
        f"Map them in a TOML file (--mapping codes.toml): ignore = [{value}] if they are no labels, or [mapping] with "
        f"a line such as {value} = \"Trees\" for each code. In a regions file, set label_codes, or the scheme of the "
        "labels."
    )


def numbers_among(texts: Collection[str]) -> set[int]:
    """Return the texts that are integers, as int."""
    return {int(text) for text in texts if re.fullmatch(r"-?\d+", text)}


def text_of(value: Any) -> str:
    """Return a unique text for a value; whole numbers without a decimal point."""
    if isinstance(value, bool | int | np.bool_ | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else str(value)
    return str(value).strip()
