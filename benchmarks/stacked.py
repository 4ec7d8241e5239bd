"""What a training of the lab costs, beside the loops that people write: ratios in one run, rounds interleaved.

    python benchmarks/stacked.py                                  # writes benchmarks/results/stacked-cpu.json
    python benchmarks/stacked.py --keras /path/to/python          # an interpreter that has Keras 3 and JAX

Small trials: the FFNN of the SReLU paper on WDBC, 5 folds x 3 repeats, 15 trainings, at widths 512 and 64.

* ``plain``: nn.Sequential, TensorDataset, DataLoader(shuffle=True), torch.optim.Adam, nn.Dropout; validation each epoch.
* ``keras``: the same network with model.fit(validation_data=...), each fold a new model, as a loop over folds is written;
  three trainings are timed and counted as fifteen.
* ``one by one``: :func:`pliant.lab.train.train` for each trial, into a store. ``stacked``: all of them in one stack.

The lab's numbers contain everything it does: splits, standardisation, histories on disk, test scores, predictions, results.
``plain`` and ``keras`` are given arrays that are split and standardised already, and write and score nothing.
A ratio is the median over rounds of the ratio within a round. Everything is given twice: in wall seconds, and in seconds of
processor time (all threads together), which other work on the machine disturbs less.

Larger data: one epoch over 10,000 MNIST images (files under PLIANT_DATA), a DataLoader over torchvision's MNIST with ToTensor
and Normalize against the lab's own way: uint8 images that stay in memory, gathered and scaled a batch at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pliant
from pliant.lab import Data, Study, dropout
from pliant.lab.batches import Examples, batches
from pliant.lab.datasets import WDBC
from pliant.lab.protocol import split
from pliant.lab.recipe import Normalise
from pliant.lab.stacked import train_stacked
from pliant.lab.store import Store
from pliant.lab.study import Custom, plan
from pliant.lab.train import train

HERE = Path(__file__).parent


def study(width: int, epochs: int, activation: str, repeats: int = 3) -> Study:
    return Study(
        name="bench",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": width}},
        activations=[activation],
        folds=5,
        repeats=repeats,
        train={"epochs": epochs, "batch_size": 128, "optimizer": {"eps": 1e-7}},
    )


def arrays(wanted: Study) -> list[tuple[np.ndarray, ...]]:
    data, found = WDBC.load(), []
    for spec in plan(wanted):
        parts = split(spec, data)
        mean, sd = data.x[parts.train].mean(0), data.x[parts.train].std(0)
        x = ((data.x - mean) / sd).astype(np.float32)
        found.append((x[parts.train], data.y[parts.train], x[parts.validation], data.y[parts.validation]))
    return found


def network(width: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    model = nn.Sequential(
        *(nn.Linear(30, width), activation(), nn.Dropout(0.3)),
        *(nn.Linear(width, width), activation(), nn.Dropout(0.3)),
        nn.Linear(width, 1),
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def plain(folds: list[tuple[np.ndarray, ...]], width: int, epochs: int) -> None:
    for x, y, xv, yv in folds:
        model = network(width)
        fitted = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y, dtype=torch.float32))
        held = torch.utils.data.TensorDataset(torch.tensor(xv), torch.tensor(yv, dtype=torch.float32))
        loader = torch.utils.data.DataLoader(fitted, batch_size=128, shuffle=True)
        validation = torch.utils.data.DataLoader(held, batch_size=128)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
        criterion = nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            model.train()
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs).squeeze(1), targets)
                loss.backward()
                optimizer.step()
                loss.item()
            model.eval()
            with torch.no_grad():
                for inputs, targets in validation:
                    criterion(model(inputs).squeeze(1), targets).item()


KERAS_TRAININGS = 3

KERAS = """
import sys, time, numpy as np
folds = np.load(sys.argv[1], allow_pickle=False); width, epochs, n = map(int, sys.argv[2:5])
import keras
from keras import layers
def once(epochs):
    for i in range(n):
        model = keras.Sequential([layers.Input((30,)),
            layers.Dense(width, activation="relu"), layers.Dropout(0.3),
            layers.Dense(width, activation="relu"), layers.Dropout(0.3),
            layers.Dense(1, activation="sigmoid")])
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        model.fit(folds[f"x{i}"], folds[f"y{i}"], validation_data=(folds[f"xv{i}"], folds[f"yv{i}"]),
                  epochs=epochs, batch_size=128, verbose=0)
