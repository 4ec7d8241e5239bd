"""Keras 3: a layer per activation on any backend, and the callback that drives scheduled ones.

The formulas are written once more, in ``keras.ops``, because a torch function cannot run on the other backends; the tests hold
each against :mod:`pliant.functional` in value and gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

import pliant
from pliant import catalog
from pliant.activation import Activation
from pliant.coefficients import CoefficientLike, Fixed, Learned, Scheduled
from pliant.errors import DomainError

__all__ = [
    "PELU",
    "AReLU",
    "ASigmoid",
    "ATanh",
    "AffineReLU",
    "Clock",
    "DSReLU",
    "FReLU",
    "PReLU",
    "SReLU",
    "Swish",
]


class BentLayer(keras.layers.Layer):
    """What the layers below share. A layer takes the coefficients of the torch activation of its name, of the same kinds.

    Args:
        **coefficients: a number (fixed), Learned or Scheduled, or the text of one, as in ``"learned(0.25)"``.
        per_channel: learn one value per channel, on the last axis, instead of one per layer.
        name, dtype, trainable: as for every Keras layer.

    Shape:
        Input and output: any shape, floating point. Half precision is computed in float32.

    Raises:
        TypeError, DomainError: as the torch activation. One number per channel as a constant or a start is not supported.
    """

    bends: ClassVar[type[Activation]]

    def __init__(self, *, per_channel: bool = False, **given: Any) -> None:
        names = [c.name for c in self.bends.coefficients]
        mine = {n: given.pop(n) for n in names if n in given}
        super().__init__(**given)
        self.per_channel = per_channel
        # The torch activation checks, and knows the defaults.
        read = {n: _read(v) for n, v in mine.items()}
        self.kinds: dict[str, Fixed | Learned | Scheduled] = self.bends(**read).kinds
        if any(isinstance(getattr(k, "value", getattr(k, "init", 0.0)), tuple) for k in self.kinds.values()):
            raise DomainError(
                f"{type(self).__name__} in Keras was given one number per channel; give one number and per_channel=True."
            )

    def build(self, input_shape: Any) -> None:
        """Make the weights: float32 whatever the policy, so that sums for their gradients are."""
        shape = (input_shape[-1],) if self.per_channel else (1,)
        self._held: dict[str, Any] = {}
        for c in self.bends.coefficients:
            kind = self.kinds[c.name]
            if isinstance(kind, Fixed):
                continue
            learned = isinstance(kind, Learned)
            start: Any = kind.init if isinstance(kind, Learned) else kind.schedule(0.0)
            if isinstance(kind, Learned) and c.is_raw(kind):
                start = c.domain.unconstrain(start)
            self._held[c.name] = self.add_weight(
                name=c.place(kind) if learned else c.name,
                shape=shape if learned else (1,),
                initializer=keras.initializers.Constant(start),
                trainable=learned,
                dtype="float32",
                autocast=False,
            )
        self.built = True

    def values(self) -> list[Any]:
        """The coefficients in the order of the function: numbers, or tensors of shape (1,) or (C,)."""
        found: list[Any] = []
        for c in self.bends.coefficients:
            kind = self.kinds[c.name]
            if isinstance(kind, Fixed):
                found.append(kind.value)
                continue
            value = ops.convert_to_tensor(self._held[c.name])
            raw = isinstance(kind, Learned) and c.is_raw(kind)
            found.append(c.domain.low + ops.softplus(value) if raw else value)
        return found

    def call(self, inputs: Any) -> Any:
        """The function, elementwise."""
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        x = ops.cast(inputs, "float32") if dtype in ("float16", "bfloat16") else inputs
        values = [v if isinstance(v, float) else ops.cast(v, x.dtype) for v in self.values()]
        return ops.cast(self.formula(x, *values), dtype)

    @staticmethod
    def formula(x: Any, *values: Any) -> Any:
        """The function in keras.ops, of ``x`` and coefficients that broadcast against its last axis."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What a saved model holds: the coefficients as text."""
        written = {n: catalog._write(k.value if isinstance(k, Fixed) else k) for n, k in self.kinds.items()}
        return {**super().get_config(), "per_channel": self.per_channel, **written}

    def seek(self, step: int, total: int, steps_per_epoch: int) -> None:
        """Move what is scheduled to a point of training."""
        for name, kind in self.kinds.items():
            if isinstance(kind, Scheduled) and self.built:
                self._held[name].assign([kind.schedule(kind.time(step, total, steps_per_epoch))])


