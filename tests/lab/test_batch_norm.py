"""What batch normalisation is evaluated with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import networks
import pytest
import torch
from test_training import study
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pliant.lab import Study, batch_norm, run
from pliant.lab.store import Store
from pliant.lab.study import StudyError, plan
from pliant.lab.train import train

RECOMPUTED = ["train.batch_norm=recomputed"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=0.3)]
    return nn.Sequential(*layers)


def shown(n: int = 3) -> list[Tensor]:
    return list(torch.randn(n, 16, 5, generator=torch.Generator().manual_seed(1)))


def test_the_averages_are_those_of_torch() -> None:
    ours, theirs = network(), network()
    theirs[3] = nn.Identity()
    ours.train()
    batch_norm.recompute(ours, shown())
    update_bn(shown(), theirs.train())
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    assert [m.momentum for m in batch_norm.layers(ours)] == [0.1, 0.3]
    assert not any(m.training for m in ours.modules())


def test_what_was_averaged_before_is_gone_and_nothing_random_is_drawn() -> None:
    one, other = network(), network()
    other.train()(10 + 5 * torch.randn(8, 5))
    for part in (one, other):
        state = torch.get_rng_state()
        batch_norm.recompute(part, shown())
        assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(one[1].running_mean, other[1].running_mean)
    torch.testing.assert_close(one[5].running_var, other[5].running_var)


def test_without_averages_there_is_nothing_to_do() -> None:
    plain = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False))
    before = copy.deepcopy(plain.state_dict())
    batch_norm.recompute(plain, shown())
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())


def test_recomputing_changes_how_a_network_is_judged_and_not_how_it_is_trained(tmp_path: Path) -> None:
    courses = []
    for changes in ([], RECOMPUTED):
        # A slope that moves fast, and few steps for an average to follow it.
        result = run(study(activations=["dsrelu[released]"]).override(changes), store=tmp_path)
        courses.append(result.store.trial(result.rows[0]["key"]).history())
    running, recomputed = courses
    for one, other in zip(running, recomputed, strict=True):
        assert (one["train_loss"], one["coefficients"]) == (other["train_loss"], other["coefficients"])
        assert one["validation_loss"] != other["validation_loss"]
    # On the training batches the network is judged by their own statistics, which the recomputed ones are near.
    assert sum(e["validation_loss"] for e in recomputed) < sum(e["validation_loss"] for e in running)


def test_a_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    asked = study(activations=["dsrelu[released]"], train={"epochs": 4, "batch_size": 32}).override(RECOMPUTED)
    whole = run(asked, store=tmp_path / "whole", checkpoint_every=0)

    (spec,), store = plan(asked), Store(tmp_path / "parts")
    trial = store.trial(spec.key)

    def stop(row: Mapping[str, float]) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    trial.begin({})
    with pytest.raises(KeyboardInterrupt):
        train(spec, asked.custom.data, asked.custom, trial, stop, checkpoint_every=0)
    train(spec, asked.custom.data, asked.custom, trial)
    assert trial.result()["provenance"]["resumed_from_epoch"] in (2, 3)
    assert trial.result()["row"]["test_loss"] == whole.rows[0]["test_loss"]


def test_two_processes_recompute_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay where they are, so the averages of the input are all that differs."""
    monkeypatch.setenv("PLIANT_DEVICE", "cpu")
    asked = Study(
        name="ranks",
        dataset="wdbc",
        model=networks.normed,
        activations=["relu"],
        protocol={"design": "holdout", "repeats": 1, "normalise": "none"},
        train={"epochs": 1, "batch_size": 512, "optimizer": {"name": "sgd", "lr": 1e-30}},
    )
    losses = [
        run(asked.override(changes), store=tmp_path).rows[0]["test_loss"]
        for changes in ([], RECOMPUTED, [*RECOMPUTED, "train.world_size=2"])
    ]
    # The mean of two halves' variances is not the variance of the whole, but near it.
    assert losses[2] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def test_what_has_no_batch_normalisation_cannot_recompute(tmp_path: Path) -> None:
    flat = Study(name="x", dataset="wdbc", model="ffnn", activations=["relu"]).override(RECOMPUTED)
    with pytest.raises(StudyError, match="batch_norm = 'recomputed' needs batch normalisation, and ffnn has none; leave it"):
        run(flat, store=tmp_path)
    unkept = Study(name="x", dataset="wdbc", model=networks.unkept, activations=["relu"]).override(RECOMPUTED)
    with pytest.raises(StudyError, match="needs batch normalisation that keeps averages"):
        run(unkept, store=tmp_path)
    with pytest.raises(StudyError, match="uses no averages"):
        plan(study(quirks=["batch_statistics_at_test"]).override(RECOMPUTED))
