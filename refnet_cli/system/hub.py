"""Files of the Hugging Face hub: from its cache or, where they are not there yet, over the network."""

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
# The bases are what the hub's HTTP library raises; which library that is differs between versions of the hub.
_NETWORK_ERRORS: tuple[Any, ...] = (OSError, *HfHubHTTPError.__bases__)


def fetch(repository: str, filename: str, revision: str | None, what: str, remedy: str) -> Path:
    """Return a file of the hub.

    Parameters
    ----------
    repository, filename : str
    revision : str, optional
        A commit or branch; by default the main branch.
    what : str
        Beginning of the error message: what could not be fetched.
    remedy : str
        Its end: what to do with the file, after "fetch URL and ".

    Raises
    ------
    InputMissingError
        If it is not in the cache and cannot be fetched.
    """
    cached = try_to_load_from_cache(repository, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repository, filename, revision=revision)
    try:
        with quiet():
            # Fails at once, where the download would try again for a minute.
            get_hf_file_metadata(url, timeout=CONNECT_SECONDS)
            return Path(hf_hub_download(repository, filename, revision=revision))
    except _NETWORK_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputMissingError(f"{what} could not be fetched ({reason}): fetch {url} and {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of timm and the hub from the user; refnet's own messages say what matters."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
