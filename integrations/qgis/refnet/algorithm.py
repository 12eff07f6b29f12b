"""A command of refnet as an algorithm of Processing."""

from __future__ import annotations

import html
import os
import shlex
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsMapLayer,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputFile,
    QgsProcessingUtils,
)
from qgis.PyQt.QtGui import QIcon

from .arguments import command_words
from .definitions import definitions
from .environment import EnvironmentProblem, version_of
from .messages import read_message
from .program import Done, run_program
from .roles import ABOUT
from .settings import chosen_program
from .values import Values

ICON = str(Path(__file__).parent / "icon.svg")
NAMES = {
    "predict": "Map land cover",
    "train": "Train weights",
    "evaluate": "Score a map against labels",
    "fetch": "Get Sentinel-1, Sentinel-2 and labels of a place",
    "compare": "Change between two maps",
}
FETCHED = {"s2": "s2.tif", "s1": "s1.tif", "fetched_labels": "labels.tif", "regions": "regions.toml"}
"""Outputs of fetch, where it makes one scene, and the files they are."""


class ShownAsMade(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer the style next to its file or in it, as it has where it is opened by hand."""

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Load the style."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()


class RefnetAlgorithm(QgsProcessingAlgorithm):
    """A command, whose parameters are its options.

    Parameters
    ----------
    command : str
        A key of ``ABOUT["commands"]``.
    """

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command
        self._about = ABOUT["commands"][command]
        self._styler = ShownAsMade()  # QGIS does not own it

    def createInstance(self) -> RefnetAlgorithm:
        """Return one for another run."""
        return RefnetAlgorithm(self._command)

    def name(self) -> str:
        """Return its name in scripts."""
        return self._command

    def displayName(self) -> str:
        """Return its name in the toolbox."""
        return NAMES[self._command]

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(ICON)

    def tags(self) -> list[str]:
        """Return words to find it by."""
        return ["refnet", "land cover", "land use", "classification", "sentinel", "sar", self._command]

    def shortDescription(self) -> str:
        """Return a line on it."""
        return str(self._about["summary"])

    def shortHelpString(self) -> str:
        """Return what the command's help says, without its examples of command lines."""
        parts = [part for part in self._about["help"].split("\n\n") if not part.startswith("\b")]
        texts = [html.escape(" ".join(part.split())) for part in parts]
        tooltips = "Rest the mouse on a parameter to read what it is. What is not set has the program's default."
        return "".join(f"<p>{text}</p>" for text in [*texts, tooltips])

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Define parameters and outputs."""
        for parameter in definitions(self._command):
            self.addParameter(parameter)
        if self._command == "train":
            self.addOutput(QgsProcessingOutputFile("weights_file", "Weights"))
        if self._command == "fetch":
            for name, file in FETCHED.items():
                self.addOutput(QgsProcessingOutputFile(name, file))

    def prepareAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> bool:
        """Read the parameters in the thread of the layers."""
        reader = Values(self, self._command, parameters, context)
        self._values = reader.read()
        self._report = reader.report()
        self._results = {name: value for name, value in self._values.items() if self.parameterDefinition(name)}
        if self._command == "predict":
            further = reader.further_outputs()
            self._results |= further
            outputs = [self._values["output"], "style", *(f"{kind}={path}" for kind, path in further.items())]
            self._values["output"] = outputs
        if self._report:
            self._values["json"] = True
            self._results["json"] = self._report
        self._results = {
            name: value for name, value in self._results.items() if self.parameterDefinition(name).isDestination()
        }
        self._style(context)
        self._loaded = context.layersToLoadOnCompletion()
        return True

    def _style(self, context: QgsProcessingContext) -> None:
        for path in self._results.values():
            if context.willLoadLayerOnCompletion(path):
                context.layerToLoadOnCompletionDetails(path).setPostProcessor(self._styler)

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the command.

        Raises
        ------
        QgsProcessingException
            If the program is not there, or fails; with its message and its exit code.
        """
        try:
            program = chosen_program()
            version = version_of(program)
        except EnvironmentProblem as problem:
            raise QgsProcessingException(str(problem)) from problem
        if version != ABOUT["version"]:
            feedback.pushWarning(
                f"The plugin was made for refnet {ABOUT['version']}, and runs {version}: options may differ."
            )
        for path, details in self._loaded.items():  # in a thread this is another context, which replaces the first
            context.addLayerToLoadOnCompletion(path, details)
        for path in self._results.values():
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        words = [str(program), *command_words(self._command, self._values)]
        feedback.pushCommandInfo(shlex.join(words))
        done = self._run(words, feedback)
        if not self._report:
            for line in done.stdout:
                feedback.pushConsoleInfo(line)
        else:
            Path(self._report).write_text("\n".join(done.stdout) + "\n", encoding="utf-8")
        return {**self._results, **self._found(done, context)}

    def _run(self, words: list[str], feedback: QgsProcessingFeedback) -> Done:
        """Run the program and pass on what it says; raise an exception if it fails or is cancelled."""
        errors: list[str] = []

        def on_line(line: str) -> None:
            message = read_message(line)
            if message.share is not None:
                feedback.setProgress(100 * message.share)
                feedback.setProgressText(message.text)
            elif message.level == "error":
                errors.append(message.text)
            elif message.level == "warning":
                feedback.pushWarning(message.text)
            elif message.level == "other":
                feedback.pushConsoleInfo(message.text)
            elif message.level == "debug":
                feedback.pushDebugInfo(message.text)
            else:
                feedback.pushInfo(message.text)

        try:
            done = run_program(words, on_line, feedback.isCanceled)
        except OSError as error:
            raise QgsProcessingException(f"{words[0]} cannot be run: {error}.") from error
        said = "\n".join(errors)
        if done.cancelled:
            raise QgsProcessingException(said or "Stopped.")
        if done.code:
            how = f"signal {-done.code}" if done.code < 0 else f"exit code {done.code}"
            raise QgsProcessingException(f"{said}\n(refnet {self._command}: {how})".strip())
        return done

    def _found(self, done: Done, context: QgsProcessingContext) -> dict[str, Any]:
        """Return outputs that only the program knows the paths of, and have fetched images loaded."""
        paths = [Path(line) for line in done.stdout if os.path.isfile(line)]
        if self._command == "train" and len(paths) == 1:
            return {"weights_file": str(paths[0])}
        if self._command != "fetch":
            return {}
        found = {name: [path for path in paths if path.name == file] for name, file in FETCHED.items()}
        for path in (path for made in found.values() for path in made if path.suffix == ".tif"):
            name = f"{path.parent.name} {path.stem}"
            details = QgsProcessingContext.LayerDetails(name, context.project(), path.stem, QgsProcessingUtils.Raster)
            context.addLayerToLoadOnCompletion(str(path), details)
        return {name: str(made[0]) for name, made in found.items() if len(made) == 1}
