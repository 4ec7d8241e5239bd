"""An entrant that is chosen among candidates: by the validation loss alone, in every repeat and fold anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pliant.errors import UnknownNameError
from pliant.lab import Study, papers, records, run
from pliant.lab.choosing import choices_told, chosen_rows
from pliant.lab.claims import size_of
from pliant.lab.evidence import Evidence
from pliant.lab.result import Result
from pliant.lab.store import Store
from pliant.lab.study import StudyError, plan

ROOT = Path(__file__).parents[2]
NAME = "best:SReLU, tuned"
CANDIDATES = ("srelu[beta=0.1]", "srelu", "srelu[beta=1]")


def study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "tuned",
        "dataset": "wdbc",
        "model": {"name": "ffnn", "options": {"width": 8}},
        "activations": ["relu", "srelu", NAME],
        "select": {"SReLU, tuned": list(CANDIDATES)},
        "folds": 2,
        "repeats": 1,
        "epochs": 3,
    }
    return Study(**{**values, **changes})


def trials(losses: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each activation of one fold. The test score is the better the worse the validation loss is."""
    shared = {"study": "tuned", "repeat": 0, "fold": 0, "seed": 1, "outcome": "done", "error": None, "seconds": 2.0}
    return [
        {**shared, "activation": a, "label": a, "key": f"key of {a}", "validation_loss": loss, "test_accuracy": loss}
        for a, loss in losses.items()
    ]


def chosen(rows: list[dict[str, Any]], of: Study | None = None) -> dict[str, Any]:
    (row,) = (r for r in chosen_rows(rows, of or study()) if r["activation"] == NAME)
    return row


BASE = {"relu": 0.5, "srelu": 0.3, "srelu[beta=0.1]": 0.2, "srelu[beta=1]": 0.4}


def test_the_lowest_validation_loss_is_chosen_and_the_test_has_no_say() -> None:
    row = chosen(trials(BASE))
    assert (row["chosen"], row["key"]) == ("srelu[beta=0.1]", "key of srelu[beta=0.1]")
    # By the test scores it would have been the last of the three.
    assert row["test_accuracy"] == 0.2
    assert row["label"] == "SReLU, tuned"
    assert row["seconds_tried"] == 6.0
    # Not even where the test score is all that differs.
    better = [{**r, "test_accuracy": 1.0} if r["activation"] == "srelu[beta=1]" else r for r in trials(BASE)]
    assert chosen(better)["chosen"] == "srelu[beta=0.1]"
    # Others are what they were, and candidates that are no entrants have no row.
    rows = chosen_rows(trials(BASE), study())
    assert [r["activation"] for r in rows] == ["relu", "srelu", NAME]
    assert [r["chosen"] for r in rows] == [None, None, "srelu[beta=0.1]"]
    assert rows[1]["test_accuracy"] == 0.3


def test_of_equals_the_first_in_the_list() -> None:
    assert chosen(trials({**BASE, "srelu": 0.2}))["chosen"] == "srelu[beta=0.1]"
    other = study(select={"SReLU, tuned": ["srelu", "srelu[beta=0.1]"]})
    assert chosen(trials({**BASE, "srelu": 0.2}), other)["chosen"] == "srelu"


def test_one_that_diverged_is_chosen_only_where_all_did() -> None:
    rows = trials({**BASE, "srelu[beta=0.1]": 0.01, "srelu": 0.02})
    rows = [{**r, "outcome": "diverged"} if r["activation"] == "srelu[beta=0.1]" else r for r in rows]
    row = chosen(rows)
    assert row["chosen"] == "srelu"
    assert row["outcome"] == "done"
    everything = [{**r, "outcome": "diverged", "validation_loss": None} for r in trials(BASE)]
    row = chosen(everything)
    assert (row["outcome"], row["chosen"]) == ("diverged", "srelu[beta=0.1]")
    finite = [{**r, "validation_loss": 9.0} if r["activation"] == "srelu[beta=1]" else r for r in everything]
    assert chosen(finite)["chosen"] == "srelu[beta=1]"


@pytest.mark.parametrize("outcome", ["missing", "failed"])
def test_it_has_no_row_before_all_candidates_have(outcome: str) -> None:
    rows = [
        {**{k: v for k, v in r.items() if "loss" not in k and "test" not in k}, "outcome": outcome}
        if r["activation"] == "srelu[beta=1]"
        else r
        for r in trials(BASE)
    ]
    row = chosen(rows)
    assert row["outcome"] == outcome
    assert row["chosen"] is None
    assert row["validation_loss"] is None
    assert row["test_accuracy"] is None
    assert choices_told(chosen_rows(rows, study()), study())[0].endswith("of 0: none yet.")


