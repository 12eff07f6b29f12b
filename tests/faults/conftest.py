"""Scenes on which faults are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.helpers import Scene, make_weights, run_child, sha256_of
from tests.helpers.scenes import make_pair


def prepare(folder_factory: pytest.TempPathFactory, height: int, width: int) -> Scene:
    folder = folder_factory.mktemp("scene")
    scene = Scene(*make_pair(folder, height, width), make_weights(folder / "w.safetensors"))
    notes = folder / "notes"
    ended = run_child({"notes": str(notes)}, scene.arguments(folder / "undisturbed.tif"))
    assert (ended.code, ended.err) == (0, "")
    tiles = sum(map(int, notes.read_text().split()))
    return replace(scene, sha256=sha256_of(folder / "undisturbed.tif"), tiles=tiles)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Of 15 tiles in 5 rows."""
    made = prepare(tmp_path_factory, 416, 240)
    assert made.tiles == 15
    return made


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Of one tile."""
    return prepare(tmp_path_factory, 96, 96)
