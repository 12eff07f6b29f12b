"""The benchmarks run: their figures are another matter."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scene import measure_free


def test_a_small_scene_is_measured(tmp_path: Path) -> None:
    row = measure_free(tmp_path, 512, repeats=1)
    assert row.keys() == {"what", "seconds", "other_seconds", "ratio", "limit", "peak_mb", "peak_mb_limit"}
    assert 0 < float(row["peak_mb"]) < 2000
