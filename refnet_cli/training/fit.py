"""Training REF-Net on scenes with labels: regions -> survey -> batches -> network -> validation -> weights.

Loss, optimiser, schedule and augmentation are the published ones unless the config says otherwise. Scores come from
ground that training never saw, predicted as ``refnet predict`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import torch

from refnet_cli.engines.torch_engine import choose_device
from refnet_cli.errors import OptionsError, OutputError
from refnet_cli.model.card import SENSORS_ALONE, Card
from refnet_cli.model.encoders import compare_levels, describe_encoders
from refnet_cli.model.weight_files import is_pickled, read_card
from refnet_cli.prediction.drift import LEVELS, SEEN
from refnet_cli.scan import choose_scan
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import other_of
from refnet_cli.system.atomic import create_folder, remove_empty
from refnet_cli.system.lock import Workplace
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import SurveyedScene, count_classes, survey
from refnet_cli.training.distributed import Processes, started_processes
from refnet_cli.training.initialise import Start, start
from refnet_cli.training.learned import GROUND, describe_ground, warn_of_learned
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.statistics import measure, see, sensors_that_suffice
from refnet_cli.training.trainer import Progress, Tell, Training, TrainResult
from refnet_cli.version import __version__

RESULTS = ("steps.csv", "validations.csv", "curves.png", "confusion.png", "tiles.png")
"""What a run's folder holds besides weights, checkpoints and what TensorBoard shows."""


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
                f"warning: {look.scene.name} is scored with {SENSORS[other_of(absent)].name} files alone, but nothing "
                f"teaches the network that: set modality_dropout, or add training scenes without {SENSORS[absent].name}"
            )
    totals = {split: sum(pixels.values()) for split, pixels in count_classes(scenes, config).items()}
    say(f"split: {config.method}; labelled pixels: {totals['train']:,} to learn, {totals['validation']:,} to score")
    if config.method == "random":
        say("warning: patches at random lie beside each other, so that scores are leaky: they flatter")


def start_network(config: TrainConfig) -> Start:
    """Make the network that a training starts from; see `refnet_cli.training.initialise.start`."""
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
