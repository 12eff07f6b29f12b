"""Options and outputs of earlier versions, which are refused with the name of their replacement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple


class Removed(NamedTuple):
    """A removed option or output."""

    what: Literal["option", "output"]
    version: str
    """The first version without it."""
    output: str
    """The output that replaces it. The value of the option, or the path of the output, becomes its path."""


REMOVED = {
    "preview": Removed("option", "0.2", "preview"),
    "probabilities16": Removed("output", "0.2", "probabilities"),
}
REMOVED_OPTIONS = [name for name, removed in REMOVED.items() if removed.what == "option"]
"""They still count in the ids of tasks, without a value, so that ids stay the same across versions."""


class Found(NamedTuple):
    """A use of a removed name."""

    said: str
    """The start of an error message: option 'preview' was removed in refnet 0.2."""
    output: str
    """The replacement: an output, KIND or KIND=PATH."""


def find_removed(options: Mapping[str, Any], outputs: Iterable[Any] = ()) -> Found | None:
    """Return the first use of a removed name; None if there is none.

    Parameters
    ----------
    options : mapping
        Values of options by their names.
    outputs : iterable
        Outputs, KIND or KIND=PATH. Values that are not texts are ignored.

    Examples
    --------
    >>> find_removed({}, ["areas", "probabilities16=p.tif"])
    Found(said="output 'probabilities16' was removed in refnet 0.2", output='probabilities=p.tif')
    """
    values = {("option", name): value for name, value in options.items()}
    for text in outputs:
        if isinstance(text, str):
            kind, _, path = text.partition("=")
            values["output", kind] = path
    for name, (what, version, output) in REMOVED.items():
        if (what, name) in values:
            value = values[what, name]
            said = f"{what} {name!r} was removed in refnet {version}"
            return Found(said, output if value == "" else f"{output}={'PATH' if value is None else value}")
    return None
