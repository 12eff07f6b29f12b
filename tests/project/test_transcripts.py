"""What commands write on terminals and into pipes is what `docs/transcripts` keeps."""

from __future__ import annotations

import pytest

from tests.helpers.transcript_cases import CASES

pytest.importorskip("termios", reason="needs pseudo-terminals")
from tests.helpers.transcript import KEPT, mask, record


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * case.long) for name, case in CASES.items()]
)
def test_commands_write_what_is_kept(name: str) -> None:
    """``python -m tests.helpers.transcript --write NAME`` writes it again."""
    kept = (KEPT / f"{name}.txt").read_text(encoding="utf-8")
    assert mask(record(CASES[name]), CASES[name].masks) == mask(kept, CASES[name].masks)


def test_all_that_is_kept_is_held() -> None:
    assert {path.stem for path in KEPT.glob("*.txt")} == CASES.keys()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("done in 0.8 s", "done in 12.4 s"),
        ("  12.0 GiB free", " 9.5 GiB free"),
        ("100 %|##########| 3/3 0:04", "100 %|#######| 30/30 0:00"),
        ("sha256 0123456789ab", "sha256 ffffffffffff"),
        ("[1/3] 38D.tif", "[2/3] 38D.tif"),
    ],
)
def test_numbers_count_as_equal(one: str, other: str) -> None:
    assert mask(one, {}) == mask(other, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 tile", "1 tiles"), ("B02", "B03"), ("38D.tif", "38E.tif"), ("[1/3] a", "[1/3]  a"), ("#419bdf", "#419be0")],
)
def test_words_do_not(one: str, other: str) -> None:
    assert mask(one, {}) != mask(other, {})
