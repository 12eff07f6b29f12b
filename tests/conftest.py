"""What the tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

# The networks of the tests are tiny: threads that wait for each other would cost more than they bring, all the more as
# several test processes share the processor. Must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from refnet_cli.system.process import usable_cores
from tests.helpers.messages import messages
from tests.helpers.programs import share_server
from tests.helpers.quick import PROFILES
from tests.helpers.simulated_data import make_data

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Let property tests try fewer examples in `make test`, which leaves long tests out."""
    for name, count in PROFILES.items():
        settings.register_profile(name, deadline=None, max_examples=count)
    settings.load_profile("quick" if config.option.markexpr == "not long" else "long")
    if getattr(config.option, "tx", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        share_server()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of cores: a worker more makes each slower by more than it brings."""
    return usable_cores()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from passing over libraries and tests, which stay: as they load, and from then on."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real scenes next to the checkout; it is never part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it holds real scenes, which are not part of the project")
    return SHARED


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Messages that refnet logs during a test, as the lines that people see."""
    with messages() as lines:
        yield lines


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of simulated scenes, laid out as that of the real ones."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """Folder of the ``simulated`` or the ``real`` scenes, as the parameter says.

    See `tests.helpers.real_data.each_source`.
    """
    if request.param == "real":
        return Path(request.getfixturevalue("shared")) / "data"
    return Path(request.getfixturevalue("simulated"))


@pytest.hookimpl(trylast=True)  # of those that are selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the real scenes are absent, skip one test of each file that needs them and deselect the others.

    The one that is skipped says how many they are. Of the folder ``cases``, whose tests all need them, one is skipped.
    """
    if SHARED.is_dir():
        return
    waiting: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _needs_real_scenes(item):
            place = item.path.parent if item.path.parent.name == "cases" else item.path
            waiting.setdefault(place, []).append(item)
    for place, needing in waiting.items():
        reason = f"{SHARED} with real scenes is absent; tests of {place.name} that need it: {len(needing)}"
        needing[0].add_marker(pytest.mark.skip(reason=reason))
    dropped = {item.nodeid for needing in waiting.values() for item in needing[1:]}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in dropped])
    items[:] = [item for item in items if item.nodeid not in dropped]


def _needs_real_scenes(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return "shared" in getattr(item, "fixturenames", ()) or parameters.get("data") == "real"
