"""Keras layers equal the torch functions, in value and gradient, on the backend that KERAS_BACKEND names (torch or jax)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pliant
from pliant.activations import ALL

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
from pliant.adapters import keras as bent  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

# Away from the values at which two backends may round to different sides of a kink; ties are tested apart.
X = np.concatenate([np.linspace(-6, 6, 41)[:-1] + 0.07, [-80.0, 95.0, -1e4, 1e4]]).astype("float32").reshape(11, 4)
VALUES = {"a": 1.3, "b": 0.6, "c": 0.2, "d": -0.1, "alpha": 1.2, "beta": 0.4, "weight": 0.3, "slope": 1.7}


def gradients(layer: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Output of a layer, and the gradients of sum(output * cos(x)) by input and by trainable weights."""
    backend = keras.backend.backend()
    if backend == "torch":
        t = torch.tensor(x, device=layer.weights[0].value.device if layer.weights else "cpu", requires_grad=True)
        y = layer(t)
        weights = [w.value for w in layer.trainable_weights]
        out = torch.autograd.grad((y * torch.cos(t.detach())).sum(), [t, *weights])
        first, *others = (o.cpu().numpy() for o in out)
        return y.detach().cpu().numpy(), first, others
    if backend == "jax":
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def loss(t: Any, weights: Any) -> Any:
            y, _ = layer.stateless_call(weights, fixed, t)
            return (y * jax.numpy.cos(jax.lax.stop_gradient(t))).sum()

        first, others = jax.grad(loss, argnums=(0, 1))(x, [v.value for v in layer.trainable_variables])
        return np.asarray(layer(x)), np.asarray(first), [np.asarray(o) for o in others]
    pytest.skip(f"gradients are tested on torch and jax, not on {backend}")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_value_and_gradient_are_those_of_the_torch_function(cls: Any, per_channel: bool) -> None:
    kinds = {c.name: pliant.Learned(VALUES[c.name]) for c in cls.coefficients}
    layer = getattr(bent, cls.__name__)(per_channel=per_channel, **kinds)
    layer.build(X.shape)
    y, dx, dw = gradients(layer, X)
    twin = cls(**kinds, channels=4 if per_channel else None)
    t = torch.tensor(X, requires_grad=True)
    expected = twin(t)
    grads = torch.autograd.grad((expected * torch.cos(t.detach())).sum(), [t, *twin.parameters()])
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, grads[0].numpy(), rtol=2e-5, atol=1e-5)
    assert len(dw) == len(grads) - 1 == len(cls.coefficients)
    for mine, torchs in zip(dw, grads[1:], strict=True):
        scale = max(1.0, float(torchs.abs().max()))
        np.testing.assert_allclose(mine / scale, torchs.numpy() / scale, rtol=1e-4, atol=2e-5)


def test_ties_and_zero_are_decided_alike() -> None:
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], dtype="float32")
    cases = [
        (bent.AReLU(a="learned(1)", b="learned(1)"), pliant.AReLU.released()),
        (bent.PReLU(), pliant.PReLU()),
        (bent.SReLU(beta="learned(0.25)"), pliant.SReLU(beta=pliant.Learned(0.25))),
        (bent.DSReLU(), pliant.DSReLU()),
        (bent.PELU(), pliant.PELU()),
    ]
    for layer, twin in cases:
        layer.build(x.shape)
        y, dx, dw = gradients(layer, x)
        t = torch.tensor(x, requires_grad=True)
        expected = twin(t)
        grads = torch.autograd.grad((expected * torch.cos(t.detach())).sum(), [t, *twin.parameters()])
        np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(dx, grads[0].numpy(), rtol=1e-5, atol=1e-6, err_msg=type(twin).__name__)
        for mine, torchs in zip(dw, grads[1:], strict=True):
            np.testing.assert_allclose(mine, torchs.numpy(), rtol=1e-5, atol=1e-6, err_msg=type(twin).__name__)


def test_every_activation_has_a_layer_with_the_defaults() -> None:
    for cls in ALL:
        layer = getattr(bent, cls.__name__)()
        assert layer.kinds == cls().kinds
        assert layer.__doc__.strip()
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(layer(X)), cls()(torch.tensor(X)).detach().numpy(), rtol=1e-5, atol=1e-5
        )


def test_half_precision_keeps_its_dtype_and_float32_weights() -> None:
    layer = bent.AReLU(dtype="mixed_bfloat16")
    y = layer(X)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {"float32"}


def test_refusals() -> None:
    with pytest.raises(pliant.DomainError):
        bent.SReLU(beta=-1.0)
    with pytest.raises(pliant.DomainError, match="per_channel"):
        bent.PReLU(weight=pliant.Learned((0.1, 0.2)))


def model_of(schedule: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), bent.DSReLU(slope=schedule), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.01, **options), loss="mse")
    return model


@pytest.mark.parametrize("accumulation", [None, 2])
def test_the_clock_follows_the_optimizer_and_goes_on_after_saving(accumulation: int | None, tmp_path: Path) -> None:
    schedule = pliant.Scheduled(pliant.Linear(2.0, 1.0))
    model = model_of(schedule, gradient_accumulation_steps=accumulation)
    slopes: list[float] = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            slopes.append(round(float(keras.ops.convert_to_numpy(self.model.layers[1].values()[0])[0]), 4))

    x, y = np.random.default_rng(0).normal(size=(40, 4)).astype("float32"), np.zeros((40, 1), "float32")
    options = {"batch_size": 4, "verbose": 0, "shuffle": False}
    model.fit(x, y, epochs=2, callbacks=[bent.Clock(), Record()], **options)
    per = accumulation or 1
    assert slopes == [round(2 - (i // per) / (20 // per), 4) for i in range(20)]

    model = model_of(schedule, gradient_accumulation_steps=accumulation)
    model.fit(x, y, epochs=1, callbacks=[bent.Clock(total_steps=20 // per)], **options)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    slopes.clear()
    again.fit(x, y, epochs=2, initial_epoch=1, callbacks=[bent.Clock(), Record()], **options)
    assert slopes == [round(2 - (i // per) / (20 // per), 4) for i in range(10, 20)]


def test_training_moves_every_learned_coefficient_and_a_saved_model_gives_the_same(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8),
            bent.AReLU(b="learned(0.2)", per_channel=True),
            bent.PELU(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    before = [w.numpy().copy() if hasattr(w, "numpy") else w for w in model.trainable_weights]
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    model.fit(x, x[:, :1], epochs=2, verbose=0)
    assert all(
        not np.array_equal(keras.ops.convert_to_numpy(w), b) for w, b in zip(model.trainable_weights, before, strict=True)
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
