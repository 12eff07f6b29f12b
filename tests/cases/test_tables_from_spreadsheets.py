"""Tables as spreadsheets and people write them: every one gives the same task but for the map's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refnet_cli.cli.main import run

OUTPUTS = {
    "blank_row.csv": "a.tif", "blank_columns.csv": "b.tif", "spaces_and_quotes.csv": "c.tif", "utf16.csv": "d.tif",
    "comment.csv": "e.tif", "latin1.csv": "ü.tif",
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_table_gives_its_task(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = shared / "cases" / "tables-from-spreadsheets"
    assert run(["batch", "plan", str(case / name)]) == 0
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    task = json.loads(line)
    del task["id"], task["refnet"]
    assert task == {
        "optical": [str(case / "s2.tif")], "sar": [str(case / "s1.tif")], "output": str(case / OUTPUTS[name]),
    }  # fmt: skip
    assert ("not UTF-8" in shown.err) == (name == "latin1.csv")


def test_all_tables_are_tried(shared: Path) -> None:
    assert {path.name for path in (shared / "cases" / "tables-from-spreadsheets").glob("*.csv")} == set(OUTPUTS)
