"""Pretrained encoders: a registry of known ones, and the options of a regions file for others.

To add one, add an entry to `ENCODERS`. Its statistics are those of its authors' training, in the card's units:
reflectance x 10,000 and dB. This module neither reads nor downloads files; see `refnet_cli.model.encoder_files`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from refnet_cli.errors import OptionsError, WeightsError
from refnet_cli.model.card import Modality
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.bands import canonical_band
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.sensors.sentinel2 import BANDS
from refnet_cli.system.urls import is_remote

LOG = logging.getLogger(__name__)
IMAGENET: Literal["imagenet"] = "imagenet"
_LEAST_DEVIATION = {
    "optical": (10.0, "reflectance x 10,000: multiply mean and std by 10,000 if they are of reflectance from 0 to 1"),
    "sar": (0.5, "dB: take them of backscatter in dB, not of linear power"),
}
"""Minimum of the largest standard deviation of a sensor's bands, and the unit to state in the error message."""
_HUB = re.compile(
    r"https://(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)/(?:resolve|blob)/([^/?#]+)/([^?#]+)(?:\?download=true)?"
)


@dataclass(frozen=True)
class EncoderFile:
    """A file with the pretrained encoder of one sensor, and the standardisation of its input."""

    name: str = ""
    """Name in `ENCODERS`, which defines the other fields."""
    file: Path | None = None
    """Local path; without it the file is downloaded from ``url``."""
    url: str = ""
    """Address on the Hugging Face hub, with the commit."""
    sha256: str = ""
    """Checksum of the file, 64 hexadecimal digits."""
    bands: tuple[str, ...] = ()
    """Input bands of the first convolution, in order."""
    level: str = ""
    """Processing level, ``L1C`` or ``L2A``; empty if unknown, and for SAR."""
    mean: tuple[float, ...] = ()
    """Value subtracted from each band, in reflectance x 10,000 or dB; empty if unknown."""
    std: tuple[float, ...] = ()
    """Divisor of each band."""
    prefix: str | None = None
    """Prefix of the encoder's tensor names; None to detect it."""
    licence: str = "unknown"

    @property
    def title(self) -> str:
        """Name for messages: the registry's name, otherwise the file name."""
        return self.name or (self.file.name if self.file else self.url.rsplit("/", 1)[-1])

    def statistics(self, sensor: str) -> Modality | None:
        """Return bands, means and standard deviations; None if these are unknown.

        Raises
        ------
        WeightsError
            If the numbers do not fit the bands.
        """
        if not self.mean and not self.std:
            return None
        return Modality(self.bands, SENSORS[sensor].card_unit, self.mean, self.std)

    def hub_file(self) -> tuple[str, str, str]:
        """Return repository, commit and file name of ``url``.

        Raises
        ------
        OptionsError
            If it is not the URL of a file on the hub.
        """
        match = _HUB.fullmatch(self.url)
        if not match:
            raise OptionsError(
                f"{self.url!r} is not a file of the Hugging Face hub "
                "(https://huggingface.co/OWNER/NAME/resolve/COMMIT/FILE). Download it, and give it as file."
            )
        return match[1], match[2], match[3]


@dataclass(frozen=True)
class Registered:
    """Pretrained encoders with a name."""

    architecture: str
    """Name of the timm model."""
    optical: EncoderFile
    sar: EncoderFile


_BIFOLD = "https://huggingface.co/BIFOLD-BigEarthNetv2-0"
_TORCHGEO = "https://huggingface.co/torchgeo"
# SSL4EO divided digital numbers by 10,000 and subtracted nothing.
_SSL4EO_OPTICAL = EncoderFile(
    bands=BANDS, level="L1C", mean=(0.0,) * len(BANDS), std=(10_000.0,) * len(BANDS), licence="CC-BY-4.0"
)
_SSL4EO_SAR = EncoderFile(bands=("VV", "VH"), mean=(-12.59, -20.26), std=(5.26, 5.91), licence="CC-BY-4.0")

