"""Whether fetching works here: the extra, and the catalogues."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from refnet_cli.errors import RefnetError
from refnet_cli.fetching.catalogues import CATALOGUES, Catalogue

SECONDS = 3.0
"""Seconds that a catalogue has to answer."""


def missing_for_fetch() -> str | None:
    """Return why nothing can be fetched, or None if it can."""
    try:
        for name in ("pystac_client", "requests"):
            importlib.import_module(name)
    except ImportError as error:
        return f"{error.name} is missing: pip install 'refnet-cli[fetch]'"
    return None


def ask_catalogues() -> dict[str, str | None]:
    """Ask each catalogue for its root; None for one that answers, else why it does not."""
    with ThreadPoolExecutor(len(CATALOGUES)) as pool:
        return dict(zip(CATALOGUES, pool.map(_ask, CATALOGUES.values()), strict=True))


def _ask(catalogue: Catalogue) -> str | None:
    from refnet_cli.fetching.http import Http

    quick = replace(catalogue, connect_seconds=SECONDS, silent_seconds=SECONDS, retries=0)
    try:
        answer = Http(quick).json("GET", catalogue.url)
    except RefnetError as error:
        return str(error)
    return None if isinstance(answer, dict) and "links" in answer else f"{catalogue.url} is not the root of a STAC API"
