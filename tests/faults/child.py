"""What runs in a child process: the command line tool with a free engine, its peak memory, sockets and deaths watched.

``python -m tests.faults.child SETTINGS ARGUMENTS...`` is ``refnet ARGUMENTS...``; ``python -m tests.faults.child jobs``
reads a JSON list of jobs from stdin and runs one after the other in the same process. Torch is not imported here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import refnet_cli.prediction.predict
from refnet_cli.cli import main as cli
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import default_weights, read_card
from tests.helpers.limits import permissions_hold

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}
SECONDS = 10  # that a job may take


class FreeEngine:
    """Answers at a pixel by that pixel's optical values alone; may be slow, wait, or die; notes each call in a file."""

    def __init__(self, card: Card, settings: dict[str, Any]) -> None:
        self.card, self.batch = card, settings.get("batch", 1)
        self.about = {"device": "none"}
        self._settings, self._calls = settings, 0

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        self._calls += 1
        if notes := self._settings.get("notes"):
            with open(notes, "a") as file:
                file.write(f"{len(optical)}\n")
        if self._calls == self._settings.get("kill_at_call"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._settings.get("sleep", 0))
        while (release := self._settings.get("release")) and not os.path.exists(release):
            time.sleep(0.01)
        bands = min(optical.shape[1], self.card.network.classes - 1)
        shares = np.zeros((len(optical), self.card.network.classes, *optical.shape[2:]), np.float32)
        shares[:, 1 : bands + 1] = np.nan_to_num(optical[:, :bands], nan=1.0) + 9
        return np.asarray(shares / shares.sum(1, keepdims=True))


def use_free_engine(settings: dict[str, Any]) -> None:
    """Have `refnet predict` compute with a free engine."""
    real = refnet_cli.prediction.predict.predict

    def predict(options: Any, engine: Any = None, *others: Any, **named: Any) -> Any:
        return real(options, FreeEngine(read_card(options.weights or default_weights()), settings), *others, **named)

    refnet_cli.prediction.predict.predict = predict


class Watch:
    """Notes what the process asks of the network, and dies before its n-th change of files in a folder."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.network: list[str] = []
        self.changes: list[str] = []
        self._folder, self._last = settings.get("watched"), settings.get("kill_at_change")
        sys.addaudithook(self._note)
        sync = os.fsync

        def noted(descriptor: int) -> None:
            if self._folder:
                self._change(f"fsync {os.path.realpath(f'/proc/self/fd/{descriptor}')}")
            sync(descriptor)

        os.fsync = noted

    def _note(self, event: str, given: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
            self.network.append(event)
        if self._folder is None:
            return
        writes = event == "open" and given[2] and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in CHANGES:
            self._change(f"{event} {given[0]}")

    def _change(self, what: str) -> None:
        if str(self._folder) not in what:
            return
        self.changes.append(what)
        if len(self.changes) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def peak_megabytes() -> float:
    """Return the most memory that this process had at once, without what its parent had before the exec."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) / 1024


def run_command(settings: dict[str, Any], arguments: list[str]) -> None:
    """Run the tool as its entry point does, and write down how it went."""
    watch = Watch(settings)
    if settings.get("free", True):
        use_free_engine(settings)
    sys.argv = ["refnet", *arguments]
    if ready := settings.get("ready"):
        Path(ready).touch()
    try:
        with permissions_hold() if settings.get("permissions_hold") else contextlib.nullcontext():
            cli.main()
    finally:
        if report := settings.get("report"):
            found = {"megabytes": peak_megabytes(), "torch": "torch" in sys.modules}
            Path(report).write_text(json.dumps(found | {"network": watch.network, "changes": watch.changes}))


def run_jobs(jobs: list[dict[str, Any]], say: Callable[[dict[str, Any]], None]) -> None:
    """Run commands one after the other, each with its limit on the size of files and at most some seconds."""
    use_free_engine({})
    cli.pass_over_what_is_no_text()  # as `cli.main` does
    warnings.simplefilter("always")  # not only the first time
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)  # as Python does by itself
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for job in jobs:
        say({"began": job["name"]})
        out, err = io.StringIO(), io.StringIO()
        signal.alarm(SECONDS)
        began = time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            resource.setrlimit(resource.RLIMIT_FSIZE, (job.get("limit", soft), hard))
            try:
                code = cli.run(job["arguments"])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.alarm(0)
        say({"name": job["name"], "code": code, "err": err.getvalue(), "seconds": time.monotonic() - began,
             "megabytes": peak_megabytes()})  # fmt: skip


def main() -> None:
    """Run what the command line says."""
    if sys.argv[1] == "jobs":
        stdout = sys.stdout

        def say(line: dict[str, Any]) -> None:
            stdout.write(json.dumps(line) + "\n")
            stdout.flush()

        run_jobs(json.load(sys.stdin), say)
    else:
        run_command(json.loads(sys.argv[1]), sys.argv[2:])


if __name__ == "__main__":
    main()
