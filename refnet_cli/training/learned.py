"""Which ground weights learned from, kept in their card, and whether what is scored lies on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.errors import ShapelyError

from refnet_cli.errors import InputError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.outputs.footprint import footprint
from refnet_cli.scene.grid import crop
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene

LOG = logging.getLogger(__name__)
GROUND = "ground"
"""Entry of a card's ``training``: a list of trainings, the weights' own first, then those of the weights it began from.

Each has ``name``, ``split`` (the settings in `SPLIT`) and ``scenes``: by name the ``role`` (train, validation or
divided) and the ``outline``, a GeoJSON geometry in WGS 84. Outlines are missing in what cards of 0.1 say.
"""
SPLIT = ("split", "seed", "block", "crop", "buffer", "validation_share")
"""Settings that decide which part of a divided scene is held out."""
_DIGITS = 5  # of degrees, about a metre
_TOUCHING = 3e-5  # degrees by which neighbours may overlap because of rounding
_LEARNED = ("train", "divided")


def describe_ground(config: TrainConfig, scenes: Sequence[LabelledScene], start: Card | None) -> list[dict[str, Any]]:
    """Return what a card keeps of the ground that a training learns from, see `GROUND`.

    Parameters
    ----------
    config : TrainConfig
    scenes : sequence of LabelledScene
    start : Card or None
        Of the weights that the training starts from; what they learned from stays in the card.
    """
    own = {"name": config.name, "split": _split_of(config), "scenes": _place(config, scenes)}
    return [own, *(ground_of(start) if start else [])]


def ground_of(card: Card) -> list[dict[str, Any]]:
    """Return the trainings that led to weights, see `GROUND`; of cards without positions, by the scenes' names alone.

    Raises
    ------
    WeightsError
        If the card's entry cannot be understood.
    """
    found = card.training.get(GROUND)
    if found is None:
        roles = card.training.get("scenes", {})
        split = {name: card.training.get(name) for name in SPLIT}
        return [{"name": card.name, "split": split, "scenes": {name: {"role": roles[name]} for name in roles}}]
    try:
        return [_checked(training) for training in found]
    except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise WeightsError(f"The card's entry training.{GROUND} cannot be understood: {error!r}.") from error


def _checked(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a card, unless something of it is missing or no geometry, which raises what it raises."""
    for scene in training["scenes"].values():
        _shape(scene)
        scene["role"].split()
    return {"name": training["name"], "split": dict(training["split"]), "scenes": training["scenes"]}


def warn_of_learned(card: Card, config: TrainConfig, scenes: Sequence[LabelledScene]) -> None:
    """Log which of the ground that is scored weights have learned from.

    By position where the card has positions, else by the scenes' names, which is logged.

    Parameters
    ----------
    card : Card
        Of the weights.
    config : TrainConfig
    scenes : sequence of LabelledScene
        Those of the config.

    Raises
    ------
    WeightsError
        If the card's entry cannot be understood.
    """
    trainings = ground_of(card)
    scored = {scene.name: scene for scene in scenes if config.role(scene.entry) != "train" and scene.scored}
    if not scored:
        return
    here = {"split": _split_of(config), "scenes": _place(config, scenes)}
    by_place: dict[str, set[str]] = {}
    by_name: list[str] = []
    for training in trainings:
        known = not _same_training(training, here)
        for name, scene in scored.items():
            if known and (places := _overlapped(training, scene)):
                by_place.setdefault(name, set()).update(places)
            if _same_name(training, name, config.role(scene.entry), here["split"]):
                by_name.append(name)
    may = f"the weights of {card.name} may have learned from what is scored in"
    for name, grounds in by_place.items():
        LOG.warning(
            f"{may} {name}, which lies on the ground of their training scenes {', '.join(sorted(grounds))}: the scores "
            "flatter."
        )
    if named := [name for name in dict.fromkeys(by_name) if name not in by_place]:
        LOG.warning(
            f"{may} {', '.join(named)}, as scenes of this name were in their training and the card does not say where "
            "those lay: the scores flatter."
        )
    unplaced = {name for training in trainings for name, scene in training["scenes"].items() if "outline" not in scene}
    if (unplaced or not any(training["scenes"] for training in trainings)) and not scored.keys() <= unplaced:
        LOG.info(
            f"the card of {card.name} does not say where all of its training scenes lay: whether the weights learned "
            "from what is scored is judged by the names of scenes."
        )


def _split_of(config: TrainConfig) -> dict[str, Any]:
    return {"split": config.method} | {name: getattr(config, name) for name in SPLIT[1:]}


def _place(config: TrainConfig, scenes: Sequence[LabelledScene]) -> dict[str, dict[str, Any]]:
    """Role and outline of each scene; no outline where a grid has no place on the Earth."""
    placed = {}
    for scene in scenes:
        outline = _outline(scene.grid)
        placed[scene.name] = {"role": config.role(scene.entry)} | ({"outline": outline} if outline else {})
    return placed


def _outline(grid: GeoBox) -> dict[str, Any] | None:
    try:
        geometry, _ = footprint(grid)
    except InputError:
        return None
    rounded = shapely.transform(shapely.geometry.shape(geometry), _round)
    return {"type": rounded.geom_type, "coordinates": _as_lists(shapely.geometry.mapping(rounded)["coordinates"])}


def _round(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(points, _DIGITS)


def _as_lists(coordinates: Any) -> Any:
    """Nested tuples as nested lists, which is what JSON gives back."""
    return [_as_lists(part) for part in coordinates] if isinstance(coordinates, tuple | list) else float(coordinates)


def _shape(scene: Mapping[str, Any]) -> Any:
    """Outline of a scene of a card; None where it has none."""
    return shapely.make_valid(shapely.geometry.shape(scene["outline"])) if "outline" in scene else None


def _same_training(training: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether scenes are held out exactly as a training did: the same ground, roles and settings."""

    def described(scenes: Mapping[str, Any]) -> list[str]:
        return sorted(f"{scene['role']} {scene.get('outline')}" for scene in scenes.values())

    return training["split"] == here["split"] and described(training["scenes"]) == described(here["scenes"])


def _overlapped(training: Mapping[str, Any], here: LabelledScene) -> list[str]:
    """Names of a training's scenes that were learned from where a scene is scored."""
    shapes = {name: _shape(scene) for name, scene in training["scenes"].items()}
    roles = {name: scene["role"] for name, scene in training["scenes"].items()}
    held_out = shapely.union_all([shape for name, shape in shapes.items() if shape and roles[name] == "validation"])
    scored = _scored(here)
    if scored is None:
        return []
    scored = scored.difference(held_out.buffer(_TOUCHING)).buffer(-_TOUCHING)
    return [name for name, shape in shapes.items() if shape and roles[name] in _LEARNED and shape.intersects(scored)]


def _scored(scene: LabelledScene) -> Any:
    """Ground of a scene that is scored, in WGS 84; None where it has no place on the Earth."""
    outlines = [_outline(crop(scene.grid, window)) for window in scene.roles.validation]
    if None in outlines:
        return None
    return shapely.union_all([shapely.geometry.shape(outline) for outline in outlines])


def _same_name(training: Mapping[str, Any], name: str, role: str, split: Mapping[str, Any]) -> bool:
    """Whether a training learned from a scene of a name whose place is not known, elsewhere or not."""
    scene = training["scenes"].get(name, {})
    if "outline" in scene or scene.get("role") not in _LEARNED:
        return False
    return not (training["split"] == split and scene["role"] == role)
