"""One run of the bench: from options to the results, which are data, and the file they are kept in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pliant.bench import compilation, kernels, steps
from pliant.bench.machine import environment, slug
from pliant.bench.networks import NETWORKS, network
from pliant.bench.subjects import DEFAULT, require_dtype, subject
from pliant.bench.targets import is_quiet, judge
from pliant.bench.timing import CpuWatch, CudaWatch
from pliant.errors import DomainError, PliantError

__all__ = ["FORMAT", "Options", "disagreements", "restless", "run", "write"]

FORMAT = 1
"""Of the results file; raised when a reader of the old form would misread the new."""


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        activations: names of the bench or specs of the catalogue; empty = all the default ones.
        sizes: ``small``, ``medium``, ``large`` or ``ROWSxCOLUMNS``; empty = the three named ones.
        dtypes: ``float32``, ``bfloat16``, ``float64``; empty = the first two.
        networks: whose training steps are measured; empty = all.
        kernels, steps: whether activations alone, and whole steps, are measured.
        compiled: also under torch.compile.
        seconds: for the rounds of one case; checks and warm-up come on top.
        device: ``cpu`` or ``cuda``.
        threads: of torch on the CPU; None = as torch chooses.
    """

    activations: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    kernels: bool = True
    steps: bool = True
    compiled: bool = False
    seconds: float = 3.0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise DomainError(f"--seconds was given {self.seconds!r}; expected a time above 0 for each case.")
        if self.threads is not None and self.threads < 1:
            raise DomainError(f"--threads was given {self.threads!r}; expected a whole number from 1 on.")
        if self.device not in ("cpu", "cuda"):
            raise DomainError(f"--device was given {self.device!r}; the bench measures cpu or cuda.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise PliantError("--device cuda was given, but torch sees no GPU here; leave it out to measure the CPU.")
        if not (self.kernels or self.steps):
            raise DomainError("--no-kernels and --no-steps leave nothing to measure; give one of them at most.")


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(
    options: Options,
    *,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
    entrants: Callable[[str], list[kernels.Contestant]] = lambda name: [],
) -> dict[str, Any]:
    """Measure, and give the results as they are written to the file.

    Interrupted by the keyboard it returns what is measured so far, with ``complete`` False.

    Args:
        command: what the user typed, kept in the results.
        tell: called with the name of each case before it is measured.
        entrants: further contestants for an activation; they are checked and refused like all others.

    Raises:
        UnknownNameError, DomainError: the options name something that cannot be measured; nothing was measured then.
    """
    subjects = [subject(a) for a in options.activations or DEFAULT]
    dtypes = [require_dtype(d) for d in options.dtypes or ("float32", "bfloat16")]
    sizes = {d: [kernels.size(s, d, options.device) for s in options.sizes or kernels.SIZES] for d in dtypes}
    networks = [network(n) for n in options.networks or NETWORKS]
    compared = [s for s in subjects if s.name.partition("[")[0] in steps.COMPARED]
    watch = CudaWatch() if options.device == "cuda" else CpuWatch()
    with _threads(options.threads):
        result: dict[str, Any] = {
            "format": FORMAT,
            "kind": options.device,
            "device": slug(options.device),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "command": command,
            "seconds_per_case": options.seconds,
            "environment": environment(options.device),
            "complete": False,
            "kernels": [],
            "steps": [],
            "compilation": [],
        }
        common: dict[str, Any] = {
            "device": options.device,
            "seconds": options.seconds,
            "compiled": options.compiled,
            "watch": watch,
        }
        try:
            for s in subjects if options.kernels else ():
                tell(f"{s.name}: programs of torch.compile along a schedule")
                result["compilation"].append(compilation.measure(s, options.device))
                for dtype in dtypes:
                    for at in sizes[dtype]:
                        tell(f"{s.name}, {at.name}, {str(dtype).removeprefix('torch.')}")
                        result["kernels"] += kernels.measure(s, at, dtype, entrants=entrants(s.name), **common)
            for n in networks if options.steps and compared else ():
                tell(f"{n.name}: training steps")
                result["steps"].append(steps.measure(n, compared, **common))
            result["complete"] = True
        except KeyboardInterrupt:
            tell("stopped")
    result["targets"] = judge(result)
    return result


def disagreements(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every contestant that was refused: where, and what was off by how much."""
    found = []
    for record in [*result["kernels"], *result["steps"]]:
        where = record.get("network") or " ".join(record[k] for k in ("activation", "size", "dtype", "memory"))
        refused = [c for c in record.get("contestants", ()) if c["disagrees"]]
        found += [(f"{where}: {c['name']}", c["disagrees"]) for c in refused]
    return found


def restless(result: dict[str, Any]) -> int:
    """The number of races whose control was further from 1 than :data:`pliant.bench.targets.BUSY` allows."""
    races = [(r, "step" if "network" in r else "total") for r in [*result["kernels"], *result["steps"]] if "contestants" in r]
    return sum(not is_quiet(r, stage) for r, stage in races)


def write(result: dict[str, Any], path: Path) -> None:
    """Write the results as JSON, whole or not at all.

    Raises:
        PliantError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(_dumps(result) + "\n")
        os.replace(beside, path)
    except OSError as error:
        raise PliantError(
            f"The results cannot be written to {path}: {error.strerror}. Choose another file with --out."
        ) from error


def _dumps(value: Any, depth: int = 0) -> str:
    """Indented where it helps a reader of a diff: records and contestants have a line each, their numbers none."""
    if depth < 4 and isinstance(value, dict | list) and value and not all(isinstance(v, int | float) for v in value):
        pad, end = " " * (depth + 1), " " * depth
        if isinstance(value, dict):
            items = [f"{pad}{json.dumps(k)}: {_dumps(v, depth + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(items) + f"\n{end}}}"
        return "[\n" + ",\n".join(pad + _dumps(v, depth + 1) for v in value) + f"\n{end}]"
    return json.dumps(value)
