"""The training store: which scenes of a training are in it, and which are read from their files.

A scene is read from its files where its entries cannot be made: it has remote files, a part of it is unreadable, there
is no room, or the folder cannot be written. The crops are the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refnet_cli.errors import TryAgainError
from refnet_cli.scene.pair import ScenePair
from refnet_cli.system.closing import Closing
from refnet_cli.system.disk import is_full
from refnet_cli.system.process import raise_open_file_limit
from refnet_cli.system.words import count
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import SceneFiles, SceneReader, open_scene_labels
from refnet_cli.training.scene_pool import OTHER_FILES
from refnet_cli.training.store.entries import Entries, Entry, New, NoRoomError
from refnet_cli.training.store.scenes import (
    StoredImages,
    StoredScene,
    UnreadableError,
    image_key,
    images_of,
    is_local,
    label_key,
    labels_of,
)
from refnet_cli.training.store.stamps import Stamps, unchanged

LOG = logging.getLogger(__name__)
FOLDER = "store"
"""Name of the store in the folder of a run."""
_FILES = 2  # open files of a stored scene


class Store(Closing):
    """The stored scenes of one training.

    Parameters
    ----------
    folder : Path
        Created if missing.
    limit : int, optional
        Most bytes of all entries in the folder, those of other trainings included; by default what the disk has.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._scenes: dict[str, StoredScene | None] = {}
        self._streamed: dict[str, list[str]] = {}
        """Names of the scenes that are read from their files, by reason."""
        self._stamps = Stamps()
        self._entries: Entries | None = None
        try:
            self._entries = Entries(folder, limit)
        except OSError as error:
            LOG.warning(f"store {folder} cannot be used: {error}. Scenes are read from their files, which is slower")

    def open(self, entry: TrainScene, config: TrainConfig, read_threads: int = 1) -> StoredScene | None:
        """Return a scene from the store, brought there if need be; None if it is read from its files.

        Any thread may call this.

        Raises
        ------
        RefnetError
            If the files of the scene are not usable at all.
        """
        with self._lock:
            if entry.name not in self._scenes:
                raise_open_file_limit(OTHER_FILES + _FILES * len(config.scenes))
                self._scenes[entry.name] = self._find(entry, config, read_threads)
            return self._scenes[entry.name]

    def _find(self, entry: TrainScene, config: TrainConfig, read_threads: int) -> StoredScene | None:
        """Open or make a scene's entries, and note the reason where that does not work."""
        if self._entries is None:
            return None
        why = "their files are remote"
        try:
            if is_local(entry):
                images = StoredImages(self._images(self._entries, entry, config, read_threads))
                return StoredScene(entry, images, self._labels(self._entries, entry, config, images))
        except NoRoomError as error:
            why = str(error)
        except UnreadableError:
            why = "a part of them is unreadable"
        except _ReadOnlyError:
            why = f"{self.folder} cannot be written"
        except FileNotFoundError:
            why = "files are missing"
        except ValueError as error:
            why = f"they cannot be stored: {error}"
        except OSError as error:
            LOG.warning(f"{entry.name} could not be stored in {self.folder}: {error}")
            why = "the disk is full" if is_full(error) else "they could not be stored"
        self._streamed.setdefault(why, []).append(entry.name)
        return None

    def _images(self, entries: Entries, entry: TrainScene, config: TrainConfig, read_threads: int) -> Entry:
        key = image_key(entry, config, self._stamps)
        if found := entries.get(key, _is_current):
            return found
        self._refuse_if_read_only(entries)
        bands = config.optical_bands, config.sar_bands
        with ScenePair.open(entry.optical, entry.sar, *bands, entry.scene, read_threads=read_threads) as pair:
            return entries.obtain(
                key, _is_current, _guarded(images_of(pair, config), lambda: image_key(entry, config, Stamps()) == key)
            )

    def _labels(self, entries: Entries, entry: TrainScene, config: TrainConfig, images: StoredImages) -> Entry:
        key = label_key(entry, config, images.grid, self._stamps)
        if found := entries.get(key, lambda about: True):
            return found
        self._refuse_if_read_only(entries)
        labels = open_scene_labels(entry, config, images.grid)
        try:
            new = labels_of(labels, images.grid)
            return entries.obtain(
                key, lambda about: True, _guarded(new, lambda: label_key(entry, config, images.grid, Stamps()) == key)
            )
        finally:
            labels.close()

    @staticmethod
    def _refuse_if_read_only(entries: Entries) -> None:
        if entries.read_only:
            raise _ReadOnlyError

    def report(self) -> None:
        """Log how many scenes are in the store, and why the others are not."""
        stored = sum(scene is not None for scene in self._scenes.values())
        LOG.debug(f"store: {count(stored, 'scene')} of {len(self._scenes)} in {self.folder}")
        for why, names in self._streamed.items():
            shown = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
            LOG.info(f"store: read from files, which is slower: {shown}, because {why}")

    def close(self) -> None:
        """Release the entries; scenes that were opened keep theirs."""
        with self._lock:
            self._scenes.clear()


class _ReadOnlyError(Exception):
    """The folder cannot be written."""


def _is_current(about: dict[str, Any]) -> bool:
    """Return whether the files that an entry was made from are as they were."""
    return unchanged(about["files"])


def _guarded(new: New, same: Any) -> New:
    """Return the entry with a check, after the last tile, that its files did not change meanwhile."""

    def about() -> dict[str, Any]:
        if not same():
            raise UnreadableError("The files changed while they were read.")
        return new.about()

    return new._replace(about=about)


@contextmanager
def temporary_store(folder: Path, resumable: Callable[[], bool]) -> Iterator[None]:
    """Remove the store in a folder at the end, but for a training that stopped and can be resumed.

    Parameters
    ----------
    folder : Path
        Folder of the store, which need not exist.
    resumable : callable
        Returns whether there are checkpoints.
    """
    done = False
    try:
        yield
        done = True
    except TryAgainError:
        raise
    except BaseException:
        done = not resumable()
        raise
    finally:
        if done and folder.is_dir():
            with suppress(OSError):
                Entries(folder).remove()


def open_scene(
    entry: TrainScene,
    config: TrainConfig,
    store: Store | None,
    kept_blocks: int | None = None,
    read_threads: int = 1,
) -> SceneReader:
    """Open a scene: from the store if it is there or can be brought there, else its files.

    See `SceneFiles.open` for parameters and errors.
    """
    stored = store.open(entry, config, read_threads) if store else None
    return stored or SceneFiles.open(entry, config, kept_blocks, read_threads)
