"""Building the network of a trial, and telling two networks or activations of a user apart."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pliant.errors import PliantError
from pliant.lab import dropout

__all__ = ["ModelError", "Size", "construct", "hollow", "measure", "module_identity", "source_identity"]


class ModelError(PliantError, ValueError):
    """A network that does not do what the lab asks of it."""


def construct(
    function: Callable[..., Any],
    make: Callable[[], nn.Module],
    example: Tensor,
    classes: int,
    options: Mapping[str, Any],
    seed: int,
    name: str,
    *,
    multilabel: bool = False,
) -> tuple[nn.Module, list[nn.Module]]:
    """The network that ``function`` builds, in evaluation mode, and the activations that it asked for.

    Args:
        function: the network's function, see :mod:`pliant.lab.models`.
        make: makes the activation of one call site.
        example: two examples, shape (2, ...), of torch's default float.
        classes: C >= 2. With two the network may return one number or two for an example, else C.
        multilabel: an example can be of several classes, or of none: the network returns C numbers, also for two classes.
        seed: of torch's generator while the weights are drawn; the generator is left as it was.

    Raises:
        ModelError: the function does not return a network, never calls for an activation, has nothing to train, or the network
            does not return logits of the right shape.
    """
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        # An activation that draws random numbers while it is built must not shift the draws of the weights.
        with torch.random.fork_rng(devices=[]):
            made.append(make())
        return made[-1]

    shape = tuple(example.shape[1:])
    offered: dict[str, Any] = {"input_shape": shape, "outputs": 1 if classes == 2 and not multilabel else classes}
    try:
        told = {n: v for n, v in offered.items() if n in inspect.signature(function).parameters}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = function(activation, **told, **options)
        if not isinstance(network, nn.Module):
            raise ModelError(f"{name} returned {type(network).__name__}, but a torch.nn.Module was expected.")
        dropout.take_over(network)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = network.eval()(example)
    except PliantError:
        raise
    except Exception as error:
        raise ModelError(
            f"The network of {name} cannot be built and run on two examples of shape {shape}: {type(error).__name__}: {error}. "
            "The function is given activation; each call, activation(), makes a new one."
        ) from error
    if not made:
        raise ModelError(
            f"The network of {name} never called activation(), so every activation would give the same results. Call it "
            "once for each call site."
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise ModelError(f"The network of {name} has no parameter to train.")
    allowed = {(2, classes)} | ({(2, 1), (2,)} if classes == 2 and not multilabel else set())
    if not isinstance(logits, Tensor) or tuple(logits.shape) not in allowed:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"The network of {name} returned {given} for 2 examples of shape {shape}, but logits of shape "
            f"{' or '.join(map(str, sorted(allowed, key=len, reverse=True)))} were expected."
        )
    return network, made


class _NoDraws(TorchFunctionMode):
    """Draws no normal numbers: for tensors without values torch would import its compiler first, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        return (args[0] if args else given["tensor"]) if func.__name__ == "normal_" else func(*args, **given)


class Size(NamedTuple):
    """How large a network is."""

    parameters: int
    """Numbers that are trained, without those of activations."""
    activations: int
    """Activations that it asks for."""


def hollow(
    function: Callable[..., Any], input_shape: tuple[int, ...], outputs: int, **options: Any
) -> tuple[nn.Module, list[nn.Module]]:
    """The network that a function of :mod:`pliant.lab.models` builds, on the meta device: it has shapes and no values. And the
    activations that it asked for, which are identities.

    Raises:
        DomainError, UnknownNameError: as the function, for a shape or an option that it cannot use.
    """
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        made.append(nn.Identity())
        return made[-1]

    with torch.device("meta"), _NoDraws():
        return function(activation, input_shape=input_shape, outputs=outputs, **options), made


def measure(function: Callable[..., Any], input_shape: tuple[int, ...], outputs: int, **options: Any) -> Size:
    """How large a network is, without computing its weights.

    Raises:
        DomainError, UnknownNameError: as :func:`hollow`.
    """
    network, made = hollow(function, input_shape, outputs, **options)
    return Size(sum(p.numel() for p in network.parameters()), len(made))


def source_identity(thing: Any) -> str:
    """sha256 of what a function or class of a user's says: its source, defaults, and the values it has closed over.

    Raises:
        ModelError: it holds a value that cannot be written down, so that a change of it would go unnoticed.
    """
    return hashlib.sha256(json.dumps(_written(thing), sort_keys=True).encode()).hexdigest()


def _written(thing: Any) -> Any:
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, list | tuple):
        return [_written(v) for v in thing]
    if isinstance(thing, Mapping):
        return {str(k): _written(v) for k, v in thing.items()}
    if isinstance(thing, functools.partial):
        return ["partial", _written(thing.func), _written(thing.args), _written(thing.keywords)]
    if inspect.ismodule(thing):
        return thing.__name__
    if inspect.isclass(thing):
        return _text(thing)
    if inspect.isfunction(thing):
        cells = [c.cell_contents for c in thing.__closure__ or () if c.cell_contents is not thing]
        return [_text(thing), _written(thing.__defaults__), _written(thing.__kwdefaults__), _written(cells)]
    if inspect.isbuiltin(thing) or inspect.ismethod(thing):
        return thing.__qualname__
    raise ModelError(
        f"A function of the study holds the object {thing!r:.80}, whose changes could not be seen, so that old results would "
        "be taken for new ones. Give it numbers, text, functions or classes to work with, or write the value into the function."
    )


def _text(thing: Any) -> Any:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        # Typed into an interpreter: no source, but the code itself.
        code = getattr(thing, "__code__", None)
        if code is not None:
            return [code.co_code.hex(), repr([c for c in code.co_consts if not inspect.iscode(c)]), code.co_names]
        return f"{thing.__module__}.{thing.__qualname__}"


def module_identity(module: nn.Module) -> str:
    """sha256 of a module as it was built: its structure, its initial values, and the source of every class in it that is
    neither torch's nor Pliant's. A helper that changed shows here even though the user's function did not."""
    classes = {type(m) for m in module.modules()}
    own = sorted(str(_text(c)) for c in classes if c.__module__.partition(".")[0] not in ("torch", "pliant"))
    digest = hashlib.sha256(json.dumps([repr(module), own]).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
