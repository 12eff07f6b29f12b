"""The journal of finished rows: what is whole is found again, whatever happened to the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.outputs.journal import FinishedRows, Journal

PLANES = {"codes": (np.uint8, 1), "shares": (np.float16, 3)}
IDENTITY = {"weights": "a", "files": [["s2.tif", 3, 4]]}


def parts(count: int = 4) -> list[FinishedRows]:
    random = np.random.default_rng(0)
    return [
        FinishedRows(
            10 * n,
            {
                "codes": random.integers(0, 4, (10, 37)).astype(np.uint8),
                "shares": random.random((3, 10, 37)).astype(np.float16),
            },
        )
        for n in range(count)
    ]


def filled(path: Path, count: int = 4) -> list[FinishedRows]:
    journal = Journal(path, IDENTITY, PLANES)
    for part in parts(count):
        journal.add(part)
    journal.close()
    return parts(count)


def read(path: Path, identity: dict[str, object] = IDENTITY) -> tuple[list[FinishedRows], int, bool]:
    journal = Journal(path, identity, PLANES)
    found = list(journal.replay())
    state = journal.next_row, journal.renewed
    journal.close()
    return found, *state


def assert_same(found: list[FinishedRows], wanted: list[FinishedRows]) -> None:
    assert [part.row for part in found] == [part.row for part in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, (kind, _) in PLANES.items():
            assert one.layers[name].dtype == kind
            np.testing.assert_array_equal(one.layers[name], other.layers[name])


def test_what_was_added_comes_back_and_can_be_added_to(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    wanted = filled(path)
    journal = Journal(path, IDENTITY, PLANES)
    assert (journal.next_row, journal.renewed) == (40, False)
    more = wanted[1]._replace(row=40)
    journal.add(more)
    assert_same(list(journal.replay()), [*wanted, more])
    journal.close()
    assert read(path)[1] == 50


@pytest.mark.parametrize("other", [{"weights": "b"}, {}, {**IDENTITY, "batch": 3}])
def test_for_another_map_it_begins_anew(tmp_path: Path, other: dict[str, object]) -> None:
    filled(tmp_path / "journal")
    assert read(tmp_path / "journal", other) == ([], 0, True)
    assert read(tmp_path / "journal", other) == ([], 0, False)


@given(st.data())
def test_a_cut_or_changed_file_keeps_the_whole_records_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    sizes = [0]
    for count in range(5):
        wanted = filled(path, count)
        sizes.append(path.stat().st_size)
        path.unlink()
    wanted = filled(path)
    place = data.draw(st.integers(sizes[1], sizes[-1] - 1))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    whole = sum(size <= place for size in sizes[2:])
    found, next_row, _ = read(path)
    assert_same(found, wanted[:whole])
    assert next_row == 10 * whole
    assert path.stat().st_size == sizes[1 + whole]  # and what was not whole is gone
