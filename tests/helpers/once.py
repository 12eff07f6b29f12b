"""What is made once for all workers of a test run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

Made = TypeVar("Made")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """Make something in a folder, unless another worker did; tests that change it take a copy.

    Parameters
    ----------
    factory : pytest.TempPathFactory
        Knows the folder of this test run.
    name : str
        Tells it from all else that is made.
    make : callable
        Makes it, given a new folder. What it returns can be pickled, and goes to all workers.
    """
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    with FileLock(f"{place}.lock"):
        result = place.with_suffix(".pickle")
        if not result.exists():
            place.mkdir()  # which fails where it failed before
            made = make(place)
            result.write_bytes(pickle.dumps(made))
        found: Made = pickle.loads(result.read_bytes())
    return found
