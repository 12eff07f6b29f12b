"""Training REF-Net on scenes with labels: regions -> survey -> batches -> network -> validation -> weights.

Loss, optimiser, schedule and augmentation are the published ones unless the config says otherwise. Scores come from
ground that training never saw, predicted as ``refnet predict`` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refnet_cli import __version__
from refnet_cli.calibration import fit_temperature
from refnet_cli.card import SENSORS_ALONE, Card, is_pickled, read_card
from refnet_cli.checkpoint import CONFIDENCES, Checkpoints, Part
from refnet_cli.drift import LEVELS, SEEN
from refnet_cli.encoders import compare_levels, describe_encoders, identify_encoders
from refnet_cli.errors import InputError, OptionsError, OutputError, TryAgainError
from refnet_cli.figures import draw_confusion, draw_curves, draw_views
from refnet_cli.files import create_folder, remove_empty
from refnet_cli.history import History, HistoryFiles, Step
from refnet_cli.learned import GROUND, describe_ground, warn_of_learned
from refnet_cli.losses import choose_loss, labelled_weight, training_loss
from refnet_cli.low_confidence import ENTRY, describe_shares
from refnet_cli.marks import check_replaceable
from refnet_cli.model import REFNet
from refnet_cli.process import keep_freed_memory
from refnet_cli.processes import Processes, started_processes
from refnet_cli.products import SENSOR_NAMES, other_of
from refnet_cli.regions import TrainConfig, TrainScene
from refnet_cli.sampling import (
    Batch,
    Sampler,
    SurveyedScene,
    count_classes,
    measure,
    read_batches,
    see,
    sensors_that_suffice,
    survey,
)
from refnet_cli.scan import Choice, choose_scan
from refnet_cli.start import Start, freeze_encoders, set_training, start
from refnet_cli.torch_engine import choose_device
from refnet_cli.validation import HeldOut, choose_views, read_held_out, validate
from refnet_cli.weights import save_weights
from refnet_cli.workplace import Workplace

POLYNOMIAL_POWER = 0.9
RESULTS = ("steps.csv", "validations.csv", "curves.png", "confusion.png", "tiles.png")
"""What a run's folder holds besides weights, checkpoints and what TensorBoard shows."""
Tell = Callable[[str], None]


@dataclass
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    mean_iou: float | None = None
    """Of the last validation."""


@dataclass
class TrainResult:
    """What came out of a training."""

    weights: Path
    card: Card
    """In other processes than the first, without scores."""
    history: History
    first: bool = True
    """Whether this is the first process, or the only one."""
    held_out: HeldOut | None = None
    """What the temperature was fitted to; None if nothing is held out."""


