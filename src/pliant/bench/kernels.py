"""One activation alone: forward and backward against torch's own, the naive form, the readable one and torch.compile."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.bench.agreement import Disagreement, Reference
from pliant.bench.machine import ASSUMED_CACHE, cache_bytes, can_keep_memory, kept_memory
from pliant.bench.subjects import Naive, Subject, has_switch, move_off_start, readable
from pliant.bench.timing import Race, Runner, Watch, race
from pliant.errors import DomainError, PliantError

__all__ = ["SIZES", "Contestant", "Size", "measure", "memories", "saved_bytes", "size"]

SIZES = ("small", "medium", "large")
COLUMNS = 512


@dataclass(frozen=True)
class Size:
    """A shape that is measured, under the name that targets know it by."""

    name: str
    shape: tuple[int, int]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def size(given: str, dtype: torch.dtype, device: str) -> Size:
    """What a size is on this machine.

    ``small`` is 128 x 512. ``medium`` is a tensor of an eighth of the last-level cache, so that input, output and both
    gradients stay in it. ``large`` is beyond the cache: half of it and at least 32 MiB (256 MiB on a GPU) a tensor, four of
    which a step touches. ``ROWSxCOLUMNS`` is itself.

    Raises:
        DomainError: none of these.
    """
    if given == "small":
        return Size(given, (128, COLUMNS))
    if given in SIZES:
        cache = cache_bytes(device) or ASSUMED_CACHE
        least = (256 if device == "cuda" else 32) * 2**20
        size_bytes = max(least, cache // 2) if given == "large" else cache // 8
        return Size(given, (max(1, size_bytes // (dtype.itemsize * COLUMNS)), COLUMNS))
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", given)
    if match is None:
        raise DomainError(f"--size was given {given!r}; expected small, medium, large or ROWSxCOLUMNS, as in 4096x1024.")
    return Size(given, (int(match[1]), int(match[2])))


@dataclass
class Contestant:
    """One version of an activation.

    Args:
        name: as shown. role: ``torch``, ``control``, ``pliant``, ``readable``, ``naive``, ``compiled`` or ``copy``.
        forward: a function of the input.
        parameters: what gradients are asked for beside the input's.
        checked: whether it claims to be the activation, and so has to agree with it.
    """

    name: str
    role: str
    forward: Callable[[Tensor], Tensor]
    parameters: Sequence[nn.Parameter] = ()
    checked: bool = True

    def runner(self, x: Tensor, g: Tensor, inplace: bool) -> Runner:
        """For a race at the input ``x`` with the gradient ``g`` of the output."""
        inputs = [x, *self.parameters]
        # Overwriting a leaf is refused; the copy is made anew for every call, outside the time, and costs nothing backward.
        return Runner(
            self.name,
            {"forward": self.forward, "backward": lambda y: torch.autograd.grad(y, inputs, g)},
            (lambda: x.clone()) if inplace else (lambda: x),
        )


def contestants(subject: Subject, dtype: torch.dtype, device: str, compiled: bool) -> list[Contestant]:
    """Everything that races for one activation, torch's own first; all with the same coefficients.

    Raises:
        PliantError: this version has no such form of the activation.
    """

    def contestant(name: str, role: str, module: nn.Module, call: Callable[[Tensor], Tensor] | None = None) -> Contestant:
        checked = role not in ("torch", "control")
        return Contestant(name, role, module if call is None else call, list(module.parameters()), checked)

    ours = subject.make().to(device=device, dtype=dtype)
    move_off_start(ours.parameters())
    naive = Naive(subject.naive, ours)  # type: ignore[arg-type]
    found = [contestant(n, "torch", make().to(device=device, dtype=dtype)) for n, make in subject.torch.items()]
    again, make = next(iter(subject.torch.items()))
    found.append(contestant(f"{again} again", "control", make().to(device=device, dtype=dtype)))
    found.append(contestant("pliant", "pliant", ours))
    if has_switch() and not subject.inplace:
        found.append(contestant("readable", "readable", readable(ours)))
    found.append(contestant("naive", "naive", naive))
    if compiled:
        for name, module in (("pliant", ours), ("naive", naive)):
            # Of a static shape: the second size would else be compiled as a dynamic one.
            found.append(contestant(f"{name} compiled", "compiled", module, torch.compile(module, dynamic=False)))
    return found


def copies(x: Tensor, g: Tensor) -> list[Runner]:
    """What moving the same bytes costs: forward 1 read and 1 write (a copy), backward 2 reads and 1 write (an addition)."""
    source, warm = x.detach(), torch.empty_like(x, requires_grad=False)
    return [
        Runner("copy", {"forward": lambda _: warm.copy_(source), "backward": lambda _: torch.add(source, g, out=warm)}),
        Runner("fresh copy", {"forward": lambda _: source.clone(), "backward": lambda _: source + g}),
    ]


def saved_bytes(forward: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, float]:
    """Bytes an element that autograd keeps from the forward to the backward pass.

    Counted are the storages of all tensors that pass ``torch.autograd.graph.saved_tensors_hooks``, each storage once, except
    tensors of one element (coefficients). ``input``: the storage of ``x``. ``output``: that of the result, which the
    next layer nearly always keeps anyway. ``other``: the rest.
    """
    seen: dict[int, tuple[int, Any]] = {}

    def pack(t: Tensor) -> Tensor:
        if t.numel() > 1:
            storage = t.untyped_storage()
            # Kept alive, or the next one could be given the same address.
            seen[storage.data_ptr()] = (storage.nbytes(), storage)
        return t

    # Not a leaf, so that in-place forms can be asked as well.
    fed = x.clone()
    at = fed.untyped_storage().data_ptr()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = forward(fed)
    out = y.untyped_storage().data_ptr()
    kept = {"input": 0, "output": 0, "other": 0}
    for address, (nbytes, _) in seen.items():
        kept["output" if address == out else "input" if address == at else "other"] += nbytes
    return {k: round(v / x.numel(), 3) for k, v in kept.items()}


def held_bytes(forward: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Bytes an element that the GPU's allocator has given out after a forward pass beyond input and output."""
    fed = x.clone()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    y = forward(fed)
    torch.cuda.synchronize()
    own = 0 if y.untyped_storage().data_ptr() == fed.untyped_storage().data_ptr() else y.untyped_storage().nbytes()
    return round((torch.cuda.memory_allocated() - before - own) / x.numel(), 3)


