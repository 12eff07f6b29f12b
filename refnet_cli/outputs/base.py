"""What all outputs share: the order of rows, the hidden folder, the check, the move into place.

Every output takes finished rows from north to south and holds only what its width asks for. Its files grow in a hidden
folder next to their target, are checked, and move into place at the very end: in any case, the target is the old
file or the complete new one.
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
"""Name of the file in the work folder of an output that the next run may go on with."""
Media = tuple[str | None, tuple[str, ...]]
"""Media type and roles of a file, as STAC has them."""


class Output(Protocol):
    """Takes the rows of a prediction and leaves complete files, or none.

    As a context manager it finishes on leaving, or aborts when an exception passes.
    """

    layers: tuple[str, ...]
    """Names in `LAYERS` of what it reads of rows."""
    files: list[Path]
    """What it makes; the first is its path."""
    sha256: dict[str, str]
    """Of each of `files`, by its name, once they are complete."""
    sizes: dict[str, int]
    """The same in bytes."""
    work_folder: WorkFolder
    """Where it is made; other files may lie there too."""
    warnings: list[str]
    """What its user should know, from the beginning."""

    def write(self, rows: Rows) -> None:
        """Take the next rows of the grid, any number of them.

        Parameters
        ----------
        rows : Rows
            They follow the last ones written.
        """

    def complete(self, facts: Mapping[str, Any] | None = None) -> None:
        """Make the files complete and check them, still in the hidden folder.

        Parameters
        ----------
        facts : mapping, optional
            What is known of the map when all its rows are there, for outputs that describe it.
        """

    def finish(self) -> Path:
        """Move the files into place, complete if they were not yet, and return the path of the first."""

    def abort(self) -> None:
        """Remove everything unfinished; may be called at any time and more than once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class FileOutput(ABC):
    """An output that grows in a hidden folder; see `Output`.

    The class itself declares what the rest of the program has to know of such outputs.

    Parameters
    ----------
    path : str or Path
        Where it is to appear; an earlier file there is replaced at the very end.
    context : MapContext
        What the map is. The same rows and tags give the same bytes.
    companions : sequence of Path, optional
        Further files that it makes; by default those that `companions` names.

    Raises
    ------
    OutputError
        If nothing can be made at that place.
    StorageError
        From `write` or `finish`, if the disk fills up or does not hold what was written.
    """

    ending: ClassVar[str]
    """What stands in place of the map's ``.tif`` in its own name, unless that is given."""
    suffixes: ClassVar[tuple[str, ...]]
    """Endings that its name may have, the usual one first."""
    title: ClassVar[str] = ""
    """In catalogues; by default the output's name."""
    media: ClassVar[Mapping[str, Media]] = {}
    """Of its files by their ending; the first entry also holds for its first file if that has another ending."""
    layers: tuple[str, ...] = ("codes",)
    quicklook: ClassVar[bool] = False
    """Whether it shows `MapContext.look`."""
    fixed_memory: ClassVar[int] = 0
    """Bytes that it takes in addition to the map's."""
    pixel_memory: ClassVar[tuple[int, int]] = (0, 0)
    """The same for a pixel of a row of blocks, and for each class of the network there."""
    own_options: ClassVar[tuple[str, ...]] = ()
    """Options of a prediction that are for it only."""

    @classmethod
    def make(cls, path: Path, context: MapContext) -> Self:
        """Begin an output of a map."""
        return cls(path, context)

    @staticmethod
    def companions(path: Path, map: Path) -> list[Path]:
        """Return the further files that come with the one at a path, for a map at another."""
        return []

    def __init__(self, path: str | Path, context: MapContext, companions: Sequence[Path] | None = None) -> None:
        self.path = Path(path)
        self.files = [self.path, *(self.companions(self.path, context.map) if companions is None else companions)]
        self.sha256: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.warnings: list[str] = []
        self._grid, self._scheme, self._tags = context.grid, context.scheme, dict(context.tags)
        self._next_row = 0
        self._ready: list[Path] | None = None
        self._finished = False
        # A link is followed, so that the file it names is replaced and not the link.
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
        """Open what is needed inside the hidden folder."""

    @abstractmethod
    def _put(self, rows: Rows) -> None:
        """Take the next rows."""

    @abstractmethod
    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        """Return the complete, checked files inside the hidden folder, in the order of ``files``."""

    def _close(self) -> None:  # noqa: B027 most have nothing open
        """Let go of open files."""

    def write(self, rows: Rows) -> None:
        """See `Output.write`."""
        row, (height, width) = rows.row, rows.valid.shape
        if self._folder is None or self._ready is not None:
            raise ValueError(f"{self.path} is finished or given up; nothing more can be written.")
        if row != self._next_row or row + height > self._grid.shape[0] or width != self._grid.shape[1]:
            raise ValueError(
                f"Rows {row} to {row + height} of {width} pixels do not follow row {self._next_row} "
                f"of a grid of {self._grid.shape[0]} x {self._grid.shape[1]} pixels."
            )
        rows.check()
        if rows.code_scheme != self._scheme:
            raise ValueError(
                f"Rows of class scheme {rows.code_scheme.name!r} cannot go into {self.path}, "
                f"which has {self._scheme.name!r}."
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
            raise ValueError(f"{self.path} has {self._next_row} of {self._grid.shape[0]} rows; it cannot be finished.")
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
            # The first goes last: where it is, all are.
            for made, target in reversed(list(zip(self._ready or [], self._targets, strict=True))):
                os.replace(made, target)
                sync(target.parent)
        self._finished = True
        self.abort()
        return self.path

    def abort(self) -> None:
        """See `Output.abort`."""
        if self._folder is not None:
            with suppress(Exception):  # closing a half-written raster may fail, and it is thrown away
                self._close()
            self.work_folder.close()
            self._folder = None

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            self.abort()
            raise OutputError(f"{str(self.path)!a} is no UTF-8 text, as a name must be: choose another.") from error
        except (OSError, RasterioError, CPLE_BaseError) as error:
            explained = explain(self.path, error, self._folder)  # while the unfinished files are still there
            self.abort()
            raise explained from error
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException | None) -> None:
        # What ends by a signal, or for want of memory, is to be gone on with.
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
            raise OutputError(f"{path} is a folder or a device; name a file that may be written or replaced.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(path, error) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar_of(path: Path) -> Path:
    """Return where the SHA-256 of a map is written."""
    return path.with_name(f"{path.name}.sha256")


def write_sidecar(path: Path, sha256: str) -> None:
    """Write the SHA-256 of a map next to it, as sha256sum does.

    Raises
    ------
    OutputError, StorageError
        If it cannot be written.
    """
    with replacing(sidecar_of(path)) as temporary:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="utf-8", errors="surrogateescape")
