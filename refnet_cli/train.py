"""Training REF-Net on scenes with labels.

Loss (`refnet_cli.losses`), optimiser, schedule and augmentation are the published ones; crops are drawn at random
from the training scenes, and scores come from whole scenes that training never saw.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refnet_cli import __version__
from refnet_cli.card import UNITS, Card, Modality, REFNetConfig
from refnet_cli.engine import Standardise, TorchEngine, choose_device, leave_out
from refnet_cli.errors import (
    ConfigError,
    InputError,
    OptionsError,
    OutputError,
    RefnetError,
    StorageError,
    WeightsError,
)
from refnet_cli.evaluate import confusion_matrix, score
from refnet_cli.files import replacing
from refnet_cli.labels import Labels, open_labels
from refnet_cli.losses import LOSSES, training_loss
from refnet_cli.model import REFNet
from refnet_cli.predict import predict_rows
from refnet_cli.process import keep_freed_memory
from refnet_cli.products import SCHEMES, ClassScheme, SarScale
from refnet_cli.scan import choose_scan
from refnet_cli.scene import Patch, SceneOptions, ScenePair
from refnet_cli.tables import read_table, read_toml
from refnet_cli.tiling import Tiling, Window
from refnet_cli.weights import load_weights, save_weights

POLYNOMIAL_POWER = 0.9
SURVEYED = 512  # side in pixels of the windows in which labels are counted
STATISTICS_CROPS = 128
KEPT_BLOCKS = 8  # of each scene, for all of them are open at once
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class TrainScene:
    """A scene pair with its labels."""

    optical: Path
    sar: Path
    labels: Path
    """Raster of codes, or polygons or points in a vector file."""
    name: str = ""
    split: str = "train"
    """``train``, or ``validation``: only scored, never learned from."""
    optical_bands: tuple[str, ...] | None = None
    """Names or numbers (from 1) of the bands of the optical file, in the order of the network's bands."""
    sar_bands: tuple[str, ...] | None = None
    """The same for the SAR file."""
    optical_offset: float | None = None
    """Number to subtract from the optical file's values."""
    sar_scale: SarScale | None = None
    """Scale of the SAR values: power, amplitude, db or db100."""
    label_field: str | None = None
    """Field of a vector file of labels that holds the class; needed where it has several."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise OptionsError(f"Scene {self.name!r} has split {self.split!r}; it must be {' or '.join(SPLITS)}.")


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Raises
    ------
    OptionsError
        If a value is impossible.
    """

    scenes: tuple[TrainScene, ...]
    scheme: str = "esri-io"
    """Name of the labels' class scheme."""
    optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08")
    sar_bands: tuple[str, ...] = ("VV", "VH")
    name: str = "refnet"
    """Name of the resulting weights."""
    encoder: str = "resnet50"
    """Any timm model that gives five levels of features at strides 2 to 32."""
    width: int = 128
    """Decoder width."""
    init: Path | None = None
    """Weights to start from, of the same bands, classes and network."""
    steps: int = 70_000
    batch: int = 8
    crop: int = 256
    """Side in pixels of the crops to train on, a multiple of 32."""
    tile: int = 256
    """Side in pixels of the tiles to predict."""
    loss: str = "cross-entropy"
    """Name of the loss; the published one is cross entropy."""
    learning_rate: float = 5e-4
    weight_decay: float = 5e-4
    seed: int = 0
    without: str | None = None
    """``optical`` or ``sar``: that sensor's input is set to its mean, to learn what it is worth."""
    licence: str = "unknown"
    notice: str = ""
    """What everyone who uses the weights should be told."""
    device: str = "auto"
    scan: str | None = None
    """Kernel of the selective scan; by default what suits the device."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("checkpoint_every", 1), ("crop", 64), ("tile", 64)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise OptionsError(f"{name} is {getattr(self, name)!r}; it must be a whole number from {least}.")
        for name in ("crop", "tile"):
            if getattr(self, name) % 32:
                raise OptionsError(f"{name} is {getattr(self, name)}; it must be a multiple of 32.")
        if self.scheme not in SCHEMES:
            raise OptionsError(f"Class scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}.")
        if self.loss not in LOSSES:
            raise OptionsError(f"Loss {self.loss!r} is unknown; choose one of {', '.join(LOSSES)}.")
        if self.without not in (None, "optical", "sar"):
            raise OptionsError(f"without is {self.without!r}; it must be optical or sar.")
        if Path(self.name).name != self.name:
            raise OptionsError(f"name is {self.name!r}; it becomes a file's name and must not lead elsewhere.")
        if not any(scene.split == "train" for scene in self.scenes):
            raise OptionsError("No scene is for training.")
        names = [scene.name for scene in self.scenes]
        if len(set(names)) < len(names):
            raise OptionsError(f"Scenes must have names of their own; found {', '.join(map(repr, names))}.")

    @property
    def network(self) -> REFNetConfig:
        """Settings of the network."""
        return REFNetConfig(
            encoder=self.encoder,
            optical_bands=len(self.optical_bands),
            sar_bands=len(self.sar_bands),
            classes=SCHEMES[self.scheme].classes,
            width=self.width,
        )


def read_regions(path: Path) -> TrainConfig:
    """Read a regions file.

    Parameters
    ----------
    path : Path
        TOML: the fields of `TrainConfig`, with one ``[[scenes]]`` table (of `TrainScene`) a scene. Paths in it are
        relative to the file.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    OptionsError
        If it is no TOML, or has unknown or impossible entries.
    """
    entries = read_toml(path)
    scenes = entries.pop("scenes", [])
    if not isinstance(scenes, list) or not all(isinstance(scene, dict) for scene in scenes):
        raise ConfigError(f"{path}: scenes must be [[scenes]] tables.")
    try:
        made = tuple(
            TrainScene(**({"name": f"scene-{number}"} | read_table(TrainScene, scene, path)))
            for number, scene in enumerate(scenes)
        )
        return TrainConfig(scenes=made, **read_table(TrainConfig, entries, path))
    except (OptionsError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


@dataclass
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float


@dataclass
class TrainResult:
    """What came out of a training."""

    weights: Path
    card: Card
    losses: list[float] = field(default_factory=list)
    """Main loss of every step since the start or the resumed checkpoint."""


class Batch(NamedTuple):
    """Standardised inputs and labels, (N, Bo, H, W), (N, Bs, H, W) and (N, H, W)."""

    optical: Tensor
    sar: Tensor
    labels: Tensor


def fit(
    config: TrainConfig,
    folder: str | Path,
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train, score and save.

    A run that was interrupted goes on from its last checkpoint in ``folder`` when called again with the same config.

    Parameters
    ----------
    config : TrainConfig
    folder : str or Path
        Where checkpoint and weights go; made if it is missing.
    progress : callable, optional
        Told after every step.
    tell : callable, optional
        Told in a line each what was decided about the scenes' files.

    Returns
    -------
    TrainResult
        With the weights at ``folder/NAME.safetensors``.

    Raises
    ------
    RefnetError
        If scenes, options or the folder cannot be used.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Folder {folder} cannot be made: {error.strerror}.") from error
    device = choose_device(config.device)
    choice = choose_scan(torch.device(device).type, config.network.states, config.scan)
    if tell:
        tell(f"device: {device}")
        tell(f"scan: {choice.name}: {choice.reason}")
    if device == "cpu":
        keep_freed_memory()
    with ExitStack() as stack:
        regions = [stack.enter_context(Region.open(scene, config)) for scene in config.scenes]
        if tell:
            for region in regions:
                tell(f"{region.scene.name}: " + ", ".join(f"{what} {value}" for what, value in region.decided.items()))
        training = [region for region in regions if region.scene.split == "train"]
        validation = [region for region in regions if region.scene.split == "validation"]
        card = _make_card(config, training)
        net = _make_net(config, card).to(device).to(memory_format=torch.channels_last)
        net.use_scan(choice.name)
        losses = _optimise(net, config, Sampler(training, config, card), folder, device, progress)
        card = replace(card, scores=_validate(net, card, validation, device, choice.name))
        path = folder / f"{config.name}.safetensors"
        return TrainResult(path, save_weights(net.cpu(), card, path), losses)


def survey(config: TrainConfig) -> dict[str, dict[str, int]]:
    """Count the pixels that could be learned from, or scored: labelled, and seen by both sensors.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    dict
        For each split, pixels by name of class, all of the scheme.

    Raises
    ------
    RefnetError
        If scenes cannot be used.
    """
    scheme = SCHEMES[config.scheme]
    counts = {split: np.zeros(scheme.classes, np.int64) for split in SPLITS}
    for scene in config.scenes:
        with Region.open(scene, config) as region:
            height, width = region.pair.grid.shape
            for row in range(0, height, SURVEYED):
                for column in range(0, width, SURVEYED):
                    _, labels = region.read(Window(row, column, SURVEYED, SURVEYED).clip(height, width))
                    counts[scene.split] += np.bincount(labels.ravel(), minlength=scheme.classes)
    return {split: dict(zip(scheme.names, found[1:].tolist(), strict=True)) for split, found in counts.items()}


class Region:
    """A scene pair and its labels, opened."""

    def __init__(self, scene: TrainScene, pair: ScenePair, labels: Labels) -> None:
        self.scene = scene
        self.pair = pair
        self.labels = labels

    @classmethod
    def open(cls, scene: TrainScene, config: TrainConfig) -> Region:
        """Open the three files; see `ScenePair.open` and `open_labels` for the errors."""
        options = SceneOptions(scene.optical_bands, scene.sar_bands, scene.optical_offset, scene.sar_scale)
        pair = ScenePair.open(scene.optical, scene.sar, config.optical_bands, config.sar_bands, options, KEPT_BLOCKS)
        try:
            return cls(scene, pair, open_labels(scene.labels, pair.grid, SCHEMES[config.scheme], scene.label_field))
        except RefnetError:
            pair.close()
            raise

    @property
    def decided(self) -> dict[str, Any]:
        """What was found out of the files that a mistake would spoil the training with."""
        decisive = ("optical.bands", "optical.offset", "sar.bands", "sar.scale")
        return {what: value for what, value, _ in self.pair.decisions if what in decisive}

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pair.close()
        self.labels.close()

    def read(self, window: Window) -> tuple[Patch, NDArray[np.uint8]]:
        """Read a window inside the grid; labels are 0 where a sensor saw nothing."""
        patch = self.pair.read(window)
        return patch, np.where(patch.valid, self.labels.read(window), 0).astype(np.uint8)


class Sampler:
    """Draws batches of random, randomly turned and mirrored crops; a step's batch depends on seed and step alone."""

    def __init__(self, regions: Sequence[Region], config: TrainConfig, card: Card) -> None:
        self._regions = regions
        self._config = config
        self._standardise = Standardise(card.optical), Standardise(card.sar)

    def batch(self, step: int) -> Batch:
        """Make the batch of a step."""
        crops = draw_crops(self._regions, self._config.crop, np.random.default_rng([self._config.seed, step]))
        optical, sar, labels = [], [], []
        for _ in range(self._config.batch):
            patch, target = next(crops)
            seen = leave_out(patch.optical, patch.sar, self._config.without)
            optical.append(seen[0])
            sar.append(seen[1])
            labels.append(target)
        inputs = [
            standardise(torch.from_numpy(np.stack(arrays)))
            for standardise, arrays in zip(self._standardise, (optical, sar), strict=True)
        ]
        return Batch(inputs[0], inputs[1], torch.from_numpy(np.stack(labels).astype(np.int64)))


