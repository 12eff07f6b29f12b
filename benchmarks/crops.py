"""Measure what training crops cost: from the files of a scene, from the training store, and in training steps.

The scene is simulated: optical in one UTM zone, SAR in the neighbouring one, so that every pixel has to be warped, and
labels in squares of two classes. Crops are standardised and stacked to batches, as the network gets them.

A step with crops in memory is one of the same batches again and again. Steps are taken in turns of some with crops from
the store, read meanwhile, and some with crops in memory, without readers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from benchmarks.measure import Row, check_limit, compare, in_child, memory
from benchmarks.scene import BLOCK, make_pair
from refnet_cli.model.card import Card
from refnet_cli.scan import choose_scan
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.training.batches import read_batches
from refnet_cli.training.card import make_card
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.distributed import Processes
from refnet_cli.training.initialise import initialise_from_config
from refnet_cli.training.learner import Learner
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.store.store import Store
from refnet_cli.training.survey import survey

CROPS_A_SECOND = 400
FIRST_BATCH_SECONDS = 5
STEP_RATIO = 1.1
GROWTH = 20
"""MB that 900 steps may add to the memory after 100."""
SIZE = 4096
FIELD = 64
"""Side in pixels of the single-class squares."""
ALL_EFFECTS = {"jitter": 0.1, "haze": 0.08, "sar_gain": 1.0, "sar_slope": 1.0, "sar_looks": 4.0, "shift": 1.0,
               "gaps": 0.2, "mix": 0.3}  # fmt: skip


def make_config(folder: Path, size: int, **settings: object) -> TrainConfig:
    """Return the config of a training on the scene in a folder, which is made if it is missing."""
    optical, sar, labels = folder / f"s2-{size}.tif", folder / f"s1-{size}.tif", folder / f"labels-{size}.tif"
    if not labels.exists():
        make_pair(folder, size)
        with rasterio.open(optical) as file:
            profile = file.profile | {"count": 1, "dtype": "uint8"}
        with rasterio.open(labels, "w", **profile) as file:
            columns = np.arange(size) // FIELD
            for row in range(0, size, BLOCK):
                rows = np.arange(row, min(row + BLOCK, size)) // FIELD
                values = (1 + (rows[:, None] + columns) % 2).astype(np.uint8)
                file.write(values, 1, window=RasterWindow(0, row, size, len(rows)))
    scene = TrainScene(optical, sar, labels, name="scene")
    small = {"encoder": "mobilenetv4_conv_small_050", "width": 32, "steps": 100_000, "split": "none", "device": "cpu"}
    return TrainConfig(scenes=(scene,), scheme="esri-io", **small | settings)  # type: ignore[arg-type]  # mixed types


class Prepared:
    """What a training has before its first step.

    Parameters
    ----------
    config : TrainConfig
        Without a ``cache``, crops come from the files.
    card : Card, optional
        That of the same training, which takes 256 crops to make.
    """

    def __init__(self, config: TrainConfig, card: Card | None = None) -> None:
        self.config = config.resolved()
        store = Store(config.cache) if config.cache else None
        scenes = survey(self.config, store)
        initial = initialise_from_config(self.config, scenes)
        self.sampler = Sampler(scenes, self.config, store)
        self.card = card or make_card(self.config, self.sampler, initial, None, 1)
        self.net = initial.net

    def learner(self) -> Learner:
        """Return the network with its optimiser."""
        scan = choose_scan("cpu", self.config.network.states).name
        return Learner(self.config, self.net, None, Processes("cpu", "fp32"), scan)

    def time_crops(self, steps: int) -> float:
        """Return the seconds of a crop over some steps, from the second on."""
        with closing(read_batches(self.sampler, self.card, self.config, 0)) as batches:
            next(batches)
            started = time.perf_counter()
            for _ in islice(batches, steps):
                pass
            return (time.perf_counter() - started) / (steps * self.config.batch)


def measure_crops(folder: Path, size: int, steps: int) -> list[Row]:
    """Measure crops from the store over those from the files, with the default augmentation and with all of it."""
    files = make_config(folder, size)
    stored = replace(files, cache=folder / "store")
    rows = []
    for what, effects in (("default augmentation", {}), ("all augmentation", ALL_EFFECTS)):
        ready = Prepared(replace(stored, **effects))  # type: ignore[arg-type]  # mixed types
        fast = ready.time_crops(steps)
        slow = Prepared(replace(files, **effects), ready.card).time_crops(max(steps // 20, 1))  # type: ignore[arg-type]
        row = compare(f"crop of 256 x 256, {what}, from the store", fast, "from the files", slow)
        row |= {"per_second": 1 / fast, "other_per_second": 1 / slow}
        rows.append(row if effects else check_limit(row, "per_second", at_least=CROPS_A_SECOND))
    return rows


def first_batch(folder: str, size: str, started: str) -> float:
    """Return the seconds from ``started``, a time of day, until the first batch; call it in a child."""
    ready = Prepared(make_config(Path(folder), int(size), cache=Path(folder) / "first"))
    with closing(read_batches(ready.sampler, ready.card, ready.config, 0)) as batches:
        next(batches)
        return time.time() - float(started)


def measure_start(folder: Path, size: int) -> Row:
    """Measure the time from the start of a program to its first batch, in a second run over in the first one."""
    seconds = [in_child(first_batch, str(folder), str(size), str(time.time())) for _ in range(2)]
    row = compare(f"first batch of a second run, {size} x {size}", seconds[1], "of the first run", seconds[0])
    return check_limit(row, "seconds", at_most=FIRST_BATCH_SECONDS)


def growth(folder: str, size: str, steps: str) -> float:
    """Return by how many MB the memory of a process grows from 100 steps on; call it in a child.

    The pages of mapped files, which the system takes back when it needs them, do not count.
    """
    keep_freed_memory()
    ready = Prepared(make_config(Path(folder), int(size), cache=Path(folder) / "store"))
    with closing(read_batches(ready.sampler, ready.card, ready.config, 0)) as batches:
        for _ in islice(batches, int(steps) // 10):
            pass
        before = memory("RssAnon")
        for _ in islice(batches, int(steps) - int(steps) // 10):
            pass
        return memory("RssAnon") - before


def measure_memory(folder: Path, size: int, steps: int) -> Row:
    """Measure by how much the crops of many steps let the memory grow."""
    grown = in_child(growth, str(folder), str(size), str(steps))
    return check_limit(
        {"what": f"growth of memory over {steps:,} steps", "megabytes": grown}, "megabytes", at_most=GROWTH
    )


def measure_steps(folder: Path, size: int, rounds: int, steps: int = 3, **settings: object) -> Row:
    """Measure a training step with crops from the store, over one with crops that are in memory."""
    ready = Prepared(make_config(folder, size, cache=folder / "store", **settings))
    learner, numbers = ready.learner(), count()
    seconds: dict[str, list[float]] = {"store": [], "memory": []}
    with closing(read_batches(ready.sampler, ready.card, ready.config, 0)) as batches:
        kept = next(batches)
    learner.step(next(numbers), kept)
    for _ in range(rounds):
        with closing(read_batches(ready.sampler, ready.card, ready.config, 1)) as batches:
            learner.step(next(numbers), next(batches))
            for _ in range(steps):
                started = time.perf_counter()
                learner.step(next(numbers), next(batches))
                seconds["store"].append(time.perf_counter() - started)
        for _ in range(steps):
            started = time.perf_counter()
            learner.step(next(numbers), kept)
            seconds["memory"].append(time.perf_counter() - started)
    taken = {name: statistics.median(found) for name, found in seconds.items()}
    what = f"step, batch {ready.config.batch}, small weights' sizes, crops from the store"
    return check_limit(
        compare(what, taken["store"], "crops in memory", taken["memory"]), "ratio", at_most=STEP_RATIO
    )  # fmt: skip


def measure_losses(folder: Path, size: int, steps: int, **settings: object) -> Row:
    """Measure how far the losses of trainings with and without the store are apart."""
    curves: list[Sequence[float]] = []
    card = None
    for cache in (folder / "store", None):
        ready = Prepared(make_config(folder, size, cache=cache, **ALL_EFFECTS, **settings), card)
        card = ready.card
        learner = ready.learner()
        with closing(read_batches(ready.sampler, ready.card, ready.config, 0)) as batches:
            curves.append([learner.step(number, batch).loss for number, batch in enumerate(islice(batches, steps))])
    difference = max(abs(ours - theirs) for ours, theirs in zip(*curves, strict=True))
    row = {"what": f"loss over {steps} steps, greatest difference, store and files", "difference": difference}
    return check_limit(row | {"last_loss": curves[0][-1]}, "difference", at_most=0)


def run(size: int = SIZE, steps: int = 1000, rounds: int = 3, folder: Path | None = None) -> list[Row]:
    """Measure crops, the start of a training, memory, and steps.

    Parameters
    ----------
    size : int
        Side of the scene in pixels.
    steps : int
        Steps over which memory is watched; crops are timed over a tenth of them.
    rounds : int
        Turns of three steps each way.
    folder : Path, optional
        Folder for scene and store, which stay; by default a temporary one.
    """
    keep_freed_memory()  # as in trainings
    with ExitStack() as stack:
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        make_config(folder, size)
        return [
            measure_start(folder, size),
            *measure_crops(folder, size, max(steps // 10, 1)),
            measure_memory(folder, size, steps),
            measure_steps(folder, size, rounds),
            measure_losses(folder, size, 3),
        ]
