"""What to train, on what, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.encoders import Chosen, Given, Pretrained, choose_encoders
from refnet_cli.model.weight_files import (
    BUNDLED,
    BundledName,
    ReplacedName,
    as_weights,
    find_weights,
    is_pickled,
    read_card,
)
from refnet_cli.scene.options import SceneOptions
from refnet_cli.system.options import option
from refnet_cli.system.urls import is_remote
from refnet_cli.training.augmentation.haze import HAZE

PUBLISHED = REFNetConfig()
SplitMethod = Literal["blocks", "region", "random", "none"]


@dataclass(frozen=True)
class TrainScene(SceneOptions):
    """A scene of both sensors, or of one of them, with its labels.

    Raises
    ------
    OptionsError
        If it has no labels or no sensor, or a value is impossible.
    """

    optical: Path | tuple[Path, ...] | None = None
    """A file, files of some bands each, a folder of them, or a SAFE product; None if only SAR saw the scene."""
    sar: Path | tuple[Path, ...] | None = None
    """The same; None if only the optical sensor saw the scene."""
    labels: Path = Path()
    """Raster of codes, or polygons or points in a vector file; needed."""
    name: str = ""
    region: str = ""
    """What it is held out with; by default the scene's name."""
    split: Literal["train", "validation"] | None = None
    """All of it is learned from, or only scored; by default as the regions file's ``split`` says."""
    label_field: str | None = None
    """Field of a vector file of labels that holds the class; needed where it has several."""
    label_codes: dict[str, str] | None = None
    """What the labels' codes or names stand for, instead of what the regions file says for all scenes."""
    label_layer: str | None = option(None, affects="pixels", since="0.2")
    """Layer of a vector file of labels; needed where several have shapes."""
    label_weight: float = option(1.0, affects="pixels", since="0.2")
    """What a label of this scene counts in the loss."""
    confidence: Path | None = option(None, affects="pixels", since="0.2")
    """Raster of how sure each label is, see `refnet_cli.evaluation.confidence.Confidence.open`; it multiplies
    ``label_weight``."""
    confidence_band: int = option(1, affects="pixels", since="0.2")
    """Number of the raster's band, from 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == Path():
            raise OptionsError(f"{self.name} is missing labels.")
        if self.optical is None and self.sar is None:
            raise OptionsError(f"{self.name} has neither optical nor sar: give one of them at least.")
        if self.confidence is not None and is_remote(self.confidence):
            raise OptionsError(f"{self.name}: confidence is a URL. Download the file and give its path.")
        if isinstance(self.confidence, str):
            object.__setattr__(self, "confidence", Path(self.confidence))
        if not 0 < self.label_weight < math.inf:
            raise OptionsError(f"{self.name}: label_weight is {self.label_weight:g}; it must be a number above 0.")
        if self.confidence_band < 1:
            raise OptionsError(f"{self.name}: confidence_band is {self.confidence_band}; bands are counted from 1.")
        if self.confidence is None and self.confidence_band != 1:
            raise OptionsError(f"{self.name}: confidence_band names a band, but there is no confidence file.")

    @property
    def held_out_with(self) -> str:
        """The region that the scene belongs to, perhaps alone."""
        return self.region or self.name

    @property
    def absent(self) -> Literal["optical", "sar"] | None:
        """The sensor that the scene has no files of."""
        return "optical" if self.optical is None else "sar" if self.sar is None else None


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    scenes: tuple[TrainScene, ...]
    scheme: str | ClassScheme = ""
    """The labels' class scheme, or its name; it must be stated."""
    label_codes: dict[str, str] | None = None
    """From the label files' codes or names to the scheme's codes or names, 0 for no label; what it leaves out is
    refused. By default codes and names mean themselves."""
    optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08")
    sar_bands: tuple[str, ...] = ("VV", "VH")
    name: str = option("refnet", help="Name of the weights.", affects="files")
    encoder: str | None = None
    """Any timm model that gives five levels of features at strides 2 to 32; by default that of ``init``, else the
    published ``resnet50``."""
    width: int | None = None
    """Decoder width; by default that of ``init``, else the published 128."""
    init: BundledName | ReplacedName | Path | None = option(
        None,
        help=f"Weights or published checkpoint to start from, or the name of bundled weights: {BUNDLED}, or 'shipped'.",
        affects="pixels",
    )
    encoder_weights: Given = option(
        None,
        help="Pretrained encoders to start from: 'imagenet', which timm fetches, a file of such, or a name: "
        "'bigearthnet', 'ssl4eo-moco' or 'decur', whose checksums the regions file states as encoder_sha256.",
        affects="pixels",
    )
    """Or names or files by sensor. It becomes what `choose_encoders` returns."""
    encoder_sha256: dict[str, str] | None = option(None, affects="run")
    """Checksums of the files of pretrained encoders, by ``optical`` and ``sar``; a table of a file may hold its own.
    They become a part of ``encoder_weights``."""
    freeze: Literal["encoders"] | None = option(None, help="What is not to learn.", affects="pixels")
    split: SplitMethod | None = option(
        None,
        help="How validation is held out: in blocks of 2.56 km with a buffer of a tile, by region, in patches at "
        "random (whose scores flatter), or not at all.",
        default_text="by region where a scene is marked or a fold named, else blocks",
        affects="pixels",
    )
    fold: str | None = option(
        None, help="Hold out this region (a scene's region, by default its name) and score on it.", affects="pixels"
    )
    block: float = 2560.0
    """Side in metres of the blocks."""
    validation_share: float = 0.2
    """Of the labelled pixels of each class, to be held out in blocks or at random."""
    steps: int = option(70_000, help="Optimiser steps.", affects="pixels")
    batch: int = option(8, help="Crops of each step, over all devices.", affects="pixels")
    accumulate: int = 1
    """Passes through the network over which a step's crops are spread, to save memory."""
    crop: int = 256
    """Side in pixels of the crops to train on, a multiple of 32."""
    tile: int = 256
    """Side in pixels of the tiles to predict."""
    sampling: Literal["area", "classes"] = "area"
    """Where crops lie: every labelled pixel alike, as published, or every class alike."""
    balance: Literal["regions"] | None = option(None, affects="pixels", since="0.2")
    """``regions`` draws crops from a region in proportion to the square root of its labelled pixels, of each class by
    itself with ``sampling = "classes"``; by default in proportion to their number."""
    jitter: float = 0.0
    """Standard deviation of random factors on reflectance and, times 10, of random decibels on SAR."""
    haze: float = option(0.0, affects="pixels", since="0.2")
    """Most path radiance that is added to a crop or removed from it, as reflectance in blue; 0.08 is about what lies
    between L2A and L1C. No more is removed than the darkest pixels allow. 0: none."""
    sar_gain: float = option(0.0, affects="pixels", since="0.2")
    """Standard deviation in dB of a crop's SAR calibration; a third as much again for each polarisation. 0: none."""
    sar_slope: float = option(0.0, affects="pixels", since="0.2")
    """Standard deviation in dB of the difference that tilts SAR across a crop, in any direction. 0: none."""
    sar_looks: float = option(0.0, affects="pixels", since="0.2")
    """Least equivalent number of looks of extra speckle: two thirds of the crops get some, of this number to 20 times
    as many. 0: none."""
    shift: float = option(0.0, affects="pixels", since="0.2")
    """Most pixels by which SAR is moved against optical and labels, along rows and along columns. 0: none."""
    gaps: float = option(0.0, affects="pixels", since="0.2")
    """Share of the crops that lose a part of one sensor or both, which is filled as predicting fills it: as at the
    edges of scenes and swaths. 0: none."""
    mix: float = option(0.0, affects="pixels", since="0.2")
    """Share of the crops of which a random part is replaced by that of another crop, with its labels. 0: none."""
    modality_dropout: float = 0.0
    """Share of the crops that lack one of the sensors, either as often."""
    loss: str = "cross-entropy"
    """Name of the loss; the published one is cross entropy."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """How much a pixel of each class counts: by name, or ``balanced`` so that all classes count alike."""
    label_smoothing: float = option(0.0, affects="pixels", since="0.2")
    """Share of the probability that labels spread over all classes, with the losses of cross entropy."""
    learning_rate: float = 5e-4
    weight_decay: float = 5e-4
    warmup: int = 0
    """Steps over which the learning rate rises to its full value."""
    clip: float | None = None
    """Greatest norm of the gradients."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is validated and kept."""
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", help="Number format; half ones on GPUs only.", affects="pixels"
    )
    validate_every: int | None = None
    """Steps between validations; by default a tenth of all."""
    patience: int | None = None
    """Validations without a better mean IoU after which to stop; by default never."""
    checkpoint_every: int = option(100, affects="run")
    """Steps between checkpoints."""
    seed: int = option(0, help="Of everything that is drawn at random.", affects="pixels")
    without: Literal["optical", "sar"] | None = option(
        None, help="Set this sensor to its mean, to compare; the weights will never see it.", affects="pixels"
    )
    """Scenes need no files of it."""
    licence: str = option("unknown", affects="files")
    notice: str = option("", affects="files")
    """What everyone who uses the weights should be told."""
    device: str = option("auto", help="auto, cpu, cuda or cuda:N.", affects="run")
    scan: str | None = option(None, help="Kernel of the selective scan; see refnet predict.", affects="run")
    workers: int = option(2, affects="run")
    """Threads that read crops ahead of the network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenes", tuple(self.scenes))
        if self.init is not None:
            object.__setattr__(self, "init", as_weights(self.init))
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
            raise OptionsError(f"A batch of {self.batch} crops cannot be spread over {self.accumulate} equal passes.")
        if self.warmup >= self.steps:
            raise OptionsError(f"A warm-up of {self.warmup} steps leaves nothing of {self.steps}; make it shorter.")
        self._check_names()
        self._check_split()
        self._check_augmentation()

    def _check_names(self) -> None:
        if not self.scheme:
            raise OptionsError(
                "Nothing says what the codes of the label files mean: state their class scheme, as scheme = "
                f'"esri-io"; choose one of {", ".join(SCHEMES)}, or a table [scheme] of your own.'
            )
        if isinstance(self.scheme, str) and self.scheme not in SCHEMES:
            raise OptionsError(f"Class scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}.")
        from refnet_cli.training.losses import choose_loss  # imports torch, and --help needs the fields

        choose_loss(self.loss, self.label_smoothing)
        if self.balance not in (None, "regions"):
            raise OptionsError(f"balance is {self.balance!r}; it must be regions, or left out.")
        if isinstance(self.class_weights, dict):
            classes = self.classes.names
            if set(self.class_weights) != set(classes) or min(self.class_weights.values()) <= 0:
                raise OptionsError(f"class_weights must give each class a positive number: {', '.join(classes)}.")
        if self.without not in (None, "optical", "sar"):
            raise OptionsError(f"without is {self.without!r}; it must be optical or sar.")
        if Path(self.name).name != self.name:
            raise OptionsError(f"name is {self.name!r}; it becomes a file's name and must not lead elsewhere.")
        names = [scene.name for scene in self.scenes]
        if len(set(names)) < len(names):
            raise OptionsError(f"Scenes must have names of their own; found {', '.join(map(repr, names))}.")
        if self.init is not None and self.encoder_weights is not None:
            raise OptionsError("init and encoder_weights both say what to start from; give one of them.")
        if self.freeze and self.init is None and self.encoder_weights is None:
            raise OptionsError("freeze keeps encoders as they begin, which is at random: give init or encoder_weights.")
        if self.freeze and isinstance(self.encoders, Pretrained) and len(self.encoders.files) < 2:
            raise OptionsError(
                "freeze keeps encoders as they begin, but encoder_weights gives only the "
                f"{' '.join(self.encoders.files)} one, and the other begins at random: give both."
            )
        if self.without and self.modality_dropout:
            raise OptionsError("without and modality_dropout together leave crops without any sensor; choose one.")
        for scene in self.scenes if self.without else ():
            if self.without != scene.absent is not None:
                raise OptionsError(
                    f'{scene.name} has no {scene.absent} file, and without = "{self.without}" leaves out its only '
                    "sensor. Remove the scene, or without."
                )

    def _check_augmentation(self) -> None:
        if 0 < self.sar_looks < 1:
            raise OptionsError(f"sar_looks is {self.sar_looks!r}; it must be 0 for no extra speckle, or from 1.")
        unknown = [band for band in self.optical_bands if band not in HAZE]
        if self.haze and unknown:
            raise OptionsError(
                f"haze needs Sentinel-2 bands, but optical_bands names {', '.join(unknown)}. Name them as "
                f"{', '.join(HAZE)}, or remove haze."
            )

    def _check_split(self) -> None:
        regions = {scene.held_out_with for scene in self.scenes}
        if self.fold is not None and self.fold not in regions:
            raise OptionsError(f"There is no region {self.fold!r} to hold out; there are {', '.join(sorted(regions))}.")
        if self.fold is not None and self.method != "region":
            raise OptionsError(f'A fold is a region that is held out, but split is "{self.method}".')
        roles = [self.role(scene) for scene in self.scenes]
        if not roles:
            raise OptionsError("There is no scene; describe each in a [[scenes]] table.")
        if self.method == "region" and "validation" not in roles:
            raise OptionsError(
                'split is "region", but no region is held out: name one as fold, or mark a scene with '
                'split = "validation".'
            )
        if self.patience is not None and self.method == "none":
            raise OptionsError('patience waits for better validations, but split is "none"; leave one of them out.')

    @property
    def classes(self) -> ClassScheme:
        """The class scheme."""
        return SCHEMES[self.scheme] if isinstance(self.scheme, str) else self.scheme

    @property
    def encoders(self) -> Chosen:
        """Pretrained encoders to start from."""
        return cast(Chosen, self.encoder_weights)

    @property
    def method(self) -> SplitMethod:
        """How validation is held out."""
        if self.split:
            return self.split
        by_hand = self.fold is not None or any(scene.split == "validation" for scene in self.scenes)
        return "region" if by_hand else "blocks"

    @property
    def buffer(self) -> int:
        """Pixels between training and validation: a tile, and no less than what a crop sees."""
        return 0 if self.method == "random" else max(self.tile, self.crop)

    def role(self, scene: TrainScene) -> Literal["train", "validation", "divided"]:
        """Tell whether a scene is learned from, scored, or divided into parts of both."""
        if scene.split:
            return scene.split
        if self.fold is not None and scene.held_out_with == self.fold:
            return "validation"
        return "divided" if self.method in ("blocks", "random") else "train"

    @property
    def network(self) -> REFNetConfig:
        """Settings of the network."""
        return REFNetConfig(
            encoder=self.encoder or PUBLISHED.encoder,
            optical_bands=len(self.optical_bands),
            sar_bands=len(self.sar_bands),
            classes=self.classes.classes,
            width=self.width or PUBLISHED.width,
        )

    def settled(self) -> TrainConfig:
        """Fill in what ``init`` says of the network.

        Raises
        ------
        InputMissingError, WeightsError
            If it is missing or its card cannot be used.
        """
        init = None if self.init is None else find_weights(self.init)
        network = PUBLISHED
        if init is not None and not is_pickled(init):
            network = read_card(init).network
        encoder, width = self.encoder or network.encoder, self.width or network.width
        return replace(self, init=init, encoder=encoder, width=width)
