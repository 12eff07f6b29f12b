"""Training configuration: scenes, network, split, sampling, augmentation and optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.encoders import Chosen, Given, Pretrained, choose_encoders
from refnet_cli.model.weight_files import (
    BUNDLED,
    BundledName,
    ReplacedName,
    find_weights,
    is_pickled,
    parse_weights,
    read_card,
)
from refnet_cli.scene.options import SceneOptions
from refnet_cli.system.options import option
from refnet_cli.system.urls import is_remote
from refnet_cli.training.augmentation.haze import HAZE

PUBLISHED = REFNetConfig()
SplitMethod = Literal["blocks", "region", "random", "none"]


class Schedule(NamedTuple):
    """How a network is optimised."""

    steps: int
    learning_rate: float
    warmup: int
    clip: float | None


PUBLISHED_SCHEDULE = Schedule(steps=70_000, learning_rate=5e-4, warmup=0, clip=None)


@dataclass(frozen=True)
class TrainScene(SceneOptions):
    """A labelled scene of one or both sensors.

    Raises
    ------
    OptionsError
        If labels or both sensors are missing, or a value is invalid.
    """

    optical: Path | tuple[Path, ...] | None = None
    """A file, several files with some bands each, a folder of them, or a SAFE product; None for a scene with SAR only.
    """
    sar: Path | tuple[Path, ...] | None = None
    """The same for SAR; None for a scene with optical data only."""
    labels: Path = Path()
    """Raster of codes, or vector file of polygons or points; required."""
    name: str = ""
    """Name of the scene; by default scenes are numbered."""
    region: str = ""
    """Region of the scene, the unit of leave-one-region-out validation; by default the scene's name."""
    split: Literal["train", "validation"] | None = None
    """Use the whole scene for training or for validation; by default the ``split`` of the regions file applies."""
    label_field: str | None = None
    """Field with the class in a vector file of labels; required if it has several fields."""
    label_codes: dict[str, str] | None = None
    """Meaning of the labels' codes or names; overrides that of the regions file."""
    label_layer: str | None = option(None, affects="pixels", since="0.2")
    """Layer of a vector file of labels; required if several layers have geometries."""
    label_weight: float = option(1.0, affects="pixels", since="0.2")
    """Weight of this scene's labels in the loss."""
    confidence: Path | None = option(None, affects="pixels", since="0.2")
    """Raster with the confidence of each label, see `refnet_cli.evaluation.confidence.Confidence.open`; it is
    multiplied by ``label_weight``."""
    confidence_band: int = option(1, affects="pixels", since="0.2")
    """Band number in the confidence raster, from 1."""
    dates: int = option(1, affects="pixels", since="0.2")
    """Number of scenes that are dates of one place, this one among them. They share the crops of that place. It follows
    from ``season`` in a regions file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = ["labels"] * (self.labels == Path())
        missing += ["optical or sar"] * (self.optical is self.sar is None)
        if missing:
            raise OptionsError(f"{self.name} lacks {', '.join(missing)}.")
        if self.confidence is not None and is_remote(self.confidence):
            raise OptionsError(f"{self.name}: confidence is a URL. Download the file, and give its path.")
        if isinstance(self.confidence, str):
            object.__setattr__(self, "confidence", Path(self.confidence))
        if not 0 < self.label_weight < math.inf:
            raise OptionsError(f"{self.name}: label_weight is {self.label_weight:g}; it must be a number above 0.")
        if self.dates < 1:
            raise OptionsError(f"{self.name}: dates is {self.dates}; it must be 1 or more.")
        if self.confidence_band < 1:
            raise OptionsError(f"{self.name}: confidence_band is {self.confidence_band}; it must be 1 or more.")
        if self.confidence is None and self.confidence_band != 1:
            raise OptionsError(f"{self.name}: confidence_band is set, but confidence is not.")

    @property
    def region_name(self) -> str:
        """Region of the scene; its name if no region is set."""
        return self.region or self.name

    @property
    def absent(self) -> Literal["optical", "sar"] | None:
        """The sensor without files, if any."""
        return "optical" if self.optical is None else "sar" if self.sar is None else None


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training.

    Raises
    ------
    OptionsError
        If a value is invalid.
    """

    scenes: tuple[TrainScene, ...]
    scheme: str | ClassScheme = ""
    """Class scheme of the labels, or its name; required."""
    label_codes: dict[str, str] | None = None
    """Mapping from the label files' codes or names to the scheme's codes or names, 0 for no label; codes that are not
    in it are refused. By default the label files use the scheme's codes and names."""
    optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08")
    """Bands of Sentinel-2 that the network takes, in order."""
    sar_bands: tuple[str, ...] = ("VV", "VH")
    """The same for Sentinel-1."""
    name: str = option("refnet", help="Name of the weights.", affects="files")
    encoder: str | None = None
    """Any timm model with five levels of features at strides 2 to 32; by default that of ``init``, otherwise the
    published ``resnet50``."""
    width: int | None = None
    """Decoder width; by default that of ``init``, otherwise the published 128."""
    init: BundledName | ReplacedName | Path | None = option(
        None,
        help=f"Weights or published checkpoint to start from, or the name of bundled weights: {BUNDLED} or 'shipped'.",
        affects="pixels",
    )
    encoder_weights: Given = option(
        None,
        help="Pretrained encoders to start from: 'imagenet' (downloaded by timm), a file in timm's format, or a name: "
        "'bigearthnet', 'ssl4eo-moco' or 'decur'. Names need the checksums in the regions file (encoder_sha256).",
        affects="pixels",
    )
    """Also a table with names or files by sensor. `choose_encoders` resolves the value."""
    encoder_sha256: dict[str, str] | None = option(None, affects="run")
    """SHA-256 of the pretrained encoders' files, by ``optical`` and ``sar``; a file's table may state it instead.
    Merged into ``encoder_weights``."""
    freeze: Literal["encoders"] | None = option(None, help="Parts of the network to freeze.", affects="pixels")
    split: SplitMethod | None = option(
        None,
        help="Validation split: blocks of 2.56 km with a buffer of one tile, whole regions, random patches (optimistic "
        "scores), or none.",
        default_text="region if a scene or fold is held out, otherwise blocks",
        affects="pixels",
    )
    fold: str | None = option(
        None, help="Hold out this region (by default a scene's region is its name) and score on it.", affects="pixels"
    )
    block: float = 2560.0
    """Side of the blocks in metres."""
    validation_share: float = 0.2
    """Share of the labelled pixels of each class to hold out in blocks or random patches."""
    steps: int | None = option(
        None,
        help="Number of optimiser steps.",
        default_text="70,000, as published; with init, by the number of labelled pixels",
        affects="pixels",
    )
    batch: int = option(8, help="Crops per step, over all devices.", affects="pixels")
    accumulate: int = 1
    """Number of passes per step (gradient accumulation), to save memory."""
    crop: int = 256
    """Side of the training crops in pixels, a multiple of 32."""
    tile: int = 256
    """Side of the prediction tiles in pixels."""
    sampling: Literal["area", "classes"] = "area"
    """Sampling of crops: all labelled pixels with equal probability, as published, or all classes."""
    balance: Literal["regions"] | None = option(None, affects="pixels", since="0.2")
    """``regions`` samples a region in proportion to the square root of its labelled pixels (of each class with
    ``sampling = "classes"``); by default in proportion to their number."""
    jitter: float = 0.0
    """Standard deviation of random factors on reflectance; that of the offsets on SAR in dB is 10 times as large."""
    haze: float = option(0.0, affects="pixels", since="0.2")
    """Maximum path radiance to add to or remove from a crop, as reflectance in blue; 0.08 is about the difference
    between L2A and L1C. The darkest pixels limit how much is removed. 0: none."""
    sar_gain: float = option(0.0, affects="pixels", since="0.2")
    """Standard deviation of a crop's SAR gain in dB; a third of it is added for each polarisation. 0: none."""
    sar_slope: float = option(0.0, affects="pixels", since="0.2")
    """Standard deviation in dB of a linear trend across a SAR crop, in any direction. 0: none."""
    sar_looks: float = option(0.0, affects="pixels", since="0.2")
    """Minimum equivalent number of looks of extra speckle; the maximum is 20 times as high. Two thirds of the crops get
    speckle. 0: none."""
    shift: float = option(0.0, affects="pixels", since="0.2")
    """Maximum shift of SAR against optical and labels in pixels, along rows and columns. 0: none."""
    gaps: float = option(0.0, affects="pixels", since="0.2")
    """Share of the crops in which a part of one or both sensors is removed and filled as in prediction, as at the edges
    of scenes and swaths. 0: none."""
    mix: float = option(0.0, affects="pixels", since="0.2")
    """Share of the crops in which a random part is replaced by another crop, with its labels (CutMix). 0: none."""
    modality_dropout: float = 0.0
    """Share of the crops from which one sensor is removed, each with equal probability."""
    loss: str = "cross-entropy"
    """Name of the loss; cross entropy is the published one."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Class weights of the loss by name, or ``balanced`` for equal total weight of all classes."""
    label_smoothing: float = option(0.0, affects="pixels", since="0.2")
    """Share of the target probability that is spread over all classes; for losses with cross entropy."""
    learning_rate: float | None = None
    """Maximum learning rate of AdamW; by default the published 5e-4. With ``init``, this, ``warmup`` and ``clip`` have
    other defaults, see `refnet_cli.training.fine_tuning`."""
    weight_decay: float = 5e-4
    """Weight decay of AdamW."""
    warmup: int | None = None
    """Number of steps in which the learning rate rises to its full value; by default none."""
    clip: float | None = None
    """Maximum norm of the gradients; by default there is none."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights; the average is validated and saved."""
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", help="Number format; bf16 and fp16 need a GPU.", affects="pixels"
    )
    validate_every: int | None = None
    """Steps between validations; by default a tenth of all steps."""
    patience: int | None = None
    """Early stopping after this many validations without a better mean IoU; by default never."""
    checkpoint_every: int = option(100, help="Steps between checkpoints.", affects="run")
    seed: int = option(0, help="Seed of all random numbers.", affects="pixels")
    without: Literal["optical", "sar"] | None = option(
        None, help="Train without this sensor: its input is always the mean. For comparisons.", affects="pixels"
    )
    """Scenes do not need files of this sensor."""
    licence: str = option("unknown", help="Licence of the weights, for their card.", affects="files")
    notice: str = option("", help="Notice to all users of the weights, for their card.", affects="files")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N.", affects="run")
    scan: str | None = option(None, help="Kernel of the selective scan; see refnet predict.", affects="run")
    cache: Path | None = option(
        None,
        help="Folder of the store, which keeps the resampled scenes for all trainings on the same files.",
        default_text="a folder in the output, removed at the end",
        affects="run",
    )
    cache_size: float | None = option(
        None,
        help="Maximum size of the store in GB. Other scenes are read from their files, which is slower. 0: no store.",
        default_text="all but 2 GB of the free disk",
        affects="run",
    )
    workers: int = option(2, help="Number of threads that read crops ahead of the network.", affects="run")

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenes", tuple(self.scenes))
        if self.init is not None:
            object.__setattr__(self, "init", parse_weights(self.init))
        encoders = choose_encoders(self.encoder_weights, self.encoder_sha256, self.encoder or PUBLISHED.encoder)
        object.__setattr__(self, "encoder_weights", encoders)
        for name, least in (
            ("steps", 1), ("batch", 1), ("accumulate", 1), ("checkpoint_every", 1), ("crop", 64), ("tile", 64),
            ("workers", 1), ("warmup", 0), ("validate_every", 1), ("patience", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise OptionsError(f"{name} is {value!r}; it must be a whole number from {least}.")
        for name, above, most in (
            ("block", 0, 1e6), ("validation_share", 0, 0.9), ("learning_rate", 0, 10), ("clip", 0, 1e9),
            ("ema", 0, 0.99999),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not above < value <= most:
                raise OptionsError(f"{name} is {value!r}; it must be above {above} and at most {most:g}.")
        if self.cache_size is not None and not 0 <= self.cache_size < math.inf:
            raise OptionsError(f"cache_size is {self.cache_size!r}; it must be a number of GB from 0.")
        for name, most in (
            ("jitter", 1.0), ("modality_dropout", 1.0), ("weight_decay", 10.0), ("haze", 0.3), ("sar_gain", 10.0),
            ("sar_slope", 10.0), ("sar_looks", 1000.0), ("shift", 16.0), ("gaps", 1.0), ("mix", 1.0),
            ("label_smoothing", 0.5),
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                raise OptionsError(f"{name} is {getattr(self, name)!r}; it must be from 0 to {most:g}.")
        for name in ("crop", "tile"):
            if getattr(self, name) % 32:
                raise OptionsError(f"{name} is {getattr(self, name)}; it must be a multiple of 32.")
        if self.batch % self.accumulate:
            raise OptionsError(f"batch is {self.batch}; it must be a multiple of accumulate ({self.accumulate}).")
        if self.warmup is not None and self.steps is not None and self.warmup >= self.steps:
            raise OptionsError(f"warmup is {self.warmup}; it must be less than steps ({self.steps}).")
        self._check_names()
        self._check_split()
        self._check_augmentation()

    def _check_names(self) -> None:
        if not self.scheme:
            raise OptionsError(
                'The class scheme of the labels is missing. Set scheme, for example scheme = "esri-io": one of '
                f"{', '.join(SCHEMES)}, or your own table [scheme]."
            )
        if isinstance(self.scheme, str) and self.scheme not in SCHEMES:
            raise OptionsError(f"Class scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}.")
        from refnet_cli.training.losses import choose_loss  # imports torch, and --help needs the fields

        choose_loss(self.loss, self.label_smoothing)
        if self.balance not in (None, "regions"):
            raise OptionsError(f"balance is {self.balance!r}; it must be regions or absent.")
        if isinstance(self.class_weights, dict):
            classes = self.classes.names
            if set(self.class_weights) != set(classes) or min(self.class_weights.values()) <= 0:
                raise OptionsError(f"class_weights must give each class a positive number: {', '.join(classes)}.")
        if self.without not in (None, "optical", "sar"):
            raise OptionsError(f"without is {self.without!r}; it must be optical or sar.")
        if Path(self.name).name != self.name:
            raise OptionsError(f"name is {self.name!r}; it must be a file name without folders.")
        names = [scene.name for scene in self.scenes]
        if len(set(names)) < len(names):
            raise OptionsError(f"Scene names must be unique; found {', '.join(map(repr, names))}.")
        if self.init is not None and self.encoder_weights is not None:
            raise OptionsError("init and encoder_weights both initialise the encoders. Give one of them.")
        if self.freeze and self.init is None and self.encoder_weights is None:
            raise OptionsError("freeze would freeze random encoders. Give init or encoder_weights.")
        if self.freeze and isinstance(self.encoders, Pretrained) and len(self.encoders.files) < 2:
            raise OptionsError(
                "freeze needs pretrained encoders for both sensors, but encoder_weights only has the "
                f"{' '.join(self.encoders.files)} one. Give both."
            )
        if self.without and self.modality_dropout:
            raise OptionsError("without and modality_dropout together leave crops without any sensor. Choose one.")
        for scene in self.scenes if self.without else ():
            if self.without != scene.absent is not None:
                raise OptionsError(
                    f'{scene.name} has no {scene.absent} file, and without = "{self.without}" removes its only '
                    "sensor. Remove the scene, or without."
                )

    def _check_augmentation(self) -> None:
        if 0 < self.sar_looks < 1:
            raise OptionsError(f"sar_looks is {self.sar_looks!r}; it must be 0 (no extra speckle), or 1 or more.")
        unknown = [band for band in self.optical_bands if band not in HAZE]
        if self.haze and unknown:
            raise OptionsError(
                f"haze needs Sentinel-2 bands, but optical_bands has {', '.join(unknown)}. Use the names "
                f"{', '.join(HAZE)}, or remove haze."
            )

    def _check_split(self) -> None:
        regions = {scene.region_name for scene in self.scenes}
        if self.fold is not None and self.fold not in regions:
            raise OptionsError(f"fold is {self.fold!r}, but the regions are {', '.join(sorted(regions))}.")
        if self.fold is not None and self.method != "region":
            raise OptionsError(f'fold holds out a region, but split is "{self.method}". Remove one of them.')
        roles = [self.role(scene) for scene in self.scenes]
        if not roles:
            raise OptionsError("There are no scenes. Add a [[scenes]] table for each scene.")
        if self.method == "region" and "validation" not in roles:
            raise OptionsError(
                'split is "region", but no region is held out. Set fold to a region, or split = "validation" for a '
                "scene."
            )
        if self.patience is not None and self.method == "none":
            raise OptionsError('patience needs validations, but split is "none". Remove one of them.')

    @property
    def classes(self) -> ClassScheme:
        """Class scheme of the labels."""
        return SCHEMES[self.scheme] if isinstance(self.scheme, str) else self.scheme

    @property
    def encoders(self) -> Chosen:
        """Resolved pretrained encoders."""
        return cast(Chosen, self.encoder_weights)

    @property
    def method(self) -> SplitMethod:
        """The validation split: ``split``, or its default."""
        if self.split:
            return self.split
        by_hand = self.fold is not None or any(scene.split == "validation" for scene in self.scenes)
        return "region" if by_hand else "blocks"

    @property
    def schedule(self) -> Schedule:
        """How the network is optimised: as stated, else as published."""
        return Schedule(
            *(
                published if (stated := getattr(self, name)) is None else stated
                for name, published in PUBLISHED_SCHEDULE._asdict().items()
            )
        )

    @property
    def buffer(self) -> int:
        """Pixels between training and validation: the side of a tile or of a crop, whichever is larger."""
        return 0 if self.method == "random" else max(self.tile, self.crop)

    def role(self, scene: TrainScene) -> Literal["train", "validation", "divided"]:
        """Return the role of a scene: training, validation, or divided into both."""
        if scene.split:
            return scene.split
        if self.fold is not None and scene.region_name == self.fold:
            return "validation"
        return "divided" if self.method in ("blocks", "random") else "train"

    @property
    def network(self) -> REFNetConfig:
        """Configuration of the network."""
        return REFNetConfig(
            encoder=self.encoder or PUBLISHED.encoder,
            optical_bands=len(self.optical_bands),
            sar_bands=len(self.sar_bands),
            classes=self.classes.classes,
            width=self.width or PUBLISHED.width,
        )

    def resolved(self) -> TrainConfig:
        """Return the config with encoder and width taken from ``init``; without ``init``, with the published schedule.

        Raises
        ------
        InputMissingError, WeightsError
            If ``init`` is missing or its card is invalid.
        """
        init = None if self.init is None else find_weights(self.init)
        network = PUBLISHED
        if init is not None and not is_pickled(init):
            network = read_card(init).network
        encoder, width = self.encoder or network.encoder, self.width or network.width
        schedule = self.schedule._asdict() if init is None else {}
        return replace(self, init=init, encoder=encoder, width=width, **schedule)
