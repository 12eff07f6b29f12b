"""Lustre mounted without locks and the like: a run goes on, and warns."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.helpers.batches import ROOT, environment, refnet
from tests.helpers.shims import compile_shim

ERRORS = [
    errno.ENOSYS,
    pytest.param(errno.ENOLCK, marks=pytest.mark.long),
    pytest.param(errno.EOPNOTSUPP, marks=pytest.mark.long),
]


@pytest.mark.parametrize("number", ERRORS)
def test_the_run_goes_on_with_a_warning(shared: Path, tmp_path: Path, number: int) -> None:
    case = shared / "cases" / "no-file-locks"
    shim = compile_shim(case / "nolock.c", tmp_path)
    words = ["predict", "--optical", case / "s2.tif", "--sar", case / "s1.tif", "--coreg", "off", "-o", "map.tif"]
    words += ["--weights", ROOT / "weights" / "refnet-base.onnx"]  # starts sooner than torch
    done = refnet(*words, cwd=tmp_path, env=environment(LD_PRELOAD=shim, FLOCK_ERRNO=number))
    assert done.code == 0, done.err
    assert done.out == "map.tif\n"
    (warning,) = (line for line in done.err.splitlines() if line.startswith("! ") and "lock" in line)
    assert os.strerror(number) in warning
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", shim.name]
