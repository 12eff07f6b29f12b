"""Files of the Hugging Face hub: from its cache, or downloaded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from refnet_cli.errors import InputMissingError

CONNECT_SECONDS = 5.0
# The bases are errors of the hub's HTTP library, which differs between versions of huggingface_hub.
_NETWORK_ERRORS: tuple[Any, ...] = (OSError, *HfHubHTTPError.__bases__)


def fetch(repository: str, filename: str, revision: str | None, what: str, remedy: str) -> Path:
    """Return the local path of a file of the hub; download it if it is not in the cache.

    Parameters
    ----------
    repository, filename : str
    revision : str, optional
        A commit or branch; by default the main branch.
    what : str
        Start of the error message: the file's name for the user.
    remedy : str
        End of the error message: what to do with the file, after "download URL and ".

    Raises
    ------
    InputMissingError
        If the file is not in the cache and cannot be downloaded.
    """
    cached = try_to_load_from_cache(repository, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repository, filename, revision=revision)
    try:
        with quiet():
            # Fails at once; the download would retry for a minute.
            get_hf_file_metadata(url, timeout=CONNECT_SECONDS)
            return Path(hf_hub_download(repository, filename, revision=revision))
    except _NETWORK_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputMissingError(f"{what} could not be downloaded ({reason}). Download {url} and {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings of timm and the hub; refnet's own messages cover them."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
