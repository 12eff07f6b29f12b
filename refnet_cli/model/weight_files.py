"""Files of weights: their cards and checksums, without torch."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.system.onnx_metadata import digest, is_onnx, read_metadata

LARGEST_HEADER = 16 * 2**20
BundledName = Literal["refnet-base", "shipped"]
"""Names of the bundled weights; "shipped" stands for those that are used by default."""
BUNDLED: str = get_args(BundledName)[0]
ReplacedName = Literal["refnet-small"]
"""Name of weights that were bundled before; a name in files too, so that it is refused there and not read as a path."""
METADATA = "refnet"  # name of the card among what a file says of itself


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read a safetensors header and return it with the position at which the tensors' bytes begin.

    Raises
    ------
    InputMissingError
        If there is no such file or it cannot be read.
    WeightsError
        If it is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= LARGEST_HEADER:
                raise WeightsError(
                    f"{path} is not a safetensors file. A PyTorch checkpoint has to be imported first: "
                    "refnet weights import."
                )
            header = json.loads(file.read(size))
    except FileNotFoundError as error:
        raise InputMissingError(f"Weights {path} do not exist. {_what_to_give(path.stem)}") from error
    except OSError as error:
        raise InputMissingError(f"Weights {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not a safetensors file, or a damaged one.") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is not a safetensors file, or a damaged one.")
    return header, 8 + size


def is_pickled(path: Path) -> bool:
    """Tell whether a file is PyTorch's, by its first bytes; safetensors have a brace as the ninth.

    Raises
    ------
    InputMissingError
        If there is no such file or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError as error:
        raise InputMissingError(f"Weights {path} cannot be read: {error.strerror}.") from error
    return first.startswith((b"PK\x03\x04", b"\x80")) and first[8:] != b"{"


def read_card(path: str | Path) -> Card:
    """Read the card of weights, without torch and without reading the tensors.

    Parameters
    ----------
    path : str or Path
        A text may be the name of bundled weights.

    Raises
    ------
    InputMissingError
        If there is no such file.
    WeightsError
        If it has no card or a wrong one.
    """
    return Card.from_dict(_read_entries(find_weights(path)))


def _read_entries(path: Path) -> Any:
    """Read a card's entries as they are stored."""
    metadata = read_metadata(path) if is_onnx(path) else read_header(path)[0].get("__metadata__")
    if not isinstance(metadata, dict) or METADATA not in metadata:
        raise WeightsError(f"{path} carries no refnet card, so its bands, units and classes are unknown.")
    try:
        return json.loads(metadata[METADATA])
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The card of {path} is damaged.") from error


def checksum(path: Path) -> str:
    """SHA-256 over the stored card without its own checksum, the tensors' names, types and shapes, and their bytes.

    Of an ONNX model, over the card and all else that the file holds.
    """
    # Not over the card as it is read: later versions may add entries to that, and class schemes may change their names.
    card = json.dumps(dict(_read_entries(path)) | {"sha256": ""}, sort_keys=True).encode()
    if is_onnx(path):
        return hashlib.sha256(card + digest(path, without=METADATA)).hexdigest()
    header, start = read_header(path)
    directory = {name: entry for name, entry in header.items() if name != "__metadata__"}
    total = hashlib.sha256(card + json.dumps(directory, sort_keys=True).encode())
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


def verify(path: str | Path) -> Card:
    """Read the card and hold the whole file against its checksum.

    Parameters
    ----------
    path : str or Path
        A text may be the name of bundled weights.

    Raises
    ------
    InputMissingError
        If there is no such file.
    WeightsError
        If the file is damaged.
    """
    path = find_weights(path)
    card = read_card(path)
    found = checksum(path)
    if found != card.sha256:
        raise WeightsError(
            f"{path} is damaged: its checksum is {found[:12]}..., its card says {card.sha256[:12]}... "
            "Fetch the file again."
        )
    return card


def shipped_weights() -> list[Path]:
    """Files of the bundled weights."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "_weights", package.parent / "weights"
    folder = installed if installed.is_dir() else checkout
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx"))


def default_weights() -> Path:
    """File of the weights that are used by default: in the form for torch, or without it the ONNX model.

    Raises
    ------
    InputMissingError
        If the installation lacks them.
    """
    needed = f"{BUNDLED}.safetensors" if find_spec("torch") else f"{BUNDLED}.onnx"
    for path in shipped_weights():
        if path.name == needed:
            return path
    raise InputMissingError("The default weights are missing from this installation; name others with --weights.")


def as_weights(given: str | Path) -> BundledName | Path:
    """Tell the name of bundled weights from a path.

    A name is a text without slash and ending, and goes before a file of that name in the working folder: the same
    command means the same weights everywhere. A `Path` is always a path.

    Raises
    ------
    WeightsError
        If it is the name of weights that were bundled before.

    Examples
    --------
    >>> as_weights("refnet-base"), as_weights("./refnet-base")
    ('refnet-base', PosixPath('refnet-base'))
    """
    if isinstance(given, str) and given in get_args(ReplacedName):
        raise WeightsError(f"The weights {given} are no longer bundled. {_what_to_give(given)}")
    for name in get_args(BundledName):
        if isinstance(given, str) and given == name:
            found: BundledName = name
            return found
    return Path(given)


def find_weights(given: str | Path | None = None) -> Path:
    """Return the file of weights that are given by name or path; by default the bundled ones.

    Raises
    ------
    InputMissingError
        If bundled weights are missing from the installation.
    WeightsError
        If it is the name of weights that were bundled before.
    """
    chosen = "shipped" if given is None else as_weights(given)
    return chosen if isinstance(chosen, Path) else default_weights()


def _what_to_give(name: str) -> str:
    """Say which weights to give in place of a name or a file that does not exist."""
    if name not in get_args(ReplacedName):
        return f"Check the path; bundled weights have the name {BUNDLED}."
    return (
        f"{BUNDLED} has replaced {name}: give the name {BUNDLED}, or the path of a file of {name} that you have kept, "
        f"such as ./{name}.safetensors. If a batch names {name}, plan it again: "
        f"refnet batch plan SCENES --weights {BUNDLED} -o TASKS."
    )
