"""NUMBA_DISABLE_JIT=1: the kernel of plain torch is used, which is said; asked for, the other one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.batches import environment, refnet


@pytest.mark.long
def test_the_next_kernel_is_used(shared: Path, tmp_path: Path) -> None:
    case = shared / "cases" / "numba-jit-switched-off"
    words = ["predict", "--optical", case / "s2.tif", "--sar", case / "s1.tif", "--coreg", "off", "-o", "map.tif"]
    env = environment(NUMBA_DISABLE_JIT=1)
    done = refnet(*words, cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    (warning,) = (line for line in done.err.splitlines() if line.startswith("! ") and "NUMBA" in line)
    assert "unset it" in warning
    asked = refnet(*words, "--scan", "cpu", cwd=tmp_path, env=env)
    assert asked.code == 69
    assert "NUMBA_DISABLE_JIT" in asked.err
    assert "--scan torch" in asked.err
