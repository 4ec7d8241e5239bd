"""For the Transformers Trainer: a callback, decay groups, and our activations under names that a config can hold."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.activations import ACT2FN

from pliant.activation import Activation
from pliant.activations import ALL
from pliant.catalog import create, parse
from pliant.clock import Clock
from pliant.errors import DomainError
from pliant.groups import activation_parameters
from pliant.observe import Observer, observe

__all__ = ["PliantCallback", "register", "without_decay"]


class PliantCallback(TrainerCallback):
    """Steps a :class:`pliant.Clock` after each optimizer step of the Trainer.

    ::

        trainer = without_decay(Trainer(model=model, args=args, train_dataset=data, callbacks=[PliantCallback()]))

    Progress is in the checkpoints, so ``train(resume_from_checkpoint=True)`` goes on from there.

    Args:
        observe: options of :func:`pliant.observe` ({} for its defaults), or None not to observe. The rows are in
            ``callback.observer.rows``.
    """

    def __init__(self, *, observe: Mapping[str, Any] | None = None) -> None:
        self.options = observe
        self.clock: Clock | None = None
        self.observer: Observer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        """Build the clock, after a checkpoint has been loaded."""
        epochs = max(1, math.ceil(state.num_train_epochs))
        self.clock = Clock(model, state.max_steps, math.ceil(state.max_steps / epochs))
        if self.options is not None:
            if self.observer is not None:
                self.observer.close()
            self.observer = observe(model, **{"start": state.global_step, **self.options})

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step; called before the gradients are cleared, and not for batches whose gradients only accumulate."""
        if self.clock is not None:
            self.clock.step()
        if self.observer is not None:
            self.observer.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the observer's hooks out."""
        if self.observer is not None:
            self.observer.close()


def without_decay(trainer: Trainer) -> Trainer:
    """Keep the coefficients of activations out of the group that the Trainer decays. Otherwise it decays all but biases and
    norms, and an activation's coefficients with them.

    Args:
        trainer: any Trainer that has not made its optimizer yet. Changed, and returned.

    Raises:
        DomainError: the trainer has an optimizer already.
    """
    if trainer.optimizer is not None:
        raise DomainError(
            "without_decay was given a Trainer that has its optimizer already, with its groups made. Call it before train(); "
            "for an optimizer of your own use pliant.param_groups(model, weight_decay=...)."
        )
    asked = trainer.get_decay_parameter_names

    def names(model: nn.Module) -> list[str]:
        owned = {id(p) for p in activation_parameters(model)}
        exempt = {n for n, p in model.named_parameters() if id(p) in owned}
        return [n for n in asked(model) if n not in exempt]

    trainer.get_decay_parameter_names = names
    return trainer


def register(*specs: str) -> list[str]:
    """Make activations known to Transformers as ``pliant.<spec>``, for ``hidden_act`` and the like in a config.

    ::

        register()                              # all of Pliant's: pliant.arelu, pliant.srelu ...
        register("prelu[init=0.1]")             # and a variant: pliant.prelu[weight=learned(0.1)]

    A saved config holds the name alone: call this before loading it again.

    It also teaches ``from_pretrained`` to start those coefficients that a checkpoint does not hold, as when a pretrained GELU
    model is loaded with another ``hidden_act``. Transformers leaves what it does not know in whatever the memory held.

    Returns:
        The names registered.

    Raises:
        UnknownNameError, DomainError: as :func:`pliant.catalog.parse`.
    """
    if not hasattr(PreTrainedModel._initialize_weights, "pliant"):
        PreTrainedModel._initialize_weights = _starting_ours(PreTrainedModel._initialize_weights)
    names = []
    for spec in specs or [cls.__name__ for cls in ALL]:
        text = str(parse(spec))
        ACT2FN[f"pliant.{text}"] = functools.partial(create, text)
        names.append(f"pliant.{text}")
    return names


def _starting_ours(theirs: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(theirs)
    def initialize(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if isinstance(module, Activation) and not getattr(module, "_is_hf_initialized", False):
            state = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            loaded = [(t, t.detach().clone()) for t in state if getattr(t, "_is_hf_initialized", False)]
            if len(loaded) < len(state):
                module.reset_parameters()
                with torch.no_grad():
                    for tensor, value in loaded:
                        tensor.copy_(value)
            module._is_hf_initialized = True
            return
        theirs(self, module, *args, **kwargs)

    initialize.pliant = True  # type: ignore[attr-defined]
    return initialize
