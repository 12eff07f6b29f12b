"""Messages on stderr: lines for people, or JSON for machines."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

EVERY = 10.0
"""Seconds between messages of progress, as JSON."""


class Log:
    """Where messages go.

    Attributes
    ----------
    as_json : bool
        Whether each message is a JSON object with time, level, event and message, and where they are known scene,
        window and code.
    scene : str or None
        What is worked on.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again, with lines for people."""
        self.as_json = False
        self.scene: str | None = None
        self._last_progress = 0.0

    def say(self, message: str, event: str = "message", code: int | None = None) -> None:
        """Say something; ``code`` is the exit code that it leads to."""
        if not self.as_json:
            self._write(message)
            return
        level = "error" if code else "warning" if message.startswith("warning: ") else "info"
        window = re.search(r"Window\(row=(\d+), column=(\d+), height=(\d+), width=(\d+)\)", message)
        self._emit(
            level, event, message=message, code=code, window=[int(text) for text in window.groups()] if window else None
        )

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Tell, as JSON and now and then, how much is done."""
        now = time.monotonic()
        if self.as_json and (now - self._last_progress >= EVERY or done == total):
            self._last_progress = now
            self._emit("info", "progress", done=done, total=total, unit=unit, message=note or None)

    def _emit(self, level: str, event: str, **details: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": moment, "level": level, "event": event, "scene": self.scene, **details}
        self._write(json.dumps({name: value for name, value in entry.items() if value is not None}))

    def _write(self, line: str) -> None:
        if sys.stderr is None:  # closed before the program began
            return
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


LOG = Log()
"""The program's own."""