def test_every_fold_chooses_anew_and_rates_are_chosen_with_it() -> None:
    tuned = study(train={"epochs": 3, "lr_grid": [1e-3, 1e-2]})
    rows = []
    for fold, best in enumerate(CANDIDATES[:2]):
        for lr in (1e-3, 1e-2):
            for r in trials(BASE):
                loss = 0.001 if r["activation"] == best and lr == 1e-2 else r["validation_loss"]
                rows.append({**r, "fold": fold, "lr": lr, "validation_loss": loss})
    found = [r for r in chosen_rows(rows, tuned) if r["activation"] == NAME]
    assert [(r["fold"], r["chosen"], r["lr"], r["lr_tried"]) for r in found] == [
        (0, "srelu[beta=0.1]", 1e-2, 2),
        (1, "srelu", 1e-2, 2),
    ]
    assert found[0]["seconds_tried"] == 12.0
    (told,) = choices_told(found, tuned)
    assert told.endswith("chosen were, of 2: SReLU(1, 0.1) 1, SReLU(1, 0.25) 1.")


def test_the_plan_has_each_candidate_once_and_no_new_keys() -> None:
    with_family, without = study(), study(activations=["relu", "srelu"])
    assert with_family.trained == ("relu", "srelu", "srelu[beta=0.1]", "srelu[beta=1]")
    assert size_of(with_family) == len(plan(with_family)) == 8
    assert {s.key for s in plan(without)} < {s.key for s in plan(with_family)}
    # A study that was changed and begun before there was such a thing is found again, also where its candidates are not used.
    changed = papers.study("srelu-wdbc", "lite").override(["train.epochs=3"])
    assert (changed.select, changed.families) != ({}, {})
    assert changed.directory == "srelu-wdbc.lite.b1240ed1"
    assert with_family.override(["train.epochs=2"]).directory != without.override(["train.epochs=2"]).directory


def test_what_cannot_be_chosen_is_told() -> None:
    with pytest.raises(StudyError, match="select has no 'SReLU'; it has 'SReLU, tuned'"):
        study(activations=["relu", "best:SReLU"])
    with pytest.raises(StudyError, match="expected names with lists of activations"):
        study(select={"SReLU, tuned": "srelu"})
    with pytest.raises(StudyError, match="expected names with lists of activations"):
        study(select={"SReLU, tuned": []})
    with pytest.raises(UnknownNameError, match="sreluu"):
        study(select={"SReLU, tuned": ["sreluu"]})
    assert study(baseline=NAME).baseline == NAME
    assert study().only([NAME]).activations == ("relu", NAME)


def test_it_is_run_judged_shown_and_recorded(tmp_path: Path) -> None:
    asked = study()
    result = run(asked, store=tmp_path / "store", on="serial")
    assert result.counts["done"] == 8
    rows = [r for r in result.rows if r["activation"] == NAME]
    for row in rows:
        tried = [t for t in result.trial_rows if t["activation"] in CANDIDATES and t["fold"] == row["fold"]]
        assert row["validation_loss"] == min(t["validation_loss"] for t in tried)
        same = next(t for t in tried if t["activation"] == row["chosen"])
        assert {k: same[k] for k in same if k not in ("activation", "label")} == {
            k: row[k] for k in same if k not in ("activation", "label")
        }
    verdict = result.verdict()
    assert [c.label for c in verdict.comparisons] == ["SReLU(1, 0.25)", "SReLU, tuned"]
    told = next(w for w in verdict.warnings if w.startswith("SReLU, tuned: "))
    assert "chosen were, of 2: " in told
    page = result.report(tmp_path / "report").read_text(encoding="utf-8")
    assert told in page
    assert "chosen" in (tmp_path / "report" / "rows.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    kept = records.read(records.write(result, tmp_path / "records", command="pliant run tuned"))
    assert kept.evidence.activations == ("relu", "srelu", NAME)
    assert told in kept.evidence.remarks
    assert len((kept.path / "trials.csv").read_text().splitlines()) == 9
    assert kept.evidence.verdict().comparisons == Evidence.of(result).verdict().comparisons
    # Without a store the study still says what it would choose among.
    assert "none yet" in Result(asked, Store(tmp_path / "empty")).remarks[0]


def test_the_recorded_choice_of_beta_follows_from_the_recorded_trials() -> None:
    kept = records.read(ROOT / "records" / "srelu-wdbc")
    wdbc = Study(**{**kept.study, "overrides": ()})
    name = "best:SReLU, beta on validation"
    own = ("chosen", "seconds_tried")
    rows = [dict(row) for row in kept.evidence.rows]
    again = chosen_rows([{k: v for k, v in r.items() if k not in own} for r in rows if r["activation"] != name], wdbc)
    assert again == rows
    assert sum(r["activation"] == name for r in rows) == 20
    assert choices_told(again, wdbc)[0] in kept.evidence.remarks
