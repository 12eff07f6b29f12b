"""A running training: its folder and device, and the callbacks that report progress and ask it to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refnet_cli.errors import TryAgainError
from refnet_cli.training.distributed import Processes


@dataclass
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    mean_iou: float | None = None
    """Of the last validation."""


class Run:
    """The folder, device and callbacks of a training.

    Parameters
    ----------
    folder : Path
    processes : Processes
    scan : str
        Kernel of the selective scan.
    progress, stopping : callable, optional
        See `refnet_cli.training.fit.fit`.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        scan: str,
        progress: Callable[[Progress], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.folder, self.processes, self.scan = folder, processes, scan
        self.device = str(processes.device)
        self._progress, self._stopping = progress, stopping

    def report(self, progress: Progress) -> None:
        """Tell how far the training is, in the first process."""
        if self._progress and self.processes.first:
            self._progress(progress)

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to leave."""
        return self._stopping is not None and self._stopping()

    def leave_if_asked(self, step: int) -> Callable[[int, int], None]:
        """Return a progress callback that raises TryAgainError when a stop was requested."""

        def stop_if_asked(done: int, total: int) -> None:
            if self.stopping:
                raise stopped(step)

        return stop_if_asked


def stopped(step: int) -> TryAgainError:
    """Make the error of a training that leaves after a step."""
    return TryAgainError(f"Stopped after step {step}, as asked to; the same command goes on from there.")
