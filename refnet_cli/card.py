"""What weights say of themselves: network settings, bands, statistics, classes, origin and scores.

The card travels as JSON in the header of a safetensors file, or in the metadata of an ONNX model. It is read and
checked here without torch, so that a call with the wrong weights fails at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.onnx_file import digest, is_onnx, read_metadata
from refnet_cli.products import ClassScheme

FORMAT_VERSION = 1
UNITS = {"optical": "reflectance x 10000", "sar": "dB"}
TEMPERATURES = 0.05, 20.0  # the least and the greatest that a card may name
LARGEST_DRIFT = 2.0  # standard deviations beyond which a band looks unlike those in training
LARGEST_HEADER = 16 * 2**20
SENSORS_ALONE = "sensors_alone"
"""Entry of a card's ``training``: a list of the sensors that suffice alone."""
BundledName = Literal["refnet-base", "shipped"]
"""Names of the bundled weights; "shipped" stands for those that are used by default."""
ReplacedName = Literal["refnet-small"]
"""Name of weights that were bundled before; a name in files too, so that it is refused there and not read as a path."""
METADATA = "refnet"  # name of the card among what a file says of itself


@dataclass(frozen=True)
class REFNetConfig:
    """Settings of the network; the defaults are the published ones.

    Raises
    ------
    WeightsError
        If a value makes no network.
    """

    encoder: str = "resnet50"
    """Any timm model that gives five levels of features at strides 2 to 32."""
    optical_bands: int = 3
    sar_bands: int = 2
    classes: int = 9
    """Number of logits K, including class 0, "no data"."""
    width: int = 128
    """Decoder width C."""
    states: int = 1
    """State size S of the selective scan."""
    drop_path: float = 0.1
    """Share of samples for which a residual branch is left out in training."""
    msie: bool = True
    """Whether the MSIE decoders exist; predicting needs none."""

    def __post_init__(self) -> None:
        _check_whole("network.classes", self.classes, 2, 256)
        _check_whole("network.width", self.width, 1, 2048)
        for name in ("optical_bands", "sar_bands", "states"):
            _check_whole(f"network.{name}", getattr(self, name), 1, 64)
        if not isinstance(self.encoder, str) or not self.encoder:
            raise WeightsError(f"network.encoder is {self.encoder!r}; it must be the name of a timm model.")
        if not isinstance(self.msie, bool):
            raise WeightsError(f"network.msie is {self.msie!r}; it must be true or false.")
        if not isinstance(self.drop_path, int | float) or not 0 <= self.drop_path < 1:
            raise WeightsError(f"network.drop_path is {self.drop_path!r}; it must be from 0 to below 1.")


