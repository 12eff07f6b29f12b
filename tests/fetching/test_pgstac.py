"""The same pixels from what Planetary Computer is built on: pgstac on PostgreSQL with PostGIS."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fetching.harness import FEW, Fetched, Site
from tests.fetching.test_places import hold_across, scenes_in
from tests.helpers.stac_items import ANTIMERIDIAN, Json, across
from tests.helpers.stac_servers import free_port, store, wait_for_port, write_source

pytestmark = pytest.mark.long


def programs() -> dict[str, str]:
    """Paths of the programs that are needed.

    Those of PostgreSQL are looked for where Debian puts them, those of Python next to the interpreter and on PATH.
    """
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    folders = [Path(sys.executable).parent, *(Path(one) for one in os.environ["PATH"].split(":")), *postgres[-1:]]
    found = {}
    for name in ("initdb", "pg_ctl", "psql", "createdb", "pypgstac", "uvicorn"):
        where = shutil.which(name, path=":".join(map(str, folders)))
        if not where:
            pytest.skip(f"{name} is not installed: apt-get install postgresql-15-postgis-3, and "
                        "pip install 'pypgstac[psycopg]' stac-fastapi-pgstac uvicorn")  # fmt: skip
        found[name] = where
    if not list(Path("/usr/share/postgresql").glob("*/extension/postgis.control")):
        pytest.skip("PostGIS is not installed: apt-get install postgresql-15-postgis-3")
    return found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A database with pgstac, as environment variables."""
    with started(programs(), tmp_path_factory.mktemp("pgstac")) as variables:
        yield variables


@contextmanager
def started(found: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    port, data = free_port(), folder / "data"
    data.mkdir()
    before: list[str] = []
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        if "postgres" not in [user.pw_name for user in pwd.getpwall()]:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        before = ["runuser", "-u", "postgres", "--"]
        shutil.chown(data, "postgres")
        for above in data.parents:
            if above.stat().st_uid == 0 and str(above).startswith("/tmp/"):
                above.chmod(0o755)
    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "postgis",
                 "PGPASSWORD": "x"}  # fmt: skip
    env = os.environ | variables
    quiet = {"cwd": "/tmp", "check": True, "capture_output": True, "env": env}
    subprocess.run([*before, found["initdb"], "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], **quiet)
    options = f"-p {port} -k /tmp -c fsync=off -c listen_addresses=127.0.0.1"
    silent = {"cwd": "/tmp", "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*before, found["pg_ctl"], "-D", data, "-o", options, "-w", "start"], check=True, **silent)
    try:
        subprocess.run([found["createdb"], "postgis"], **quiet)
        subprocess.run([found["psql"], "-c", "create extension postgis; create extension btree_gist"], **quiet)
        subprocess.run([found["pypgstac"], "migrate"], **quiet)
        yield variables
    finally:
        subprocess.run([*before, found["pg_ctl"], "-D", data, "-m", "immediate", "stop"], **silent)


def collections_of(items: list[Json]) -> list[Json]:
    """Least collections that items need."""
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    common = {"type": "Collection", "stac_version": "1.0.0", "license": "proprietary", "links": [], "extent": extent}
    return [common | {"id": name, "description": name} for name in sorted({item["collection"] for item in items})]


@contextmanager
def api(database: dict[str, str], items: list[Json], folder: Path) -> Iterator[str]:
    """The URL of an API with some items."""
    found, env = programs(), os.environ | database
    folder.mkdir()
    for kind, entries in (("collections", collections_of(items)), ("items", items)):
        (folder / f"{kind}.ndjson").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        subprocess.run([found["pypgstac"], "load", kind, folder / f"{kind}.ndjson", "--method", "upsert"], check=True,
                       env=env, capture_output=True)  # fmt: skip
    port = free_port()
    process = subprocess.Popen(
        [found["uvicorn"], "--factory", "stac_fastapi.pgstac.app:create_app", "--port", str(port)], env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, process, 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_the_same_bytes_as_from_rustac(database: dict[str, str], site: Site, few: Fetched, tmp_path: Path) -> None:
    with api(database, site.items(), tmp_path / "items") as url, store(forward=url) as front:
        source = write_source(tmp_path / "s.toml", url, [site.files.host])
        mine = Site(site.world, site.files, front, source, tmp_path)
        mine.fetch(tmp_path / "place", *FEW, "--labels", "none", "--allow-host", url.removeprefix("http://"))
        mine.fetch(tmp_path / "labels", *FEW, "--labels", "io-lulc", "--allow-host", url.removeprefix("http://"))
    assert Fetched(tmp_path / "place").contents() == few.contents()


def test_across_180_degrees(database: dict[str, str], tmp_path: Path) -> None:
    with store(tmp_path / "files") as files:
        world = across(ANTIMERIDIAN, tmp_path / "files", files.url)
        with api(database, world.items, tmp_path / "items") as url, store(forward=url) as front:
            source = write_source(tmp_path / "s.toml", url, [files.host])
            mine = Site(world, files, front, source, tmp_path)
            mine.fetch(tmp_path / "place", "--bbox", "179.99,-16.808,-179.992,-16.792", *FEW, "--labels", "none",
                       "--allow-host", url.removeprefix("http://"), area=None)  # fmt: skip
    hold_across(ANTIMERIDIAN, world, scenes_in(tmp_path / "place"))
