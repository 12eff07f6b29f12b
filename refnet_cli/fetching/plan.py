"""What is fetched for a scene: its items, in the order in which they fill pixels. items.json holds it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError
from refnet_cli.fetching.area import UNNAMED, Area, epsg_of
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.fetching.items import SceneItem, read_labels, read_optical, read_sar
from refnet_cli.fetching.labels import choose_year, items_of_template
from refnet_cli.fetching.optical import OpticalDate, choose_dates, clearest_by_day, group_by_date, rank
from refnet_cli.fetching.options import POLARISATIONS, FetchOptions
from refnet_cli.fetching.reading import Reader
from refnet_cli.fetching.sar import SarPass, choose_pass, group_by_pass
from refnet_cli.fetching.search import Search
from refnet_cli.sensors.dates import parse_dates
from refnet_cli.system.config import read
from refnet_cli.system.marks import MARK
from refnet_cli.system.words import count
from refnet_cli.version import __version__

LOG = logging.getLogger(__name__)
MOST_RANKED = 60
"""Most dates whose clear share is read; those with the least cloud cover by their items."""
_SHOWN = 3  # items that a message names
_LABEL_YEARS = 4


@dataclass(frozen=True)
class PlannedDate:
    """An optical date of a plan."""

    items: tuple[SceneItem, ...]
    clear: float


@dataclass(frozen=True)
class GridTable:
    """A grid as plain values."""

    epsg: int
    transform: tuple[float, ...]
    height: int
    width: int

    @classmethod
    def of(cls, grid: GeoBox) -> GridTable:
        """Describe a grid."""
        height, width = grid.shape
        return cls(epsg_of(grid), tuple(float(value) for value in tuple(grid.affine)[:6]), height, width)

    def grid(self) -> GeoBox:
        """Return the grid."""
        return GeoBox((self.height, self.width), Affine(*self.transform), f"EPSG:{self.epsg}")

    def __post_init__(self) -> None:
        step, turn, _, other, down, _ = self.transform if len(self.transform) == 6 else (0.0,) * 6
        if (step, turn, other, down) != (10.0, 0.0, 0.0, -10.0) or not 0 < self.height * self.width <= 3_600_000_000:
            raise ConfigError("the grid must have pixels of 10 m, north up, at most 60,000 along a side.")


@dataclass(frozen=True)
class ScenePlan:
    """What is fetched for one scene."""

    name: str
    region: str
    source: str
    request: dict[str, Any]
    """What was asked for; see `FetchOptions.request`."""
    grid: GridTable
    method: Literal["best", "median"]
    bands: tuple[str, ...]
    optical: tuple[PlannedDate, ...]
    clear: float
    """Share of the area that is clear on one of the dates, as found when it was planned."""
    sar: tuple[SceneItem, ...] = ()
    labels: tuple[SceneItem, ...] = ()
    labels_product: str = "none"
    decisions: tuple[str, ...] = field(default=())
    """What was decided, in sentences."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why items were left out that would have been used: what is wrong with their files, by id."""
    level: Literal["L1C", "L2A"] = "L2A"
    """Level of the optical scenes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @property
    def identity(self) -> str:
        """Hash of all that the pixels depend on."""
        kept = {
            name: value
            for name, value in self.to_dict().items()
            if name not in ("decisions", "left_out", "request", "name", "region", "source")
            and (name, value) != ("level", "L2A")  # plans without a level keep their hash
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @property
    def place(self) -> str:
        """Name of the place of a scene that is one of several dates: its own name without the date; else ""."""
        return self.name.removesuffix(f"_{self.days[0]}") if self.request.get("optical") == "all" else ""

    @property
    def days(self) -> list[str]:
        """Days of the optical dates, in the order in which they fill pixels."""
        return [date.items[0].day for date in self.optical]

    @property
    def acquired(self) -> str:
        """First and last time of the images, with a slash between."""
        times = sorted(item.acquired for item in (*(i for date in self.optical for i in date.items), *self.sar))
        return f"{times[0]}/{times[-1]}"

    @property
    def sar_text(self) -> str:
        """Time, orbit and direction of the SAR pass; "" without one."""
        return str(SarPass(self.sar, math.nan)) if self.sar else ""


def write_plans(plans: Sequence[ScenePlan]) -> str:
    """Return plans as the text of items.json."""
    return json.dumps({MARK: __version__, "scenes": [plan.to_dict() for plan in plans]}, indent=1) + "\n"


def read_plans(path: Path) -> list[ScenePlan]:
    """Read the plans of an items.json.

    Raises
    ------
    InputMissingError
        If the file cannot be read.
    ConfigError
        If it is no items.json.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        scenes = entries["scenes"]
    except OSError as error:
        raise InputMissingError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not an items.json of refnet fetch.") from error
    if not isinstance(scenes, list) or not scenes:
        raise ConfigError(f"{path} has no scenes.")
    return [read(ScenePlan, scene, path) for scene in scenes]


