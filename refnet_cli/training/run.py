"""A training under way: where it runs, whom it talks to, and how it is asked to leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refnet_cli.errors import TryAgainError
from refnet_cli.training.distributed import Processes

Tell = Callable[[str], None]


@dataclass
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    mean_iou: float | None = None
    """Of the last validation."""


class Run:
    """Where a training runs, and whom it talks to.

    Parameters
    ----------
    folder : Path
    processes : Processes
    scan : str
        Kernel of the selective scan.
    tell, progress, stopping : callable, optional
        See `refnet_cli.training.fit.fit`.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        scan: str,
        tell: Tell | None = None,
        progress: Callable[[Progress], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.folder, self.processes, self.scan = folder, processes, scan
        self.device = str(processes.device)
        self._tell, self._progress, self._stopping = tell, progress, stopping

    def say(self, *lines: str) -> None:
        """Tell people something, in the first process."""
        if self._tell and self.processes.first:
            for line in lines:
                self._tell(line)

    def report(self, progress: Progress) -> None:
        """Tell how far the training is, in the first process."""
        if self._progress and self.processes.first:
            self._progress(progress)

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to leave."""
        return self._stopping is not None and self._stopping()

    def leave_if_asked(self, step: int) -> Callable[[int, int], None]:
        """Make what is told of tiles that are done, and raises TryAgainError where the training is to leave."""

        def tell(done: int, total: int) -> None:
            if self.stopping:
                raise stopped(step)

        return tell


def stopped(step: int) -> TryAgainError:
    """Make the error of a training that leaves after a step."""
    return TryAgainError(f"Stopped after step {step}, as asked to; the same command goes on from there.")
