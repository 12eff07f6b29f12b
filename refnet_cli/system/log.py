"""Messages through standard logging: a handler that writes lines for people or JSON for machines to stderr.

Modules log to ``logging.getLogger(__name__)``. Only the command line tool calls `start`; a program that uses refnet as
a library chooses handlers and levels for the logger ``refnet_cli`` itself.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

ROOT = logging.getLogger("refnet_cli")
DETAILS = ("code", "window", "done", "total", "unit")
"""Attributes of records, set by ``extra=``, that JSON has as keys of their own."""

_context: ContextVar[dict[str, str]] = ContextVar("context")


class TextFormatter(logging.Formatter):
    """Lines for people: ``! fold Austria: 3 blocks cannot be read`` where something is guessed or wrong.

    Records may say how their line begins by an attribute ``mark``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        usual = {logging.WARNING: "! ", logging.ERROR: "refnet: "}.get(record.levelno, "")
        start = getattr(record, "mark", usual)
        fold = _context.get({}).get("fold")
        return f"{start}{f'fold {fold}: ' if fold else ''}{record.getMessage()}"


class JsonFormatter(logging.Formatter):
    """An object a line: time, level, event, message and, where known, scene, fold, code, window and progress."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            **_context.get({}),
            "message": record.getMessage() or None,
            **{name: getattr(record, name, None) for name in DETAILS},
        }
        return json.dumps({name: value for name, value in entry.items() if value is not None})


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; errors, such as a closed pipe, are raised."""
        if sys.stderr is None:  # closed before the program began
            return
        line = self.format(record)
        if sys.stderr.isatty() and isinstance(self.formatter, TextFormatter):
            line = _wrap(line)
        if bars := sys.modules.get("tqdm"):
            bars.tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _wrap(line: str) -> str:
    """Break a line that is longer than the terminal is wide between words."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        line, max(width, 40), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False, drop_whitespace=len(line) > width,
    ) if len(line) > width else line  # fmt: skip


def start(as_json: bool = False) -> None:
    """Write the messages of refnet to stderr from now on, at level INFO.

    Parameters
    ----------
    as_json : bool
        As JSON instead of lines for people.
    """
    for handler in [handler for handler in ROOT.handlers if isinstance(handler, StderrHandler)]:
        ROOT.removeHandler(handler)
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.INFO)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it warns where it cannot keep its cache of fonts
    _context.set({})


def is_json() -> bool:
    """Return whether messages are written as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in ROOT.handlers)


def set_context(**fields: str) -> None:
    """Add fields, such as the scene, to all messages of this thread until `start` is called again."""
    _context.set(_context.get({}) | fields)


@contextmanager
def context(**fields: str) -> Iterator[None]:
    """Add fields, such as the fold, to all messages of this thread meanwhile."""
    token = _context.set(_context.get({}) | fields)
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def at_least(level: int) -> Iterator[None]:
    """Drop messages below a level meanwhile."""
    before = ROOT.level
    ROOT.setLevel(max(level, before))
    try:
        yield
    finally:
        ROOT.setLevel(before)
