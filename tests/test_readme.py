"""The README's training walk-through does what the README says, as it is written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

from tests.test_predict import shift_tiles

ROOT = Path(__file__).resolve().parents[1]


def read_commands() -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("let the weights that come along learn the sample scene")[1]
    commands = re.findall(r"^    (refnet .+)$", section.split("A regions file of your own")[0], re.MULTILINE)
    return [shlex.split(command)[1:] for command in commands]


def refnet(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "refnet_cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_walk_through_begins(tmp_path: Path) -> None:
    for name in ("sample_data", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    dry_run, evaluating, training, predicting = read_commands()
    assert "Crops" in refnet(tmp_path, *dry_run)
    assert refnet(tmp_path, *training, "--steps", "11", "--quiet").strip() == "runs/sample/sample.safetensors"
    assert [command[0] for command in (evaluating, predicting)] == ["evaluate", "predict"]


@pytest.mark.long
def test_the_walk_through_improves_on_the_weights_that_come_along(tmp_path: Path) -> None:
    for name in ("sample_data", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    _, evaluating, training, predicting = read_commands()
    before = json.loads(refnet(tmp_path, *evaluating, "--json"))
    card = json.loads(refnet(tmp_path, *training, "--json"))
    after = card["scores"]["validation"]
    assert after["pixels"] == before["pixels"]  # the same ground
    assert after["overall_accuracy"] > before["overall_accuracy"] + 0.2
    assert after["mean_iou"] > before["mean_iou"] + 0.2
    refnet(tmp_path, *predicting)
    found = json.loads(refnet(tmp_path, "evaluate", "runs/sample/lulc.tif", "sample_data/labels.tif", "--json"))
    assert found["overall_accuracy"] >= 0.90
    changed, valid, _ = shift_tiles(tmp_path / "runs" / "sample" / "sample.safetensors")
    assert changed[valid].mean() < 0.02


def test_the_program_without_refnet_makes_nearly_the_same_map(tmp_path: Path) -> None:
    """It does not reflect at the scene's borders, and SAR is warped in other blocks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(import json\n.+?)```", readme, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 27
    for name, place in (("s1.tif", "sample_data"), ("s2.tif", "sample_data"), ("refnet-small.onnx", "weights")):
        (tmp_path / name.replace("refnet-small", "model")).symlink_to(ROOT / place / name)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    command = "predict --optical s2.tif --sar s1.tif --weights model.onnx --overlap 0 -o own.tif -q"
    refnet(tmp_path, *command.split())
    with rasterio.open(tmp_path / "lulc.tif") as theirs, rasterio.open(tmp_path / "own.tif") as ours:
        assert theirs.transform == ours.transform
        agree = (theirs.read(1) == ours.read(1)).mean()
    assert agree > 0.99
