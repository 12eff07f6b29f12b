"""What `refnet train` says of a training before it and after it, as lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refnet_cli.cli.options import on_command_line
from refnet_cli.cli.text import count, describe_seconds
from refnet_cli.scene.options import SceneOptions
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.rehearsal import Rehearsal
from refnet_cli.training.result import TrainResult

WIDTH = 80
"""Of lines; a command that is longer is continued behind a backslash."""


def describe_training(result: TrainResult, config: TrainConfig) -> list[str]:
    """Return which network was kept, its scores by class, its calibration, the pictures, and what to type next."""
    done = len(result.history.steps)
    scores = result.card.scores.get("validation")
    lines = [f"kept        the network of step {done:,}; nothing is held out, so there are no scores"]
    if scores:
        kept = f"step {scores['step']:,} of {done:,}" if scores["step"] else "the start"
        lines = [
            f"kept        {kept}: mean IoU {scores['mean_iou']:.3f}, overall accuracy {scores['overall_accuracy']:.3f}",
            *_classes(scores),
            f"calibration {_calibration(result.card.scores.get('calibration'))}",
        ]
    if result.pictures:
        lines.append(f"pictures    {result.pictures[0].parent}: {', '.join(path.name for path in result.pictures)}")
    return [*lines, "next", *_next_command(result, config)]


def describe_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[str]:
    """Return how long a training takes, or all folds, and what that is made of."""
    if not rehearsals:
        return []
    first, many = rehearsals[0], len(rehearsals) > 1
    parts = [f"{count(sum(one.steps for one in rehearsals), 'step')} of {describe_seconds(first.step_seconds)}"]
    if tiles := sum(one.passes * one.tiles for one in rehearsals):
        passes = f"{tiles:,} tiles" if many else f"{first.passes} times {count(first.tiles, 'held-out tile')}"
        parts.append(f"{passes} of {first.tile_seconds:.2g} s")
    total = describe_seconds(sum(one.seconds for one in rehearsals)) + f" for {len(rehearsals)} folds" * many
    return [f"time        {'about' if first.patient else 'at most'} {total} here ({first.device}): {', '.join(parts)}"]


def describe_folds(found: Mapping[str, Any]) -> list[str]:
    """Return the scores of each region that was held out, and of all together."""
    rows = [*found["folds"].items(), ("all together", found["pooled"])]
    lines = [f"{'held out':<24} {'labelled':>12} {'overall':>8} {'mean IoU':>8}"]
    for region, scores in rows:
        values = [scores.get(name) for name in ("overall_accuracy", "mean_iou")]
        shown = " ".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in values)
        lines.append(f"{region:<24} {scores['pixels']:12,} {shown}")
    return lines


def _classes(scores: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'':<22} {'IoU':>6} {'recall':>9} {'precision':>9} {'labelled':>12}"
    for name, pixels in scores["labelled"].items():
        iou, recall, precision = (f"{scores[score][name]:.3f}" for score in ("iou", "recall", "precision"))
        yield f"  {name:<22} {iou:>6} {recall:>9} {precision:>9} {pixels:12,}"


def _calibration(fitted: Mapping[str, Any] | None) -> str:
    if fitted is None:
        return "none: fewer than 1,000 labelled pixels are held out"
    before, after = fitted["ece_before"], fitted["ece_after"]
    return f"temperature {fitted['temperature']:.3g}: calibration error {before:.3f} before, {after:.3f} with it"


def _next_command(result: TrainResult, config: TrainConfig) -> list[str]:
    """Return the command that maps a scene with the weights, one that is scored if there is any."""
    scene = next((scene for scene in config.scenes if config.role(scene) != "train"), config.scenes[0])
    words = [["refnet", "predict"]]
    words += [[f"--{sensor}", _joined(given)] for sensor in ("optical", "sar") if (given := getattr(scene, sensor))]
    words += [_as_option(name, value) for name, value in _stated(scene)]
    words += [["--weights", str(result.weights)], ["-o", str(result.weights.with_name("lulc.tif"))]]
    lines = [" "]
    for part in map(shlex.join, words):
        if len(f"{lines[-1]} {part} \\") > WIDTH and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return lines


def _stated(scene: TrainScene) -> Iterator[tuple[str, Any]]:
    """Options of a scene that are not the defaults, of those that refnet predict takes."""
    for field, _ in on_command_line(SceneOptions):
        value = getattr(scene, field.name)
        if value != field.default:
            yield field.name, value


def _as_option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, _joined(value)]


def _joined(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
