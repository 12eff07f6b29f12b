"""Published weights: downloaded from allowed hosts, checked against their list, and put into the user's folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refnet_cli.errors import InputError, OutputError, RefnetError, StorageError, UnavailableError, WeightsError
from refnet_cli.fetching.availability import missing_for_fetch
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.model.published import PublishedWeights, WeightsList, read_list, weights_folder
from refnet_cli.model.weight_files import BUNDLED, verify
from refnet_cli.system.atomic import explain
from refnet_cli.system.disk import sync
from refnet_cli.system.lock import WorkFolder
from refnet_cli.system.urls import hide_secrets
from refnet_cli.types import Progress

if TYPE_CHECKING:
    from refnet_cli.fetching.http import Http

LOG = logging.getLogger(__name__)
CHUNK = 8 << 20
"""Bytes of a request."""
SPARE = 16 << 20
"""Bytes that must stay free on the disk."""
RETRIES = 4
_STATE = "state.json"


def fetch_weights(
    name: str,
    listed: Path | None = None,
    allow_host: tuple[str, ...] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download published weights into the user's folder, where ``--weights NAME`` finds them.

    An interrupted download is continued. The file appears under its name when its SHA-256 is that of the list and its
    card can be read, not before.

    Parameters
    ----------
    name : str
        Name in the list.
    listed : Path, optional
        The list; see `refnet_cli.model.published.read_list`.
    allow_host : tuple of str
        Further hosts, as HOST or HOST:PORT, that may be reached by http and may have private addresses.
    overwrite : bool
        Replace fetched weights of that name that differ from the list's.
    progress : callable, optional
        Called with the number of megabytes received and of all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    WeightsError
        If the list has no such weights, or the file has another SHA-256 or no card that can be used.
    InputError
        If a server has another file, or refers to a host that is not allowed.
    OutputError
        If there are other weights of that name.
    StorageError
        If the disk is too full.
    TryAgainError
        If the servers do not answer. What was received is kept.
    UnavailableError
        If the extra ``fetch`` is not installed.
    """
    entries = read_list(listed)
    entry = _find(name, entries)
    target = weights_folder() / f"{name}{entry.ending}"
    if target.exists() and _sha256(target) == entry.sha256:
        LOG.info(f"{name} is there already: {target}")
        return target
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target} differs from the weights that the list calls {name}. Pass --overwrite to replace it, or move it."
        )
    if missing := missing_for_fetch():
        raise UnavailableError(f"Weights cannot be fetched: {missing}.")
    from refnet_cli.fetching.http import Http

    catalogue = Catalogue("published weights", entry.urls[0], entries.hosts, retries=RETRIES)
    with WorkFolder(target) as work:
        _Download(Http(catalogue, allow_host), name, entry, work, progress).run()
        finished = work.path / target.name
        try:
            verify(finished)
        except WeightsError as error:
            finished.unlink()
            raise WeightsError(f"{name} has the listed SHA-256, but cannot be used: {error}") from error
        try:
            sync(finished)
            os.replace(finished, target)
            sync(target.parent)
        except OSError as error:
            raise explain(target, error) from error
    return target


def _find(name: str, entries: WeightsList) -> PublishedWeights:
    if name in entries.weights:
        return entries.weights[name]
    if not entries.weights:
        raise WeightsError(
            f"There are no weights {name} to fetch: the list is empty, since nobody has published weights yet. "
            f"The bundled ones are {BUNDLED}. A list of your own is given by --list FILE."
        )
    raise WeightsError(f"There are no weights {name} to fetch. The list has {', '.join(entries.weights)}.")


