"""Settings of the plugin, in the user's profile."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsApplication, QgsSettings

from .environment import PACKAGE, find_program

PROGRAM, PYTHON, PACKAGES = "refnet/program", "refnet/python", "refnet/package"
"""Keys: path of the program, path of the Python to install with, what pip installs."""


def read_setting(key: str) -> str:
    """Return a setting; "" where there is none, but for what to install."""
    found = str(QgsSettings().value(key, "") or "").strip()
    return found or (PACKAGE if key == PACKAGES else "")


def write_setting(key: str, value: str) -> None:
    """Keep a setting; what is the default anyway is not kept, and so changes with the plugin."""
    if value in ("", PACKAGE):
        QgsSettings().remove(key)
    else:
        QgsSettings().setValue(key, value)


def environment_folder() -> Path:
    """Return the folder of the environment that the plugin installs."""
    return Path(QgsApplication.qgisSettingsDirPath()) / "refnet" / "environment"


def chosen_program() -> Path:
    """Return the program to run.

    Raises
    ------
    EnvironmentProblem
        If there is none.
    """
    return find_program(read_setting(PROGRAM), environment_folder())
