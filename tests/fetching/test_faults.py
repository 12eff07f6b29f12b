"""Catalogues and stores that fail or lie: the right exit code, no wrong pixel, and the next run makes all good."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from tests.fetching.harness import FEW, IMAGES, Fetched, Site, left_behind
from tests.helpers.programs import environment, refnet
from tests.helpers.quick import few as quick
from tests.helpers.stac_items import EPSG, Json, write_cog
from tests.helpers.stac_servers import Fault, write_source

WORDS = (*FEW, "--labels", "none")
BEST = "N0500_R065_T32UPU_20230131T041500"


def hold_few(out: Path, few: Fetched) -> None:
    """The pixels and tags are those of an undisturbed fetch."""
    assert Fetched(out).contents() == few.contents()


def hold_refusal(site: Site, out: Path, few: Fetched, codes: set[int], *more: str) -> str:
    """Fail with one of some exit codes, leave no file, and end in the same bytes once the servers work."""
    done = refnet(*site.words(out, *WORDS, *more))
    assert done.returncode in codes, f"exit code {done.returncode}\n{done.stderr}"
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert left_behind(out) == []
    for server in (site.files, site.catalogue):
        server.reset()
    site.fetch(out, *WORDS)
    hold_few(out, few)
    return done.stderr


PASSING = {
    "403 once": (Fault(f"{BEST}.*_B03_", "403", times=1), 0.0),
    "429 with Retry-After": (Fault(f"{BEST}.*_B03_", "429", times=1, headers={"Retry-After": "1"}), 1.0),
    "500 once": (Fault(f"{BEST}.*_B03_", "500", times=1), 0.0),
    "503 once": (Fault(r"iw-vv", "503", times=1), 0.0),
    "503 amid the file": (Fault(f"{BEST}.*_B03_", "503", times=1, after=1), 0.0),
    "cut once": (Fault(f"{BEST}.*_B03_", "cut", times=1), 0.0),
    "SCL cut once": (Fault(f"{BEST}.*_SCL_", "cut", times=1), 0.0),
    "hangs once": (Fault(f"{BEST}.*_B03_", "hang", times=1), 0.0),
}


@pytest.mark.parametrize("name", quick(PASSING, "429 with Retry-After"))
def test_a_store_that_fails_for_a_moment(name: str, site: Site, few: Fetched, tmp_path: Path) -> None:
    fault, pause = PASSING[name]
    fault.seen, fault.met = 0, []
    site.files.faults = [fault]
    source = write_source(tmp_path / "s.toml", site.catalogue.url, [site.files.host], silent_seconds=1)
    Site(site.world, site.files, site.catalogue, source, site.folder).fetch(tmp_path / "place", *WORDS)
    assert fault.met, "the fault was not met"
    hold_few(tmp_path / "place", few)
    if pause:
        times = [one.time for one in site.files.requests if re.search(fault.match, one.path)]
        assert min(moment for moment in times if moment > fault.met[0] + 0.05) - fault.met[0] >= pause * 0.95


LASTING = {
    "403 always": (Fault(f"{BEST}.*_B03_", "403"), {75, 66}),
    "500 always": (Fault(f"{BEST}.*_B03_", "500"), {75}),
    "503 always": (Fault(r"iw-vh", "503"), {75}),
    "503 from the middle on": (Fault(r"_B08_", "503", after=3), {75}),
    "429 always": (Fault(r"_SCL_", "429"), {75}),
    "429 for an hour": (Fault(r"_SCL_", "429", headers={"Retry-After": "3600"}), {75}),
    "hangs": (Fault(f"{BEST}.*_B03_", "hang"), {75}),
    "cut always": (Fault(f"{BEST}.*_B03_", "cut"), {75}),
    "cut SAR": (Fault(r"iw-vh", "cut"), {75}),
    "404 of all": (Fault("_B03_", "404"), {66}),
    "404 of SAR": (Fault("iw-vh", "404"), {66}),
    "404 of SCL": (Fault("_SCL_", "404"), {66}),
    "a page": (Fault(f"{BEST}.*_B03_", "page"), {65, 75, 66}),
    "cut amid the file": (Fault(f"{BEST}.*_B03_", "cut", after=1), {75}),
    "403 amid the file": (Fault(f"{BEST}.*_B03_", "403", after=1), {75, 66}),
}


@pytest.mark.parametrize("name", quick(LASTING, "503 from the middle on"))
def test_a_store_that_fails(name: str, site: Site, few: Fetched, tmp_path: Path) -> None:
    """With the exit code of it, within seconds; 0 only if nothing of what was wanted failed."""
    fault, codes = LASTING[name]
    fault.seen, fault.met = 0, []
    site.files.faults = [fault]
    source = write_source(tmp_path / "s.toml", site.catalogue.url, [site.files.host], silent_seconds=1, retries=1)
    mine = Site(site.world, site.files, site.catalogue, source, site.folder)
    started = time.monotonic()
    hold_refusal(mine, tmp_path / "place", few, codes)
    assert fault.met, "the fault was not met"
    assert time.monotonic() - started < 60


UNUSABLE = {
    "404": (Fault(f"{BEST}.*_B03_", "404"), "status 404"),
    "404 amid the file": (Fault(f"{BEST}.*_B08_", "404", after=1), "status 404"),
    "404 of SCL": (Fault(f"{BEST}.*_SCL_", "404"), "status 404"),
    "zeros": (Fault(f"{BEST}.*_B03_", "zeros"), "cannot be opened"),
}


@pytest.mark.parametrize("name", quick(UNUSABLE, "404 amid the file"))
def test_an_item_whose_file_is_gone_is_left_out(name: str, site: Site, tmp_path: Path) -> None:
    """Others take its place, which is said and recorded; the very same items again stay an error."""
    fault, reason = UNUSABLE[name]
    fault.seen, fault.met = 0, []
    site.files.faults = [fault]
    out = tmp_path / "place"
    done = site.fetch(out, *WORDS, "--json")
    assert fault.met, "the fault was not met"
    (item,) = (one for one in site.world.optical.values() if one.id.endswith("T32UPU_20230131T041500"))
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("!") and item.id in line)
    report = json.loads(done.stdout)
    assert reason in report["scenes"][0]["left_out"][item.id], line
    assert [item.id in warning for warning in report["warnings"]].count(True) == 1
    assert item.id in json.loads((out / "items.json").read_text())["scenes"][0]["left_out"]
    with rasterio.open(out / "s2.tif") as file:
        assert file.tags()["REFNET_FETCH_LEFT_OUT"] == item.id
        assert item.id not in file.tags()["REFNET_FETCH_ITEMS"]
    found = Fetched(out).match(site.world.optical.values())
    assert item.number not in found
    assert (found >= 0).mean() > 0.98
    assert not list(out.glob(".*"))


@pytest.mark.long
def test_the_very_same_items_are_never_others(site: Site, few: Fetched, tmp_path: Path) -> None:
    site.files.faults = [Fault(f"{BEST}.*_B03_", "404")]
    done = refnet("fetch", "--items", few.folder / "items.json", "--source", site.source, "--allow-host",
                  site.files.host, "--allow-host", site.catalogue.host, "-o", tmp_path / "again")  # fmt: skip
    assert done.returncode == 66, done.stderr
    assert "status 404" in done.stderr
    assert left_behind(tmp_path / "again") == []


SEARCHES = {
    "429 once": (Fault("search", "429", times=1, headers={"Retry-After": "1"}), {0}),
    "503 once": (Fault("search", "503", times=1), {0}),
    "hangs once": (Fault("search", "hang", times=1), {0}),
    "cut once": (Fault("search", "cut", times=1), {0}),
    "503 always": (Fault("", "503"), {75}),
    "429 always": (Fault("search", "429"), {75}),
    "hangs": (Fault("search", "hang"), {75}),
    "404": (Fault("", "404"), {66, 75, 65}),
    "a page": (Fault("", "page"), {65, 66, 75}),
    "no JSON object": (Fault("search", "page", body=b"[1]"), {65, 66, 75}),
    "cut always": (Fault("search", "cut"), {65, 75}),
}


@pytest.mark.parametrize("name", quick(SEARCHES, "503 once"))
def test_a_catalogue_that_fails(name: str, site: Site, few: Fetched, tmp_path: Path) -> None:
    fault, codes = SEARCHES[name]
    fault.seen, fault.met = 0, []
    site.catalogue.faults = [fault]
    source = write_source(tmp_path / "s.toml", site.catalogue.url, [site.files.host], silent_seconds=1, retries=1)
    mine = Site(site.world, site.files, site.catalogue, source, site.folder)
    if codes == {0}:
        mine.fetch(tmp_path / "place", *WORDS)
        hold_few(tmp_path / "place", few)
    else:
        hold_refusal(mine, tmp_path / "place", few, codes)
    assert fault.met


@pytest.mark.long
def test_a_catalogue_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        source = write_source(tmp_path / "s.toml", f"http://{host}", [site.files.host], retries=1)
        done = refnet(*Site(site.world, site.files, site.catalogue, source, site.folder).words(
            tmp_path / "place", *WORDS, "--allow-host", host))  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert left_behind(tmp_path / "place") == []


def items_without(site: Site, wrong: Callable[[Json], bool]) -> list[Json]:
    return [one for one in site.items() if not wrong(one)]


@pytest.mark.parametrize(
    ("dates", "word"),
    quick([("2021-08-01/2021-08-31", "--max-cloud"), ("2019-08-01/2019-08-31", "--dates")],
          ("2021-08-01/2021-08-31", "--max-cloud")),
)  # fmt: skip
def test_nothing_found_says_what_would_be(dates: str, word: str, site: Site, tmp_path: Path) -> None:
    done = site.fetch(tmp_path / "place", *WORDS, dates=dates, code=66)
    assert word in done.stderr
    assert left_behind(tmp_path / "place") == []


@pytest.mark.long
def test_no_item_with_both_polarisations(site: Site, few: Fetched, tmp_path: Path) -> None:
    """What is missing is said; no band is made up."""
    single = [one for one in site.items() if "_1SDV_" not in one["id"]]
    with site.use(single) as mine:
        done = refnet(*mine.words(tmp_path / "place", *WORDS))
    assert done.returncode in (0, 66), done.stderr
    assert "VH" in done.stderr.upper()
    assert not (tmp_path / "place" / "s1.tif").exists()
    if done.returncode == 0:
        np.testing.assert_array_equal(Fetched(tmp_path / "place").read("s2.tif"), few.read("s2.tif"))


def best_of(items: list[Json]) -> Json:
    return next(one for one in items if one["id"].endswith("T32UPU_20230131T041500"))


def without_asset(items: list[Json], site: Site) -> None:
    del best_of(items)["assets"]["B03"]


def another_transform(items: list[Json], site: Site) -> None:
    for asset in best_of(items)["assets"].values():
        if "proj:transform" in asset:
            asset["proj:transform"][2] += 200.0
            asset["proj:bbox"] = [value + 200.0 * (number % 2 == 0) for number, value in enumerate(asset["proj:bbox"])]


def another_crs(items: list[Json], site: Site) -> None:
    best_of(items)["properties"]["proj:epsg"] = 32633


def another_shape(items: list[Json], site: Site) -> None:
    best_of(items)["assets"]["B03"]["proj:shape"] = [10980, 10980]


def other_file(items: list[Json], site: Site, name: str, step: int = 1, size: int = 360, **what: Any) -> None:
    """Let band 3 be another file: a part of it, or coarser."""
    asset = best_of(items)["assets"]["B03"]
    with rasterio.open(site.world.folder / asset["href"].removeprefix(site.files.url).lstrip("/")) as file:
        values, place = file.read(1)[:size:step, :size:step], file.transform
    write_cog(site.world.folder / "other" / name, values.astype(what.get("dtype", "uint16")), what.get("place", place),
              what.get("epsg", EPSG), None)  # fmt: skip
    asset["href"] = f"{site.files.url}/other/{name}"


def smaller_file(items: list[Json], site: Site) -> None:
    other_file(items, site, "small.tif", size=200)


def file_elsewhere(items: list[Json], site: Site) -> None:
    other_file(items, site, "elsewhere.tif", place=Affine(10, 0, 400_000, 0, -10, 5_200_000))


def file_of_another_zone(items: list[Json], site: Site) -> None:
    other_file(items, site, "zone.tif", epsg=32633)


def file_of_bytes(items: list[Json], site: Site) -> None:
    other_file(items, site, "bytes.tif", dtype="uint8")


def coarser_file(items: list[Json], site: Site) -> None:
    other_file(items, site, "coarse.tif", step=2, place=Affine(20, 0, 702_000, 0, -20, 5_393_400))


def another_date(items: list[Json], site: Site) -> None:
    best_of(items)["properties"]["datetime"] = "2021-08-20T10:20:21.024000Z"


def no_baseline(items: list[Json], site: Site) -> None:
    for name in ("s2:processing_baseline", "s2:product_uri", "s2:datatake_id", "s2:granule_id", "s2:datastrip_id"):
        del best_of(items)["properties"][name]


def two_baselines(items: list[Json], site: Site) -> None:
    best_of(items)["properties"]["s2:processing_baseline"] = "03.01"


def nonsense(items: list[Json], site: Site) -> None:
    one = best_of(items)
    one["properties"] |= {"eo:cloud_cover": "none", "s2:mgrs_tile": ["32UPU"], "s2:processing_baseline": {"a": 1}}
    one["geometry"]["coordinates"] = [[["a", "b"]]]


LIES = {
    function.__name__: function
    for function in (
        without_asset, another_transform, another_crs, another_shape, smaller_file, file_elsewhere, file_of_bytes,
        file_of_another_zone, coarser_file, another_date, no_baseline, two_baselines, nonsense,
    )
}  # fmt: skip


HARMLESS = ("another_crs", "another_shape", "nonsense")
"""Lies that the file itself sets right."""


@pytest.mark.parametrize("lie", quick(LIES, "another_transform"))
def test_an_item_that_is_not_what_it_says(lie: str, site: Site, tmp_path: Path) -> None:
    """It is used where its file is, or left out, or refused; what is written is true in each case."""
    items = site.items()
    LIES[lie](items, site)
    out = tmp_path / "place"
    with site.use(site.items() if lie == "nonsense" else items) as mine:
        if lie == "nonsense":  # which rustac would not take
            mine.catalogue.edit = lambda path, answer: _replace_items(answer, items)
        done = refnet(*mine.words(out, *WORDS))
    assert done.returncode in {0, *{65, 66}}, f"exit code {done.returncode}\n{done.stderr}"
    assert "bug" not in done.stderr
    if done.returncode:
        assert left_behind(out) == []
    else:
        assert lie in HARMLESS or best_of(items)["id"] in done.stderr, done.stderr
        fetched = Fetched(out)
        if lie == "coarser_file":  # which was interpolated, and that is said
            del fetched.optical["B03"]
        found = fetched.match(site.world.optical.values())
        assert (found >= 0).mean() > 0.98


def _replace_items(answer: Json, items: list[Json]) -> Json:
    by_id = {one["id"]: one for one in items}
    if "features" in answer:
        answer["features"] = [by_id.get(one["id"], one) for one in answer["features"]]
    return answer


@pytest.mark.long
def test_a_catalogue_that_ignores_what_it_is_asked(site: Site, few: Fetched, tmp_path: Path) -> None:
    """It returns other places, dates and collections, and items twice."""
    far = best_of(site.items())
    far |= {"id": "S2A_MSIL2A_20210616T102021_R065_T33UPU_20230131T041500", "bbox": [40.0, 10.0, 40.1, 10.1]}
    far["geometry"]["coordinates"] = [[[40.0, 10.0], [40.1, 10.0], [40.1, 10.1], [40.0, 10.0]]]
    old = best_of(site.items())
    old["id"] = old["id"].replace("20210615", "20190615")
    old["properties"]["datetime"] = "2019-06-15T10:20:21Z"

    def edit(path: str, answer: Json) -> Json:
        if "features" in answer:
            answer["features"] = [*site.items(), far, old, *answer["features"]]
        return answer

    site.catalogue.edit = edit
    site.fetch(tmp_path / "place", *WORDS)
    hold_few(tmp_path / "place", few)


@pytest.mark.long
def test_an_older_duplicate_of_the_same_baseline_is_left_out(site: Site, few: Fetched, tmp_path: Path) -> None:
    """Of two products of a datatake, a tile and a baseline, the one that was made later is taken."""
    items = site.items()
    older = best_of(site.items())
    older["id"] = older["id"].replace("20230131T041500", "20221231T041500")
    for name, value in older["properties"].items():
        if isinstance(value, str):
            older["properties"][name] = value.replace("20230131T041500", "20221231T041500").replace(
                "2023-01-31T04", "2022-12-31T04")  # fmt: skip
    for asset in older["assets"].values():
        asset["href"] = asset["href"].replace(".tif", "-gone.tif")
    for position in (0, len(items)):
        with site.use([*items[:position], older, *items[position:]]) as mine:
            mine.fetch(tmp_path / f"{position}", *WORDS)
        hold_few(tmp_path / f"{position}", few)


@pytest.mark.long
@pytest.mark.parametrize("where", ["itself", "a file", "another host", "no URL"])
def test_pages_that_lead_astray(where: str, site: Site, few: Fetched, tmp_path: Path) -> None:
    def edit(path: str, answer: Json) -> Json:
        links = {
            "itself": f"{site.catalogue.url}/search",
            "a file": f"file://{tmp_path}/x.json",
            "another host": "http://10.255.255.1/search",
            "no URL": "::",
        }
        if "features" in answer:
            body = {"collections": [one["collection"] for one in answer["features"][:1]]}
            answer["links"] = [{"rel": "next", "href": links[where], "method": "POST", "body": body}]
        return answer

    site.catalogue.edit = edit
    started = time.monotonic()
    done = refnet(*site.words(tmp_path / "place", *WORDS))
    assert time.monotonic() - started < 40
    assert "bug" not in done.stderr
    if done.returncode == 0:
        hold_few(tmp_path / "place", few)
    else:
        assert done.returncode in (65, 75), done.stderr
        assert left_behind(tmp_path / "place") == []


@pytest.mark.long
def test_a_token_server_that_fails(site: Site, few: Fetched, tmp_path: Path) -> None:
    for number, (fault, codes) in enumerate(((Fault("/token/", "503", times=1), {0}), (Fault("/token/", "429"), {75}),
                                             (Fault("/token/", "page"), {65, 75}))):  # fmt: skip
        site.files.signed = True
        site.files.faults = [fault]
        source = write_source(tmp_path / f"{number}.toml", site.catalogue.url, [site.files.host], tokens=site.files.url,
                              retries=1)  # fmt: skip
        signed = Site(site.world, site.files, site.catalogue, source, site.folder)
        if codes == {0}:
            signed.fetch(tmp_path / "place", *WORDS)
            hold_few(tmp_path / "place", few)
        else:
            hold_refusal(signed, tmp_path / f"place{number}", few, codes)


@pytest.mark.long
def test_tokens_that_end_while_fetching(site: Site, few: Fetched, tmp_path: Path) -> None:
    """All of them, in the middle of the work: signed again."""
    site.files.signed = True
    real, count = site.files.accepts, 0

    def accepts(query: str) -> bool:
        nonlocal count
        count += 1
        if count in (15, 40):
            site.files.revoke()
        return real(query)

    source = write_source(tmp_path / "s.toml", site.catalogue.url, [site.files.host], tokens=site.files.url)
    signed = Site(site.world, site.files, site.catalogue, source, site.folder)
    try:
        site.files.accepts = accepts  # type: ignore[method-assign]
        signed.fetch(tmp_path / "place", *WORDS)
    finally:
        site.files.accepts = real  # type: ignore[method-assign]
    hold_few(tmp_path / "place", few)


@pytest.mark.long
def test_without_the_extra(tmp_path: Path) -> None:
    """Exit code 69, and how to install it."""
    (tmp_path / "odc").mkdir()
    for name in ("pystac_client", "odc/stac"):
        (tmp_path / f"{name}.py").write_text(
            "raise ModuleNotFoundError(\"No module named 'pystac_client'\", name='pystac_client')"
        )
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "refnet_cli", "fetch", "--bbox", "11,48,11.01,48.01", "--dates", "2021-06-01/2021-06-30",
         "-o", str(tmp_path / "place")], env=env, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert "refnet-cli[fetch]" in done.stderr


@pytest.mark.long
def test_other_files_are_not_replaced(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "place"
    out.mkdir()
    (out / "s2.tif").write_bytes(b"mine")
    site.fetch(out, *WORDS, code=73)
    assert (out / "s2.tif").read_bytes() == b"mine"
    site.fetch(out, *WORDS, "--overwrite")
    assert set(IMAGES) - {"labels.tif"} <= set(left_behind(out))
