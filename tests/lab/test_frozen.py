"""Entrants that keep, site by site, the coefficients which another training learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch

from pliant import AReLU, Learned, SReLU
from pliant.errors import UnknownNameError
from pliant.lab import Study, run
from pliant.lab.datasets import WDBC
from pliant.lab.frozen import learner, put
from pliant.lab.fsck import check
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import Custom, StudyError, plan
from pliant.lab.train import train


def frozen(small: Study, *activations: str, **changes: Any) -> Study:
    values = {"name": "frozen", "dataset": "wdbc", "model": small.model, "activations": list(activations), "repeats": 1}
    given: dict[str, Any] = values | {"folds": 2, "train": {"epochs": 3}} | changes
    return Study(**{k: v for k, v in given.items() if v is not None})


def histories(result: Result, activation: str) -> list[list[dict[str, Any]]]:
    rows = [row for row in result.rows if row["activation"] == activation]
    return [result.store.trial(row["key"]).history() for row in rows]


def test_frozen_coefficients_are_those_learned_at_every_site_in_every_epoch(small: Study, tmp_path: Path) -> None:
    result = run(frozen(small, "arelu", "frozen:arelu"), store=tmp_path)
    assert result.counts["done"] == 4
    kept, learned = histories(result, "frozen:arelu"), histories(result, "arelu")
    assert len(kept) == len(learned) == 2
    for one, other in zip(kept, learned, strict=True):
        assert all(epoch["coefficients"] == other[-1]["coefficients"] for epoch in one)
        assert other[0]["coefficients"] != other[-1]["coefficients"]
        # The same weights and batches, and another function from the first step.
        assert one[0]["train_loss"] != other[0]["train_loss"]
    assert kept[0][0]["coefficients"] != kept[1][0]["coefficients"]
    rows = {row["activation"]: row for row in result.rows}
    assert rows["arelu"]["activation_parameters"] == 8
    assert rows["frozen:arelu"]["activation_parameters"] == 0
    assert rows["frozen:arelu"]["label"] == "AReLU, frozen"
    assert any(told.startswith("AReLU, frozen: its coefficients do not learn") for told in result.remarks)
    record = result.store.trial(rows["frozen:arelu"]["key"]).result()
    assert record is not None
    assert record["provenance"]["coefficients_from"] == rows["arelu"]["key"]


def test_a_frozen_start_is_the_same_function_with_its_numbers_written_out(small: Study, tmp_path: Path) -> None:
    """With a rate of 0 for coefficients nothing is learned, so what is kept is where they started."""
    still = {"train": {"epochs": 3, "optimizer": {"name": "adam", "activation_lr_multiplier": 0.0}}}
    study = frozen(small, "arelu[a=1,b=0,c=0,d=0]", "arelu", "frozen:arelu", **still)
    result = run(study, store=tmp_path, stack=1)
    one, two = histories(result, "arelu[a=1,b=0,c=0,d=0]"), histories(result, "frozen:arelu")
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose([e["train_loss"] for e in first], [e["train_loss"] for e in second], rtol=1e-5)


def test_what_learned_is_trained_where_the_study_lacks_it_and_reused_where_it_has_it(small: Study, tmp_path: Path) -> None:
    alone = run(frozen(small, "relu", "frozen:arelu"), store=tmp_path / "a")
    both = plan(frozen(small, "relu", "frozen:arelu", "arelu"))
    learners = [spec for spec in both if spec.activation == "arelu"]
    store = Store(tmp_path / "a")
    assert [store.trial(spec.key).outcome() for spec in learners] == ["done", "done"]
    before = [store.trial(spec.key).result() for spec in learners]
    # Beside a study that knows of them they are not trained again.
    run(frozen(small, "relu", "frozen:arelu", "arelu"), store=tmp_path / "a")
    assert [store.trial(spec.key).result() for spec in learners] == before
    other = run(frozen(small, "frozen:arelu", "arelu", "relu"), store=tmp_path / "b")
    keys = {row["key"] for row in alone.rows}
    assert {row["key"]: row.get("test_loss") for row in other.rows if row["key"] in keys} == {
        row["key"]: row.get("test_loss") for row in alone.rows
    }
    assert not check(store).findings


def test_it_goes_on_where_it_stopped(small: Study, tmp_path: Path) -> None:
    study = frozen(small, "frozen:arelu", folds=1, protocol={"design": "holdout", "folds": 1, "test": 0.2, "repeats": 1})
    (spec,) = plan(study)
    data = WDBC.load()
    whole, cut = Store(tmp_path / "whole").trial(spec.key), Store(tmp_path / "cut").trial(spec.key)

    class _StopError(Exception):
        pass

    heard: list[Any] = []

    def stop(row: Any) -> None:
        heard.append(row)
        # Three epochs of what learned, and the second of what keeps.
        if len(heard) == 5:
            raise _StopError

    for trial in (whole, cut):
        trial.begin(spec.model_dump(mode="json"))
    train(spec, data, Custom(), whole, checkpoint_every=0)
    with pytest.raises(_StopError):
        train(spec, data, Custom(), cut, stop, checkpoint_every=0)
    # What learned is not needed again, and here nobody could find it.
    first = cut.beside(learner(spec).key)
    for file in first.path.iterdir():
        file.unlink()
    train(spec, data, Custom(), cut, checkpoint_every=0)
    assert first.outcome() == "missing"

    def told(trial: Any) -> list[dict[str, Any]]:
        return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in trial.history()]

    assert told(cut) == told(whole)


def test_two_processes_share_one_learner(small: Study, tmp_path: Path) -> None:
    study = frozen(small, "frozen:arelu", "arelu", "frozen:arelu[prelu]", "arelu[prelu]")
    result = run(study, store=tmp_path, on="local:2", stack=1)
    assert result.counts == {"done": 8, "diverged": 0, "failed": 0, "missing": 0}
    for name in ("arelu", "arelu[prelu]"):
        for one, other in zip(histories(result, f"frozen:{name}"), histories(result, name), strict=True):
            assert one[0]["coefficients"] == other[-1]["coefficients"]


def test_put_sets_constrained_and_channel_wise_coefficients_to_the_number() -> None:
    srelu, arelu = SReLU(1.0, Learned(0.3)), AReLU(channels=3)
    network = torch.nn.Sequential(srelu, arelu).requires_grad_(False)
    put(network, {"0": {"beta": 0.75}, "1": {"a": [1.0, 2.0, 3.0], "b": 0.5, "c": 0.0, "d": -1.0}})
    assert float(srelu.beta) == pytest.approx(0.75, rel=1e-6)
    assert [v.tolist() for v in arelu.parameters()] == [[1, 2, 3], [0.5] * 3, [0] * 3, [-1] * 3]
    # A softplus that has come down to its bound is that bound.
    put(network, {"0": {"beta": 0.0}})
    assert float(srelu.beta) == 0.0


def test_where_the_learner_diverged_there_is_nothing_to_keep_and_it_diverges_too(tmp_path: Path) -> None:
    study = Study(
        name="diverged",
        dataset="wdbc",
        model=networks.tiny,
        activations=["frozen:arelu"],
        folds=2,
        repeats=1,
        train={"epochs": 2, "optimizer": {"name": "sgd", "lr": 1e30}},
    )
    result = run(study, store=tmp_path, on="serial")
    assert result.counts == {"done": 0, "diverged": 2, "failed": 0, "missing": 0}
    # Scored as class frequencies, as every training that diverged is.
    assert all(0.6 < row["test_accuracy"] < 0.65 for row in result.rows)
    assert "learned" not in {s.kind for s in result.report_data(command="").shapes}
    assert result.learned() == {}


@pytest.mark.parametrize(
    ("activation", "told"),
    [
        ("frozen:relu", "freezes ReLU, which learns no coefficient"),
        ("frozen:dsrelu[released]", "learns no coefficient"),
        ("frozen:best:leaky", "expected one of pliant list activations after 'frozen:'"),
        ("frozen:arelou", "There is no activation named 'arelou'"),
    ],
)
def test_what_cannot_be_frozen_is_said(small: Study, activation: str, told: str) -> None:
    with pytest.raises((StudyError, UnknownNameError), match=told.replace("(", r"\(")):
        frozen(small, "relu", activation)


def test_a_frozen_name_has_one_spelling_and_the_identity_of_its_training(small: Study) -> None:
    study = frozen(small, "arelu", "frozen:prelu[init=0.1]", "frozen:arelu")
    assert study.activations == ("arelu", "frozen:prelu[weight=learned(0.1)]", "frozen:arelu")
    specs = plan(study)
    by = {(s.activation, s.fold): s for s in specs}
    assert learner(by["frozen:arelu", 1]).key == by["arelu", 1].key
    assert len({s.key for s in specs}) == len(specs)


def test_several_processes_a_trial_are_refused(small: Study) -> None:
    with pytest.raises(StudyError, match=r"give train.world_size = 1 in place of 2"):
        plan(frozen(small, "relu", "frozen:arelu", train={"epochs": 1, "world_size": 2}))


def test_a_damaged_history_of_the_learner_is_told(small: Study, tmp_path: Path) -> None:
    learned = run(frozen(small, "arelu"), store=tmp_path)
    for row in learned.rows:
        path = learned.store.trial(row["key"]).path / "history.jsonl"
        path.write_text(path.read_text().replace('"a":', '"a":7', 1))
    result = run(frozen(small, "arelu", "frozen:arelu"), store=tmp_path, on="serial")
    assert result.counts["failed"] == 2


def test_whoever_listens_hears_of_the_learner(small: Study, tmp_path: Path) -> None:
    spec = plan(frozen(small, "frozen:arelu"))[0]
    trial = Store(tmp_path).trial(spec.key)
    trial.begin(spec.model_dump(mode="json"))
    heard: list[float] = []
    train(spec, WDBC.load(), Custom(), trial, lambda row: heard.append(row["epoch"]))
    assert heard == [1, 2, 3, 1, 2, 3]


def test_the_order_of_names_does_not_decide_how_others_are_trained(small: Study, tmp_path: Path) -> None:
    def stacked(*names: str) -> set[int]:
        result = run(frozen(small, *names, repeats=8), store=tmp_path / "-".join(names).replace(":", ""))
        keys = [row["key"] for row in result.rows if row["activation"] == "arelu"]
        return {record["provenance"]["stacked_with"] for key in keys if (record := result.store.trial(key).result())}

    assert stacked("frozen:arelu", "arelu") == stacked("arelu", "frozen:arelu") != {0}


def test_in_one_job_what_learns_is_trained_before_what_keeps(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job holds the locks of both, so that the other way round it would wait for itself."""
    waits: list[float] = []

    def never(seconds: float) -> None:
        waits.append(seconds)
        raise RuntimeError("it waits")

    monkeypatch.setattr("pliant.lab.train.time.sleep", never)
    result = run(frozen(small, "frozen:arelu", "arelu"), store=tmp_path, on="serial", stack=2)
    assert result.counts["done"] == 4
    # A job that fails as a whole is tried again trial by trial, and would get there.
    assert waits == []