ENCODERS: dict[str, Registered] = {
    # Version 0.1.1 of these models has another band order: VH before VV, and B08 before B05.
    "bigearthnet": Registered(
        "resnet50",
        EncoderFile(
            url=f"{_BIFOLD}/resnet50-s2-v0.2.0/resolve/f5a590cd5876845f62702260ff62ea5a325433bb/model.safetensors",
            bands=("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
            level="L2A",
            mean=(438.4, 614.1, 588.4, 942.8, 1769.9, 2049.6, 2193.3, 2235.6, 1568.2, 997.7),
            std=(607.0, 603.3, 684.6, 738.4, 1100.5, 1275.8, 1369.4, 1356.5, 1070.2, 813.5),
            licence="MIT",
        ),
        EncoderFile(
            url=f"{_BIFOLD}/resnet50-s1-v0.2.0/resolve/d417b3c32f2172cbceb14e5b106dd9aa7b77c647/model.safetensors",
            bands=("VV", "VH"),
            mean=(-12.64, -19.35),
            std=(5.13, 5.59),
            licence="MIT",
        ),
    ),
    "ssl4eo-moco": Registered(
        "resnet50",
        replace(
            _SSL4EO_OPTICAL,
            url=f"{_TORCHGEO}/resnet50_sentinel2_all_moco/resolve/da4f3c9dbe09272eb902f3b37f46635fa4726879/"
            "resnet50_sentinel2_all_moco-df8b932e.pth",
        ),
        replace(
            _SSL4EO_SAR,
            url=f"{_TORCHGEO}/resnet50_sentinel1_all_moco/resolve/e79862c667853c10a709bdd77ea8ffbad0e0f1cf/"
            "resnet50_sentinel1_all_moco-906e4356.pth",
        ),
    ),
    "decur": Registered(
        "resnet50",
        replace(
            _SSL4EO_OPTICAL,
            url=f"{_TORCHGEO}/decur/resolve/eba7ae5945d482a4319be046d34b552db5dd9950/"
            "rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth",
        ),
        replace(
            _SSL4EO_SAR,
            url=f"{_TORCHGEO}/decur/resolve/9328eeb90c686a88b30f8526ed757b4bc0f12027/"
            "rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth",
        ),
    ),
}
"""The entries have no checksums yet, so users must state them."""


@dataclass(frozen=True)
class Pretrained:
    """Pretrained encoders of one or both sensors, each with its bands and checksum."""

    optical: EncoderFile | None
    sar: EncoderFile | None

    @property
    def files(self) -> dict[str, EncoderFile]:
        """The given encoders by sensor."""
        return {sensor: file for sensor in MODALITIES if (file := getattr(self, sensor)) is not None}


Chosen = Literal["imagenet"] | Path | Pretrained | None
"""Initial encoders: timm's, a file in timm's format, `Pretrained`, or random."""
Given = str | Path | Mapping[str, str | EncoderFile] | Pretrained | None
"""The option value that `choose_encoders` resolves."""


class EncoderTable(TypedDict, total=False):
    """How a regions file says it by sensor: names, or what files are."""

    optical: str | EncoderFile
    sar: str | EncoderFile


def choose_encoders(given: Given, checksums: Mapping[str, str] | None, architecture: str) -> Chosen:
    """Resolve the encoders that a user chose: complete them from the registry, and check them.

    Parameters
    ----------
    given : str, Path, mapping, Pretrained or None
        ``imagenet``, a name in `ENCODERS`, a path, or a mapping by sensor.
    checksums : mapping of str to str, optional
        SHA-256 by sensor.
    architecture : str
        Name of the timm model to train.

    Returns
    -------
    "imagenet", Path, Pretrained or None

    Raises
    ------
    OptionsError
        If values contradict each other or the network, or a checksum is missing.
    """
    if isinstance(given, Pretrained):
        return given
    if isinstance(given, str) and given in ENCODERS:
        given = dict.fromkeys(MODALITIES, given)
    if not isinstance(given, Mapping):
        if checksums:
            raise OptionsError(f"encoder_sha256 is for encoders of a name ({', '.join(ENCODERS)}) or in a table.")
        if given is not None and is_remote(given):
            raise OptionsError(f"encoder_weights is the URL {given}: give a table with url, sha256 and bands.")
        return Path(given) if given not in (None, IMAGENET) else given
    if not given:
        raise OptionsError("encoder_weights is empty; it must have optical, sar or both.")
    unknown = set(checksums or ()) - set(given)
    if unknown:
        raise OptionsError(f"encoder_sha256 has {', '.join(sorted(unknown))}, but encoder_weights has not.")
    files = {
        sensor: _complete(sensor, entry, (checksums or {}).get(sensor, ""), architecture)
        for sensor, entry in given.items()
    }
    return Pretrained(files.get("optical"), files.get("sar"))


def describe_encoders(chosen: Chosen) -> Any:
    """Return the description for the card: names, checksums and inputs, without local folders."""
    if not isinstance(chosen, Pretrained):
        return chosen.name if isinstance(chosen, Path) else chosen
    kept = {}
    for sensor, file in chosen.files.items():
        entries = asdict(file) | {"file": file.file.name if file.file else None}
        kept[sensor] = {key: value for key, value in entries.items() if value not in (None, "", ())}
    return kept


def identify_encoders(chosen: Chosen) -> str:
    """Return the identity of the encoders for the checkpoint; that of `Pretrained` does not depend on file paths."""
    if not isinstance(chosen, Pretrained):
        return str(chosen.resolve() if isinstance(chosen, Path) else chosen)
    return str({sensor: replace(file, name="", file=None, url="", licence="") for sensor, file in chosen.files.items()})


def compare_levels(chosen: Chosen, levels: Mapping[str, str | None]) -> list[str]:
    """Compare the processing level of the optical encoder's training images with that of the scenes.

    Parameters
    ----------
    chosen : "imagenet", Path, Pretrained or None
    levels : mapping of str to str or None
        Level of each scene: ``L1C``, ``L2A``, ``unknown``, or None without optical files.

    Returns
    -------
    list of str
        Log lines. If levels differ, a warning is logged.
    """
    if not isinstance(chosen, Pretrained) or chosen.optical is None:
        return []
    level = chosen.optical.level
    if not level:
        return ["optical level: not stated for the encoder, so that it cannot be compared with the scenes'"]
    other = [scene for scene, found in levels.items() if found in SENSORS["optical"].levels and found != level]
    unknown = [scene for scene, found in levels.items() if found == "unknown"]
    lines = [f"optical level: the encoder learned from {level}"]
    if unknown:
        lines.append(f"optical level: the files of {len(unknown)} scenes do not say theirs: {shorten(unknown)}")
    if other:
        fitting = [name for name, entry in ENCODERS.items() if entry.optical.level != level]
        LOG.warning(
            f"the optical encoder learned from {level}, but {len(other)} scenes have another level "
            f"({shorten(other)}), where haze and brightness differ. Use scenes of {level}, or an encoder of their "
            f"level, as {', '.join(fitting)}."
        )
    return lines


def shorten(names: list[str], shown: int = 10) -> str:
    """List the first names and the number of further ones."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _complete(sensor: str, given: str | EncoderFile, checksum: str, architecture: str) -> EncoderFile:
    """Return the completed and checked file of a sensor."""
    where = f"encoder_weights.{sensor}"
    if sensor not in MODALITIES:
        raise OptionsError(f"encoder_weights has {sensor!r}; known are {', '.join(MODALITIES)}.")
    entry = EncoderFile(name=given) if isinstance(given, str) else given
    entry = replace(entry, sha256=entry.sha256.strip().lower())
    if entry.name:
        entry = _of_registry(sensor, entry, architecture)
    elif (entry.file is None) == (not entry.url):
        raise OptionsError(f"{where} must have either file or url, or a name: {', '.join(ENCODERS)}.")
    if entry.file is not None and is_remote(entry.file):
        raise OptionsError(f"{where}.file is a URL: give it as url.")
    if entry.url:
        entry.hub_file()
    _check_bands(where, sensor, entry)
    return replace(entry, sha256=_checksum(sensor, entry, checksum))


def _of_registry(sensor: str, given: EncoderFile, architecture: str) -> EncoderFile:
    """Return the registered file with this name, with the path and checksum that the user gave."""
    where = f"encoder_weights.{sensor}"
    if given.name not in ENCODERS:
        raise OptionsError(
            f"{where} is {given.name!r}; known are {', '.join(ENCODERS)}. For a file, give a table: "
            '{ file = "...", sha256 = "...", bands = [...] }.'
        )
    if given != EncoderFile(name=given.name, file=given.file, sha256=given.sha256):
        raise OptionsError(f"{where} has a name, next to which only file and sha256 can be stated.")
    known = ENCODERS[given.name]
    # timm's tag after the dot only names pretrained weights.
    if architecture.partition(".")[0] != known.architecture:
        raise OptionsError(
            f"The encoders of {given.name!r} are {known.architecture}, but encoder is {architecture!r}: set "
            f'encoder = "{known.architecture}", or leave encoder_weights out.'
        )
    entry: EncoderFile = getattr(known, sensor)
    if entry.sha256 and given.sha256 not in ("", entry.sha256):
        raise OptionsError(f"{where}: sha256 is {given.sha256}, but that of {given.name!r} is {entry.sha256}.")
    return replace(entry, name=given.name, file=given.file, sha256=entry.sha256 or given.sha256)


def _check_bands(where: str, sensor: str, entry: EncoderFile) -> None:
    if not entry.bands:
        raise OptionsError(f'{where} must name the bands of its input, in order, as bands = ["B02", "B03"].')
    plain = [canonical_band(band) for band in entry.bands]
    known = SENSORS[sensor].bands
    wrong = [band for band, name in zip(entry.bands, plain, strict=True) if name not in known]
    if wrong:
        raise OptionsError(f"{where}: bands {', '.join(wrong)} are unknown; known are {', '.join(sorted(known))}.")
    if len(set(plain)) < len(plain):
        raise OptionsError(f"{where}: bands {', '.join(entry.bands)} are not all different.")
    if entry.level and entry.level not in SENSORS[sensor].levels:
        raise OptionsError(f"{where}: level is {entry.level!r}; it must be L1C or L2A, and be left out for SAR.")
    try:
        statistics = entry.statistics(sensor)
    except WeightsError as error:
        raise OptionsError(f"{where}: {error}") from error
    least, unit = _LEAST_DEVIATION[sensor]
    if statistics and max(statistics.std) < least:
        raise OptionsError(f"{where}: the greatest std is {max(statistics.std):g}. The numbers must be {unit}.")


def _checksum(sensor: str, entry: EncoderFile, stated: str) -> str:
    """Return the file's SHA-256, which may be stated in the table, in encoder_sha256 or in both."""
    both = {text.strip().lower() for text in (entry.sha256, stated) if text}
    if len(both) > 1:
        raise OptionsError(f"Two checksums are stated for the {sensor} encoder: {' and '.join(sorted(both))}.")
    if not both:
        page = entry.url.replace("/resolve/", "/blob/")
        source = f"Download {entry.url}, compare with the SHA256 on {page}; " if entry.url else ""
        raise OptionsError(
            f"No checksum of the {sensor} encoder {entry.title!r} is known, so nothing says whether a file is the "
            f'right one. State it: encoder_sha256 = {{ {sensor} = "..." }}. {source}sha256sum FILE prints it.'
        )
    (checksum,) = both
    if not re.fullmatch(r"[0-9a-f]{64}", checksum):
        raise OptionsError(f"The checksum of the {sensor} encoder is {checksum!r}; it must be 64 hexadecimal digits.")
    return checksum
