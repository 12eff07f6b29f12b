"""Settings of a training that starts from weights, where its config does not state them.

``benchmarks/fine_tuning.py`` compares them with others; its table is in ``benchmarks/README.md``. An interrupted
training keeps those that it began with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from refnet_cli.training.config import Schedule, TrainConfig
from refnet_cli.training.dataset import LabelledScene

LOG = logging.getLogger(__name__)
LEARNING_RATE, CLIP = 5e-4, 1.0
WARMUP_SHARE = 10
"""One step in so many is of the warm-up."""
STEPS_OF, PIXELS = 100, 25_000
"""So many steps for so many labelled pixels; four times the pixels have twice the steps."""
FEWEST, MOST = 50, 2000


def with_schedule(
    config: TrainConfig, scenes: Sequence[LabelledScene], before: Mapping[str, str] | None = None
) -> TrainConfig:
    """Return the config with all of its schedule stated.

    Parameters
    ----------
    config : TrainConfig
    scenes : sequence of LabelledScene
        Those of the config.
    before : mapping of str to str, optional
        Settings of an interrupted training in the same folder.
    """
    missing = [name for name in Schedule._fields if getattr(config, name) is None]
    if config.init is None or not missing:
        return replace(config, **config.schedule._asdict())
    pixels = sum(int(scene.training.counts.sum()) for scene in scenes)
    resumed = before is not None and before.keys() >= {*Schedule._fields}
    chosen = _read(before) if before and resumed else _choose(config, pixels)
    made = replace(config, **{name: getattr(chosen, name) for name in missing})
    steps, rate, warmup, clip = made.schedule
    clipped = "not clipped" if clip is None else f"clipped at {clip:g}"
    source = "those of the interrupted training" if resumed else "chosen for weights to start from"
    LOG.info(
        f"schedule: {steps:,} steps for {pixels:,} labelled pixels, learning rate {rate:g}, warm-up of {warmup:,} "
        f"steps, gradients {clipped}; {', '.join(missing)} are {source}"
    )
    return made


def _choose(config: TrainConfig, pixels: int) -> Schedule:
    """Choose a schedule by the number of labelled pixels to learn from."""
    steps = config.steps or round_steps(pixels)
    return Schedule(steps, LEARNING_RATE, min(steps // WARMUP_SHARE, steps - 1), CLIP)


def round_steps(pixels: int) -> int:
    """Return how many steps suit so many labelled pixels, to two digits.

    Examples
    --------
    >>> [round_steps(pixels) for pixels in (100, 25_000, 100_000, 10**9)]
    [50, 100, 200, 2000]
    """
    steps = STEPS_OF * math.sqrt(pixels / PIXELS)
    return int(float(f"{min(max(steps, FEWEST), MOST):.2g}"))


def _read(settings: Mapping[str, str]) -> Schedule:
    clip = settings["clip"]
    return Schedule(
        int(settings["steps"]), float(settings["learning_rate"]), int(settings["warmup"]),
        None if clip == "None" else float(clip),
    )  # fmt: skip
