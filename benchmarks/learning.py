"""What the network's ideas are worth: it learns on equal terms with networks that lack one of them, and with others.

Every run, a variant that learns one fold from one seed, is written down as soon as it is finished, and not repeated.
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
"""Of each training, by what is held out: leaving out place after place takes many trainings."""
COLUMNS = {
    "variant": "{}", "overall_accuracy": "{:.3f}", "mean_iou": "{:.3f}", "parameters": "{:,}", "seconds": "{:.0f}",
    "seeds": "{}",
}  # fmt: skip
BUDGET = Budget()

Run = dict[str, Any]


class Task(NamedTuple):
    """One variant that is to learn one fold of a data set from one seed."""

    data_set: str
    fold: Fold
    variant: str
    seed: int
    budget: Budget

    @property
    def key(self) -> Run:
        """What its run is known by."""
        names = {"data_set": self.data_set, "fold": self.fold.name, "variant": self.variant, "seed": self.seed}
        return names | asdict(self.budget)

    def run(self) -> Run:
        """Learn, and count the tested pixels by label (row) and prediction (column)."""
        started = time.process_time()  # of the processor: what else the machine does in an hour must not count
        learned = VARIANTS[self.variant](self.fold.training, self.budget, self.seed)
        seconds = round(time.process_time() - started, 2)
        counts = [confusion_matrix(scene.labels, learned.predict(scene), SCHEME.classes) for scene in self.fold.tested]
        matrix = np.sum(counts, axis=0).tolist()
        return self.key | {"confusion_matrix": matrix, "parameters": learned.parameters, "seconds": seconds}


def list_tasks(
    data_sets: Sequence[DataSet], variants: Sequence[str], seeds: Sequence[int], steps: int | None, budget: Budget
) -> Iterator[Task]:
    """Yield all tasks, seed after seed, so that what is finished early can be compared."""
    for seed in seeds:
        for data_set in data_sets:
            spent = replace(budget, steps=steps or STEPS[data_set.kind])
            for variant in variants:
                for fold in data_set.folds:
                    yield Task(data_set.name, fold, variant, seed, spent)


def read_runs(output: Path) -> list[Run]:
    """Read the runs that are finished."""
    runs: list[Run] = json.loads(output.read_text()) if output.exists() else []
    return runs


def find_run(runs: Sequence[Run], task: Task) -> Run | None:
    """Return the run of a task, if it is finished."""
    return next((run for run in runs if task.key.items() <= run.items()), None)


def finish(task: Task, output: Path) -> Run:
    """Return the run of a task: the one in the file, or a new one, which is added there."""
    found = find_run(read_runs(output), task)
    if found:
        return found
    run = task.run()
    runs = [*read_runs(output), run]  # to which others may have been added meanwhile
    with replacing(output) as temporary:
        temporary.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
    accuracy, mean_iou = judge([run])
    told = f"{task.data_set}, {task.fold.name}, {task.variant}, seed {task.seed}"
    print(f"{told}: accuracy {accuracy:.3f}, mIoU {mean_iou:.3f}, {run['seconds']:.0f} s", file=sys.stderr, flush=True)
    return run


def judge(runs: Sequence[Run]) -> tuple[float, float]:
    """Overall accuracy and mean IoU of the folds together, over the classes that have labels."""
    scores = score(np.sum([run["confusion_matrix"] for run in runs], axis=0), SCHEME.names)
    return scores.overall_accuracy, fmean(iou for name, iou in scores.iou.items() if scores.labelled[name])


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Put the runs of each data set and variant into one row: means and standard deviations over the seeds."""
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
    """Write the rows as a table in Markdown for each data set."""
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
    """Let the variants learn, and test them on what was held out.

    Parameters
    ----------
    data : sequence of Path
        Folders of scenes; see `find_data_sets`. They are told apart by their names.
    output : Path
        Holds the finished runs, as JSON, and gets the others.
    only : sequence of str
        Names of variants.
    seeds : sequence of int
    steps : int, optional
        Of each training; by default as in ``STEPS``.
    learning_rate : float
        At the first step.
    budget : Budget
        What else every training may spend.
    """
    keep_freed_memory()  # as trainings do
    data_sets = [data_set for folder in data for data_set in find_data_sets(folder)]
    budget = replace(budget, learning_rate=learning_rate)
    return summarise([finish(task, output) for task in list_tasks(data_sets, only, seeds, steps, budget)])
