"""What files may refer to: virtual rasters and servers, and neither without its option."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, InputMissingError, OptionsError, RefnetError
from refnet_cli.evaluation.labels import open_labels
from refnet_cli.outputs.verify import verify_map
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.raster import gdal
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from refnet_cli.training.regions_file import read_regions
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, grid_of, make_pair

BANDS = ["B02", "B03", "B04", "B08"]
NETWORK, VRT = SceneOptions(allow_remote=True), SceneOptions(allow_vrt=True)
SECRETS = "user:pass%20word@"


class Server(ThreadingHTTPServer):
    """Serves a folder, parts of files too, and notes what was asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[str] = []
        self.left: int | None = None
        """Requests that are answered before it falls silent."""

    def url(self, name: str, secrets: str = "") -> str:
        """URL of a file."""
        return f"http://{secrets}127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def do_GET(self) -> None:
        self._answer(whole=True)

    def _answer(self, whole: bool) -> None:
        self.server.asked.append(self.path)
        if self.server.left is not None:
            self.server.left -= 1
            if self.server.left < 0:
                time.sleep(3)
                return
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, size = path.read_bytes(), path.stat().st_size
        part = self.headers.get("Range")
        first, last = part.removeprefix("bytes=").split("-") if part else (0, size - 1)
        content = content[int(first) : int(last) + 1]
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if part:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{size}")
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's folder."""
    with Server(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no patience with servers."""
    for name in ("CONNECT_SECONDS", "SILENT_SECONDS", "REQUEST_SECONDS"):
        monkeypatch.setattr(gdal, name, 1)
    monkeypatch.setattr(gdal, "RETRIES", 1)


def write_vrt(path: Path, sources: list[str], more: str = "", relative: int = 0, start: str = "") -> Path:
    """Write a virtual raster of the optical file's size, each band from the band of a file."""
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><Description>{BANDS[band - 1]}</Description>'
        f"<NoDataValue>0</NoDataValue><SimpleSource>"
        f'<SourceFilename relativeToVRT="{relative}" shared="1">{source}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        '<SourceProperties RasterXSize="300" RasterYSize="200" DataType="UInt16" BlockXSize="256" BlockYSize="256"/>'
        '<SrcRect xOff="0" yOff="0" xSize="300" ySize="200"/><DstRect xOff="0" yOff="0" xSize="300" ySize="200"/>'
        "</SimpleSource></VRTRasterBand>"
        for band, source in enumerate(sources, 1)
    )
    path.write_text(
        f'{start}<VRTDataset rasterXSize="300" rasterYSize="200"><SRS dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS>'
        f"<GeoTransform>500000, 10, 0, 5300000, 0, -10</GeoTransform>{more}{bands}</VRTDataset>"
    )
    return path


def read(optical: Any, sar: Any, options: SceneOptions | None = None, threads: int = 1) -> Any:
    """Read all of a pair."""
    with ScenePair.open(optical, sar, BANDS, ["VV", "VH"], options, read_threads=threads) as pair:
        return pair.read(Window(0, 0, *pair.grid.shape)), pair


def refused(optical: Any, sar: Any, options: SceneOptions | None = None, kind: type[RefnetError] = InputError) -> str:
    """What is said when a pair is refused."""
    with pytest.raises(kind) as caught:
        read(optical, sar, options)
    assert type(caught.value) is kind
    return str(caught.value)


