"""From the options of a command to the parameters of an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingParameterVectorLayer,
)

from .roles import ABOUT, FILES, LAYERS, REPORTS, Role, parameters_of

SWITCH = "yes", "no"
"""Choices of an option with a flag to switch it on and one to switch it off; without a choice the program decides."""


def definitions(command: str) -> Iterator[QgsProcessingParameterDefinition]:
    """Yield the parameters of a command's algorithm, in the order of its dialog."""
    written, others = [], []
    for about, role in parameters_of(command):
        made = list(_define(about, role))
        for parameter in made:
            parameter.setHelp(role.help or about.get("help", ""))
            if not role.shown:
                _set_advanced(parameter)
        (written if "write" in role.kind else others).extend(made)
    shown = [one for one in others if not one.flags() & QgsProcessingParameterDefinition.FlagAdvanced]
    yield from shown
    yield from (one for one in others if one not in shown)
    yield from written
    if command == "predict":
        yield from _further_outputs()
    if command in REPORTS:
        yield _optional_file("json", "Report as JSON", ["json"])


def _set_advanced(parameter: QgsProcessingParameterDefinition) -> None:
    parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)


def _define(about: dict[str, Any], role: Role) -> Iterator[QgsProcessingParameterDefinition]:
    """Yield what stands for an option: one parameter, or a layer and its files as text."""
    name, optional = about["name"], not about["required"]
    label = role.label or name.strip("_").replace("_", " ").capitalize()
    file = QgsProcessingParameterFile
    if role.kind == "images":
        yield QgsProcessingParameterRasterLayer(name, label, optional=True)
        text = f"{label}: folder, SAFE, or several files with commas between them"
        files = file(name + FILES, text, behavior=file.Folder, optional=True)
        _set_advanced(files)
        yield files
    elif role.kind == "raster":
        yield QgsProcessingParameterRasterLayer(name, label, optional=optional and role.shown is False)
    elif role.kind == "vector":
        yield QgsProcessingParameterVectorLayer(name, label, [QgsProcessing.TypeVectorPolygon], optional=True)
    elif role.kind == "vectors":
        yield QgsProcessingParameterMultipleLayers(name, label, QgsProcessing.TypeVectorAnyGeometry, optional=True)
    elif role.kind == "layer":
        kinds = [QgsProcessing.TypeRaster, QgsProcessing.TypeVectorAnyGeometry]
        yield QgsProcessingParameterMapLayer(name, label, optional=True, types=kinds)
    elif role.kind == "field":
        yield QgsProcessingParameterField(name, label, parentLayerParameterName=role.parent, optional=True)
    elif role.kind in ("extent", "degrees"):
        yield QgsProcessingParameterExtent(name, label, optional=True)
    elif role.kind == "raster to write":
        yield QgsProcessingParameterRasterDestination(name, label)
    elif role.kind == "folder to write":
        yield QgsProcessingParameterFolderDestination(name, label)
    elif role.kind == "file to write":
        yield _optional_file(name, label, [role.endings])
    elif role.kind == "file" or about["kind"] == "file":
        yield file(name, label, optional=optional)
    else:
        yield _plain(about, label, optional)


def _plain(about: dict[str, Any], label: str, optional: bool) -> QgsProcessingParameterDefinition:
    """Return the parameter of an option that is neither a file nor a place."""
    name, kind = about["name"], about["kind"]
    if kind == "flag":
        return QgsProcessingParameterBoolean(name, label, defaultValue=False)
    if kind in ("choice", "switch"):
        choices = about.get("choices", SWITCH)
        return QgsProcessingParameterEnum(name, label, choices, optional=optional, usesStaticStrings=True)
    if kind in ("integer", "number"):
        number = QgsProcessingParameterNumber
        return number(name, label, number.Integer if kind == "integer" else number.Double, None, optional=optional)
    return QgsProcessingParameterString(name, label, optional=optional)


def _further_outputs() -> Iterator[QgsProcessingParameterDefinition]:
    """Yield the outputs of a map other than the map: none is made unless it is asked for."""
    for kind, about in ABOUT["outputs"].items():
        how = {"optional": True, "createByDefault": False}
        if LAYERS.get(kind) == "raster":
            made = QgsProcessingParameterRasterDestination(kind, about["title"], **how)
        elif LAYERS.get(kind) == "vector":
            made = QgsProcessingParameterVectorDestination(kind, about["title"], **how)
        else:
            made = _optional_file(kind, about["title"], [ending.lstrip(".") for ending in about["endings"]])
        _set_advanced(made)
        yield made


def _optional_file(name: str, label: str, endings: list[str]) -> QgsProcessingParameterFileDestination:
    kinds = ";;".join(f"{ending.upper()} (*.{ending})" for ending in endings)
    return QgsProcessingParameterFileDestination(name, label, kinds, optional=True, createByDefault=False)
