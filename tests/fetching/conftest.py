"""Servers that stand for the whole session, and what was fetched from them once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fetching.harness import FEW, Fetched, Site
from tests.helpers.programs import Done
from tests.helpers.stac_items import BANDS, World, berlin
from tests.helpers.stac_servers import RUSTAC, Store, catalogue, store, write_source


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    """Skip where there are no servers, or nothing that could ask them."""
    pytest.importorskip("pystac_client", reason="the extra [fetch] is not installed")
    if not RUSTAC:
        pytest.skip("rustac is not installed")


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The summer of `tests.helpers.stac_items.berlin` as on Planetary Computer."""
    folder = tmp_path_factory.mktemp("site")
    with store(folder / "files") as files:
        world: World = berlin(folder / "files", files.url)
        with catalogue(world.items, folder / "catalogue") as front:
            source = write_source(folder / "source.toml", front.url, [files.host])
            yield Site(world, files, front, source, folder)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """The same without rules and requests of other tests."""
    servers: list[Store] = [whole_site.files, whole_site.catalogue]
    for server in servers:
        server.reset()
    yield whole_site
    for server in servers:
        server.reset()
    whole_site.files.signed = False


@pytest.fixture(scope="session")
def done(whole_site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """How a fetch of all bands ended, and its folder."""
    out = tmp_path_factory.mktemp("fetched") / "place"
    return whole_site.fetch(out, "--bands", ",".join(BANDS)), out


@pytest.fixture(scope="session")
def fetched(done: tuple[Done, Path]) -> Fetched:
    """What a fetch of all bands wrote."""
    return Fetched(done[1])


@pytest.fixture(scope="session")
def few(whole_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    """Four bands, SAR and no labels: what faulty fetches must end in."""
    whole_site.files.reset()
    whole_site.catalogue.reset()
    out = tmp_path_factory.mktemp("few") / "place"
    whole_site.fetch(out, *FEW, "--labels", "none")
    return Fetched(out)
