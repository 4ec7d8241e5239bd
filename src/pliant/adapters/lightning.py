"""A Lightning callback that moves what is scheduled, and watches what the activations do if asked to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from pliant.clock import Clock
from pliant.errors import DomainError
from pliant.observe import Observer, observe

__all__ = ["PliantCallback"]


class PliantCallback(pl.Callback):
    """Steps a :class:`pliant.Clock` after each optimizer step, whatever the gradient accumulation.

    ::

        trainer = lightning.Trainer(max_epochs=10, callbacks=[PliantCallback(observe={"every": 50})])

    Progress is in the model's state_dict, so ``fit(ckpt_path=...)`` goes on from where the checkpoint was. With manual
    optimization, a batch in which any optimizer stepped counts as one step.

    Args:
        total_steps: optimizer steps planned. Default: what the trainer estimates; needed if training has no planned end.
        observe: options of :func:`pliant.observe` ({} for its defaults), or None not to observe. Its rows go to the
            trainer's loggers as ``site/quantity``, and stay in ``callback.observer.rows``.

    Raises (when training starts):
        DomainError: the trainer has no planned end and ``total_steps`` was not given.
    """

    def __init__(self, total_steps: int | None = None, *, observe: Mapping[str, Any] | None = None) -> None:
        self.total_steps, self.options = total_steps, observe
        self.clock: Clock | None = None
        self.observer: Observer | None = None
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the clock, after a checkpoint has been loaded."""
        total = self.total_steps or trainer.estimated_stepping_batches
        if not 1 <= total < math.inf:
            raise DomainError(
                f"This trainer plans {total!r} optimizer steps, so progress has no end to count towards. Set max_epochs or "
                "max_steps of the Trainer, or pass total_steps to PliantCallback."
            )
        batches = trainer.num_training_batches
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if 1 <= batches < math.inf else None
        self.clock = Clock(pl_module, int(total), per_epoch)
        self._seen = trainer.global_step
        if self.options is not None:
            self.observer = observe(pl_module, **{"start": trainer.global_step, **self.options})

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Step the clock if this batch ended in an optimizer step, and not only in gradients that accumulate."""
        if trainer.global_step == self._seen or self.clock is None:
            return
        self._seen = trainer.global_step
        self.clock.step()
        if self.observer is not None and (rows := self.observer.step()):
            metrics = {f"{row['site']}/{row['quantity']}": row["value"] for row in rows}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Take the observer's hooks out."""
        if self.observer is not None:
            self.observer.close()

    def on_exception(self, *_: Any) -> None:
        """Take the observer's hooks out: after an exception Lightning tears no callback down."""
        self.teardown()
