"""Runs programs: lines as they are written, cancelling, what is left of the environment of QGIS."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Optional

PATIENCE = 120.0
"""Seconds that a program may take to stop by itself: a training writes a checkpoint first."""
_OF_QGIS = (
    "PYTHONHOME", "PYTHONPATH", "PYTHONEXECUTABLE", "PYTHONSTARTUP", "PYTHONNOUSERSITE", "VIRTUAL_ENV",
    "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA", "GEOTIFF_CSV", "QT_PLUGIN_PATH",
)  # fmt: skip
"""Variables that make another Python, GDAL or PROJ load the files of those that QGIS brings."""
Line = tuple[str, Optional[str]]


@dataclass
class Done:
    """How a program ended.

    Parameters
    ----------
    code : int
        Its exit code, or the negative number of the signal that ended it.
    stdout : list of str
        The lines that it wrote there.
    cancelled : bool
        Whether it was asked to stop.
    """

    code: int
    stdout: list[str] = field(default_factory=list)
    cancelled: bool = False


def own_environment() -> dict[str, str]:
    """Return the environment for a Python that is not that of QGIS."""
    kept = {name: value for name, value in os.environ.items() if name.upper() not in _OF_QGIS}
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def run_program(
    words: Sequence[str],
    on_line: Callable[[str], Any],
    is_cancelled: Callable[[], bool],
    patience: float = PATIENCE,
    merged: bool = False,
) -> Done:
    """Run a program to its end, or until it is cancelled.

    Parameters
    ----------
    words : sequence of str
        The program and its arguments.
    on_line : callable
        Called with each line of stderr as it comes, in this thread.
    is_cancelled : callable
        Asked ten times a second. When it is true, the program gets an interrupt, as by Ctrl-C; after ``patience``
        seconds it is killed.
    patience : float
    merged : bool
        Call ``on_line`` with lines of stdout too, and keep none.

    Raises
    ------
    OSError
        If the program cannot be started.
    """
    process = _start(words)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.Queue[Line] = queue.Queue()
    streams = {"stdout": process.stdout, "stderr": process.stderr}
    for name, stream in streams.items():
        threading.Thread(target=_read, args=(name, stream, lines), daemon=True).start()
    done, is_open, stopping = Done(0), set(streams), _Stopping(process, patience)
    while is_open or process.poll() is None:
        if is_cancelled():
            done.cancelled = True
            stopping.go_on()
        try:
            name, line = lines.get(timeout=0.1)
        except queue.Empty:
            if process.poll() is not None and done.cancelled:
                break  # a child of it may hold the streams open
            continue
        if line is None:
            is_open.discard(name)
        elif name == "stderr" or merged:
            on_line(line)
        else:
            done.stdout.append(line)
    done.code = process.wait()
    for name in streams.keys() - is_open:
        streams[name].close()
    return done


def _start(words: Sequence[str]) -> subprocess.Popen[str]:
    how: dict[str, Any] = {"start_new_session": True}  # Ctrl-C where QGIS was started is not for the program
    if sys.platform == "win32":
        how = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=own_environment(),
        encoding="utf-8",
        errors="replace",
        **how,
    )


def _read(name: str, stream: IO[str], lines: queue.Queue[Line]) -> None:
    for line in stream:
        lines.put((name, line.rstrip("\n")))
    lines.put((name, None))


class _Stopping:
    """Asks a program to stop, and kills it when it has had time to."""

    def __init__(self, process: subprocess.Popen[str], patience: float) -> None:
        self._process, self._patience = process, patience
        self._since: float | None = None

    def go_on(self) -> None:
        """Ask it the first time, and later see how long that is ago."""
        if self._process.poll() is not None:
            return
        if self._since is None:
            self._since = time.monotonic()
            interrupt(self._process)
        elif time.monotonic() - self._since > self._patience:
            self._process.kill()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Have a program end as by Ctrl-C: by SIGINT, or CTRL_BREAK on Windows."""
    if sys.platform != "win32":
        process.send_signal(signal.SIGINT)
        return
    # Such events go to programs of the same console only. QGIS has none of its own where it is started by its icon.
    import ctypes

    kernel = ctypes.windll.kernel32
    kernel.FreeConsole()
    sent = kernel.AttachConsole(process.pid) and kernel.GenerateConsoleCtrlEvent(signal.CTRL_BREAK_EVENT, process.pid)
    kernel.FreeConsole()
    if not sent:
        process.terminate()
