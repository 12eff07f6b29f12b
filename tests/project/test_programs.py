"""Programs that are forked with the libraries loaded are as those that begin by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.programs import ROOT, environment, refnet, run_python
from tests.helpers.quick import few

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux only")
BY_ITSELF = {"MPLBACKEND": "agg"}
"""What is read as libraries are loaded, and so has a program begin by itself."""
AROUND = """
import os, sys
print(sys.argv, sys.path[0], os.getcwd(), sys.stdin.read(), __name__, vars(sys.modules["__main__"]) is globals())
print(*(f"{name}={value}" for name, value in os.environ.items() if name[:4] in ("MINE", "REFN")))
print([stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)], file=sys.stderr)
"""
ENDS = {
    "success": ("-m", "refnet_cli", "weights", "list"),
    "usage error": ("-m", "refnet_cli", "predikt"),
    "refusal": ("-m", "refnet_cli", "inspect", "--optical", "none.tif"),
    "module": ("-m", "json.tool", "--sort-keys", "-"),
    "no module": ("-c", "import nothing"),
    "crash": ("-c", "print('before')\ndef deep():\n    1 / 0\ndeep()"),
    "exit code": ("-c", "import sys; print('before'); sys.exit(7)"),
    "exit text": ("-c", "import sys; sys.exit('all is lost')"),
    "exit at once": ("-c", "import os; os._exit(9)"),
    "at exit": ("-c", "import atexit, threading, time; atexit.register(print, 'last')\n"
                "threading.Thread(target=lambda: (time.sleep(0.2), print('first'))).start()"),
    "kill": ("-c", "import os; os.kill(os.getpid(), 9)"),
    "surroundings": ("-c", AROUND, "one", "two words", ""),
}  # fmt: skip


def both(*words: str, cwd: Path, stdin: bytes = b"", **env: str) -> list[tuple[int, str, str]]:
    """How a program ends that is forked, and how one that begins by itself."""
    ended = (run_python(*words, cwd=cwd, stdin=stdin, env=environment(**env, **more)) for more in ({}, BY_ITSELF))
    return [(done.returncode, done.stdout, done.stderr) for done in ended]


@pytest.mark.parametrize("end", few(ENDS, "crash", "exit text", "at exit", "kill"))
def test_it_ends_as_one_that_begins_by_itself(end: str, tmp_path: Path) -> None:
    forked, other = both(*ENDS[end], cwd=tmp_path, stdin=b'{"b": 1, "a": 2}', MINE="1")
    assert forked == other
    assert (forked[0] == 0) == (end in ("success", "module", "at exit", "surroundings"))
    assert any(forked[1:]) or end in ("exit at once", "kill")


INSIDE = """
import json, os, sys
files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if int(name) > 2]
files = [file for file in files if os.path.exists(file)]  # not the list itself
print(json.dumps({"timm": "timm" in sys.modules, "threads": len(os.listdir("/proc/self/task")), "files": files}))
"""


def test_it_has_the_libraries_and_one_thread_and_nothing_of_the_server() -> None:
    forked, other = (json.loads(out) for _, out, _ in both("-c", INSIDE, cwd=ROOT))
    assert (forked["timm"], other["timm"]) == (True, False)
    assert forked["threads"] == 1
    # PROJ opens it again after a fork.
    assert {Path(file).name for file in forked["files"]} <= {"proj.db"}


def test_variables_are_its_own() -> None:
    assert run_python("-c", "import os; os.environ['MINE'] = '1'; os.chdir('/')").returncode == 0
    assert run_python("-c", "import os; print(os.environ.get('MINE'), os.getcwd())").stdout == f"None {ROOT}\n"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_the_end_of(pid: int) -> None:
    until = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < until, f"{pid} lives on"
        time.sleep(0.02)


@pytest.mark.long
def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", code, tmp_path / "pid", seconds=1)
    assert not lives(int((tmp_path / "pid").read_text()))
    assert refnet("--version").returncode == 0


def pids_in(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@pytest.mark.long
def test_the_server_ends_with_who_started_it(tmp_path: Path) -> None:
    """And with it a program that still runs."""
    inner = "import os, time; print(os.getpid(), os.getppid(), file=open('pids', 'w'), flush=True); time.sleep(600)"
    how = f"cwd={str(tmp_path)!r}, seconds=600"
    code = f"from tests.helpers.programs import run_python\nrun_python('-c', {inner!r}, {how})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment()) as process:
        until = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < until and len(pids_in(tmp_path)) < 2:
            time.sleep(0.02)
        process.kill()
    pids = pids_in(tmp_path)
    assert len(pids) == 2
    for pid in pids:
        wait_for_the_end_of(pid)
