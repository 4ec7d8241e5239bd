"""The one base that turns a pure function and the kinds of its coefficients into a layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pliant.coefficients import Coefficient, CoefficientLike, Fixed, Learned, Scheduled
from pliant.errors import DomainError

__all__ = ["Activation"]

_KEYWORDS = {"channels": None, "channel_dim": 1, "inplace": False, "fused": None, "device": None, "dtype": None}


def _sides(x: Tensor, *_: float | Tensor) -> dict[str, Tensor]:
    """The two sides of 0."""
    return {"positive": x > 0}


class Activation(nn.Module):
    """Base class of activation layers. Subclasses are final and only declare; they define no ``__init__``.

    A subclass names its pure function and its coefficients, in the order of the function's arguments::

        class SReLU(Activation):
            function = staticmethod(srelu)
            alpha = Coefficient(Fixed(1.0), POSITIVE)
            beta = Coefficient(Fixed(0.25), NON_NEGATIVE)

    and can then be built as ``SReLU()``, ``SReLU(1.0, 0.5)``, ``SReLU(beta=Learned(0.25), channels=64)`` and so on.

    Args:
        *values, **named: the coefficients: a number (fixed), :class:`Fixed`, :class:`Learned` or :class:`Scheduled`.
        channels: learn one value per channel, C of them, instead of one per layer.
        channel_dim: the dimension of the input that holds the channels (default 1; -1 for channels last).
        inplace: overwrite the input and keep nothing of it, where the function can be undone from its output (DSReLU; PReLU
            with a positive weight). Only False for all others.
        fused: True for the fused kernel or an error, False for the readable version, None for what
            :func:`pliant.kernels.set_fused` says. An attribute: it can be changed later.
        device, dtype: of the learned coefficients.

    Shape:
        Input and output: any shape and any floating-point dtype; the output keeps both.

    Raises:
        TypeError: a coefficient the activation does not have.
        DomainError: a value outside a coefficient's domain; ``channels`` below 1; ``inplace=True`` without an in-place
            form.
    """

    function: ClassVar[Callable[..., Tensor]]
    coefficients: ClassVar[tuple[Coefficient, ...]] = ()
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names under which the catalogue finds the class."""
    variants: ClassVar[tuple[str, ...]] = ()
    """The class methods that build named variants."""
    shown: ClassVar[tuple[str, ...]] = ()
    """Coefficients that a label always names, given or not."""
    source: ClassVar[str] = ""
    """The paper that defined the function."""
    version: ClassVar[int] = 1
    """Bumped by hand when a change alters the numbers that the class gives; part of a trial's identity in the lab."""
    pieces: ClassVar[Callable[..., dict[str, Tensor]]] = staticmethod(_sides)
    """What :func:`pliant.observe` counts: from ``x`` and the coefficients, as they broadcast against it, to one boolean tensor
    of the shape of ``x`` per named piece of the function. Under the name "saturated": where the slope is below 1 % of its
    largest value."""
    canonical: ClassVar[Callable[..., tuple[Tensor, ...]] | None] = None
    """From the coefficients, tensors of one shape, to those of the same function that stand for all its equal spellings, so
    that learned ones can be compared; None where every function has one spelling."""

    _switches: ClassVar[tuple[str, ...]] = ()
    """Which of the keywords fused and inplace the function takes."""
    _direct: ClassVar[Callable[..., Tensor] | None] = None
    """The function without the reading of its arguments, which would cost a small tensor several per cent."""

    progress: Tensor
    """int64, shape (3,): steps taken, steps planned, steps per epoch. Present if a coefficient is scheduled."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = [Coefficient(v.default, v.domain, n) for n, v in vars(cls).items() if isinstance(v, Coefficient)]
        if Activation not in cls.__bases__:
            # torch makes subclasses of its own while a program runs (parametrize, fully_shard); they declare nothing.
            if declared or "function" in vars(cls):
                raise TypeError(f"{cls.__name__} extends a final activation; declare it on Activation itself instead.")
            return
        for c in declared:
            # A class attribute of the same name would keep nn.Module from registering the parameter.
            delattr(cls, c.name)
        cls._switches = _require_fit(cls, [c.name for c in declared])
        direct = getattr(cls.function, "direct", None)
        # functools.wraps copies the attribute to whatever wraps the function.
        if direct is not None and direct.public is cls.function:
            cls._direct = staticmethod(direct)
        cls.coefficients = tuple(declared)
        parameters = [
            inspect.Parameter(c.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_shortest(c.default)) for c in declared
        ] + [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in _KEYWORDS.items()]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(
        self,
        *values: CoefficientLike,
        channels: int | None = None,
        channel_dim: int = 1,
        inplace: bool = False,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **named: CoefficientLike,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if inplace and "inplace" not in self._switches:
            raise DomainError(f"{name} was given inplace=True, but it has no in-place form; leave inplace at False.")
        if fused and "fused" not in self._switches:
            raise DomainError(f"{name} was given fused=True, but its function has no fused version; leave fused at None.")
        self.inplace, self.fused = inplace, fused
        if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
            raise DomainError(f"{name} was given channels={channels!r}; expected a whole number from 1 on, or None.")
        try:
            given = inspect.signature(type(self)).bind(*values, **named).arguments
        except TypeError as error:
            expected = ", ".join(c.name for c in self.coefficients) or "none"
            raise TypeError(f"{name}: {error}. Its coefficients are: {expected}.") from None
        self.channel_dim = channel_dim
        kinds = {c.name: c.resolve(given.get(c.name, c.default), name) for c in self.coefficients}
        for c in self.coefficients:
            c.store(self, kinds[c.name], channels, device, dtype)
        self.kinds: dict[str, Fixed | Learned | Scheduled] = kinds
        self._now = (0, 0, 0)
        if self.scheduled:
            self.register_buffer("progress", torch.zeros(3, dtype=torch.int64, device=device))

    # --- computing --------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        direct, values = self._direct, self.values()
        if direct is None:
            switches = {name: getattr(self, name) for name in self._switches}
            return type(self).function(x, *values, channel_dim=self.channel_dim, **switches)
        return direct(x, tuple(values), self.channel_dim, self.fused, self.inplace)

    def values(self, progress: float | None = None) -> list[float | Tensor]:
        """The coefficients in the order of the function: floats, or tensors of shape (1,) or (C,).

        Args:
            progress: read the scheduled ones at this t instead of now; nothing is moved.
        """
        if progress is None:
            return [c.read(self, self.kinds[c.name]) for c in self.coefficients]
        return [
            kind.schedule(progress) if isinstance(kind := self.kinds[c.name], Scheduled) else c.read(self, kind)
            for c in self.coefficients
        ]

    def __getattr__(self, name: str) -> Any:
        # Coefficients that no parameter or buffer of that very name holds: constants, scheduled ones, and learned ones whose
        # parameter is a raw value.
        for c in self.coefficients:
            if c.name == name and (kind := self.__dict__.get("kinds", {}).get(name)) and c.place(kind) != name:
                return c.read(self, kind)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        for c in self.coefficients:
            if c.name == name and (kind := self.__dict__.get("kinds", {}).get(name)) and c.place(kind) != name:
                # It would be stored beside the value that the function is given, and change nothing.
                raise AttributeError(
                    f"{type(self).__name__}.{name} is {kind!r} and cannot be assigned to. Build a new {type(self).__name__} "
                    f"with the {name} you want{', or move it with pliant.Clock' if isinstance(kind, Scheduled) else ''}."
                )
        super().__setattr__(name, value)

    # --- learned ----------------------------------------------------------------------------------------------------

    def reset_parameters(self) -> None:
        """Put every coefficient back to where the constructor left it: initial values, and progress 0."""
        for c in self.coefficients:
            kind = self.kinds[c.name]
            if not isinstance(kind, Scheduled):
                c.reset(self, kind)
        if self.scheduled:
            self.seek(0, 0, 0)

    # --- scheduled --------------------------------------------------------------------------------------------------

    @property
    def scheduled(self) -> dict[str, Scheduled]:
        """The coefficients that follow progress, by name."""
        return {n: k for n, k in self.kinds.items() if isinstance(k, Scheduled)}

    @torch.no_grad()
    def seek(self, step: int, total: int, steps_per_epoch: int) -> None:
        """Move every scheduled coefficient to a point of training. :class:`pliant.Clock` calls this; users need not.

        Args:
            step: optimizer steps taken.
            total: optimizer steps planned; 0 = not known, progress stays 0.
            steps_per_epoch: optimizer steps in an epoch; 0 = not known.
        """
        self._now = (step, total, steps_per_epoch)
        for i, value in enumerate(self._now):
            self.progress[i].fill_(value)
        self._follow()

    def _follow(self) -> None:
        for c in self.coefficients:
            kind = self.kinds[c.name]
            if isinstance(kind, Scheduled):
                value = kind.schedule(kind.time(*self._now))
                # Checked when it was built on [0, 1] only; in units of epochs progress goes on from there.
                if value not in c.domain:
                    raise DomainError(
                        f"{type(self).__name__}: the schedule {kind.schedule!r} of {c.name!r} gave {value!r} at step "
                        f"{self._now[0]} of {self._now[1] or '?'}, but {c.name} must be {c.domain} wherever it is driven."
                    )
                c.move(self, kind, value)

    def now(self) -> tuple[int, int, int]:
        """Steps taken, steps planned and steps per epoch, as the buffer has them (waits for the device)."""
        if self.progress.device.type != "meta":
            step, total, per_epoch = self.progress.tolist()
            self._now = (step, total, per_epoch)
        return self._now

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.scheduled and self.progress.device.type != "meta":
            self.now()
            self._follow()

    # --- looks ------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        return ", ".join(self._describe())

    def _describe(self) -> Iterator[str]:
        for name, kind in self.kinds.items():
            yield f"{name}={_shortest(kind)!r}"
        if self.inplace:
            yield "inplace=True"
        if self.fused is not None:
            yield f"fused={self.fused}"
        if self.channel_dim != 1:
            yield f"channel_dim={self.channel_dim}"
        sizes = {p.numel() for p in self.parameters(recurse=False)}
        if sizes - {1}:
            yield f"channels={max(sizes)}"
        if self.scheduled:
            step, total, _ = self._now
            yield f"step={step}/{total or '?'}"


def _require_fit(cls: type[Activation], declared: list[str]) -> tuple[str, ...]:
    """Tell whoever writes a new activation what is amiss when the class is made, not when a network runs.

    Returns:
        Which of the optional keywords its function takes.
    """
    function = vars(cls).get("function")
    if function is None:
        raise TypeError(f"{cls.__name__} names no function; write function = staticmethod(...) in its body.")
    parameters = list(inspect.signature(cls.function).parameters)[1:]
    switches = tuple(n for n in ("fused", "inplace") if n in parameters)
    *accepted, last = [n for n in parameters if n not in switches] or [""]
    if not isinstance(function, staticmethod) or last != "channel_dim":
        raise TypeError(
            f"{cls.__name__}.function must be a staticmethod around a function f(x, coefficients..., channel_dim=1); decorate "
            "the formula with pliant.elementwise."
        )
    if accepted != declared:
        raise TypeError(
            f"{cls.__name__} declares the coefficients ({', '.join(declared)}), but its function takes "
            f"({', '.join(accepted)}); declare the same names in the same order."
        )
    return switches


def _shortest(kind: Fixed | Learned | Scheduled) -> CoefficientLike:
    return kind.value if isinstance(kind, Fixed) else kind
