"""What `pliant.observe` costs: a training step with it as a ratio of the same step without it, interleaved in one process.

    python benchmarks/observe.py                    # writes benchmarks/results/observe-cpu.json
    python benchmarks/observe.py --device cuda      # ... observe-cuda.json

A round times, in an order that is reversed every other round, one step each of three equal models: without an observer,
with one that is not looking (`window=0`), and with one that looks (in its window); then one reading. Medians over rounds.
The cost of the defaults is put together from these: of `every` steps `window` look, the others do not, and one reads.

On the CPU it counts processor time of one thread, so that other work on the machine does not count; on a GPU, wall time
between synchronisations.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pliant
from pliant import AReLU

EVERY, WINDOW = 100, 4
FOREVER = 10**9


def mlp(activation: Callable[[], nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [m for _ in range(4) for m in (nn.Linear(256, 256), activation())]
    return nn.Sequential(*layers, nn.Linear(256, 10)), (128, 256)


def cnn(activation: Callable[[], nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    """A small VGG: 6 convolutions with batch normalisation, 32 x 32 images."""
    layers: list[nn.Module] = []
    before = 3
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), activation()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)), (16, 3, 32, 32)


CASES = {
    "mlp-relu": (mlp, nn.ReLU),
    "mlp-arelu": (mlp, AReLU),
    "cnn-relu": (cnn, nn.ReLU),
    "cnn-arelu": (cnn, AReLU),
}


def stepper(make: Any, activation: Any, device: str, **options: Any) -> tuple[Callable[[], None], pliant.Observer | None]:
    torch.manual_seed(0)
    model, shape = make(activation)
    model = model.to(device)
    x, target = torch.randn(shape, device=device), torch.randint(10, shape[:1], device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    observer = pliant.observe(model, **options) if options else None

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        if observer is not None:
            observer.step()

    return step, observer


def timed(call: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "quartile1": round(low, 4), "quartile3": round(high, 4)}


def measure(make: Any, activation: Any, device: str, rounds: int) -> dict[str, Any]:
    plain, _ = stepper(make, activation, device)
    idle, _ = stepper(make, activation, device, every=FOREVER, window=0)
    looking, observer = stepper(make, activation, device, every=FOREVER, window=FOREVER)
    assert observer is not None
    steps = {"plain": plain, "idle": idle, "looking": looking}
    for step in steps.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in (*steps, "read")}
    for i in range(rounds):
        for name in list(steps)[:: -1 if i % 2 else 1]:
            seconds[name].append(timed(steps[name], device))
        seconds["read"].append(timed(observer.read, device))
    quads = list(zip(*(seconds[name] for name in ("plain", "idle", "looking", "read")), strict=True))
    return {
        "n": rounds,
        "plain_ms": spread([1000 * s for s in seconds["plain"]]),
        "read_ms": spread([1000 * s for s in seconds["read"]]),
        "idle_ratio": spread([b / a for a, b, _, _ in quads]),
        "looking_ratio": spread([c / a for a, _, c, _ in quads]),
        "default_ratio": spread([((EVERY - WINDOW) * b + WINDOW * c + d) / (EVERY * a) for a, b, c, d in quads]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What pliant.observe costs.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "what": f"training step with pliant.observe / without; defaults: every={EVERY}, window={WINDOW}",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU, 1 thread, processor time",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cases": {name: measure(*case, args.device, args.rounds) for name, case in CASES.items()},
    }
    out = args.out or Path(__file__).parent / "results" / f"observe-{args.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    for name, case in result["cases"].items():
        print(
            f"{name:10} plain {case['plain_ms']['median']:8.2f} ms  idle {case['idle_ratio']['median']:.3f}  "
            f"looking {case['looking_ratio']['median']:.3f}  defaults {case['default_ratio']['median']:.3f}  (n = {case['n']})"
        )


if __name__ == "__main__":
    main()
