"""The page refnet of Settings > Options: where the program is, and a button that installs it."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsApplication, QgsTask
from qgis.gui import QgsFileWidget, QgsOptionsPageWidget, QgsOptionsWidgetFactory
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QLineEdit, QProgressBar, QPushButton, QWidget

from .algorithm import ICON
from .environment import EnvironmentProblem, find_program, install, version_of
from .settings import PACKAGES, PROGRAM, PYTHON, environment_folder, read_setting, write_setting

TITLE = "refnet"


class InstallTask(QgsTask):
    """Installs refnet in the background; it goes on when the page is closed.

    Parameters
    ----------
    package, python : str
        As of `install`.
    """

    told = pyqtSignal(str, float)
    """A line, and the share of a download that is done; -1 where it is not known."""
    ended = pyqtSignal(bool, str)
    """Whether it worked, and what to tell."""

    def __init__(self, package: str, python: str) -> None:
        super().__init__("Install refnet", QgsTask.CanCancel)
        self._package, self._python = package, python
        self._folder = environment_folder()
        self._text = ""

    def run(self) -> bool:
        """Install it."""
        try:
            version = install(self._folder, self._package, self._python, self._tell, self.isCanceled)
        except (EnvironmentProblem, OSError) as problem:
            self._text = str(problem)
            return False
        self._text = f"refnet {version} is installed."
        return True

    def _tell(self, line: str, share: float | None) -> None:
        if share is not None:
            self.setProgress(100 * share)
        self.told.emit(line, -1.0 if share is None else share)

    def finished(self, result: bool) -> None:
        """Tell how it ended."""
        self.ended.emit(result, self._text)


class OptionsPage(QgsOptionsPageWidget):
    """The page."""

    _task: InstallTask | None = None  # of all pages: one installation at a time

    def __init__(self, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.program, self.python = QgsFileWidget(), QgsFileWidget()
        self.package = QLineEdit(read_setting(PACKAGES))
        self.program.setFilePath(read_setting(PROGRAM))
        self.python.setFilePath(read_setting(PYTHON))
        self.program.lineEdit().setPlaceholderText("the installed one, else the one on the path")
        self.python.lineEdit().setPlaceholderText("found by itself")
        self.button, self.bar, self.state = QPushButton("Install"), QProgressBar(), QLabel()
        self.state.setWordWrap(True)
        self.bar.hide()
        form, row = QFormLayout(self), QHBoxLayout()
        row.addWidget(self.button)
        row.addWidget(self.bar, 1)
        folder = QLabel(f"The button installs refnet into {environment_folder()}, apart from the Python of QGIS.")
        folder.setWordWrap(True)
        for label, widget in (
            ("Program refnet", self.program), ("", self.state), ("", folder), ("Package", self.package),
            ("Python 3.11 to 3.13", self.python), ("", row),
        ):  # fmt: skip
            form.addRow(label, widget)
        self.button.clicked.connect(self._press)
        self.program.fileChanged.connect(self._show_program)
        self._show_program()
        if OptionsPage._task is not None:
            self._follow(OptionsPage._task)

    def apply(self) -> None:
        """Keep what is set."""
        write_setting(PROGRAM, self.program.filePath())
        write_setting(PYTHON, self.python.filePath())
        write_setting(PACKAGES, self.package.text().strip())

    def _show_program(self, *_: Any) -> None:
        """Say which program runs."""
        try:
            found = find_program(self.program.filePath().strip(), environment_folder())
            self.state.setText(f"refnet {version_of(found)}: {found}")
        except EnvironmentProblem as problem:
            self.state.setText(str(problem))

    def _press(self) -> None:
        """Begin to install, or cancel."""
        if OptionsPage._task is not None:
            OptionsPage._task.cancel()
            self.button.setEnabled(False)
            return
        task = InstallTask(self.package.text().strip(), self.python.filePath().strip())
        OptionsPage._task = task
        task.ended.connect(_forget)
        self._follow(task)
        QgsApplication.taskManager().addTask(task)

    def _follow(self, task: InstallTask) -> None:
        self.button.setText("Cancel")
        self.bar.show()
        self.bar.setRange(0, 0)
        task.told.connect(self._tell)
        task.ended.connect(self._end)

    def _tell(self, line: str, share: float) -> None:
        self.bar.setRange(0, 0 if share < 0 else 100)
        self.bar.setValue(round(100 * max(share, 0.0)))
        self.state.setText(line)

    def _end(self, worked: bool, text: str) -> None:
        self.bar.hide()
        self.button.setText("Install")
        self.button.setEnabled(True)
        self.state.setText(text)
        if worked:
            self._show_program()


def _forget(*_: Any) -> None:
    OptionsPage._task = None


class OptionsPageFactory(QgsOptionsWidgetFactory):
    """Makes the page when the options are opened."""

    def __init__(self) -> None:
        super().__init__(TITLE, QIcon(ICON))
        self.setTitle(TITLE)

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(ICON)

    def createWidget(self, parent: QWidget | None) -> OptionsPage:
        """Return the page."""
        return OptionsPage(parent)
