"""What the kernels are meant to reach, as data; and whether a run reached it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BUSY", "TARGETS", "Target", "is_quiet", "judge"]

BUSY = 1.05
"""How far torch's own may be from itself, measured as two contestants, before a race decides nothing."""


@dataclass(frozen=True)
class Target:
    """A bound on a median, float32.

    Args:
        device: ``cpu`` or ``cuda``. subject: an activation; for steps the activation in the network.
        against: the contestant divided by; ``copy`` for a share of the copy's speed.
        where: a size of the kernels, or the name of a network.
        stage: ``total`` (forward + backward), ``forward``, ``backward`` or ``step``.
        bound: ratios must not be above it, shares not below.
        memory: of the kernels, see :func:`pliant.bench.machine.kept_memory`.
        compiled: both sides under torch.compile.
    """

    device: str
    subject: str
    against: str
    where: str
    stage: str
    bound: float
    memory: str = "fresh"
    compiled: bool = False

    @property
    def at_least(self) -> bool:
        """Whether the bound is a lower one."""
        return self.against == "copy"


def _targets() -> tuple[Target, ...]:
    against_torch = (
        ("dsrelu", "LeakyReLU", 1.00),
        ("arelu", "PReLU", 0.50),
        ("arelu", "LeakyReLU", 1.10),
        ("srelu", "ELU", 0.75),
        ("asigmoid", "Sigmoid", 1.05),
        ("atanh", "Tanh", 1.15),
        ("pelu", "ELU", 0.80),
        ("swish", "SiLU", 1.05),
        ("dsrelu-inplace", "LeakyReLU in place", 1.00),
    )
    native = {"prelu": "PReLU", "frelu": "ReLU"} | {s: t for s, t, _ in reversed(against_torch)}
    names = list(dict.fromkeys([*(s for s, _, _ in against_torch), "prelu", "frelu"]))
    return (
        *(Target("cpu", s, t, "large", "total", bound) for s, t, bound in against_torch),
        *(
            Target("cpu", s, "copy", "large", stage, 0.85, memory="kept")
            for s in ("dsrelu", "srelu", "arelu")
            for stage in ("forward", "backward")
        ),
        *(Target("cpu", s, native[s], "small", "total", 1.40) for s in names),
        # "At least 3 times slower", as a ratio of ours to the naive form.
        *(Target("cpu", s, "naive", "large", "total", 1 / 3) for s in names),
        Target("cpu", "dsrelu", "ReLU", "resnet34", "step", 1.03),
        Target("cpu", "arelu", "ReLU", "resnet34", "step", 1.05),
        *(Target("cuda", s, "copy", "large", stage, 0.90) for s in names for stage in ("forward", "backward")),
        Target("cuda", "dsrelu", "ReLU", "resnet34", "step", 1.01),
        Target("cuda", "dsrelu", "ReLU", "resnet34", "step", 1.01, compiled=True),
    )


TARGETS = _targets()
"""All of them, for both kinds of device."""


def judge(result: Mapping[str, Any], targets: Sequence[Target] = TARGETS) -> list[dict[str, Any]]:
    """Every target for the device of ``result``, with ``measured`` (``[low, median, high]`` or None), ``met`` (True, False, or
    None where nothing was measured) and ``why`` nothing was."""
    return [_judged(result, t) for t in targets if t.device == result["kind"]]


def is_quiet(record: Mapping[str, Any], stage: str) -> bool:
    """Whether the control of a race, torch's own a second time, came out within :data:`BUSY` of torch's own."""
    control = next(c for c in record["contestants"] if c["role"] == "control")
    median = next(iter(control["ratio"].values()))[stage][1]
    return bool(1 / BUSY <= median <= BUSY)


def _judged(result: Mapping[str, Any], target: Target) -> dict[str, Any]:
    measured, why = _find(result, target)
    met = None
    if measured is not None:
        met = measured[1] >= target.bound if target.at_least else measured[1] <= target.bound
    return {**asdict(target), "at_least": target.at_least, "measured": measured, "met": met, "why": why}


def _find(result: Mapping[str, Any], target: Target) -> tuple[list[float] | None, str]:
    steps = target.stage == "step"
    for record in result["steps" if steps else "kernels"]:
        if steps:
            here = record["network"] == target.where
            name, against = f"{target.subject} pliant", target.against
        else:
            at = (record["activation"], record["size"], record["memory"], record["dtype"])
            here = at == (target.subject, target.where, target.memory, "float32")
            name, against = "pliant", target.against
        if not here:
            continue
        if "skipped" in record:
            return None, record["skipped"]
        suffix = " compiled" if target.compiled else ""
        row = next((c for c in record["contestants"] if c["name"] == name + suffix), None)
        if row is None:
            return None, "not measured"
        if row["disagrees"]:
            return None, "DISAGREES"
        if not is_quiet(record, target.stage):
            return None, "cannot tell: the machine was busy, torch's own against itself is off by more than 5 %"
        found = row["share_of_copy"] if target.at_least else row["ratio"].get(against + suffix)
        return (found[target.stage], "") if found else (None, f"{against} disagrees or was not measured")
    return None, "not measured"
