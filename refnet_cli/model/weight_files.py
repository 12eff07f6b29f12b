"""Weight files: find them, read their cards and verify their checksums, without torch."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from refnet_cli.errors import InputMissingError, RefnetError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.published import fetched_weights, is_name, read_list
from refnet_cli.system.onnx_metadata import digest, is_onnx, read_metadata

LARGEST_HEADER = 16 * 2**20
BundledName = Literal["refnet-base", "shipped"]
"""Names of the bundled weights; "shipped" is an alias of the default ones."""
BUNDLED: str = get_args(BundledName)[0]
ReplacedName = Literal["refnet-small"]
"""Names of weights that are no longer bundled; files and options refuse them instead of reading them as paths."""
METADATA = "refnet"  # metadata key of the card


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read a safetensors header, and return it with the offset of the tensor data.

    Raises
    ------
    InputMissingError
        If the file does not exist or is unreadable.
    WeightsError
        If it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= LARGEST_HEADER:
                raise WeightsError(
                    f"{path} is not a safetensors file. Import PyTorch checkpoints first: refnet weights import."
                )
            header = json.loads(file.read(size))
    except FileNotFoundError as error:
        raise InputMissingError(f"Weights {path} do not exist. {_advise_weights(path.stem)}") from error
    except OSError as error:
        raise InputMissingError(f"Weights {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file.") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is damaged or not a safetensors file.")
    return header, 8 + size


def is_pickled(path: Path) -> bool:
    """Return whether a file is a PyTorch file, by its first bytes; the ninth byte of safetensors is a brace.

    Raises
    ------
    InputMissingError
        If the file does not exist or is unreadable.
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
        A str may also be the name of bundled weights.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    WeightsError
        If its card is missing or invalid.
    """
    path = find_weights(path)
    return Card.from_dict(_read_entries(path), f"The card of {path}")


def _read_entries(path: Path) -> Any:
    """Read the stored entries of a card."""
    metadata = read_metadata(path) if is_onnx(path) else read_header(path)[0].get("__metadata__")
    if not isinstance(metadata, dict) or METADATA not in metadata:
        raise WeightsError(f"{path} has no refnet card, so its bands, units and classes are unknown.")
    try:
        return json.loads(metadata[METADATA])
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The card of {path} is damaged.") from error


def checksum(path: Path) -> str:
    """Compute the SHA-256 of the stored card without its checksum, and of the tensors' names, types, shapes and bytes.

    For an ONNX model it covers the card and the rest of the file.
    """
    # Use the stored card, not the parsed one: later versions may add entries or rename class schemes.
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
    """Read the card, and compare the checksum of the file with it.

    Parameters
    ----------
    path : str or Path
        A str may also be the name of bundled weights.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    WeightsError
        If the file is damaged.
    """
    path = find_weights(path)
    card = read_card(path)
    found = checksum(path)
    if found != card.sha256:
        raise WeightsError(
            f"{path} is damaged: its checksum is {found[:12]}..., but the card states {card.sha256[:12]}... "
            "Download the file again."
        )
    return card


def bundled_weights() -> list[Path]:
    """Return the files of the bundled weights."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "_weights", package.parent / "weights"
    folder = installed if installed.is_dir() else checkout
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx"))


def default_weights() -> Path:
    """Return the file of the default weights: safetensors, or the ONNX model if torch is not installed.

    Raises
    ------
    InputMissingError
        If the installation does not include them.
    """
    needed = f"{BUNDLED}.safetensors" if find_spec("torch") else f"{BUNDLED}.onnx"
    for path in bundled_weights():
        if path.name == needed:
            return path
    raise InputMissingError("The default weights are missing from this installation. Give other weights: --weights.")


def parse_weights(given: str | Path) -> BundledName | Path:
    """Return the name of bundled weights, or a path, which is that of the file for the name of fetched weights.

    A name is a str without slash and ending. It takes precedence over a file with that name in the working folder, so
    that a command means the same weights everywhere. A `Path` is always a path.

    Raises
    ------
    WeightsError
        If it is the name of weights that are no longer bundled, or that of fetched ones and of another file.

    Examples
    --------
    >>> parse_weights("refnet-base"), parse_weights("./refnet-base")
    ('refnet-base', PosixPath('refnet-base'))
    """
    if isinstance(given, str) and given in get_args(ReplacedName):
        raise WeightsError(f"The weights {given} are no longer bundled. {_advise_weights(given)}")
    for name in get_args(BundledName):
        if isinstance(given, str) and given == name:
            found: BundledName = name
            return found
    return _find_fetched(given) if isinstance(given, str) and is_name(given) else Path(given)


def _find_fetched(name: str) -> Path:
    """Return the file of fetched weights of a name: safetensors, or the ONNX model without torch; else its path."""
    files = {path.suffix: path for path in fetched_weights(name)}
    if not files:
        return Path(name)
    chosen = files.get(".safetensors" if find_spec("torch") else ".onnx") or next(iter(files.values()))
    if Path(name).is_file():
        raise WeightsError(f"{name} is the name of fetched weights and of a file here. Give {chosen} or ./{name}.")
    return chosen


def find_weights(given: str | Path | None = None) -> Path:
    """Return the file of weights given by name or path; the default weights if None.

    Raises
    ------
    InputMissingError
        If bundled weights are missing from the installation.
    WeightsError
        If it is the name of weights that are no longer bundled.
    """
    chosen = "shipped" if given is None else parse_weights(given)
    return chosen if isinstance(chosen, Path) else default_weights()


def _advise_weights(name: str) -> str:
    """Return advice on which weights to give instead of a missing file or a replaced name."""
    try:
        listed = name in read_list().weights
    except RefnetError:  # a list of the user's own that cannot be read
        listed = False
    if listed:
        return f"If you mean the published ones, fetch them first: refnet weights fetch {name}."
    if name not in get_args(ReplacedName):
        return f"Check the path. The bundled weights are named {BUNDLED}."
    return (
        f"Use {BUNDLED} instead, or the path of your own copy of {name}, such as ./{name}.safetensors. If a batch "
        f"uses {name}, plan it again: refnet batch plan SCENES --weights {BUNDLED} -o TASKS."
    )
