"""Commands of refnet and Python programs, run to their end in processes that begin with the libraries loaded.

What a process reads at its very start, as ``-W``, signals, limits, streams that are closed, and the libraries that it
imports, are for tests that start one themselves.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.helpers.fork_server import PID

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds after which a test gives up on a process
AT_START = ("CUDA", "GOMP", "HF_", "LANG", "LC_", "LD_", "MALLOC", "MKL", "MPL", "NUMBA", "OMP", "OPENBLAS", "PYTHON",
            "TORCH")  # fmt: skip
"""Beginnings of variables that the interpreter and the libraries read as they are loaded."""
SERVER = "REFNET_TESTS_FORK_SERVER"
"""Variable with the socket's path."""
Done = subprocess.CompletedProcess[str]
Streams = tuple[int, int, int]


def environment(**more: object) -> dict[str, str]:
    """Of processes that run this checkout's code, in one thread each."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "REFNET_"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | {key: str(value) for key, value in more.items()}


def refnet(*words: object, **how: object) -> Done:
    """Run a command of refnet; for ``how`` see `run_python`."""
    return run_python("-m", "refnet_cli", *words, **how)  # type: ignore[arg-type]


def run_python(
    *words: object, cwd: Path = ROOT, env: dict[str, str] | None = None, stdin: bytes = b"", seconds: float = PATIENCE
) -> Done:
    """Run Python with the words ``-m module ...`` or ``-c program ...``.

    Raises
    ------
    subprocess.TimeoutExpired
        If it took too long. It is dead then.
    """
    arguments, env = list(map(str, words)), env or environment()
    reading, writing = os.pipe()
    assert os.write(writing, stdin) == len(stdin)  # which a pipe holds until it is read
    os.close(writing)
    with os.fdopen(reading) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = run_program(arguments, cwd, env, (given.fileno(), out.fileno(), err.fileno()), seconds)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


def _can_fork(env: dict[str, str]) -> bool:
    return sys.platform == "linux" and _at_start(env) == _at_start(environment())


def run_program(arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams, seconds: float) -> int:
    """Run Python with streams of the caller's, and return its exit code or the negative number of its signal.

    Raises
    ------
    subprocess.TimeoutExpired
        If it took too long. It is dead then.
    """
    if _can_fork(env):
        return fork(address(), arguments, cwd, env, streams, seconds)
    return _start(arguments, cwd, env, streams, seconds)


def _at_start(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def _start(arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams, seconds: float) -> int:
    stdin, stdout, stderr = streams
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, timeout=seconds)
    return done.returncode


class Forked:
    """A program that the fork server at a socket runs, with what tests need of a `subprocess.Popen`."""

    def __init__(self, where: str, arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams) -> None:
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode() + b"\n"
        self.args = arguments
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(where)
        socket.send_fds(self._server, [request[:1]], streams)
        self._server.sendall(request[1:])
        pid = self._server.recv(PID, socket.MSG_WAITALL)
        assert pid, "the fork server did not start"
        self.pid = int(pid)

    def poll(self) -> int | None:
        """Exit code or the negative number of the signal that ended it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, some seconds at most."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._server.recv(16))
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Started(Forked):
    """One that was started by `start`."""

    def __init__(self, arguments: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._written = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        with open(os.devnull) as given:
            streams = given.fileno(), self._written[0].fileno(), self._written[1].fileno()
            super().__init__(address(), arguments, cwd, env, streams)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return stdout and stderr."""
        self.wait(timeout)
        texts = []
        for file in self._written:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return texts[0], texts[1]


Process = Started | subprocess.Popen[str]


def start(*words: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Process:
    """Start Python with the words ``-m module ...`` or ``-c program ...``, without input; it has to be waited for."""
    arguments, env = list(map(str, words)), env or environment()
    if _can_fork(env):
        return Started(arguments, cwd, env)
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def fork(
    where: str, arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams, seconds: float | None = None
) -> int:
    """Have the fork server at a socket run a program, and return its exit code or the negative number of its signal."""
    program = Forked(where, arguments, cwd, env, streams)
    try:
        return program.wait(seconds)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        raise


@cache
def address() -> str:
    """Path of the socket of the fork server: that of the test run, or this process's own, which ends with the process.

    Whoever asks before its libraries are loaded waits for them.
    """
    return os.environ.get(SERVER) or _start_server()


def share_server() -> None:
    """Start the fork server of the processes that this one starts, which find it in their environment."""
    os.environ[SERVER] = _start_server()


def _start_server() -> str:
    folder = tempfile.mkdtemp(prefix="refnet-")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server", str(listener.fileno())],
            cwd=ROOT, env=environment(JE_ARROW_MALLOC_CONF="background_thread:false"),  # pyogrio brings pyarrow
            stdin=subprocess.PIPE, pass_fds=[listener.fileno()],
        )  # fmt: skip
    atexit.register(server.communicate)
    return f"{folder}/s"


def write_command(path: Path, *words: str) -> None:
    """Write a program that the fork server runs: ``refnet``, or Python with some words."""
    words = sys.executable, "-S", "-m", "tests.helpers.programs", address(), *(words or ("-m", "refnet_cli"))
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


if __name__ == "__main__":
    sys.exit(fork(sys.argv[1], sys.argv[2:], Path.cwd(), dict(os.environ), (0, 1, 2)))
