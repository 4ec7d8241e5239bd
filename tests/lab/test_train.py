from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from pliant import DSReLU
from pliant.lab import Data, Study, run
from pliant.lab.datasets import WDBC
from pliant.lab.network import ModelError
from pliant.lab.protocol import seed_of, split
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Custom, plan
from pliant.lab.train import build, train


def timed(name: str) -> bool:
    return "seconds" in name


def measured(result: Result, activation: str) -> list[dict[str, object]]:
    skip = {"key", "activation", "label", "study"}
    return [
        {k: v for k, v in row.items() if k not in skip and not timed(k)}
        for row in result.rows
        if row["activation"] == activation
    ]


def histories(result: Result, activation: str) -> list[list[dict[str, object]]]:
    return [
        [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result.store.trial(row["key"]).history()]
        for row in result.rows
        if row["activation"] == activation
    ]


def test_compared_activations_share_weights_batches_and_dropout(tmp_path: Path) -> None:
    """ReLU under two names must come out identical to the last bit: any difference would be the lab's, not the activation's."""
    study = Study(
        name="null",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 16}},
        activations=["relu", networks.MyReLU],
        folds=2,
        repeats=2,
        epochs=4,
    )
    # In a stack two lanes may be rounded differently; see test_stacked.py.
    result = run(study, store=tmp_path, stack=1)
    one, two = (measured(result, a) for a in study.activations)
    assert one == two
    assert histories(result, study.activations[0]) == histories(result, study.activations[1])
    (comparison,) = result.verdict().comparisons
    assert comparison.identical


def test_srelu_with_alpha_one_is_elu(tmp_path: Path) -> None:
    study = Study(
        name="control",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 16}},
        activations=["elu[alpha=0.25]", "srelu"],
        folds=2,
        repeats=1,
        epochs=5,
    )
    result = run(study, store=tmp_path)
    for one, two in zip(*(histories(result, a) for a in study.activations), strict=True):
        np.testing.assert_allclose([e["train_loss"] for e in one], [e["train_loss"] for e in two], rtol=1e-4)


def test_initial_weights_are_shared_by_every_activation_of_a_fold(small: Study) -> None:
    data = WDBC.load()
    specs = plan(small.only(["relu", "arelu", "dsrelu", "pelu", "mish"]))
    states = [{k: v for k, v in build(s, data, Custom())[0].state_dict().items() if "act" not in k} for s in specs]
    for a, b in zip(specs, states, strict=True):
        for c, d in zip(specs, states, strict=True):
            same = all(torch.equal(b[k], d[k]) for k in b)
            assert same == (a.fold == c.fold)


def test_ffnn_has_the_size_of_the_paper() -> None:
    spec = plan(Study(name="x", dataset="wdbc", model="ffnn", activations=["relu"]))[0]
    network, activations = build(spec, WDBC.load(), Custom())
    assert len(activations) == 2
    assert sum(p.numel() for p in network.parameters()) == 279_041
    for module in network:
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
            limit = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.9 * limit < module.weight.detach().abs().max().item() <= limit


def test_it_learns(tmp_path: Path) -> None:
    """Well above the 62.7 % of always saying benign; an untrained or mis-scored network would not be."""
    study = Study(
        name="learns", dataset="wdbc", model="ffnn", activations=["relu", "srelu", "arelu"], folds=2, repeats=1, epochs=15
    )
    rows = run(study, store=tmp_path).rows
    assert all(row["test_accuracy"] > 0.9 for row in rows)
    assert all(row["test_auc"] > 0.97 for row in rows)
    assert all(0 <= row["test_loss"] < 0.3 for row in rows)


def test_many_classes_and_images(tmp_path: Path) -> None:
    study = Study(
        name="digits",
        dataset="digits",
        model={"name": "ffnn", "options": {"width": 64}},
        activations=["relu", "atanh"],
        folds=2,
        repeats=1,
        epochs=12,
    )
    result = run(study, store=tmp_path)
    assert all(row["test_accuracy"] > 0.85 for row in result.rows)
    assert sum(map(sum, result._predicted()[0]["relu"])) == 1797
    assert result.report().exists()