class Planner:
    """Chooses what is fetched.

    Parameters
    ----------
    options : FetchOptions
    source : str
        As files record it.
    catalogue : Catalogue
    search : Search
    left_out : mapping of str to str, optional
        Why items are not used, by id.

    Attributes
    ----------
    warnings : list of str
    """

    def __init__(
        self,
        options: FetchOptions,
        source: str,
        catalogue: Catalogue,
        search: Search,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self._options, self._source, self._catalogue, self._search = options, source, catalogue, search
        self._left_out = dict(left_out or {})
        self._dates = parse_dates(str(options.dates))
        self.warnings: list[str] = []
        if catalogue.optical is None:
            raise OptionsError(f"{catalogue.title} has no Sentinel-2 collection.")
        missing = [band for band in options.bands if band not in catalogue.optical.assets]
        if missing:
            raise OptionsError(
                f"--bands names {', '.join(missing)}, which {catalogue.title} does not have; it has "
                f"{', '.join(catalogue.optical.assets)}."
            )
        if options.labels != "none" and options.labels not in catalogue.labels:
            known = ", ".join([*catalogue.labels, "none"])
            raise OptionsError(f"--labels {options.labels} is not in {catalogue.title}; choose one of {known}.")

    def plan(self, area: Area, reader: Reader) -> list[ScenePlan]:
        """Choose the items of an area; several scenes with ``optical="all"``.

        Raises
        ------
        InputMissingError
            If there is too little; says what there is, and what to change.
        RefnetError
            See `Search.find` and `Reader.open`.
        """
        about = self._catalogue.optical
        assert about is not None
        outline = area.outline()
        refused = len(self._search.refused)
        items = self._search.find(about.collection, outline, self._dates, read_optical, about, self._options.bands)
        items = [item for item in items if item.id not in self._left_out]
        self._report_refused(refused)
        if about.first_date and self._dates[0][:10] < about.first_date:
            self.warnings.append(
                f"{self._catalogue.title} is incomplete before {about.first_date}: clearer dates may exist elsewhere"
            )
        chosen = self._choose_optical(items, area, reader)
        sar = self._find_sar(area, outline)
        return [self._complete(area, method, dates, share, said, sar) for method, dates, share, said in chosen]

    def _choose_optical(
        self, items: list[SceneItem], area: Area, reader: Reader
    ) -> list[tuple[Literal["best", "median"], list[OpticalDate], float, list[str]]]:
        options = self._options
        named = options.optical not in ("best", "median", "all")
        if named:
            items = [item for item in items if item.id == options.optical]
            if not items:
                raise InputMissingError(
                    f"--optical {options.optical}: no item of this id covers {_place(area)} in {options.dates}. Check "
                    "the id and the dates."
                )
        clouded = [item for item in items if not named and (item.cloud or 0.0) > options.max_cloud]
        dates = group_by_date([item for item in items if item not in clouded], area.epsg)
        if not dates:
            raise InputMissingError(self._nothing(len(items), clouded, area))
        for date in dates:
            if date.replaced:
                LOG.debug(f"{date.day}: older processing is left out: {', '.join(date.replaced)}")
        dates = self._least_cloudy(dates)
        ranking = rank(dates, area, reader)
        said = [f"{count(len(ranking.dates), 'date')} ranked by clear share at {ranking.pixel:g} m"]
        if options.optical == "all":
            clear = [date for date in ranking.dates if date.clear >= options.min_clear]
            if not clear:
                raise InputMissingError(self._too_cloudy(ranking.dates[0].clear, len(ranking.dates), area))
            return [("best", [date], date.clear, said) for date in clearest_by_day(clear)]
        if options.optical == "median":
            clear = [date for date in ranking.dates if date.clear > 0][:12]
            share = choose_dates(replace(ranking))[1]
            found: list[tuple[Literal["best", "median"], list[OpticalDate], float, list[str]]]
            found = [("median", clear, share, said)]
        else:
            chosen, share = choose_dates(ranking)
            found = [("best", chosen, share, said)]
        if not found[0][1] or (share < options.min_clear and not named):
            raise InputMissingError(self._too_cloudy(share, len(ranking.dates), area))
        if share < options.min_clear:
            self.warnings.append(f"{area.name}: {options.optical} is clear over {share:.1%} of the area only")
        return found

    def _least_cloudy(self, dates: list[OpticalDate]) -> list[OpticalDate]:
        if len(dates) <= MOST_RANKED:
            return dates
        LOG.info(f"{len(dates)} dates found; the {MOST_RANKED} with the least cloud cover by their items are ranked")
        return sorted(sorted(dates, key=lambda date: date.cloud)[:MOST_RANKED], key=lambda date: date.items[0].acquired)

    def _nothing(self, found: int, clouded: list[SceneItem], area: Area) -> str:
        """Say that no optical item is left, and what to change."""
        most = f"at most {self._options.max_cloud:g} % clouds"
        begin = f"No Sentinel-2 scene of {_place(area)} in {self._options.dates} has {most}"
        if clouded:
            least = min(item.cloud or 0.0 for item in clouded)
            return (
                f"{begin}: {count(len(clouded), 'scene')}, the least cloudy with {least:.0f} %. Give wider --dates, or "
                f"--max-cloud {min(math.ceil(least) + 1, 100)}."
            )
        refused = self._search.refused[-_SHOWN:]
        if refused:
            return f"No Sentinel-2 scene of {_place(area)} in {self._options.dates} can be used: {' '.join(refused)}"
        return (
            f"{self._catalogue.title} has no Sentinel-2 scene of {_place(area)} in {self._options.dates}. Give wider "
            "--dates, or another --source."
        )

    def _too_cloudy(self, share: float, dates: int, area: Area) -> str:
        lower = math.floor(share * 100) / 100
        return (
            f"Only {share:.1%} of {_place(area)} is clear in {count(dates, 'date')} of {self._options.dates} (limit "
            f"{self._options.min_clear:.1%}). Give wider --dates, a higher --max-cloud (now "
            f"{self._options.max_cloud:g}), or --min-clear {lower:g}."
        )

    def _report_refused(self, before: int) -> None:
        refused = list(dict.fromkeys(self._search.refused[before:]))
        if refused:
            more = f" ({len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
            self.warnings.append(f"items left out: {' '.join(refused[:_SHOWN])}{more}")

    def _find_sar(self, area: Area, outline: Any) -> list[SarPass] | None:
        about = self._catalogue.sar
        if about is None:
            self.warnings.append(
                f"{self._catalogue.title} has no terrain-corrected Sentinel-1: the scene has no SAR file"
            )
            return None
        refused = len(self._search.refused)
        items = self._search.find(about.collection, outline, self._dates, read_sar, about, POLARISATIONS)
        passes = group_by_pass([item for item in items if item.id not in self._left_out], area)
        if not passes:
            left_out = self._search.refused[refused:]
            why = f": {' '.join(left_out[:_SHOWN])}" if left_out else "."
            raise InputMissingError(
                f"No Sentinel-1 scene of {_place(area)} in {self._options.dates} can be used{why} Give wider --dates."
            )
        self._report_refused(refused)
        return passes

    def _complete(
        self,
        area: Area,
        method: Literal["best", "median"],
        dates: list[OpticalDate],
        share: float,
        said: list[str],
        passes: list[SarPass] | None,
    ) -> ScenePlan:
        """Add SAR and labels to chosen optical dates."""
        days = sorted(date.items[0].when for date in dates)
        near = dates[0].items[0].when if method == "best" else days[len(days) // 2]
        said = [*said, *(f"{date.day}: {date.clear:.1%} clear, {_baselines(date)}" for date in dates)]
        sar: tuple[SceneItem, ...] = ()
        if passes is not None:
            chosen = choose_pass(passes, self._options.orbit, near)
            if chosen is None:
                there = ", ".join(dict.fromkeys(f"{one.orbit} {one.direction}" for one in passes))
                raise InputMissingError(
                    f"No Sentinel-1 pass of {_place(area)} in {self._options.dates} fits --orbit "
                    f"{self._options.orbit}. There are the orbits {there}."
                )
            sar = chosen.items
            apart_days = abs((chosen.items[0].when.date() - near.date()).days)
            apart = f"{count(apart_days, 'day')} from" if apart_days else "on the day of"
            said.append(
                f"SAR of {chosen}, {apart} the optical image, "
                f"one of {count(len(passes), 'pass', 'passes')}, over {chosen.coverage:.1%} of the area"
            )
            if chosen.coverage < 0.99:
                self.warnings.append(f"{area.name}: SAR covers {chosen.coverage:.1%} of the area: {chosen}")
        labels, text = self._find_labels(area, near)
        name = area.name if self._options.optical != "all" else f"{area.name}_{dates[0].day}"
        return ScenePlan(
            name, area.region, self._source, self._options.request(), GridTable.of(area.grid), method,
            self._options.bands, tuple(PlannedDate(date.items, date.clear) for date in dates), round(share, 6), sar,
            tuple(labels), self._options.labels,
            (*said, *text, *(f"left out: {item} ({why})" for item, why in self._left_out.items())), self._left_out,
            self._catalogue.optical.level if self._catalogue.optical else "L2A",
        )  # fmt: skip

    def _find_labels(self, area: Area, near: datetime) -> tuple[list[SceneItem], list[str]]:
        if self._options.labels == "none":
            return [], []
        about = self._catalogue.labels[self._options.labels]
        if about.collection:
            years = near.year - _LABEL_YEARS, near.year + _LABEL_YEARS
            span = f"{years[0]}-01-01T00:00:00Z", f"{years[1]}-12-31T23:59:59Z"
            items = self._search.find(about.collection, area.outline(), span, read_labels, about, overlapping=True)
        else:
            items = items_of_template(about, area)
        year, chosen = choose_year(items, near.year, self._options.labels)
        said = f"labels: {self._options.labels} of {year}, recoded to esri-io"
        if year != near.year:
            said += f"; the images are of {near.year}"
            LOG.info(f"{area.name}: {said}")
        return chosen, [said]


def _place(area: Area) -> str:
    """Name an area in a sentence."""
    return "the area" if area.name == UNNAMED else area.name


def _baselines(date: OpticalDate) -> str:
    """Say which baselines and offsets the scenes of a date have."""
    kinds = {f"baseline {item.baseline or 'unknown'} (offset {item.offset:g} removed)" for item in date.items}
    return ", ".join(sorted(kinds))


def check_hrefs(plans: Sequence[ScenePlan], check: Any) -> None:
    """Check all addresses of plans with a function that raises an error for a refused one."""
    for plan in plans:
        for item in (*(one for date in plan.optical for one in date.items), *plan.sar, *plan.labels):
            for href in item.hrefs.values():
                check(href)


def check_items(plan: ScenePlan, catalogue: Catalogue) -> None:
    """Refuse a plan from a file whose items cannot be read as it says.

    Raises
    ------
    InputError
        If bands, dates or offsets of its items are missing or impossible.
    """
    for date in plan.optical:
        for item in date.items:
            if {*plan.bands, "SCL"} - item.hrefs.keys() or item.offset not in (0.0, 1000.0):
                raise InputError(f"items.json: {item.id} lacks bands or has the impossible offset {item.offset:g}.")
    for item in (*(one for date in plan.optical for one in date.items), *plan.sar, *plan.labels):
        try:
            if item.when.tzinfo is None or item.when > datetime.now(UTC):
                raise ValueError
        except ValueError:
            raise InputError(f"items.json: {item.id} has the impossible date {item.acquired!r}.") from None
    if any({*POLARISATIONS} - item.hrefs.keys() for item in plan.sar) or not plan.optical:
        raise InputError("items.json: a scene has no optical date, or SAR without VV and VH.")
    if plan.labels and plan.labels_product not in catalogue.labels:
        raise InputError(f"items.json: labels {plan.labels_product!r} are not known to {catalogue.title}.")
