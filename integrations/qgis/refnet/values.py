"""From the parameters of a run to the values of a command's options: layers become the files behind them."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsMapLayer,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingUtils,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsVectorLayer,
)

from .definitions import SWITCH
from .roles import ABOUT, FILES, Role, parameters_of

_LAYER_OPTION = {"zones": "zone_layer", "area": "area_layer", "labels": "layer", "sample": "layer"}
"""Options that name the layer of a vector file, by the option of the file."""


class Values:
    """Reads the values of a run's parameters.

    Parameters
    ----------
    algorithm : QgsProcessingAlgorithm
    command : str
    parameters : dict
        As QGIS gives them.
    context : QgsProcessingContext
    """

    def __init__(
        self, algorithm: QgsProcessingAlgorithm, command: str, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> None:
        self._of, self._command, self._parameters, self._context = algorithm, command, parameters, context
        self._layers: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """Return the values of the command's options by their names.

        Raises
        ------
        QgsProcessingException
            If a layer is not what is in a file, an extent has no CRS, or files are given twice.
        """
        found = {about["name"]: self._read(about, role) for about, role in parameters_of(self._command)}
        for name, layer in self._layers.items():
            found[name] = found.get(name) or layer
        return {name: value for name, value in found.items() if value not in (None, "", [])}

    def further_outputs(self) -> dict[str, str]:
        """Return the paths of the outputs of a map that are wanted, by kind."""
        made = {kind: self._destination(kind) for kind in ABOUT["outputs"]}
        return {kind: path for kind, path in made.items() if path}

    def report(self) -> str:
        """Return the path of the report, or ""."""
        return self._destination("json")

    def _given(self, name: str) -> Any:
        value = self._parameters.get(name)
        return None if value in (None, "") else value

    def _read(self, about: dict[str, Any], role: Role) -> Any:
        name, of, parameters, context = about["name"], self._of, self._parameters, self._context
        if "write" in role.kind:
            return self._destination(name)
        if self._given(name) is None and role.kind != "images":
            return None
        if role.kind == "images":
            return self._images(name, role)
        if role.kind in ("raster", "vector", "layer"):
            return self._file(name, parameters[name])
        if role.kind == "vectors":
            given = parameters[name]
            return [self._file(name, one) for one in (given if isinstance(given, (list, tuple)) else [given])]
        if role.kind in ("extent", "degrees"):
            return self._extent(name, role.kind == "degrees")
        if about["kind"] == "flag":
            return of.parameterAsBoolean(parameters, name, context)
        if about["kind"] in ("choice", "switch"):
            chosen = of.parameterAsEnumString(parameters, name, context)
            return chosen == SWITCH[0] if chosen and about["kind"] == "switch" else chosen
        if about["kind"] == "integer":
            return of.parameterAsInt(parameters, name, context)
        if about["kind"] == "number":
            return of.parameterAsDouble(parameters, name, context)
        text = of.parameterAsString(parameters, name, context).strip()
        return [part.strip() for part in text.split(",")] if about["multiple"] else text

    def _destination(self, name: str) -> str:
        definition = self._of.parameterDefinition(name)
        if self._given(name) is None:
            return ""
        if definition.type() in ("rasterDestination", "vectorDestination"):
            return self._of.parameterAsOutputLayer(self._parameters, name, self._context)
        return self._of.parameterAsFileOutput(self._parameters, name, self._context)

    def _images(self, name: str, role: Role) -> str | None:
        """Return the file of a layer, or files as text."""
        layer, files = self._given(name), self._given(name + FILES)
        if layer is not None and files is not None:
            raise QgsProcessingException(f"{role.label} is given as a layer and as files. Give one of them.")
        return str(files) if files is not None else None if layer is None else self._file(name, layer)

    def _extent(self, name: str, degrees: bool) -> str:
        """Return west, south, east, north, and the CRS unless it is in degrees."""
        crs = QgsCoordinateReferenceSystem("EPSG:4326") if degrees else QgsCoordinateReferenceSystem()
        stated = self._of.parameterAsExtentCrs(self._parameters, name, self._context)
        if not stated.isValid() or not (degrees or stated.authid()):
            raise QgsProcessingException("The extent has no CRS with a code. Give it in one, such as EPSG:4326.")
        extent = self._of.parameterAsExtent(self._parameters, name, self._context, crs)
        edges = extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()
        return ",".join([*(f"{edge:.10g}" for edge in edges), *([] if degrees else [stated.authid()])])

    def _file(self, name: str, value: Any) -> str:
        """Return the file behind a layer, or a path as it is: the program says what is wrong with it."""
        if hasattr(value, "staticValue"):  # a property, as models have it
            value = value.staticValue()
        layer = value if isinstance(value, QgsMapLayer) else None
        if layer is None:
            layer = QgsProcessingUtils.mapLayerFromString(str(value), self._context, False)
        if layer is None:
            return str(value)
        refuse_what_is_not_in_the_file(layer)
        parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
        if isinstance(layer, QgsVectorLayer) and name in _LAYER_OPTION and parts.get("layerName"):
            self._layers[_LAYER_OPTION[name]] = parts["layerName"]
        return str(parts["path"])


def refuse_what_is_not_in_the_file(layer: QgsMapLayer) -> None:
    """Raise an exception for a layer of which the program, which reads its file, would see something else.

    Raises
    ------
    QgsProcessingException
        If it is of no file, has a filter, or edits that are not saved.
    """
    advice = "Export it to a file and choose that."
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    if layer.providerType() not in ("gdal", "ogr") or not parts.get("path"):
        raise QgsProcessingException(f"The layer {layer.name()} is not a file. {advice}")
    if isinstance(layer, QgsRasterLayer) and parts.get("layerName"):
        raise QgsProcessingException(f"The layer {layer.name()} is one of several in a file. {advice}")
    if isinstance(layer, QgsVectorLayer) and layer.subsetString():
        raise QgsProcessingException(f"The layer {layer.name()} has a filter, which the file has not. {advice}")
    if isinstance(layer, QgsVectorLayer) and layer.isModified():
        raise QgsProcessingException(f"The layer {layer.name()} has edits that are not saved. Save them.")