def test_scheduled_and_learned_coefficients_move_and_are_recorded(small: Study, tmp_path: Path) -> None:
    study = small.only(["relu", "arelu", "dsrelu", "pelu"])
    result = run(study, store=tmp_path)
    (first, *_, last) = histories(result, "dsrelu")[0]
    slope = DSReLU().values(1.0)[0]
    assert last["coefficients"]["act1"]["slope"] == pytest.approx(slope, abs=1e-6)
    assert first["coefficients"]["act2"]["slope"] > last["coefficients"]["act2"]["slope"]
    moved = histories(result, "arelu")[0][-1]["coefficients"]["act1"]
    assert all(moved[name] != start for name, start in zip("abcd", (1, 0, 0, 0), strict=True))
    assert histories(result, "relu")[0][0]["coefficients"] == {}
    assert [r["activation_parameters"] for r in result.rows[:4]] == [0, 8, 0, 4]


def test_the_selected_epoch_is_the_one_of_lowest_validation_loss(small: Study, tmp_path: Path) -> None:
    study = small.override(["train.epochs=12", "train.optimizer.lr=0.05"])
    result = run(study, store=tmp_path)
    for row in result.rows:
        losses = [e["validation_loss"] for e in result.store.trial(row["key"]).history()]
        assert row["selected_epoch"] == int(np.argmin(losses)) + 1
        assert row["validation_loss"] == pytest.approx(min(losses), rel=1e-3, abs=1e-6)
        assert row["validation_loss_last"] == pytest.approx(losses[-1], rel=1e-3, abs=1e-6)
        assert row["gap"] == pytest.approx(row["train_accuracy"] - row["validation_accuracy"])


def test_patience_stops(small: Study, tmp_path: Path) -> None:
    study = small.override(["train.epochs=200", "train.patience=2", "train.optimizer.lr=0.1"])
    for row in run(study, store=tmp_path).rows:
        assert row["epochs"] < 200
        assert row["epochs"] - row["selected_epoch"] == 2


def test_predictions_are_stored_and_agree_with_the_row(small: Study, tmp_path: Path) -> None:
    result = run(small, store=tmp_path)
    data = WDBC.load()
    for row in result.rows:
        saved = safetensors.numpy.load(result.store.trial(row["key"]).read("predictions.safetensors"))
        assert np.array_equal(data.y[saved["test_index"]], saved["test_target"])
        assert ((saved["test_score"] > 0.5) == saved["test_target"]).mean() == pytest.approx(row["test_accuracy"])


def test_divergence_is_a_result(tmp_path: Path) -> None:
    study = Study(
        name="explodes",
        dataset="wdbc",
        model=networks.tiny,
        activations=["relu", networks.Exploding],
        folds=2,
        repeats=1,
        train={"epochs": 5, "optimizer": {"lr": 10.0, "name": "sgd"}},
    )
    result = run(study, store=tmp_path)
    assert result.counts["diverged"] == 2
    rows = [r for r in result.rows if r["outcome"] == "diverged"]
    assert all(np.isfinite(r["test_accuracy"]) and np.isfinite(r["test_accuracy_last"]) for r in rows)
    # With no opinion left, the last epoch is scored as the class frequencies: always benign, AUC one half.
    assert all(r["test_accuracy_last"] == pytest.approx(0.627, abs=0.01) and r["test_auc_last"] == 0.5 for r in rows)
    assert any("diverged" in w for w in result.verdict().warnings)
    assert result.report().exists()


