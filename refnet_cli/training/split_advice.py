"""Settings of a split that fit the scenes: the largest blocks, tiles and crops, found by trying them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.splits import SplitError
from refnet_cli.training.store.store import Store
from refnet_cli.training.survey import count_classes, count_pixels, survey

SMALLEST_SIDE, STEP = 64, 32
"""Of tiles and crops, in pixels."""
EIGHTHS = range(7, 0, -1)
"""Blocks that are tried, in eighths of the one that does not fit."""
MOST_PIXELS = 50_000_000
"""Pixels of all scenes, above which trying would take minutes."""

Settings = dict[str, Any]


def survey_or_advise(
    config: TrainConfig, learning: bool = True, store: Store | None = None
) -> list[LabelledScene]:
    """Survey the scenes, see `survey`; if the split does not fit them, raise an error that names settings that do.

    Parameters
    ----------
    config : TrainConfig
    learning : bool
        Whether training pixels are required.
    store : Store, optional
        See `survey`.

    Raises
    ------
    SplitError
        With the largest blocks, tiles and crops that fit the scenes, if any.
    RefnetError
        See `survey`.
    """
    try:
        scenes = survey(config, store)
    except SplitError as error:
        now = f"Now block = {config.block:g}, and the buffer is {config.buffer} pixels, the larger of tile and crop."
        raise SplitError(f"{error} {now} {_advise(config, error.pixels, store)}") from error
    learned, scored = _count(scenes, config)
    if learning and scored and not learned:
        raise SplitError(
            f"All labelled pixels are held out or lie within {config.buffer} pixels of held-out ground: no training "
            f"pixels remain. {_advise(config, count_pixels(scenes), store)}"
        )
    return scenes


def _advise(config: TrainConfig, pixels: int, store: Store | None) -> str:
    """Say which settings fit, with the number of labelled pixels for training and validation."""
    others = 'Add regions, or choose split = "none" (no scores)'
    others += "." if config.method == "random" else ' or split = "random" (optimistic scores).'
    if pixels > MOST_PIXELS:
        return others
    sides = [_of_side(config, side) for side in range(max(config.tile, config.crop) - STEP, SMALLEST_SIDE - 1, -STEP)]
    blocks: list[Settings] = []
    if config.method == "blocks":
        blocks = [{"block": round(config.block * eighths / 8, 1)} for eighths in EIGHTHS]
    fitting = [_first_that_fits(config, tried, store) for tried in (blocks, sides)]
    if not any(fitting):
        fitting = [_first_that_fits(config, [block | side for side in sides for block in blocks], store)]
    if not any(fitting):
        return f"No smaller block, tile or crop fits these scenes. {others}"
    return f"Tried on these scenes, this fits: {', or '.join(filter(None, fitting))}. {others}"


def _of_side(config: TrainConfig, side: int) -> Settings:
    """Return tile and crop with this side if they are larger now; for random patches only the crop matters."""
    names = ("crop",) if config.method == "random" else ("tile", "crop")
    return {name: side for name in names if getattr(config, name) > side}


def _first_that_fits(config: TrainConfig, tried: Iterable[Settings], store: Store | None) -> str | None:
    """Return the first settings that fit, with their numbers of labelled pixels."""
    for settings in filter(None, tried):
        changed = replace(config, **settings)
        try:
            learned, scored = _count(survey(changed, store), changed)
        except SplitError:
            continue
        if scored and learned >= (scored if config.method == "blocks" else 1):
            named = " and ".join(f"{name} = {value:g}" for name, value in settings.items())
            return f"{named} ({learned:,} labelled pixels for training, {scored:,} for validation)"
    return None


def _count(scenes: list[LabelledScene], config: TrainConfig) -> tuple[int, int]:
    """Return the numbers of labelled pixels for training and validation."""
    learned, scored = (sum(pixels.values()) for pixels in count_classes(scenes, config).values())
    return learned, scored