def memories(at: Size, device: str) -> list[str]:
    """``fresh`` always; ``kept`` too where fresh memory costs the system's time, see :func:`kept_memory`."""
    return ["fresh", "kept"] if at.name == "large" and can_keep_memory(device) else ["fresh"]


def measure(
    subject: Subject,
    at: Size,
    dtype: torch.dtype,
    *,
    device: str,
    seconds: float,
    compiled: bool,
    watch: Watch,
    entrants: Sequence[Contestant] = (),
) -> list[dict[str, Any]]:
    """Check every contestant, race them, and give the records of the results file, one a kind of memory.

    Args:
        seconds: for the rounds of each kind.
        entrants: further contestants, checked like all.
    """
    common: dict[str, Any] = {
        "activation": subject.name,
        "size": at.name,
        "shape": list(at.shape),
        "dtype": str(dtype).removeprefix("torch."),
    }
    try:
        field = [*contestants(subject, dtype, device, compiled), *entrants]
    except PliantError as missing:
        return [common | {"memory": m, "skipped": str(missing)} for m in memories(at, device)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(at.shape, generator=generator).to(device=device, dtype=dtype).requires_grad_(True)
    # Of one sign, so that the terms of a coefficient's gradient do not cancel.
    g = torch.rand(at.shape, generator=generator).add_(0.5).to(device=device, dtype=dtype)
    ours = next(c for c in field if c.role == "pliant").forward
    assert isinstance(ours, nn.Module)
    reference = Reference(subject.plain() if subject.inplace else ours, x, g)
    wrong = {c.name: reference.disagreement(c.forward, c.parameters) for c in field if c.checked}
    # As large as everything else together, and in the caches and the memory that the race is about.
    del reference
    sound = [c for c in field if not wrong.get(c.name)]
    saved = {c.name: saved_bytes(c.forward, x) for c in sound}
    held = {c.name: held_bytes(c.forward, x) for c in sound} if device == "cuda" else {}
    runners = [*(c.runner(x, g, subject.inplace) for c in sound), *copies(x, g)]
    records = []
    for memory in memories(at, device):
        with kept_memory() if memory == "kept" else contextlib.nullcontext():
            result = race(runners, seconds, watch)
        record = common | {"memory": memory, "rounds": result.rounds}
        moved = 2 * at.elements * dtype.itemsize
        record["copy_bytes_per_second"] = float(f"{moved / result.time('copy', 'forward').median:.4g}")
        record["contestants"] = [_row(c, sound, result, wrong.get(c.name), saved.get(c.name)) for c in field]
        for row in record["contestants"]:
            if row["name"] in held:
                row["held_bytes"] = held[row["name"]]
        records.append(record)
    if compiled:
        torch.compiler.reset()
    return records


def _row(
    own: Contestant, sound: Sequence[Contestant], result: Race, bad: Disagreement | None, saved: dict[str, float] | None
) -> dict[str, Any]:
    stages = ("forward", "backward", "total")
    row: dict[str, Any] = {
        "name": own.name,
        "role": own.role,
        "checked": own.checked,
        "disagrees": bad.json() if bad else None,
        "seconds": None,
        "saved_bytes": saved,
        "ratio": None,
        "share_of_copy": None,
        "share_of_fresh_copy": None,
    }
    if bad:
        return row
    row["seconds"] = {s: result.time(own.name, s).rounded() for s in stages}
    others = [o for o in sound if o is not own and o.role in ("torch", "naive")]
    row["ratio"] = {o.name: {s: result.ratio(own.name, o.name, s).rounded() for s in stages} for o in others}
    for key, copy in (("share_of_copy", "copy"), ("share_of_fresh_copy", "fresh copy")):
        row[key] = {s: result.ratio(copy, own.name, s).rounded() for s in stages}
    return row