once(1)
print("ready", flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    once(epochs)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


class Keras:
    """A warm process of another interpreter that trains on demand; ``None`` where there is none."""

    def __init__(self, python: str, backend: str, folds: list[tuple[np.ndarray, ...]], width: int, epochs: int) -> None:
        # Each fold is a model that is built and compiled anew, so fewer of them cost in proportion.
        self.scale = len(folds) / KERAS_TRAININGS
        folds = folds[:KERAS_TRAININGS]
        self.file = Path(tempfile.mkstemp(suffix=".npz")[1])
        names = ("x", "y", "xv", "yv")
        np.savez(self.file, **{f"{n}{i}": a for i, fold in enumerate(folds) for n, a in zip(names, fold, strict=True)})
        command = [python, "-c", KERAS, str(self.file), str(width), str(epochs), str(len(folds))]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"KERAS_BACKEND": backend}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready", "Keras does not run in that interpreter"

    def __call__(self) -> tuple[float, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.process.stdout.readline().split())
        return wall * self.scale, cpu * self.scale

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.file.unlink()


Clocked = Callable[[], tuple[float, float]]
"""Runs something; wall seconds and processor seconds."""


def clocked(call: Callable[[], Any]) -> Clocked:
    def run() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - wall, time.process_time() - cpu

    return run


def rounds(calls: dict[str, Clocked], n: int) -> dict[str, list[tuple[float, float]]]:
    """Every call once a round, in an order that is reversed every other round, after one round that does not count."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for i in range(-1, n):
        for name in list(calls)[:: -1 if i % 2 else 1]:
            taken = calls[name]()
            if i >= 0:
                seconds[name].append(taken)
    return seconds


def table(seconds: dict[str, list[tuple[float, float]]], bases: Sequence[str], each: float) -> dict[str, Any]:
    """Medians in milliseconds, divided by ``each``, and ratios to every base; by wall and by processor time."""
    found: dict[str, Any] = {}
    for at, what in enumerate(("wall", "processor")):
        taken = {name: [pair[at] for pair in pairs] for name, pairs in seconds.items()}
        found[what] = {"ms": {name: round(1e3 * statistics.median(v) / each, 3) for name, v in taken.items()}}
        for base in bases:
            found[what][f"over {base}"] = {
                name: round(statistics.median(a / b for a, b in zip(v, taken[base], strict=True)), 3)
                for name, v in taken.items()
                if name != base
            }
    return found


def small(width: int, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(threads)
    epochs = args.epochs
    wanted = study(width, epochs, "relu")
    data, specs = WDBC.load(), plan(wanted)
    folds = arrays(wanted)

    def lab(work: Callable[..., None]) -> Clocked:
        def run() -> None:
            with tempfile.TemporaryDirectory() as root:
                trials = [Store(Path(root) / "store").trial(spec.key) for spec in specs]
                for trial, spec in zip(trials, specs, strict=True):
                    trial.begin(spec.model_dump(mode="json"))
                work(trials)

        return clocked(run)

    def one_by_one(trials: list[Any]) -> None:
        for spec, trial in zip(specs, trials, strict=True):
            train(spec, data, Custom(), trial)

    calls = {
        "plain": clocked(lambda: plain(folds, width, epochs)),
        "one by one": lab(one_by_one),
        "stacked": lab(lambda trials: train_stacked(specs, data, Custom(), trials)),
    }
    keras = Keras(args.keras, args.backend, folds, width, epochs) if args.keras else None
    if keras is not None:
        calls["keras"] = keras
    try:
        seconds = rounds(calls, args.rounds)
    finally:
        if keras is not None:
            keras.close()
    bases = ["plain", *(["keras"] if keras is not None else [])]
    head = {"width": width, "threads": threads, "trials": len(specs), "epochs": epochs, "unit": "a training and epoch"}
    return {**head, **table(seconds, bases, len(specs) * epochs)}


# --- one epoch of MNIST -----------------------------------------------------------------------------------------------


def srelu_cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """The CNN of the SReLU paper, 1,106,314 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), activation(), nn.MaxPool2d(2), nn.Dropout(0.3)),
        *(nn.Conv2d(32, 64, 3), activation(), nn.MaxPool2d(2), nn.Dropout(0.3)),
        nn.Flatten(),
        *(nn.Linear(1600, 512), activation(), nn.Dropout(0.3)),
        *(nn.Linear(512, 512), activation(), nn.Dropout(0.3)),
        nn.Linear(512, 10),
    )


