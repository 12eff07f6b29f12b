"""Requests to catalogues and file servers: allowed addresses only, retries, byte ranges.

Addresses in a catalogue are not trusted. Every request, and every hop of a redirect, is checked before it is sent, and
GDAL never opens a URL itself.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from refnet_cli.errors import InputError, InputMissingError, TryAgainError
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.system.urls import hide_secrets
from refnet_cli.version import __version__

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
REDIRECTS = 5
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_WAIT = 120.0
"""Most seconds that a server may make us wait between two attempts."""
LONGEST_REQUEST = 300.0
"""Most seconds for the body of one answer."""
MAX_JSON = 64 << 20
"""Most bytes of a JSON answer."""
_FIRST_WAIT = 0.5
_CHUNK = 1 << 18
_UNRESOLVED = "the name of the server cannot be resolved"


class AddressError(InputError):
    """An address that requests may not go to."""


class ProtocolError(InputError):
    """A server answers otherwise than a file server does, so that its other files are no better."""


class ChangedError(InputError):
    """A file on a server is another one than at the last request."""


class Policy:
    """The addresses that requests may go to.

    Parameters
    ----------
    hosts : iterable of str
        Known hosts, as HOST or HOST:PORT. They must be reached by https, and may not have private addresses.
    allowed : iterable of str
        Hosts that the user allows, which may be reached by http and may have private addresses.
    """

    def __init__(self, hosts: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._allowed = {host.lower() for host in allowed}
        self._public: dict[str, bool] = {}

    def check(self, url: str, proxied: bool = False) -> None:
        """Refuse a URL that requests may not go to.

        Parameters
        ----------
        url : str
        proxied : bool
            Whether the request goes through a proxy, which resolves the host's name itself.

        Raises
        ------
        AddressError
            If it is no http or https URL, its host is unknown or has a private address, or it is not encrypted.
        """
        shown = ascii(hide_secrets(url))[1:-1][:200]
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower().rstrip("."), parts.port
        except ValueError as error:
            raise AddressError(f"{shown} is not a valid URL.") from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise AddressError(
                f"{shown} is refused: a catalogue may refer to files by http and https URLs without user names only."
            )
        if re.search(r"[\0-\x20\x7f\\]", url):
            raise AddressError(f"{shown} is refused: it contains blanks, control characters or backslashes.")
        port = port or {"http": 80, "https": 443}[parts.scheme]
        default = port == {"http": 80, "https": 443}[parts.scheme]
        names = {f"{host}:{port}", *([host] if default else [])}
        if names & self._allowed or host in self._allowed:
            return
        if not names & self._hosts:
            raise AddressError(
                f"{shown} is refused: {host}{'' if default else f':{port}'} is not a known host of this source "
                f"({', '.join(sorted(self._hosts)) or 'none'}). If you trust it, pass --allow-host {host}:{port}."
            )
        if parts.scheme != "https":
            raise AddressError(f"{shown} is refused: it is not encrypted. Pass --allow-host {host}:{port} to allow it.")
        if not proxied and not self._is_public(host):
            raise AddressError(
                f"{shown} is refused: {host} has a private address. Pass --allow-host {host}:{port} to allow it."
            )

    def _is_public(self, host: str) -> bool:
        """Return whether all addresses of a host are public; True if its name cannot be resolved."""
        if host not in self._public:
            try:
                found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
            except OSError:
                return True  # the request itself reports it, and is repeated
            self._public[host] = all(ipaddress.ip_address(str(one).split("%")[0]).is_global for one in found)
        return self._public[host]


class _CheckedAdapter(HTTPAdapter):  # type: ignore[misc]  # requests has no types
    """Sends a request only if the policy allows its address; requests passes every hop of a redirect through it."""

    def __init__(self, policy: Policy, connections: int) -> None:
        self._policy = policy
        super().__init__(pool_connections=8, pool_maxsize=connections, max_retries=0)

    def send(self, request: Any, *arguments: Any, **named: Any) -> requests.Response:
        """See the class."""
        scheme = urlsplit(request.url or "").scheme
        self._policy.check(request.url or "", proxied=bool((named.get("proxies") or {}).get(scheme)))
        return super().send(request, *arguments, **named)


class Range(NamedTuple):
    """Bytes of a file on a server."""

    content: bytes
    size: int
    """Size of the whole file."""
    version: str
    """What the server says to tell versions of the file apart; "" if nothing."""


class _RepeatError(Exception):
    """An attempt failed in a way that may pass; holds the reason and the seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Http:
    """Sends requests to a catalogue and to its file servers, and repeats those that fail in a way that may pass.

    Parameters
    ----------
    catalogue : Catalogue
        Gives the known hosts, the timeouts and the number of retries.
    allowed : iterable of str
        Hosts that the user allows; see `Policy`.
    connections : int
        Number of connections to keep open.

    Attributes
    ----------
    received : int
        Bytes of all bodies received.
    """

    def __init__(self, catalogue: Catalogue, allowed: Iterable[str] = (), connections: int = 8) -> None:
        own = [urlsplit(url).netloc.rpartition("@")[2] for url in (catalogue.url, catalogue.token_url) if url]
        self.policy = Policy([*catalogue.hosts, *own], allowed)
        self._timeout = catalogue.connect_seconds, catalogue.silent_seconds
        self._retries = catalogue.retries
        self._lock = threading.Lock()
        self._sessions = threading.local()
        self._connections = connections
        self._slow: set[str | None] = set()
        self.received = 0

    @property
    def _session(self) -> requests.Session:
        """The calling thread's session."""
        if not hasattr(self._sessions, "session"):
            session = requests.Session()
            session.max_redirects = REDIRECTS
            session.headers.update({"User-Agent": f"refnet/{__version__}", "Accept-Encoding": "identity"})
            session.trust_env = False  # no .netrc, whose passwords would go to hosts of redirects
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            for scheme in ("https://", "http://"):
                session.mount(scheme, _CheckedAdapter(self.policy, self._connections))
            self._sessions.session = session
        found: requests.Session = self._sessions.session
        return found

    def json(self, method: str, url: str, body: Any = None) -> Any:
        """Return the JSON that a server answers with.

        Raises
        ------
        AddressError
            If the address is refused.
        TryAgainError
            If the server does not answer, or not in time, after all retries.
        InputMissingError
            If there is nothing at this URL, or access is denied.
        InputError
            If the answer is no JSON.
        """
        answer = self._repeat(url, lambda: self._once(method, url, None, body, MAX_JSON)[0])
        try:
            return json.loads(answer)
        except ValueError as error:
            raise InputError(f"{hide_secrets(url)} did not answer with JSON. Check the address of the API.") from error

    def range(self, url: str, start: int, stop: int, sign: Callable[[str, bool], str], version: str = "") -> Range:
        """Return the bytes of a file from ``start`` up to, not including, ``stop``, or to the file's end.

        Parameters
        ----------
        url : str
            Unsigned URL.
        start, stop : int
        sign : callable
            Returns the URL to request; the second argument says that the last one was refused.
        version : str
            The `Range.version` of which the bytes must be, if it is known; the request says so by If-Range.

        Raises
        ------
        RefnetError
            See `json`. `InputError` also if the server does not support byte ranges, and `ChangedError` if it has
            another version.
        """
        renewed = False

        def attempt() -> Range:
            nonlocal renewed
            try:
                return self._range_once(sign(url, False), start, stop, version)
            except _DeniedError as denied:
                if renewed:
                    raise
                renewed = True
                LOG.debug(f"{hide_secrets(url)}: {denied}; signed again")
                return self._range_once(sign(url, True), start, stop, version)

        return self._repeat(url, attempt)

    def _range_once(self, url: str, start: int, stop: int, version: str) -> Range:
        # Weak tags, W/"...", may not be asked for.
        condition = {"If-Range": version} if version.startswith('"') else {}
        headers = {"Range": f"bytes={start}-{stop - 1}"} | condition
        content, answer = self._once("GET", url, headers, None, stop - start)
        if answer.status_code == 200 and condition:
            raise ChangedError(f"{hide_secrets(url)} has changed since the last request.")
        if answer.status_code != 206:
            raise ProtocolError(
                f"The server of {hide_secrets(url)} does not support byte ranges (status {answer.status_code}). Use "
                "another source."
            )
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            raise _RepeatError("the server sent other bytes than requested")
        last, size = int(found[2]), int(found[3])
        if last + 1 != min(stop, size) or len(content) != last + 1 - start:
            raise _RepeatError(f"the answer was cut short ({len(content)} of {min(stop, size) - start} bytes)")
        return Range(content, size, answer.headers.get("ETag", ""))

    def _once(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: Any, most: int
    ) -> tuple[bytes, requests.Response]:
        """Send a request once, and return the body and the answer."""
        session = self._session
        deadline = time.monotonic() + LONGEST_REQUEST
        try:
            with session.request(
                method, url, headers=headers, json=body, timeout=self._timeout, stream=True, auth=_NoAuth(),
                proxies=_environment(url),
            ) as answer:  # fmt: skip
                _check_status(answer, url)
                content = bytearray()
                if headers and answer.status_code != 206:
                    return b"", answer
                for part in answer.iter_content(_CHUNK):
                    content += part
                    if len(content) > most:
                        raise ProtocolError(
                            f"The answer of {hide_secrets(url)} is larger than {most:,} bytes, the limit."
                        )
                    if time.monotonic() > deadline:
                        raise _RepeatError(f"the answer took more than {LONGEST_REQUEST:g} s")
                with self._lock:
                    self.received += len(content)
                expected = answer.headers.get("Content-Length", "")
                if expected.isdecimal() and len(content) != int(expected):
                    raise _RepeatError(f"the answer was cut short ({len(content)} of {expected} bytes)")
                return bytes(content), answer
        except requests.TooManyRedirects as error:
            raise ProtocolError(f"{hide_secrets(url)} redirects more than {REDIRECTS} times.") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise AddressError(f"{hide_secrets(url)} is refused: it is not a valid http or https URL.") from error
        except requests.exceptions.SSLError as error:
            raise TryAgainError(
                f"No trusted encrypted connection to {urlsplit(url).hostname} is possible ({_reason(error)}). Check "
                "the certificates of this machine and its network."
            ) from None
        except requests.RequestException as error:  # its text may hold the signed URL
            raise _RepeatError(_reason(error)) from None

    def _repeat(self, url: str, attempt: Callable[[], Answer]) -> Answer:
        """Return the result of an attempt that succeeds, with pauses that grow between the attempts."""
        reason = ""
        for number in range(self._retries + 1):
            try:
                return attempt()
            except _DeniedError as denied:
                raise TryAgainError(
                    f"{hide_secrets(url)} cannot be fetched: {denied}. Try again later; what was fetched is kept."
                ) from None
            except _RepeatError as failed:
                reason, wait = str(failed), failed.wait
            if wait is not None and wait > LONGEST_WAIT:
                reason += f", and asks to wait {wait:.0f} s (limit {LONGEST_WAIT:g} s)"
                break
            if number < self._retries:
                pause = _FIRST_WAIT * 2**number * random.uniform(0.8, 1.2) if wait is None else wait
                LOG.debug(f"{hide_secrets(url)}: {reason}; trying again in {pause:.1f} s")
                self._tell_once(urlsplit(url).hostname, reason, number)
                time.sleep(pause)
        network = "Check this machine's network and proxy, or try" if reason == _UNRESOLVED else "Try"
        raise TryAgainError(
            f"{hide_secrets(url)} cannot be fetched: {reason} ({number + 1} attempts). {network} again later; what was "
            "fetched is kept."
        )

    def _tell_once(self, host: str | None, reason: str, number: int) -> None:
        """Say which server makes the user wait, once for each, at the second failure of a request."""
        with self._lock:
            is_new = number == 1 and host not in self._slow
            self._slow |= {host} if is_new else set()
        if is_new:
            LOG.info(f"{host}: {reason}; trying up to {self._retries - number} more times")


