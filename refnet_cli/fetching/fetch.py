"""From a place and dates to files, from top to bottom."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS

from refnet_cli.errors import InputMissingError, OptionsError, RefnetError, StorageError
from refnet_cli.fetching.area import Area, area_of_bbox, area_of_tile, areas_of_file, names_of
from refnet_cli.fetching.catalogues import choose_catalogue, recorded_source
from refnet_cli.fetching.http import Http
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.layers import fetch_rows
from refnet_cli.fetching.options import POLARISATIONS, FetchOptions
from refnet_cli.fetching.plan import GridTable, Planner, ScenePlan, check_hrefs, check_items, read_plans, write_plans
from refnet_cli.fetching.products import Product, products_of, write_product
from refnet_cli.fetching.reading import Reader, UnusableItemError
from refnet_cli.fetching.regions import Fetched, places_of, regions_text, seasons_text, table_text
from refnet_cli.fetching.search import Search
from refnet_cli.fetching.signing import Signer
from refnet_cli.raster.georeference import describe_footprint
from refnet_cli.system.atomic import check_folder, explain, write_text_atomic
from refnet_cli.system.disk import sync
from refnet_cli.system.lock import WorkFolder
from refnet_cli.system.log import context
from refnet_cli.system.marks import check_replaceable, is_refnet_output
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window

LOG = logging.getLogger(__name__)
DEFAULT_SOURCE = "planetary-computer"
FILES = ("s2.tif", "s1.tif", "labels.tif", "source.tif")
PLAN = "items.json"
REGIONS, TABLE, SEASONS = "regions.toml", "scenes.csv", "seasons.csv"
MOST_LEFT_OUT = 20
"""Most items of a scene that are left out because of their files; more are a fault of the server."""
_SPARE = 2.5  # times the size of the pixels that a fetch may need of the disk: journal, working file, result
Progress = Callable[[int, int, str], None]


@dataclass
class FetchReport:
    """What was fetched, or would be."""

    output: str
    scenes: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Paths of the files that were written or were there."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why scenes could not be fetched, by name."""
    warnings: list[str] = field(default_factory=list)
    received: int = 0
    """Bytes received."""
    error: RefnetError | None = None
    """The error of a scene that failed; a passing one if there is any."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "output": self.output, "scenes": self.scenes, "files": self.files, "failed": self.failed,
            "warnings": self.warnings, "received_bytes": self.received,
        }  # fmt: skip


def fetch(options: FetchOptions, progress: Progress | None = None) -> FetchReport:
    """Fetch the files of a place.

    Parameters
    ----------
    options : FetchOptions
    progress : callable, optional
        Called with the rows that are done, all rows, and a note.

    Returns
    -------
    FetchReport
        With several scenes, those that failed are in ``failed``.

    Raises
    ------
    RefnetError
        If options or files are wrong, or the only scene cannot be fetched.
    """
    return _Fetch(options, progress).run()


class _Fetch:
    """A fetch of one or more scenes."""

    def __init__(self, options: FetchOptions, progress: Progress | None) -> None:
        self._options = options
        self._stored = read_plans(options.items) if options.items else None
        source = options.source or (self._stored[0].source if self._stored else DEFAULT_SOURCE)
        self._catalogue = choose_catalogue(source)
        self._source = recorded_source(source)
        self._http = Http(self._catalogue, options.allow_host, options.concurrency)
        self._sign = Signer(self._catalogue, self._http)
        self._lock = threading.Lock()
        self._report = FetchReport(str(options.output))
        self._follow = _Follow(progress, self._http)
        self._fetched: dict[str, Fetched] = {}

    def run(self) -> FetchReport:
        """Fetch all scenes."""
        if self._stored is not None:
            for plan in self._stored:
                check_items(plan, self._catalogue)
            check_hrefs(self._stored, self._http.policy.check)
            jobs: list[tuple[str, Area | ScenePlan]] = [(plan.name, plan) for plan in self._stored]
            names = [plan.name for plan in self._stored]
            places = {plan.place for plan in self._stored if plan.request.get("optical") == "all"}
            if not (_are_folders(names) and _are_folders([*places])):
                raise OptionsError(f"The scenes of {self._options.items} have no names that are unique and plain.")
        else:
            areas = self._areas()
            jobs = [(area.name, area) for area in areas]
            if len(jobs) > 1:
                LOG.info(f"{count(len(jobs), 'scene')}: {names_of(areas)}")
        self._alone = len(jobs) == 1 and self._options.optical != "all"
        if not self._options.dry_run:
            check_folder(self._options.output / PLAN)
        if len(jobs) == 1:
            self._one(*jobs[0])
        else:
            self._many(jobs)
        self._finish()
        return self._report

    def _areas(self) -> list[Area]:
        options = self._options
        if options.bbox is not None:
            return area_of_bbox(options.bbox)
        if options.tile is not None:
            return area_of_tile(options.tile)
        return areas_of_file(options.area, options.area_layer, options.area_field) if options.area else []

    def _many(self, jobs: Sequence[tuple[str, Area | ScenePlan]]) -> None:
        """Fetch several scenes; those that fail do not stop the others."""

        def attempt(job: tuple[str, Area | ScenePlan]) -> None:
            name, what = job
            with context(scene=name):
                try:
                    self._one(name, what)
                except RefnetError as error:
                    with self._lock:
                        self._report.failed[name] = str(error)
                        passing = self._report.error is not None and self._report.error.exit_code == 75
                        self._report.error = self._report.error if passing else error
                    LOG.warning(f"{name}: {error}")

        with ThreadPoolExecutor(self._options.workers) as pool:
            futures = [pool.submit(attempt, job) for job in jobs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, name: str, what: Area | ScenePlan) -> None:
        """Plan and fetch a scene, or the scenes of several dates."""
        folder = self._folder(name)
        with Reader(self._http, self._sign, self._options.concurrency) as reader:
            if isinstance(what, ScenePlan):
                self._scene(what, folder, reader)
            elif self._options.optical == "all":
                self._replan(what, reader, lambda plan: self._scene(plan, self._options.output / plan.name, reader))
            elif self._options.dry_run:
                self._replan(what, reader, lambda plan: self._describe(plan, reader))
            elif (done := self._finished(folder, what)) is not None:
                self._keep(done, folder)
            else:
                self._new_scene(what, folder, reader)

    def _new_scene(self, area: Area, folder: Path, reader: Reader) -> None:
        """Plan and fetch a scene, or go on with an interrupted fetch of it."""
        try:
            with WorkFolder(folder / PLAN) as work:
                self._warn(work.warnings)
                resumed = self._resumed(work.path, area)
                self._replan(area, reader, lambda plan: self._write(plan, folder, work, reader), resumed)
        except OSError as error:
            raise explain(folder / PLAN, error) from error

    def _replan(
        self, area: Area, reader: Reader, use: Callable[[ScenePlan], None], resumed: ScenePlan | None = None
    ) -> None:
        """Use the plans of an area; plan again without an item whose files turn out to be unusable.

        Raises
        ------
        UnusableItemError
            If nothing can take its place.
        """
        left_out = dict(resumed.left_out) if resumed else {}
        failed: UnusableItemError | None = None
        while True:
            try:
                for plan in [resumed] if resumed else self._plan(area, reader, left_out):
                    use(plan)
                return
            except UnusableItemError as error:
                if error.item.id in left_out or len(left_out) == MOST_LEFT_OUT or not self._has_others(error.item):
                    raise
                left_out[error.item.id] = str(error)
                failed, resumed = error, None
                self._warn([f"{area.name}: {error.item.id} cannot be used and is left out: {error}"])
            except InputMissingError as error:
                if failed is None:
                    raise
                text = f"{failed} Without {failed.item.id} there is too little: {error}"
                raise UnusableItemError(failed.item, text, failed.exit_code) from error

    def _has_others(self, item: SceneItem) -> bool:
        """Return whether others may take an item's place; not those of another year's labels."""
        about = self._catalogue.optical, self._catalogue.sar
        return item.collection in {one.collection for one in about if one}

    def _folder(self, name: str) -> Path:
        return self._options.output if self._alone else self._options.output / name

    def _plan(self, area: Area, reader: Reader, left_out: Mapping[str, str]) -> list[ScenePlan]:
        height, width = area.grid.shape
        west, south, east, north = area.grid.boundingbox.bbox
        edges = np.array([west, east, west, east]), np.array([south, south, north, north])
        place = describe_footprint(CRS.from_epsg(area.epsg), *edges)
        size = f"{width:,} x {height:,} pixels of 10 m in EPSG:{area.epsg}"
        LOG.info(f"{area.name}: {place}; {size}; searching {self._catalogue.title}")
        search = Search(self._catalogue, self._http)
        planner = Planner(self._options, self._source, self._catalogue, search, left_out)
        plans = planner.plan(area, reader)
        self._warn(planner.warnings)
        check_hrefs(plans, self._http.policy.check)
        for plan in plans:
            for line in plan.decisions:
                LOG.info(f"{plan.name}: {line}", extra={"event": "decision"})
        return plans

    def _warn(self, warnings: Sequence[str]) -> None:
        with self._lock:
            new = [warning for warning in warnings if warning not in self._report.warnings]
            self._report.warnings += new
        for warning in new:
            LOG.warning(warning)

    def _finished(self, folder: Path, what: Area | ScenePlan) -> ScenePlan | None:
        """Return the plan of a finished fetch of the same request in a folder; None if there is none."""
        if not self._options.resume or not (folder / PLAN).is_file():
            return None
        with suppress(RefnetError):
            plan = read_plans(folder / PLAN)[0]
            there = all((folder / file).is_file() for file in _files(plan))
            if there and _same(plan, what, self._options, self._source):
                return plan
        return None

    def _resumed(self, work: Path, area: Area) -> ScenePlan | None:
        """Return the plan that an interrupted fetch of the same request made."""
        if not self._options.resume or not (work / PLAN).is_file():
            return None
        with suppress(RefnetError):
            plan = read_plans(work / PLAN)[0]
            if _same(plan, area, self._options, self._source):
                check_items(plan, self._catalogue)
                check_hrefs([plan], self._http.policy.check)
                LOG.info(f"{plan.name}: going on with an interrupted fetch")
                return plan
        return None

    def _scene(self, plan: ScenePlan, folder: Path, reader: Reader) -> None:
        """Fetch a scene whose plan is known."""
        if self._options.dry_run:
            self._describe(plan, reader)
            return
        if (done := self._finished(folder, plan)) is not None:
            self._keep(done, folder)
            return
        try:
            with WorkFolder(folder / PLAN) as work:
                self._warn(work.warnings)
                self._write(plan, folder, work, reader)
        except OSError as error:
            raise explain(folder / PLAN, error) from error

    def _keep(self, plan: ScenePlan, folder: Path) -> None:
        LOG.info(f"{plan.name}: already fetched into {folder}; --no-resume fetches it again")
        self._enter(plan, folder)

    def _write(self, plan: ScenePlan, folder: Path, work: WorkFolder, reader: Reader) -> None:
        """Fetch the pixels of a plan into a folder."""
        files = _files(plan)
        check_replaceable([folder / file for file in (*files, PLAN)], self._options.overwrite)
        _check_disk(plan, folder)
        products = products_of(plan, self._catalogue, reader)
        journals = [f"{product.name}.journal" for product in products]
        work.remove_leftovers(*(journals if self._options.resume else ()))
        work.keep_for_next_run(PLAN, *journals)
        write_text_atomic(work.path / PLAN, write_plans([plan]))
        try:
            ready = self._fill(plan, products, folder, work.path, reader)
        except RefnetError as error:
            if error.exit_code in (65, 66):  # with these items it will fail again: search again
                work.keep_for_next_run(*journals)
            raise
        for file, final in ready:
            os.replace(file, final)
        sync(folder)
        write_text_atomic(folder / PLAN, write_plans([plan]))
        work.keep_for_next_run()
        self._enter(plan, folder)

    def _fill(
        self, plan: ScenePlan, products: Sequence[Product], folder: Path, work: Path, reader: Reader
    ) -> list[tuple[Path, Path]]:
        """Fetch the rows of products and write their files; return these, each with its final path."""
        grid, identity = plan.grid.grid(), {"plan": plan.identity}
        self._follow.add(plan.name, grid.shape[0] * len(products))
        for product in products:
            told = self._follow.part(plan.name, product.name)
            path = work / f"{product.name}.journal"
            fetch_rows(path, identity, product.layers, product.rows, grid, product.pixel_bytes, told)
            self._warn(sorted(set(reader.warnings)))
            reader.warnings.clear()
        ready = []
        for product in products:
            files, warnings = write_product(plan, product, work / f"{product.name}.journal", identity)
            self._warn(warnings)
            ready += [(file, folder / layer.file) for layer, file in files]
        return ready

    def _enter(self, plan: ScenePlan, folder: Path) -> None:
        """Enter a finished scene in the report."""
        files = _files(plan)
        days = sorted(set(plan.days))
        entry = Fetched(
            plan.name, plan.region, folder, tuple(files), (plan.grid.height, plan.grid.width), " ".join(days),
            plan.clear, plan.sar_text, plan.place, tuple(item.id for item in plan.labels),
        )  # fmt: skip
        with self._lock:
            self._fetched[plan.name] = entry
        self._enter_described(_describe(plan) | {"files": [str(folder / file) for file in files]})

    def _enter_described(self, scene: dict[str, Any]) -> None:
        """Enter a scene in the report, in the place of an earlier plan of it."""
        with self._lock:
            self._report.scenes = [one for one in self._report.scenes if one["name"] != scene["name"]] + [scene]

    def _describe(self, plan: ScenePlan, reader: Reader) -> None:
        """Enter a scene that is only planned, with the bytes that it takes at most."""
        grid = plan.grid.grid()
        whole = Window(0, 0, *grid.shape)
        needed = 0
        bands = [(item, band) for date in plan.optical for item in date.items for band in (*plan.bands, "SCL")]
        bands += [(item, band) for item in plan.sar for band in POLARISATIONS]
        bands += [(item, "labels") for item in plan.labels]
        for file in reader.open(bands, grid, "remote"):
            needed += sum(stop - start for start, stop in set(file.spans(whole)))
        LOG.info(f"{plan.name}: at most {needed / 1e6:,.1f} MB to fetch")
        self._enter_described(_describe(plan) | {"bytes": needed})

    def _finish(self) -> None:
        """Write the regions file, the tables and the list of all items."""
        self._report.received = self._http.received
        if self._options.dry_run:
            return
        if not self._fetched:
            if self._report.error:
                raise self._report.error
            return
        scenes = sorted(self._fetched.values(), key=lambda scene: scene.name)
        self._report.scenes.sort(key=lambda scene: str(scene["name"]))
        output = self._options.output
        texts = {}
        labelled = [scene for scene in scenes if "labels.tif" in scene.files]
        if labelled:
            bands = read_plans(labelled[0].folder / PLAN)[0].bands
            texts[REGIONS] = regions_text(labelled, output, bands)
        for place, dates in (places := places_of(scenes)).items():
            texts[f"{place}/{TABLE}"] = table_text(dates, output / place)
        if places:
            texts[SEASONS] = seasons_text(places)
        if not self._alone:
            texts[TABLE] = table_text(scenes, output)
            texts[PLAN] = write_plans([read_plans(scene.folder / PLAN)[0] for scene in scenes])
        made = [str(scene.folder / file) for scene in scenes for file in (*scene.files, PLAN)]
        for name, text in texts.items():
            path = output / name
            if path.is_file() and not self._options.overwrite and not is_refnet_output(path):
                self._warn([f"{path} was edited and is kept; --overwrite replaces it"])
            else:
                _write_text(path, text)
            made.append(str(path))
        self._report.files = made


class _Follow:
    """Adds up the progress of scenes that are fetched at the same time."""

    def __init__(self, progress: Progress | None, http: Http) -> None:
        self._progress, self._http = progress, http
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._done: dict[tuple[str, str], int] = {}

    def add(self, scene: str, rows: int) -> None:
        """Add a scene's rows that are to be fetched."""
        with self._lock:
            self._totals[scene] = rows

    def part(self, scene: str, product: str) -> Callable[[int], None]:
        """Return what is called with the rows of a part that are done."""

        def tell(done: int) -> None:
            with self._lock:
                self._done[scene, product] = done
                if self._progress:
                    note = f"{self._http.received / 1e6:,.1f} MB"
                    self._progress(sum(self._done.values()), sum(self._totals.values()), note)

        return tell