def draw_crops(
    regions: Sequence[Region], crop: int, random: np.random.Generator, attempts: int = 1000
) -> Iterator[tuple[Patch, NDArray[np.uint8]]]:
    """Yield square crops with at least one labelled pixel, scenes by area, in one of the 8 symmetries.

    Raises
    ------
    InputError
        If no scene is large enough or labelled pixels are too rare to be found.
    """
    shapes = [region.pair.grid.shape for region in regions]
    room = np.array([max(height - crop + 1, 0) * max(width - crop + 1, 0) for height, width in shapes], float)
    if not room.sum():
        raise InputError(f"No training scene holds a crop of {crop} x {crop} pixels; choose a smaller crop.")
    misses = 0
    while misses < attempts:
        at = int(random.choice(len(regions), p=room / room.sum()))
        height, width = shapes[at]
        corner = int(random.integers(height - crop + 1)), int(random.integers(width - crop + 1))
        turns, mirror = int(random.integers(4)), bool(random.integers(2))
        patch, labels = regions[at].read(Window(*corner, crop, crop))
        if not labels.any():
            misses += 1
            continue
        misses = 0
        yield (
            Patch(_turn(patch.optical, turns, mirror), _turn(patch.sar, turns, mirror)),
            _turn(labels, turns, mirror),
        )
    raise InputError(f"{attempts} crops in a row had no labelled pixel that both sensors saw.")


