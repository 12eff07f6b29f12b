"""Freed memory stays with the process and waiting threads sleep, where that can be arranged."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Takes and frees the same large piece of memory, and counts the pages that the system had to provide.
CODE = """
import resource, sys
import numpy as np
from refnet_cli.system.process import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
np.ones(2**25, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**25, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(what: str) -> tuple[bool, int]:
    done = subprocess.run([sys.executable, "-c", CODE, what], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_the_same_memory_is_taken_again() -> None:
    kept, count = pages("keep")
    if not kept:
        pytest.skip("this system's allocator is not glibc's")
    assert 20 * count < pages("leave")[1]


@pytest.mark.long
@pytest.mark.parametrize(("given", "turns"), [(None, "2000"), pytest.param("7", "7", marks=pytest.mark.long)])
def test_the_threads_of_a_command_wait_idly(given: str | None, turns: str) -> None:
    """GNU's OpenMP itself says what it was told when it was loaded."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"GOMP_SPINCOUNT": given} if given else {})
    code = "from refnet_cli.cli import main\nmain.run = lambda words: bool(__import__('torch')) - 1\nmain.main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this system's OpenMP is not GNU's")
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr
