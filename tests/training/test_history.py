"""History: what is kept comes back, and the tables say the same however often a training was interrupted."""

from __future__ import annotations

import csv
import importlib.util
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.errors import OutputError
from refnet_cli.training.history import OVERALL, History, HistoryFiles, Step


def scores(step: int, mean_iou: float, **iou: float) -> dict[str, Any]:
    return {"step": step, **dict.fromkeys(OVERALL, 0.5), "mean_iou": mean_iou, "iou": iou}


STEPS = [Step(number, 1 / number, 0.01, 1e-3) for number in range(1, 6)]
VALIDATIONS = [scores(2, 0.3, Water=0.1), scores(4, 0.6, Water=0.2, Trees=0.9), scores(5, 0.6, Water=0.3)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def write_all(folder: Path, history: History) -> None:
    with closing(HistoryFiles(folder, history)) as files:
        for step in STEPS[len(history.steps) :]:
            files.add_step(step)
        for found in VALIDATIONS[len(history.validations) :]:
            files.add_validation(found)


def test_the_best_is_the_first_of_equals() -> None:
    history = History(STEPS, VALIDATIONS)
    assert history.best == VALIDATIONS[1]
    assert history.since_best == 1
    assert History().best is None
    assert History().since_best == 0


def test_the_start_may_be_the_best_but_ends_no_training() -> None:
    """Validations without a better one are counted from the first of what was trained."""
    start, *_ = found = [scores(0, 0.7), *VALIDATIONS]
    history = History(STEPS, found)
    assert (history.start, history.best, history.best_trained) == (start, start, VALIDATIONS[1])
    assert history.since_best == 1
    assert History(STEPS, VALIDATIONS).start is None
    only = History([], [start])
    assert (only.best, only.best_trained, only.since_best) == (start, None, 0)


def test_what_is_kept_comes_back() -> None:
    history = History()
    history.load_state_dict(History(STEPS, VALIDATIONS).state_dict())
    assert history == History(STEPS, VALIDATIONS)


@pytest.mark.parametrize("done", [0, 2, 5])
def test_tables_are_the_same_after_an_interruption(tmp_path: Path, done: int) -> None:
    """A row with a class that is new makes the table wider; what was written after the checkpoint is written again."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        write_all(tmp_path / name, History())
    write_all(tmp_path / "parts", History(STEPS[:done], VALIDATIONS[: done // 2]))
    for table in ("steps.csv", "validations.csv"):
        assert read(tmp_path / "parts" / table) == read(tmp_path / "whole" / table)
    rows = read(tmp_path / "whole" / "steps.csv")
    assert [float(row["loss"]) for row in rows] == [step.loss for step in STEPS]
    rows = read(tmp_path / "whole" / "validations.csv")
    assert [row["iou Trees"] for row in rows] == ["", "0.9", ""]
    assert [row["step"] for row in rows] == ["2", "4", "5"]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_all(tmp_path, History())
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("steps/loss")] == pytest.approx([step.loss for step in STEPS])
    assert [event.step for event in events.Scalars("validations/mean_iou")] == [2, 4, 5]


def test_without_tensorboard_there_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_all(tmp_path, History())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["steps.csv", "validations.csv"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"steps\.csv cannot be created"):
        HistoryFiles(tmp_path / "none", History())
