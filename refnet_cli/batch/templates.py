"""Templates for the paths of a scene: texts with fields in braces, such as ``{parent}/s1.tif``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.urls import is_remote, split_paths

NONE = "none"
"""Template of a sensor without files in all scenes."""
ListedColumn = Literal["optical", "sar", "season"]
_FIELD = re.compile(r"\{([\w.-]+)\}")


@dataclass(frozen=True)
class Templates:
    """Templates of all scenes. A value in a scene's own column takes precedence."""

    optical: str | None = None
    """`NONE` if no scene has optical files."""
    sar: str | None = None
    output: str | None = None
    outputs: tuple[str, ...] = ()
    """Further outputs, as `refnet_cli.prediction.options.PredictOptions.outputs`."""
    season: str | None = None

    @property
    def listed(self) -> ListedColumn:
        """What a list of paths contains: optical files; without those SAR files; without both seasons."""
        if self.optical != NONE:
            return "optical"
        return "sar" if self.sar != NONE else "season"


def fields_in(template: str | None) -> list[str]:
    """Return the names of the fields in a template.

    Examples
    --------
    >>> fields_in("{parent}/{name}.tif")
    ['parent', 'name']
    """
    return _FIELD.findall(template or "")


def fields_of_file(text: str | None) -> dict[str, str]:
    """Return the fields that describe the first file in a list of paths; none without files."""
    if text is None:
        return {}
    path = input_paths(text)[0]
    return {
        "path": text, "name": path.name, "stem": _stem(path), "parent": str(path.parent), "folder": path.parent.name,
    }  # fmt: skip


def _stem(path: Path) -> str:
    return re.sub(r"\.(tiff?|jp2|safe|zip|vrt|csv)$", "", path.name, flags=re.IGNORECASE)


def fill_in(what: str, scene: Mapping[str, str], template: str | None, known: Mapping[str, str], folder: Path) -> str:
    """Return the value of a scene's own column, else of the template, with absolute paths.

    Parameters
    ----------
    what : str
        The column: optical, sar, season or output.
    scene : mapping
        Values of the scene by column.
    template : str, optional
    known : mapping
        Values of the fields in the template.
    folder : Path
        The folder of relative paths in columns. Those of templates are relative to the working directory.

    Raises
    ------
    OptionsError
        If there is neither value nor template, or the template has an unknown field.
    """
    if scene.get(what):
        return _make_absolute(what, scene[what], scene, folder)
    if template is None and what in scene:
        raise OptionsError(f"The scene with {describe_row(scene)} has no {what}. Fill in its column {what!r}.")
    if template is None:
        none = f" If no scene has any, pass --{what} {NONE}." if what in MODALITIES else ""
        raise OptionsError(
            f"The scenes have no {what}. Add a column {what!r} to the table, or pass "
            f"--{'map' if what == 'output' else what} with a template, whose fields may be {_describe_fields(known)}."
            f"{none}"
        )
    return _make_absolute(what, resolve(template, known), scene, Path.cwd())


def resolve(template: str, known: Mapping[str, str]) -> str:
    """Replace the fields in a template by their values.

    Raises
    ------
    OptionsError
        If a field is unknown.

    Examples
    --------
    >>> resolve("maps/{id}.tif", {"id": "north"})
    'maps/north.tif'
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise OptionsError(
                f"{template!r} has the field {{{found[1]}}}. The fields of a scene are {_describe_fields(known)}."
            )
        return known[found[1]]

    return _FIELD.sub(value, template)


def resolve_output(template: str, known: Mapping[str, str]) -> str:
    """Return a further output, KIND or KIND=PATH, with its fields replaced and an absolute path."""
    kind, equals, path = resolve(template, known).partition("=")
    return f"{kind}={os.path.abspath(path)}" if equals else kind


def describe_row(scene: Mapping[str, str]) -> str:
    """Return a scene's values as text for an error message."""
    return ", ".join(f"{name} {value}" for name, value in scene.items() if value)


def _describe_fields(known: Mapping[str, str]) -> str:
    return ", ".join(f"{{{name}}}" for name in known)


def _make_absolute(what: str, text: str, scene: Mapping[str, str], folder: Path) -> str:
    single = what in ("season", "output") or os.path.exists(folder / text)  # only inputs may be several files
    paths = [text] if single and text else split_paths(text)
    if not all(paths):
        none = f" A scene without {what} files has an empty cell in a column {what!r}." if what in MODALITIES else ""
        raise OptionsError(
            f"The scene with {describe_row(scene)} has an empty path as its {what}. Fill in the field of the path."
            f"{none}"
        )
    return ",".join(path if is_remote(path) else os.path.abspath(folder / path) for path in paths)


def input_paths(text: str) -> tuple[Path, ...]:
    """Return the paths in a text that is one path, or several with commas between them."""
    return tuple(map(Path, [text] if os.path.exists(text) else split_paths(text)))
