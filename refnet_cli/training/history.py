"""Losses and scores of a training: in the checkpoint, in CSV files, and for TensorBoard if it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from refnet_cli.system.atomic import explain

OVERALL = ("overall_accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "kappa")


class Step(NamedTuple):
    """One step of a training."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Main loss."""
    auxiliary_loss: float
    learning_rate: float


@dataclass
class History:
    """Losses of all steps and scores of all validations; part of a checkpoint."""

    steps: list[Step] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Scores with their ``step``, which is 0 for weights that a training starts from."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the highest mean IoU; the first one if several are equal."""
        return _best(self.validations)

    @property
    def start(self) -> dict[str, Any] | None:
        """The validation of the initial weights, before the first step."""
        return next((scores for scores in self.validations if not scores["step"]), None)

    @property
    def best_trained(self) -> dict[str, Any] | None:
        """The best validation after the first step."""
        return _best(self._trained)

    @property
    def since_best(self) -> int:
        """Number of validations since the best one, without that of the initial weights."""
        best = self.best_trained
        return len(self._trained) - 1 - self._trained.index(best) if best else 0

    @property
    def _trained(self) -> list[dict[str, Any]]:
        return [scores for scores in self.validations if scores["step"]]

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain lists."""
        return {"steps": [tuple(step) for step in self.steps], "validations": list(self.validations)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.steps = [Step(*step) for step in state["steps"]]
        self.validations = list(state["validations"])


def _best(validations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return max(validations, key=lambda scores: float(scores["mean_iou"]), default=None)


class HistoryFiles:
    """Writes a history during training: ``steps.csv``, ``validations.csv`` and a folder ``tensorboard``.

    Parameters
    ----------
    folder : Path
    history : History
        Steps and validations so far; both tables are rewritten from it.

    Raises
    ------
    OutputError, StorageError
        If a table cannot be written.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self._tables = {
            "steps": _Table(folder / "steps.csv", [step._asdict() for step in history.steps]),
            "validations": _Table(folder / "validations.csv", [_flat(scores) for scores in history.validations]),
        }
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(history.steps) + 1)

    def add_step(self, step: Step) -> None:
        """Append a step."""
        self._add("steps", step._asdict())

    def add_validation(self, scores: Mapping[str, Any]) -> None:
        """Append a validation."""
        self._add("validations", _flat(scores))

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self._tables[table].add(row)
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(f"{table}/{name}", value, row["step"])

    def close(self) -> None:
        """Close all files."""
        if self._board is not None:
            self._board.close()


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    row = {"step": scores["step"]} | {name: scores[name] for name in OVERALL}
    return row | {f"iou {name}": value for name, value in scores["iou"].items()}


class _Table:
    """A CSV file to append rows to; it is rewritten if a row has new columns."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self._path, self._rows = path, rows
        self._columns: list[str] = []
        self._write_all()

    def _write_all(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._write("w", [{name: name for name in self._columns}, *self._rows])

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._rows.append(row)
        if set(row) <= set(self._columns):
            self._write("a", [row])
        else:
            self._write_all()

    def _write(self, mode: str, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows if self._columns else [])
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise explain(self._path, error) from error
