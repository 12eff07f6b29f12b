"""Messages that refnet logs, as the lines that people see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from refnet_cli.system.log import ROOT, TextFormatter


class Collector(logging.Handler):
    """Appends each message to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def messages(level: int = logging.INFO) -> Iterator[list[str]]:
    """Collect the messages that are logged meanwhile."""
    collector, before = Collector(), ROOT.level
    ROOT.addHandler(collector)
    ROOT.setLevel(level)
    try:
        yield collector.lines
    finally:
        ROOT.removeHandler(collector)
        ROOT.setLevel(before)
