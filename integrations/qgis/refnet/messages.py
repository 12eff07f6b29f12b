"""Lines that refnet writes to stderr with ``--log-format json``."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """A line of stderr.

    Parameters
    ----------
    level : str
        ``debug`` (evidence too), ``info``, ``warning`` or ``error``; ``other`` for a line that is not refnet's, such as
        one of a library.
    text : str
    share : float, optional
        Of what is to do, how much is done, from 0 to 1; only in messages of progress.
    """

    level: str
    text: str
    share: float | None = None


def read_message(line: str) -> Message:
    """Return what a line says."""
    try:
        entry = json.loads(line)
        level, event = entry["level"], entry["event"]
    except (ValueError, TypeError, KeyError):
        return Message("other", line.rstrip())
    text = entry.get("message", "")
    if event == "progress":
        done, total = entry.get("done", 0), entry.get("total", 0)
        counted = f"{done:,} of {total:,} {entry.get('unit', '')}".rstrip()
        return Message("info", f"{counted}, {text}" if text else counted, done / total if total else 0.0)
    fold = f"fold {entry['fold']}: " if "fold" in entry else ""
    return Message("debug" if event == "decision" else level, fold + text)
