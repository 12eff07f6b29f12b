"""Ablation study: train the network, variants without one component, and other models on the same budget.

A run is one variant on one fold with one seed. Its result is saved when it ends, and a saved run is not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from benchmarks.folds import SCHEME, DataSet, Fold, find_data_sets
from benchmarks.measure import Row
from benchmarks.variants import VARIANTS, Budget
from refnet_cli.evaluation.scores import confusion_matrix, score
from refnet_cli.system.atomic import replacing
from refnet_cli.system.process import keep_freed_memory

STEPS = {"scenes": 400, "places": 120, "columns": 120}
"""Steps per training, by what is held out: holding out each place takes many trainings."""
COLUMNS = {
    "variant": "{}", "overall_accuracy": "{:.3f}", "mean_iou": "{:.3f}", "parameters": "{:,}", "seconds": "{:.0f}",
    "seeds": "{}",
}  # fmt: skip
BUDGET = Budget()

Run = dict[str, Any]


class Task(NamedTuple):
    """One variant to train on one fold of a data set with one seed."""

    data_set: str
    fold: Fold
    variant: str
    seed: int
    budget: Budget

    @property
    def key(self) -> Run:
        """Fields that identify the task's run."""
        names = {"data_set": self.data_set, "fold": self.fold.name, "variant": self.variant, "seed": self.seed}
        return names | asdict(self.budget)

    def run(self) -> Run:
        """Train and test; return the run with its confusion matrix (labels by row, predictions by column)."""
        started = time.process_time()  # CPU time, to exclude other load on the machine
        learned = VARIANTS[self.variant](self.fold.training, self.budget, self.seed)
        seconds = round(time.process_time() - started, 2)
        counts = [confusion_matrix(scene.labels, learned.predict(scene), SCHEME.classes) for scene in self.fold.tested]
        matrix = np.sum(counts, axis=0).tolist()
        return self.key | {"confusion_matrix": matrix, "parameters": learned.parameters, "seconds": seconds}


def list_tasks(
    data_sets: Sequence[DataSet], variants: Sequence[str], seeds: Sequence[int], steps: int | None, budget: Budget
) -> Iterator[Task]:
    """Yield all tasks, seed by seed, so that early results can be compared."""
    for seed in seeds:
        for data_set in data_sets:
            spent = replace(budget, steps=steps or STEPS[data_set.kind])
            for variant in variants:
                for fold in data_set.folds:
                    yield Task(data_set.name, fold, variant, seed, spent)


def read_runs(output: Path) -> list[Run]:
    """Return the finished runs."""
    runs: list[Run] = json.loads(output.read_text()) if output.exists() else []
    return runs


def find_run(runs: Sequence[Run], task: Task) -> Run | None:
    """Return the finished run of a task, or None."""
    return next((run for run in runs if task.key.items() <= run.items()), None)


def finish(task: Task, output: Path) -> Run:
    """Return the run of a task from the file, or run the task and add it to the file."""
    found = find_run(read_runs(output), task)
    if found:
        return found
    run = task.run()
    runs = [*read_runs(output), run]  # read again: another process may have added runs
    with replacing(output) as temporary:
        temporary.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
    accuracy, mean_iou = judge([run])
    told = f"{task.data_set}, {task.fold.name}, {task.variant}, seed {task.seed}"
    print(f"{told}: accuracy {accuracy:.3f}, mIoU {mean_iou:.3f}, {run['seconds']:.0f} s", file=sys.stderr, flush=True)
    return run


def judge(runs: Sequence[Run]) -> tuple[float, float]:
    """Return overall accuracy and mean IoU of the pooled folds, over the classes with labels."""
    scores = score(np.sum([run["confusion_matrix"] for run in runs], axis=0), SCHEME.names)
    return scores.overall_accuracy, fmean(iou for name, iou in scores.iou.items() if scores.labelled[name])


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Return one row per data set and variant, with means and standard deviations over the seeds."""
    rows = []
    for data_set, variant in dict.fromkeys((run["data_set"], run["variant"]) for run in runs):
        alike = [run for run in runs if (run["data_set"], run["variant"]) == (data_set, variant)]
        seeds = sorted({run["seed"] for run in alike})
        by_seed = [[run for run in alike if run["seed"] == seed] for seed in seeds]
        accuracies, mean_ious = zip(*map(judge, by_seed), strict=True)
        rows.append({
            "data_set": data_set,
            "variant": variant,
            "overall_accuracy": fmean(accuracies),
            "overall_accuracy_spread": stdev(accuracies) if len(seeds) > 1 else None,
            "mean_iou": fmean(mean_ious),
            "mean_iou_spread": stdev(mean_ious) if len(seeds) > 1 else None,
            "parameters": alike[0]["parameters"],
            "seconds": fmean(sum(run["seconds"] for run in same) for same in by_seed),
            "seeds": len(seeds),
        })  # fmt: skip
    return rows


def to_table(rows: Sequence[Row]) -> str:
    """Return the rows as one Markdown table per data set."""
    tables = []
    for data_set in dict.fromkeys(row["data_set"] for row in rows):
        titles = [column.replace("_", " ") for column in COLUMNS]
        head = [f"| {' | '.join(titles)} |", "|---" * len(COLUMNS) + "|"]
        cells = [[_cell(row, column) for column in COLUMNS] for row in rows if row["data_set"] == data_set]
        tables.append("\n".join([f"{data_set}\n", *head, *(f"| {' | '.join(line)} |" for line in cells)]))
    return "\n\n".join(tables)


def _cell(row: Row, column: str) -> str:
    values = [row[column], row.get(f"{column}_spread")]
    return " ± ".join(COLUMNS[column].format(value) for value in values if value is not None)


def run(
    data: Sequence[Path],
    output: Path,
    only: Sequence[str] = tuple(VARIANTS),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    learning_rate: float = BUDGET.learning_rate,
    budget: Budget = BUDGET,
) -> list[Row]:
    """Train the variants and test them on held-out data.

    Parameters
    ----------
    data : sequence of Path
        Folders of scenes, with distinct names; see `find_data_sets`.
    output : Path
        JSON file of finished runs, to which new runs are added.
    only : sequence of str
        Names of variants.
    seeds : sequence of int
    steps : int, optional
        Steps per training; by default as in ``STEPS``.
    learning_rate : float
        Initial learning rate.
    budget : Budget
        The other limits of every training.
    """
    keep_freed_memory()  # as in trainings
    data_sets = [data_set for folder in data for data_set in find_data_sets(folder)]
    budget = replace(budget, learning_rate=learning_rate)
    return summarise([finish(task, output) for task in list_tasks(data_sets, only, seeds, steps, budget)])
