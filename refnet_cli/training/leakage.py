"""Spatial leakage: record the ground of a training in the card, and detect scored scenes that overlap it."""

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
TRAINING_GROUND = "ground"
"""Key in a card's ``training``: a list of trainings, this one first, then those of the initial weights.

Each entry has ``name``, ``split`` (the settings in `SPLIT`) and ``scenes``: for each scene its ``role`` (train,
validation or divided) and its ``outline``, a GeoJSON geometry in WGS 84. Cards of 0.1 have no outlines.
"""
SPLIT = ("split", "seed", "block", "crop", "buffer", "validation_share")
"""Settings that determine which part of a divided scene is held out."""
_DIGITS = 5  # decimal places of degrees, about a metre
_TOUCHING = 3e-5  # tolerance in degrees: neighbours may overlap by this much because of rounding
_LEARNED = ("train", "divided")


def describe_training_ground(
    config: TrainConfig, scenes: Sequence[LabelledScene], start: Card | None
) -> list[dict[str, Any]]:
    """Return the card's entry on the ground of a training, see `TRAINING_GROUND`.

    Parameters
    ----------
    config : TrainConfig
    scenes : sequence of LabelledScene
    start : Card or None
        Card of the initial weights; its trainings are kept.
    """
    own = {"name": config.name, "split": _split_of(config), "scenes": _describe_scenes(config, scenes)}
    return [own, *(training_ground(start) if start else [])]


def training_ground(card: Card) -> list[dict[str, Any]]:
    """Return all trainings of the weights, see `TRAINING_GROUND`; without outlines for cards that have none.

    Raises
    ------
    WeightsError
        If the card's entry is invalid.
    """
    found = card.training.get(TRAINING_GROUND)
    if found is None:
        roles = card.training.get("scenes", {})
        split = {name: card.training.get(name) for name in SPLIT}
        return [{"name": card.name, "split": split, "scenes": {name: {"role": roles[name]} for name in roles}}]
    try:
        return [_checked(training) for training in found]
    except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise WeightsError(f"The card's entry training.{TRAINING_GROUND} is invalid: {error!r}.") from error


def _checked(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a card; raise an error if a key is missing or a geometry is invalid."""
    for scene in training["scenes"].values():
        _shape(scene)
        scene["role"].split()
    return {"name": training["name"], "split": dict(training["split"]), "scenes": training["scenes"]}


def warn_of_leakage(card: Card, config: TrainConfig, scenes: Sequence[LabelledScene]) -> None:
    """Log warnings about scored scenes that overlap the training scenes of the weights.

    Scenes are compared by outline. If the card has no outlines, they are compared by name, and a message states this.

    Parameters
    ----------
    card : Card
        Card of the weights.
    config : TrainConfig
    scenes : sequence of LabelledScene
        Scenes of the config.

    Raises
    ------
    WeightsError
        If the card's entry is invalid.
    """
    trainings = training_ground(card)
    scored = {scene.name: scene for scene in scenes if config.role(scene.entry) != "train" and scene.scored}
    if not scored:
        return
    here = {"split": _split_of(config), "scenes": _describe_scenes(config, scenes)}
    overlapping: dict[str, set[str]] = {}
    same_name: list[str] = []
    for training in trainings:
        other_split = not _same_training(training, here)
        for name, scene in scored.items():
            if other_split and (overlapped := _overlapped(training, scene)):
                overlapping.setdefault(name, set()).update(overlapped)
            if _same_name(training, name, config.role(scene.entry), here["split"]):
                same_name.append(name)
    for name, overlapped_scenes in overlapping.items():
        LOG.warning(
            f"scene {name} overlaps training scenes of the weights {card.name} "
            f"({', '.join(sorted(overlapped_scenes))}): its scores are optimistic."
        )
    if named := [name for name in dict.fromkeys(same_name) if name not in overlapping]:
        LOG.warning(
            f"the weights {card.name} were trained on scenes named {', '.join(named)}, whose outlines the card lacks: "
            "the scores of these scenes may be optimistic."
        )
    no_outline = {
        name for training in trainings for name, scene in training["scenes"].items() if "outline" not in scene
    }
    if (no_outline or not any(training["scenes"] for training in trainings)) and not scored.keys() <= no_outline:
        LOG.info(
            f"the card of {card.name} lacks the outlines of some training scenes: their overlap with the scored "
            "scenes is checked by name only."
        )


def _split_of(config: TrainConfig) -> dict[str, Any]:
    return {"split": config.method} | {name: getattr(config, name) for name in SPLIT[1:]}


def _describe_scenes(config: TrainConfig, scenes: Sequence[LabelledScene]) -> dict[str, dict[str, Any]]:
    """Return role and outline of each scene; no outline for grids that cannot be located on the Earth."""
    described = {}
    for scene in scenes:
        outline = _outline(scene.grid)
        described[scene.name] = {"role": config.role(scene.entry)} | ({"outline": outline} if outline else {})
    return described


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
    """Convert nested tuples to nested lists, as JSON returns them."""
    return [_as_lists(part) for part in coordinates] if isinstance(coordinates, tuple | list) else float(coordinates)


def _shape(scene: Mapping[str, Any]) -> Any:
    """Return the outline of a scene in a card; None without one."""
    return shapely.make_valid(shapely.geometry.shape(scene["outline"])) if "outline" in scene else None


def _same_training(training: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether a training had exactly this split: the same outlines, roles and settings."""

    def described(scenes: Mapping[str, Any]) -> list[str]:
        return sorted(f"{scene['role']} {scene.get('outline')}" for scene in scenes.values())

    return training["split"] == here["split"] and described(training["scenes"]) == described(here["scenes"])


def _overlapped(training: Mapping[str, Any], here: LabelledScene) -> list[str]:
    """Return the names of a training's scenes whose training pixels may overlap the scored part of a scene."""
    shapes = {name: _shape(scene) for name, scene in training["scenes"].items()}
    roles = {name: scene["role"] for name, scene in training["scenes"].items()}
    held_out = shapely.union_all([shape for name, shape in shapes.items() if shape and roles[name] == "validation"])
    scored = _scored(here)
    if scored is None:
        return []
    scored = scored.difference(held_out.buffer(_TOUCHING)).buffer(-_TOUCHING)
    return [name for name, shape in shapes.items() if shape and roles[name] in _LEARNED and shape.intersects(scored)]


def _scored(scene: LabelledScene) -> Any:
    """Return the scored part of a scene in WGS 84; None if it cannot be located on the Earth."""
    outlines = [_outline(crop(scene.grid, window)) for window in scene.roles.validation]
    if None in outlines:
        return None
    return shapely.union_all([shapely.geometry.shape(outline) for outline in outlines])


def _same_name(training: Mapping[str, Any], name: str, role: str, split: Mapping[str, Any]) -> bool:
    """Return whether a training used a scene of this name, without an outline and with another split."""
    scene = training["scenes"].get(name, {})
    if "outline" in scene or scene.get("role") not in _LEARNED:
        return False
    return not (training["split"] == split and scene["role"] == role)
