"""Tables of scenes in the dresses that spreadsheets give them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.batch.scene_list import read_list, read_scenes
from refnet_cli.errors import ConfigError
from tests.helpers.batches import here

PLAIN = [{"optical": "a/s2.tif", "sar": "s1.tif", "output": "x y.tif"}, {"optical": "b", "sar": "c", "output": "d"}]
COLUMNS = ("optical", "sar", "output")


def read(path: Path) -> list[dict[str, str]]:
    text, folder, _ = read_list(path, None)
    return read_scenes(text, folder)


def lines_of(separator: str = ",") -> list[str]:
    return [separator.join(row) for row in (COLUMNS, *([scene[name] for name in COLUMNS] for scene in PLAIN))]


def dress(name: str) -> bytes:
    """The same two scenes, written as some program does."""
    head, *rows = lines_of()
    return {
        "columns": "\r\n".join(f"{line},,," for line in (head, *rows)),
        "columns in the header alone": "\n".join([f"{head},,", *(f"{row},," for row in rows)]),
        "columns in rows alone": "\n".join([head, *(f"{row},,," for row in rows)]),
        "a column on the left": "\n".join(f",{line}" for line in (head, *rows)),
        "rows": "\n".join([",,", head, ",,", rows[0], " , ,", '"","",""', rows[1], ",,", ""]),
        "rows of semicolons": "\n".join([*lines_of(";"), ";;", "; ;;"]),
        "comments": "\n".join(["# my scenes, of 2020", head, rows[0], "  # the other; one", rows[1], "#"]),
        "quoted comments": "\n".join(['"# mine, 2020",,', head, rows[0], ' "# an ""other"", 1" ;', rows[1], '"#",,']),
        "a header after #": "\n".join(["# my scenes", f"#{head}", *rows]),
        "a quoted header after #": "\n".join(['"# optical","sar","output"', "# these, too", *rows]),
        "a header that is a comment too": "\n".join([f"# {head},note", head, *rows]),
        "Excel's line": "\n".join(["sep=;", *lines_of(";")]),
        "old line ends": "\r".join((head, *rows)),
        "blanks and quotes": "\n".join(
            " , ".join(f'"{cell}"' for cell in line.split(",")) + " " for line in (head, *rows)
        ),
        "blanks and quotes with tabs": "\n".join(
            "\t ".join(f'"{cell}" ' for cell in line.split(",")) for line in (head, *rows)
        ),
        "blanks that do not break": "\n".join("\xa0,\xa0".join(line.split(",")) for line in (head, *rows)),
    }[name].encode()  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["columns", "columns in the header alone", "columns in rows alone", "a column on the left", "rows",
     "rows of semicolons", "comments", "quoted comments", "a header after #", "a quoted header after #",
     "a header that is a comment too", "Excel's line", "old line ends", "blanks and quotes",
     "blanks and quotes with tabs", "blanks that do not break"],
)  # fmt: skip
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with a mark", "utf-16-le", "utf-16-be"]
)
def test_one_table_in_many_dresses(name: str, encoding: str, tmp_path: Path) -> None:
    text = dress(name).decode()
    marked = encoding.endswith("mark")
    stored = ("\ufeff" * marked + text).encode(encoding.split()[0])
    (tmp_path / "scenes.csv").write_bytes(stored)
    assert read(tmp_path / "scenes.csv") == PLAIN


CELL = st.text(st.characters(blacklist_categories=("C", "Z")) | st.sampled_from(' ,;\t"#'), min_size=1, max_size=8)


@given(
    rows=st.lists(st.tuples(CELL.map("x{}".format), CELL, CELL), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    surplus=st.integers(0, 2), end=st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_whatever_is_quoted_comes_back(
    rows: list[tuple[str, str, str]], separator: str, encoding: str, surplus: int, end: str, tmp_path_factory: Any
) -> None:
    """All cells quoted, by Python's own writer, with blanks around the quotes and empty cells behind."""
    written = io.StringIO()
    for row in (COLUMNS, *rows):
        cells = []
        for cell in row:
            one = io.StringIO()
            csv.writer(one, quoting=csv.QUOTE_ALL, lineterminator="").writerow([cell])
            cells.append(f" {one.getvalue()} ")
        written.write(separator.join([*cells, *[""] * surplus]) + end + separator * 2 + end)
    path = tmp_path_factory.mktemp("tables") / "scenes.csv"
    path.write_bytes(written.getvalue().encode(encoding))
    assert read(path) == [dict(zip(COLUMNS, map(str.strip, row), strict=True)) for row in rows]


