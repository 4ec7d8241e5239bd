from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import pliant.kernels
from pliant import AReLU
from pliant.lab import Data, Study, run
from pliant.lab.datasets import ALL, WDBC
from pliant.lab.run import _cut, _is_small
from pliant.lab.stacked import lanes, obstacle, train_stacked, unstackable_network
from pliant.lab.store import Store, TrialDirectory
from pliant.lab.study import Custom, TrialSpec, plan
from pliant.lab.train import build, train

TIMES = {"seconds", "seconds_per_epoch"}
MANY = [
    "relu",
    "arelu",
    "srelu",
    "dsrelu",
    "dsrelu[released]",
    "pelu",
    "prelu[channels=8]",
    "srelu[beta=learned(0.25)]",
    "arelu[channels=8]",
    "gelu",
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the lab trains; on a busy machine waiting for each other costs more than these matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def study(activations: list[Any], *changes: str, **given: Any) -> Study:
    options = {
        "name": "s",
        "dataset": "wdbc",
        "model": {"name": "ffnn", "options": {"width": 8}},
        "folds": 2,
        "repeats": 1,
        "epochs": 6,
        "batch_size": 64,
    }
    if "data" in given:
        del options["dataset"]
    return Study(**{**options, "activations": activations, **given}).override(list(changes))


def directories(root: Path, specs: tuple[TrialSpec, ...]) -> list[TrialDirectory]:
    trials = [Store(root).trial(spec.key) for spec in specs]
    for trial in trials:
        trial.begin({})
    return trials


def alone(study: Study, data: Data, root: Path) -> list[TrialDirectory]:
    specs = plan(study)
    trials = directories(root, specs)
    for spec, trial in zip(specs, trials, strict=True):
        train(spec, data, study.custom, trial)
    return trials


def stacked(study: Study, data: Data, root: Path, **options: Any) -> list[TrialDirectory]:
    specs = plan(study)
    trials = directories(root, specs)
    train_stacked(specs, data, study.custom, trials, **options)
    return trials


def assert_same(one: list[TrialDirectory], two: list[TrialDirectory], rtol: float = 1e-9, atol: float = 1e-9) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        _close(a.history(), b.history(), rtol, atol)
        x, y = a.result(), b.result()
        assert x["outcome"] == y["outcome"]
        _close(x["row"], y["row"], rtol, atol)
        p, q = (safetensors.numpy.load(t.read("predictions.safetensors")) for t in (a, b))
        assert p.keys() == q.keys()
        for name in p:
            # They are stored as float32, in which two numbers 1e-9 apart may be neighbours.
            np.testing.assert_allclose(p[name], q[name], rtol=1.2e-7, atol=max(atol, 1e-12), err_msg=name)


def _close(a: Any, b: Any, rtol: float, atol: float, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - TIMES:
            _close(a[key], b[key], rtol, atol, f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _close(x, y, rtol, atol, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=rtol, abs=atol), where
    else:
        assert a == b, where


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "optimizer",
    ["adam", "sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "adagrad", "adadelta"))],
)
def test_a_stack_gives_what_each_trial_gives_alone(tmp_path: Path, optimizer: str) -> None:
    """Dropout, learned (per layer and per channel), scheduled (two schedules) and fixed coefficients in one stack."""
    changes = [f"train.optimizer.name={optimizer}", "train.optimizer.weight_decay=0.01"]
    wanted = study(MANY, *changes, *(["train.optimizer.momentum=0.9"] if optimizer == "sgd" else []), epochs=4)
    data = WDBC.load()
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert_same(one, two)
    assert {t.result()["provenance"]["stacked_with"] for t in two} == {len(two) - 1}
    moved = two[1].history()
    assert moved[0]["coefficients"] != moved[-1]["coefficients"]


@pytest.mark.usefixtures("double")
def test_lanes_stop_early_each_at_its_own_epoch(tmp_path: Path) -> None:
    wanted = study(
        ["relu", "arelu", "dsrelu"], "train.patience=3", "train.epochs=60", "train.optimizer.lr=0.03", folds=3, batch_size=128
    )
    data = WDBC.load()
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert_same(one, two)
    lengths = {len(t.history()) for t in two}
    assert len(lengths) > 3, "this test needs lanes that stop at different epochs"
    assert max(lengths) < 60


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("n", "batch"), [(143, 32), (144, 32), (145, 32), (101, 64), (146, 16)])
def test_folds_of_unequal_length(tmp_path: Path, n: int, batch: int) -> None:
    """Also where one more example makes one more batch, so that the lanes are in two stacks, and a batch of one is merged."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 5))
    wanted = study(["relu", "arelu"], folds=3, epochs=3, batch_size=batch, data=(x, (x[:, 0] > 0.2).astype(int)))
    data = wanted.custom.data
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert len({t.result()["row"]["n_train"] for t in two}) > 1 or n == 144
    assert_same(one, two)


@pytest.mark.usefixtures("double")
def test_many_classes_images_and_no_normalisation(tmp_path: Path) -> None:
    wanted = study(["relu", "atanh"], "protocol.standardise=false", dataset="digits", epochs=2, batch_size=128)
    data = ALL["digits"].load()
    assert_same(alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two"))


def _convolutional(activation: Any, *, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), activation(), nn.Flatten(), nn.Linear(18, outputs))


def images(n: int = 150, channels: int = 2, **more: Any) -> Data:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.integers(0, 120, (n, channels, 4, 5), dtype=np.uint8)
    x[np.arange(n), 0, y] += 80
    return Data.of(x, y, **more)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["none", "features", "channels", "image"])
def test_images_of_bytes_are_normalised_for_each_lane(tmp_path: Path, kind: str) -> None:
    """The bytes lie in the stack once; means and deviations are those of each fold."""
    wanted = study(["relu", "arelu"], f"protocol.normalise={kind}", data=images(), epochs=2, batch_size=32)
    data = wanted.custom.data
    assert_same(alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("design", ["official", "holdout", "groups"])
def test_designs(tmp_path: Path, design: str) -> None:
    n = 150
    data = images(n, parts=np.arange(n) % 4 // 2 * 2, groups=np.arange(n) // 5)
    protocol: dict[str, Any] = {"repeats": 2, "normalise": "channels"}
    protocol |= {"folds": 2, "groups": True} if design == "groups" else {"design": design}
    wanted = Study(
        name="s",
        data=data,
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", "dsrelu"],
        protocol=protocol,
        train={"epochs": 3, "batch_size": 32, "drop_last": True, "train_scores": "evaluated", "label_smoothing": 0.2},
    )
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert_same(one, two)
    assert all(t.result()["provenance"]["stacked_with"] > 0 for t in two)
    assert "evaluated_train_loss" in two[0].history()[0]


@pytest.mark.usefixtures("double")
def test_a_grid_of_rates_and_a_schedule_have_a_stack_each(tmp_path: Path) -> None:
    """TensorFlow's Adam, whose epsilon goes by the number of steps taken, with a falling rate, killed and resumed."""
    recipe = {
        "epochs": 5,
        "batch_size": 60,
        "drop_last": True,
        "lr_grid": [1e-3, 1e-2],
        "optimizer": {"name": "adam", "constants": "tf1", "activation_lr_multiplier": 3.0},
        "schedule": {"name": "steps", "factors": [[1, 0.5], [3, 0.1]]},
    }
    wanted = Study(
        name="s", dataset="wdbc", model={"name": "ffnn", "options": {"width": 8}}, activations=["relu", "arelu"],
        folds=2, repeats=1, train=recipe,
    )  # fmt: skip
    data, specs = WDBC.load(), plan(wanted)
    one = alone(wanted, data, tmp_path / "one")
    two = directories(tmp_path / "two", specs)

    def stop(place: int, row: Any) -> None:
        if place == 7 and row["epoch"] == 3:
            raise StopError

    with pytest.raises(StopError):
        train_stacked(specs, data, wanted.custom, two, stop, checkpoint_every=0)
    left = [i for i, trial in enumerate(two) if trial.outcome() != "done"]
    assert len(left) == 4, "one stack was finished, the other was not"
    train_stacked([specs[i] for i in left], data, wanted.custom, [two[i] for i in left])
    assert_same(one, two)
    assert {t.result()["provenance"]["stacked_with"] for t in two} == {3}
    assert {two[i].result()["provenance"]["resumed_from_epoch"] for i in left} == {2}
    assert {t.result()["row"]["lr"] for t in two[:2]} != {t.result()["row"]["lr"] for t in two[2:4]}


def test_the_same_activation_under_two_names(tmp_path: Path) -> None:
    """Trained one by one the two are equal to the last bit (test_train.py); in one stack they agree to rounding."""
    wanted = study(["relu", networks.MyReLU], epochs=6, repeats=2, model={"name": "ffnn", "options": {"width": 33}})
    result = run(wanted, store=tmp_path, stack=4)
    trials = [result.store.trial(spec.key) for spec in plan(wanted)]
    assert all(t.result()["provenance"]["stacked_with"] == 3 for t in trials)
    for a, b in zip(trials[::2], trials[1::2], strict=True):
        _close(a.history(), b.history(), 1e-4, 1e-5)


def test_in_float32_the_difference_is_rounding(tmp_path: Path) -> None:
    wanted, data = study(["relu", "arelu", "dsrelu"], epochs=3), WDBC.load()
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a.history(), b.history(), strict=True):
            assert x["train_loss"] == pytest.approx(y["train_loss"], rel=1e-4)


class StopError(Exception):
    pass


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_killed_stack_is_resumed_stacked_or_one_by_one(tmp_path: Path, optimizer: str) -> None:
    momentum = ["train.optimizer.momentum=0.5"] if optimizer == "sgd" else []
    wanted = study(["relu", "arelu", "dsrelu", "arelu[channels=8]"], f"train.optimizer.name={optimizer}", *momentum)
    data, specs = WDBC.load(), plan(wanted)
    one = alone(wanted, data, tmp_path / "one")

    def killed(root: Path, lane: int, epoch: int) -> list[TrialDirectory]:
        def report(place: int, row: Any) -> None:
            if (place, row["epoch"]) == (lane, epoch):
                raise StopError

        trials = directories(root, specs)
        with pytest.raises(StopError):
            train_stacked(specs, data, wanted.custom, trials, report, checkpoint_every=0)
        return [Store(root).trial(spec.key) for spec in specs]

    again = killed(tmp_path / "stacked", 3, 4)
    train_stacked(specs, data, wanted.custom, again)
    assert_same(one, again)
    assert {t.result()["provenance"]["resumed_from_epoch"] for t in again} == {3}

    singly = killed(tmp_path / "singly", 2, 3)
    for spec, trial in zip(specs, singly, strict=True):
        train(spec, data, wanted.custom, trial)
    assert_same(one, singly)

    # Killed while the checkpoints were written: some lanes are an epoch behind the others, some were never saved.
    mixed = killed(tmp_path / "mixed", 0, 3)
    for trial, spec in list(zip(mixed, specs, strict=True))[::2]:
        with pytest.raises(StopError):
            train(spec, data, wanted.custom, trial, _stop_at(5), checkpoint_every=0)
    for trial in mixed[1:3]:
        (trial.path / "checkpoint.safetensors").unlink(missing_ok=True)
    mixed = [Store(tmp_path / "mixed").trial(spec.key) for spec in specs]
    train_stacked(specs, data, wanted.custom, mixed)
    assert_same(one, mixed)
    assert {t.result()["provenance"]["resumed_from_epoch"] for t in mixed} == {0, 2, 4}


def _stop_at(epoch: int) -> Any:
    def report(row: Any) -> None:
        if row["epoch"] == epoch:
            raise StopError

    return report


class Later(nn.Module):
    """Finite for a while, then NaN, by a count that is its own; it also learns."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return torch.relu(x) * self.scale if self.calls <= 13 else x * torch.nan


@pytest.mark.usefixtures("double")
def test_one_lane_diverges_and_the_others_do_not_notice(tmp_path: Path) -> None:
    """In the middle of its fourth epoch, after three usable ones."""
    wanted, data = study(["relu", Later, "arelu"]), WDBC.load()
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert_same(one, two)
    assert [t.result()["outcome"] for t in two] == ["done", "diverged", "done"] * 2
    assert [len(t.history()) for t in two[:3]] == [6, 4, 6]
    assert two[1].result()["row"]["selected_epoch"] in (1, 2, 3)


def test_every_lane_diverges(tmp_path: Path) -> None:
    wanted = study(["arelu", "arelu[channels=8]", "gelu"], "train.optimizer.name=sgd", "train.optimizer.lr=1e25", epochs=3)
    data = WDBC.load()
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert all(t.result()["outcome"] == "diverged" for t in two)
    for a, b in zip(one, two, strict=True):
        assert len(a.history()) == len(b.history())
        _close(a.history()[-1]["coefficients"], b.history()[-1]["coefficients"], 1e-4, 1e-4)


class AcrossTheBatch(nn.Module):
    """Not elementwise: a lane that was filled up, or mixed with others, would show."""

    def forward(self, x):
        return torch.relu(x - x.mean(0)) + x.softmax(1)


def bare(activation: Any) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(5, 6, bias=False), activation()), nn.Dropout(0.25), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)
    )


@pytest.mark.usefixtures("double")
def test_a_users_own_network_and_activation(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(143, 5))
    wanted = study(["relu", AcrossTheBatch, AReLU], data=(x, (x[:, 0] > 0).astype(int)), model=bare, folds=3, batch_size=32)
    data = wanted.custom.data
    one, two = alone(wanted, data, tmp_path / "one"), stacked(wanted, data, tmp_path / "two")
    assert_same(one, two)
    assert max(t.result()["provenance"]["stacked_with"] for t in two) > 1


class Net(nn.Module):
    def forward(self, x):
        return x


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def _tied() -> nn.Module:
    linear = nn.Linear(4, 4)
    return nn.Sequential(linear, nn.ReLU(), linear)


def _frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 1))


def _hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    network[0].register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Net(), "the network is a Net, not an nn.Sequential"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()), "1 is a BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), "1 overwrites its input"),
        (_tied(), "used more than once"),
        (_frozen(), "not trained"),
        (_hooked(), "0 has hooks"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)), "1 is a Dropout, neither"),
    ],
)
def test_what_cannot_be_stacked_says_why(network: nn.Module, expected: str) -> None:
    assert expected in (unstackable_network(network, [], torch.randn(2, 4)) or "")


def test_an_activation_that_draws_random_numbers_is_not_stacked() -> None:
    noise = Noise()
    network = nn.Sequential(nn.Linear(4, 4), noise)
    assert "draws random numbers" in (unstackable_network(network, [noise], torch.randn(2, 4)) or "")
    x, before = torch.randn(2, 4), torch.get_rng_state()
    assert unstackable_network(network, [noise], x) is not None
    assert torch.equal(before, torch.get_rng_state())


def _batch_norm(activation: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(30, 8), nn.BatchNorm1d(8), activation(), nn.Linear(8, 1))


@pytest.mark.usefixtures("double")
def test_what_cannot_be_stacked_is_trained_alone(tmp_path: Path) -> None:
    wanted, data = study(["relu", "arelu"], model=_batch_norm, epochs=2), WDBC.load()
    told: list[tuple[int, float]] = []
    two = stacked(wanted, data, tmp_path / "two", report=lambda place, row: told.append((place, row["epoch"])))
    assert_same(alone(wanted, data, tmp_path / "one"), two)
    assert {t.result()["provenance"]["stacked_with"] for t in two} == {0}
    assert sorted(told) == [(place, epoch) for place in range(4) for epoch in (1, 2)]


def test_the_networks_of_the_lab_can_be_stacked() -> None:
    data = WDBC.load()
    for spec in plan(study([*MANY, "mish", "atanh", "swish", "frelu", "asigmoid"])):
        network, activations = build(spec, data, study(["relu"]).custom)
        assert obstacle(spec, data, network, activations) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"epochs": 1, "augment": {"flip": True}}}, "augmented"),
        ({"train": {"epochs": 1, "speed": ["bf16"]}}, "bf16"),
        ({"quirks": ["double_softmax"]}, "the quirk double_softmax"),
        ({"quirks": ["top_5_epoch_rows"]}, "the quirk top_5_epoch_rows"),
        ({"data": Data.of(np.ones((40, 2, 4, 5)), np.arange(80).reshape(40, 2) % 2)}, "several labels"),
        ({"model": _convolutional}, "0 is a Conv2d"),
        ({"quirks": ["test_as_validation"]}, None),
    ],
)
def test_what_a_recipe_has_that_a_stack_cannot_do(tmp_path: Path, changes: dict[str, Any], expected: str | None) -> None:
    given: dict[str, Any] = {
        "name": "s",
        "data": images(),
        "model": {"name": "ffnn", "options": {"width": 8}},
        "activations": ["relu", "gelu"],
        "protocol": {"design": "holdout", "repeats": 1, "normalise": "none"},
        "train": {"epochs": 1},
    }
    wanted = Study(**{**given, **changes})
    specs, data = plan(wanted), wanted.custom.data
    network, activations = build(specs[0], data, wanted.custom)
    found = obstacle(specs[0], data, network, activations)
    assert found is None if expected is None else expected in (found or "")
    trials = stacked(wanted, data, tmp_path)
    assert {t.result()["provenance"]["stacked_with"] for t in trials} == {1 if expected is None else 0}


def test_a_stack_is_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = plan(study(["relu"], folds=2))[:1]
    network, activations = build(spec, WDBC.load(), Custom())
    monkeypatch.setattr("pliant.lab.stacked.device_of", lambda spec: torch.device("cuda", 0))
    assert "trained on cuda:0" in (obstacle(spec, WDBC.load(), network, activations) or "")


def test_the_seconds_of_all_lanes_add_up(tmp_path: Path) -> None:
    start = time.perf_counter()
    trials = stacked(study(["relu", "arelu"], epochs=5), WDBC.load(), tmp_path)
    passed = time.perf_counter() - start
    total = sum(t.result()["row"]["seconds"] for t in trials)
    assert 0 < total < passed
    for trial in trials:
        assert trial.result()["row"]["seconds"] == pytest.approx(sum(e["seconds"] for e in trial.history()))


# --- in a run ---------------------------------------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, float]] = []

    def planned(self, study: Any, trials: Any, waiting: Any) -> None:
        pass

    def event(self, event: Any, trial: TrialSpec) -> None:
        assert event.key == trial.key
        assert "trial" not in event.data
        self.events.append((event.kind, event.key, event.data.get("epoch", 0)))

    def finished(self) -> None:
        pass


@pytest.mark.usefixtures("double")
def test_a_run_stacks_and_says_of_each_trial_what_it_would_have_said(tmp_path: Path) -> None:
    wanted, heard, usual = study(["relu", "arelu", "dsrelu"], epochs=2), Heard(), Heard()
    two = run(wanted, store=tmp_path / "two", stack=4, progress=heard)
    one = run(wanted, store=tmp_path / "one", stack=1, progress=usual)
    trials = [[Store(r.store.root).trial(s.key) for s in plan(wanted)] for r in (one, two)]
    assert_same(*trials)
    assert [t.result()["provenance"]["stacked_with"] for t in trials[1]] == [2] * 6
    assert sorted(heard.events) == sorted(usual.events)
    assert run(wanted, store=tmp_path / "two", progress=heard).rows == two.rows


def test_small_studies_and_large_networks_are_not_stacked() -> None:
    def size(trials: int, data: Data, **options: Any) -> int:
        wanted = study(["relu"], data=data, model={"name": "ffnn", "options": options})
        spec = plan(wanted)[0]
        return lanes(spec, data, *build(spec, data, Custom()), trials)

    data = WDBC.load()
    assert [size(n, data, width=64) for n in (1, 7, 8, 60, 240, 10_000)] == [1, 1, 2, 15, 16, 16]
    assert size(240, data, width=2048) == 1
    # As floats of their own in every fold, and as bytes that all share.
    large = np.broadcast_to(np.zeros(1, np.float32), (2_000_000, 30))
    assert size(240, Data(large, np.arange(2_000_000) % 2, ("a", "b")), width=64) == 4
    bytes_ = np.broadcast_to(np.zeros(1, np.uint8), (2_000_000, 1, 5, 6))
    assert size(240, Data(bytes_, np.arange(2_000_000) % 2, ("a", "b")), width=64) == 16


def test_the_activations_of_a_fold_are_in_one_stack_and_each_rate_in_its_own() -> None:
    plain = plan(study(["relu", "arelu", "gelu"], folds=4, repeats=1))
    cuts = _cut(plain, 7, 3)
    assert [len(cut) for cut in cuts] == [6, 6]
    assert [spec for cut in cuts for spec in cut] == list(plain)
    assert [len(cut) for cut in _cut(plain, 2, 3)] == [2] * 6
    assert _cut(plain, 1, 3) == [[spec] for spec in plain]
    grid = plan(study(["relu", "arelu"], "train.lr_grid=[1e-3, 1e-2, 1e-1]", folds=3))
    cuts = _cut(grid, 4, 2)
    assert [len(cut) for cut in cuts] == [4, 4, 4, 2, 2, 2]
    assert all(len({spec.train for spec in cut}) == 1 for cut in cuts)
    assert {spec.key for cut in cuts for spec in cut} == {spec.key for spec in grid}


def test_a_small_network_has_one_thread() -> None:
    assert _is_small(nn.Sequential(nn.Linear(30, 512), nn.ReLU(), nn.Linear(512, 1)))
    assert not _is_small(nn.Linear(1000, 1001))
    assert not _is_small(nn.Sequential(nn.Conv2d(1, 2, 3)))


@pytest.mark.parametrize(("model", "threads"), [(None, 1), (_convolutional, 2)])
def test_threads_are_in_the_provenance(tmp_path: Path, model: Any, threads: int) -> None:
    torch.set_num_threads(2)
    wanted = study(["relu"], data=images(), epochs=1, model=model or {"name": "ffnn", "options": {"width": 8}})
    result = run(wanted, store=tmp_path)
    made = result.store.trial(plan(wanted)[0].key).result()["provenance"]
    assert made["threads"] == threads
    assert made["kernels"] == pliant.kernels.status()["cpu"]
    assert torch.get_num_threads() == 2


class Breaks(nn.Module):
    """Fails in its second epoch: a mistake in a user's code, which must cost its own trials and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += self.training
        if self.calls > 6:
            raise ValueError("six is enough")
        return torch.relu(x)


def test_a_lane_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    wanted, heard = study(["relu", Breaks, "arelu"], epochs=3), Heard()
    result = run(wanted, store=tmp_path, stack=6, progress=heard, checkpoint_every=0)
    assert result.counts["done"] == 4
    assert result.counts["failed"] == 2
    trials = [result.store.trial(s.key) for s in plan(wanted)]
    assert "six is enough" in trials[1].failure()["error"]
    # What the stack had done until then is not done again.
    assert trials[0].result()["provenance"]["resumed_from_epoch"] == 1
    kinds = {key: [k for k, other, _ in heard.events if other == key and k != "progress"] for _, key, _ in heard.events}
    assert kinds[trials[0].key] == ["started", "retrying", "started", "finished"]
    assert kinds[trials[1].key] == ["started", "retrying", "started", "failed"]


def test_a_trial_that_another_driver_has_is_left_out_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = study(["relu", "arelu"], epochs=2)
    key = plan(wanted)[2].key
    lock = contextlib.ExitStack()
    lock.enter_context(Store(tmp_path).trial(key).lock())
    monkeypatch.setattr(time, "sleep", lambda seconds: lock.close())
    result = run(wanted, store=tmp_path, stack=4)
    assert result.counts["done"] == 4
    assert [r["key"] for r in result.rows if result.store.trial(r["key"]).result()["provenance"]["stacked_with"] == 0] == [key]
