"""What training says when it is done: what was kept, how good it is, and a next command that works."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.cli.main import commands
from refnet_cli.cli.terminal import ProgressBar, report_step
from refnet_cli.cli.train_text import describe_folds, describe_training
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.history import History, Step
from refnet_cli.training.result import TrainResult
from refnet_cli.training.run import Progress
from tests.helpers.messages import messages
from tests.helpers.scenes import CARD

OWN = Path("runs/my region")
SCENE = TrainScene(Path("s2.tif"), (Path("VV.tif"), Path("VH.tif")), Path("labels.tif"), name="north")
CONFIG = TrainConfig(scenes=(SCENE,), scheme="esri-io")
SCORES: dict[str, Any] = {
    "step": 120, "mean_iou": 0.9123, "overall_accuracy": 0.95, "labelled": {"Water": 12_345, "Flooded vegetation": 0},
    **{name: {"Water": 0.98, "Flooded vegetation": 0.5} for name in ("iou", "recall", "precision")},
}  # fmt: skip
CALIBRATION = {"temperature": 1.314, "ece_before": 0.0413, "ece_after": 0.0121}
PICTURES = tuple(OWN / f"{name}.png" for name in ("curves", "confusion", "tiles"))


def result(scores: dict[str, Any], steps: int = 150, pictures: tuple[Path, ...] = PICTURES) -> TrainResult:
    history = History([Step(number + 1, 0.1, 0.1, 0.1) for number in range(steps)])
    return TrainResult(OWN / "mine.safetensors", replace(CARD, scores=scores), history, pictures=pictures)


def test_the_summary() -> None:
    lines = describe_training(result({"validation": SCORES, "calibration": CALIBRATION}), CONFIG)
    assert lines == [
        "kept        step 120 of 150: mean IoU 0.912, overall accuracy 0.950",
        "                            IoU    recall precision     labelled",
        "  Water                   0.980     0.980     0.980       12,345",
        "  Flooded vegetation      0.500     0.500     0.500            0",
        "calibration temperature 1.31: calibration error 0.041 before, 0.012 with it",
        "pictures    runs/my region: curves.png, confusion.png, tiles.png",
        "next",
        "  refnet predict --optical s2.tif --sar VV.tif,VH.tif \\",
        "    --weights 'runs/my region/mine.safetensors' -o 'runs/my region/lulc.tif'",
    ]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"validation": SCORES | {"step": 0}}, "kept        the start: mean IoU 0.912"),
        ({"validation": SCORES}, "calibration none: fewer than 1,000 labelled pixels are held out"),
        ({}, "the network of step 150; nothing is held out, so there are no scores"),
    ],
)
def test_what_is_kept_and_known(scores: dict[str, Any], said: str) -> None:
    lines = describe_training(result(scores, pictures=()), CONFIG)
    assert said in "\n".join(lines)
    assert not [line for line in lines if "pictures" in line]
    assert max(map(len, lines)) <= 80


def test_the_next_command_repeats_what_was_said_of_the_scene() -> None:
    """Of a scene that is scored, where there is one; refnet predict takes all of it."""
    radar = TrainScene(
        sar=Path("a b/s1.tif"), labels=Path("l.tif"), name="radar", split="validation", sar_scale="db", strict=True,
        sar_bands=("1", "2"), bounds=("1", "2", "3", "4"), stac={"a": "b"},
    )  # fmt: skip
    text = "\n".join(describe_training(result({}), replace(CONFIG, scenes=(SCENE, radar))))
    words = shlex.split(text.partition("\nnext\n")[2].replace("\\\n", ""))
    options = "--sar 'a b/s1.tif' --sar-bands 1,2 --sar-scale db --strict --bounds 1,2,3,4 --weights"
    assert words[:2] == ["refnet", "predict"]
    assert words[2:-3] == shlex.split(options)
    commands.commands["predict"].make_context("predict", words[2:])  # which parses, and reads nothing


def test_the_scores_of_folds() -> None:
    scored = {"pixels": 1234, "overall_accuracy": 0.91, "mean_iou": 0.8}
    lines = describe_folds({"folds": {"north": scored, "south": {"pixels": 0}}, "pooled": scored})
    assert [line.split() for line in lines[1:]] == [
        ["north", "1,234", "0.910", "0.800"], ["south", "0", "-", "-"], ["all", "together", "1,234", "0.910", "0.800"],
    ]  # fmt: skip


def test_time_left_is_that_of_the_steps_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of what an interrupted run did before, nor of the fold before this one."""
    now = [0.0]
    monkeypatch.setattr("refnet_cli.cli.terminal.time.monotonic", lambda: now[0])
    with messages() as said, ProgressBar("steps", quiet=False) as bar:
        for step in (*range(41, 101), *range(1, 101)):
            now[0] += 1
            report_step(bar, Progress(step, 100, 0.5, 0.25, 40))
    assert said[1:3] == [
        "steps 50% (50 of 100), 50.0 s left, loss 0.500, mIoU 0.250 at step 40",
        "steps 60% (60 of 100), 40.0 s left, loss 0.500, mIoU 0.250 at step 40",
    ]
    assert [line.split(", ")[1] for line in said if "(20 of 100)" in line] == ["1:20 min left"]
    assert len([line for line in said if line.startswith("steps 100%")]) == 2