@pytest.mark.parametrize("activation", ["relu", "dsrelu", "arelu", "pelu"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_trial_ends_bit_for_bit_the_same(tmp_path: Path, small: Study, activation: str, optimizer: str) -> None:
    momentum = ["train.optimizer.momentum=0.5"] if optimizer == "sgd" else []
    study = small.only([activation]).override([*momentum, f"train.optimizer.name={optimizer}", "train.epochs=6"])
    spec, data = plan(study)[-1], WDBC.load()
    whole = Store(tmp_path / "whole").trial(spec.key)
    whole.begin({})
    train(spec, data, Custom(), whole)

    class StopError(Exception):
        pass

    def stop(at: int):
        def report(event):
            if event["epoch"] == at:
                raise StopError

        return report

    parts = Store(tmp_path / "parts").trial(spec.key)
    parts.begin({})
    for at in (1, 3, 4):
        with pytest.raises(StopError):
            train(spec, data, Custom(), parts, stop(at), checkpoint_every=0)
    train(spec, data, Custom(), parts)
    assert parts.result()["provenance"]["resumed_from_epoch"] == 3
    assert parts.read("predictions.safetensors") == whole.read("predictions.safetensors")
    assert {k: v for k, v in parts.result()["row"].items() if not timed(k)} == {
        k: v for k, v in whole.result()["row"].items() if not timed(k)
    }
    for one, two in zip(parts.history(), whole.history(), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_network_with_two_outputs_for_two_classes(tmp_path: Path) -> None:
    study = Study(name="two", dataset="wdbc", model=networks.two_logits, activations=["relu"], folds=2, repeats=1, epochs=30)
    assert all(row["test_accuracy"] > 0.85 for row in run(study, store=tmp_path).rows)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (networks.wrong_shape, r"returned \(2, 3\) for 2 examples of shape \(30,\)"),
        (lambda activation: "net", "returned str, but a torch.nn.Module"),
        (lambda activation: activation(), "no parameter to train"),
    ],
)
def test_networks_that_cannot_be_trained(model: object, expected: str) -> None:
    study = Study(name="bad", dataset="wdbc", model=model, activations=["relu"], folds=2, repeats=1, epochs=1)
    with pytest.raises(ModelError, match=expected):
        plan(study)


def test_a_constant_feature_is_no_trouble(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 30))
    x[:, 3] = 5.0
    study = Study(
        name="constant",
        data=Data.of(x, (x[:, 0] > 0).astype(int)),
        model=networks.tiny,
        activations=["relu"],
        folds=2,
        repeats=1,
        epochs=2,
    )
    assert run(study, store=tmp_path).counts["done"] == 2


def test_the_best_weights_survive_a_resume(tmp_path: Path, small: Study) -> None:
    """The best epoch lies before the checkpoint, so the weights that are tested come from the checkpoint alone."""
    study = small.only(["relu"]).override(["train.epochs=40", "train.optimizer.lr=0.1"])
    spec, data = plan(study)[0], WDBC.load()
    whole = Store(tmp_path / "whole").trial(spec.key)
    whole.begin({})
    train(spec, data, Custom(), whole)
    best = whole.result()["row"]["selected_epoch"]
    assert best < 38, "this test needs an early best epoch"

    def stop(event) -> None:
        if event["epoch"] == 39:
            raise KeyboardInterrupt

    parts = Store(tmp_path / "parts").trial(spec.key)
    parts.begin({})
    with pytest.raises(KeyboardInterrupt):
        train(spec, data, Custom(), parts, stop, checkpoint_every=0)
    train(spec, data, Custom(), parts)
    assert parts.result()["provenance"]["resumed_from_epoch"] == 38
    assert parts.read("predictions.safetensors") == whole.read("predictions.safetensors")


def test_weight_decay_and_the_multiplier_have_an_effect(small: Study, tmp_path: Path) -> None:
    study = small.only(["arelu"]).override(["train.epochs=2"])
    losses, moved = [], []
    for change in ([], ["train.optimizer.weight_decay=0.5"], ["train.optimizer.activation_lr_multiplier=30"]):
        result = run(study.override(change), store=tmp_path)
        losses.append(result.rows[1]["test_loss_last"])
        moved.append(abs(histories(result, "arelu")[0][-1]["coefficients"]["act1"]["a"] - 1))
    assert len(set(losses)) == 3
    assert moved[2] > 10 * moved[0]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.relu(x) * self.scale


def test_the_parameters_of_a_users_activation_are_coefficients(tmp_path: Path) -> None:
    study = Study(name="own", dataset="wdbc", model=networks.tiny, activations=["relu", Scaled], folds=2, repeats=1, epochs=1)
    assert [r["activation_parameters"] for r in run(study, store=tmp_path).rows] == [0, 1, 0, 1]