def test_a_column_that_is_called_a_number_sign(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("#,optical,sar,output\n1,a,b,c\n")
    assert read(tmp_path / "s.csv") == [{"#": "1", "optical": "a", "sar": "b", "output": "c"}]


def test_scenes_whose_quoted_note_begins_with_a_number_sign_are_kept(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('note,optical,sar,output\n"#1, north",a,b,c\n')
    assert read(tmp_path / "s.csv") == [{"note": "#1, north", "optical": "a", "sar": "b", "output": "c"}]


@pytest.mark.parametrize(
    ("empty", "said"),
    [(["output"], "has no output. Fill in its column 'output'"), (["optical", "sar"], "has neither optical nor SAR")],
    ids=str,
)
def test_an_empty_cell_of_a_scene_is_said(empty: list[str], said: str, tmp_path: Path, capfd: Any) -> None:
    second = {"optical": "n/s2.tif", "sar": "n/s1.tif", "output": "n.tif"} | dict.fromkeys(empty, "")
    (tmp_path / "s.csv").write_text(f"optical,sar,output\na,b,c.tif\n{','.join(second.values())}\n")
    done = here(capfd, "batch", "plan", tmp_path / "s.csv")
    assert done.code == 64
    assert said in done.err
    assert all(value in done.err for value in second.values())


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_tables_of_old_encodings_are_read_and_it_is_said(encoding: str, tmp_path: Path, capfd: Any) -> None:
    name = "Höhe-ß" + ("\x81" if encoding == "latin-1" else "-€")
    (tmp_path / "s.csv").write_bytes(f"optical,sar,output\na.tif,b.tif,{name}.tif\n".encode(encoding))
    done = here(capfd, "batch", "plan", tmp_path / "s.csv")
    assert done.code == 0, done.err
    assert json.loads(done.out)["output"] == str(tmp_path / f"{name}.tif")
    assert re.search("s.csv is not UTF-8 and was read as .*save it as UTF-8", done.err)
    (tmp_path / "s.csv").write_text(f"optical,sar,output\na.tif,b.tif,{name}.tif\n", encoding="utf-8")
    assert "warning" not in here(capfd, "batch", "plan", tmp_path / "s.csv").err


def test_lists_of_paths_have_comments_and_names_in_any_encoding(tmp_path: Path) -> None:
    """Names of files stay the bytes that they are, unless a file of the other reading is there."""
    stored = b"# made by find\n./#1/s2.tif\n\nh\xf6he/s2.tif\n"
    (tmp_path / "list.txt").write_bytes(stored)
    assert read(tmp_path / "list.txt") == [{"optical": "./#1/s2.tif"}, {"optical": "h\udcf6he/s2.tif"}]
    (tmp_path / "höhe").mkdir()
    (tmp_path / "höhe" / "s2.tif").touch()
    assert read(tmp_path / "list.txt")[1] == {"optical": "höhe/s2.tif"}
    (tmp_path / "#2.tif").touch()
    (tmp_path / "list.txt").write_text("#2.tif\n#3.tif\n")
    assert read(tmp_path / "list.txt") == [{"optical": "#2.tif"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# a\n\noptical,sar,output\n,,\na,b\n", "Line 5 .* not have the 3 columns"),
        ("optical,sar,output\na,b,c,d\n", "Line 2 .* not have the 3 columns"),
        ("optical,sar,output,\n\na,b,c,left over\n", "Line 3 .*'left over' in a column without a name"),
        ('optical,sar,output\na,b,"c\n', "cannot be read at line"),
        ("optical,,sar,\n", "list of scenes is empty"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read(tmp_path / "s.csv")


def test_a_cut_file_of_two_bytes_a_letter(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("optical,sar,output\n".encode("utf-16")[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        read(tmp_path / "s.csv")
