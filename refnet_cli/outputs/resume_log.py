"""Finished rows that a killed run leaves for the next run of the same map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet_cli.errors import OptionsError
from refnet_cli.outputs.base import JOURNAL
from refnet_cli.outputs.journal import Finished, Journal, Planes, is_journal, version_of
from refnet_cli.system.atomic import explain
from refnet_cli.system.lock import work_folder_of
from refnet_cli.version import __version__


def refuse_other_version(output: Path) -> None:
    """Refuse to go on with, or to give up, the rows that an interrupted run of another version of refnet has finished.

    Parameters
    ----------
    output : Path
        What that run was to make.

    Raises
    ------
    OptionsError
    """
    path = work_folder_of(Path(os.path.realpath(output))) / JOURNAL
    version = version_of(path)
    if version not in (None, __version__):
        raise OptionsError(
            f"{path} holds the rows that an interrupted run of refnet {version} has finished, which refnet "
            f"{__version__} cannot use. Finish that run with refnet {version}, or give its rows up: pass --no-resume "
            f"to refnet predict, or remove the folder {path.parent}."
        )


class ResumeLog:
    """The journal of a map, opened, read and written so that errors name the output.

    Parameters
    ----------
    folder : Path
        Where the journal lies.
    output : Path
        What errors name.
    planes : mapping
        What rows are made of; see `refnet_cli.outputs.journal.Planes`.
    stack : ExitStack
        Closes the journal; one without rows is removed.
    """

    def __init__(self, folder: Path, output: Path, planes: Planes, stack: ExitStack) -> None:
        self._path, self._output, self._planes, self._stack = folder / JOURNAL, output, planes, stack
        self._journal: Journal | None = None

    def open(self, identity: dict[str, Any], batch: int, *, resume: bool) -> int:
        """Continue the journal of an interrupted run for the same map, or begin one.

        Parameters
        ----------
        identity : dict
            Everything that the map's pixels depend on.
        batch : int
            Tiles at once.
        resume : bool
            Whether to continue, or to begin again.

        Returns
        -------
        int
            Tiles at once from here on: as many as that run had, on which the last bits may depend, if these are fewer.
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
        """First row that is not finished."""
        return self._journal.next_row if self._journal else 0

    @property
    def renewed(self) -> bool:
        """Whether an interrupted run's rows were given up because its inputs, weights or options were others."""
        return self._journal is not None and self._journal.renewed

    def replay(self) -> Iterator[Finished]:
        """Yield what is finished."""
        return self._journal.replay() if self._journal else iter(())

    def add(self, finished: Finished) -> None:
        """Write finished rows down, if the journal is open."""
        try:
            if self._journal:
                self._journal.add(finished)
        except OSError as error:
            raise explain(self._output, error) from error
