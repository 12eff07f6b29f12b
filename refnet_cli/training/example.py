"""A regions file to begin with: every setting, with its explanation and its default, made from the fields of options.

Settings are lines that begin with ``#name =``, explanations begin with ``# ``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.scene.options import SceneOptions
from refnet_cli.system.options import alternatives, texts
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.losses import LOSSES
from refnet_cli.training.regions_file import SHARED

WIDTH = 100
STATED: Mapping[type[Any], Mapping[str, Any]] = {
    TrainConfig: {"scheme": "esri-io", "name": "my-region", "init": "shipped"},
    TrainScene: {
        "name": "north", "optical": "north/s2.tif", "sar": "north/s1.tif", "labels": "north/labels.tif",
    },
}  # fmt: skip
"""Settings without which nothing can be trained, or that suit most."""
SHOWN = {
    "label_codes": {"10": "Trees", "80": "Water", "255": "0"},
    "encoder": "resnet18",
    "width": 64,
    "encoder_weights": "imagenet",
    "encoder_sha256": {"optical": "64 digits", "sar": "64 digits"},
    "fold": "north",
    "steps": 2000,
    "learning_rate": 5e-4,
    "warmup": 50,
    "clip": 1.0,
    "ema": 0.97,
    "validate_every": 500,
    "patience": 5,
    "scan": "cpu",
    "cache": "store",
    "cache_size": 100.0,
    "notice": "Trained on one summer.",
    "region": "alps",
    "label_field": "class",
    "label_layer": "fields",
    "confidence": "north/sure.tif",
    "optical_bands": ["B02", "B03", "B04", "B08"],
    "sar_bands": ["VV", "VH"],
    "optical_offset": 1000.0,
    "bounds": ["13.1", "52.3", "13.5", "52.6", "EPSG:4326"],
    "grid": "north/grid.tif",
    "cloud_mask": "north/clouds.tif:1,3",
    "cloud_classes": ["shadow", "cloud-medium", "cloud-high", "cirrus"],
    "cloud_buffer": 100.0,
}
"""Values of settings whose default is that there is none."""
LEFT_OUT = ("scenes", "stac", "dates")
"""Scenes are tables of their own, `refnet batch plan` states what STAC items say, and dates follow from a season."""
_CHOICES = {"scheme": tuple(SCHEMES), "loss": tuple(LOSSES)}
_BEGINNING = """\
# What refnet train learns from, and how. Replace the paths, which are relative to this file, and run
#     refnet train regions.toml --dry-run
#     refnet train regions.toml -o runs/my-region
# Other settings are shown with their defaults, or with an example where the default is none. Remove
# the # in front of a name to change one.
"""
_OF_SCENES = """
# Options of scenes, here for all of them. They may also stand in the table of a scene, which then wins.
"""
_SCENE = """
# A scene with labels. Repeat this table for each; one of optical and sar may be left out.
[[scenes]]
"""


def make_example() -> str:
    """Return the text of a regions file that can be used when its paths are replaced."""
    own = [field for field in fields(TrainScene) if field.name in vars(TrainScene)["__annotations__"]]
    of_files = [field for field in fields(SceneOptions) if field.name not in SHARED]
    shared = [field for field in fields(TrainScene) if field.name in SHARED]
    return "".join([
        _BEGINNING,
        *_settings(TrainConfig, fields(TrainConfig)),
        _OF_SCENES,
        *_settings(TrainScene, shared),
        _SCENE,
        *_settings(TrainScene, [field for field in (*own, *of_files) if field not in shared]),
    ])  # fmt: skip


def _settings(kind: type[Any], chosen: Iterable[Field[Any]]) -> Iterator[str]:
    """Describe settings, the stated ones first."""
    explained, hints, stated = texts(kind), get_type_hints(kind), STATED[kind]
    order = {name: number for number, name in enumerate(stated)}
    listed = [field for field in chosen if field.name not in LEFT_OUT]
    for field in sorted(listed, key=lambda field: order.get(field.name, len(order))):
        text = _plain(explained[field.name]) + _choices(field.name, hints[field.name])
        if field.default is None and field.metadata.get("default_text"):
            text += f" Default: {field.metadata['default_text']}."
        value = stated[field.name] if field.name in stated else _value(field, hints[field.name])
        lines = textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        yield "\n" + "\n".join([*lines, f"{'' if field.name in stated else '#'}{field.name} = {_as_toml(value)}\n"])


def _plain(text: str) -> str:
    """Return a text without the marks of docstrings, and without pointers into the code."""
    return re.sub(r"`+", "", re.sub(r",? see `[^`]*`", "", text))


def _choices(name: str, hint: Any) -> str:
    """List the values of a setting that takes no others."""
    kinds = alternatives(hint)
    literals = [kind for kind in kinds if get_origin(kind) is Literal and Path not in kinds]
    known = _CHOICES.get(name, tuple(choice for kind in literals for choice in get_args(kind)))
    return f" One of {', '.join(map(str, known))}." if len(known) > 1 else ""


def _value(field: Field[Any], hint: Any) -> Any:
    """Return a setting's default; an example where there is none."""
    if field.default not in (MISSING, None, ""):
        return field.default
    if field.name in SHOWN:
        return SHOWN[field.name]
    return next(get_args(kind)[0] for kind in alternatives(hint) if get_origin(kind) is Literal)


def _as_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_as_toml(item)}' for key, item in value.items())} }}"
    return json.dumps(value)
