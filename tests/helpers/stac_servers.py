"""Servers on this machine that stand in for a catalogue, its store of files and its tokens, and that misbehave.

Each is on a free port of 127.0.0.1. A `Store` serves a folder by ranges, counts what it serves, asks for tokens if it
is told to, and follows `Fault` rules. A `Catalogue` is ``rustac serve`` behind a `Store` that forwards to it, so that
the same rules hold for searches.

They are threads of the test's process. What reads from them runs in another one: rasterio holds the interpreter's lock
in some calls that fetch, for which a server in the same process would wait for ever.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
RUSTAC = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
TOKENS = "/api/sas/v1/token/"


@dataclass
class Fault:
    """What a server does instead of its work, for requests whose path matches."""

    match: str
    """Regular expression that is searched in the path and query."""
    kind: str
    """A status, as ``"403"``; ``"hang"``, ``"cut"``, ``"redirect"``, ``"page"``, ``"slow"`` or ``"zeros"``."""
    times: float = float("inf")
    """How often; after that the server works again."""
    after: int = 0
    """How many matching requests it answers first."""
    to: str = ""
    """Where a redirect leads; ``{path}`` is the request's path."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    """How long ``"slow"`` waits before it works."""
    seen: int = 0
    met: list[float] = field(default_factory=list)
    """When it happened."""


@dataclass
class Request:
    """A request that was answered."""

    method: str
    path: str
    status: int
    sent: int
    time: float
    first: int | None = None
    """First byte of the range that was asked for."""
    body: bytes = b""


