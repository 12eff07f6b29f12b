"""Tokens of Planetary Computer, which a file's URL needs as its query.

Written here because the package planetary-computer signs only its own host names, and so cannot be tested locally.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from refnet_cli.errors import InputError
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.fetching.http import Http
from refnet_cli.system.urls import hide_secrets

_SPARE = 300.0  # seconds before its end at which a token is renewed


class Signer:
    """Adds tokens to URLs, one for each container, and renews them before they end.

    Parameters
    ----------
    catalogue : Catalogue
    http : Http
    """

    def __init__(self, catalogue: Catalogue, http: Http) -> None:
        self._url = catalogue.token_url.rstrip("/") if catalogue.sign == "sas" else ""
        self._known = {host.lower() for host in catalogue.hosts}
        self._http = http
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, float]] = {}

    def __call__(self, url: str, again: bool) -> str:
        """Return a URL with a token; a new one if the last one was refused (``again``).

        Only URLs on the catalogue's own file hosts get one.
        """
        parts = urlsplit(url)
        if not self._url or parts.netloc.lower() not in self._known or parts.query:
            return url
        container = parts.path.lstrip("/").partition("/")[0]
        key = f"{_account(parts.hostname or '')}/{container}"
        with self._lock:
            token, ends = self._tokens.get(key, ("", 0.0))
            if again or time.time() > ends - _SPARE:
                token, ends = self._tokens[key] = _read(self._http.json("GET", f"{self._url}/{key}"), self._url)
        return f"{url}?{token}"


def _account(host: str) -> str:
    """Return the storage account of a host: the first part of its name, or the whole IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.partition(".")[0]
    return host


def _read(answer: Any, url: str) -> tuple[str, float]:
    """Return the token in an answer and the time at which it ends, in seconds since 1970."""
    token = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token or not token.isprintable() or "#" in token:
        raise InputError(f"{hide_secrets(url)} answered without a token.")
    try:
        ends = datetime.fromisoformat(str(answer["msft:expiry"]).replace("Z", "+00:00")).timestamp()
    except (KeyError, ValueError):
        ends = time.time() + 2 * _SPARE
    return token.lstrip("?"), ends