def _turn(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    array = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if mirror else array)


def _make_card(config: TrainConfig, regions: Sequence[Region]) -> Card:
    """Card with the statistics of the training scenes."""
    crops = draw_crops(regions, config.crop, np.random.default_rng([config.seed, 2**31]))
    patches = [next(crops)[0] for _ in range(STATISTICS_CROPS)]
    statistics = [
        Modality(bands, UNITS[name], *_statistics([getattr(patch, name) for patch in patches]))
        for name, bands in (("optical", config.optical_bands), ("sar", config.sar_bands))
    ]
    settings = asdict(config)
    for entry in ("scenes", "init", "device", "scan", "checkpoint_every", "notice", "licence", "name"):
        del settings[entry]
    training = settings | {
        "refnet": __version__,
        "init": config.init.name if config.init else None,
        "training_scenes": [scene.name for scene in config.scenes if scene.split == "train"],
        "validation_scenes": [scene.name for scene in config.scenes if scene.split == "validation"],
        "decisions": {region.scene.name: region.decided for region in regions},
    }
    return Card(
        name=config.name,
        network=config.network,
        optical=statistics[0],
        sar=statistics[1],
        scheme=SCHEMES[config.scheme],
        tile=config.tile,
        licence=config.licence,
        notice=config.notice,
        training=training,
    )


