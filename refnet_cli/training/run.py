"""State of a running training: folder, processes, callbacks, and stop requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refnet_cli.errors import TryAgainError
from refnet_cli.training.distributed import Processes


@dataclass
class Progress:
    """Progress of a training."""

    step: int
    steps: int
    loss: float
    mean_iou: float | None = None
    """Mean IoU of the last validation."""
    validated: int | None = None
    """Step of the last validation."""


class Run:
    """Folder, processes and callbacks of a running training.

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
        """Call the progress callback, in the first process."""
        if self._progress and self.processes.first:
            self._progress(progress)

    @property
    def stopping(self) -> bool:
        """Whether a stop of this process was requested."""
        return self._stopping is not None and self._stopping()

    def stop_callback(self, step: int) -> Callable[[int, int], None]:
        """Return a progress callback that raises TryAgainError when a stop was requested."""

        def stop_if_asked(done: int, total: int) -> None:
            if self.stopping:
                raise self.stop_error(step)

        return stop_if_asked

    def stop_error(self, step: int) -> TryAgainError:
        """Return the error for a training that stops after a step, of which there is a checkpoint."""
        if not step:
            return TryAgainError("Stopped before the first step. Run the same command again to start.")
        return TryAgainError(
            f"Stopped after step {step:,}. Its checkpoint, the tables and the best network so far are in "
            f"{self.folder}. Run the same command again to resume."
        )
