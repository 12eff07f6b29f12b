"""refnet weights fetch: the listed file under its name, or nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.cli.main import run
from refnet_cli.errors import ConfigError, WeightsError
from refnet_cli.fetching import http, weights
from refnet_cli.model.published import fetched_weights, read_list
from refnet_cli.model.weight_files import find_weights, read_card
from refnet_cli.prediction.options import PredictOptions
from tests.helpers.programs import environment, start
from tests.helpers.small_models import make_model, write_model
from tests.helpers.stac_servers import Fault, Store, store

CHUNK = 1000
Fetch = Callable[..., int]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Store]:
    """A server with a model as tiny.onnx, and another one as other.onnx."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_model(folder / "tiny.onnx")
    write_model(folder / "other.onnx", card=None)
    with store(folder) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of weights; requests are small and patience is short."""
    monkeypatch.setenv("REFNET_WEIGHTS_FOLDER", str(tmp_path / "user"))
    monkeypatch.setattr(weights, "CHUNK", CHUNK)
    monkeypatch.setattr(weights, "RETRIES", 1)
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    return tmp_path / "user"


def write_list(path: Path, server: Store, urls: tuple[str, ...] = ("/tiny.onnx",), **changed: Any) -> Path:
    data = (server.folder / "tiny.onnx").read_bytes() if server.folder else b""
    full = [f"{server.url}{url}" if url.startswith("/") else url for url in urls]
    entry = {"urls": full, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "licence": "CC0-1.0"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (entry | changed).items()]
    path.write_text(f'hosts = ["{server.host}"]\n[weights.tiny]\n' + "\n".join(lines))
    return path


@pytest.fixture
def fetch(server: Store, folder: Path, tmp_path: Path) -> Fetch:
    """Fetch tiny from a list with some changes, and return the exit code."""

    def call(*options: str, urls: tuple[str, ...] = ("/tiny.onnx",), **changed: Any) -> int:
        listed = write_list(tmp_path / "list.toml", server, urls, **changed)
        words = ["weights", "fetch", "tiny", "--list", str(listed), "--allow-host", server.host, *options]
        return run(words)

    return call


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_the_own_list_has_no_weights_yet_and_says_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert read_list().weights == {}
    assert run(["weights", "fetch", "tiny"]) == 78
    said = " ".join(capfd.readouterr().err.split())
    assert "nobody has published weights yet" in said
    assert "--list FILE" in said
    assert not folder.exists()


def test_a_name_finds_what_was_fetched(
    fetch: Fetch, server: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert server.folder
    assert fetch() == 0
    path = folder / "tiny.onnx"
    assert capfd.readouterr().out == f"{path}\n"
    assert path.read_bytes() == (server.folder / "tiny.onnx").read_bytes()
    assert kept(folder) == ["tiny.onnx"]
    assert len(server.requests) == -(-path.stat().st_size // CHUNK)
    assert find_weights("tiny") == path
    assert PredictOptions("s2.tif", "s1.tif", "map.tif", weights="tiny").weights == path  # type: ignore[arg-type]
    assert run(["weights", "list", "-q"]) == 0
    assert str(path) in capfd.readouterr().out.splitlines()
    assert run(["weights", "verify", "tiny"]) == 0
    # A file of that name is another thing: neither is guessed.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(WeightsError, match=r"\./tiny"):
        find_weights("tiny")
    server.reset()
    (tmp_path / "tiny").unlink()
    assert fetch() == 0  # nothing to do
    assert server.requests == []


def test_other_weights_of_that_name_are_kept(fetch: Fetch, folder: Path) -> None:
    folder.mkdir()
    (folder / "tiny.onnx").write_bytes(b"mine")
    assert fetch() == 73
    assert (folder / "tiny.onnx").read_bytes() == b"mine"
    assert fetch("--overwrite") == 0
    assert read_card(folder / "tiny.onnx")


def test_a_list_may_come_from_the_environment(
    server: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFNET_WEIGHTS_LIST", str(write_list(tmp_path / "list.toml", server)))
    assert run(["weights", "info", "tiny"]) == 66
    assert "refnet weights fetch tiny" in " ".join(capfd.readouterr().err.split())
    assert run(["weights", "fetch", "tiny", "--allow-host", server.host]) == 0


@pytest.mark.parametrize(
    ("faults", "changed", "code", "says"),
    [
        ([], {"sha256": "0" * 64}, 78, "another file, and was removed"),
        ([Fault("", "zeros")], {}, 78, "another file, and was removed"),
        ([], {"size": 1500}, 65, "the list states 1,500"),
        ([], {"size": 10**6}, 65, "the list states 1,000,000"),
        ([], {"size": 2**36}, 74, "are free"),
        ([Fault("", "cut")], {}, 75, "cut short"),
        ([Fault("", "page")], {}, 65, "does not support byte ranges"),
        ([Fault("", "404")], {}, 66, "does not exist"),
        ([Fault("", "503")], {}, 75, "status 503"),
        ([Fault("", "redirect", to="http://localhost:1/tiny.onnx")], {}, 65, "localhost:1 is not a known host"),
        ([Fault("", "redirect", to="file:///etc/passwd")], {}, 65, ""),
        ([Fault("", "redirect", to="/{path}")], {}, 65, "redirects more than"),
    ],
    ids=["hash", "content", "longer", "shorter", "disk", "cut", "page", "gone", "busy", "elsewhere", "file", "circle"],
)  # fmt: skip
def test_anything_else_than_the_listed_file_is_refused(
    faults: list[Fault], changed: dict[str, Any], code: int, says: str, fetch: Fetch, server: Store, folder: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda folder: usage(2**35, 0, 2**35))
    server.faults = [Fault(**vars(fault) | {"met": [], "seen": 0}) for fault in faults]
    assert fetch(**changed) == code
    assert says in " ".join(capfd.readouterr().err.split())
    assert fetched_weights() == []
    # And the right file comes afterwards, whatever was left.
    server.reset()
    assert fetch() == 0
    assert kept(folder) == ["tiny.onnx"]


def test_a_listed_file_that_is_no_weights_is_not_kept(fetch: Fetch, server: Store, folder: Path) -> None:
    assert server.folder
    data = (server.folder / "other.onnx").read_bytes()
    assert fetch(urls=("/other.onnx",), sha256=hashlib.sha256(data).hexdigest(), size=len(data)) == 78
    assert kept(folder) == []


def test_the_next_address_is_tried(fetch: Fetch, server: Store, folder: Path) -> None:
    assert fetch(urls=("/gone.onnx", "/tiny.onnx")) == 0
    server.faults = [Fault("gone", "redirect", to="http://localhost:1/{path}")]
    (folder / "tiny.onnx").unlink()
    assert fetch(urls=("/gone.onnx", "/tiny.onnx")) == 0


def test_an_interrupted_download_is_continued(fetch: Fetch, server: Store, folder: Path) -> None:
    server.faults = [Fault("", "503", after=2)]
    assert fetch() == 75
    assert fetched_weights() == []
    server.reset()
    assert fetch() == 0
    assert server.requests[0].first == 2 * CHUNK
    assert kept(folder) == ["tiny.onnx"]


def test_what_is_left_of_another_file_is_not_taken_over(fetch: Fetch, server: Store, folder: Path) -> None:
    """With the right record and wrong bytes, with another version, and with another list."""
    for break_it in ("bytes", "version", "list"):
        server.faults = [Fault("", "503", after=2)]
        assert fetch() == 75
        (part,) = folder.glob(".*/tiny.onnx")
        state = part.with_name("state.json")
        if break_it == "bytes":
            part.write_bytes(bytes(2 * CHUNK))
        else:
            key = "version" if break_it == "version" else "sha256"
            state.write_text(json.dumps(json.loads(state.read_text()) | {key: '"0"'}))
            part.write_bytes(bytes(2 * CHUNK))
        server.reset()
        assert fetch() == 0, break_it
        (folder / "tiny.onnx").unlink()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_a_kill_at_any_moment(seed: int, server: Store, tmp_path: Path) -> None:
    """What is killed is a real program; a file of 40 MB takes it five requests."""
    assert server.folder
    model = make_model()
    for number in range(4):
        model.metadata_props.add(key=f"filler {number}", value="x" * 10_000_000)
    served = write_model(server.folder / "tiny.onnx", model)
    server.faults = [Fault("", "slow", seconds=0.05)]
    listed = write_list(tmp_path / "list.toml", server)
    words = ["-m", "refnet_cli", "weights", "fetch", "tiny", "--list", listed, "--allow-host", server.host]
    env = environment(REFNET_WEIGHTS_FOLDER=tmp_path / "user")
    process = start(*words, env=env)
    until, wanted = time.monotonic() + 60, 2 + seed
    while len(server.requests) < wanted and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not list((tmp_path / "user").glob("*.onnx"))
    server.reset()
    start(*words, env=env).communicate()
    assert (tmp_path / "user" / "tiny.onnx").read_bytes() == served.read_bytes()
    assert server.requests[0].first is not None
    assert server.requests[0].first > 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('hosts = ["a.org"]\n[weights.x]\nurls = ["https://b.org/x.onnx"]', "none of the list's hosts"),
        ('hosts = ["a.org"]\n[weights.x]\nurls = ["https://a.org@b.org/x.onnx"]', "none of the list's hosts"),
        ('hosts = ["a.org"]\n[weights."../x"]\nurls = ["https://a.org/x.onnx"]', "a name has"),
        ('hosts = ["a.org"]\n[weights.refnet-base]\nurls = ["https://a.org/x.onnx"]', "a name has"),
        ('hosts = ["a.org"]\n[weights.x]\nurls = ["https://a.org/x.pth"]', "must all end in"),
        ('hosts = ["a.org"]\n[weights.x]\nurls = []', "urls is empty"),
        ("hosts = 3", "hosts"),
        ("other = 3", "other"),
    ],
    ids=["host", "user", "path", "bundled", "pickle", "empty", "type", "unknown"],
)
def test_a_list_that_cannot_be_trusted_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    more = f'\nsha256 = "{"0" * 64}"\nsize = 5\nlicence = "CC0-1.0"' if "[" in text and "weights" in text else ""
    path.write_text(text + more)
    with pytest.raises(ConfigError, match=says.replace("'", ".")):
        read_list(path)
