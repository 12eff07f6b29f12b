"""docs/check_links.py finds links of the site that lead nowhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "docs" / "check_links.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_broken_links_are_found_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text('<h1 id="top">A</h1><a href="#top">.</a><img src="../p.png">')
    (tmp_path / "p.png").write_bytes(b"")
    good = '<a href="a/">.</a><a href="a/#top">.</a><a href="https://example.com/#x">.</a><a href="mailto:a@b.c">.</a>'
    (tmp_path / "index.html").write_text(good)
    check_site = load().check_site
    assert check_site(tmp_path) == ([], {"https://example.com/#x", "mailto:a@b.c"})
    bad = '<a href="b/">.</a><a href="a/#x">.</a><img src="q.png"><a href="#y">.</a>'
    (tmp_path / "index.html").write_text(good + bad)
    wrong, _ = check_site(tmp_path)
    assert [line.split(": ")[1] for line in wrong] == ["b/", "a/#x", "q.png", "#y"]


def test_the_links_of_the_readme_lead_to_files(tmp_path: Path) -> None:
    assert load().check_readme(ROOT / "README.md") == []
    (tmp_path / "README.md").write_text("[a](gone.md#b) [c](https://example.com)")
    assert load().check_readme(tmp_path / "README.md") == ["README.md: gone.md: there is no such file"]
