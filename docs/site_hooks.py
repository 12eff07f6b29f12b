"""Hooks of mkdocs: files next to docs/ become pages; help texts and benchmarks/results become parts of pages."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from refnet_cli.cli.main import commands

ROOT = Path(__file__).resolve().parents[1]
OTHERS = (
    "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "sample_data/README.md",
    "weights/CHANGELOG.md", "weights/README.md", "weights/world/README.md",
)  # fmt: skip
"""Pages of the site that lie outside docs/; there they are below ``project/``."""
RESULTS = "<!-- benchmarks/results -->"
HELP = "<!-- refnet --help -->"
_LINK = re.compile(r"(\[[^\]\n]*\]\()([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for path in OTHERS:
        files.append(File.generated(config, f"project/{path}", content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the checkout into links between pages, and put in what is made of the program."""
    uri = page.file.src_uri
    source = uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"

    def follow(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        at = target.removeprefix("docs/") if target.startswith("docs/") else f"project/{_readme(target)}"
        if at not in files.src_uris:
            # A file that is no page, such as a script: its name is enough.
            return link[0] if (ROOT / target).is_relative_to(ROOT / "docs") else f"{link[1][1:-2]}"
        return f"{link[1]}{posixpath.relpath(at, posixpath.dirname(uri))}{link[3] or ''})"

    return _LINK.sub(follow, markdown).replace(RESULTS, results_tables()).replace(HELP, "\n".join(help_texts()))


def _readme(path: str) -> str:
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def help_texts(command: click.Command = commands, parent: click.Context | None = None) -> Iterator[str]:
    """Yield the help text of each command below a heading, groups before what is in them."""
    context = command.make_context("refnet" if parent is None else command.name, ["--"], parent, resilient_parsing=True)
    context.max_content_width = 76
    context.terminal_width = 76
    yield f"{'#' * (2 if parent is None else 3)} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child and not child.hidden:
                yield from help_texts(child, context)


def results_tables() -> str:
    """Return a table for each benchmark that measured seconds or megabytes, of its newest file."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        newest[found["benchmark"]] = found
    parts = []
    for name, found in sorted(newest.items()):
        if name == "peers":
            parts.append(peers_table(found))
            continue
        rows = [row for row in found["results"] if "ratio" in row and ("seconds" in row or "megabytes" in row)]
        if rows:
            parts.append(
                f"### {name}, {found['date'][:10]}\n\n| | measured | over | ratio | bar |\n|---|---|---|---|---|"
            )
            parts.extend(map(_row, rows))
            parts.append("")
    return "\n".join(parts)


def peers_table(found: dict[str, Any]) -> str:
    """Return the table of a comparison with peers, which has memory and maps besides seconds."""
    lines = [
        f"### {found['benchmark']}, {found['date'][:10]}\n",
        "| case | program | seconds | over refnet | CPU seconds | peak MB | |\n|---|---|---|---|---|---|---|",
    ]
    for row in found["results"]:
        cells = [row["case"], row["peer"]]
        cells += [
            format(row[key], form) if key in row else ""
            for key, form in (("seconds", ".1f"), ("ratio", ".2f"), ("cpu_seconds", ".1f"), ("peak_mb", ",.0f"))
        ]
        lines.append(f"| {' | '.join(cells)} | {_peer_note(row)} |")
    versions = {
        f"{library} {number}"
        for libraries in found["peers"].values() if isinstance(libraries, dict)
        for library, number in libraries.items()
    }  # fmt: skip
    return "\n".join([*lines, f"\nVersions: {', '.join(sorted(versions))}.\n"])


def _peer_note(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    if "unlike_undivided" in row:
        return f"{row['unlike_undivided']:.2%} of the pixels unlike an undivided pass"
    if "kept_empty" in row:
        return f"{row['kept_empty']:.1%} of the wedge is no data, and {row['data_lost']:.1%} of the rest"
    return f"{row['stacking']:.1f} s of it for warping and stacking" if row.get("stacking") else ""


def _row(row: dict[str, Any]) -> str:
    measured = f"{row['seconds']:.3g} s" if "seconds" in row else f"{row['megabytes']:,.0f} MB"
    kept = "" if "kept" not in row else row["bar"] + (": kept" if row["kept"] else ": **not kept**")
    return f"| {row['what']} | {measured} | {row['over']} | {row['ratio']:.2f} | {kept} |"
