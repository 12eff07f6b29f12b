"""Files that are fetched over HTTP instead of being read from a disk: their URLs, and what of these may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from refnet_cli.errors import InputError

# A path keeps one slash of a URL's two.
_URL = re.compile(r"(?:/vsicurl/)?(https?):/+([^/].*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:@\[\]]*)(:\d*)?")


class Remote(str):
    """A URL as it may be shown: without user, password and query, which may be secret.

    Parameters
    ----------
    url : str
        http:// or https://, also as a path that has lost a slash, or with ``/vsicurl/`` before it.

    Attributes
    ----------
    url : str
        All of it.

    Raises
    ------
    InputError
        If it holds spaces or control characters.

    Examples
    --------
    >>> remote = Remote("https://user:password@example.com/B02.tif?signature=1")
    >>> remote, remote.url
    ('https://example.com/B02.tif', 'https://user:password@example.com/B02.tif?signature=1')
    """

    url: str

    def __new__(cls, url: str) -> Remote:
        """Take a URL apart."""
        match = _URL.fullmatch(url)
        if not match:
            raise InputError("A remote input has to begin with http:// or https://.")
        remote = super().__new__(cls, f"{match[1].lower()}://{_shown(match[2])}")
        remote.url = f"{match[1].lower()}://{match[2]}"
        if re.search(r"[\0-\x20\x7f]", remote.url):
            raise InputError(f"The URL {str(remote)!a} holds spaces or control characters: escape them, as %20.")
        return remote

    def hidden(self, text: str) -> str:
        """Return a text with the URL as it may be shown."""
        for secret in (f"/vsicurl/{self.url}", self.url):
            text = text.replace(secret, self)
        return text


def _shown(rest: str) -> str:
    """Leave out user, password, query and fragment of what follows the scheme."""
    place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = place.rpartition("@")[2]
    # What is no host, or is before a later @, may be a part of a password that holds one of these characters.
    return host + slash + path if _HOST.fullmatch(host) and "@" not in rest[len(place) :] else "..."


def is_remote(text: str | Path) -> bool:
    """Tell whether a user's path is a URL that `Remote` takes."""
    return isinstance(text, Remote) or _URL.fullmatch(str(text)) is not None


def split_paths(text: str) -> list[str]:
    """Split paths and URLs that commas part.

    URLs may hold commas, so one ends only where a URL, or a path that begins with /, ./ or ../, follows.

    Examples
    --------
    >>> split_paths("B02.tif, B03.tif"), split_paths("https://a.org/b?x=1,2,./B03.tif")
    (['B02.tif', 'B03.tif'], ['https://a.org/b?x=1,2', './B03.tif'])
    """
    inputs = [part.strip() for part in re.split(r",\s*(?=(?:/vsicurl/)?https?:|/|\.{1,2}/)", text, flags=re.I)]
    return [part.strip() for several in inputs for part in ([several] if is_remote(several) else several.split(","))]


def as_given(given: Any) -> Any:
    """Turn a user's paths, texts too, into `Path` or, if they are URLs, `Remote`; several become a tuple."""
    if isinstance(given, tuple | list):
        return tuple(map(as_given, given))
    if isinstance(given, Remote):
        return given
    if given == "":
        raise InputError("A path is empty: name the file.")
    return Remote(str(given)) if is_remote(given) else Path(given)


def hide_secrets(text: str) -> str:
    """Return any URL or path as it may be shown.

    Examples
    --------
    >>> hide_secrets("ftp://user:password@example.com/a.tif?key=1"), hide_secrets("/vsis3/a/b.tif")
    ('ftp://example.com/a.tif', '/vsis3/a/b.tif')
    """
    match = re.match(r"(.*?[A-Za-z][A-Za-z0-9+.-]*:/+)(.*)", text, re.DOTALL)
    return match[1] + _shown(match[2]) if match else text
