from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
import pytest
import torch

from pliant.lab import Study, run
from pliant.lab.distributed import RankError, train_together
from pliant.lab.ranks import Ranks
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Custom, StudyError, plan
from pliant.lab.train import DeviceError


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DEVICE", "cpu")


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def study(activation: str, world_size: int = 1, **changes: object) -> Study:
    given = {"dataset": "wdbc", "model": {"name": "ffnn", "options": {"width": 8, "dropout": 0.0}}} | changes
    train = {"epochs": 3, "batch_size": 60, "world_size": world_size}
    return Study(name="ranks", activations=[activation], folds=2, repeats=1, **{"train": train, **given})


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 60])
def test_shares_are_the_batch_and_nobody_is_shown_less_than_two(size: int, n: int) -> None:
    part = slice(10, 10 + n)
    rows = np.arange(100)
    found = []
    for rank in range(size):
        shown, own = Ranks(rank, size).share(part)
        assert part.start <= shown.start <= shown.stop <= part.stop
        assert shown.stop - shown.start >= min(2, n)
        np.testing.assert_array_equal(rows[shown][own], rows[Ranks(rank, size).own(part)])
        found += rows[shown][own].tolist()
    assert found == rows[part].tolist()
    lengths = [len(rows[Ranks(rank, size).own(part)]) for rank in range(size)]
    assert max(lengths) - min(lengths) <= 1


def courses(result: Result) -> list[dict[str, object]]:
    return [epoch for row in result.rows for epoch in result.store.trial(row["key"]).history()]


def assert_close(one: object, two: object, tolerance: float) -> None:
    if isinstance(one, dict):
        assert isinstance(two, dict)
        assert one.keys() == two.keys()
        for name in one.keys() - {"seconds"}:
            assert_close(one[name], two[name], tolerance)
    else:
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("float64")
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Learned and scheduled coefficients, weights and scores after every epoch. 569 examples leave a short last batch."""
    for activation in ("arelu", "dsrelu"):
        one = run(study(activation), store=tmp_path / "one", stack=1)
        two = run(study(activation, 2), store=tmp_path / "two")
        assert two.counts["done"] == 2
        for a, b in zip(courses(one), courses(two), strict=True):
            assert a["coefficients"]
            assert_close(a, b, 1e-6)
        for a, b in zip(one.rows, two.rows, strict=True):
            assert a["key"] != b["key"]
            for name in ("test_loss", "test_auc", "validation_loss_last", "steps", "selected_epoch"):
                assert a[name] == pytest.approx(b[name], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "changes",
    [
        {"quirks": ["top_5_epoch_rows"], "dataset": "digits"},
        # A last batch of 227 % 226 = 1 joins another; one of 3 leaves a process of two with one example.
        {"train": {"epochs": 2, "batch_size": 58, "train_scores": "evaluated", "label_smoothing": 0.2}},
        {"train": {"epochs": 2, "batch_size": 64, "drop_last": True, "optimizer": {"name": "momentum", "lr": 0.01}}},
    ],
    ids=["top five", "short batches", "dropped"],
)
def test_three_processes_compute_what_one_does(tmp_path: Path, changes: dict[str, object]) -> None:
    one = study("arelu", **changes)
    three = one.override(["train.world_size=3"])
    a, b = run(one, store=tmp_path / "one", stack=1), run(three, store=tmp_path / "three")
    for x, y in zip(courses(a), courses(b), strict=True):
        assert_close(x, y, 1e-6)


def test_a_killed_trial_goes_on_with_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = study("arelu", 2)
    whole = run(chosen, store=tmp_path / "whole", checkpoint_every=0)
    spec = plan(chosen)[0]
    store = Store(tmp_path / "cut")
    trial = store.trial(spec.key)

    def stop(row: dict[str, float]) -> None:
        # The second epoch's checkpoint may or may not have been written: both must do.
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with trial.lock():
        trial.begin(spec.model_dump(mode="json"))
        with pytest.raises(KeyboardInterrupt):
            train_together(spec, Custom(), store.root, stop, checkpoint_every=0)
    assert trial.outcome() == "missing"
    assert trial.read("checkpoint.safetensors") is not None
    result = run(chosen, store=tmp_path / "cut", checkpoint_every=0)
    assert result.store.trial(spec.key).result()["provenance"]["resumed_from_epoch"] in (1, 2)
    assert [{**e, "seconds": 0} for e in courses(whole)] == [{**e, "seconds": 0} for e in courses(result)]


def test_what_one_process_says_is_the_error(tmp_path: Path) -> None:
    chosen = study("arelu", 2)
    spec = plan(chosen)[0]
    broken = spec.model_copy(update={"quirks": ("batch_statistics_at_test",)})
    trial = Store(tmp_path).trial(broken.key)
    trial.begin(broken.model_dump(mode="json"))
    with pytest.raises(RankError, match=r"process [01] of 2: StudyError: The quirk batch_statistics_at_test needs batch norm"):
        train_together(broken, Custom(), tmp_path)


def test_diverged_is_a_result_of_all_processes(tmp_path: Path) -> None:
    chosen = Study(
        name="exploding",
        dataset="wdbc",
        model=networks.tiny,
        activations=[networks.Exploding],
        folds=2,
        repeats=1,
        train={"epochs": 3, "world_size": 2, "optimizer": {"name": "sgd", "lr": 1e4}},
    )
    assert run(chosen, store=tmp_path).counts["diverged"] == 2


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"world_size": 0}, "greater than or equal to 1"),
        ({"world_size": 4, "batch_size": 6}, "fewer than two examples"),
        ({"world_size": 2, "speed": ["compile"]}, "is for one process"),
        ({"sync_batch_norm": True}, "no effect on one process"),
    ],
)
def test_recipes_that_make_no_sense(train: dict[str, object], expected: str) -> None:
    with pytest.raises(StudyError, match=expected):
        study("relu", train=train)


def test_sync_batch_norm_needs_gpus(tmp_path: Path) -> None:
    chosen = study("relu", train={"world_size": 2, "sync_batch_norm": True, "epochs": 1})
    with pytest.raises(DeviceError, match="works on GPUs alone"):
        train_together(plan(chosen)[0], Custom(), tmp_path)


def test_the_number_of_processes_is_part_of_the_identity_and_one_is_as_before() -> None:
    one, two = plan(study("relu")), plan(study("relu", 2))
    assert not {t.key for t in one} & {t.key for t in two}
    without = study("relu", train={"epochs": 3, "batch_size": 60})
    assert [t.key for t in plan(without)] == [t.key for t in one]
    # Computed before the number of processes could be chosen.
    assert one[0].key == KEY


KEY = "2312f0c1dbd6169f326b101d2f26f41164f7ef3581b058a993e692211949fe40"


def test_the_folder_of_a_changed_study_is_as_before() -> None:
    changed = study("relu", train={"epochs": 3, "batch_size": 60}).override(["train.epochs=4"])
    assert changed.directory == FOLDER
    assert changed.override(["train.world_size=2"]).directory != FOLDER


FOLDER = "ranks.df67851b"
