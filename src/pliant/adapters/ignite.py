"""An Ignite handler that moves what is scheduled, and watches what the activations do if asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from pliant.clock import Clock
from pliant.errors import DomainError
from pliant.observe import Observer, observe

__all__ = ["PliantHandler"]


class PliantHandler:
    """Steps a :class:`pliant.Clock` after each optimizer step of a training engine.

    ::

        PliantHandler(model).attach(trainer)

    Args:
        model: the model that the engine trains.
        accumulation: iterations per optimizer step, as in ``create_supervised_trainer(gradient_accumulation_steps=...)``.
        total_steps: optimizer steps planned. Default: ``max_epochs * epoch_length // accumulation``.
        observe: options of :func:`pliant.observe` ({} for its defaults), or None not to observe. The rows are in
            ``handler.observer.rows``; hooks come out when the run completes, or with ``handler.observer.close()``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        accumulation: int = 1,
        total_steps: int | None = None,
        observe: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.accumulation, self.total_steps, self.options = model, accumulation, total_steps, observe
        self.clock: Clock | None = None
        self.observer: Observer | None = None

    def attach(self, engine: Engine) -> None:
        """Add the handler to a training engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.accumulation), self._step)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        length, epochs = engine.state.epoch_length, engine.state.max_epochs
        if self.total_steps is None and (length is None or epochs is None):
            raise DomainError(
                "This engine does not know its epoch_length and max_epochs, so progress has no end to count towards. Pass "
                "total_steps to PliantHandler."
            )
        total = self.total_steps or max(1, length * epochs // self.accumulation)
        self.clock = Clock(self.model, total, max(1, length // self.accumulation) if length else None)
        if self.options is not None:
            start = engine.state.iteration // self.accumulation
            self.observer = observe(self.model, **{"start": start, **self.options})

    def _step(self, engine: Engine) -> None:
        if self.clock is not None:
            self.clock.step()
        if self.observer is not None:
            self.observer.step()

    def _end(self, engine: Engine) -> None:
        if self.observer is not None:
            self.observer.close()