@dataclass(frozen=True)
class Modality:
    """The bands of one sensor, in the network's order, and their statistics in ``unit``.

    Raises
    ------
    WeightsError
        If the numbers do not fit the bands.
    """

    bands: tuple[str, ...]
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("bands", "mean", "std"):
            if not isinstance(getattr(self, name), list | tuple):
                raise WeightsError(f"{name} is {getattr(self, name)!r}; it must be a list.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.bands or not all(isinstance(band, str) and band for band in self.bands):
            raise WeightsError(f"bands are {self.bands!r}; they must be names.")
        if len(set(self.bands)) != len(self.bands):
            raise WeightsError(f"bands {', '.join(self.bands)} are not all different.")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise WeightsError(
                f"{len(self.bands)} bands, {len(self.mean)} means and {len(self.std)} deviations differ."
            )
        numbers = (*self.mean, *self.std)
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or min(self.std) <= 0:
            raise WeightsError("means must be finite numbers and standard deviations positive ones.")
        if self.unit not in UNITS.values():
            raise WeightsError(f"unit is {self.unit!r}; known are {', '.join(map(repr, UNITS.values()))}.")


@dataclass(frozen=True)
class Card:
    """Everything that predicting needs to know about weights, and what their user should.

    Raises
    ------
    WeightsError
        If its parts contradict each other.
    """

    name: str
    network: REFNetConfig
    optical: Modality
    sar: Modality
    scheme: ClassScheme
    tile: int = 256
    """Side in pixels of the tiles to predict."""
    licence: str = "unknown"
    training: dict[str, Any] = field(default_factory=dict)
    """How the weights were made."""
    scores: dict[str, Any] = field(default_factory=dict)
    """How good they are, on what."""
    notice: str = ""
    """What everyone who uses the weights should be told."""
    temperature: float = 1.0
    """What the logits are divided by before the softmax, so that probabilities are as often right as they say (Guo et
    al. 2017, arXiv 1706.04599). ONNX models do so themselves."""
    format_version: int = FORMAT_VERSION
    sha256: str = ""
    """Of the tensors and of all other entries of the card; empty until saved."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise WeightsError(f"The card has format {self.format_version!r}; this refnet reads {FORMAT_VERSION}.")
        for name in ("name", "licence", "notice", "sha256"):
            if not isinstance(getattr(self, name), str):
                raise WeightsError(f"{name} is {getattr(self, name)!r}; it must be text.")
        _check_whole("tile", self.tile, 64, 4096)
        if self.tile % 32:
            raise WeightsError(f"tile is {self.tile}; it must be a multiple of 32.")
        least, most = TEMPERATURES
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not least <= self.temperature <= most:  # not so if NaN
            raise WeightsError(f"temperature is {self.temperature!r}; it must be a number from {least:g} to {most:g}.")
        for name, modality, wanted in (
            ("optical", self.optical, self.network.optical_bands),
            ("sar", self.sar, self.network.sar_bands),
        ):
            if len(modality.bands) != wanted:
                raise WeightsError(f"The card names {len(modality.bands)} {name} bands; its network takes {wanted}.")
            if modality.unit != UNITS[name]:
                raise WeightsError(f"{name}.unit is {modality.unit!r}; it must be {UNITS[name]!r}.")
        if self.scheme.classes != self.network.classes:
            raise WeightsError(
                f"Scheme {self.scheme.name!r} has {self.scheme.classes} classes with 0; "
                f"the network has {self.network.classes}."
            )

    @property
    def sensors_alone(self) -> tuple[str, ...]:
        """Sensors that suffice alone, of "optical" and "sar".

        Those that the card lists; of a card without that list, both where modality dropout let the network learn to do
        without each. Weights that were trained ``without`` one sensor need the other one only.

        Raises
        ------
        WeightsError
            If the card's list cannot be understood.
        """
        known = tuple(UNITS)
        if (left_out := self.training.get("without")) in known:
            return tuple(sensor for sensor in known if sensor != left_out)
        listed = self.training.get(SENSORS_ALONE)
        if listed is None:
            dropout = self.training.get("modality_dropout")
            return known if isinstance(dropout, int | float) and dropout > 0 else ()
        if not isinstance(listed, list | tuple) or not all(sensor in known for sensor in listed):
            raise WeightsError(
                f"The card's entry training.{SENSORS_ALONE} is {listed!r}; it must be a list of {', '.join(known)}."
            )
        return tuple(sensor for sensor in known if sensor in listed)

    def drift(self, levels: Mapping[str, float]) -> dict[str, float]:
        """Tell how far bands' means are from those of training, in its standard deviations.

        Parameters
        ----------
        levels : mapping of str to float
            Mean of each band, in the card's units; bands that it leaves out are left out.
        """
        return {
            band: (levels[band] - mean) / std
            for modality in (self.optical, self.sar)
            for band, mean, std in zip(modality.bands, modality.mean, modality.std, strict=True)
            if band in levels
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the card as a plain dict that JSON can hold, without a temperature of 1.

        Cards from before there were temperatures have none, and their checksums cover this dict.
        """
        entries = asdict(self) | {"scheme": self.scheme.to_dict()}
        if self.temperature == 1:
            del entries["temperature"]
        return entries

    @classmethod
    def from_dict(cls, entries: Any) -> Card:
        """Make a card of a plain dict.

        Raises
        ------
        WeightsError
            If entries are missing, unknown or impossible.
        """
        try:
            known = check_keys(cls, entries)
            parts = {
                "network": from_plain(REFNetConfig, known["network"]),
                "optical": from_plain(Modality, known["optical"]),
                "sar": from_plain(Modality, known["sar"]),
                "scheme": ClassScheme.from_dict(known["scheme"]),
            }
            return cls(**known | parts)
        except WeightsError as error:
            raise WeightsError(f"The weights' card cannot be used: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"The weights' card is incomplete or malformed: {error!r}.") from error


def warn_of_drift(drift: Mapping[str, float]) -> list[str]:
    """Put into words which bands look unlike those in training; see `Card.drift`."""
    far = [f"{band} by {value:+.1f}" for band, value in drift.items() if abs(value) > LARGEST_DRIFT]
    if not far:
        return []
    return [
        f"the scene looks unlike those that the weights learned from: the means of {', '.join(far)} standard "
        "deviations are off; its units, offset or bands may be other ones than decided, or its season or place is new."
    ]


def check_keys(kind: type[Any], entries: Any) -> dict[str, Any]:
    """Return the entries if they are a mapping with keys of the dataclass ``kind`` only.

    Raises
    ------
    WeightsError
        Naming the unknown keys.
    """
    if not isinstance(entries, Mapping):
        raise WeightsError(f"found {type(entries).__name__} where a table was wanted.")
    unknown = set(entries) - {f.name for f in fields(kind)}
    if unknown:
        raise WeightsError(f"unknown entries {', '.join(sorted(map(str, unknown)))}.")
    return dict(entries)


def from_plain(kind: type[Any], entries: Any) -> Any:
    """Make a dataclass of a plain dict, refusing unknown keys.

    Raises
    ------
    WeightsError
        If keys are unknown or missing.
    """
    known = check_keys(kind, entries)
    try:
        return kind(**known)
    except TypeError as error:
        raise WeightsError(f"{kind.__name__}: {error}.") from error


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
        raise InputMissingError(f"Weights {path} do not exist. {_where_to_look(path)}") from error
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
    # Not over the card as it is read: that may gain entries, and class schemes may change their names.
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
    """Files of the weights that come along with refnet."""
    package = Path(__file__).parent
    installed, checkout = package / "_weights", package.parent / "weights"
    folder = installed if installed.is_dir() else checkout
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx"))


def default_weights() -> Path:
    """File of the weights that are used when none are named: in the form for torch, or without it the ONNX model.

    Raises
    ------
    InputMissingError
        If the installation lacks them.
    """
    wanted = f"{get_args(BundledName)[0]}.{'safetensors' if find_spec('torch') else 'onnx'}"
    for path in shipped_weights():
        if path.name == wanted:
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
        raise WeightsError(f"The weights {given} are not bundled any more. {_where_to_look(Path(given))}")
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
        If the name is that of weights that were bundled before.
    """
    chosen = "shipped" if given is None else as_weights(given)
    return chosen if isinstance(chosen, Path) else default_weights()


def _where_to_look(path: Path) -> str:
    """Say which weights to give in place of a file that does not exist."""
    name, old = get_args(BundledName)[0], path.stem
    if old not in get_args(ReplacedName):
        return f"Check the path; bundled weights have the name {name}."
    return (
        f"{name} has replaced {old}: give the name {name}, or the path of a file of {old} that you have kept, such as "
        f"./{old}.safetensors. If a batch names {old}, plan it again: "
        f"refnet batch plan SCENES --weights {name} -o TASKS."
    )


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WeightsError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")
