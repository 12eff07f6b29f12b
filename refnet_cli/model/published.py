"""Published weights: the list of them, and the user's folder in which fetched ones lie."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from refnet_cli.errors import ConfigError
from refnet_cli.system.config import read, read_toml

OWN_LIST = "REFNET_WEIGHTS_LIST"
"""Environment variable with the path of a list in place of refnet's own."""
OWN_FOLDER = "REFNET_WEIGHTS_FOLDER"
"""Environment variable with the folder for fetched weights."""
ENDINGS = ".safetensors", ".onnx"
RESERVED = "shipped", "refnet-base", "refnet-small"
"""Names that stand for bundled weights, or did."""
LARGEST = 64 * 2**30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class PublishedWeights:
    """An entry of the list.

    Raises
    ------
    ConfigError
        If it could not be fetched or checked.
    """

    urls: tuple[str, ...]
    """Addresses of the file, tried in this order."""
    sha256: str
    """SHA-256 of the file, not that of the card."""
    size: int
    """Bytes of the file."""
    licence: str
    card: str = ""
    """Page that describes the weights."""
    title: str = ""
    self_test: tuple[float, ...] = ()
    """Mean probability of each class that the network gives on simulated tiles; see `refnet_cli.doctor.listing`."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("urls is empty; give the file's address.")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"sha256 is {self.sha256!r}; it must be 64 hexadecimal digits in lower case.")
        if not 0 < self.size <= LARGEST:
            raise ConfigError(f"size is {self.size}; it must be from 1 to {LARGEST:,} bytes.")
        if not self.licence.strip():
            raise ConfigError("licence is empty; name it.")
        endings = {_ending(url) for url in self.urls}
        if len(endings) > 1 or not endings <= set(ENDINGS):
            raise ConfigError(f"urls must all end in {' or all in '.join(ENDINGS)}.")

    @property
    def ending(self) -> str:
        """Ending of the file's name."""
        return _ending(self.urls[0])


@dataclass(frozen=True)
class WeightsList:
    """A list of published weights.

    Raises
    ------
    ConfigError
        If a name cannot be used, or an address is not on one of the hosts.
    """

    hosts: tuple[str, ...] = ()
    """The only hosts, as HOST or HOST:PORT, that requests and redirects may go to."""
    weights: dict[str, PublishedWeights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {host.lower() for host in self.hosts}
        for name, entry in self.weights.items():
            if not _NAME.fullmatch(name) or name in RESERVED:
                raise ConfigError(
                    f"weights.{name}: a name has up to 64 letters, digits, - and _, and is none of "
                    f"{', '.join(RESERVED)}."
                )
            for url in entry.urls:
                if urlsplit(url).netloc.lower() not in known:
                    raise ConfigError(f"weights.{name}: {url} is on none of the list's hosts. Add its host to hosts.")


def read_list(path: Path | None = None) -> WeightsList:
    """Read a list of published weights.

    Parameters
    ----------
    path : Path, optional
        By default the file that the environment variable ``REFNET_WEIGHTS_LIST`` names, or else refnet's own list.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    ConfigError
        If it is not a list of weights.
    """
    given = path or (Path(os.environ[OWN_LIST]) if os.environ.get(OWN_LIST) else None)
    source = given or Path(__file__).with_name("published.toml")
    return read(WeightsList, read_toml(source), f"{source} cannot be used")


def weights_folder() -> Path:
    """Return the user's folder of fetched weights, which may not exist.

    ``REFNET_WEIGHTS_FOLDER``, or the system's folder for data of programs.
    """
    if own := os.environ.get(OWN_FOLDER):
        return Path(own).absolute()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "refnet" / "weights"


def fetched_weights(name: str | None = None) -> list[Path]:
    """Return the files of fetched weights, of one name or of all."""
    try:
        folder = weights_folder()
    except RuntimeError:  # no home folder
        return []
    if name is not None:
        return [path for ending in ENDINGS if (path := folder / f"{name}{ending}").is_file()]
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS and _NAME.fullmatch(path.stem))


def is_name(text: str) -> bool:
    """Return whether a text can be the name of published weights."""
    return _NAME.fullmatch(text) is not None


def _ending(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).suffix
