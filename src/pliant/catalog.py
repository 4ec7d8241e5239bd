"""Names at the edge: from ``"prelu[weight=learned(0.1)]"`` to an activation, and back to one canonical spelling.

A spec is a name, and in brackets the name of a variant and any options::

    relu                          leakyrelu[negative_slope=0.2]      gelu[approximate=tanh]
    dsrelu[released]              dsrelu[released,endpoints=exact]    dsrelu[slope=cosine(2,1)]
    srelu[beta=0.1]               srelu[beta=learned(0.25)]           arelu[a=learned(1),b=0.2]

``prelu[init=0.1]`` is short for ``prelu[weight=learned(0.1)]`` where there is one coefficient.

Only this module reads such strings; everything below it is given objects.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pliant import schedules
from pliant.activation import Activation
from pliant.activations import ALL as OURS
from pliant.coefficients import Fixed, Learned, Scheduled
from pliant.errors import DomainError, PliantError, unknown

__all__ = ["ALL", "Entry", "Spec", "create", "parse"]


@dataclass(frozen=True)
class Entry:
    """One activation that can be asked for by name."""

    name: str
    display: str
    factory: Callable[..., nn.Module]
    source: str
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, Callable[..., nn.Module]] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    """Options that a label always names, given or not: results for LeakyReLU mean nothing without the slope."""

    @property
    def version(self) -> int:
        """The version of the numbers it gives; torch's own have none beside torch's."""
        return getattr(self.factory, "version", 0)

    @property
    def summary(self) -> str:
        """The first line of the class's documentation."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


def _ours(cls: type[Activation]) -> Entry:
    variants = {name: getattr(cls, name) for name in cls.variants}
    return Entry(cls.__name__.lower(), cls.__name__, cls, cls.source, cls.aliases, variants, cls.shown)


def _torch(cls: type[nn.Module], source: str, *aliases: str, shown: tuple[str, ...] = ()) -> Entry:
    return Entry(cls.__name__.lower(), cls.__name__, cls, source, aliases, {}, shown)


_ENTRIES = (
    *map(_ours, OURS),
    _torch(nn.ReLU, "torch"),
    _torch(nn.LeakyReLU, "torch", "leaky_relu", "lrelu", "leaky", shown=("negative_slope",)),
    _torch(nn.ELU, "torch", shown=("alpha",)),
    _torch(nn.GELU, "torch"),
    _torch(nn.SiLU, "torch"),
    _torch(nn.Mish, "torch"),
    _torch(nn.SELU, "torch"),
    _torch(nn.CELU, "torch", shown=("alpha",)),
    _torch(nn.Sigmoid, "torch"),
    _torch(nn.Tanh, "torch"),
    _torch(nn.Softplus, "torch"),
    _torch(nn.Softsign, "torch"),
    _torch(nn.ReLU6, "torch"),
    _torch(nn.Hardtanh, "torch"),
    _torch(nn.Hardsigmoid, "torch"),
    _torch(nn.Hardswish, "torch"),
    _torch(nn.LogSigmoid, "torch"),
    _torch(nn.Tanhshrink, "torch"),
    _torch(nn.Identity, "torch", "linear", "none"),
)

