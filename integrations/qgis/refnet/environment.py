"""Finds the program refnet, and installs it into an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Optional

from .program import own_environment, run_program
from .roles import ABOUT

PACKAGE = f"refnet-cli[torch,fetch]=={ABOUT['version']}"
"""What is installed where the settings name nothing else."""
PYTHONS = (3, 11), (3, 13)
"""First and last version of Python that refnet runs on."""
_IS_WINDOWS = os.name == "nt"
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")  # pip --progress-bar raw
_COLLECTING = re.compile(r"Collecting (\S+)|Downloading (\S+)|(Installing collected packages)")
Report = Callable[[str, Optional[float]], None]
"""Called with a line and, where it is known, the share of a download that is done, from 0 to 1."""


class EnvironmentProblem(Exception):
    """The program is not there, or cannot be installed; the message says what to do."""


def program_in(folder: Path, name: str = "refnet") -> Path:
    """Return the path of a program of the virtual environment in a folder."""
    return folder / ("Scripts" if _IS_WINDOWS else "bin") / (f"{name}.exe" if _IS_WINDOWS else name)


def find_program(chosen: str, folder: Path) -> Path:
    """Return the program to run: the chosen one, else the installed one, else the one on the path.

    Parameters
    ----------
    chosen : str
        Path in the settings, or "".
    folder : Path
        Where `install` installs.

    Raises
    ------
    EnvironmentProblem
        If there is none, or the chosen one is no program.
    """
    where = "Settings > Options > refnet"
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise EnvironmentProblem(f"{chosen} is not a file. Choose the program refnet under {where}.")
        if not os.access(path, os.X_OK):
            raise EnvironmentProblem(f"{chosen} is not a program. Choose the program refnet under {where}.")
        return path
    if program_in(folder).is_file():
        return program_in(folder)
    on_path = shutil.which("refnet")
    if on_path is None:
        raise EnvironmentProblem(
            f"The program refnet is not installed. Install it under {where}, or choose its path there."
        )
    return Path(on_path)


def version_of(program: Path) -> str:
    """Return the version of a program refnet.

    Raises
    ------
    EnvironmentProblem
        If it does not state one.
    """
    try:
        done = subprocess.run(
            [str(program), "--version"], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            errors="replace", env=own_environment(), timeout=120, **_no_window(),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentProblem(f"{program} cannot be run: {error}.") from error
    stated = re.search(r"refnet, version (\S+)", done.stdout)
    if done.returncode or not stated:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise EnvironmentProblem(f"{program} is not refnet, or is damaged (exit code {done.returncode}): {said}")
    return stated[1]


def _no_window() -> dict[str, int]:
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}


def find_python(chosen: str = "") -> Path:
    """Return a Python to make an environment with.

    Raises
    ------
    EnvironmentProblem
        If the chosen one, or all that are found, have versions that refnet does not run on.
    """
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    candidates = [Path(chosen)] if chosen else list(_pythons())
    for path in candidates:
        version = _python_version(path)
        if version is not None and PYTHONS[0] <= version <= PYTHONS[1]:
            return path
    what = f"{chosen} is not Python {first} to {last}" if chosen else f"No Python {first} to {last} was found"
    raise EnvironmentProblem(f"{what}. Install one from python.org or the system's packages, and choose it here.")


def _pythons() -> Iterator[Path]:
    """Yield what may be a Python: the one QGIS runs on, those on the path, those of the launcher of Windows."""
    # In QGIS, sys.executable may be QGIS itself.
    yield from (Path(sys.exec_prefix) / name for name in ("python.exe", "python3.exe", "bin/python3"))
    for minor in range(PYTHONS[1][1], PYTHONS[0][1] - 1, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield Path(found)
        if _IS_WINDOWS and (launcher := shutil.which("py")):
            asked = [launcher, f"-3.{minor}", "-c", "import sys; print(sys.executable)"]
            done = subprocess.run(asked, capture_output=True, encoding="utf-8", env=own_environment(), **_no_window())
            if done.returncode == 0:
                yield Path(done.stdout.strip())
    yield from (Path(found) for found in map(shutil.which, ("python3", "python")) if found)


def _python_version(path: Path) -> tuple[int, int] | None:
    """Return the version of a Python that can make environments with pip, or None."""
    if not path.is_file():
        return None
    program = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(path), "-c", program], capture_output=True, encoding="utf-8", env=own_environment(), timeout=60,
            **_no_window(),
        )  # fmt: skip
        major, minor = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return major, minor


def install(
    folder: Path, package: str, python: str, report: Report, is_cancelled: Callable[[], bool] = lambda: False
) -> str:
    """Install refnet into a virtual environment, in place of what is there.

    Parameters
    ----------
    folder : Path
        Of the environment.
    package : str
        What pip installs, as ``refnet-cli[torch,fetch]`` or the path of a wheel; further words are options of pip.
    python : str
        Path of a Python; "" finds one.
    report : callable
    is_cancelled : callable

    Returns
    -------
    str
        The version that is installed.

    Raises
    ------
    EnvironmentProblem
        If a step fails, or it is cancelled. What is left cannot be taken for the program.
    """
    found = find_python(python)
    report(f"making an environment with {found} in {folder}", None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run = _Step(report, is_cancelled)
    run([str(found), "-m", "venv", "--clear", str(folder)])
    pip = [str(program_in(folder, "python")), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        run([*pip, "install", "--upgrade", "pip>=24.1"])  # from which on it tells how much is downloaded
        how = ["--progress-bar", "raw"]
    except EnvironmentProblem:
        if is_cancelled():
            raise
        how = []
    run([*pip, "install", *how, *split_words(package)])
    return version_of(program_in(folder))


class _Step:
    """Runs a step of an installation, and fails with the last lines of what it wrote."""

    def __init__(self, report: Report, is_cancelled: Callable[[], bool]) -> None:
        self._report, self._is_cancelled = report, is_cancelled
        self._current = ""

    def __call__(self, words: Sequence[str]) -> None:
        written: list[str] = []

        def on_line(line: str) -> None:
            if progress := _PROGRESS.match(line):
                done, total = map(int, progress.groups())
                self._report(self._current, done / total if total else None)
                return
            written.append(line)
            if _COLLECTING.match(line.strip()):
                self._current = line.strip()[:120]
                self._report(self._current, None)

        try:
            done = run_program(words, on_line, self._is_cancelled, merged=True)
        except OSError as error:
            raise EnvironmentProblem(f"{words[0]} cannot be run: {error}.") from error
        if done.cancelled:
            raise EnvironmentProblem("The installation was cancelled.")
        if done.code:
            said = "\n".join(written[-12:])
            raise EnvironmentProblem(f"{' '.join(words[1:4])} failed with exit code {done.code}:\n{said}")


def split_words(text: str) -> list[str]:
    """Split what pip is to install between blanks that are outside of quotes; backslashes are those of paths."""
    return [one.strip("\"'") for one in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", text)]
