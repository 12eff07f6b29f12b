"""Where the rows of a map go: outputs, the areas of classes, and the journal with which a killed run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping as Entries
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.errors import OptionsError
from refnet_cli.outputs import JOURNAL, OUTPUTS, AreaCounter, Making, Output, Rows, Shard, planes_of, union_of_layers
from refnet_cli.outputs.journal import Finished, Journal, is_journal, version_of
from refnet_cli.sensors.quality import UNREADABLE
from refnet_cli.system.atomic import explain
from refnet_cli.system.lock import workplace_of
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
    path = workplace_of(Path(os.path.realpath(output))) / JOURNAL
    version = version_of(path)
    if version not in (None, __version__):
        raise OptionsError(
            f"{path} holds the rows that an interrupted run of refnet {version} has finished, which refnet "
            f"{__version__} cannot use. Finish that run with refnet {version}, or give its rows up: pass --no-resume "
            f"to refnet predict, or remove the folder {path.parent}."
        )


class Mapping:
    """Takes the rows of a map, from north to south, and leaves all its outputs, or none of them.

    Parameters
    ----------
    making : Making
        What the outputs have in common.
    places : mapping of str to Path
        Where each is to appear, by its name in `OUTPUTS`; the first one's hidden folder holds the journal.
    stack : ExitStack
        Whatever ends the run ends the outputs with it.
    shard : Path, optional
        In place of the outputs, keep what they need in this file, for `refnet_cli.batch.run` to merge.
    """

    def __init__(
        self, making: Making, places: Entries[str, Path], stack: ExitStack, shard: Path | None = None
    ) -> None:
        self._making, self._stack = making, stack
        self.layers = union_of_layers(places)
        self.outputs: dict[str, Output] = {}
        if shard is not None:
            made = Shard(shard, making.grid, making.scheme, making.tags, self.layers, making.look)
            self.outputs["shard"] = stack.enter_context(made)
        else:
            for kind, path in places.items():
                self.outputs[kind] = stack.enter_context(OUTPUTS[kind].make(path, making))
        self._home = next(iter(self.outputs.values()))
        self._areas = AreaCounter(making.grid, making.scheme)
        self._journal: Journal | None = None
        self.seen = 0
        """Pixels that the sensors saw."""
        self.valid = 0
        """Pixels that have a class; with a threshold, fewer than were seen."""
        self.low_confidence = 0
        """Pixels that the sensors saw and in which no class is likely."""
        self.unreadable = 0
        """Pixels that have none because they lie in a damaged part of a file."""
        self.renewed = False
        """Whether an interrupted run's rows were given up because its inputs, weights or options were others."""

    @property
    def files(self) -> list[Path]:
        """All files that are made."""
        return [file for output in self.outputs.values() for file in output.files]

    @property
    def warnings(self) -> list[str]:
        """What outputs warn of."""
        return [warning for output in self.outputs.values() for warning in output.warnings]

    @property
    def warnings_of_run(self) -> list[str]:
        """What the user should know of this run, and the outputs must not hold, since they would depend on it."""
        found = (warning for output in self.outputs.values() for warning in output.workplace.warnings)
        return list(dict.fromkeys(found))

    @property
    def low_confidence_share(self) -> float:
        """Share of the pixels that the sensors saw in which no class is likely."""
        return self.low_confidence / max(self.seen, 1)

    @property
    def areas_hectares(self) -> dict[str, float]:
        """Area of each class by its name, once all rows are there."""
        return self._areas.hectares()

    def go_on(
        self, identity: dict[str, Any], batch: int, as_rows: Callable[[Finished], Rows], *, resume: bool
    ) -> tuple[int, int]:
        """Take over what an interrupted run for the same map has finished, and keep a journal from here on.

        Parameters
        ----------
        identity : dict
            Everything that the map's pixels depend on.
        batch : int
            Tiles at once.
        as_rows : callable
            Makes rows of what a journal holds.
        resume : bool
            Whether to go on, or to begin anew.

        Returns
        -------
        row : int
            The first that is not finished.
        batch : int
            Tiles at once from there on: as many as that run had, on which the last bits may depend, if these are fewer.
        """
        path = self._home.workplace.folder / JOURNAL
        identity = identity | {"layers": list(self.layers)}
        if not resume:
            path.unlink(missing_ok=True)
        fitting = (count for count in range(batch, 0, -1) if is_journal(path, identity | {"batch": count}))
        batch = next(fitting, batch)
        planes = planes_of(self.layers, self._making.scheme)
        try:
            self._journal = Journal(path, identity | {"batch": batch}, planes)
        except OSError as error:
            raise explain(self._home.files[0], error) from error
        self._stack.callback(self._close_journal)
        for finished in self._journal.replay():
            self._put(as_rows(finished))
        self.renewed = self._journal.renewed
        return self._journal.next_row, batch

    def _close_journal(self) -> None:
        assert self._journal is not None  # called back only where there is one
        self._journal.close()
        if not self._journal.next_row:
            (self._home.workplace.folder / JOURNAL).unlink(missing_ok=True)

    def add(self, rows: Rows) -> None:
        """Take the next rows."""
        self._put(rows)
        if self._journal is None:
            return
        try:
            self._journal.add(Finished(rows.row, {name: rows.layer(name) for name in self.layers}))
        except OSError as error:
            raise explain(self._home.files[0], error) from error

    def _put(self, rows: Rows) -> None:
        for output in self.outputs.values():
            output.write(rows)
        self._areas.add(rows.row, rows.codes)
        self.seen += int(np.count_nonzero(rows.valid))
        self.valid += int(np.count_nonzero(rows.codes))
        self.low_confidence += int(np.count_nonzero(rows.layer("low_confidence")))
        self.unreadable += int(np.count_nonzero(rows.layer("quality") & UNREADABLE))

    def finish(self, facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Complete all outputs, and only then move them into place, the map last.

        Parameters
        ----------
        facts : dict
            What is known of the map, for outputs that tell of it; each is told of the files before it too, and where
            these lie as seen from the map's folder.

        Returns
        -------
        dict
            For each output by its name, what files it consists of: name, path, SHA-256 and size in bytes.
        """
        files: dict[str, list[dict[str, Any]]] = {}
        for kind, output in self.outputs.items():
            output.complete(facts | {"files": files})
            files[kind] = [
                {
                    "name": file.name,
                    "place": os.path.relpath(file, self._making.map.parent),
                    "sha256": output.sha256[file.name],
                    "bytes": output.sizes[file.name],
                }
                for file in output.files
            ]
        # The map goes last: where it is, all are, and until then the journal is there to be gone on with.
        for output in reversed(self.outputs.values()):
            output.finish()
        return {
            kind: [
                {name: about[name] for name in ("name", "sha256", "bytes")} | {"path": str(file)}
                for about, file in zip(files[kind], output.files, strict=True)
            ]
            for kind, output in self.outputs.items()
        }
