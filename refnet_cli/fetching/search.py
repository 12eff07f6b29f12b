"""Search of a catalogue, over an area and dates."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import shapely
from pystac_client.item_search import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.fetching.http import AddressError, Http
from refnet_cli.fetching.items import SceneItem, usable

LOG = logging.getLogger(__name__)
PAGE = 250
"""Items of one page: larger pages time out more often."""
MAX_ITEMS = 20_000
"""Most items of one search."""


class _Transport(StacApiIO):
    """Sends the requests of pystac-client through `Http`."""

    def __init__(self, http: Http) -> None:
        super().__init__(max_retries=None)
        self._http = http

    def read_text(self, source: Any, *arguments: Any, **named: Any) -> str:
        """Read from a URL; a link of a page that leads to a file is refused."""
        href = str(getattr(source, "href", source))
        if not re.match(r"https?://", href, re.IGNORECASE):
            raise AddressError(f"The catalogue's next page is refused: {ascii(href)[:200]} is not a URL.")
        return super().read_text(source, *arguments, **named)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """Send a request."""
        if (method or "GET").upper() == "POST":
            return json.dumps(self._http.json("POST", href, parameters))
        query = urlencode({name: value for name, value in (parameters or {}).items() if value is not None})
        return json.dumps(self._http.json("GET", f"{href}{'&' if '?' in href else '?'}{query}" if query else href))


class Search:
    """Searches a catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    http : Http

    Attributes
    ----------
    refused : list of str
        Items that could not be used, and why.
    """

    def __init__(self, catalogue: Catalogue, http: Http) -> None:
        self._catalogue, self._transport = catalogue, _Transport(http)
        self.refused: list[str] = []

    def find(
        self,
        collection: str,
        shape: Any,
        dates: tuple[str, str],
        read: Callable[..., SceneItem],
        *arguments: Any,
        overlapping: bool = False,
    ) -> list[SceneItem]:
        """Return the usable items that meet a shape and dates, sorted by time and id.

        Servers may ignore what they do not understand, so items are checked here again.

        Parameters
        ----------
        collection : str
        shape : shapely geometry
            In longitude and latitude, cut at 180 degrees.
        dates : tuple of str
            Start and end, ISO 8601.
        read : callable
            Makes an item of what the catalogue says; see `refnet_cli.fetching.items`.
        *arguments
            Its further arguments.
        overlapping : bool
            Whether items of a whole year count that begin before the dates.

        Raises
        ------
        RefnetError
            See `Http.json`. `InputError` if there are more than `MAX_ITEMS`.
        """
        found: dict[str, SceneItem] = {}
        start, end = (datetime.fromisoformat(date.replace("Z", "+00:00")) for date in dates)
        for raw in self._pages(collection, shape, dates):
            item, why = usable(raw, read, *arguments)
            if item is None:
                self.refused.append(why)
                LOG.debug(f"left out: {why}")
                continue
            covers = item.when - timedelta(days=366 * overlapping) <= end and item.when >= start - timedelta(
                days=366 * overlapping
            )
            outline = item.shape
            if covers and (outline is None or shapely.intersects(outline, shape)):
                found[item.id] = item
        return sorted(found.values(), key=lambda item: (item.acquired, item.id))

    def _pages(self, collection: str, shape: Any, dates: tuple[str, str]) -> Any:
        """Yield what the catalogue says of items."""
        geometry = shapely.geometry.mapping(shapely.set_precision(shape, 1e-7))
        search = ItemSearch(
            f"{self._catalogue.url.rstrip('/')}/search", stac_io=self._transport, method="POST", max_items=None,
            limit=PAGE, collections=[collection], intersects=geometry, datetime="/".join(dates),
        )  # fmt: skip
        seen: set[str] = set()
        try:
            for page in search.pages_as_dicts():
                features = page.get("features")
                features = [raw for raw in features if isinstance(raw, dict)] if isinstance(features, list) else []
                before = len(seen)
                seen.update(str(raw.get("id")) for raw in features)
                if len(seen) == before and features:
                    raise InputError(
                        f"{self._catalogue.title} repeats the same page of its answer, so that some items may be "
                        "missing. Try another --source."
                    )
                for raw in features:
                    if len(seen) > MAX_ITEMS:
                        raise InputError(
                            f"{self._catalogue.title} has more than {MAX_ITEMS:,} items of {collection} here, the "
                            "limit. Choose fewer dates or a smaller area."
                        )
                    yield raw
        except RefnetError:
            raise
        except Exception as error:  # pystac-client raises many kinds on malformed pages
            raise InputError(
                f"{self._catalogue.title} answered the search with something else than pages of items "
                f"({type(error).__name__})."
            ) from error
