"""Starting child processes, and judging what they said and left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from refnet_cli.model.weight_files import checksum
from tests.helpers import programs
from tests.helpers.programs import PATIENCE, ROOT, Process, run_python
from tests.helpers.scenes import CARD


@dataclass
class Ended:
    """How a child ended."""

    code: int
    """Exit code, or the negative number of the signal that killed it."""
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Scene:
    """A pair of files with weights and what an undisturbed run makes of them."""

    optical: Path
    sar: Path
    weights: Path
    sha256: str = ""
    tiles: int = 0

    def arguments(self, output: Path, *more: str) -> list[str]:
        """The command that maps it, also where an old file lies that is no map."""
        files = ["--optical", str(self.optical), "--sar", str(self.sar), "--weights", str(self.weights)]
        return ["predict", *files, "-o", str(output), "--overwrite", "--coreg", "off", "-q", *more]


def make_weights(path: Path) -> Path:
    """Write weights whose card is whole and whose checksum is right, and that hold no network; its tiles are small."""
    card = replace(CARD, tile=128, sha256="")
    tensors = {"x": np.arange(400, dtype=np.float32)}
    for _ in range(2):  # the checksum is known when the tensors are laid out
        path.write_bytes(save(tensors, metadata={"refnet": json.dumps(card.to_dict())}))
        card = replace(card, sha256=checksum(path))
    return path


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def child_environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def child_command(settings: dict[str, Any], arguments: list[str]) -> list[str]:
    """The command that runs refnet in a child of these settings; see `tests.faults.child`."""
    return [sys.executable, "-m", "tests.faults.child", json.dumps(settings), *arguments]


def start(settings: dict[str, Any], arguments: list[str], **popen: Any) -> Process:
    """Start refnet in a child; in one that begins by itself if its memory is reported or its streams are given."""
    if not popen and "report" not in settings:
        return programs.start(*child_command(settings, arguments)[1:], env=child_environment())
    popen = {"env": child_environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | popen
    popen = {"stdin": subprocess.DEVNULL, "cwd": ROOT} | popen
    return subprocess.Popen(child_command(settings, arguments), **popen)


def wait_for(path: Path, process: Process, lines: int = 0) -> None:
    """Wait until a file is there, and has some lines, or the process has ended."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        time.sleep(0.005)
    assert process.poll() is not None, f"{path} did not come within {PATIENCE} s"


def end(process: Process, began: float | None = None) -> Ended:
    """Wait for a child; kill it if that takes forever."""
    began = time.monotonic() if began is None else began
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out or "", err or "", time.monotonic() - began)


def run_child(
    settings: dict[str, Any], arguments: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Ended:
    """Run refnet in a child to its end; in one that begins without torch if its memory and modules are reported."""
    began, env = time.monotonic(), env or child_environment()
    if "report" in settings:
        return end(start(settings, arguments, cwd=cwd, env=env), began)
    done = run_python(*child_command(settings, arguments)[1:], cwd=cwd, env=env)
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def run_jobs(
    jobs: list[dict[str, Any]], noisy: bool = False, forked: bool = False, **environment: str
) -> dict[str, dict[str, Any]]:
    """Run commands in one child, which may begin with the libraries loaded and in memory; what came of each by name.

    Fails naming the job in which the child died or hung, and, unless ``noisy``, where libraries wrote to stderr past
    Python, as GDAL does when it closes what it could not write.
    """
    words, env = ["-m", "tests.faults.child", "jobs"], child_environment(**environment)
    seconds = PATIENCE + 5 * len(jobs)
    if forked:
        done = run_python(*words, env=env, stdin=json.dumps(jobs).encode(), seconds=seconds)
    else:
        done = subprocess.run(
            [sys.executable, *words], input=json.dumps(jobs), cwd=ROOT, capture_output=True, env=env, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines[-1].get("began") if lines else None
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        raise AssertionError(f"the process ended with {how} in job {last}:\n{done.stderr}")
    assert noisy or done.stderr == "", f"libraries wrote to stderr by themselves: {done.stderr[:500]}"
    return {line["name"]: line for line in lines if "name" in line}


def check_refusal(code: int, err: str, allowed: set[int], named: Path | None = None) -> None:
    """Hold a refusal against the rules: a code that fits, one line by refnet that names the file, no traceback."""
    assert code in allowed, f"exit code {code}: {err}"
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("refnet: "), err
    assert "bug" not in err.split(":")[1], err
    if named:
        assert named.name in err, f"{named.name} is not named: {err}"


@contextmanager
def network_trap() -> Iterator[tuple[dict[str, str], socket.socket]]:
    """Give an environment in which libraries, as polite ones do, go through a proxy, and the proxy's socket.

    Nothing answers there; that somebody called is seen by `was_called`.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        keys = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GDAL_HTTP_PROXY")
        yield dict.fromkeys(keys, address) | {"no_proxy": "", "NO_PROXY": "", "GDAL_HTTP_CONNECTTIMEOUT": "2"}, server


def was_called(server: socket.socket) -> bool:
    """Tell whether somebody connected."""
    try:
        connection, _ = server.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True