def test_seeds_differ_between_folds_epochs_and_purposes() -> None:
    found = [seed_of(what, 0, r, f) for what in ("weights", "validation", "epoch") for r in range(5) for f in range(5)]
    assert len(set(found)) == len(found)


def test_each_fold_has_its_own_validation_draw(small: Study) -> None:
    """With equal labels and a seed that ignored the fold, the same positions would be held out in each fold."""
    data = Data.of(np.arange(400.0)[:, None] * np.ones(30), np.arange(400) % 2)
    positions = []
    for spec in plan(small.only(["relu"])):
        parts = split(spec, data)
        fitting = np.sort(np.concatenate([parts.train, parts.validation]))
        positions.append(tuple(np.flatnonzero(np.isin(fitting, parts.validation))))
    assert len(set(positions)) == len(positions)


class Later(nn.Module):
    """Finite for two epochs of training, then NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return torch.relu(x) if self.calls <= 4 else x * torch.nan


class OnlyInTesting(nn.Module):
    """NaN on the one example that no network was fitted on."""

    def forward(self, x):
        return torch.where(x.abs() > 50, x * torch.nan, x)


def test_divergence_after_a_usable_epoch_keeps_that_epoch(small: Study, tmp_path: Path) -> None:
    study = Study(name="later", dataset="wdbc", model=networks.tiny, activations=["relu", Later], folds=2, repeats=1, epochs=6)
    rows = [r for r in run(study, store=tmp_path).rows if r["activation"] == "own:Later"]
    for row in rows:
        assert row["outcome"] == "diverged"
        assert 1 <= row["selected_epoch"] <= 2
        assert row["test_auc"] != 0.5
        assert row["test_auc_last"] == 0.5


def test_a_network_that_breaks_on_unseen_examples_has_diverged(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 30))
    x[7] = 1e6
    study = Study(
        name="outlier",
        data=(x, (x[:, 0] > 0).astype(int)),
        model=networks.tiny,
        activations=["relu", OnlyInTesting],
        folds=2,
        repeats=1,
        epochs=2,
        protocol={"standardise": False},
    )
    result = run(study, store=tmp_path)
    assert result.counts["failed"] == 0
    assert result.counts["diverged"] == 2


def test_two_activations_that_all_diverge_are_not_equivalent(tmp_path: Path) -> None:
    study = Study(
        name="broken",
        dataset="wdbc",
        model=networks.tiny,
        activations=["relu", "gelu"],
        folds=2,
        repeats=1,
        train={"epochs": 2, "optimizer": {"name": "sgd", "lr": 1e30}},
    )
    result = run(study, store=tmp_path)
    assert result.counts["diverged"] == 4
    assert result.verdict().comparisons[0].word == "CANNOT TELL"


def with_batch_norm(activation) -> nn.Module:
    return nn.Sequential(nn.Linear(30, 8), nn.BatchNorm1d(8), activation(), nn.Linear(8, 1), nn.Flatten(0))


def test_a_last_batch_of_one_is_no_trouble(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(74, 30))
    study = Study(
        name="odd",
        data=(x, (x[:, 0] > 0).astype(int)),
        model=with_batch_norm,
        activations=["relu"],
        folds=2,
        repeats=1,
        epochs=2,
        batch_size=32,
    )
    result = run(study, store=tmp_path)
    assert result.rows[0]["n_train"] == 33
    assert result.counts["done"] == 2


def test_a_run_leaves_torch_as_it_was(small: Study, tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    run(small, store=tmp_path)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


class AcrossFeatures(nn.Module):
    def forward(self, x):
        return x.softmax(dim=1)


def test_activations_without_one_curve_still_get_a_report(small: Study, tmp_path: Path) -> None:
    study = Study(
        name="across",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", AcrossFeatures, "prelu[channels=8]", "arelu[channels=8]"],
        folds=2,
        repeats=1,
        epochs=2,
    )
    result = run(study, store=tmp_path)
    assert result.counts["done"] == 8
    assert result.report().exists()
    drawn = {s.activation: s for s in result.report_data().shapes}
    assert "own:AcrossFeatures" not in drawn
    assert len(drawn["prelu[channels=8]"].stages) > 2
