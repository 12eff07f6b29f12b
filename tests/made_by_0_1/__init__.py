"""Files that refnet 0.1 made; see README.md."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import tarfile
from pathlib import Path

FILES = Path(__file__).parent / "files"
PLACE = "/data/made"
"""Where they were made, and what the files therefore hold."""
CHANGED = 1_700_000_000_000_000_000
"""Time of change of the inputs, in ns."""
TEXTS = ("tasks.jsonl", "blocks.jsonl", "north.tif.json", "wide.tif.blocks/000000-000000.shard.json")


def unpack(folder: Path) -> Path:
    """Copy the files into a folder, as 0.1 would have made them there; return the folder."""
    folder = folder.resolve() / "made"
    shutil.copytree(FILES, folder)
    (folder / "tiny.safetensors").write_bytes(lzma.decompress((folder / "tiny.safetensors.xz").read_bytes()))
    for name in ("s2.tif", "s1.tif", "labels.tif"):
        os.utime(folder / name, ns=(CHANGED, CHANGED))
    _move(folder)
    return folder


def unpack_run(folder: Path, name: str) -> Path:
    """Unpack the training ``trained`` or ``interrupted`` into a folder that `unpack` made."""
    import torch

    with tarfile.open(folder / f"{name}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    for path in (folder / name / "checkpoints").glob("step-*.pt"):
        state = torch.load(path, weights_only=True)
        state["settings"] = {key: text.replace(PLACE, str(folder)) for key, text in state["settings"].items()}
        torch.save(state, path)
    return folder / name


def _move(folder: Path) -> None:
    """Replace the place in texts, and the ids of tasks, which depend on it."""
    identities = json.loads((folder / "identities.json").read_text())
    for name in TEXTS:
        text = (folder / name).read_text()
        for old, identity in identities.items():
            moved = identity.replace(PLACE, str(folder))
            text = text.replace(old, hashlib.sha256(moved.encode()).hexdigest()[:16])
        (folder / name).write_text(text.replace(PLACE, str(folder)))