def _read(value: CoefficientLike | str) -> Any:
    return catalog._read(value, value) if isinstance(value, str) else value


def _where_positive(x: Any, above: Any, below: Any) -> Any:
    return ops.where(x > 0, above, below)


def _negative_part(x: Any) -> Any:
    # Large x would overflow in the branch that is not taken, and its gradient there would be 0 * inf.
    return ops.where(x > 0, ops.zeros_like(x), x)


def _keras(cls: type[BentLayer]) -> type[BentLayer]:
    cls.__doc__ = f"{(cls.bends.__doc__ or '').partition(chr(10))[0]} :class:`pliant.{cls.__name__}` for Keras."
    registered: type[BentLayer] = keras.saving.register_keras_serializable(package="pliant")(cls)
    return registered


@_keras
class DSReLU(BentLayer):
    bends = pliant.DSReLU

    @staticmethod
    def formula(x: Any, slope: Any) -> Any:
        return _where_positive(x, slope * x, x)


@_keras
class SReLU(BentLayer):
    bends = pliant.SReLU

    @staticmethod
    def formula(x: Any, alpha: Any, beta: Any) -> Any:
        return _where_positive(x, alpha * x, beta * ops.expm1(_negative_part(x)))


@_keras
class AReLU(BentLayer):
    bends = pliant.AReLU

    @staticmethod
    def formula(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        u, v = a * x + c, b * x + d
        return ops.where(u >= v, u, v)


@_keras
class ASigmoid(BentLayer):
    bends = pliant.ASigmoid

    @staticmethod
    def formula(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return b * ops.sigmoid(a * x + c) + d


@_keras
class ATanh(BentLayer):
    bends = pliant.ATanh

    @staticmethod
    def formula(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return b * ops.tanh(a * x + c) + d


@_keras
class AffineReLU(BentLayer):
    bends = pliant.AffineReLU

    @staticmethod
    def formula(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return b * ops.relu(a * x + c) + d


@_keras
class PReLU(BentLayer):
    bends = pliant.PReLU

    @staticmethod
    def formula(x: Any, weight: Any) -> Any:
        return _where_positive(x, x, weight * x)


@_keras
class Swish(BentLayer):
    bends = pliant.Swish

    @staticmethod
    def formula(x: Any, beta: Any) -> Any:
        return x * ops.sigmoid(beta * x)


@_keras
class PELU(BentLayer):
    bends = pliant.PELU

    @staticmethod
    def formula(x: Any, a: Any, b: Any) -> Any:
        return ops.where(x >= 0, (a / b) * x, a * ops.expm1(_negative_part(x) / b))


@_keras
class FReLU(BentLayer):
    bends = pliant.FReLU

    @staticmethod
    def formula(x: Any, b: Any) -> Any:
        return ops.relu(x) + b


class Clock(keras.callbacks.Callback):
    """Moves every scheduled coefficient of a model while ``fit`` runs, by the optimizer's own count of its steps.

    ::

        model.fit(x, y, epochs=10, callbacks=[pliant.adapters.keras.Clock()])

    The count is saved with the optimizer, so a whole saved model goes on from there; say ``initial_epoch`` as Keras wants it.

    Args:
        total_steps: optimizer steps planned. Default: epochs x batches, divided by the optimizer's gradient accumulation.

    Raises (when training starts):
        DomainError: the number of batches is not known and ``total_steps`` was not given.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        super().__init__()
        self.total_steps = total_steps
        self._plan = (0, 0)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the plan, and go to where the optimizer is."""
        epochs, batches = self.params.get("epochs"), self.params.get("steps")
        if self.total_steps is None and not (epochs and batches):
            raise DomainError(
                "fit does not say how many batches an epoch has, so progress has no end to count towards. Pass "
                "steps_per_epoch to fit, or total_steps to Clock."
            )
        every = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        self._plan = (self.total_steps or max(1, epochs * batches // every), max(1, (batches or 0) // every))
        self._move()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Follow the optimizer."""
        self._move()

    def _move(self) -> None:
        # Asking for self.model brings variables up to date on JAX, where training holds them elsewhere.
        model = self.model
        step = int(ops.convert_to_numpy(model.optimizer.iterations))
        for layer in model._flatten_layers():
            if isinstance(layer, BentLayer):
                layer.seek(step, *self._plan)
