"""A comparison of two maps as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from refnet_cli.cli.text import describe_estimates

if TYPE_CHECKING:
    from refnet_cli.evaluation.change.result import Comparison, Transitions

MOST = 20
"""Most changes that are listed."""
_WIDTH = 79


def describe_comparison(found: Comparison) -> list[str]:
    """Tabulate areas by class, the largest changes, zones, and estimates if there are any."""
    whole = found.whole
    lines = [
        f"compared {whole.compared:,.2f} ha in class scheme {found.scheme.name}, no data {whole.no_data:,.2f} ha",
        f"changed  {whole.changed:,.2f} ha, {whole.changed_share or 0:.2%}",
        "",
        *_describe_classes(found),
        "",
        *_describe_changes(found),
    ]
    lines += ["", *_describe_zones(found.zones)] if found.zones else []
    return lines + (describe_estimates(found.estimates.estimates.to_dict()) if found.estimates else [])


def _describe_classes(found: Comparison) -> Iterator[str]:
    titles = ("old ha", "new ha", "lost ha", "gained ha", "net ha")
    rows = list(found.by_class())
    name = min(max([5, *(len(row["name"]) for row in rows)]), 24)
    yield f"{'class':<{name}}" + "".join(f" {title:>10}" for title in titles)
    for row in rows:
        old, new, lost, gained, net = (row[title.replace(" ha", "_hectares")] for title in titles)
        yield f"{row['name']:<{name}} {old:10,.2f} {new:10,.2f} {lost:10,.2f} {gained:10,.2f} {net:+10,.2f}"


def _describe_changes(found: Comparison) -> Iterator[str]:
    hectares, names = found.whole.hectares.copy(), found.scheme.names
    np.fill_diagonal(hectares, 0)
    ordered = np.argsort(hectares, axis=None, kind="stable")[::-1].tolist()
    largest = [divmod(place, len(names)) for place in ordered if hectares.flat[place] > 0]
    if not largest:
        yield "no pixel changed"
        return
    yield f"{'change':<{_WIDTH - 24}} {'ha':>14} {'share':>8}"
    for old, new in largest[:MOST]:
        share = hectares[old, new] / found.whole.compared
        yield f"{f'{names[old]} -> {names[new]}':<{_WIDTH - 24}} {hectares[old, new]:14,.2f} {share:8.2%}"
    if len(largest) > MOST:
        rest = sum(hectares[old, new] for old, new in largest[MOST:])
        yield f"{f'{len(largest) - MOST} more, all in --table and --json':<{_WIDTH - 24}} {rest:14,.2f}"


def _describe_zones(zones: dict[str, Transitions]) -> Iterator[str]:
    yield f"{'zone':<{_WIDTH - 40}} {'compared ha':>14} {'changed ha':>14} {'share':>9}"
    for zone, part in zones.items():
        share = "" if part.changed_share is None else f"{part.changed_share:.2%}"
        shown = "".join(letter if letter.isprintable() else "?" for letter in zone)
        yield f"{shown:<{_WIDTH - 40}} {part.compared:14,.2f} {part.changed:14,.2f} {share:>9}"
