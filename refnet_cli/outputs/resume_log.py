"""Resuming a map: the rows that a killed run has finished, for the next run of the same map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet_cli.errors import OptionsError
from refnet_cli.outputs.base import JOURNAL
from refnet_cli.outputs.journal import Counts, FinishedRows, Journal, Planes, is_journal, journal_version
from refnet_cli.system.atomic import explain
from refnet_cli.system.lock import work_folder_of
from refnet_cli.version import __version__


def refuse_other_version(output: Path) -> None:
    """Refuse to resume, or to discard, the rows that an interrupted run of another version of refnet has finished.

    Parameters
    ----------
    output : Path
        The first output of that run.

    Raises
    ------
    OptionsError
        If there are such rows.
    """
    path = work_folder_of(Path(os.path.realpath(output))) / JOURNAL
    version = journal_version(path)
    if version not in (None, __version__):
        raise OptionsError(
            f"{path} holds finished rows of an interrupted run of refnet {version}, which refnet {__version__} cannot "
            f"use. Finish that run with refnet {version}, or discard its rows: pass --no-resume to refnet predict, or "
            f"remove the folder {path.parent}."
        )


class ResumeLog:
    """The journal of a map, whose errors name the output.

    Parameters
    ----------
    folder : Path
        Folder of the journal.
    output : Path
        The file that errors name.
    planes : mapping
        The layers; see `refnet_cli.outputs.journal.Planes`.
    stack : ExitStack
        Closes the journal; a journal without rows is removed.
    """

    def __init__(self, folder: Path, output: Path, planes: Planes, stack: ExitStack) -> None:
        self._path, self._output, self._planes, self._stack = folder / JOURNAL, output, planes, stack
        self._journal: Journal | None = None

    def open(self, identity: dict[str, Any], batch: int, *, resume: bool) -> int:
        """Open the journal of an interrupted run of the same map, or start a new one.

        Parameters
        ----------
        identity : dict
            Everything that the map's pixels depend on.
        batch : int
            Tiles per batch.
        resume : bool
            Whether to continue an existing journal.

        Returns
        -------
        int
            Tiles per batch from here on: the interrupted run's number if it is smaller, as the last bits of the pixels
            may depend on it.
        """
        if not resume:
            self._path.unlink(missing_ok=True)
        fitting = (count for count in range(batch, 0, -1) if is_journal(self._path, identity | {"batch": count}))
        batch = next(fitting, batch)
        try:
            self._journal = Journal(self._path, identity | {"batch": batch}, self._planes)
        except OSError as error:
            raise explain(self._output, error) from error
        self._stack.callback(self._close, self._journal)
        return batch

    def _close(self, journal: Journal) -> None:
        journal.close()
        if not journal.next_row:
            self._path.unlink(missing_ok=True)

    @property
    def next_row(self) -> int:
        """First unfinished row."""
        return self._journal.next_row if self._journal else 0

    @property
    def renewed(self) -> bool:
        """Whether an interrupted run's rows were discarded because its inputs, weights or options differed."""
        return self._journal is not None and self._journal.renewed

    def replay(self) -> Iterator[FinishedRows]:
        """Yield the finished rows."""
        return self._journal.replay() if self._journal else iter(())

    def counts(self) -> Counts:
        """Return the counts of the blocks that were read for the finished rows."""
        return self._journal.counts() if self._journal else {}

    def add(self, finished: FinishedRows, counts: Counts) -> None:
        """Append finished rows and the counts of the blocks that were read for them, if the journal is open."""
        try:
            if self._journal:
                self._journal.add(finished, counts)
        except OSError as error:
            raise explain(self._output, error) from error
