"""Which activations of a model would change, into what, and which would not and why."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pliant import catalog
from pliant.activation import Activation
from pliant.swap.errors import SwapError
from pliant.swap.families import Key, Rule, rule_for_module, rules_of
from pliant.swap.install import Unchanged, for_now, install
from pliant.swap.probe import Call, Example, probe, run, tensors_of, untouched
from pliant.swap.rewrite import is_discarded, steps
from pliant.swap.site import Site
from pliant.swap.start import Transition, preserving

__all__ = ["Plan", "Site", "plan"]

Pattern = str | Callable[["Site"], bool]
Parameters = Literal["site", "module", "model"]


class Plan:
    """What :func:`plan` found. ``print`` it; ``len`` is the number of sites that change; iterate over these.

    Attributes:
        sites: the sites that change, in the order in which they run.
        left: sites that were found and are left alone, each with the reason in ``why``.
        idle: activation modules in the model that the example never reached; they are left alone.
        notes: what else a reader should know.
    """

    def __init__(self, model: nn.Module, sites: list[Site], left: list[Site], idle: list[str], notes: list[str]) -> None:
        self.model = model
        self.sites = sites
        self.left = left
        self.idle = idle
        self.notes = notes
        self.parameters: Parameters = "site"
        self.forwards = {id(s.owner): s.owner.__dict__.get("forward") for s in (*sites, *left)}
        self.build: Callable[[Site], nn.Module] = lambda site: site.old_module()

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @property
    def unreachable(self) -> list[Site]:
        """Sites that were asked for and cannot be changed; swap_ refuses a plan that has any."""
        return [s for s in self.left if s.why.startswith("unreachable")]

    def __str__(self) -> str:
        def row(site: Site) -> tuple[str, ...]:
            shape = "x".join(map(str, site.shape))
            modes = "" if len(site.modes) != 1 else f"{next(iter(site.modes))} only"
            return site.name, site.kind, f"{site.calls}", shape, modes, site.where, site.becomes or f"left: {site.why}"

        head = ("site", "kind", "calls", "shape", "mode", "where", "becomes")
        rows = [head, *(row(s) for s in self.sites), *(row(s) for s in self.left)]
        rows += [(name, "module", "0", "", "", "", "left: the example never reaches it") for name in self.idle]
        widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
        lines.append(f"{len(self.sites)} sites change, {len(self.left) + len(self.idle)} are left alone.")
        return "\n".join([*lines, *(f"Note: {n}" for n in self.notes)])

    def __repr__(self) -> str:
        return f"Plan({len(self.sites)} sites, {len(self.left) + len(self.idle)} left alone)"


def _refuse(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module)
        where = f"{name or 'the model'} ({kind.__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise SwapError(f"{where} is scripted: its calls are not Python any more. Swap before torch.jit.script.")
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise SwapError(f"{where} is wrapped for parallel training. Swap the model first, then wrap it.")
        if kind.__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
            raise SwapError(f"{where} is compiled. Swap the model first, then compile it.")
        if ".quantized" in kind.__module__ or ".intrinsic" in kind.__module__:
            raise SwapError(f"{where} is quantised: its activation may be fused into it. Swap the float model, then quantise.")


def plan(
    model: nn.Module,
    mapping: dict[Key, Any],
    *,
    example: Example,
    train_example: Example | None = None,
    modes: Iterable[str] = ("eval", "train"),
    include: Pattern | Iterable[Pattern] = (),
    exclude: Pattern | Iterable[Pattern] = (),
    forms: Iterable[str] = ("module", "function", "method"),
    gates: bool = False,
    parameters: Parameters = "site",
    per_channel: bool = False,
    preserve: bool = False,
    transition: float | None = None,
) -> Plan:
    """Find every place that calls an activation, and say what would become of it. The model stays as it is.

    The model is run with the example in both modes, so that heads that only training uses are found, without touching buffers,
    gradients, modes or the random state. Each place in the source, in each module, counts: a ResNet block that calls its one
    ``self.relu`` three times has three sites. A second run, with the calls redirected to what was there before, then proves
    that every site is reached and that the output is the same.

    Args:
        model: any module.
        mapping: what to replace by what. A module class covers its subclasses, **and the functions and tensor methods of the
            same name** (``nn.ReLU``: ``F.relu``, ``torch.relu``, ``x.relu()``, in place or not), because that is what a reader
            of the model calls a ReLU; ``forms`` narrows it. A key that is a function or ``torch.Tensor.relu`` covers functions
            or methods alone and overrules the class. A value is an activation class, a catalogue string (as
            ``"prelu[init=0.1]"``), a module that is copied, a factory without arguments, or a callable(site) that
            returns a module.
        example: a tensor, a tuple of arguments, a dict of keyword arguments, or a function that runs the model.
        train_example: the same for train mode, if it needs another (detection models want targets).
        modes: the modes to run in.
        include, exclude: name patterns (``"layer4.*"``) or predicates on a :class:`Site`; one, or several.
        forms: which spellings a class key covers.
        gates: also change sigmoids and the like whose output multiplies a feature map (squeeze-and-excite and so on).
        parameters: one set of parameters for each site, for each old module (functions: each owner), or for the whole model.
        per_channel: one value per channel; sizes come from the run.
        preserve: start from the function that is there now (see :func:`pliant.preserving`).
        transition: blend from the old activation to the new one over this fraction of the training that a
            :class:`pliant.Clock` counts (see :class:`pliant.Transition`).

    Raises:
        SwapError: a key or model that cannot be handled; the model cannot be run in a mode with its example.
    """
    _refuse(model)
    rules = rules_of(mapping, frozenset(forms))
    if parameters not in ("site", "module", "model"):
        raise SwapError(f"plan was given parameters={parameters!r}; known: 'site', 'module', 'model'.")
    calls: list[Call] = []
    outputs: dict[bool, list[Tensor]] = {}
    examples = {False: example, True: example if train_example is None else train_example}
    for mode in modes:
        training = mode == "train"
        try:
            found, output = probe(model, examples[training], rules, training)
        except Exception as error:
            raise SwapError(
                f"The model cannot be run in {mode} mode with the example given: {type(error).__name__}: {error}. Give an "
                f"example that works{', in train mode by train_example=' if training else ''}, or leave the mode "
                "out with modes=."
            ) from error
        calls += found
        outputs[training] = tensors_of(output)
    sites, idle = _sites(model, calls, rules)
    result = Plan(model, [], [], idle, [])
    result.parameters = parameters
    included, excluded = _patterns(include), _patterns(exclude)
    for site in sites:
        if included and not any(_matches(p, site) for p in included):
            site.why = "not included"
        elif any(_matches(p, site) for p in excluded):
            site.why = "excluded"
        elif site.call.gate and not gates:
            site.why = "a gate: its output multiplies a feature map"
        (result.left if site.why else result.sites).append(site)
    _try(model, result, examples, outputs)

    def build(site: Site) -> nn.Module:
        return _build(site, per_channel, preserve, transition)

    result.build = build
    result.forwards = {id(s.owner): s.owner.__dict__.get("forward") for s in result.sites}
    for site in result.sites:
        site.becomes = _describe(build(site))
    if (caught := sum(s.kind == "intercepted" for s in result.sites)) > 0:
        result.notes.append(
            f"{caught} sites are intercepted while the model runs, because the source of their module cannot be redirected: "
            "correct in eager, slower, and neither torch.compile(fullgraph=True) nor torch.export can follow."
        )
    return result


def _patterns(given: Pattern | Iterable[Pattern]) -> list[Pattern]:
    return [given] if isinstance(given, str) or callable(given) else list(given)


def _matches(pattern: Pattern, site: Site) -> bool:
    if callable(pattern):
        return bool(pattern(site))
    return any(fnmatchcase(n, pattern) for n in (site.name, site.name.partition(":")[0], site.owner_name))


def _sites(model: nn.Module, calls: list[Call], rules: list[Rule]) -> tuple[list[Site], list[str]]:
    names = {id(m): n for n, m in model.named_modules()}
    places: dict[Any, list[Call]] = {}
    for call in calls:
        where = (id(call.slot[0]), call.slot[1]) if call.slot else None
        places.setdefault((id(call.owner), call.chain, call.time, call.form, where), []).append(call)
    by_slot: dict[Any, int] = {}
    for *_, where in places:
        by_slot[where] = by_slot.get(where, 0) + 1
    sites: list[Site] = []
    numbers: dict[str, int] = {}
    for (_, chain, _, form, where), found in places.items():
        first = found[0]
        owner_name = names.get(id(first.owner), "")
        if first.slot:
            base = ".".join(filter(None, [names.get(id(first.slot[0]), "?"), first.slot[1]]))
        else:
            title = first.old if isinstance(first.old, str) else getattr(first.old, "__name__", type(first.old).__name__)
            base = ".".join(filter(None, [owner_name, f"{title}()"]))
        numbers[base] = numbers.get(base, 0) + 1
        kind = form
        if form == "module":
            kind = "module" if first.slot and by_slot[where] == 1 else "call"
        modes = frozenset("train" if c.training else "eval" for c in found)
        count = max(sum(c.training is t for c in found) for t in (False, True))
        last = chain[-1] if chain else None
        site = Site(
            f"{base}:{numbers[base]}",
            kind,
            first.old,
            count,
            first.shape,
            modes,
            f"{Path(last.code.co_filename).name}:{last.line}" if last else "",
            first.rule,
            first.owner,
            owner_name,
            model,
            first.dtype,
            first.device,
            first,
            first.slot,
        )
        first.gate = any(c.gate for c in found)
        if id(first.owner) not in names:
            site.why = "unreachable: its module is not registered in the model"
        site.emulate = first.inplace and last is not None and is_discarded(last.code, (last.line, last.column))
        sites.append(site)
    for site in sites:
        if numbers[site.name.rpartition(":")[0]] == 1:
            site.name = site.name.rpartition(":")[0]
    reached = {id(c.old) for c in calls if c.form == "module"}
    idle = [
        n for n, m in model.named_modules() if not list(m.children()) and rule_for_module(m, rules) and id(m) not in reached
    ]
    return sites, idle


class _StandIn(nn.Module):
    """What is there already, counting how often it is called."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        object.__setattr__(self, "site", site)
        self.module = Unchanged(site.old, site.call.arguments)
        self.hits = 0

    def forward(self, x: Tensor) -> Any:
        self.hits += 1
        return self.module(x.clone())


