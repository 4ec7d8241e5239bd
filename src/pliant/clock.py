"""One clock for all scheduled coefficients of a model."""

from __future__ import annotations

from torch import nn

from pliant.activation import Activation
from pliant.errors import DomainError

__all__ = ["Clock"]


def scheduled_activations(model: nn.Module) -> list[Activation]:
    """Every activation of ``model`` that has a scheduled coefficient, each once, in module order."""
    return [m for m in model.modules() if isinstance(m, Activation) and m.scheduled]


class Clock:
    """Moves every scheduled coefficient of a model along, one optimizer step at a time.

    ::

        clock = pliant.Clock(model, total_steps=epochs * len(loader))
        for x, y in batches:
            loss(model(x), y).backward()
            optimizer.step()
            clock.step()

    The clock holds the plan; how far training is, the model holds itself, in int64 buffers that its state_dict carries.
    Loading a checkpoint therefore restores progress and every scheduled value, with or without a clock, and a clock made
    before or after the loading goes on from there, towards its own ``total_steps``. ``model.eval()`` neither moves nor resets
    anything. Past the planned end a coefficient in units of ``fraction`` keeps its last value.

    Averaged models (``torch.optim.swa_utils.AveragedModel``, timm's ``ModelEmaV3``) follow by themselves, because they copy
    integers. ``AveragedModel(..., use_buffers=True)`` averages integers too: there give the clock both models,
    ``Clock(nn.ModuleList([model, averaged.module]), total_steps)``, and step it after the averaging.

    A model without scheduled coefficients is fine: the clock then does nothing, so that one training loop serves all
    activations. To move a part of a model only, give the clock that part.

    Args:
        model: the model, or the part of it, to move.
        total_steps: optimizer steps planned for the whole training, >= 1.
        steps_per_epoch: optimizer steps in one epoch; needed if a coefficient counts in epochs.

    Raises:
        DomainError: a count below 1; ``steps_per_epoch`` is needed and missing; the activations are at different steps.
    """

    def __init__(self, model: nn.Module, total_steps: int, steps_per_epoch: int | None = None) -> None:
        for name, value in (("total_steps", total_steps), ("steps_per_epoch", steps_per_epoch)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise DomainError(f"Clock was given {name}={value!r}; expected a whole number of optimizer steps, from 1 on.")
        self._activations = scheduled_activations(model)
        self._total = total_steps
        self._per_epoch = steps_per_epoch or 0
        if steps_per_epoch is None:
            for act in self._activations:
                for name, kind in act.scheduled.items():
                    if kind.unit != "fraction":
                        raise DomainError(
                            f"{type(act).__name__}.{name} is scheduled in units of {kind.unit!r}, so the clock has to know the "
                            "length of an epoch: pass steps_per_epoch, for example len(loader)."
                        )
        steps = {act.now()[0] for act in self._activations}
        if len(steps) > 1:
            raise DomainError(
                f"The scheduled activations of this model are at different steps {sorted(steps)}, so one clock cannot go on "
                "from there. Load one checkpoint into the whole model, or call reset_parameters() on the activations first."
            )
        for act in self._activations:
            act.seek(act.now()[0], self._total, self._per_epoch)

    def step(self) -> None:
        """Count one optimizer step. Writes to the device without waiting for it."""
        for act in self._activations:
            act.seek(act._now[0] + 1, self._total, self._per_epoch)

    @property
    def progress(self) -> float:
        """Steps taken / steps planned, at most 1; 0 for a model without scheduled coefficients."""
        if not self._activations:
            return 0.0
        return min(self._activations[0]._now[0] / self._total, 1.0)

    def __len__(self) -> int:
        """The number of activations that this clock moves."""
        return len(self._activations)

    def __repr__(self) -> str:
        return f"Clock(activations={len(self)}, progress={self.progress:.4g})"
