"""Check the links of the built site: ``python docs/check_links.py build/site``, as ``make docs`` does.

Every link and anchor within the site, and every picture, must lead somewhere, and the links of README.md to the
checkout too. Links to other sites are counted and listed with ``--external``; nothing is fetched.
"""

from __future__ import annotations

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """The links, pictures and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the tag refers to, and its anchor."""
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


def check_site(site: Path) -> tuple[list[str], set[str]]:
    """Return what is wrong with the links of a site, and the links to other sites."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    wrong, external = [], set()
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                external.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            shown = f"{path.relative_to(site.resolve())}: {link}"
            if not target.exists():
                wrong.append(f"{shown}: there is no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{shown}: there is no such anchor")
    return wrong, external


def check_readme(readme: Path) -> list[str]:
    """Return the links of a page of the checkout that lead to no file."""
    links = re.findall(r"\]\(([^)\s]+)\)", readme.read_text(encoding="utf-8"))
    paths = [link.partition("#")[0] for link in links if not urlsplit(link).scheme]
    return [f"{readme.name}: {path}: there is no such file" for path in paths if not (readme.parent / path).exists()]


def main() -> int:
    """Print what is wrong, and return 1 if something is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("site", type=Path)
    parser.add_argument("--external", action="store_true", help="List the links to other sites.")
    given = parser.parse_args()
    wrong, external = check_site(given.site)
    wrong += check_readme(ROOT / "README.md")
    lines = [*sorted(wrong), *(sorted(external) if given.external else [])]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stderr.write(f"{len(wrong)} broken links, {len(external)} links to other sites\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