def dense(activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 512), activation(), nn.Dropout(0.3)),
        *(nn.Linear(512, 512), activation(), nn.Dropout(0.3)),
        nn.Linear(512, 10),
    )


def mnist(root: Path, n: int, threads: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    from torchvision import datasets, transforms

    torch.set_num_threads(threads)
    change = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    whole = datasets.MNIST(root, train=True, transform=change)
    subset = torch.utils.data.Subset(whole, range(n))
    data = Data.of(whole.data[:n, None].numpy(), whole.targets[:n].numpy())
    normalise = Normalise(kind="channels", mean=(0.1307,), std=(0.3081,))
    examples = Examples.of(data, normalise, np.arange(n), torch.device("cpu"))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    found = []
    for name, make in (("ffnn", dense), ("cnn", srelu_cnn)):
        usual, ours, torchs = make(nn.ReLU), make(nn.ReLU), make(nn.ReLU)
        dropout.take_over(ours)
        usual_adam = torch.optim.Adam(usual.parameters())
        our_adam = torch.optim.Adam(ours.parameters(), fused=True)
        torchs_adam = torch.optim.Adam(torchs.parameters(), fused=True)

        def loaded(workers: int, model: nn.Module = usual, optimizer: Any = usual_adam) -> None:
            loader = torch.utils.data.DataLoader(subset, batch_size=128, shuffle=True, num_workers=workers)
            for x, y in loader:
                step(model, optimizer, x, y)

        def resident(model: nn.Module, optimizer: Any) -> None:
            dropout.reseed(model, 1)
            order = torch.randperm(n)
            for part in batches(order, 128):
                step(model, optimizer, examples.batch(order[part]), examples.y[order[part]])

        def bare(model: nn.Module = torchs, optimizer: Any = torchs_adam, make: Any = make) -> None:
            # The least there is to do: the steps alone, on one batch that is there already.
            x = torch.randn(128, 1, 28, 28)
            for _ in range(-(-n // 128)):
                step(model, optimizer, x, examples.y[:128])

        seconds = rounds(
            {
                "DataLoader": clocked(lambda f=loaded: f(0)),
                "DataLoader, 2 workers": clocked(lambda f=loaded: f(2)),
                "resident": clocked(lambda f=resident, m=ours, o=our_adam: f(m, o)),
                "resident, torch's dropout": clocked(lambda f=resident, m=torchs, o=torchs_adam: f(m, o)),
                "steps alone": clocked(bare),
            },
            args.rounds,
        )
        head = {"network": name, "images": n, "threads": threads, "unit": "an epoch"}
        found.append({**head, **table(seconds, ["DataLoader"], 1)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--widths", type=int, nargs="*", default=[512, 64])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--images", type=int, default=10_000, help="0: no MNIST")
    parser.add_argument("--keras", help="a Python interpreter that has Keras 3")
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "stacked-cpu.json")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "what": "cost of a training in the lab beside usual loops; medians of interleaved rounds",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "pliant": pliant.__version__ if hasattr(pliant, "__version__") else "",
        "rounds": args.rounds,
        "keras": args.backend if args.keras else None,
        "wdbc": [],
        "mnist": [],
    }
    for width in args.widths:
        for threads in args.threads:
            record["wdbc"].append(small(width, threads, args))
            print(json.dumps(record["wdbc"][-1]), file=sys.stderr, flush=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    root = Path(os.environ.get("PLIANT_DATA", "data"))
    if args.images and (root / "MNIST" / "raw").is_dir():
        for threads in args.threads:
            record["mnist"] += mnist(root, args.images, threads, args)
            print(json.dumps(record["mnist"][-2:]), file=sys.stderr, flush=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