def test_virtual_rasters_need_their_option(tmp_path: Path) -> None:
    optical, sar = make_pair(tmp_path, 200, 300)
    (tmp_path / "maps").mkdir()
    disguised = write_vrt(tmp_path / "maps" / "stack.tif", ["../s2.tif"] * 4, relative=1)
    for path in (write_vrt(tmp_path / "stack.vrt", [str(optical)] * 4, start='<?xml version="1.0"?>\n'), disguised):
        message = refused(path, sar)
        assert "--allow-vrt" in message
        assert "any raster file of this machine" in message
        assert str(path) in message
        expected, _ = read(optical, sar)
        found, pair = read(path, sar, VRT, threads=2)
        assert np.array_equal(found.optical, expected.optical)
        assert np.array_equal(found.sar, expected.sar)
        assert pair.files == [path, optical, sar]  # so that none of them is written over
    with pytest.raises(InputError, match=r"virtual raster \(VRT\).*refers to\.$"):
        Raster(disguised, "label")
    report = predict(PredictOptions(disguised, sar, tmp_path / "map.tif", allow_vrt=True, coreg="off"), PlaceEngine())
    assert report.valid_share == 1
    with pytest.raises(OptionsError, match="is the same file as"):
        predict(PredictOptions(disguised, sar, optical, allow_vrt=True, overwrite=True), PlaceEngine())


def test_virtual_rasters_lead_nowhere_else(tmp_path: Path, server: Server) -> None:
    optical, sar = make_pair(tmp_path, 200, 300)
    url, stack = server.url("s2.tif"), tmp_path / "stack.vrt"
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(200 * 300 * 2))
    everything = SceneOptions(allow_vrt=True, allow_remote=True)
    nested = write_vrt(tmp_path / "nested.vrt", [str(optical)] * 4)
    inline = nested.read_text().replace("<", "&lt;").replace('"', "&quot;")
    for source in (url, f"/vsicurl/{url}", f"/vsicurl_streaming/{url}", f"/vsicurl?url={url}", "/vsimem/a.tif", "",
                   inline, f"WMS:{url}", f"vrt://{url}", f"GTIFF_DIR:1:{optical}", f"http:/{url[6:]}"):  # fmt: skip
        assert "refers to" in refused(write_vrt(stack, [source] * 4), sar, everything), source
    message = refused(write_vrt(stack, [server.url("s2.tif?key=1", SECRETS)] * 4), sar, everything)
    assert "user" not in message
    assert "key" not in message
    for path in (secret, nested):
        assert "is neither GeoTIFF nor JPEG 2000" in refused(write_vrt(stack, [str(path)] * 4), sar, VRT)
    assert "does not exist" in refused(write_vrt(stack, ["gone.tif"] * 4, relative=1), sar, VRT, InputMissingError)

    code = "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    for old, new, said in (
        ("<SourceBand>1", "<OpenOptions/><SourceBand>1", "'OpenOptions'"),
        ('band="1">', 'band="1" subClass="VRTRawRasterBand">', "VRTRawRasterBand"),
        ('band="1">', f'band="1" subClass="VRTDerivedRasterBand">{code}', "VRTDerivedRasterBand"),
        ('band="1">', f'band="1">{code}', "'PixelFunctionType'"),
        ("<VRTDataset ", '<VRTDataset subClass="VRTWarpedDataset" ', "VRTWarpedDataset"),
        ("<GeoTransform>", f"<GDALWarpOptions><SourceDataset>{url}</SourceDataset></GDALWarpOptions><GeoTransform>",
         "'GDALWarpOptions'"),
        ("<VRTDataset ", '<!DOCTYPE a [<!ENTITY a "a">]><VRTDataset ', "document type"),
        ("</VRTDataset>", "", "as XML"),
    ):  # fmt: skip
        text = write_vrt(stack, [str(optical)] * 4, start='<?xml version="1.0"?>').read_text()
        stack.write_text(text.replace(old, new))
        assert said in refused(stack, sar, VRT), new
    # A reference system is looked up nowhere.
    stack.write_text(write_vrt(stack, [str(optical)] * 4).read_text().replace("EPSG:32633", url))
    assert "no coordinate reference system" in refused(stack, sar, VRT)
    assert server.asked == []


