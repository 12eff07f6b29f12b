"""What weights are, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refnet_cli.model.card import Card
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.onnx_metadata import is_onnx
from refnet_cli.system.words import count

Row = tuple[str, str]


def describe_card(card: Card, path: Path) -> list[Row]:
    """Return what a card says as rows: a label and a text."""
    rows = [
        ("Weights", f"{card.name}, {describe_file(path)}"),
        ("File", str(path)),
        ("Bands", _describe_bands(card)),
        ("Classes", f"{len(card.scheme.names)} of {card.scheme.name}: {', '.join(card.scheme.names)}"),
        ("Tile", f"{card.tile} x {card.tile} pixels"),
        ("Training", _describe_training(card.training)),
        *_describe_scores(card),
        ("Licence", card.licence),
    ]
    return rows + ([("Notice", card.notice)] if card.notice else [])


def describe_file(path: Path) -> str:
    """Return what form weights have and how large they are."""
    return f"{'ONNX model' if is_onnx(path) else 'safetensors for torch'}, {path.stat().st_size / 1e6:.1f} MB"


def _describe_bands(card: Card) -> str:
    bands = {"optical": card.optical.bands, "sar": card.sar.bands}
    text = ", ".join(f"{SENSORS[sensor].satellite} {' '.join(bands[sensor])}" for sensor in MODALITIES)
    alone = card.sensors_alone
    if len(alone) == len(MODALITIES):
        return f"{text}; either sensor is enough"
    if alone:
        (absent,) = (sensor for sensor in MODALITIES if sensor not in alone)
        return f"{text}; {SENSORS[absent].satellite} may be absent"
    return f"{text}; both sensors are needed"


def _describe_training(training: Mapping[str, Any]) -> str:
    """Describe what weights learned from; their makers need not have said all of it."""
    parts = []
    if isinstance(scenes := training.get("scenes"), Mapping):
        parts.append(count(sum(role == "train" for role in scenes.values()), "scene"))
    if isinstance(levels := training.get("levels"), list):
        parts.append(f"level {' and '.join(map(str, levels))}")
    if isinstance(pixels := training.get("pixels"), Mapping) and isinstance(pixels.get("train"), Mapping):
        parts.append(f"{sum(pixels['train'].values()):,} labelled pixels")
    if isinstance(steps := training.get("steps_done"), int):
        parts.append(count(steps, "step"))
    if isinstance(sources := training.get("data"), list):
        parts.append(f"{count(len(sources), 'source')} (--json names them)")
    return ", ".join(parts) or "unknown"


def _describe_scores(card: Card) -> list[Row]:
    """Describe the scores in a card; cards of different makers hold them in different forms."""
    try:
        return list(_read_scores(card))
    except (AttributeError, KeyError, TypeError, ValueError):
        return [("Scores", "in a form of their own: --json prints them")]


def _read_scores(card: Card) -> Iterator[Row]:
    """Yield scores of a training's own validation, or of countries that were left out in turn."""
    scores = card.scores
    if validation := scores.get("validation"):
        how = "held out at random, which flatters" if validation.get("leaky") else "held out"
        pixels = sum(validation["labelled"].values())
        yield "Scores", f"{_describe_score(validation)} on {pixels:,} pixels {how}"
        yield _describe_classes(card, validation["iou"])
        return
    found = {sensors: scores[sensors]["pooled"] for sensors in ("both", *MODALITIES) if sensors in scores}
    if not found:
        yield "Scores", "--json prints them" if scores else "unknown"
        return
    names = {"both": "both sensors"} | {sensor: f"{SENSORS[sensor].satellite} alone" for sensor in MODALITIES}
    listed = "; ".join(f"{names[sensors]} {_describe_score(score)}" for sensors, score in found.items())
    where = f"in {len(scores['countries'])} countries left out in turn: " if "countries" in scores else ""
    yield "Scores", where + listed
    yield _describe_classes(card, next(iter(found.values()))["iou"])


def _describe_score(score: Mapping[str, Any]) -> str:
    return f"{score['overall_accuracy']:.0%} right, mean IoU {score['mean_iou']:.2f}"


def _describe_classes(card: Card, by_class: Mapping[str, float | None]) -> Row:
    """Name the classes from the best to the worst, and those that nothing is known of."""
    known = {name: value for name, value in by_class.items() if value is not None}
    ordered = sorted(known, key=lambda name: -known[name])
    listed = ", ".join(f"{name} {known[name]:.2f}" for name in ordered)
    unknown = [name for name in card.scheme.names if name not in known]
    return "IoU", "; ".join([listed] * bool(listed) + [f"not tested: {', '.join(unknown)}"] * bool(unknown))
