"""Training REF-Net: config -> labelled scenes -> sampler -> batches -> network -> validation -> weights.

Loss, optimiser, schedule and augmentation are the published ones unless the config says otherwise. Scores come from
ground that training never saw, predicted as ``refnet predict`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from refnet_cli.engines.torch_engine import choose_device
from refnet_cli.errors import OptionsError, OutputError
from refnet_cli.scan import Choice, choose_scan
from refnet_cli.system.atomic import create_folder, remove_empty
from refnet_cli.system.lock import Workplace
from refnet_cli.system.log import at_least
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.training.card import card_of_init, make_card
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.distributed import Processes, started_processes
from refnet_cli.training.initialise import start_network
from refnet_cli.training.learned import warn_of_learned
from refnet_cli.training.learner import Learner, class_weights
from refnet_cli.training.result import TrainResult, existing_results, finish
from refnet_cli.training.run import Progress, Run
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.survey import log_scenes, survey
from refnet_cli.training.trainer import Trainer

LOG = logging.getLogger(__name__)


def fit(
    config: TrainConfig,
    folder: str | Path,
    progress: Callable[[Progress], None] | None = None,
    stopping: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train, score and save.

    A run that was interrupted goes on from its last checkpoint in ``folder`` when called again with the same config.
    Started by torchrun, each process takes a device and a share of every batch; only the first one logs.

    Parameters
    ----------
    config : TrainConfig
    folder : str or Path
        Where weights, checkpoints, tables and pictures go; made if it is missing.
    progress : callable, optional
        Told after every step, in the first process.
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
    _check(config)
    config, folder = config.settled(), Path(folder)
    device, scan = _choose_device(config)
    check_replaceable(existing_results(folder, config.name), overwrite)
    with ExitStack() as stack:
        _create_checkpoints(folder, stack)
        run = Run(folder, Processes(device, config.precision), scan.name, progress, stopping)
        if not run.processes.first:
            stack.enter_context(at_least(logging.ERROR))
        _log_devices(run, device, scan)
        scenes = survey(config)
        log_scenes(config, scenes)
        initial, init = start_network(config, scenes), card_of_init(config)
        for decision in initial.decisions:
            LOG.info(decision)
        if init:
            warn_of_learned(init, config, scenes)
        _lock(run, stack)
        sampler = stack.enter_context(closing(Sampler(scenes, config)))
        card = make_card(config, sampler, initial, init, run.processes.count)
        learner = Learner(config, initial.net, class_weights(config, scenes), run.processes, run.scan)
        trainer = Trainer(config, card, learner, scenes, run)
        trainer.train(sampler)
        return finish(trainer, sampler.skipped)


def _check(config: TrainConfig) -> None:
    """Raise OptionsError where processes cannot share a batch, or no scene is learned from."""
    if started_processes() > 1 and config.batch % (started_processes() * config.accumulate):
        raise OptionsError(
            f"A batch of {config.batch} crops cannot be shared by {started_processes()} processes in "
            f"{config.accumulate} passes."
        )
    if all(config.role(scene) == "validation" for scene in config.scenes):
        raise OptionsError("No scene is for training; all are for validation.")


def _choose_device(config: TrainConfig) -> tuple[str, Choice]:
    """Choose a device and a kernel of the selective scan that suits it.

    Raises
    ------
    OptionsError
        If the device cannot train in the config's precision.
    """
    device = choose_device(config.device)
    scan = choose_scan(torch.device(device).type, config.network.states, config.scan)
    if config.precision != "fp32" and device == "cpu":
        raise OptionsError(f"Precision {config.precision} is for GPUs, but the network trains on the CPU: use fp32.")
    if device == "cpu":
        keep_freed_memory()
    return device, scan


def _create_checkpoints(folder: Path, stack: ExitStack) -> None:
    """Create the folder of checkpoints, which goes again if nothing is written to it."""
    try:
        stack.callback(remove_empty, create_folder(folder / "checkpoints"))
    except OSError as error:
        raise OutputError(f"Folder {folder} cannot be made: {error.strerror}.") from error


def _lock(run: Run, stack: ExitStack) -> None:
    """Keep other trainings out of the folder, in the first process."""
    if run.processes.first:
        workplace = stack.enter_context(Workplace(run.folder / "training"))
        for warning in workplace.warnings:
            LOG.warning(warning)


def _log_devices(run: Run, device: str, scan: Choice) -> None:
    LOG.info(f"device: {device}" + f", {run.processes.count} processes" * (run.processes.count > 1))
    LOG.info(f"scan: {scan.name}: {scan.reason}")
    if scan.warning:
        LOG.warning(scan.warning)
