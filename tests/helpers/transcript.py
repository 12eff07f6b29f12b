"""What commands of refnet write on a terminal and into pipes, kept in ``docs/transcripts``.

    python -m tests.helpers.transcript --write [NAME ...]
    python -m tests.helpers.transcript --draw FOLDER [NAME ...]

The first writes transcripts again, of all `CASES` or of those that are named, but for those in which nothing but
numbers changed. The second draws them as pictures, light and dark. `tests.project.test_transcripts` runs the same
commands and compares what they write with what is kept; numbers, bars and checksums count as equal.

To hold a further command, add a `Case` to `tests/helpers/transcript_cases.py` and write its transcript. Each command is
run on a terminal of 80 columns, on one of 120, and with its streams in pipes: in a process of its own, with one thread,
and for each of the three in a new folder.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import shutil
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.programs import PATIENCE, ROOT, Streams, environment, run_program
from tests.helpers.screen import Screen
from tests.helpers.transcript_cases import CASES, Case

KEPT = ROOT / "docs" / "transcripts"
WIDTHS = (80, 120)
HOME = "/home/jane/landcover"
"""Stands for the folder of a run, whose name is as long."""
CHECKOUT = "/opt/refnet"
OF_TERMINALS = ("CLICOLOR", "COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TQDM_")
"""Beginnings of variables of the environment that change what programs write on terminals."""
MASKS = (
    (r"\\\n", ""),
    (r"\|[^|\n]*\|(?= *\d)", "|bar|"),
    (r"\b[0-9a-f]{12,}\b", "sum"),
    (r" *(?<![\w.#])[-+]?\d[\d,.:]*(e[-+]?\d+)?", " 0"),
)
"""What counts as equal: patterns, and what replaces them before texts are compared."""


def record(case: Case) -> str:
    """Run a case on terminals and in pipes, and return all that it writes."""
    parts = []
    for columns in WIDTHS:
        with _folder(case) as folder:
            shown = [screen.lines for screen in run_on_terminals(case, folder, columns)]
        parts += [f"== Terminal of {columns} columns ==", "", *_joined(shown)]
    with _folder(case) as folder:
        shown = [_run_in_pipes(command, folder) for command in case.commands]
    return "\n".join([*parts, "== Piped ==", "", *_joined(shown)])


def _joined(shown: Sequence[Sequence[str]]) -> list[str]:
    return [line for lines in shown for line in [*lines, ""]]


def run_on_terminals(case: Case, folder: Path, columns: int) -> Iterator[Screen]:
    """Run the commands of a case one after the other, each on a terminal of its own."""
    for command in case.commands:
        screen = Screen(columns)
        screen.write(f"$ {command}\n")
        code, written = _run_on_terminal(command, folder, columns)
        screen.write(_name_home(written, folder))
        if code:
            screen.write(f"(exit code {code})\n")
        yield screen


def _run_on_terminal(command: str, folder: Path, columns: int) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_read, ours)
        try:
            code = _run(command, folder, (theirs, theirs, theirs))
        finally:
            os.close(theirs)
        text = written.result()
    os.close(ours)
    return code, text


def _read(terminal: int) -> str:
    """Read what is written on a terminal until nobody has it open any more."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def _run_in_pipes(command: str, folder: Path) -> list[str]:
    """Run a command and return its lines, those of stderr before those of stdout."""
    lines = [f"$ {command}"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
        code = _run(command, folder, (nothing.fileno(), out.fileno(), err.fileno()))
        for name, file in (("stderr", err), ("stdout", out)):
            file.seek(0)
            if text := _name_home(file.read().decode(), folder):
                lines += [f"{name}:", *(f"  {line}".rstrip() for line in text.splitlines())]
    return lines + [f"(exit code {code})"] * bool(code)


def _run(command: str, folder: Path, streams: Streams) -> int:
    refnet, *words = shlex.split(command)
    assert refnet == "refnet"
    env = {name: value for name, value in environment(TERM="xterm").items() if not name.startswith(OF_TERMINALS)}
    return run_program(["-m", "refnet_cli", *words], folder, env, streams, PATIENCE)


@contextmanager
def _folder(case: Case) -> Iterator[Path]:
    """Make the files of a case in a folder with a name of always the same length, as lines break by it."""
    folder = Path(tempfile.mkdtemp(prefix="refnet-", dir="/tmp"))
    try:
        case.make(folder)
        with case.serve(folder):
            yield folder
    finally:
        shutil.rmtree(folder)


def _name_home(text: str, folder: Path) -> str:
    assert len(str(folder)) == len(HOME)
    return text.replace(str(folder), HOME).replace(str(ROOT), CHECKOUT)


def mask(text: str, more: Mapping[str, str]) -> str:
    """Replace what counts as equal."""
    for pattern, replacement in (*more.items(), *MASKS):
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def write(names: Sequence[str]) -> list[Path]:
    """Write transcripts again where more than numbers changed, and return their paths."""
    KEPT.mkdir(exist_ok=True)
    written = []
    for name in names:
        path, found = KEPT / f"{name}.txt", record(CASES[name])
        more = CASES[name].masks
        if not path.exists() or mask(path.read_text(encoding="utf-8"), more) != mask(found, more):
            path.write_text(found, encoding="utf-8")
            written.append(path)
    return written


def main() -> None:
    """Write or draw transcripts."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.transcript", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true")
    how.add_argument("--draw", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    names = given.names or list(CASES)
    if given.write:
        for path in write(names):
            print(path.relative_to(ROOT))  # noqa: T201
        return
    from tests.helpers.transcript_pictures import draw

    for name in names:
        with _folder(CASES[name]) as folder:
            draw(given.draw, name, list(run_on_terminals(CASES[name], folder, WIDTHS[0])))


if __name__ == "__main__":
    main()
