"""A place and dates become files: each pixel is its source's, in the right place, and the files say which."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from refnet_cli.fetching.mgrs import tile_bounds
from tests.fetching.harness import FEW, FILES, IMAGES, TENS, Fetched, Site, all_texts, inner, left_behind, outer, plane
from tests.helpers.programs import Done, refnet
from tests.helpers.stac_items import AREA, BANDS, EPSG, PIXELS, WORLDCOVER_TO_ESRI, Json, Optical, part

JUNE, JULY, LATER, AUGUST = ("20210615", "20210705", "20210720", "20210804")


def of_day(site: Site, day: str) -> list[Optical]:
    """Acquisitions of a day that may be used: the newest baseline of each tile."""
    found: dict[str, Optical] = {}
    for one in sorted((one for one in site.world.optical.values() if f"{one.time:%Y%m%d}" == day),
                      key=lambda one: one.baseline):  # fmt: skip
        found[one.tile] = one
    return list(found.values())


def clear_on(site: Site, day: str, fetched: Fetched) -> Any:
    """Where some acquisition of a day sees the ground."""
    return np.any([one.clear(*fetched.places) for one in of_day(site, day)], axis=0)


def test_files_lie_on_the_10_m_lattice_around_the_area(fetched: Fetched, done: tuple[Done, Path]) -> None:
    (height, width), (pixel, _, west, _, down, north), epsg = fetched.grid
    assert (pixel, down, epsg) == (10, -10, EPSG)
    assert west % 10 == north % 10 == 0
    assert west <= AREA[0] <= west + 20
    assert north - 20 <= AREA[3] <= north
    assert AREA[2] <= west + 10 * width <= AREA[2] + 20
    assert AREA[1] - 20 <= north - 10 * height <= AREA[1]
    assert left_behind(fetched.folder) == sorted(FILES)
    for name in IMAGES:
        assert fetched.grid_of(name) == fetched.grid
    assert sorted(done[0].stdout.split()) == sorted(str(fetched.folder / name) for name in FILES)


def test_bands_of_10_m_equal_their_source_to_the_bit(fetched: Fetched, site: Site) -> None:
    """Each pixel is that of one acquisition in all bands; never of the older baseline or of the cloudy date."""
    used = set(np.unique(fetched.match(site.world.optical.values()))) - {-1}
    allowed = {one.number for day in (JUNE, JULY, LATER) for one in of_day(site, day)}
    assert used <= allowed
    assert {one.number for one in of_day(site, JUNE)} <= used
    assert set(fetched.optical) <= set(BANDS)
    assert set(TENS) <= set(fetched.optical)


def test_holes_of_the_best_date_are_filled_from_others(fetched: Fetched, site: Site) -> None:
    """No cloud is taken where some date is clear, and the best date is taken where it is clear."""
    found = fetched.match(site.world.optical.values())
    best = [one.number for one in of_day(site, JUNE)]
    clear = {day: clear_on(site, day, fetched) for day in (JUNE, JULY, LATER)}
    far = inner(clear[JUNE], 12)  # clouds may be taken with a margin
    assert np.isin(found[far], best).all()
    for day in (JUNE, JULY, LATER):
        for one in of_day(site, day):
            cloudy = (found == one.number) & ~one.clear(*fetched.places)
            assert not cloudy.any(), f"{int(cloudy.sum())} cloudy pixels of {one.id}"
    some = np.any(list(clear.values()), axis=0)
    assert (found[inner(some, 12)] >= 0).all()
    hole = ~clear[JUNE] & inner(clear[JULY], 12)
    assert hole.sum() > 500
    assert np.isin(found[hole], [one.number for one in of_day(site, JULY)]).mean() > 0.9


def test_what_no_date_sees_is_no_data(fetched: Fetched, site: Site) -> None:
    seen = np.any([clear_on(site, day, fetched) for day in (JUNE, JULY, LATER)], axis=0)
    assert 0 < (~seen).sum() < 200
    for values in fetched.optical.values():
        assert not values[~seen].any()


@pytest.mark.parametrize("band", [band for band in BANDS if PIXELS[band] > 10])
def test_coarser_bands_lie_in_their_place(band: str, fetched: Fetched, site: Site) -> None:
    if band not in fetched.optical:
        pytest.skip("is not fetched unless asked for")
    found, held = fetched.match(site.world.optical.values()), 0
    for one in site.world.optical.values():
        mine = inner(found == one.number, PIXELS[band] // 10) & ~outer(
            (one.stored("B02", *fetched.places) == 0) | np.isin(one.stored("B02", *fetched.places), range(980, 1010)),
            PIXELS[band] // 5)  # fmt: skip
        value, allowed = plane(one, band, *fetched.places)
        far = np.abs(fetched.optical[band][mine] - value[mine])
        assert far.max(initial=0) <= allowed, (one.id, far.max())
        held += mine.sum()
    assert held > 50_000


def test_offsets_are_removed_and_valid_pixels_stay_valid(fetched: Fetched, site: Site) -> None:
    """Values at and below the offset become 1, not 0 or 65,535; two baselines meet in one date."""
    one = next(one for one in of_day(site, JUNE) if one.tile == "32UPU")
    assert one.offset == 1000
    dark = inner(np.broadcast_to(one.stored("B02", *fetched.places) < 1003, fetched.grid[0]), 2)
    dark &= fetched.match(site.world.optical.values()) == one.number
    assert dark.sum() > 50
    for band in TENS:
        assert set(np.unique(fetched.optical[band][dark])) <= {1, 2}
    valid = fetched.optical["B02"] > 0
    for values in fetched.optical.values():
        assert values[valid].min() >= 1
        assert values.max() < 9000


def test_sar_is_of_one_pass_to_the_bit(fetched: Fetched, site: Site) -> None:
    """Two frames of the pass nearest the optical date; not another pass of the orbit, and not that without VH."""
    x, y = fetched.places
    assert list(fetched.sar) == ["VV", "VH"]
    frames = [one for one in site.world.sar.values() if one.orbit == 168 and one.time.day == 15]
    for name, values in fetched.sar.items():
        upper, lower = (one.power(name, x, y) for one in frames)
        wanted = np.where(np.isnan(upper), lower, upper)
        assert values.dtype == np.float32
        assert not np.isnan(wanted).any()
        np.testing.assert_array_equal(values, wanted)


def recoded(fetched: Fetched, site: Site, year: int) -> tuple[Any, Any]:
    """Labels that WorldCover gives, and where they do not depend on how exactly places are transformed."""
    labels = next(one for name, one in site.world.labels.items() if f"10m_{year}" in name)
    x, y = np.broadcast_arrays(*fetched.places)
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(x, y)
    codes = labels.codes(lon, lat)
    safe = np.ones(codes.shape, bool)
    for right in (-0.2, 0.2):
        for down in (-0.2, 0.2):
            safe &= labels.codes(lon + right / 12_000, lat + down / 12_000) == codes
    table = np.zeros(256, np.uint8)
    table[list(WORLDCOVER_TO_ESRI)] = list(WORLDCOVER_TO_ESRI.values())
    return table[codes], safe


def test_labels_are_those_of_the_year_in_codes_of_the_scheme(fetched: Fetched, site: Site) -> None:
    wanted, safe = recoded(fetched, site, 2021)
    assert safe.mean() > 0.8
    found = fetched.read("labels.tif")[0]
    np.testing.assert_array_equal(found[safe], wanted[safe])
    assert set(np.unique(found)) <= set(WORLDCOVER_TO_ESRI.values())
    with rasterio.open(fetched.folder / "labels.tif") as file:
        assert file.dtypes == ("uint8",)
        assert file.nodata == 0


def test_the_source_of_each_pixel_is_told(fetched: Fetched, site: Site) -> None:
    """One code for each acquisition or date; the tags name it, and it is the one that the pixels are of."""
    found = fetched.match(site.world.optical.values())
    codes = fetched.read("source.tif")[0]
    np.testing.assert_array_equal(codes == 0, found == -1)
    with rasterio.open(fetched.folder / "source.tif") as file:
        tags = file.tags() | file.tags(1)
    by_number = {one.number: one for one in site.world.optical.values()}
    for code in set(np.unique(codes)) - {0}:
        days = {f"{by_number[number].time:%Y-%m-%d}" for number in np.unique(found[codes == code])}
        assert len(days) == 1
        assert days.pop() in tags[f"SOURCE_{code}"]
        for number in np.unique(found[codes == code]):
            assert by_number[number].id in tags[f"SOURCE_{code}"]


def test_items_are_listed_unsigned(fetched: Fetched, site: Site) -> None:
    text = (fetched.folder / "items.json").read_text()
    strings = set(re.findall(r'"((?:[^"\\\n]|\\.)*)"', text))
    found = fetched.match(site.world.optical.values())
    used = {one.id for one in site.world.optical.values() if one.number in np.unique(found)}
    used |= {one.id for one in site.world.sar.values() if one.orbit == 168 and one.time.day == 15}
    used.add("ESA_WorldCover_10m_2021_v200_N48E009")
    assert used <= strings
    assert json.loads(text)
    assert "sig=" not in text


def test_nothing_says_where_files_lie_on_this_machine(few: Fetched, site: Site) -> None:
    """A catalogue file is recorded by its name and checksum, and asked for again by --items."""
    text = all_texts(few.folder)
    assert "source.toml sha256:" in text
    assert str(site.source.parent) not in text
    assert str(few.folder.parent) not in text
    done = refnet("fetch", "--items", few.folder / "items.json", "-o", few.folder.parent / "again")
    assert done.returncode == 64
    assert "source.toml. Pass it as --source" in done.stderr


def test_inspect_guesses_nothing(fetched: Fetched) -> None:
    done = refnet("inspect", "--optical", fetched.folder / "s2.tif", "--sar", fetched.folder / "s1.tif", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "guess" not in done.stdout + done.stderr
    assert seen["optical"]["level"] == "L2A"
    assert seen["optical"]["offset"] == 0
    assert seen["sar"]["scale"] == "power"
    assert [band["name"] for band in seen["sar"]["bands"]] == ["VV", "VH"]


def test_items_refetch_the_same_bytes(fetched: Fetched, site: Site, tmp_path: Path) -> None:
    """Without a search: also when the catalogue has forgotten them."""
    site.catalogue.faults = []
    words = ["fetch", "--items", str(fetched.folder / "items.json"), "--source", str(site.source), "--allow-host",
             site.files.host, "--allow-host", site.catalogue.host, "-o", str(tmp_path / "again")]  # fmt: skip
    done = refnet(*words)
    assert done.returncode == 0, done.stderr
    assert Fetched(tmp_path / "again").hashes() == fetched.hashes()
    assert not [request for request in site.catalogue.requests if "search" in request.path]


def test_what_is_read(site: Site, tmp_path: Path) -> None:
    """No file of the cloudy date or the older baseline, and none that is not needed; some of SCL, for ranks, twice."""
    site.fetch(tmp_path / "place", *FEW, "--labels", "none")
    served = site.files.served()
    assert not [path for path in served if re.search("_(AOT|WVP|visual|B05)_|xml|safe$", path)]
    assert not [path for path in served if AUGUST in path or "N0300_R065_T32UPU" in path]
    for path, sent in served.items():
        size = (site.world.folder / path.lstrip("/")).stat().st_size
        assert sent <= (3 if "_SCL_" in path else 1.1) * size, (path, sent, size)


@pytest.mark.long
def test_only_the_blocks_of_a_small_area_are_read(site: Site, tmp_path: Path) -> None:
    """And the beginnings of the files."""
    site.fetch(tmp_path / "place", *FEW, "--labels", "none", area=part(2, 2, 40, 40))
    for path, sent in site.files.served("_B0|iw-").items():
        west, north = (702_000, 5_393_400)
        assert "UPU" in path or "iw-" in path
        columns = (AREA[0] + 400 - west) // 1280 - (AREA[0] + 20 - west) // 1280 + 1
        rows = (north - AREA[3] + 400) // 1280 - (north - AREA[3] + 20) // 1280 + 1
        block = 128 * 128 * (4 if "iw-" in path else 2)
        assert sent <= 1.1 * (columns * rows * block) + 40_000, (path, sent, columns * rows)


def test_the_plan(site: Site, tmp_path: Path) -> None:
    """Says dates, clear shares, orbits and bytes; reads at most the beginnings of bands, and writes nothing."""
    done = site.fetch(tmp_path / "place", "--dry-run", "--json")
    assert json.loads(done.stdout)["scenes"]
    text = done.stdout + done.stderr
    for day in (JUNE, JULY):
        assert re.search(f"{day[:4]}-?{day[4:6]}-?{day[6:]}", text), text
    assert "168" in text
    assert re.search(r"\d\s?%", text)
    assert not list(tmp_path.glob("place/**/*.tif"))
    assert not [one for one in site.files.requests if re.search("_B0|iw-", one.path) and one.first]


@pytest.mark.long
def test_one_item_by_name(site: Site, tmp_path: Path) -> None:
    one = next(one for one in of_day(site, LATER) if one.tile == "32UQU")
    site.fetch(tmp_path / "place", "--optical", one.id, "--labels", "none")
    found = set(np.unique(Fetched(tmp_path / "place").match(site.world.optical.values())))
    assert found <= {one.number, -1}
    assert one.number in found


@pytest.mark.long
def test_the_median_of_clear_dates(site: Site, tmp_path: Path) -> None:
    site.fetch(tmp_path / "place", "--optical", "median", "--labels", "none")
    fetched = Fetched(tmp_path / "place")
    x, y = fetched.places
    for band in TENS:
        values = []
        for day in (JUNE, JULY, LATER):
            value = np.full(fetched.grid[0], np.nan)
            for one in of_day(site, day):
                value = np.where(one.clear(x, y) & np.isnan(value), one.reflectance(band, x, y), value)
            values.append(value)
        count = np.isfinite(values).sum(0)
        alone = (x < 703_780) | (x > 705_620)  # where tiles overlap, either may be taken
        wanted = np.nanmedian(np.where(count, values, 0), axis=0)
        held = np.broadcast_to(alone, count.shape) & (count > 0) & inner(count == count.max(), 12)
        assert held.sum() > 1000
        assert np.abs(fetched.optical[band][held] - wanted[held]).max() <= 0.5
        assert not fetched.optical[band][count == 0].any()


@pytest.mark.long
def test_all_dates_become_dated_pairs(site: Site, tmp_path: Path) -> None:
    site.fetch(tmp_path / "place", "--optical", "all", "--min-clear", "0.3", "--labels", "none")
    pairs = sorted(path.parent for path in (tmp_path / "place").rglob("s2.tif"))
    assert len(pairs) == 3
    for pair, day in zip(pairs, (JUNE, JULY, LATER), strict=True):
        fetched = Fetched(pair)
        found = set(np.unique(fetched.match(site.world.optical.values()))) - {-1}
        assert found == {one.number for one in of_day(site, day)}
        assert day in pair.name.replace("-", "")
    assert list((tmp_path / "place").rglob("scenes.csv"))


@pytest.mark.long
@pytest.mark.parametrize(("orbit", "wanted"), [("ascending", 44), ("44", 44), ("95", 95), ("descending", 168)])
def test_the_orbit_that_is_asked_for(orbit: str, wanted: int, site: Site, tmp_path: Path) -> None:
    site.fetch(tmp_path / "place", "--orbit", orbit, *FEW, "--labels", "none")
    fetched = Fetched(tmp_path / "place")
    passes = [one for one in site.world.sar.values() if one.orbit == wanted and (wanted != 168 or one.time.day == 15)]
    frames = [one.power("VV", *fetched.places) for one in passes]
    np.testing.assert_array_equal(fetched.sar["VV"], np.nanmean(frames, axis=0, dtype=np.float32))


@pytest.mark.long
def test_labels_of_another_product(site: Site, tmp_path: Path) -> None:
    site.fetch(tmp_path / "place", "--labels", "io-lulc", *FEW)
    fetched = Fetched(tmp_path / "place")
    codes = site.world.labels["32U-2021"].codes(*np.broadcast_arrays(*fetched.places))
    np.testing.assert_array_equal(fetched.read("labels.tif")[0], np.where(codes == 10, 0, codes))


@pytest.mark.long
def test_a_bounding_box(site: Site, tmp_path: Path) -> None:
    from tests.helpers.stac_items import lonlat

    west, south, east, north = lonlat((703_600, 5_390_500, 705_800, 5_392_600), EPSG).bounds
    site.fetch(tmp_path / "place", "--bbox", f"{west},{south},{east},{north}", *FEW, "--labels", "none", area=None)
    fetched = Fetched(tmp_path / "place")
    assert (fetched.match(site.world.optical.values()) >= 0).mean() > 0.99
    x, y = fetched.places
    assert x.min() < 703_600 < 705_800 < x.max()
    assert y.min() < 5_390_500 < 5_392_600 < y.max()


def test_the_regions_file_names_what_was_fetched(fetched: Fetched) -> None:
    with open(fetched.folder / "regions.toml", "rb") as file:
        regions = tomllib.load(file)
    assert regions["scenes"]
    for scene in regions["scenes"]:
        for name in ("optical", "sar", "labels"):
            assert (fetched.folder / scene[name]).is_file()
    assert "steps" in regions


def of_year(items: list[Json], year: int) -> list[Json]:
    """The same acquisitions in another year, whose files keep their names; labels stay."""
    made = []
    for one in items:
        text = json.dumps(one)
        if one["collection"].startswith("sentinel"):
            text = re.sub(r"(?<!/)2021(-?0[678])", rf"{year}\1", text)
            moved = json.loads(text)
            for name, asset in moved["assets"].items():
                asset["href"] = one["assets"][name]["href"]
            text = json.dumps(moved)
        made.append(json.loads(text))
    return made


@pytest.mark.long
@pytest.mark.parametrize(("year", "wanted"), [(2023, 2021), (2019, 2020), (2025, None), (2017, None)])
def test_labels_of_another_year(year: int, wanted: int | None, site: Site, tmp_path: Path) -> None:
    """The nearest year is said; more than two years apart are refused."""
    dates = f"{year}-06-01/{year}-08-31"
    with site.use(of_year(site.items(), year)) as mine:
        done = refnet(*mine.words(tmp_path / "place", *FEW, dates=dates))
        if wanted is None:
            assert done.returncode in (64, 65, 66), done.stderr
            assert "--labels" in done.stderr
            assert left_behind(tmp_path / "place") == []
            return
    assert done.returncode == 0, done.stderr
    assert f"{wanted}" in done.stderr
    fetched = Fetched(tmp_path / "place")
    codes, safe = recoded(fetched, site, wanted)
    np.testing.assert_array_equal(fetched.read("labels.tif")[0][safe], codes[safe])


@pytest.mark.parametrize(
    ("tile", "epsg", "corner"),
    [
        ("32UPU", 32632, (600_000, 5_400_000)), ("32UQU", 32632, (699_960, 5_400_000)),
        ("32TPT", 32632, (600_000, 5_300_040)), ("33UUP", 32633, (300_000, 5_400_000)),
        ("31NAA", 32631, (99_960, 100_020)), ("60KXF", 32760, (600_000, 8_100_000)),
    ],
)  # fmt: skip
def test_a_tile_is_that_of_sentinel_2(tile: str, epsg: int, corner: tuple[int, int]) -> None:
    """10,980 x 10,980 pixels at its corner, as in the real tiles, which lie on multiples of 60 m."""
    west, north = corner
    assert tile_bounds(tile) == (epsg, (west, north - 109_800, west + 109_800, north))


@pytest.mark.long
def test_the_plan_of_a_tile(site: Site, tmp_path: Path) -> None:
    words = ["--tile", "32UPU", *FEW, "--labels", "none", "--dry-run", "--json", "--min-clear", "0"]
    done = refnet(*site.words(tmp_path / "place", *words, area=None))
    assert done.returncode == 0, done.stderr
    grid = json.loads(done.stdout)["scenes"][0]["grid"]
    assert (grid["epsg"], grid["width"], grid["height"]) == (32632, 10_980, 10_980)


@pytest.mark.long
def test_messages_for_programs(site: Site, tmp_path: Path) -> None:
    """As JSON they are JSON in each line; -q says nothing; --json prints one object."""
    done = refnet("--log-format", "json", *site.words(tmp_path / "a", *FEW, "--labels", "none", "--json"))
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line) for line in done.stderr.splitlines())
    assert json.loads(done.stdout)["scenes"]
    done = site.fetch(tmp_path / "b", *FEW, "--labels", "none", "-q")
    assert (done.stderr, len(done.stdout.split())) == ("", 4)


@pytest.mark.long
def test_a_finished_fetch_is_not_repeated(site: Site, tmp_path: Path) -> None:
    """The same command reads no pixel again; other options fetch anew."""
    site.fetch(tmp_path / "place", *FEW, "--labels", "none")
    before = Fetched(tmp_path / "place").hashes(IMAGES[:2])
    site.files.reset()
    site.fetch(tmp_path / "place", *FEW, "--labels", "none")
    assert not site.files.served("_B0|iw-")
    site.fetch(tmp_path / "place", *FEW, "--labels", "none", "--min-clear", "0.5", dates="2021-07-01/2021-08-31")
    assert Fetched(tmp_path / "place").hashes(IMAGES[:2]) != before


@pytest.mark.long
def test_earth_search(site: Site, tmp_path: Path) -> None:
    """Other names of assets; offsets are declared; no SAR; the labels' year is that which is nearest."""
    from dataclasses import replace
    from datetime import datetime

    from tests.helpers.stac_items import World
    from tests.helpers.stac_servers import store

    with store(tmp_path / "files") as files:
        world = World(tmp_path / "files", files.url)
        for one in list(site.world.optical.values())[3:5]:
            moved = replace(one, folder=tmp_path / "files", url=files.url, baseline="05.09",
                            time=datetime(2023, 6, 8, 10, 18, 53))  # fmt: skip
            world.add(moved, "earth_search")
        mine = Site(world, files, site.catalogue, site.source, tmp_path)
        with mine.use(world.items, base="earth-search") as mine:
            done = refnet(*mine.words(tmp_path / "place", *FEW, "--labels", "none", "--min-clear", "0.5",
                                      dates="2023-06-01/2023-06-30"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search("SAR|Sentinel-1", done.stderr)
    fetched = Fetched(tmp_path / "place")
    found = fetched.match(world.optical.values())
    assert set(np.unique(found)) == {-1, 3, 4}


def test_nothing_secret_is_written_or_said(site: Site, tmp_path: Path, few: Fetched) -> None:
    """Tokens are fetched once for a container, and are in no file and no message; one that ends is replaced."""
    from tests.helpers.stac_servers import Fault, write_source

    site.files.signed = True
    site.files.faults = [Fault("_B03_", "403", times=1)]
    source = write_source(tmp_path / "signed.toml", site.catalogue.url, [site.files.host], tokens=site.files.url)
    signed = Site(site.world, site.files, site.catalogue, source, site.folder)
    done = signed.fetch(tmp_path / "place", *FEW, "--labels", "none")
    tokens = [request for request in site.files.requests if "/token/" in request.path]
    assert 1 <= len(tokens) <= 6
    for text in (done.stdout, done.stderr, all_texts(tmp_path / "place")):
        assert "secret0" not in text
        assert "sig=" not in text
    assert Fetched(tmp_path / "place").contents() == few.contents()
