"""Base of all outputs: the order of rows, the hidden folder, the check, the move into place.

Every output receives finished rows from north to south and holds no more than some rows of the map's width. Its files
are written in a hidden folder next to their target, checked, and moved into place at the end. The target is always
either the old file or the complete new one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from refnet_cli.errors import OutputError, TryAgainError
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.rows import Rows
from refnet_cli.system.atomic import explain, replacing
from refnet_cli.system.disk import sync
from refnet_cli.system.lock import WorkFolder

JOURNAL = "journal"
"""Name of the file in an output's work folder from which the next run may resume."""
Media = tuple[str | None, tuple[str, ...]]
"""STAC media type and roles of a file."""


class Output(Protocol):
    """An output of a prediction: writes its rows to complete files, or to none.

    At the end of its ``with`` statement it finishes, or aborts after an exception.
    """

    layers: tuple[str, ...]
    """Names in `LAYERS` of the layers that it reads."""
    files: list[Path]
    """The files that it writes; the first is its path."""
    sha256: dict[str, str]
    """SHA-256 of each file by its name, once it is complete."""
    sizes: dict[str, int]
    """Size of each file in bytes, once it is complete."""
    work_folder: WorkFolder
    """The hidden folder where it is written; other files may be there too."""
    warnings: list[str]
    """Warnings for the user, available from the start."""

    def write(self, rows: Rows) -> None:
        """Write the next rows of the grid, any number of them.

        Parameters
        ----------
        rows : Rows
            They must follow the last rows written.
        """

    def complete(self, facts: Mapping[str, Any] | None = None) -> None:
        """Complete and check the files in the hidden folder.

        Parameters
        ----------
        facts : mapping, optional
            Facts about the finished map, for outputs that describe it.
        """

    def finish(self) -> Path:
        """Complete the files if needed, move them into place, and return the path of the first."""

    def abort(self) -> None:
        """Remove everything unfinished; may be called at any time and repeatedly."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class FileOutput(ABC):
    """An output that is written in a hidden folder; see `Output`.

    Class attributes declare what the rest of the program needs to know about the output.

    Parameters
    ----------
    path : str or Path
        Path of the output; an existing file is replaced at the end.
    context : MapContext
        The map. Equal rows and tags give equal bytes.
    companions : sequence of Path, optional
        Further files of the output; by default those of the method `companions`.

    Raises
    ------
    OutputError
        If the file cannot be created there.
    StorageError
        From `write` or `finish`, if the disk is full or does not return what was written.
    """

    ending: ClassVar[str]
    """Replaces the map's ``.tif`` in the output's default name."""
    suffixes: ClassVar[tuple[str, ...]]
    """File extensions that its name may have, the usual one first."""
    title: ClassVar[str] = ""
    """Title in catalogues; by default the output's name."""
    media: ClassVar[Mapping[str, Media]] = {}
    """Media of its files by extension; the first entry is the default of its first file."""
    layers: tuple[str, ...] = ("codes",)
    quicklook: ClassVar[bool] = False
    """Whether it shows `MapContext.look`."""
    fixed_memory: ClassVar[int] = 0
    """Bytes that it needs in addition to the map's."""
    pixel_memory: ClassVar[tuple[int, int]] = (0, 0)
    """Additional bytes for each pixel of a row of blocks, and for each class of the network in such a pixel."""
    own_options: ClassVar[tuple[str, ...]] = ()
    """Options of a prediction that apply to this output only."""

    @classmethod
    def make(cls, path: Path, context: MapContext) -> Self:
        """Create the output of a map."""
        return cls(path, context)

    @staticmethod
    def companions(path: Path, map: Path) -> list[Path]:
        """Return the paths of the files that the output writes next to its own, given its path and the map's."""
        return []

    def __init__(self, path: str | Path, context: MapContext, companions: Sequence[Path] | None = None) -> None:
        self.path = Path(path)
        self.files = [self.path, *(self.companions(self.path, context.map) if companions is None else companions)]
        self.sha256: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.warnings: list[str] = []
        self._grid, self._scheme, self._tags = context.grid, context.scheme, dict(context.tags)
        self._dates = context.dates
        self._next_row = 0
        self._ready: list[Path] | None = None
        self._finished = False
        # Follows links, to replace the file and not the link.
        self._targets = [Path(os.path.realpath(file)) for file in self.files]
        for file, target in zip(self.files, self._targets, strict=True):
            _check_target(file, target)
        self.work_folder = WorkFolder(self._targets[0])
        self._folder: Path | None = self.work_folder.path
        with self._cleaning_up():
            self.work_folder.remove_leftovers(JOURNAL)
            self._start(self._folder)

    @abstractmethod
    def _start(self, folder: Path) -> None:
        """Open files inside the hidden folder."""

    @abstractmethod
    def _put(self, rows: Rows) -> None:
        """Write the next rows."""

    @abstractmethod
    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        """Return the complete, checked files inside the hidden folder, in the order of ``files``."""

    def _close(self) -> None:  # noqa: B027 most have nothing open
        """Close open files."""

    def write(self, rows: Rows) -> None:
        """See `Output.write`."""
        row, (height, width) = rows.row, rows.valid.shape
        if self._folder is None or self._ready is not None:
            raise ValueError(f"{self.path} is finished or aborted; no more rows can be written.")
        if row != self._next_row or row + height > self._grid.shape[0] or width != self._grid.shape[1]:
            raise ValueError(
                f"Rows {row} to {row + height} of {width} pixels do not follow row {self._next_row} "
                f"of a grid of {self._grid.shape[0]} x {self._grid.shape[1]} pixels."
            )
        rows.check()
        if rows.code_scheme != self._scheme:
            raise ValueError(
                f"Rows of class scheme {rows.code_scheme.name!r} cannot be written to {self.path}, "
                f"which has class scheme {self._scheme.name!r}."
            )
        with self._cleaning_up():
            self._put(rows)
        self._next_row += height

    def complete(self, facts: Mapping[str, Any] | None = None) -> None:
        """See `Output.complete`."""
        if self._ready is not None or self._finished:
            return
        if self._folder is None or self._next_row != self._grid.shape[0]:
            self.abort()
            raise ValueError(f"{self.path} cannot be finished: it has {self._next_row} of {self._grid.shape[0]} rows.")
        with self._cleaning_up():
            self._ready = self._complete(self._folder, facts or {})
            for file, made in zip(self.files, self._ready, strict=True):
                sync(made)
                self.sha256[file.name], self.sizes[file.name] = sha256_of(made), made.stat().st_size

    def finish(self) -> Path:
        """See `Output.finish`."""
        if self._finished:
            return self.path
        self.complete()
        with self._cleaning_up():
            # The first file is moved last: where it exists, all exist.
            for made, target in reversed(list(zip(self._ready or [], self._targets, strict=True))):
                os.replace(made, target)
                sync(target.parent)
        self._finished = True
        self.abort()
        return self.path

    def abort(self) -> None:
        """See `Output.abort`."""
        if self._folder is not None:
            with suppress(Exception):  # closing a half-written raster may fail; it is deleted anyway
                self._close()
            self.work_folder.close()
            self._folder = None

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            self.abort()
            raise OutputError(f"{str(self.path)!a} is not valid UTF-8. Choose another name.") from error
        except (OSError, RasterioError, CPLE_BaseError) as error:
            explained = explain(self.path, error, self._folder)  # while the unfinished files are still there
            self.abort()
            raise explained from error
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException | None) -> None:
        # A run that a signal or lack of memory ended can be resumed.
        if isinstance(error, SystemExit | KeyboardInterrupt | TryAgainError):
            self.work_folder.keep_for_next_run(JOURNAL)
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._folder is not None:
            self.finish()
        self._give_up(error)


def _check_target(path: Path, target: Path) -> None:
    try:
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise OutputError(f"{path} is a folder or a device. Name a regular file.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(path, error) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar_path(path: Path) -> Path:
    """Return the path of the file with a map's SHA-256."""
    return path.with_name(f"{path.name}.sha256")


def write_sidecar(path: Path, sha256: str) -> None:
    """Write the SHA-256 of a map to a file next to it, in the format of sha256sum.

    Raises
    ------
    OutputError, StorageError
        If the file cannot be written.
    """
    with replacing(sidecar_path(path)) as temporary:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="utf-8", errors="surrogateescape")
