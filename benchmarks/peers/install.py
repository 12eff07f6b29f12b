"""Environments of the peers: one folder each, made by venv, with packages from the package registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import torch

LEAST_FREE = 3e9  # bytes
_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class NotInstalledError(RuntimeError):
    """A peer's packages cannot be installed."""


def install(folder: Path, packages: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """Make an environment with some packages, unless it is there already.

    What the running Python has, torch above all, is seen from there too and not downloaded again. pip installs other
    versions of it into the folder where a package needs them.

    Parameters
    ----------
    folder : Path
    packages : sequence of str
        Names for pip.

    Returns
    -------
    python : Path
        The environment's interpreter.
    versions : dict
        Installed versions of the packages, and of torch as seen from there.

    Raises
    ------
    NotInstalledError
        If the disk is nearly full or pip fails.
    """
    python, done = folder / "bin" / "python", folder / "versions.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < LEAST_FREE:
            raise NotInstalledError(f"{free / 1e9:.1f} GB free on disk, {LEAST_FREE / 1e9:.0f} GB needed")
        venv.create(folder, with_pip=False)
        libraries = Path(torch.__file__).parents[1]
        own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (own / "shared.pth").write_text(f"{libraries}\n")
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        done.write_text(_run(python, "-c", _VERSIONS, *packages, "torch"))
    return python, json.loads(done.read_text())


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotInstalledError(lines[-1][:300])
    return done.stdout