def test_files_are_fetched_with_the_option_only(tmp_path: Path, server: Server) -> None:
    optical, sar = make_pair(tmp_path, 200, 300)
    urls = server.url("s2.tif?signature=1", SECRETS), server.url("s1.tif")
    for url in (urls[0], f"/vsicurl/{urls[0]}", Path(urls[0]), Remote(urls[0])):
        message = refused(url, sar)
        assert "not a local file" in message
        assert "--allow-remote" in message
        assert "user" not in message
        assert "signature" not in message
    assert "--allow" not in refused("ftp://user:a@b/c.tif", sar, NETWORK) + refused("/vsis3/a.tif", sar, NETWORK)
    with pytest.raises(InputError, match=r"not a local file\. Download it and give its path\.$"):
        Raster(urls[0], "label")
    assert server.asked == []

    expected, _ = read(optical, sar)
    for given in (urls, (f"/vsicurl/{urls[0]}", [urls[1]])):
        found, pair = read(*given, NETWORK, threads=2)
        assert np.array_equal(found.optical, expected.optical)
        assert np.array_equal(found.sar, expected.sar)
        assert pair.files == []
        assert pair.remote == [server.url("s2.tif"), server.url("s1.tif")]
    mixed, pair = read(urls[0], sar, NETWORK)
    assert np.array_equal(mixed.optical, expected.optical)
    assert pair.files == [sar]
    assert set(server.asked) == {"/s2.tif?signature=1", "/s1.tif"}  # and no sidecar files


