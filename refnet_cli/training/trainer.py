"""The training loop: steps, checkpoints, validations, and early stopping."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.training.batches import read_batches
from refnet_cli.training.checkpoint import Checkpoints
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.history import History, HistoryFiles
from refnet_cli.training.identity import training_identity
from refnet_cli.training.learner import Learner
from refnet_cli.training.run import Progress, Run
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.validation import validate

LOG = logging.getLogger(__name__)


class Trainer:
    """Trains a network until all steps are done or early stopping applies.

    Parameters
    ----------
    config : TrainConfig
    card : Card
        Card of the trained weights, without scores.
    learner : Learner
    scenes : sequence of LabelledScene
    run : Run
        Its folder must exist.
    """

    def __init__(
        self, config: TrainConfig, card: Card, learner: Learner, scenes: Sequence[LabelledScene], run: Run
    ) -> None:
        self.config, self.card, self.run = config, card, run
        self._steps = config.schedule.steps
        self.scored = [scene for scene in scenes if scene.scored]
        """Scenes with held-out labels."""
        self.history = History()
        self._learner = learner
        self._checkpoints = Checkpoints(
            run.folder / "checkpoints",
            training_identity(config, scenes),
            learner.stateful | {"history": self.history},
        )

    def train(self, sampler: Sampler) -> None:
        """Train; resume from the last checkpoint if there is one.

        Raises
        ------
        TryAgainError
            If a stop was requested, after writing a checkpoint.
        InputError
            If the loss is not finite.
        """
        processes = self.run.processes
        if processes.first:
            self._checkpoints.remove_unfinished()
        done = self._checkpoints.load()
        if done:
            LOG.info(f"resuming after step {done}")
        with ExitStack() as stack:
            files = None
            if processes.first:
                files = stack.enter_context(closing(HistoryFiles(self.run.folder, self.history)))
            reader = read_batches(
                sampler, self.card, self.config, done, processes.rank, processes.count, processes.device
            )
            batches = stack.enter_context(closing(reader))
            while True:
                if self._validation_due(done):
                    if not done:
                        self._save(done)
                    self._validate(files)
                if self._is_finished(done):
                    return
                self.history.steps.append(self._learner.step(done, next(batches)))
                done += 1
                self._report(files)
                leaving = processes.any(self.run.stopping)
                due = done % self.config.checkpoint_every == 0 or done == self._steps
                if leaving or due or self._validation_due(done):
                    self._save(done)
                if leaving:
                    raise self.run.stop_error(done)

    def best_network(self) -> REFNet:
        """Return the network of the best validation, or the last network without validation."""
        best, net = self.history.best, self._learner.net
        net.load_state_dict(self._checkpoints.load_best() if best else self._learner.final.state_dict())
        return net

    def _is_finished(self, done: int) -> bool:
        patience = self.config.patience
        return done >= self._steps or (patience is not None and self.history.since_best >= patience)

    def _validation_due(self, done: int) -> bool:
        validated = any(scores["step"] == done for scores in self.history.validations)
        return bool(self.scored) and not validated and validation_due(self.config, done)

    def _report(self, files: HistoryFiles | None) -> None:
        """Log and report the last step, in the first process."""
        if files is None:
            return
        step, scores = self.history.steps[-1], self.history.validations
        last = scores[-1] if scores else {}
        self.run.report(Progress(step.step, self._steps, step.loss, last.get("mean_iou"), last.get("step")))
        files.add_step(step)

    def _save(self, done: int) -> None:
        if self.run.processes.first:
            self._checkpoints.save(done)
        self.run.processes.wait()

    def _validate(self, files: HistoryFiles | None) -> None:
        """Score the held-out pixels in the first process, and share the scores with all processes."""
        step, run, net = len(self.history.steps), self.run, self._learner.final
        scores: dict[str, Any] = {}
        if run.processes.first:
            stop_callback = run.stop_callback(step)
            found = validate(net, self.card, self.scored, self.config, run.device, run.scan, stop_callback)
            scores = {"step": step} | found.to_dict()
        # All processes need the scores for early stopping.
        self.history.validations.append(run.processes.broadcast(scores))
        if files:
            files.add_validation(scores)
            if self.history.best is self.history.validations[-1]:
                self._checkpoints.save_best(net.state_dict())
            LOG.info(
                f"{f'step {step}' if step else 'start'}: validation mean IoU {scores['mean_iou']:.4f}, "
                f"overall accuracy {scores['overall_accuracy']:.4f}"
            )


def validation_due(config: TrainConfig, done: int) -> bool:
    """Return whether a validation is due after so many steps; initial weights are validated before the first one."""
    steps = config.schedule.steps
    every = config.validate_every or max(steps // 10, 1)
    return done % every == 0 or done == steps if done else config.init is not None


def count_validations(config: TrainConfig) -> int:
    """Return the number of validations of a training without early stopping."""
    return sum(validation_due(config, done) for done in range(config.schedule.steps + 1))
