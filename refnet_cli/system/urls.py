"""Remote inputs: URLs, and their redacted form for messages and metadata."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from refnet_cli.errors import InputError

# pathlib drops one of a URL's two slashes.
_URL = re.compile(r"(?:/vsicurl/)?(https?):/+([^/].*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:@\[\]]*)(:\d*)?")


class Remote(str):
    """A URL whose text is redacted: without user, password and query, which may be secret.

    Parameters
    ----------
    url : str
        A URL with http:// or https://. It may have lost a slash as a path, or begin with ``/vsicurl/``.

    Attributes
    ----------
    url : str
        The full URL.

    Raises
    ------
    InputError
        If the URL contains spaces or control characters.

    Examples
    --------
    >>> remote = Remote("https://user:password@example.com/B02.tif?signature=1")
    >>> remote, remote.url
    ('https://example.com/B02.tif', 'https://user:password@example.com/B02.tif?signature=1')
    """

    url: str

    def __new__(cls, url: str) -> Remote:
        """Parse a URL."""
        match = _URL.fullmatch(url)
        if not match:
            raise InputError("A remote input must begin with http:// or https://.")
        remote = super().__new__(cls, f"{match[1].lower()}://{_redact(match[2])}")
        remote.url = f"{match[1].lower()}://{match[2]}"
        if re.search(r"[\0-\x20\x7f]", remote.url):
            raise InputError(f"The URL {str(remote)!a} contains spaces or control characters. Escape them, as in %20.")
        return remote

    def redact(self, text: str) -> str:
        """Return a text in which the URL is redacted."""
        for secret in (f"/vsicurl/{self.url}", self.url):
            text = text.replace(secret, self)
        return text


def _redact(rest: str) -> str:
    """Return the part of a URL after the scheme without user, password, query and fragment."""
    place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = place.rpartition("@")[2]
    # Text that is not a host, or that precedes a later @, may be part of a password with such characters.
    return host + slash + path if _HOST.fullmatch(host) and "@" not in rest[len(place) :] else "..."


def is_remote(text: str | Path) -> bool:
    """Return whether a user's path is a URL that `Remote` accepts."""
    return isinstance(text, Remote) or _URL.fullmatch(str(text)) is not None


def split_paths(text: str) -> list[str]:
    """Split a comma-separated list of paths and URLs.

    URLs may contain commas, so a URL ends only before another URL, or before a path that begins with /, ./ or ../.

    Examples
    --------
    >>> split_paths("B02.tif, B03.tif"), split_paths("https://a.org/b?x=1,2,./B03.tif")
    (['B02.tif', 'B03.tif'], ['https://a.org/b?x=1,2', './B03.tif'])
    """
    inputs = [part.strip() for part in re.split(r",\s*(?=(?:/vsicurl/)?https?:|/|\.{1,2}/)", text, flags=re.I)]
    return [part.strip() for several in inputs for part in ([several] if is_remote(several) else several.split(","))]


def parse_paths(given: Any) -> Any:
    """Return a user's path as `Path` or, if it is a URL, as `Remote`; a list of them as a tuple."""
    if isinstance(given, tuple | list):
        return tuple(map(parse_paths, given))
    if isinstance(given, Remote):
        return given
    if given == "":
        raise InputError("A path is empty. Name the file.")
    return Remote(str(given)) if is_remote(given) else Path(given)


def hide_secrets(text: str) -> str:
    """Return a URL or path without user, password and query.

    Examples
    --------
    >>> hide_secrets("ftp://user:password@example.com/a.tif?key=1"), hide_secrets("/vsis3/a/b.tif")
    ('ftp://example.com/a.tif', '/vsis3/a/b.tif')
    """
    match = re.match(r"(.*?[A-Za-z][A-Za-z0-9+.-]*:/+)(.*)", text, re.DOTALL)
    return match[1] + _redact(match[2]) if match else text