def _try(model: nn.Module, result: Plan, examples: dict[bool, Example], outputs: dict[bool, list[Tensor]]) -> None:
    """Redirect everything to what it was, see that each site is hit as often as before and that the output is the same."""
    for site in [s for s in result.sites if s.why]:
        result.sites.remove(site)
        result.left.append(site)
    for site in result.sites:
        if site.kind != "module" and steps(site.call.chain, site.call.owner) is None:
            site.kind = "intercepted"
    emulated = False
    for _ in range(4):
        if not result.sites:
            return
        wrong, same = _trial(model, result, examples, outputs)
        if not wrong and same:
            return
        if wrong:
            for site in wrong:
                if site.kind in ("module", "intercepted"):
                    site.why = "unreachable: redirecting the call has no effect"
                    result.sites.remove(site)
                    result.left.append(site)
                else:
                    for other in result.sites:
                        if other.owner is site.owner and other.kind != "module":
                            other.kind = "intercepted"
        elif not emulated:
            emulated = True
            # Something reads the input again after it was overwritten, so the new module has to overwrite it too.
            for site in result.sites:
                site.emulate = site.emulate or site.call.inplace
        else:
            break
    raise SwapError(
        "Redirecting the calls of this model changes its output even if each goes to what was there before, so it cannot be "
        "swapped safely. Narrow the plan with include= or exclude=, and please report the model."
    )


