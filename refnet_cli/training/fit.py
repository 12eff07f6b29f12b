"""Training REF-Net: config -> labelled scenes -> sampler -> batches -> network -> validation -> weights.

Loss, optimiser, schedule and augmentation are the published ones unless the config changes them. Scores are computed on
held-out ground, predicted in the same way as by ``refnet predict``.
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
from refnet_cli.system.lock import WorkFolder
from refnet_cli.system.log import at_least
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.memory import GB
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.training.card import card_of_init, make_card
from refnet_cli.training.checkpoint import read_settings
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.distributed import Processes, started_processes
from refnet_cli.training.fine_tuning import with_schedule
from refnet_cli.training.initialise import initialise_from_config
from refnet_cli.training.leakage import warn_of_leakage
from refnet_cli.training.learner import Learner, class_weights
from refnet_cli.training.result import TrainResult, existing_results, finish
from refnet_cli.training.run import Progress, Run
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.split_advice import survey_or_advise
from refnet_cli.training.store.store import FOLDER, Store, temporary_store
from refnet_cli.training.survey import log_scenes
from refnet_cli.training.trainer import Trainer

LOG = logging.getLogger(__name__)


def fit(
    config: TrainConfig,
    folder: str | Path,
    progress: Callable[[Progress], None] | None = None,
    stopping: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train, score and save weights.

    An interrupted run resumes from its last checkpoint in ``folder`` when called again with the same config. With
    torchrun, each process uses one device and a share of every batch; only the first one logs.

    Parameters
    ----------
    config : TrainConfig
    folder : str or Path
        Folder for weights, checkpoints, tables and plots; created if missing.
    progress : callable, optional
        Called after every step, in the first process.
    stopping : callable, optional
        Called after every step; if it returns True, training writes a checkpoint and stops.
    overwrite : bool
        Replace existing files in the folder that refnet did not write.

    Returns
    -------
    TrainResult
        The weights are at ``folder/NAME.safetensors``.

    Raises
    ------
    TryAgainError
        If ``stopping`` requested a stop.
    RefnetError
        If scenes, options or the folder are not usable.
    """
    _check(config)
    config, folder = config.resolved(), Path(folder)
    device, scan = choose_device_and_scan(config)
    check_replaceable(existing_results(folder, config.name), overwrite)
    with ExitStack() as stack:
        _create_checkpoints(folder, stack)
        run = Run(folder, Processes(device, config.precision), scan.name, progress, stopping)
        if not run.processes.first:
            stack.enter_context(at_least(logging.ERROR))
        _log_devices(run, device, scan)
        store = _open_store(config, run, stack)
        scenes = survey_or_advise(config, store=store)
        log_scenes(config, scenes)
        if store:
            store.report()
        config = with_schedule(config, scenes, read_settings(folder / "checkpoints"))
        initial, init = initialise_from_config(config, scenes), card_of_init(config)
        for decision in initial.decisions:
            LOG.info(decision)
        if init:
            warn_of_leakage(init, config, scenes)
        _lock(run, stack)
        sampler = stack.enter_context(closing(Sampler(scenes, config, store)))
        card = make_card(config, sampler, initial, init, run.processes.count)
        learner = Learner(config, initial.net, class_weights(config, scenes), run.processes, run.scan)
        trainer = Trainer(config, card, learner, scenes, run)
        trainer.train(sampler)
        return finish(trainer, sampler.skipped)


def _check(config: TrainConfig) -> None:
    """Raise OptionsError if the batch cannot be split between processes, or no scene is for training."""
    if started_processes() > 1 and config.batch % (started_processes() * config.accumulate):
        raise OptionsError(
            f"batch is {config.batch}; with {started_processes()} processes and accumulate = {config.accumulate} it "
            f"must be a multiple of {started_processes() * config.accumulate}."
        )
    if all(config.role(scene) == "validation" for scene in config.scenes):
        raise OptionsError("All scenes are for validation. Add at least one training scene.")


def choose_device_and_scan(config: TrainConfig) -> tuple[str, Choice]:
    """Choose the device, and a kernel of the selective scan for it.

    Raises
    ------
    OptionsError
        If the device does not support the config's precision.
    """
    device = choose_device(config.device)
    scan = choose_scan(torch.device(device).type, config.network.states, config.scan)
    if config.precision != "fp32" and device == "cpu":
        raise OptionsError(f"precision is {config.precision}, which needs a GPU. Use fp32 on the CPU.")
    if device == "cpu":
        keep_freed_memory()
    return device, scan


def _create_checkpoints(folder: Path, stack: ExitStack) -> None:
    """Create the checkpoint folder; it is removed again if nothing is written to it."""
    try:
        stack.callback(remove_empty, create_folder(folder / "checkpoints"))
    except OSError as error:
        raise OutputError(f"Cannot create the folder {folder}: {error.strerror}.") from error


def _open_store(config: TrainConfig, run: Run, stack: ExitStack) -> Store | None:
    """Open the store of scenes; None if the config wants none. That in the run's folder is removed at the end."""
    folder = run.folder / FOLDER
    if config.cache is None and run.processes.first:
        checkpoints = run.folder / "checkpoints"
        stack.enter_context(temporary_store(folder, lambda: any(checkpoints.glob("step-*.pt"))))
    if config.cache_size == 0:
        return None
    limit = None if config.cache_size is None else int(config.cache_size * GB)
    return stack.enter_context(Store(config.cache or folder, limit))


def _lock(run: Run, stack: ExitStack) -> None:
    """Lock the folder against other trainings, in the first process."""
    if run.processes.first:
        work_folder = stack.enter_context(WorkFolder(run.folder / "training"))
        for warning in work_folder.warnings:
            LOG.warning(warning)


def _log_devices(run: Run, device: str, scan: Choice) -> None:
    LOG.info(f"device: {device}" + f", {run.processes.count} processes" * (run.processes.count > 1))
    LOG.info(f"scan: {scan.name}: {scan.reason}")
    if scan.warning:
        LOG.warning(scan.warning)