def _statistics(arrays: list[NDArray[np.float32]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by band of the valid pixels, to seven digits."""
    pixels = np.stack(arrays, axis=1).astype(np.float64).reshape(arrays[0].shape[0], -1)
    mean, std = np.nanmean(pixels, axis=1), np.nanstd(pixels, axis=1)
    return tuple(float(f"{x:.7g}") for x in mean), tuple(float(f"{max(x, 1e-3):.7g}") for x in std)


def _make_net(config: TrainConfig, card: Card) -> REFNet:
    torch.manual_seed(config.seed)
    if config.init is None:
        return REFNet(config.network)
    net, theirs = load_weights(config.init, msie=True)
    if (net.config, theirs.optical.bands, theirs.sar.bands, theirs.scheme) != (
        config.network, card.optical.bands, card.sar.bands, card.scheme,
    ):  # fmt: skip
        raise WeightsError(
            f"{config.init} is {net.config} for {theirs.optical.bands + theirs.sar.bands} and {theirs.scheme.name}; "
            f"wanted is {config.network} for {card.optical.bands + card.sar.bands} and {card.scheme.name}."
        )
    return net


def make_optimizer(net: REFNet, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; A_log and D_skip take no weight decay, by Mamba's convention."""
    plain = [p for name, p in net.named_parameters() if name.endswith((".a_log", ".d_skip"))]
    decayed = [p for name, p in net.named_parameters() if not name.endswith((".a_log", ".d_skip"))]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def _optimise(
    net: REFNet,
    config: TrainConfig,
    sampler: Sampler,
    folder: Path,
    device: str,
    progress: Callable[[Progress], None] | None,
) -> list[float]:
    optimizer = make_optimizer(net, config)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, config.steps, POLYNOMIAL_POWER)
    checkpoint = Checkpoint(folder / "checkpoint.pt", config, net, optimizer, schedule)
    losses = []
    net.train()
    if config.without:
        # Its encoder sees a constant, whose variance of zero batch norms must not divide by.
        getattr(net, f"{config.without}_encoder").eval()
    # The next batch is read while the network works on this one.
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        first = checkpoint.load()
        ahead = reader.submit(sampler.batch, first)
        for step in range(first, config.steps):
            batch = ahead.result()
            optical, sar = (x.to(device, memory_format=torch.channels_last) for x in (batch.optical, batch.sar))
            ahead = reader.submit(sampler.batch, step + 1)
            torch.manual_seed(config.seed * 1_000_003 + step)  # so that a resumed run drops the same paths
            main, auxiliary = training_loss(net(optical, sar), batch.labels.to(device), LOSSES[config.loss])
            optimizer.zero_grad()
            torch.autograd.backward(main + auxiliary)
            optimizer.step()
            schedule.step()
            losses.append(float(main.detach()))
            if not np.isfinite(losses[-1]):
                raise InputError(f"The loss became {losses[-1]} at step {step}; try a smaller learning rate.")
            if progress:
                progress(Progress(step + 1, config.steps, losses[-1]))
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                checkpoint.save(step + 1)
    return losses


class Checkpoint:
    """Everything a training needs to go on, in one file that is replaced atomically."""

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        net: REFNet,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self._path = path
        self._settings = _what_training_depends_on(config)
        self._parts: dict[str, Any] = {"net": net, "optimizer": optimizer, "schedule": schedule}

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps.

        Raises
        ------
        OutputError, StorageError
            If it cannot be written; the last one stays.
        """
        state = {name: part.state_dict() for name, part in self._parts.items()}
        with replacing(self._path) as temporary:
            try:
                torch.save(state | {"settings": self._settings, "step": step}, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise StorageError(f"Checkpoint {self._path} could not be written: {error}") from error

    def load(self) -> int:
        """Restore the state, if there is one of the same config, and return the number of steps done.

        Raises
        ------
        OptionsError
            If the checkpoint belongs to another training.
        InputError
            If it is damaged.
        """
        if not self._path.exists():
            return 0
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            theirs = state["settings"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._path} is damaged; remove it to start anew.") from error
        other = sorted(name for name in self._settings if theirs.get(name) != self._settings[name])
        if other:
            raise OptionsError(
                f"{self._path} belongs to a training with other {', '.join(other)}; choose another folder or remove it."
            )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])


def _what_training_depends_on(config: TrainConfig) -> dict[str, str]:
    """Settings by name, as text; what only names or scores the result is left out."""
    spared = {"name", "licence", "notice", "tile", "device", "scan", "checkpoint_every"}
    settings = {name: str(value) for name, value in asdict(config).items() if name not in spared}
    scenes = [scene for scene in config.scenes if scene.split == "train"]
    places = [(scene.optical.resolve(), scene.sar.resolve(), scene.labels.resolve()) for scene in scenes]
    read_as = [(s.optical_bands, s.sar_bands, s.optical_offset, s.sar_scale, s.label_field) for s in scenes]
    return settings | {"scenes": str([[*map(str, three), how] for three, how in zip(places, read_as, strict=True)])}


def _validate(net: REFNet, card: Card, regions: Sequence[Region], device: str, scan: str) -> dict[str, Any]:
    """Scores on whole scenes that training never saw; empty without any labelled pixel in such scenes."""
    engine = TorchEngine(net, card, device, scan=scan)
    counted = {region.scene.name: _count(region, engine, card.scheme, card.tile) for region in regions}
    matrices = {name: matrix for name, matrix in counted.items() if matrix.any()}
    if not matrices:
        return {}
    names = card.scheme.names
    whole = score(np.sum(list(matrices.values()), axis=0), names).to_dict()
    by_scene = {name: score(matrix, names).overall_accuracy for name, matrix in matrices.items()}
    return {"validation": whole | {"overall_accuracy_by_scene": by_scene}}


def _count(region: Region, engine: TorchEngine, scheme: ClassScheme, tile: int) -> NDArray[np.int64]:
    """Confusion matrix of a whole scene, predicted as ``refnet predict`` does."""
    height, width = region.pair.grid.shape
    tiling = Tiling(height, width, tile, tile // 4)
    matrix = np.zeros((scheme.classes - 1,) * 2, np.int64)
    for rows in predict_rows(region.pair, engine, tiling):
        labels = region.labels.read(Window(rows.row, 0, *rows.valid.shape))
        predicted = np.where(rows.valid, 1 + rows.probabilities[1:].argmax(0), 0).astype(np.uint8)
        matrix += confusion_matrix(labels, predicted, scheme.classes)
    return matrix