class _DeniedError(Exception):
    """The server denies access."""


class _NoAuth(requests.auth.AuthBase):  # type: ignore[misc]  # requests has no types
    """Adds no credentials; without it, requests would look for some."""

    def __call__(self, request: Any) -> Any:
        return request


def _check_status(answer: requests.Response, url: str) -> None:
    """Raise the error that a status stands for."""
    status = answer.status_code
    if status in TRANSIENT:
        raise _RepeatError(f"the server answers with status {status}", _wait(answer.headers.get("Retry-After", "")))
    if status in (401, 403, 409):
        raise _DeniedError(f"access is denied (status {status})")
    if status in (404, 410):
        raise InputMissingError(f"{hide_secrets(url)} does not exist (status {status}).")
    if status >= 400:
        said = " ".join(answer.raw.read(300, decode_content=True).decode(errors="replace").split())
        raise ProtocolError(f"{hide_secrets(url)} refuses the request (status {status}: {ascii(said)[1:-1]}).")


def _wait(text: str) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date; None if it says neither.

    Examples
    --------
    >>> _wait("3"), _wait("Thu, 01 Jan 1970 00:00:00 GMT"), _wait("soon")
    (3.0, 0.0, None)
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(when.timestamp() - time.time(), 0.0)


def _reason(error: BaseException) -> str:
    """Return why a request failed, without its URL."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout):
        return "the server stays silent"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return "the answer was cut short"
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__ or getattr(cause, "reason", None)) and isinstance(
        deeper, BaseException
    ):
        cause = deeper
    if isinstance(cause, TimeoutError):
        return "the server stays silent"
    if isinstance(cause, socket.gaierror):
        return _UNRESOLVED
    return getattr(cause, "strerror", None) or type(cause).__name__


def _environment(url: str) -> dict[str, str]:
    """Return the proxies that the environment gives for a URL."""
    found: dict[str, str] = requests.utils.get_environ_proxies(url)
    return found
