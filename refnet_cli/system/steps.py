"""Counting of steps for those who want to know how far something is."""

from __future__ import annotations

from refnet_cli.types import Progress


class Steps:
    """Steps of a known number.

    Parameters
    ----------
    progress : callable or None
        Called at once, and after each step, with the number of steps that are done, and of all.
    total : int

    Examples
    --------
    >>> steps = Steps(lambda done, total: print(done, "of", total), 3)
    0 of 3
    >>> steps.count()
    1 of 3
    >>> steps.count(2)
    3 of 3
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self.count(0)

    def count(self, steps: int = 1) -> None:
        """Count steps that were done."""
        self._done += steps
        if self._progress:
            self._progress(self._done, self._total)
