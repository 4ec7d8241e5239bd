"""Every kind of file in a store, damaged: found, or without effect on any number; never a wrong number, never a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest
import safetensors.torch

from pliant.lab import Study, run
from pliant.lab.course import _whole
from pliant.lab.datasets import WDBC
from pliant.lab.result import Result
from pliant.lab.status import TRIALS, Watch
from pliant.lab.store import CHECKPOINT, HISTORY, Store, StoreError, _unsealed
from pliant.lab.study import Custom, TrialSpec, plan
from pliant.lab.train import train

STUDY = Study(
    name="fuzzed",
    dataset="wdbc",
    model={"name": "ffnn", "options": {"width": 4}},
    activations=["relu", "arelu"],
    folds=2,
    repeats=1,
    epochs=2,
)


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study."""
    root = tmp_path_factory.mktemp("store") / "store"
    run(STUDY, store=root)
    yield root
    shutil.rmtree(root)


def numbers(root: Path) -> Any:
    """Every number that a report averages: rows, verdict, confusions, reliability, learning curves."""
    result = Result(STUDY, Store(root, create=False))
    data = result.report_data()
    histories = {key: data.histories[key] for key in data.histories}
    verdict = [(c.activation, c.word, c.difference, c.low, c.high) for c in data.verdict.comparisons]
    return json.dumps([data.rows, verdict, data.confusions, data.reliability, histories], default=str, sort_keys=True)


@fuzz.lengths(40, 1500)
@pytest.mark.parametrize("name", ["result.json", "history.jsonl", "predictions.safetensors", "spec.json"])
def test_a_finished_trial(kept: Path, name: str, examples: int) -> None:
    path = Store(kept, create=False).trial(plan(STUDY)[1].key).path / name
    whole, expected = path.read_bytes(), numbers(kept)
    told: list[str] = []

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            assert numbers(kept) == expected
        except StoreError as error:
            told.append(str(error))

    try:
        fuzz.tried(fuzz.damaged(whole), examples, check)
    finally:
        path.write_bytes(whole)
    # The spec is there for readers; everything else is under a checksum.
    assert len(told) >= (0 if name == "spec.json" else 0.9 * examples)
    # Which file it is, and in the advice the directory of its trial.
    assert all(name in text and str(path.parent) in text for text in told)


@fuzz.lengths(150, 5000)
@pytest.mark.parametrize("name", ["store.json", f"studies/{STUDY.name}/{TRIALS}", f"studies/{STUDY.name}/study.json"])
def test_what_lists_and_names(kept: Path, name: str, examples: int) -> None:
    path = kept / name
    whole = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            store = Store(kept, create=False)
            store.studies()
            seen = Watch(store, STUDY.name).look()
        except StoreError:
            pass
        else:
            assert sum(seen.counts.values()) == seen.trials

    try:
        fuzz.tried(fuzz.damaged(whole), examples, check)
    finally:
        path.write_bytes(whole)