def fit(
    config: TrainConfig,
    folder: str | Path,
    progress: Callable[[Progress], None] | None = None,
    tell: Tell | None = None,
    stopping: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train, score and save.

    A run that was interrupted goes on from its last checkpoint in ``folder`` when called again with the same config.
    Started by torchrun, each process takes a device and a share of every batch.

    Parameters
    ----------
    config : TrainConfig
    folder : str or Path
        Where weights, checkpoints, tables and pictures go; made if it is missing.
    progress : callable, optional
        Told after every step, in the first process.
    tell : callable, optional
        Told in a line each what was decided, in the first process.
    stopping : callable, optional
        Asked after every step whether to write a checkpoint and leave.
    overwrite : bool
        Replace existing files in the folder that refnet did not write.

    Returns
    -------
    TrainResult
        With the weights at ``folder/NAME.safetensors``.

    Raises
    ------
    TryAgainError
        If it was to leave.
    RefnetError
        If scenes, options or the folder cannot be used.
    """
    if started_processes() > 1 and config.batch % (started_processes() * config.accumulate):
        raise OptionsError(
            f"A batch of {config.batch} crops cannot be shared by {started_processes()} processes in "
            f"{config.accumulate} passes."
        )
    if all(config.role(scene) == "validation" for scene in config.scenes):
        raise OptionsError("No scene is for training; all are for validation.")
    config = config.settled()
    folder = Path(folder)
    device = choose_device(config.device)
    choice = choose_scan(torch.device(device).type, config.network.states, config.scan)
    if config.precision != "fp32" and device == "cpu":
        raise OptionsError(f"Precision {config.precision} is for GPUs, but the network trains on the CPU: use fp32.")
    if device == "cpu":
        keep_freed_memory()
    check_replaceable(_existing_results(folder, config.name), overwrite)
    with ExitStack() as stack:
        try:
            stack.callback(remove_empty, create_folder(folder / "checkpoints"))
        except OSError as error:
            raise OutputError(f"Folder {folder} cannot be made: {error.strerror}.") from error
        processes = Processes(device, config.precision)
        say = tell if tell and processes.first else _keep_silent
        say(f"device: {device}" + f", {processes.count} processes" * (processes.count > 1))
        say(f"scan: {choice.name}: {choice.reason}")
        if choice.warning:
            say(f"warning: {choice.warning}")
        scenes = survey(config)
        _describe(config, scenes, say)
        initial, known = start_network(config), _card_of_init(config)
        levels = {look.scene.name: look.decided.get("optical.level") for look in scenes}
        initial.decisions.extend(compare_levels(config.encoders, levels))
        for line in (*initial.decisions, *(warn_of_learned(known, config, scenes) if known else ())):
            say(line)
        if processes.first:
            for warning in stack.enter_context(Workplace(folder / "training")).warnings:  # of which there may be one
                say(f"warning: {warning}")
        sampler = stack.enter_context(closing(Sampler(scenes, config)))
        card = _make_card(config, scenes, sampler, initial, known, processes)
        training = Training(config, card, initial.net, scenes, sampler, folder, processes, choice)
        training.run(say, progress if processes.first else None, stopping or _go_on)
        return training.finish(say, stopping or _go_on)


def _existing_results(folder: Path, name: str) -> list[Path]:
    """Return what a training may replace, and has not itself written before it was interrupted."""
    weights = folder / f"{name}.safetensors"
    if any((folder / "checkpoints").glob("step-*.pt")):
        return [weights]
    return [weights, folder / "checkpoints" / "best.pt", *(folder / result for result in RESULTS)]


def _keep_silent(line: str) -> None:
    pass


def _go_on() -> bool:
    return False


def _describe(config: TrainConfig, scenes: Sequence[SurveyedScene], say: Tell) -> None:
    for look in scenes:
        say(f"{look.scene.name}: " + ", ".join(f"{what} {value}" for what, value in look.decided.items()))
        if look.unreadable:
            say(f"warning: {look.scene.name}: {look.unreadable} blocks cannot be read and are passed over")
        for warning in look.warnings:
            say(f"warning: {look.scene.name}: {warning}")
    alone = sensors_that_suffice(config, scenes)
    for look in scenes:
        absent = look.scene.absent
        if look.validation.any() and absent is not None and other_of(absent) not in alone:
            say(
                f"warning: {look.scene.name} is scored with {SENSOR_NAMES[other_of(absent)]} files alone, but nothing "
                f"teaches the network that: set modality_dropout, or add training scenes without {SENSOR_NAMES[absent]}"
            )
    totals = {split: sum(pixels.values()) for split, pixels in count_classes(scenes, config).items()}
    say(f"split: {config.method}; labelled pixels: {totals['train']:,} to learn, {totals['validation']:,} to score")
    if config.method == "random":
        say("warning: patches at random lie beside each other, so that scores are leaky: they flatter")


def start_network(config: TrainConfig) -> Start:
    """Make the network that a training starts from; see `refnet_cli.start.start`."""
    init = Path(config.init) if config.init else None
    return start(
        config.network, config.optical_bands, config.sar_bands, config.classes, init, config.encoders,
        config.seed,
    )  # fmt: skip


def _card_of_init(config: TrainConfig) -> Card | None:
    """Card of the weights that a training starts from; None if there are none or they have no card."""
    init = Path(config.init) if config.init else None
    return None if init is None or is_pickled(init) else read_card(init)


def _make_card(
    config: TrainConfig,
    scenes: Sequence[SurveyedScene],
    sampler: Sampler,
    initial: Start,
    init: Card | None,
    processes: Processes,
) -> Card:
    """Card of the weights to be, without scores."""
    known = {"optical": initial.optical_statistics, "sar": initial.sar_statistics}
    if init and (unseen := init.training.get("without")):
        known.pop(unseen, None)  # its encoder learned nothing, perhaps since there was nothing to measure
    optical, sar = measure(sampler, config, known)
    settings = asdict(config) | {"scheme": config.classes.name}
    for entry in ("scenes", "device", "scan", "workers", "checkpoint_every", "notice", "licence", "name"):
        del settings[entry]
    del settings["encoder_sha256"]  # which is a part of encoder_weights
    settings["init"] = Path(settings["init"]).name if settings["init"] else None
    settings["encoder_weights"] = describe_encoders(config.encoders)
    training = settings | {
        "refnet": __version__,
        "start": initial.decisions,
        "split": config.method,
        "buffer": config.buffer,
        "pixels": count_classes(scenes, config),
        "scenes": {scene.name: config.role(scene) for scene in config.scenes},
        GROUND: describe_ground(config, scenes, init),
        "unreadable_blocks": {look.scene.name: look.unreadable for look in scenes if look.unreadable},
        "decisions": {look.scene.name: look.decided for look in scenes},
        LEVELS: _levels(scenes),
        SEEN: see(sampler, config),
        "processes": processes.count,
        SENSORS_ALONE: sensors_that_suffice(config, scenes),
    }
    return Card(
        name=config.name,
        network=config.network,
        optical=optical,
        sar=sar,
        scheme=config.classes,
        tile=config.tile,
        licence=config.licence,
        notice=config.notice,
        training=training,
    )


def _levels(scenes: Sequence[SurveyedScene]) -> list[str]:
    """Processing levels of the optical images that are learned from; "unknown" among them where that is so."""
    found = {look.decided.get("optical.level") for look in scenes if look.training.counts.any()}
    return sorted(level for level in found if level)


def make_optimizer(net: REFNet, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; A_log and D_skip take no weight decay, by Mamba's convention, and what is frozen takes no part."""
    named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    plain = [p for name, p in named if name.endswith((".a_log", ".d_skip"))]
    decayed = [p for name, p in named if not name.endswith((".a_log", ".d_skip"))]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Rise linearly during the warm-up, then fall by the published polynomial to zero."""

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / (config.warmup + 1)
        return float((1 - (step - config.warmup) / (config.steps - config.warmup)) ** POLYNOMIAL_POWER)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def class_weights(config: TrainConfig, scenes: Sequence[SurveyedScene]) -> Tensor | None:
    """What a pixel of each class counts in the loss, shape (classes,) with "no data"; None if all count alike."""
    if config.class_weights is None:
        return None
    if isinstance(config.class_weights, dict):
        chosen = [config.class_weights[name] for name in config.classes.names]
        return torch.tensor([0.0, *chosen])
    pixels = np.sum([look.training.counts.sum(0) for look in scenes], axis=0)
    present = pixels > 0
    weights = np.divide(pixels.sum() / present.sum(), pixels, out=np.zeros(len(pixels)), where=present)
    return torch.tensor([0.0, *weights.tolist()])


class Training:
    """A training under way.

    Parameters
    ----------
    config : TrainConfig
    card : Card
        Of the weights to be, without scores.
    net : REFNet
        What to train.
    scenes : sequence of SurveyedScene
    sampler : Sampler
    folder : Path
        It must exist.
    processes : Processes
    scan : Choice
    """

    def __init__(
        self,
        config: TrainConfig,
        card: Card,
        net: REFNet,
        scenes: Sequence[SurveyedScene],
        sampler: Sampler,
        folder: Path,
        processes: Processes,
        scan: Choice,
    ) -> None:
        self._config, self._card, self._folder, self._processes, self._scan = config, card, folder, processes, scan
        self._sampler = sampler
        self._scored = [look for look in scenes if look.validation.any()]
        self._net = net.to(processes.device).to(memory_format=torch.channels_last).use_scan(scan.name)
        if config.freeze:
            freeze_encoders(net)
        weights = class_weights(config, scenes)
        self._weights = None if weights is None else weights.to(processes.device)
        self._loss = choose_loss(config.loss, config.label_smoothing)
        self._optimizer = make_optimizer(net, config)
        self._schedule = make_schedule(self._optimizer, config)
        self._averaged = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self._called, self._stepped = processes.prepare(net, self._optimizer)
        self.history = History()
        parts: dict[str, Part] = {
            "net": net, "optimizer": self._optimizer, "schedule": self._schedule, "history": self.history,
        }  # fmt: skip
        if self._averaged is not None:
            parts["averaged"] = self._averaged
        self._checkpoints = Checkpoints(
            folder / "checkpoints", _what_training_depends_on(config, scenes), parts | processes.parts
        )  # fmt: skip

    def run(self, say: Tell, progress: Callable[[Progress], None] | None, stopping: Callable[[], bool]) -> None:
        """Train until the steps are done or validations get no better.

        Raises
        ------
        TryAgainError
            If it was to leave; a checkpoint is written before.
        InputError
            If the loss is not finite any more.
        """
        if self._processes.first:
            self._checkpoints.remove_unfinished()
        first = self._checkpoints.load(say)
        if first:
            say(f"going on after step {first}")
        with ExitStack() as stack:
            files = None
            if self._processes.first:
                files = stack.enter_context(closing(HistoryFiles(self._folder, self.history)))
            batches = stack.enter_context(closing(self._read(first)))
            done = first
            while True:
                if self._is_to_validate(done):
                    self._validate(say, files, stopping)
                if self._is_over(done):
                    return
                self.history.steps.append(self._step(done, next(batches)))
                done += 1
                self._tell(progress, done)
                if files:
                    files.add_step(self.history.steps[-1])
                leaving = self._processes.any(stopping())
                due = done % self._config.checkpoint_every == 0 or done == self._config.steps
                if leaving or due or self._is_to_validate(done):
                    self._save(done)
                if leaving:
                    raise _stopped(done)

    def _read(self, first: int) -> Generator[list[Batch], None, None]:
        processes = self._processes
        return read_batches(self._sampler, self._card, self._config, first, processes.rank, processes.count)

    def _is_over(self, done: int) -> bool:
        patience = self._config.patience
        return done >= self._config.steps or (patience is not None and self.history.fruitless >= patience)

    def _is_to_validate(self, done: int) -> bool:
        every = self._config.validate_every or max(self._config.steps // 10, 1)
        due = done > 0 and (done % every == 0 or done == self._config.steps)
        return due and bool(self._scored) and not any(scores["step"] == done for scores in self.history.validations)

    def _tell(self, progress: Callable[[Progress], None] | None, done: int) -> None:
        if progress:
            scores = self.history.validations
            mean_iou = scores[-1]["mean_iou"] if scores else None
            progress(Progress(done, self._config.steps, self.history.steps[-1].loss, mean_iou))

    def _save(self, done: int) -> None:
        if self._processes.first:
            self._checkpoints.save(done)
        self._processes.wait()

    def _step(self, step: int, batches: list[Batch]) -> Step:
        """Take one step of the optimiser, in as many passes as there are batches."""
        config, processes = self._config, self._processes
        blank = self._blank_sensors(batches)
        # So that a resumed run drops the same paths; each process drops its own.
        torch.manual_seed((config.seed * 1_000_003 + step) * processes.count + processes.rank)
        here = [batch.to(processes.device) for batch in batches]
        # A labelled pixel counts by its weight alone, in whichever pass and process it is.
        weighed = [labelled_weight(batch.labels, self._weights, batch.weights).float() for batch in here]
        whole = processes.sum(torch.stack(weighed).sum()).clamp(min=1e-12)
        rate = float(self._schedule.get_last_lr()[0])
        losses = torch.zeros(2, device=processes.device)
        self._stepped.zero_grad()
        for number, (batch, weight) in enumerate(zip(here, weighed, strict=True), 1):
            self._set_training(blank[number - 1])
            with processes.waiting_with_sum(self._called, number < len(here)), _telling_of_memory(batch):
                losses += self._learn(batch, weight / whole)
        if config.clip is not None:
            processes.clip(self._called, config.clip)
        self._stepped.step()
        self._schedule.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self._net)
        loss, auxiliary_loss = processes.sum(losses).tolist()
        if not np.isfinite(loss):
            raise InputError(f"The loss became {loss} at step {step}; try a smaller learning rate, or clip gradients.")
        return Step(step + 1, loss, auxiliary_loss, rate)

    def _learn(self, batch: Batch, share: Tensor) -> Tensor:
        """Add a batch's gradients to those of the step, and return its part of the step's losses."""
        prediction = self._called(*(x.contiguous(memory_format=torch.channels_last) for x in batch[:2]))
        main, auxiliary = training_loss(prediction, batch.labels, self._loss, self._weights, batch.weights)
        # Gradients are averaged over processes.
        self._processes.backward((main + auxiliary) * share * self._processes.count)
        return torch.stack([main.detach(), auxiliary.detach()]) * share

    @property
    def _kept(self) -> REFNet:
        """The network that is validated and kept."""
        return self._net if self._averaged is None else cast(REFNet, self._averaged.module)

    def _blank_sensors(self, batches: Sequence[Batch]) -> list[list[str]]:
        """Sensors that no crop of a pass has, in whichever process, for each pass."""
        seen = torch.tensor([[bool(batch.optical.any()), bool(batch.sar.any())] for batch in batches]).float()
        summed = self._processes.sum(seen.to(self._processes.device)).tolist()
        return [[name for name, any_ in zip(("optical", "sar"), found, strict=True) if not any_] for found in summed]

    def _set_training(self, blank: Sequence[str]) -> None:
        set_training(self._net, self._config.freeze == "encoders")
        for sensor in blank:
            # Its encoder sees a constant, whose variance of zero batch norms must not divide by.
            getattr(self._net, f"{sensor}_encoder").eval()

    def _validate(self, say: Tell, files: HistoryFiles | None, stopping: Callable[[], bool]) -> None:
        """Score what is held out, in the first process."""
        step = len(self.history.steps)
        if self._processes.first:
            scores = self._score(self._kept, self._card, stopping)
            self.history.validations.append({"step": step} | scores)
            if files:
                files.add_validation(self.history.validations[-1])
            if self.history.best is self.history.validations[-1]:
                self._checkpoints.save_best(self._kept.state_dict())
            say(
                f"step {step}: validation mean IoU {scores['mean_iou']:.4f}, "
                f"overall accuracy {scores['overall_accuracy']:.4f}"
            )
        else:
            self.history.validations.append({})
        # All processes must know the scores, which decide when to stop.
        self.history.validations[-1] = self._processes.from_first(self.history.validations[-1])

    def _score(
        self, net: REFNet, card: Card, stopping: Callable[[], bool], low_confidence: dict[str, float] | None = None
    ) -> dict[str, Any]:
        """Scores of what is held out, as a card holds them."""
        device, scan = str(self._processes.device), self._scan.name
        leave_if_asked = self._leave_if(stopping)
        scores, by_scene = validate(
            net, card, self._scored, self._config, device, scan, leave_if_asked, low_confidence
        )
        return scores.to_dict() | {"overall_accuracy_by_scene": by_scene}

    def _leave_if(self, stopping: Callable[[], bool]) -> Callable[[int, int], None]:
        """Make what is told of tiles that are done and leaves where it is to."""

        def leave_if_asked(done: int, total: int) -> None:
            if stopping():
                raise _stopped(len(self.history.steps))

        return leave_if_asked

    def finish(self, say: Tell, stopping: Callable[[], bool]) -> TrainResult:
        """Write the best network's weights, with the temperature that suits them, and pictures of how it went.

        Raises
        ------
        TryAgainError
            If it was to leave; what was trained is in the last checkpoint.
        """
        path = self._folder / f"{self._config.name}.safetensors"
        best = self.history.best
        if not self._processes.first:
            self._processes.end()
            return TrainResult(path, self._card, self.history, first=False)
        self._net.load_state_dict(self._checkpoints.load_best() if best else self._kept.state_dict())
        card = replace(
            self._card,
            training=self._card.training | {"steps_done": len(self.history.steps)},
            scores=self._scores(best),
        )
        held_out = None
        if best:
            device, leave = str(self._processes.device), self._leave_if(stopping)
            held_out = read_held_out(self._net, card, self._scored, self._config, device, self._scan.name, leave)
            card = self._calibrate(card, held_out, say, stopping)
        if self._sampler.skipped:
            say("crops passed over: " + ", ".join(f"{n} {why}" for why, n in self._sampler.skipped.items()))
        card = save_weights(self._net, card, path)
        self._draw(card)
        self._processes.end()
        return TrainResult(path, card, self.history, held_out=held_out)

    def _scores(self, best: dict[str, Any] | None) -> dict[str, Any]:
        if best is None:
            return {}
        leaky = self._config.method == "random"
        chosen = f"the best of {len(self.history.validations)} validations by mean IoU, which flatters a little"
        return {"validation": best | {"split": self._config.method, "leaky": leaky, "chosen": chosen}}

    def _calibrate(self, card: Card, held_out: HeldOut, say: Tell, stopping: Callable[[], bool]) -> Card:
        """Fit the temperature of the network that is saved; its scores are then those of maps made with it."""
        found = fit_temperature(*held_out)
        if found is None:
            say("temperature: 1, for too few labelled pixels are held out to fit one")
            return card
        say(
            f"temperature: {found.temperature:g}, fitted to {found.pixels:,} held-out pixels; expected calibration "
            f"error {found.ece_before:.4f} without it, {found.ece_after:.4f} with it"
        )
        card = replace(card, temperature=found.temperature)
        shares: dict[str, float] = {}
        # Where tiles overlap, what is blended are probabilities, and a class may change.
        validation = card.scores["validation"] | self._score(self._net, card, stopping, shares)
        calibration = found.to_dict() | {ENTRY: describe_shares(list(shares.values()))}
        return replace(card, scores=card.scores | {"validation": validation, "calibration": calibration})

    def _draw(self, card: Card) -> None:
        losses = [(step.step, step.loss) for step in self.history.steps]
        draw_curves(self._folder / "curves.png", losses, self.history.validations)
        if card.scores:
            scores = card.scores["validation"]
            matrix = np.array(scores["confusion_matrix"])
            draw_confusion(self._folder / "confusion.png", matrix, list(scores["labelled"]), self._config.name)
            device = str(self._processes.device)
            views = choose_views(self._net, card, self._scored, self._config, device, self._scan.name)
            draw_views(self._folder / "tiles.png", views, card.scheme)


def _stopped(step: int) -> TryAgainError:
    return TryAgainError(f"Stopped after step {step}, as asked to; the same command goes on from there.")


@contextmanager
def _telling_of_memory(batch: Batch) -> Iterator[None]:
    """Turn a device's want of memory into what to do about it."""
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator raises no kind of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TryAgainError(
            f"Not enough memory on {batch.labels.device} to learn from {len(batch.labels)} crops at once: raise "
            "accumulate, or lower batch or crop."
        ) from error


_SINCE_0_2: dict[str, Any] = {
    "label_layer": None, "stac": None, "label_weight": 1.0, "confidence": None, "confidence_band": 1,
    "balance": None, "label_smoothing": 0.0,
    "haze": 0.0, "sar_gain": 0.0, "sar_slope": 0.0, "sar_looks": 0.0, "shift": 0.0, "mix": 0.0,
}  # fmt: skip
"""Settings that 0.1 did not have, of all scenes or of one, with their defaults: left out where they have these, so that
older checkpoints still fit."""


def describe_settings(config: TrainConfig) -> dict[str, str]:
    """Settings by name, as text; what only names the result, or its speed, is left out."""
    spared = {"name", "licence", "notice", "device", "scan", "checkpoint_every", "workers", "scenes", "encoder_sha256"}
    settings = {name: text for name, text in _settled(config).items() if name not in spared}
    # Checksums are a part of what identifies encoders.
    settings["encoder_weights"] = identify_encoders(config.encoders)
    return settings | {"scenes": str([_settled(scene) for scene in config.scenes])}


def _what_training_depends_on(config: TrainConfig, scenes: Sequence[SurveyedScene]) -> dict[str, str]:
    """Settings by name, as text, and what the labels are."""
    digest = hashlib.sha256()
    for look in scenes:
        for array in (*look.training, look.validation, np.array(look.roles.validation)):
            digest.update(np.ascontiguousarray(array).tobytes())
    found = {"labels": digest.hexdigest(), "processes": str(started_processes())}
    return describe_settings(config) | found | _identify_confidences(config)


def _identify_confidences(config: TrainConfig) -> dict[str, str]:
    """What the files of confidences hold, of which the labels show only where it is 0; nothing without such files."""
    digest = hashlib.sha256()
    paths = [scene.confidence for scene in config.scenes if scene.confidence]
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {CONFIDENCES: digest.hexdigest()} if paths else {}


def _settled(options: TrainConfig | TrainScene) -> dict[str, str]:
    """Fields by name, as text, without newer ones that have their defaults."""
    found = asdict(options).items()
    return {name: _as_text(value) for name, value in found if name not in _SINCE_0_2 or value != _SINCE_0_2[name]}


def _as_text(value: Any) -> str:
    return str(value.resolve() if isinstance(value, Path) else value)
