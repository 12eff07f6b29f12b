"""Commands of refnet and Python programs, run to their end in processes that begin with the libraries loaded.

What a process reads at its very start, as ``-W``, signals, limits, streams that are closed, and the libraries that it
imports, are for tests that start one themselves.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds after which a test gives up on a process
AT_START = ("CUDA", "GOMP", "HF_", "LANG", "LC_", "LD_", "MALLOC", "MKL", "MPL", "NUMBA", "OMP", "OPENBLAS", "PYTHON",
            "TORCH")  # fmt: skip
"""Beginnings of variables that the interpreter and the libraries read as they are loaded."""
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
        streams = given.fileno(), out.fileno(), err.fileno()
        if sys.platform == "linux" and _at_start(env) == _at_start(environment()):
            code = fork(address(), arguments, cwd, env, streams, seconds)
        else:
            code = _start(arguments, cwd, env, streams, seconds)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


def _at_start(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def _start(arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams, seconds: float) -> int:
    stdin, stdout, stderr = streams
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, timeout=seconds)
    return done.returncode


def fork(
    where: str, arguments: list[str], cwd: Path, env: dict[str, str], streams: Streams, seconds: float | None = None
) -> int:
    """Have the fork server at a socket run a program, and return its exit code or the negative number of its signal."""
    request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(where)
        socket.send_fds(server, [request[:1]], streams)
        server.sendall(request[1:])
        server.settimeout(seconds)
        try:
            answer = server.recv(16)
        except TimeoutError:
            server.shutdown(socket.SHUT_WR)
            server.settimeout(None)
            server.recv(16)
            raise subprocess.TimeoutExpired(arguments, seconds or 0) from None
    return int(answer)


@cache
def address() -> str:
    """Path of the socket of this process's fork server, which starts when first asked for and ends with the process."""
    folder = tempfile.mkdtemp(prefix="refnet-")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server", str(listener.fileno())],
            cwd=ROOT, env=environment(JE_ARROW_MALLOC_CONF="background_thread:false"),  # pyogrio brings pyarrow
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[listener.fileno()],
        )  # fmt: skip
    assert server.stdout
    assert server.stdout.read(1), "the fork server did not start"

    atexit.register(server.communicate)
    return f"{folder}/s"


def write_command(path: Path) -> None:
    """Write a program that shells can call as ``refnet``, and that the fork server runs."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -m tests.helpers.programs "{address()}" "$@"\n')
    path.chmod(0o755)


if __name__ == "__main__":
    sys.exit(fork(sys.argv[1], ["-m", "refnet_cli", *sys.argv[2:]], Path.cwd(), dict(os.environ), (0, 1, 2)))
