"""What the tests share."""

from __future__ import annotations

import os
from pathlib import Path

# The networks of the tests are tiny: threads that wait for each other would cost more than they bring, all the more as
# several test processes share the processor. Must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real scenes and reference outputs that lies beside the checkout and is never part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds real scenes and reference outputs that are not part of the project")
    return folder
