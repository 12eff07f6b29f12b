"""The command answers before it imports what only a fetch needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.programs import environment

SLOW = ("rasterio", "pyproj", "requests", "pystac_client", "pandas")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0), (["-o", "x"], 64), (["--bbox", "1,2,3", "--dates", "2021-06-01", "-o", "x"], 64),
        (["--bbox", "1,2,3,4", "--dates", "yesterday", "-o", "x"], 64), (["--nonsense"], 2),
    ],
)  # fmt: skip
def test_help_and_wrong_usage_import_nothing_slow(words: list[str], code: int, tmp_path: Path) -> None:
    program = (
        "import sys; from refnet_cli.cli.main import run; code = run(sys.argv[1:]); "
        f"print('slow:', sorted({{*{SLOW}}} & sys.modules.keys()), code)"
    )
    done = subprocess.run([sys.executable, "-c", program, "fetch", *words], env=environment(), capture_output=True,
                          text=True, cwd=tmp_path)  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"slow: [] {code}", done.stderr


def test_a_search_begins_without_what_reads_vectors_and_writes_maps() -> None:
    """pyogrio imports pandas, where that is installed, and all outputs take as long again."""
    program = (
        "import sys; import refnet_cli.fetching.fetch; "
        "print(sorted({'pyogrio', 'pandas', 'scipy.ndimage', 'refnet_cli.outputs', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