@fuzz.lengths(150, 5000)
@pytest.mark.parametrize("name", ["lock", "failure.json", "history.jsonl", "result.json"])
def test_an_unfinished_trial_is_looked_at(tmp_path: Path, name: str, examples: int) -> None:
    store = Store(tmp_path / "store")
    spec = plan(STUDY)[0]
    trial = store.trial(spec.key)
    trial.begin(spec.model_dump(mode="json"))
    for epoch in (1, 2, 3):
        trial.append_history({"epoch": epoch, "validation_accuracy": 0.5, "seconds": 0.1, "coefficients": {}})
    folder = store.study(STUDY.name)
    store.write_json(folder / "study.json", STUDY.model_dump(mode="json"))
    store.write_json(folder / TRIALS, [{"key": spec.key, "label": "ReLU", "repeat": 0, "fold": 0, "epochs": 9}])
    contents = {
        "lock": b'{"pid": 4000, "host": "elsewhere"}',
        "failure.json": b'{"error": "a worker died", "attempts": 3}',
        "history.jsonl": (trial.path / "history.jsonl").read_bytes(),
        "result.json": b'{"files": {}, "outcome": "done", "row": {"seconds": 1.0}, "sha256": ""}',
    }

    def check(content: bytes) -> None:
        (trial.path / name).write_bytes(content)
        seen = Watch(store, STUDY.name).look()
        assert sum(seen.counts.values()) == seen.trials == 1
        for look in (trial.outcome, trial.holder, trial.failure, trial.history, trial.last_row, trial.changed, trial.glance):
            with contextlib.suppress(StoreError):
                look()

    fuzz.tried(fuzz.damaged(contents[name]), examples, check)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialSpec, Path, bytes, list[dict[str, Any]]]:
    """A trial that was killed after its second epoch, its checkpoint, and the history that it has to end with."""
    spec = plan(STUDY.override(["train.epochs=3"]))[1]
    data = WDBC.load()
    root = tmp_path_factory.mktemp("stopped")
    ends = Store(root / "whole").trial(spec.key)
    ends.begin(spec.model_dump(mode="json"))
    train(spec, data, Custom(), ends)
    trial = Store(root / "cut").trial(spec.key)
    trial.begin(spec.model_dump(mode="json"))

    def report(row: Any) -> None:
        # Its own checkpoint is written after this, so it has that of the epoch before.
        if row["epoch"] == 2:
            raise StopError

    with pytest.raises(StopError):
        train(spec, data, Custom(), trial, report, checkpoint_every=0)
    saved = (trial.path / CHECKPOINT).read_bytes()
    return spec, trial.path, saved, [{**e, "seconds": 0} for e in ends.history()]


@fuzz.lengths(400, 20000)
def test_a_damaged_checkpoint_is_never_believed(
    stopped: tuple[TrialSpec, Path, bytes, list[dict[str, Any]]], examples: int
) -> None:
    _, path, saved, _ = stopped
    history = (path / HISTORY).read_bytes()
    good = _unsealed(saved, history)
    assert good is not None
    assert _whole(good) is not None

    def check(content: bytes) -> None:
        assert _unsealed(content, history) in (None, good)

    fuzz.tried(fuzz.damaged(saved), examples, check)
    for at in range(0, len(saved), max(1, len(saved) // examples)):
        content = bytearray(saved)
        content[at] ^= 1
        assert _unsealed(bytes(content), history) is None


def test_with_a_damaged_checkpoint_a_trial_begins_anew_and_says_so(
    stopped: tuple[TrialSpec, Path, bytes, list[dict[str, Any]]], tmp_path: Path
) -> None:
    spec, path, saved, expected = stopped
    for i, content in enumerate((saved, saved[:-1], saved[: len(saved) // 2], b"", saved[:-5] + b"12345")):
        copy = Store(tmp_path / str(i)).trial(spec.key)
        shutil.copytree(path, copy.path)
        (copy.path / "checkpoint.safetensors").write_bytes(content)
        train(spec, WDBC.load(), Custom(), copy)
        result = copy.result()
        assert result is not None
        assert [{**e, "seconds": 0} for e in copy.history()] == expected
        assert result["provenance"]["resumed_from_epoch"] == (0 if i else 1)
        assert result["provenance"].get("damaged_checkpoint", False) == (i > 0)


def test_a_checkpoint_of_before_checksums_is_still_taken(stopped: tuple[TrialSpec, Path, bytes, list[dict[str, Any]]]) -> None:
    spec, path, _, _ = stopped
    saved = Store(path.parents[2]).trial(spec.key).read(CHECKPOINT)
    tensors, state = _whole(saved)
    older = safetensors.torch.save(tensors, {"state": json.dumps(state)})
    kept = _unsealed(older, b"")
    assert kept == older
    again = _whole(kept)
    assert again is not None
    assert again[1] == state
    assert again[0].keys() == tensors.keys()
