"""Names that earlier versions had: the command line, config files, batches and Python refuse them by this table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple


class Removed(NamedTuple):
    """A name that is gone."""

    what: Literal["option", "output"]
    version: str
    """The first without it."""
    output: str
    """Output that takes its place. The value of an option, or the path of an output, becomes its path."""


REMOVED = {
    "preview": Removed("option", "0.2", "preview"),
    "probabilities16": Removed("output", "0.2", "probabilities"),
}
REMOVED_OPTIONS = [name for name, gone in REMOVED.items() if gone.what == "option"]
"""They stay in what the ids of tasks are made of, as options that are not given: ids hold across versions."""


class Found(NamedTuple):
    """A use of a name that is gone."""

    said: str
    """What an error says of it, as: option 'preview' was removed in refnet 0.2."""
    output: str
    """What to give instead: an output, KIND or KIND=PATH."""


def find_removed(options: Mapping[str, Any], outputs: Iterable[Any] = ()) -> Found | None:
    """Return the first use of a name that is gone, None where there is none.

    Parameters
    ----------
    options : mapping
        Values of options by their names.
    outputs : iterable
        Outputs, KIND or KIND=PATH; what is no text is passed over.

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