ALL: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every activation by its canonical name."""


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


_BY_KEY = {_key(n): e for e in _ENTRIES for n in (e.name, *e.aliases)}

_SCHEDULES: dict[str, Callable[..., schedules.Schedule]] = {
    "constant": schedules.Constant,
    "linear": schedules.Linear,
    "cosine": schedules.Cosine,
    "exponential": schedules.Exponential,
    "logistic": schedules.Logistic,
}


@dataclass(frozen=True)
class Spec:
    """A parsed spec: an entry of the catalogue, a variant of it and its options."""

    name: str
    variant: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inside = [self.variant] if self.variant else []
        inside += [f"{k}={_write(v)}" for k, v in self.options]
        return f"{self.name}[{','.join(inside)}]" if inside else self.name

    @property
    def entry(self) -> Entry:
        """What the catalogue holds under this name."""
        return ALL[self.name]

    @property
    def label(self) -> str:
        """What tables and charts show, for example ``LeakyReLU(0.01)`` or ``DSReLU released``; long numbers in four digits."""
        entry = self.entry
        given = dict(self.options)
        parameters = inspect.signature(self._factory).parameters
        words = [_shown(given.pop(n, parameters[n].default)) for n in entry.shown if n in parameters]
        words += [f"{k}={_shown(v)}" for k, v in given.items()]
        return f"{self._title}({', '.join(words)})" if words else self._title

    @property
    def _factory(self) -> Callable[..., nn.Module]:
        return self.entry.variants[self.variant] if self.variant else self.entry.factory

    def create(self, **extra: Any) -> nn.Module:
        """A new module. ``extra`` goes to the constructor beside the options, for example ``channels`` or ``device``."""
        try:
            module = self._factory(**dict(self.options), **extra)
            if not isinstance(module, Activation):
                # torch's own activations look at their options only when they run.
                module(torch.zeros(1))
        except PliantError:
            raise
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            # Hardtanh asserts that its bounds are in order, in some versions of torch without a word.
            what = str(error).partition("\n")[0].rstrip(".") or f"torch refuses {dict(self.options)}"
            given = f" with {', '.join(extra)}" if extra else ""
            raise DomainError(
                f"The activation {str(self)!r}{given} cannot be built: {what}. Options of {self._title}: "
                f"{', '.join(_options(self._factory)) or 'none'}."
            ) from None
        return module

    @property
    def _title(self) -> str:
        return f"{self.entry.display} {self.variant}" if self.variant else self.entry.display


def _options(factory: Callable[..., nn.Module]) -> dict[str, Any]:
    """What a spec may set, with the defaults: not where a module lives and in which dtype, nor that it destroys its input."""
    parameters = inspect.signature(factory).parameters
    return {n: p.default for n, p in parameters.items() if n not in ("inplace", "device", "dtype")}


def _shown(value: Any) -> str:
    return re.sub(r"\d+\.\d{6,}(?:e[+-]?\d+)?", lambda number: f"{float(number[0]):.4g}", _write(value))


def _write(value: Any) -> str:
    match value:
        case Learned(init=v, constrain=constrain):
            return f"learned({_write(v)}{'' if constrain else ',constrain=false'})"
        case Scheduled(schedule=schedule, unit=unit):
            given = ",".join(_write(v) for v in vars(schedule).values())
            unit_text = "" if unit == "fraction" else f",unit={unit}"
            return f"{type(schedule).__name__.lower()}({given}{unit_text})"
        case bool():
            return str(value).lower()
        case float():
            # Every digit, because a spec is an identity; + 0.0 makes -0.0 a plain 0.
            return repr(value + 0.0).removesuffix(".0")
        case _:
            return str(value)


def _read(text: str, whole: str) -> Any:
    text = text.strip()
    if call := re.fullmatch(r"([a-z_]+)\((.*)\)", text, re.IGNORECASE):
        kind, inside = call[1].lower(), call[2]
        positional, named = [], {}
        for part in _split(inside, whole):
            key, sign, value = part.partition("=")
            if sign:
                named[key.strip()] = _read(value, whole)
            else:
                positional.append(_read(part, whole))
        try:
            if kind == "learned":
                return Learned(*positional, **named)
            if kind == "fixed":
                # A bare number means the same; one of the two has to be the canonical form.
                return Fixed(*positional, **named).value
            if kind in _SCHEDULES:
                unit = named.pop("unit", "fraction")
                return Scheduled(_SCHEDULES[kind](*positional, **named), unit)
        except TypeError as error:
            raise DomainError(f"{text!r} in the activation {whole!r} cannot be built: {str(error).rstrip('.')}.") from None
        raise unknown("kind of coefficient", kind, ["fixed", "learned", *_SCHEDULES])
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _split(text: str, whole: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            break
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise DomainError(
            f"The brackets in the activation {whole!r} do not match; write for example srelu[beta=learned(0.25)]."
        )
    parts.append(text[start:])
    return [p.strip() for p in parts if p.strip()]


def parse(text: str) -> Spec:
    """Read a spec and give its canonical form: ``str(parse(text))`` reads back as the same spec, and however the name, the
    numbers and the order of the options were written, it is the same text. A variant keeps its name, even where it equals
    the default.

    Raises:
        UnknownNameError: no activation, variant or option of that name; the message holds the nearest names.
        DomainError: the text is not of the form ``name[variant,option=value,...]``.
    """
    match = re.fullmatch(r"\s*([\w\- ]+?)\s*(?:\[(.*)\])?\s*", text)
    if match is None:
        raise DomainError(
            f"The activation {text!r} is not of the form name[variant,option=value,...], as in dsrelu[released] or "
            "leakyrelu[negative_slope=0.2]."
        )
    entry = _BY_KEY.get(_key(match[1]))
    if entry is None:
        raise unknown("activation", match[1], ALL)
    variant, options = None, {}
    for part in _split(match[2] or "", text):
        key, sign, value = part.partition("=")
        if sign:
            if key.strip() in options:
                raise DomainError(f"The activation {text!r} gives the option {key.strip()!r} twice; give it once.")
            options[key.strip()] = _read(value, text)
        elif part not in entry.variants:
            if not entry.variants:
                raise DomainError(
                    f"{entry.display} has no variants, but {text!r} asks for {part!r}. Give options as name=value."
                )
            raise unknown(f"variant of {entry.display}", part, entry.variants)
        elif variant is not None:
            raise DomainError(f"The activation {text!r} names two variants, {variant!r} and {part!r}; name one.")
        else:
            variant = part
    if "init" in options and isinstance(entry.factory, type) and issubclass(entry.factory, Activation) and variant is None:
        names = [c.name for c in entry.factory.coefficients]
        if len(names) == 1:
            if names[0] in options:
                raise DomainError(f"The activation {text!r} gives both 'init' and {names[0]!r}; they are the same, give one.")
            options[names[0]] = Learned(options.pop("init"))
    defaults = _options(entry.variants[variant] if variant else entry.factory)
    for option in options:
        if option not in defaults:
            title = f"{entry.display} {variant}" if variant else entry.display
            if not defaults:
                raise DomainError(f"{title} has no options, but {text!r} gives it {option!r}.")
            raise unknown(f"option of {title}", option, defaults)
    # What a default says anyway is left out, so that one activation has one spelling.
    kept = {k: v for k, v in options.items() if defaults[k] != v}
    return Spec(entry.name, variant, tuple(sorted(kept.items())))


def create(text: str, **extra: Any) -> nn.Module:
    """A new activation by name: ``create("srelu[beta=0.1]")``, ``create("arelu", channels=64)``.

    Args:
        text: a spec; see the module's documentation.
        extra: further arguments of the constructor, such as ``channels``, ``device``, ``dtype``.

    Raises:
        UnknownNameError, DomainError: as :func:`parse`; or the activation refuses its options.
    """
    return parse(text).create(**extra)
