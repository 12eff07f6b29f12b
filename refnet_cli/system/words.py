"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, what: str, several: str = "") -> str:
    """Return a number with its noun; the plural may be given.

    Examples
    --------
    >>> count(1, "tile"), count(1200, "tile"), count(2, "class", "classes")
    ('1 tile', '1,200 tiles', '2 classes')
    """
    return f"{number:,} {what if number == 1 else several or what + 's'}"
