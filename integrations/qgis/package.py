"""Packs the plugin into a zip that QGIS installs: python integrations/qgis/package.py build/refnet-qgis.zip.

The same files give the same bytes.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PLUGIN = "refnet"
ENDINGS = {".py", ".json", ".txt", ".svg", ".png"}
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first day that a zip knows


def packed_files() -> Iterator[tuple[str, Path]]:
    """Yield the name in the zip and the path of each file of the plugin, and of the licence."""
    for path in sorted((FOLDER / PLUGIN).iterdir()):
        if path.suffix in ENDINGS:
            yield f"{PLUGIN}/{path.name}", path
    yield f"{PLUGIN}/LICENSE", FOLDER.parents[1] / "LICENSE"


def pack(target: Path) -> None:
    """Write the zip, in place of what is there.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, path in packed_files():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python integrations/qgis/package.py ZIP")
    pack(Path(sys.argv[1]))
