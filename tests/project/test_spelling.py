"""Spelling: known misspellings in all texts, and unknown words in pages and help texts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from refnet_cli.cli.main import commands

ROOT = Path(__file__).resolve().parents[2]
WORDS = ROOT / "docs" / "development" / "words.txt"
"""Names, terms and British spellings that the American dictionary lacks, one a line."""
PAGES = ("*.md", "docs/**/*.md", "weights/**/*.md", "benchmarks/*.md", "sample_data/*.md")


def test_there_are_no_known_misspellings() -> None:
    pytest.importorskip("codespell_lib")
    done = subprocess.run([sys.executable, "-m", "codespell_lib", "."], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def prose(text: str) -> str:
    """Return a page without code, addresses and file names."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    \S.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", text)
    text = re.sub(r"\]\([^)]*\)|https?://\S+|<[^>\n]+>", " ", text)
    return text


def helps(command: click.Command = commands) -> Iterator[str]:
    """Yield the help texts of all commands and of their options, without names of options and values."""
    hidden = r"--?[\w-]+|\b[A-Z_]{2,}\b|\S*[./_=:\[\]|]\S*|'[^']*'"
    for text in [command.help, *(getattr(option, "help", None) for option in command.params)]:
        if text:
            lines = text.split("\n")
            # A command that is shown as an example, and what follows it in that paragraph.
            shown = "\n".join(line for line in lines if not line.strip().startswith(("refnet ", "pip ", "\b")))
            yield re.sub(hidden, " ", shown)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from helps(inner)


def unknown(text: str) -> set[str]:
    done = subprocess.run(["hunspell", "-d", "en_US", "-l"], input=text, capture_output=True, text=True, check=True)
    known = {word.casefold() for word in WORDS.read_text(encoding="utf-8").split()}
    return {word for word in done.stdout.split() if word.removesuffix("'s").casefold() not in known}


@pytest.mark.skipif(shutil.which("hunspell") is None, reason="hunspell is not installed")
def test_pages_and_help_texts_have_known_words_only() -> None:
    """A word that is right goes into docs/development/words.txt."""
    paths = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    texts = {path.relative_to(ROOT).as_posix(): prose(path.read_text(encoding="utf-8")) for path in paths}
    texts["refnet --help"] = "\n".join(helps())
    wrong = unknown("\n".join(texts.values()))
    assert not {name: words for name, text in texts.items() if (words := [word for word in wrong if word in text])}


def test_the_word_list_is_sorted_and_holds_each_word_once() -> None:
    words = WORDS.read_text(encoding="utf-8").split()
    assert words == sorted(set(words), key=lambda word: (word.casefold(), word))
