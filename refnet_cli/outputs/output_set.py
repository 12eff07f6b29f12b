"""All outputs of a map: they take its rows together, and appear together or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet_cli.outputs import OUTPUTS, union_of_layers
from refnet_cli.outputs.base import Output
from refnet_cli.outputs.block_file import Shard, planes_of
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.journal import Finished
from refnet_cli.outputs.resume_log import ResumeLog
from refnet_cli.outputs.rows import Rows
from refnet_cli.outputs.totals import MapTotals


class OutputSet:
    """Takes the rows of a map, from north to south, and leaves all its outputs, or none of them.

    Parameters
    ----------
    context : MapContext
        What the outputs have in common.
    places : mapping of str to Path
        Where each is to appear, by its name in `OUTPUTS`; the first one's hidden folder holds the journal.
    stack : ExitStack
        What ends the run ends the outputs with it.
    shard : Path, optional
        In place of the outputs, keep what they need in this file, for `refnet_cli.batch.run` to merge.
    """

    def __init__(
        self, context: MapContext, places: Mapping[str, Path], stack: ExitStack, shard: Path | None = None
    ) -> None:
        self._context = context
        self.layers = union_of_layers(places)
        self.outputs: dict[str, Output] = {}
        if shard is not None:
            made = Shard(shard, context, self.layers)
            self.outputs["shard"] = stack.enter_context(made)
        else:
            for kind, path in places.items():
                self.outputs[kind] = stack.enter_context(OUTPUTS[kind].make(path, context))
        home = next(iter(self.outputs.values()))
        self.log = ResumeLog(home.work_folder.path, home.files[0], planes_of(self.layers, context.scheme), stack)
        self.totals = MapTotals(context.grid, context.scheme)

    @property
    def warnings(self) -> list[str]:
        """What outputs warn of."""
        return [warning for output in self.outputs.values() for warning in output.warnings]

    @property
    def warnings_of_run(self) -> list[str]:
        """What the user should know of this run, and the outputs must not hold, since they would depend on it."""
        found = (warning for output in self.outputs.values() for warning in output.work_folder.warnings)
        return list(dict.fromkeys(found))

    def resume(
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
            Whether to take anything over.

        Returns
        -------
        row : int
            The first that is not finished.
        batch : int
            Tiles at once from there on; see `ResumeLog.open`.
        """
        batch = self.log.open(identity | {"layers": list(self.layers)}, batch, resume=resume)
        for finished in self.log.replay():
            self._put(as_rows(finished))
        return self.log.next_row, batch

    def add(self, rows: Rows) -> None:
        """Take the next rows."""
        self._put(rows)
        self.log.add(Finished(rows.row, {name: rows.layer(name) for name in self.layers}))

    def _put(self, rows: Rows) -> None:
        for output in self.outputs.values():
            output.write(rows)
        self.totals.add(rows)

    def finish(self, facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Complete all outputs, and only then move them into place, the map last.

        Parameters
        ----------
        facts : dict
            What is known of the map, for outputs that describe it; each gets the files before it too, and where
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
                    "place": os.path.relpath(file, self._context.map.parent),
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