def _trial(
    model: nn.Module, result: Plan, examples: dict[bool, Example], outputs: dict[bool, list[Tensor]]
) -> tuple[list[Site], bool]:
    wrong: list[Site] = []
    same = True
    hits: dict[int, int] = {}
    stand_ins = [_StandIn(s) for s in result.sites]
    with for_now(model):
        install(model, result.sites, result.left, list(stand_ins))
        for training, expected in outputs.items():
            with untouched(model, training):
                try:
                    got = tensors_of(run(model, examples[training]))
                except SwapError:
                    got = []
            same = same and len(got) == len(expected) and all(_close(g, e) for g, e in zip(got, expected, strict=True))
            for i, stand_in in enumerate(stand_ins):
                hits[i] = max(hits.get(i, 0), stand_in.hits)
                stand_in.hits = 0
    for i, site in enumerate(result.sites):
        if hits[i] != site.calls:
            wrong.append(site)
    return wrong, same


def _close(got: Tensor, expected: Tensor) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not got.is_floating_point():
        return bool(torch.equal(got, expected))
    return bool(torch.allclose(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True))


# --- what comes there -------------------------------------------------------------------------------------------------


def _required(value: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _build(site: Site, per_channel: bool, preserve: bool, transition: float | None) -> nn.Module:
    value = site.rule.value
    extra: dict[str, Any] = {"channels": site.channels, "channel_dim": site.channel_dim} if per_channel else {}
    if isinstance(value, type) and issubclass(value, nn.Module):
        if preserve:
            module: Any = preserving(site.old_module(), value, **extra)
        elif per_channel and issubclass(value, nn.PReLU):
            if site.channel_dim not in (1, 1 - len(site.shape)):
                raise SwapError(f"nn.PReLU has its channels in dimension 1, but {site.name} has them in {site.channel_dim}.")
            module = value(site.channels)
        else:
            module = value(**extra) if issubclass(value, Activation) else value()
    elif preserve:
        raise SwapError(f"preserve=True needs an activation class as the value, but {site.rule.title} was given {value!r}.")
    elif isinstance(value, str):
        try:
            module = catalog.create(value, **extra)
        except TypeError:
            module = catalog.create(value)
    elif isinstance(value, nn.Module):
        module = copy.deepcopy(value)
    elif callable(value):
        module = value(site) if _required(value) else value(**extra)
    else:
        module = None
    if not isinstance(module, nn.Module):
        raise SwapError(
            f"The mapping gives {value!r} for {site.rule.title}, which is no module. Give an activation class, a catalogue "
            "string such as 'prelu[init=0.1]', a factory, or a callable(site) that returns a module."
        )
    if transition is not None:
        module = Transition(site.old_module(), module, until=transition)
    parameter = next((p for p in site.owner.parameters() if p.is_floating_point()), None)
    if parameter is None:
        parameter = next((p for p in _above(site) if p.is_floating_point()), None)
    dtype = parameter.dtype if parameter is not None else site.dtype if site.dtype.is_floating_point else None
    placed: nn.Module = module.to(device=site.device, dtype=dtype).train(site.owner.training)
    return placed


def _above(site: Site) -> Iterator[nn.Parameter]:
    return site.root.parameters()


def _describe(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text else f"{type(module).__name__}(...)"