class _Download:
    """One download, in the folder that it may be continued from."""

    def __init__(
        self, http: Http, name: str, entry: PublishedWeights, work: WorkFolder, progress: Progress | None
    ) -> None:
        self._http, self._name, self._entry, self._work = http, name, entry, work
        self._progress = progress
        self._file = work.path / f"{name}{entry.ending}"
        self._state = work.path / _STATE

    def run(self) -> None:
        """Leave the file, with the SHA-256 of the list, in the folder."""
        self._work.remove_leftovers(self._file.name, _STATE)
        self._work.keep_for_next_run(self._file.name, _STATE)
        continued = self._prepare()
        self._check_disk()
        self._receive()
        if (found := _sha256(self._file)) != self._entry.sha256 and continued:
            LOG.warning(f"what an earlier run received of {self._name} does not fit; it is fetched from the start")
            self._restart()
            self._receive()
            found = _sha256(self._file)
        if found != self._entry.sha256:
            self._work.keep_for_next_run()
            raise WeightsError(
                f"{self._name} was received with SHA-256 {found[:12]}..., but the list states "
                f"{self._entry.sha256[:12]}...: it is another file, and was removed. Tell whoever keeps the list."
            )
        self._state.unlink(missing_ok=True)
        self._work.keep_for_next_run()

    def _prepare(self) -> bool:
        """Return whether an earlier run's bytes can be continued; drop them if they are of another file."""
        state = self._read_state()
        size = self._file.stat().st_size if self._file.exists() else 0
        if state.get("sha256") == self._entry.sha256 and 0 < size <= self._entry.size:
            LOG.info(f"continuing at {size / 1e6:.1f} of {self._entry.size / 1e6:.1f} MB")
            return True
        self._restart()
        return False

    def _restart(self) -> None:
        """Drop what was received."""
        try:
            self._state.unlink(missing_ok=True)
            self._file.write_bytes(b"")
        except OSError as error:
            raise explain(self._file, error) from error

    def _read_state(self) -> dict[str, Any]:
        try:
            found = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _check_disk(self) -> None:
        needed = self._entry.size - self._file.stat().st_size + SPARE
        free = shutil.disk_usage(self._work.path).free
        if free < needed:
            raise StorageError(
                f"{self._name} needs {needed / 1e6:,.0f} MB in {self._work.path.parent}, where {free / 1e6:,.0f} MB "
                "are free. Free some space, or choose another folder by REFNET_WEIGHTS_FOLDER."
            )

    def _receive(self) -> None:
        """Receive the rest of the file from the first address that has it."""
        for number, url in enumerate(self._entry.urls, 1):
            try:
                self._receive_from(url)
                return
            except (StorageError, OutputError):
                raise
            except RefnetError as error:
                if number == len(self._entry.urls):
                    raise
                LOG.warning(f"{error} Trying the next address.")

    def _receive_from(self, url: str) -> None:
        """Receive the rest of the file from an address; all of it if the file has changed there."""
        from refnet_cli.fetching.http import ChangedError

        try:
            self._receive_rest(url)
        except ChangedError as error:
            LOG.warning(f"{error} It is fetched from the start.")
            self._restart()
            self._receive_rest(url)

    def _receive_rest(self, url: str) -> None:
        from refnet_cli.fetching.http import ChangedError

        total = self._entry.size
        state = self._read_state()
        version = state.get("version", "") if state.get("url") == url else ""
        done = self._file.stat().st_size
        self._report(done)
        while done < total:
            part = self._http.range(url, done, min(done + CHUNK, total), lambda address, _: address, version)
            if part.size != total:
                raise InputError(
                    f"{hide_secrets(url)} has {part.size:,} bytes, but the list states {total:,}: it is not the listed "
                    "file. Tell whoever keeps the list."
                )
            if version and part.version != version:
                raise ChangedError(f"{hide_secrets(url)} has changed since the last request.")
            if not version:
                version = part.version
                self._write_state(url, version)
            self._append(part.content)
            done += len(part.content)
            self._report(done)

    def _append(self, content: bytes) -> None:
        try:
            with self._file.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise explain(self._file, error) from error

    def _write_state(self, url: str, version: str) -> None:
        text = json.dumps({"sha256": self._entry.sha256, "url": url, "version": version})
        try:
            self._state.write_text(text, encoding="utf-8")
        except OSError as error:
            raise explain(self._state, error) from error

    def _report(self, done: int) -> None:
        if self._progress:
            self._progress(done // 10**6, -(-self._entry.size // 10**6))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
