"""The loop of a training: steps, checkpoints and validations, until it is over."""

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
from refnet_cli.training.identity import what_training_depends_on
from refnet_cli.training.learner import Learner
from refnet_cli.training.run import Progress, Run, stopped
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.validation import validate

LOG = logging.getLogger(__name__)


class Trainer:
    """Trains a network until the steps are done or validations get no better.

    Parameters
    ----------
    config : TrainConfig
    card : Card
        Of the weights to be, without scores.
    learner : Learner
    scenes : sequence of LabelledScene
    run : Run
        Its folder must exist.
    """

    def __init__(
        self, config: TrainConfig, card: Card, learner: Learner, scenes: Sequence[LabelledScene], run: Run
    ) -> None:
        self.config, self.card, self.run = config, card, run
        self.scored = [scene for scene in scenes if scene.scored]
        """Those with labels that are held out."""
        self.history = History()
        self._learner = learner
        self._checkpoints = Checkpoints(
            run.folder / "checkpoints",
            what_training_depends_on(config, scenes),
            learner.parts | {"history": self.history},
        )

    def train(self, sampler: Sampler) -> None:
        """Train, from the last checkpoint on if there is one.

        Raises
        ------
        TryAgainError
            If it was to leave; a checkpoint is written before.
        InputError
            If the loss is not finite any more.
        """
        processes = self.run.processes
        if processes.first:
            self._checkpoints.remove_unfinished()
        done = self._checkpoints.load()
        if done:
            LOG.info(f"going on after step {done}")
        with ExitStack() as stack:
            files = None
            if processes.first:
                files = stack.enter_context(closing(HistoryFiles(self.run.folder, self.history)))
            batches = stack.enter_context(
                closing(read_batches(sampler, self.card, self.config, done, processes.rank, processes.count))
            )
            while True:
                if self._is_to_validate(done):
                    self._validate(files)
                if self._is_over(done):
                    return
                self.history.steps.append(self._learner.step(done, next(batches)))
                done += 1
                self._report(files)
                leaving = processes.any(self.run.stopping)
                due = done % self.config.checkpoint_every == 0 or done == self.config.steps
                if leaving or due or self._is_to_validate(done):
                    self._save(done)
                if leaving:
                    raise stopped(done)

    def best_network(self) -> REFNet:
        """Return the network of the best validation; the last one where nothing is validated."""
        best, net = self.history.best, self._learner.net
        net.load_state_dict(self._checkpoints.load_best() if best else self._learner.kept.state_dict())
        return net

    def _is_over(self, done: int) -> bool:
        patience = self.config.patience
        return done >= self.config.steps or (patience is not None and self.history.fruitless >= patience)

    def _is_to_validate(self, done: int) -> bool:
        every = self.config.validate_every or max(self.config.steps // 10, 1)
        due = done > 0 and (done % every == 0 or done == self.config.steps)
        return due and bool(self.scored) and not any(scores["step"] == done for scores in self.history.validations)

    def _report(self, files: HistoryFiles | None) -> None:
        """Report the last step, in the first process."""
        if files is None:
            return
        step, scores = self.history.steps[-1], self.history.validations
        self.run.report(
            Progress(step.step, self.config.steps, step.loss, scores[-1]["mean_iou"] if scores else None)
        )
        files.add_step(step)

    def _save(self, done: int) -> None:
        if self.run.processes.first:
            self._checkpoints.save(done)
        self.run.processes.wait()

    def _validate(self, files: HistoryFiles | None) -> None:
        """Score what is held out, in the first process."""
        step, run, net = len(self.history.steps), self.run, self._learner.kept
        scores: dict[str, Any] = {}
        if run.processes.first:
            leave_if_asked = run.leave_if_asked(step)
            found = validate(net, self.card, self.scored, self.config, run.device, run.scan, leave_if_asked)
            scores = {"step": step} | found.to_dict()
        # All processes must know the scores, which decide when to stop.
        self.history.validations.append(run.processes.from_first(scores))
        if files:
            files.add_validation(scores)
            if self.history.best is self.history.validations[-1]:
                self._checkpoints.save_best(net.state_dict())
            LOG.info(
                f"step {step}: validation mean IoU {scores['mean_iou']:.4f}, "
                f"overall accuracy {scores['overall_accuracy']:.4f}"
            )
