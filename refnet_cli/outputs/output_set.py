"""All outputs of a map: they receive the same rows, and appear together or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet_cli.outputs import OUTPUTS, required_layers
from refnet_cli.outputs.base import Output
from refnet_cli.outputs.block_file import Shard, layer_planes
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.journal import Counts, FinishedRows
from refnet_cli.outputs.resume_log import ResumeLog
from refnet_cli.outputs.rows import Rows
from refnet_cli.outputs.totals import MapTotals


class OutputSet:
    """Write the rows of a map, from north to south, to all its outputs; all of them appear, or none.

    Parameters
    ----------
    context : MapContext
        What the outputs share.
    places : mapping of str to Path
        The outputs' paths, by their names in `OUTPUTS`. The first output's hidden folder holds the journal.
    stack : ExitStack
        Closes the outputs when the run ends.
    shard : Path, optional
        Write the layers to this file instead of the outputs; `refnet_cli.batch.run` merges such files.
    """

    def __init__(
        self, context: MapContext, places: Mapping[str, Path], stack: ExitStack, shard: Path | None = None
    ) -> None:
        self._context = context
        self.layers = required_layers(places)
        if context.dates and "quality" in places:
            self.layers = (*self.layers, "dates")
        self.outputs: dict[str, Output] = {}
        if shard is not None:
            made = Shard(shard, context, self.layers)
            self.outputs["shard"] = stack.enter_context(made)
        else:
            for kind, path in places.items():
                self.outputs[kind] = stack.enter_context(OUTPUTS[kind].make(path, context))
        home = next(iter(self.outputs.values()))
        self.log = ResumeLog(home.work_folder.path, home.files[0], layer_planes(self.layers, context.scheme), stack)
        self.totals = MapTotals(context.grid, context.scheme)
        self._counts: dict[str, Mapping[str, int]] = {}

    @property
    def warnings(self) -> list[str]:
        """The outputs' warnings."""
        return [warning for output in self.outputs.values() for warning in output.warnings]

    @property
    def warnings_of_run(self) -> list[str]:
        """Warnings about this run only. The outputs must not contain them: their bytes would depend on the run."""
        found = (warning for output in self.outputs.values() for warning in output.work_folder.warnings)
        return list(dict.fromkeys(found))

    def resume(
        self, identity: dict[str, Any], batch: int, as_rows: Callable[[FinishedRows], Rows], *, resume: bool
    ) -> tuple[int, int]:
        """Write the rows that an interrupted run of the same map has finished, and open the journal.

        Parameters
        ----------
        identity : dict
            Everything that the map's pixels depend on.
        batch : int
            Tiles per batch.
        as_rows : callable
            Turns a journal's record into rows.
        resume : bool
            Whether to use an interrupted run's rows.

        Returns
        -------
        row : int
            The first unfinished row.
        batch : int
            Tiles per batch from there on; see `ResumeLog.open`.
        """
        # Journals without counts, of earlier versions, would leave counts incomplete.
        batch = self.log.open(identity | {"layers": list(self.layers), "counts": True}, batch, resume=resume)
        for finished in self.log.replay():
            self._put(as_rows(finished))
        return self.log.next_row, batch

    def keep_counts(self, counts: Counts) -> None:
        """Keep the counts of blocks that were read for the next rows, for a run that resumes."""
        self._counts |= counts

    def add(self, rows: Rows) -> None:
        """Write the next rows to the outputs and the journal."""
        self._put(rows)
        self.log.add(FinishedRows(rows.row, {name: rows.layer(name) for name in self.layers}), self._counts)
        self._counts = {}

    def _put(self, rows: Rows) -> None:
        for output in self.outputs.values():
            output.write(rows)
        self.totals.add(rows)

    def finish(self, facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Complete all outputs, and only then move them into place, the map last.

        Parameters
        ----------
        facts : dict
            Facts about the map, for outputs that describe it. Each output also receives the files of the outputs before
            it, with their paths relative to the map's folder.

        Returns
        -------
        dict
            The files of each output by its name: name, path, SHA-256 and size in bytes.
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
        # The map is moved last: where it exists, all outputs exist, and until then a run can resume from the journal.
        for output in reversed(self.outputs.values()):
            output.finish()
        return {
            kind: [
                {name: about[name] for name in ("name", "sha256", "bytes")} | {"path": str(file)}
                for about, file in zip(files[kind], output.files, strict=True)
            ]
            for kind, output in self.outputs.items()
        }
