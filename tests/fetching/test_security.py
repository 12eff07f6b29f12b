"""What a catalogue says is not trusted: no file of this machine, no private address, no host that is not its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.fetching.harness import FEW, Fetched, Site, all_texts, left_behind
from tests.fetching.test_faults import best_of, hold_few
from tests.helpers.programs import refnet
from tests.helpers.quick import few as quick
from tests.helpers.stac_items import EPSG, WEST_TILE, corner, write_cog
from tests.helpers.stac_servers import Fault, Store, store

WORDS = (*FEW, "--labels", "none")
MARKED = 7777


@pytest.fixture
def trap(site: Site, tmp_path: Path) -> Iterator[Store]:
    """A server on this machine that nobody has allowed, with a file that would fit, as has the folder."""
    place = corner(WEST_TILE[0], WEST_TILE[3], 10)
    write_cog(tmp_path / "B03.tif", np.full((360, 360), MARKED, np.uint16), place, EPSG, None)
    with store(tmp_path) as other:
        yield other


def hostile(kind: str, trap: Store, folder: Path, site: Site) -> str:
    port, good = trap.server_address[1], site.files
    vrt = folder / "B03.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="360" rasterYSize="360"><SRS>EPSG:{EPSG}</SRS><GeoTransform>{WEST_TILE[0]}, 10, 0, '
        f'{WEST_TILE[3]}, 0, -10</GeoTransform><VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename '
        f'relativeToVRT="0">{folder}/B03.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )
    (site.world.folder / "other").mkdir(exist_ok=True)
    (site.world.folder / "other" / "trap.tif").write_text(vrt.read_text())
    return {
        "file": f"file://{folder}/B03.tif",
        "path": f"{folder}/B03.tif",
        "relative": "../../../../../../../.." + f"{folder}/B03.tif",
        "vsicurl": f"/vsicurl/{trap.url}/B03.tif",
        "vsigzip": f"/vsigzip/{folder}/B03.tif",
        "vrt text": vrt.read_text(),
        "vrt path": str(vrt),
        "vrt served as tif": f"{good.url}/other/trap.tif",
        "driver prefix": f"GTIFF_DIR:1:{folder}/B03.tif",
        "vrt prefix": f"vrt://{trap.url}/B03.tif?bands=1",
        "other port": f"{trap.url}/B03.tif",
        "localhost": f"http://localhost:{port}/B03.tif",
        "decimal": f"http://2130706433:{port}/B03.tif",
        "short": f"http://127.1:{port}/B03.tif",
        "mapped": f"http://[::ffff:127.0.0.1]:{port}/B03.tif",
        "user": f"http://{good.host}@127.0.0.1:{port}/B03.tif",
        "backslash": f"http://127.0.0.1:{port}\\@{good.host}/B03.tif",
        "fragment": f"http://127.0.0.1:{port}#@{good.host}/B03.tif",
        "metadata": "http://169.254.169.254/latest/meta-data",
        "private": "http://10.0.0.1/B03.tif",
        "s3": "s3://bucket/B03.tif",
        "newline": f"{good.url}/B03.tif\r\nX: y\r\n\r\nGET {trap.url}/B03.tif",
        "ftp": f"ftp://127.0.0.1:{port}/B03.tif",
        "dots": f"{good.url}/../../../../../..{folder}/B03.tif",
    }[kind]


KINDS = (
    "file", "path", "relative", "vsicurl", "vsigzip", "vrt text", "vrt path", "vrt served as tif", "driver prefix",
    "vrt prefix", "other port", "localhost", "decimal", "short", "mapped", "user", "backslash", "fragment", "metadata",
    "private", "s3", "newline", "ftp", "dots",
)  # fmt: skip


def hold_untouched(site: Site, out: Path, trap: Store, code: int, err: str) -> None:
    """Refused, or made of other files; nothing was asked of the trap, and none of its pixels is there."""
    assert trap.requests == []
    assert code in (0, 65, 66, 75), err
    assert "bug" not in err
    if code:
        assert left_behind(out) == []
    else:
        fetched = Fetched(out)
        assert not (fetched.optical["B03"] == MARKED).any()
        fetched.match(site.world.optical.values())


@pytest.mark.parametrize("kind", quick(KINDS, "other port"))
def test_hrefs_are_not_trusted(kind: str, site: Site, trap: Store, tmp_path: Path) -> None:
    items = site.items()
    best_of(items)["assets"]["B03"]["href"] = hostile(kind, trap, tmp_path, site)
    out = tmp_path / "place"
    with site.use(items) as mine:
        done = refnet(*mine.words(out, *WORDS))
    hold_untouched(site, out, trap, done.returncode, done.stderr)


REDIRECTS = {
    "another port": "{trap}/B03.tif",
    "this machine by name": "http://localhost:{port}/B03.tif",
    "private address": "http://10.0.0.1/B03.tif",
    "metadata": "http://169.254.169.254/latest",
    "file": "file://{folder}/B03.tif",
    "nowhere": "",
    "itself": "{good}/{path}",
}


@pytest.mark.parametrize("kind", quick(REDIRECTS, "another port"))
@pytest.mark.parametrize("after", [pytest.param(0), pytest.param(1, marks=pytest.mark.long)])
def test_redirects_are_not_trusted(kind: str, after: int, site: Site, trap: Store, tmp_path: Path) -> None:
    """Also not when the server redirects only what comes after it was looked at."""
    to = REDIRECTS[kind].replace("{trap}", trap.url).replace("{port}", str(trap.server_address[1]))
    to = to.replace("{folder}", str(tmp_path)).replace("{good}", site.files.url)
    site.files.faults = [Fault("N0500_R065_T32UPU_20230131T041500.*_B03_", "redirect", to=to, after=after)]
    done = refnet(*site.words(tmp_path / "place", *WORDS))
    assert done.returncode in (65, 66, 75) or (after and done.returncode == 0), done.stderr
    hold_untouched(site, tmp_path / "place", trap, done.returncode, done.stderr)


@pytest.mark.long
@pytest.mark.parametrize("what", ["search", "/token/"])
def test_a_catalogue_and_its_tokens_do_not_lead_elsewhere(
    what: str, site: Site, trap: Store, tmp_path: Path
) -> None:
    from tests.helpers.stac_servers import write_source

    site.catalogue.faults = [Fault("search", "redirect", to=f"{trap.url}/{{path}}")] if what == "search" else []
    site.files.faults = [Fault("/token/", "redirect", to=f"{trap.url}/{{path}}")]
    site.files.signed = True
    source = write_source(tmp_path / "s.toml", site.catalogue.url, [site.files.host], tokens=site.files.url)
    done = refnet(*Site(site.world, site.files, site.catalogue, source, tmp_path).words(tmp_path / "place", *WORDS))
    assert done.returncode in (65, 66, 75), done.stderr
    hold_untouched(site, tmp_path / "place", trap, done.returncode, done.stderr)


@pytest.mark.long
def test_a_redirect_within_what_is_allowed(site: Site, few: Fetched, tmp_path: Path) -> None:
    with store(site.world.folder) as other:
        site.files.faults = [Fault("_B03_", "redirect", to=f"{other.url}/{{path}}")]
        site.fetch(tmp_path / "place", *WORDS, "--allow-host", other.host)
        assert other.requests
    hold_few(tmp_path / "place", few)


@pytest.mark.long
def test_hosts_have_to_be_named(site: Site, tmp_path: Path) -> None:
    """A description of a catalogue is not enough for an address of this machine; nor is the host of the items."""
    words = site.words(tmp_path / "place", *WORDS)
    at = [number for number, word in enumerate(words) if word == "--allow-host"]
    for number in reversed(at):
        del words[number : number + 2]
    site.files.reset()
    done = refnet(*words)
    assert done.returncode in (64, 65, 66, 78), done.stderr
    assert "--allow-host" in done.stderr
    assert site.files.requests == []


@pytest.mark.long
def test_items_json_is_not_trusted(site: Site, few: Fetched, trap: Store, tmp_path: Path) -> None:
    """A lock file from elsewhere cannot name other files either."""
    text = (few.folder / "items.json").read_text()
    for kind in ("file", "other port", "vsicurl", "metadata"):
        place = tmp_path / kind.replace(" ", "-")
        place.mkdir()
        href = best_of(site.items())["assets"]["B03"]["href"]
        assert href in text
        (place / "items.json").write_text(text.replace(href, hostile(kind, trap, tmp_path, site)))
        allowed = ("--allow-host", site.files.host, "--allow-host", site.catalogue.host)
        done = refnet("fetch", "--items", place / "items.json", "--source", site.source, *allowed, "-o", place / "out")
        assert done.returncode in (65, 66, 64, 78), done.stderr
        hold_untouched(site, place / "out", trap, 65, done.stderr)


@pytest.mark.long
@pytest.mark.parametrize("place", ["..", "", ".", "../x"])
def test_items_json_names_no_folder_outside(place: str, site: Site, few: Fetched, tmp_path: Path) -> None:
    """A scene that is one of several dates also names the folder of its place."""
    stored = json.loads((few.folder / "items.json").read_text())
    (scene,) = stored["scenes"]
    day = scene["optical"][0]["items"][0]["acquired"][:10]
    scene |= {"name": f"{place}_{day}", "request": scene["request"] | {"optical": "all"}}
    (tmp_path / "items.json").write_text(json.dumps(stored))
    done = refnet("fetch", "--items", tmp_path / "items.json", "--source", site.source, "--allow-host",
                  site.files.host, "--allow-host", site.catalogue.host, "-o", tmp_path / "deep" / "out")  # fmt: skip
    assert done.returncode == 64, done.stderr
    assert "no names that are unique and plain" in done.stderr
    assert site.files.requests == []


@pytest.mark.long
@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"null", b'{"optical": 3}', b"\xff\xfe", b"9" * 5000])
def test_items_json_that_is_none(value: bytes, site: Site, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_bytes(value)
    done = refnet("fetch", "--items", tmp_path / "items.json", "--source", site.source, "-o", tmp_path / "out")
    assert done.returncode in (65, 66, 78), done.stderr
    assert "bug" not in done.stderr


class _Endless(BaseHTTPRequestHandler):
    """Answers with JSON, or a file, without an end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        try:
            self.wfile.write(b'{"type": "FeatureCollection", "features": [')
            while True:
                self.wfile.write(b" " * 1_000_000)
        except OSError:
            return

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.long
def test_an_answer_without_an_end(site: Site, tmp_path: Path) -> None:
    """Is given up, before memory is full."""
    from tests.helpers.stac_servers import write_source

    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        source = write_source(tmp_path / "s.toml", f"http://{host}", [site.files.host], retries=1)
        mine = Site(site.world, site.files, site.catalogue, source, site.folder)
        done = refnet(*mine.words(tmp_path / "place", *WORDS, "--allow-host", host), seconds=100)
        server.shutdown()
    assert done.returncode in (65, 75), done.stderr


@pytest.mark.long
def test_passwords_are_in_no_file_and_no_message(site: Site, tmp_path: Path) -> None:
    url = site.catalogue.url.replace("http://", "http://user:geheim@")
    words = site.words(tmp_path / "place", *WORDS)
    words[words.index("--source") + 1] = url
    done = refnet(*words)
    assert "geheim" not in done.stdout + done.stderr
    if (tmp_path / "place").exists():
        assert "geheim" not in all_texts(tmp_path / "place")
