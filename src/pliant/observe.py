"""What the activations of a model do while it trains: shapes, branches, dead and saturated units, gradients, increments."""

from __future__ import annotations

import csv
import fnmatch
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.errors import DomainError, MissingExtraError, unknown
from pliant.groups import activation_parameters, is_activation

__all__ = ["Observer", "Row", "observe"]


class Row(TypedDict):
    """One number: what ``quantity`` was at ``site`` when ``step`` optimizer steps had been taken."""

    step: int
    site: str
    quantity: str
    value: float


# --- what is an activation, and which pieces it has -------------------------------------------------------------------

_Pieces = Callable[[Any, Tensor], dict[str, Tensor]]


def _positive(_: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {"positive": x > 0}


def _clipped(low: float, high: float) -> _Pieces:
    return lambda _, x: {"positive": x > 0, "saturated": (x <= low) | (x >= high)}


# Saturated: where the slope is below 1 % of the largest one the function has.
_TORCH: dict[type[nn.Module], _Pieces] = {
    **dict.fromkeys(
        (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
        _positive,
    ),
    **dict.fromkeys((nn.Softplus, nn.LogSigmoid, nn.Tanhshrink), _positive),
    nn.ReLU6: _clipped(0.0, 6.0),
    nn.Hardsigmoid: _clipped(-3.0, 3.0),
    nn.Hardtanh: lambda m, x: {"positive": x > 0, "saturated": (x <= m.min_val) | (x >= m.max_val)},
    nn.Threshold: lambda m, x: {"above": x > m.threshold},
    nn.Sigmoid: lambda _, x: {"saturated": x.abs() > 5.9864},
    nn.Tanh: lambda _, x: {"saturated": x.abs() > 2.9932},
    nn.Softsign: lambda _, x: {"saturated": x.abs() > 9.0},
}


def _broadcast(value: float | Tensor, x: Tensor, channel_dim: int) -> float | Tensor:
    """A coefficient as it stands against ``x``; observed in the dtype of ``x``, which is exact enough to count with."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(x.dtype)
    if value.numel() == 1:
        return value.reshape(())
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return value.reshape(shape)


def _pieces(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    if isinstance(module, Activation):
        return type(module).pieces(x, *(_broadcast(v, x, module.channel_dim) for v in module.values()))
    for cls in type(module).__mro__:
        if cls in _TORCH:
            return _TORCH[cls](module, x)
    return _positive(module, x)


def _alike(values: Sequence[Tensor]) -> list[Tensor]:
    size = max(v.numel() for v in values)
    return [v.expand(size) for v in values]


def _coefficients(module: nn.Module) -> dict[str, Tensor]:
    """Every coefficient by name, each of shape (1,) or (C,)."""
    if isinstance(module, Activation):
        values = module.values()
        like = next((v for v in values if isinstance(v, Tensor)), torch.zeros(1, dtype=torch.float64))
        return {
            n: (v if isinstance(v, Tensor) else torch.full((1,), v, dtype=torch.float64, device=like.device)).detach()
            for n, v in zip(module.kinds, values, strict=True)
        }
    return {n: p.detach() for n, p in module.named_parameters(recurse=False)} if is_activation(module) else {}


# --- what is gathered of one call site, on the device -----------------------------------------------------------------


class _Window:
    """Sums over one window of one call site. Every tensor stays on the device; nothing here waits for it."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.passes = self.per_unit = self.gradients = 0
        self.counts: dict[str, Tensor] = {}
        """Elements on each piece, int64, shape (units,)."""
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.squares: Tensor | None = None
        """Sum of the squared gradient that leaves the site through its input, float32 or wider, shape (units,)."""

    def see_input(self, pieces: Mapping[str, Tensor], unit: int) -> None:
        self.passes += 1
        for name, mask in pieces.items():
            seen = torch.count_nonzero(mask, dim=_others(mask, unit))
            self.counts[name] = self.counts[name].add_(seen) if name in self.counts else seen
        self.per_unit += mask.numel() // self.units

    def see_output(self, y: Tensor, unit: int) -> None:
        low, high = y.amin(dim=_others(y, unit)), y.amax(dim=_others(y, unit))
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def see_gradient(self, g: Tensor, unit: int) -> None:
        dtype = torch.float64 if g.dtype == torch.float64 else torch.float32
        square = torch.linalg.vector_norm(g, dim=_others(g, unit), dtype=dtype).square_()
        self.squares = square if self.squares is None else self.squares.add_(square)
        self.gradients += 1


def _others(x: Tensor, unit: int) -> list[int]:
    return [d for d in range(x.dim()) if d != unit % x.dim()]


def _with_units(x: Tensor) -> Tensor:
    # A vector is one example of many units, a number one example of one unit; a reduction over no dimension would take all.
    return x.detach().reshape(1, -1) if x.dim() < 2 else x.detach()


class _Gradient:
    """Puts together the gradient at the input of one call, which autograd hands over in one share per use of the input."""

    def __init__(self, shares: int, seen: Callable[[Tensor], None]) -> None:
        self.shares, self.left, self.sum, self.seen = shares, shares, None, seen

    def take(self, share: Tensor | None) -> None:
        total: Tensor | None = self.sum
        if share is not None:
            # Never in place: the share is autograd's own.
            total = share if total is None else total + share
        self.left -= 1
        self.sum = total  # type: ignore[assignment]
        if self.left == 0:
            self.left, self.sum = self.shares, None
            if total is not None:
                self.seen(total.detach())


def _watch_gradient(source: Any, y: Tensor, seen: Callable[[Tensor], None]) -> None:
    """Call ``seen`` in every backward pass with d loss / d x through this call alone.

    A hook on the tensor x would also see what other users of x contribute, and module backward hooks insert a node, which
    changes the order of sums and forbids in-place activations. So the nodes between y and x that hold an edge to x are found,
    and hooks put on them; the graph stays as it was.
    """
    if y.grad_fn is None:
        return
    found: list[tuple[Any, int]] = []
    todo, known = [y.grad_fn], {y.grad_fn}
    while todo and len(known) < 256:
        node = todo.pop()
        for i, (behind, number) in enumerate(node.next_functions):
            if behind is None:
                continue
            if behind == source.node and number == source.output_nr:
                found.append((node, i))
            elif behind not in known:
                known.add(behind)
                todo.append(behind)
    gradient = _Gradient(len(found), seen)
    for node, i in found:
        node.register_hook(lambda inputs, _, i=i: gradient.take(inputs[i]))


# --- hooks ------------------------------------------------------------------------------------------------------------


class _Hook:
    """A hook that is the observer's in the model it watches, and nothing in a copy or a pickle of that model."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        # Under torch.compile this is traced away, so that the compiled graph is the one without an observer.
        if not torch.compiler.is_compiling() and self.call is not None:
            self.call(*args)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _hidden() -> bool:
    """Whether this forward pass is not an ordinary one: a recomputation inside backward, or one under torch.func."""
    stack = torch._C._functorch.peek_interpreter_stack()
    return torch._C._current_graph_task_id() != -1 or bool(stack) or torch._C._is_tracing()


class Observer:
    """Watches the activations of a model; made by :func:`observe`, which says what the arguments mean.

    Call :meth:`step` once per optimizer step, read ``rows``, and close it, or use it in a ``with`` block.
    """

    rows: list[Row]
    """Everything read so far, as flat dicts (step, site, quantity, value)."""
    curves: list[dict[str, Any]]
    """Sampled shapes, as flat dicts (step, site, x, y); filled if ``grid`` was given."""

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        window: int = 4,
        kinds: Sequence[type[nn.Module]] | None = None,
        channels: str = "summary",
        channel_dim: int | Callable[[str, nn.Module], int] | None = None,
        dead_below: float = 0.0,
        weights: bool | Iterable[str] = False,
        traces: Mapping[str, Sequence[int]] | None = None,
        grid: Sequence[float] | None = None,
        in_eval: bool = False,
        start: int = 0,
        tensorboard: Any = None,
    ) -> None:
        for name, value, least in (("every", every, 1), ("window", window, 0), ("start", start, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise DomainError(f"observe was given {name}={value!r}; expected a whole number of steps, from {least} on.")
        if channels not in ("summary", "all"):
            raise DomainError(f"observe was given channels={channels!r}; expected 'summary' or 'all'.")
        # What torch.compile returns wraps the model; hooks and names are the model's own.
        model = getattr(model, "_orig_mod", model)
        chosen: tuple[type[nn.Module], ...] = tuple(kinds) if kinds is not None else (Activation, *_TORCH)
        self._modules = {n or type(m).__name__: m for n, m in model.named_modules() if isinstance(m, chosen)}
        if not self._modules:
            raise DomainError(
                f"observe found no activation among the modules of this {type(model).__name__}; it looks for "
                f"{', '.join(c.__name__ for c in chosen)}. Functional calls cannot be watched: make them modules first, or "
                "name the model's own classes in kinds=[...]."
            )
        self.every, self.window = every, min(window, every)
        self._summary, self._channel_dim, self._dead_below = channels == "summary", channel_dim, dead_below
        self._in_eval, self._grid, self._step = in_eval, grid, start
        self.rows, self.curves = [], []
        self._windows: dict[tuple[str, int], _Window] = {}
        self._calls: dict[str, int] = {}
        self._units: dict[str, dict[str, Tensor]] = {}
        self._warned = self._called = False
        self._weights = _chosen_weights(model, weights)
        self._before = {n: p.detach().clone() for n, p in self._weights.items()}
        parameters = dict(model.named_parameters())
        for name in traces or {}:
            if name not in parameters:
                raise unknown("parameter to trace", name, parameters)
        self._traces = {n: (parameters[n], list(indices)) for n, indices in (traces or {}).items()}
        self._writer, self._own_writer = _writer(tensorboard)
        self._handles = [model.register_forward_pre_hook(_Hook(self._begin))]
        for name, module in self._modules.items():
            calls: dict[str, Any] = {}
            before, after = self._hooks(name, module, calls)
            self._handles.append(module.register_forward_pre_hook(_Hook(before), with_kwargs=True))
            self._handles.append(module.register_forward_hook(_Hook(after)))
        self._aim()
        self.read()

    # --- gathering ----------------------------------------------------------------------------------------------------

    def _begin(self, *_: Any) -> None:
        if not _hidden():
            self._calls.clear()

    def _aim(self) -> None:
        """Decide whether the steps up to the next call of ``step`` are in a window."""
        self._active = self.every - self._step % self.every <= self.window

    def _unit(self, name: str, module: nn.Module, x: Tensor) -> int:
        given = self._channel_dim(name, module) if callable(self._channel_dim) else self._channel_dim
        if given is None:
            if any(p.numel() > 1 for p in module.parameters(recurse=False)):
                given = getattr(module, "channel_dim", 1)
            else:
                # (N, C), (N, C, H, W) and (N, C, D, H, W); three dimensions are most often (N, T, C).
                given = -1 if x.dim() == 3 else getattr(module, "channel_dim", 1)
        return given if -x.dim() <= given < x.dim() else -1

    def _hooks(self, name: str, module: nn.Module, now: dict[str, Any]) -> tuple[Callable[..., None], Callable[..., None]]:
        # The input is looked at before the call, because an in-place activation leaves nothing of it; between the two hooks
        # only the window and the place of the input in the graph are kept, never the input.
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            now.clear()
            if not self._active or not (module.training or self._in_eval) or _hidden():
                return
            self._called = True
            x = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
                return
            with torch.no_grad():
                flat = _with_units(x)
                unit = self._unit(name, module, flat) % flat.dim()
                call = self._calls.get(name, 0)
                self._calls[name] = call + 1
                window = self._windows.get((name, call))
                if window is None or window.units != flat.shape[unit]:
                    window = self._windows[name, call] = _Window(flat.shape[unit])
                window.see_input(_pieces(module, flat), unit)
            now["window"], now["unit"] = window, unit
            if torch.is_grad_enabled() and x.requires_grad:
                now["source"] = torch.autograd.graph.get_gradient_edge(x)

        def after(_: nn.Module, args: tuple[Any, ...], y: Any) -> None:
            if (window := now.get("window")) is None or not isinstance(y, Tensor):
                return
            unit, source = now["unit"], now.get("source")
            now.clear()
            with torch.no_grad():
                flat = _with_units(y)
                if flat.shape[unit] != window.units:
                    return
                window.see_output(flat, unit)
            if source is not None:
                _watch_gradient(source, y, lambda g: window.see_gradient(_with_units(g), unit))

        return before, after

    # --- reading ------------------------------------------------------------------------------------------------------

    def step(self) -> list[Row]:
        """Count one optimizer step; every ``every`` steps, read. Call it after ``optimizer.step()``, before ``zero_grad()``.

        Returns:
            The new rows, empty unless this was a step at which the observer reads.
        """
        self._step += 1
        self._calls.clear()
        if self._active and not self._called and not self._warned and self._step % self.every == 0:
            self._warned = True
            warnings.warn(
                "The observer saw no call of an activation in its window, so it reports coefficients and weights only. Calls "
                "inside torch.compile cannot be watched (observe a run without it), and in eval mode only with in_eval=True.",
                stacklevel=2,
            )
        rows = self.read() if self._step % self.every == 0 else []
        self._aim()
        return rows

    @torch.no_grad()
    def read(self) -> list[Row]:
        """Read what has been gathered since the last reading, as rows, and begin anew. Waits for the device once."""
        found: list[tuple[str, str, Tensor]] = []
        several = {name for name, call in self._windows if call > 0}
        self._units = {}
        for (name, call), window in self._windows.items():
            site = f"{name}#{call}" if name in several else name
            found += [(site, quantity, value) for quantity, value in self._of_window(site, window)]
        for name, module in self._modules.items():
            found += [(name, quantity, value) for quantity, value in self._of_module(module)]
        for name, weight in self._weights.items():
            was, now = self._before[name], weight.detach()
            if self._step:
                found.append((name, "increment", torch.linalg.vector_norm(now - was) / torch.linalg.vector_norm(was)))
            was.copy_(now)
        for name, (parameter, indices) in self._traces.items():
            flat = parameter.detach().reshape(-1)
            found += [(name, f"weight[{i}]", flat[i]) for i in indices]
        rows = [Row(step=self._step, site=s, quantity=q, value=v) for (s, q, _), v in zip(found, _fetch(found), strict=True)]
        self.rows += rows
        if self._grid is not None:
            for name in self._modules:
                self.curves += [{"step": self._step, "site": name, **point} for point in self._points(name, self._grid)]
        if self._writer is not None:
            for row in rows:
                self._writer.add_scalar(f"{row['site']}/{row['quantity']}", row["value"], row["step"])
        self._windows, self._called = {}, False
        return rows

    def _of_window(self, site: str, window: _Window) -> Iterable[tuple[str, Tensor]]:
        for name, count in window.counts.items():
            yield f"fraction.{name}", count.sum() / (window.per_unit * window.units)
        units: dict[str, Tensor] = {}
        if "saturated" in window.counts:
            units["saturated"] = window.counts["saturated"] == window.per_unit
        if window.squares is not None and window.low is not None and window.high is not None:
            yield "gradient", (window.squares.sum() / window.gradients).sqrt()
            units["dead"] = (window.low == window.high) & (window.squares.sqrt() <= self._dead_below)
        for name, mask in units.items():
            yield f"units.{name}", mask.float().mean()
        self._units[site] = units

    def _of_module(self, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
        values = _coefficients(module)
        for name, value in values.items():
            yield from self._shown(f"coefficient.{name}", value)
        if isinstance(module, Activation) and (canonical := type(module).canonical) is not None:
            for name, value in zip(values, canonical(*_alike(list(values.values()))), strict=True):
                yield from self._shown(f"canonical.{name}", value)
        if is_activation(module):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.grad is not None:
                    yield f"gradient.{name}", torch.linalg.vector_norm(parameter.grad)

    def _shown(self, name: str, value: Tensor) -> Iterable[tuple[str, Tensor]]:
        if value.numel() == 1:
            yield name, value.reshape(())
        elif self._summary:
            yield from ((f"{name}.mean", value.mean()), (f"{name}.min", value.min()), (f"{name}.max", value.max()))
        else:
            yield from ((f"{name}[{i}]", v) for i, v in enumerate(value))

    def units(self, site: str) -> dict[str, Tensor]:
        """Which units were dead or saturated at the last reading: boolean tensors of shape (units,), by word.

        Raises:
            UnknownNameError: nothing was seen at a site of that name.
        """
        if site not in self._units:
            raise unknown("observed site", site, self._units)
        return self._units[site]

    @torch.no_grad()
    def curve(self, site: str, x: Tensor) -> Tensor:
        """The shape of an activation as it is now.

        Args:
            site: its module's path.
            x: where to evaluate it, shape (G,).

        Returns:
            Shape (G,), or (C, G) with one curve per channel.

        Raises:
            UnknownNameError: no observed module has that path.
        """
        if site not in self._modules:
            raise unknown("observed module", site, self._modules)
        module = self._modules[site]
        where = next(iter([*module.parameters(recurse=False), *module.buffers(recurse=False)]), x).device
        x = x.to(where)
        if isinstance(module, Activation):
            values = module.values()
            size = max((v.numel() for v in values if isinstance(v, Tensor)), default=1)
            wide = x.expand(size, -1) if size > 1 else x
            return type(module).function(wide, *values, channel_dim=0)
        if isinstance(module, nn.PReLU):
            slope = module.weight.detach().reshape(-1, 1)
            y = torch.where(x > 0, x, slope * x)
            return y if len(y) > 1 else y[0]
        # The class's own forward, past every hook, on a copy of x because the module may work in place.
        y = type(module).forward(module, x.clone())
        return y if isinstance(y, Tensor) else torch.as_tensor(y)

    def _points(self, name: str, grid: Sequence[float]) -> Iterable[dict[str, float]]:
        y = self.curve(name, torch.tensor(grid, dtype=torch.float32))
        y = y.mean(dim=0) if y.dim() > 1 else y
        return ({"x": float(a), "y": b} for a, b in zip(grid, y.tolist(), strict=True))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows so far: a header, then step, site, quantity, value."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("step", "site", "quantity", "value"))
            writer.writeheader()
            writer.writerows(self.rows)

    # --- an end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take every hook out of the model. The rows stay. May be called again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._windows, self._before = {}, {}
        self._weights, self._traces = {}, {}
        if self._own_writer and self._writer is not None:
            self._writer.close()
        self._writer = None
        self._active = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Observer(sites={len(self._modules)}, every={self.every}, window={self.window}, step={self._step})"


def _wide(t: Tensor) -> bool:
    return t.device.type != "mps"  # which has no float64


def _fetch(found: Sequence[tuple[str, str, Tensor]]) -> list[float]:
    """The numbers of many 0-dim tensors, with one transfer per device."""
    values = [math.nan] * len(found)
    for device in {v.device for _, _, v in found}:
        places = [i for i, (_, _, v) in enumerate(found) if v.device == device]
        stacked = torch.stack([found[i][2].double() if _wide(found[i][2]) else found[i][2].float() for i in places])
        for i, value in zip(places, stacked.tolist(), strict=True):
            values[i] = value
    return values


def _chosen_weights(model: nn.Module, weights: bool | Iterable[str]) -> dict[str, nn.Parameter]:
    if weights is False:
        return {}
    coefficients = {id(p) for p in activation_parameters(model)}
    tensors = {n: p for n, p in model.named_parameters() if p.dim() >= 2 and id(p) not in coefficients}
    if weights is True:
        return tensors
    patterns = [weights] if isinstance(weights, str) else list(weights)
    for pattern in patterns:
        if not fnmatch.filter(tensors, pattern):
            raise unknown("weight tensor", pattern, tensors)
    return {n: p for n, p in tensors.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}


def _writer(given: Any) -> tuple[Any, bool]:
    """Something with ``add_scalar``, and whether it is ours to close."""
    if given is None or hasattr(given, "add_scalar"):
        return given, False
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "Writing to TensorBoard needs a package that is not installed. Run pip install tensorboard, or leave "
            "tensorboard out and use the rows."
        ) from error
    return SummaryWriter(os.fspath(given)), True


def observe(
    model: nn.Module,
    *,
    every: int = 100,
    window: int = 4,
    kinds: Sequence[type[nn.Module]] | None = None,
    channels: str = "summary",
    channel_dim: int | Callable[[str, nn.Module], int] | None = None,
    dead_below: float = 0.0,
    weights: bool | Iterable[str] = False,
    traces: Mapping[str, Sequence[int]] | None = None,
    grid: Sequence[float] | None = None,
    in_eval: bool = False,
    start: int = 0,
    tensorboard: Any = None,
) -> Observer:
    """Watch the activations of a model while it trains, without changing a bit of the training.

    ::

        with pliant.observe(model, every=100, tensorboard="runs/1") as observer:
            for x, y in batches:
                loss(model(x), y).backward()
                optimizer.step()
                clock.step()
                observer.step()
                optimizer.zero_grad()
        observer.to_csv("observed.csv")

    Every ``every`` optimizer steps it reads, for each site (the path of the module; with ``#0``, ``#1`` ... if the module is
    called several times in one forward pass):

    ======================  ==============================================================================================
    quantity                what it is
    ======================  ==============================================================================================
    ``coefficient.a``       a coefficient as the function gets it; ``.mean``, ``.min``, ``.max`` over channels
    ``canonical.a``         the same in the one spelling that equal functions share: AReLU's steeper line first, ATanh and
                            ASigmoid with a >= 0. Compare these between layers, not the raw ones
    ``fraction.positive``   share of elements > 0 at the input; ``fraction.first_line`` (AReLU, a x + c >= b x + d),
                            ``fraction.active`` (AffineReLU, a x + c > 0)
    ``fraction.saturated``  share of elements where the slope is below 1 % of its largest, for bounded functions
    ``units.dead``          share of units whose output was constant and whose input gradient was 0 in the whole window
    ``units.saturated``     share of units that were saturated at every element of the window
    ``gradient``            root mean square over the passes of the 2-norm of d loss / d x through this call alone
    ``gradient.a``          2-norm of the gradient of a coefficient's parameter, as it is when ``step`` is called
    ``increment``           of a weight tensor: ||W - W'|| / ||W'||, W' being the one at the reading before
    ``weight[i]``           of a traced weight: its value
    ======================  ==============================================================================================

    Outputs, gradients, random numbers and state_dict are bit for bit what they are without it. It sees forward passes in
    training mode only, unless ``in_eval``. Inside ``torch.compile`` calls cannot be seen: a compiled model runs as if nobody
    watched, coefficients and weights are still reported, and a warning says so. With gradient scaling, or several backward
    passes a step, gradients are those that the backward passes brought. Under activation checkpointing the first forward pass
    is what is seen, and the reentrant form shows no gradients.

    Args:
        model: its modules of the kinds below are watched.
        every: optimizer steps between readings.
        window: how many steps before each reading are looked at; on the others the hooks return at once. Dead and saturated
            are judged on these steps. The cost is in docs/observe.md; ``window=every`` looks at every step.
        kinds: classes of modules to watch. Default: Pliant's activations and torch's.
        channels: coefficients per channel as "summary" (mean, min, max) or "all".
        channel_dim: the dimension of the input that counts units, or a function of site and module. Default: that of the
            activation, 1 for torch's; the last one for inputs of three dimensions, unless coefficients are per channel.
        dead_below: the largest norm of a unit's gradient over the window that still counts as 0.
        weights: True for the increments of every weight tensor of two or more dimensions, or names and patterns of them
            (``["features.*.weight"]``). Keeps a copy of each on its device.
        traces: single weights to follow: parameter name -> flat indices.
        grid: sample every shape on these x at each reading, into ``curves`` (the mean over channels).
        in_eval: also look at modules in eval mode.
        start: optimizer steps already taken, when training is resumed.
        tensorboard: a directory, or anything with ``add_scalar(tag, value, step)``.

    Returns:
        The observer, which has read step ``start`` already.

    Raises:
        DomainError: a count is out of range, or the model holds no activation module.
        UnknownNameError: a pattern of ``weights`` or a name in ``traces`` fits no parameter.
        MissingExtraError: a directory was given for TensorBoard, which is not installed.

    Sources: instruments I4, I5 and I6 of our reading of the three papers; figures 3 and 4 of Hu et al. (AAF).
    """
    return Observer(
        model,
        every=every,
        window=window,
        kinds=kinds,
        channels=channels,
        channel_dim=channel_dim,
        dead_below=dead_below,
        weights=weights,
        traces=traces,
        grid=grid,
        in_eval=in_eval,
        start=start,
        tensorboard=tensorboard,
    )