def test_nothing_shows_what_is_secret_in_urls(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pair(tmp_path, 200, 300)
    url, sar = server.url("s2.tif?signature=1", SECRETS), server.url("s1.tif")
    output = tmp_path / "map.tif"
    options = PredictOptions(url, sar, output, allow_remote=True, coreg="off")  # type: ignore[arg-type]
    said = [repr(options), json.dumps(predict(options, PlaceEngine()).to_dict())]
    # On the command line, in a config file and in a regions file.
    config, regions, other = (tmp_path / name for name in ("config.toml", "regions.toml", "file"))
    other.touch()
    config.write_text(f'optical = "{url}"\nsar = ["{sar}"]\nallow_remote = true\n')
    regions.write_text(
        f'scheme = "esri-io"\n[[scenes]]\noptical = "{url}"\nsar = ["{sar}"]\nlabels = "l.tif"\n'
        "allow_remote = true\n"
    )
    (scene,) = read_regions(regions).scenes
    assert isinstance(scene.optical, Remote)
    assert scene.optical.url == url
    assert scene.allow_remote
    said.append(repr(scene))
    assert run(["inspect", "--allow-remote", "--optical", url, "--sar", sar]) == 0
    assert run(["--debug", "inspect", "--allow-remote", "--optical", url.replace("s2", "s3"), "--sar", sar]) == 66
    assert run(["--debug", "predict", "--config", str(config), "-o", str(other / "map.tif")]) == 73
    said += capsys.readouterr()
    with rasterio.open(output) as file:
        assert file.tags()["REFNET_OPTICAL"] == "s2.tif"
        said += file.tags().values()
    for text in said:
        assert not any(secret in text for secret in ("user", "pass%20word", "signature"))
    # The host may hold a part of a password that is not escaped as it should be.
    assert str(Remote("https://user:a/b@c/d.tif")) == str(Remote("https://user:a?b@c/d.tif")) == "https://..."
    with pytest.raises(InputError, match="spaces"):
        Remote("https://a.b/c d.tif")


@pytest.mark.usefixtures("hasty")
def test_servers_that_do_not_give_the_file(tmp_path: Path, server: Server) -> None:
    _, sar = make_pair(tmp_path, 200, 300)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = socket.create_server(("127.0.0.1", 0))
        closed.close()
        for url, cause in (
            (server.url("none.tif", SECRETS), "404"),
            (f"http://127.0.0.1:{silent.getsockname()[1]}/a.tif", "timed out|too slow"),
            (server.url("s2.tif").replace(str(server.server_port), "1"), "connect"),
        ):
            started = time.monotonic()
            message = refused(url, sar, NETWORK, InputMissingError)
            assert time.monotonic() - started < 5
            assert str(Remote(url)) in message
            assert "cannot be fetched" in message
            assert "user" not in message
            assert any(part in message for part in cause.split("|")), message
    (tmp_path / "page.tif").write_text("<html>")
    assert "cannot be opened as GeoTIFF" in refused(server.url("page.tif", SECRETS), sar, NETWORK)
    # One that falls silent under way.
    os.rename(tmp_path / "s2.tif", tmp_path / "late.tif")
    server.left = 2  # its size and its first bytes
    started = time.monotonic()
    message = refused(server.url("late.tif", SECRETS), sar, NETWORK, InputMissingError)
    assert time.monotonic() - started < 10
    assert "user" not in message


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_silent_servers_are_given_up_by_reading_threads(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdal, "RETRIES", 0)
    values = np.random.default_rng(0).integers(0, 1 << 16, (1, 1024, 1024)).astype(np.uint16)
    with rasterio.open(
        tmp_path / "a.jp2", "w", driver="JP2OpenJPEG", width=1024, height=1024, count=1, dtype="uint16", QUALITY="100",
        REVERSIBLE="YES", BLOCKXSIZE=256, BLOCKYSIZE=256, crs="EPSG:32633", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(values)
    found: list[str] = []

    def fetch() -> None:
        opened = Raster(Remote(server.url("a.jp2", SECRETS)), "optical")
        server.left = 1
        with pytest.raises(InputMissingError) as caught:
            opened.read_valid([1], Window(0, 0, 1024, 1024))
        found.append(str(caught.value))

    started = time.monotonic()
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(10)
    assert time.monotonic() - started < 5
    assert "cannot be fetched" in found[0]
    assert "user" not in found[0]


def test_overviews_in_another_file_are_refused(tmp_path: Path, server: Server) -> None:
    optical, _ = make_pair(tmp_path, 200, 300)
    stack = write_vrt(tmp_path / "stack.vrt", ["s2.tif"] * 4, relative=1)
    whole = optical.read_bytes()
    for other in ("other.tif", server.url("a.tif"), f"/vsicurl/{server.url('a.tif')}", ":::BASE:::.ovr"):
        optical.write_bytes(whole)
        with rasterio.open(optical, "r+") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=other)
            file.update_tags(REFNET_CHECKSUM="1")
        for given in (optical, stack):
            with pytest.raises(InputError, match=r"another file for its overviews.*gdal_translate"):
                Raster(given, "optical", allow_vrt=True)
        with pytest.raises(InputError, match="refers to an external overview file"):
            verify_map(optical)
    assert server.asked == []


@pytest.mark.parametrize(
    "system",
    [
        '"crs": {"type": "link", "properties": {"href": "URL"}}',
        '"crs": {"type": "url", "properties": {"url": "URL"}}',
        '"cr\\u0073": {"TYPE": "Link", "properties": {"href": "URL"}}',
        '"CRS": {"type": "name", "type": "link", "properties": {"href": "URL"}}',
        '"crs\\u0000x": {"type": "link\\u0000", "properties": {"href": "URL"}}',
    ],
)
def test_labels_are_not_made_to_fetch_anything(tmp_path: Path, server: Server, system: str) -> None:
    optical, _ = make_pair(tmp_path, 40, 50)
    labels = tmp_path / "labels.geojson"
    shape = '{"type": "Feature", "properties": {"c": 1}, "geometry": {"type": "Point", "coordinates": [15.001, 47.85]}}'
    system = system.replace("URL", server.url("crs"))
    labels.write_text(f'{{"type": "FeatureCollection", {system}, "features": [{shape}]}}')
    with pytest.raises(InputError, match="only has a link"):
        open_labels(labels, grid_of(optical), CARD.scheme)
    labels.write_text(labels.read_text()[:-1])
    with pytest.raises(InputError, match=r"only has a link|as JSON"):
        open_labels(labels, grid_of(optical), CARD.scheme)
    assert server.asked == []
