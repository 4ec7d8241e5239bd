"""Networks of torchvision and timm by name, with random weights and their activations exchanged."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from pliant.errors import DomainError, MissingExtraError, UnknownNameError, unknown
from pliant.lab.models.layers import Activation
from pliant.swap import Site, SwapError, plan, swap_
from pliant.swap.families import FAMILIES

__all__ = ["LIBRARIES", "VERSION", "find", "release"]

VERSION = 1
"""Bumped by hand when the way in which these networks are built or their activations found changes numbers."""

_FILES = ("weights", "pretrained", "checkpoint", "cache", "progress", "hf", "url", "file")
"""How options begin with which a library would fetch or unpickle weights: a file of weights is a program of a stranger's, and a
study that starts from weights compares no activations."""

RELU_FAMILY = ("relu", "relu6")


def _torchvision(
    model: str,
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    replace: str = "auto",
    **options: Any,
) -> nn.Module:
    """Any classifier of torchvision, as torchvision:NAME, with random weights and its activations exchanged.

    Images have three channels. Auxiliary heads are left out; ``image_size`` of transformers follows the data.

    Args:
        activation: called once for each call site that is exchanged.
        input_shape: (3, H, W).
        replace: the families of activations to exchange, such as "relu", "gelu" or "relu,hardswish" (names as in
            ``pliant.swap.families.FAMILIES``). "auto" is ReLU and ReLU6, where the network calls no others; else an error that
            names them. Gates, whose output multiplies a feature map, stay.
        options: go to torchvision's builder, for example ``dropout``.

    The plan of the exchange is text in the network's attribute ``activation_plan``.
    """
    _refuse_files(f"torchvision:{model}", options)
    library = _library("torchvision").models
    channels, height, width = _image(f"torchvision:{model}", input_shape)
    if channels != 3:
        raise DomainError(
            f"torchvision:{model} takes images of 3 channels, but the data have {channels}. timm's networks take any number: "
            f"try timm:{model}."
        )
    sizes: dict[str, Any] = {}
    if model in ("googlenet", "inception_v3"):
        sizes = {"aux_logits": False, "init_weights": True}
    elif model.startswith("vit_"):
        sizes = {"image_size": height}
    elif model.startswith("maxvit"):
        sizes = {"input_size": (height, width)}
    network = library.get_model(model, weights=None, num_classes=outputs, **{**sizes, **options})
    return _exchange(f"torchvision:{model}", network, activation, input_shape, replace)


def _timm(
    model: str,
    activation: Activation,
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    replace: str = "auto",
    **options: Any,
) -> nn.Module:
    """Any classifier of timm, as timm:NAME, with random weights and its activations exchanged.

    Images may have any number of channels; ``img_size`` of networks for one size follows the data.

    Args:
        activation: called once for each call site that is exchanged.
        input_shape: (C, H, W).
        replace: the families of activations to exchange, such as "relu", "gelu" or "relu,hardswish" (names as in
            ``pliant.swap.families.FAMILIES``). "auto" is ReLU and ReLU6, where the network calls no others; else an error that
            names them. Gates, whose output multiplies a feature map, stay.
        options: go to ``timm.create_model``, for example ``drop_rate``.

    The plan of the exchange is text in the network's attribute ``activation_plan``.
    """
    _refuse_files(f"timm:{model}", options)
    library = _library("timm")
    channels, height, width = _image(f"timm:{model}", input_shape)
    known = library.get_pretrained_cfg(model, allow_unregistered=False)
    sizes = {"img_size": (height, width)} if known is not None and known.fixed_input_size else {}
    given = {"num_classes": outputs, "in_chans": channels, **sizes, **options}
    network = library.create_model(model, pretrained=False, **given)
    return _exchange(f"timm:{model}", network, activation, input_shape, replace)


LIBRARIES: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm}
"""What stands before the colon of a name, and what builds the network that stands after it."""


def find(name: str) -> Callable[..., nn.Module]:
    """The function that builds the network ``library:model``; it takes what the functions of ``models.ALL`` take.

    Raises:
        UnknownNameError: there is no such library, or no such classifier in it. MissingExtraError: it is not installed.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES:
        raise unknown("library of networks", library, LIBRARIES)
    known = _names(library)
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        # Not all of them, as elsewhere: there are more than a thousand.
        where = "torchvision.models.list_models(torchvision.models)" if library == "torchvision" else "timm.list_models()"
        raise UnknownNameError(f"{library} has no classifier named {model!r}. {hint}{where} lists all {len(known)}.")
    return functools.partial(LIBRARIES[library], model)


def release(name: str) -> str:
    """The library that ``name`` is of and its version: its networks may change with it.

    Raises:
        MissingExtraError: it is not installed.
    """
    library = name.partition(":")[0]
    # What follows "+" says how a release was built, not what is in it.
    return f"{library} {str(_library(library).__version__).partition('+')[0]}"


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(
            f"Networks named {name}:... come from {name}, which is not installed: run pip install {name}."
        ) from None


def _names(library: str) -> Collection[str]:
    found = _library(library)
    names: list[str] = found.models.list_models(module=found.models) if library == "torchvision" else found.list_models()
    return names


def _refuse_files(name: str, options: Collection[str]) -> None:
    for option in options:
        if option.startswith(_FILES):
            raise DomainError(
                f"{name} was given the option {option!r}, which would load weights from a file or a server. Networks of a "
                "study start from random weights: leave it out."
            )


def _image(name: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise DomainError(
            f"{name} takes images of shape (channels, height, width), but one example has shape {tuple(input_shape)}."
        )
    return input_shape[0], input_shape[1], input_shape[2]


def _exchange(name: str, network: nn.Module, activation: Activation, input_shape: tuple[int, ...], replace: str) -> nn.Module:
    families = [f.name for f in FAMILIES]
    chosen = RELU_FAMILY if replace == "auto" else tuple(part.strip() for part in replace.split(","))
    for family in chosen:
        if family not in families:
            raise unknown("family of activations", family, [*families, "auto"])
    made: dict[Site, nn.Module] = {}

    def at(site: Site) -> nn.Module:
        # A plan builds what it describes, and the swap builds again; the lab must see each activation made once.
        if site not in made:
            made[site] = activation()
        return made[site]

    # Any values do: it is the calls that are sought. Random ones would shift the draws of whoever counts on the seed.
    example = torch.linspace(-1, 1, 2 * input_shape[0] * input_shape[1] * input_shape[2]).reshape(2, *input_shape)
    try:
        found = plan(network, dict.fromkeys(families, at), example=example, include=lambda s: _family(s) in chosen)
    except SwapError as error:
        raise DomainError(f"{name} cannot be used for examples of shape {tuple(input_shape)}. {error}") from error
    others = sorted({_family(s) for s in found.left if s.why == "not included" and not s.call.gate})
    if not len(found) or (replace == "auto" and others):
        ours = sorted({_family(s) for s in found})
        raise DomainError(
            f"{name} calls {' and '.join([*ours, *others]) or 'no activation'}, and was asked to exchange "
            f"{'the ReLU family alone' if replace == 'auto' else replace}. Say which with the option replace, for example "
            f'replace="{",".join([*ours, *others]) or "gelu"}".'
        )
    swapped = swap_(network, found)
    network.__dict__["activation_plan"] = str(swapped)
    return network


def _family(site: Site) -> str:
    return site.rule.family.name if site.rule.family is not None else ""
