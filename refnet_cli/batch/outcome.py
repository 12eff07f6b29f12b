"""The outcome of a task."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from refnet_cli.batch.failures import Failure, record_failure
from refnet_cli.batch.task import Task
from refnet_cli.errors import StorageError, TryAgainError

TEMPORARY = (StorageError.exit_code, TryAgainError.exit_code)
"""Exit codes of failures whose cause may have passed when the task is tried again."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task: a line of JSON that ``refnet batch run`` prints."""

    id: str
    output: str
    status: str
    """done, skipped (finished before) or failed."""
    code: int = 0
    """The exit code that ``refnet predict`` would have."""
    message: str = ""
    seconds: float = 0.0
    tries: int = 1
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, if they made the task fail."""

    def to_line(self) -> str:
        """Return the outcome as a line of JSON."""
        return json.dumps(asdict(self))

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return self.status == "failed"

    @property
    def may_pass(self) -> bool:
        """Whether another try may succeed."""
        return self.failed and self.code in TEMPORARY


def failed(task: Task, failure: Failure, **more: Any) -> Outcome:
    """Record the failure of a task, and return it as the task's outcome."""
    record_failure(task.path, failure)
    about = {"id": task.id, "output": str(task.path), "status": "failed"} | asdict(failure) | more
    return Outcome(**about)