class Store(ThreadingHTTPServer):
    """Serves files by ranges, or forwards to another server."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path | None = None, forward: str = "", signed: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.forward, self.signed = folder, forward, signed
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.edit: Callable[[str, Json], Json] | None = None
        self.tokens: dict[str, datetime] = {}
        self.lifetime = timedelta(minutes=45)
        self.closing = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}"

    def fault_of(self, path: str) -> Fault | None:
        """Find the rule for a request, and count it."""
        with self._lock:
            for fault in self.faults:
                if re.search(fault.match, path):
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        fault.met.append(time.monotonic())
                        return fault
        return None

    def note(self, request: Request) -> None:
        """Keep a request."""
        with self._lock:
            self.requests.append(request)

    def reset(self) -> None:
        """Forget rules and requests."""
        with self._lock:
            self.faults, self.requests, self.edit = [], [], None

    def served(self, match: str = "") -> dict[str, int]:
        """Bytes of bodies that were sent, by path, of the paths that match."""
        found: dict[str, int] = {}
        for request in self.requests:
            path = request.path.partition("?")[0]
            if re.search(match, path):
                found[path] = found.get(path, 0) + request.sent
        return found

    def new_token(self) -> Json:
        """Make a token as Planetary Computer's, and know it from then on."""
        until = datetime.now(UTC) + self.lifetime
        with self._lock:
            secret = f"secret{len(self.tokens):04d}"
            self.tokens[secret] = until
        stamp = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        token = f"st=2021-01-01T00%3A00%3A00Z&se={stamp}&sp=rl&sv=2024-05-04&sr=c&sig={secret}"
        return {"msft:expiry": stamp, "token": token}

    def accepts(self, query: str) -> bool:
        """Whether a query has a token that holds."""
        given = parse_qs(query).get("sig", [""])[0]
        return not self.signed or (given in self.tokens and self.tokens[given] > datetime.now(UTC))

    def revoke(self) -> None:
        """Let no token hold that was made so far."""
        with self._lock:
            self.tokens = dict.fromkeys(self.tokens, datetime.now(UTC))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients who hang up."""

    def close(self) -> None:
        """Stop."""
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store
    timeout = 30

    def log_message(self, *_: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_of(self.path)
        if fault and fault.kind == "slow":
            self.server.closing.wait(fault.seconds)
            fault = None
        if fault and fault.kind not in ("cut", "zeros"):
            self._fail(fault)
        elif self.path.startswith(TOKENS):
            self._send(200, json.dumps(self.server.new_token()).encode(), {"Content-Type": "application/json"})
        elif self.server.forward:
            self._forward(fault)
        else:
            self._file(fault)

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "hang":
            self._note(0, 0)
            self.server.closing.wait(fault.seconds or 300)
            self.close_connection = True
        elif fault.kind == "redirect":
            path = self.path.lstrip("/")
            self._send(302, b"", {"Location": fault.to.replace("{path}", path)} | fault.headers)
        elif fault.kind == "page":
            self._send(200, fault.body or b"<html>Please sign in</html>", {"Content-Type": "text/html"} | fault.headers)
        else:
            self._send(int(fault.kind), fault.body or b"no", {"Content-Type": "text/plain"} | fault.headers)

    def _file(self, fault: Fault | None) -> None:
        path, _, query = self.path.partition("?")
        assert self.server.folder
        file = self.server.folder / path.lstrip("/")
        if ".." in path or not file.is_file():
            self._send(404, b"<Error><Code>BlobNotFound</Code></Error>")
        elif not self.server.accepts(query):
            self._send(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        else:
            self._ranged(file, fault)

    def _ranged(self, file: Path, fault: Fault | None) -> None:
        size = file.stat().st_size
        headers = {"Accept-Ranges": "bytes", "Content-Type": "image/tiff", "ETag": f'"{size}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)) if wanted else (0, size - 1)
        if first > last:
            self._send(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        with open(file, "rb") as stream:
            stream.seek(first)
            data = b"" if self.command == "HEAD" else stream.read(last + 1 - first)
        headers["Content-Length"] = str(last + 1 - first)
        if fault and fault.kind == "zeros":
            data = bytes(len(data))
        cut = fault is not None and fault.kind == "cut"
        self._send(206 if wanted else 200, data, headers, first if wanted else None, cut)

    def _forward(self, fault: Fault | None) -> None:
        kept = {name: value for name, value in self.headers.items() if name.lower() in ("accept", "content-type")}
        body = self.body if self.command == "POST" else None
        request = urllib.request.Request(self.server.forward + self.path, body, kept, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, data, kind = answer.status, answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            status, data, kind = error.code, error.read(), error.headers.get("Content-Type", "")
        if self.server.edit and status == 200:
            data = json.dumps(self.server.edit(self.path, json.loads(data))).encode()
        self._send(status, data, {"Content-Type": kind}, cut=fault is not None)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, first: int | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else data[: len(data) // 2] if cut else data
        with suppress(OSError):
            self.wfile.write(sent)
            self.wfile.flush()
        self._note(status, len(sent), first)
        if cut:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, status: int, sent: int, first: int | None = None) -> None:
        self.server.note(Request(self.command, self.path, status, sent, time.monotonic(), first, self.body))


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None = None, seconds: float = 20) -> None:
    """Wait until something listens."""
    until = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        assert process is None or process.poll() is None, "the server ended"
        assert time.monotonic() < until, f"nothing listens on port {port}"
        time.sleep(0.01)


@contextmanager
def store(folder: Path | None = None, forward: str = "", signed: bool = False) -> Iterator[Store]:
    """Run a `Store`."""
    server = Store(folder, forward, signed)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def catalogue(items: Iterable[Json], folder: Path) -> Iterator[Store]:
    """Run ``rustac serve`` with some items, behind a `Store`, which is what is yielded."""
    assert RUSTAC, "pip install rustac"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    port = free_port()
    with store(forward=f"http://127.0.0.1:{port}") as front:
        process = subprocess.Popen(
            [RUSTAC, "serve", "--addr", front.url, "--bind", f"127.0.0.1:{port}", "--create-collections",
             str(folder / "items.json")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for_port(port, process)
            yield front
        finally:
            process.kill()
            process.wait()


def write_source(
    path: Path, url: str, hosts: Iterable[str], base: str = "planetary-computer", tokens: str = "", **more: float
) -> Path:
    """Write a description of a catalogue that is a built-in one on this machine's servers.

    Retries are few and patience is short, so that what fails for ever does so within a second or two.
    """
    lines = [f'base = "{base}"', f'url = "{url}"', f"hosts = {json.dumps(list(hosts))}"]
    lines.append(f'token_url = "{tokens}{TOKENS.rstrip("/")}"' if tokens else 'sign = "none"')
    lines += [f"{name} = {value}" for name, value in ({"retries": 2, "silent_seconds": 5} | more).items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def host_of(url: str) -> str:
    """Host and port of a URL."""
    return urlsplit(url).netloc