def _same(plan: ScenePlan, what: Area | ScenePlan, options: FetchOptions, source: str) -> bool:
    """Return whether a plan is what is asked for now."""
    if isinstance(what, ScenePlan):
        return plan.identity == what.identity
    return (plan.request, plan.grid, plan.source) == (options.request(), GridTable.of(what.grid), source)


def _write_text(path: Path, text: str) -> None:
    """Write a file, and its folder if that is not there."""
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(path, error) from error
    write_text_atomic(path, text)


def _are_folders(names: Sequence[str]) -> bool:
    """Return whether names are unique, and those of folders in the one that holds them."""
    plain = all(name and Path(name).name == name != ".." and name.isprintable() for name in names)
    return plain and len({name.casefold() for name in names}) == len(names)


def _files(plan: ScenePlan) -> list[str]:
    """Return the names of the files of a scene."""
    there = {"s2.tif": True, "source.tif": True, "s1.tif": bool(plan.sar), "labels.tif": bool(plan.labels)}
    return [file for file in FILES if there[file]]


def _check_disk(plan: ScenePlan, folder: Path) -> None:
    """Refuse to begin where the disk is too full."""
    pixel = 2 * len(plan.bands) + 2 + 8 * bool(plan.sar) + bool(plan.labels)
    needed = int(_SPARE * pixel * plan.grid.height * plan.grid.width)
    there = next(part for part in (folder, *folder.parents) if part.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{folder} has {free / 1e9:,.2f} GB free; fetching {plan.name} needs up to {needed / 1e9:,.2f} GB. Free "
            "some space, or choose a folder on another disk."
        )


def _describe(plan: ScenePlan) -> dict[str, Any]:
    """Describe a plan as plain values."""
    return {
        "name": plan.name,
        "region": plan.region,
        "grid": {"epsg": plan.grid.epsg, "width": plan.grid.width, "height": plan.grid.height},
        "method": plan.method,
        "clear": plan.clear,
        "dates": [
            {"date": date.items[0].day, "clear": round(date.clear, 4), "items": [item.id for item in date.items]}
            for date in plan.optical
        ],
        "sar": {
            "acquired": plan.sar[0].acquired, "orbit": plan.sar[0].orbit, "direction": plan.sar[0].direction,
            "items": [item.id for item in plan.sar],
        } if plan.sar else None,
        "labels": {
            "product": plan.labels_product, "year": plan.labels[0].when.year, "items": [i.id for i in plan.labels]
        } if plan.labels else None,
        "decisions": list(plan.decisions),
        "left_out": dict(plan.left_out),
    }  # fmt: skip
