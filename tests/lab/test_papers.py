"""The papers as data: nothing printed without a place, no name without a thing, and every study can be planned."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import statistics
import tomllib
from collections import Counter
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import painted

from pliant.activations import DSReLU
from pliant.errors import UnknownNameError
from pliant.lab import Study, papers, run
from pliant.lab import study as study_module
from pliant.lab.datasets import ALL, Data, Detection
from pliant.lab.metrics import DETECTION
from pliant.lab.papers.claims import CellsTest, InteractionTest, MeanTest, SpreadTest
from pliant.lab.papers.files import expanded, matches, sections
from pliant.lab.protocol import split
from pliant.lab.recipe import QUIRKS
from pliant.lab.report.agreement import agreement
from pliant.lab.report.wording import metric
from pliant.lab.result import Result
from pliant.lab.status import matching, tier_of
from pliant.lab.store import Store
from pliant.lab.study import plan, spec_of, spelled
from pliant.lab.verdict import Estimate

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "papers"
STUDIES = papers.studies()
TABLES = {
    **{f"dsrelu_T{i}": n for i, n in zip(range(1, 5), (180, 180, 180, 18), strict=True)},
    **{f"aaf_T{i}": n for i, n in zip(range(1, 8), (35, 25, 21, 15, 50, 12, 54), strict=True)},
}

# --- what is printed --------------------------------------------------------------------------------------------------


def _digest(name: str) -> str:
    content = (resources.files("pliant.lab.papers") / name).read_bytes()
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def test_every_printed_number_is_there() -> None:
    values = papers.printed()
    assert len(values) == 770
    assert Counter(v.table for v in values) == TABLES
    assert sum(v.value is None for v in values) == 24
    assert all(v.converged == (v.value is not None) for v in values)
    assert papers.printed("aaf_T1") == [v for v in values if v.table == "aaf_T1"]
    assert papers.printed("srelu_results") == []
    # Quotations: whoever changes a digit changes this too.
    assert _digest("printed.csv") == "1d0da7b689d035418d1f36d0ef7988695066ac19b32f66f526fc140bdbbe706a"
    assert _digest("dsrelu_epochs.csv") == "18e82e968abec89f4d200d8888a9b9c22178a06b9c333ce03f7cddd705cfe0da"
    with pytest.raises(UnknownNameError, match="aaf_T1"):
        papers.printed("aaf_T9")


def _shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not in {SHARED}")
    return SHARED / name


def test_the_printed_numbers_are_those_of_the_transcription() -> None:
    wanted = json.loads(_shared("reported.json").read_text())["records"]
    found = [asdict(v) for v in papers.printed()]
    assert len(wanted) == len(found)
    for given, ours in zip(wanted, found, strict=True):
        assert set(given) <= set(ours)
        for name, value in ours.items():
            expected = given.get(name)
            assert value == (tuple(expected) if isinstance(expected, list) else expected), (name, given)
            assert type(value) is tuple or type(value) is type(expected), (name, given)


def test_the_released_epochs_are_those_of_the_transcription() -> None:
    with open(_shared("dsrelu_epoch_curves.csv"), newline="", encoding="utf-8") as file:
        wanted = list(csv.DictReader(file))
    found = [asdict(e) for e in papers.released_epochs()]
    assert [{k: type(found[0][k])(v) for k, v in line.items()} for line in wanted] == found


def test_printed_rows_are_epochs_of_the_released_logs() -> None:
    epochs = {(e.dataset, e.activation, e.epoch): e for e in papers.released_epochs()}
    assert len(epochs) == 609
    assert len({key[:2] for key in epochs}) == 18
    names = {"MIT-BIH (Kaggle heartbeat CSV)": "MIT-BIH"}
    columns = {"accuracy": "acc", "f1_weighted": "f1_weighted", "auc_ovr_macro": "auc_ovr_macro"}
    for v in papers.printed():
        if v.epoch_in_log is not None:
            epoch = epochs[names.get(v.dataset, v.dataset), v.activation, v.epoch_in_log]
            assert getattr(epoch, f"{v.split}_{columns[v.metric]}") == pytest.approx(v.value, abs=1.1e-6)


def test_table_4_is_the_mean_of_the_logs_but_for_dsrelu() -> None:
    names = {"MIT-BIH (Kaggle heartbeat CSV)": "MIT-BIH"}
    for v in papers.printed("dsrelu_T4"):
        seconds = [
            e.epoch_seconds
            for e in papers.released_epochs()
            if (e.dataset, e.activation) == (names.get(v.dataset, v.dataset), v.activation)
        ]
        assert v.value is not None
        assert v.value_from_log is not None
        assert statistics.fmean(seconds) == pytest.approx(v.value_from_log, abs=2e-6)
        lead = {"mini-ImageNet": 21.8, "CIFAR-100": 8.0}.get(v.dataset, 10.2) if v.activation == "DSReLU" else 0.0
        assert v.value_from_log - v.value == pytest.approx(lead, abs=2e-6)


def test_every_printed_number_has_a_place() -> None:
    for table in TABLES:
        first = [papers.place(v) for v in papers.printed(table)]
        assert len(set(first)) == len(first), f"two numbers of {table} have one place"
        for value in papers.printed(table):
            for cell in papers.places(value):
                study = STUDIES[cell.study]
                assert cell.activation in study.activations, cell
                assert ("top_5_epoch_rows" in study.quirks) == cell.metric.startswith("top_5_"), cell
                assert cell.study in {s for g in papers.groups().values() if g.printed == table for s in g.studies}


def test_every_place_is_on_the_page_of_its_study() -> None:
    contexts = {name: papers.context(study).printed for name, study in STUDIES.items()}
    for value in papers.printed():
        for cell in papers.places(value):
            # Told by what it is and by the number itself, as its mean with others of one run or alone.
            start = f"Table {value.table[-1]}: {value.activation}, {value.split} {value.metric.replace('_', ' ')}"
            (entry,) = (e for e in contexts[cell.study] if e["what"] == start)
            if value.value is None:
                assert entry["value"] is None
                assert "not converging" in entry["note"]
            else:
                assert value.value == entry["value"] or f" {value.value:g} (epoch {value.epoch_in_log})" in entry["note"]
            ours = (entry["activation"], f"test_{entry['metric']}") if "activation" in entry else None
            assert ours == ((cell.activation, cell.metric) if cell.metric.startswith("test_") else None)


# --- studies, tiers, groups -------------------------------------------------------------------------------------------

SIZES = {
    "mini-imagenet": (11_400, 95),
    "cifar10": (60_000, 10),
    "cifar100": (20_000, 100),
    "heartbeat": (100_000, 5),
    "mitbih": (20_000, 4),
    "mnist": (60_000, 10),
    "fashion-mnist": (60_000, 10),
    "voc": (400, 20),
}


DETECTED = {f"test_{name}" for name in DETECTION}


def _synthetic(name: str) -> Data:
    """As many classes and parts as the real data, and hardly any content."""
    n, classes = SIZES[name]
    y = np.arange(n) % classes
    labels = np.eye(classes, dtype=np.uint8)[y] if name == "voc" else y
    parts = (np.arange(n) // classes) % 20 // 7
    if name not in ("mini-imagenet", "mitbih", "voc"):
        parts = np.where(parts == 1, 0, parts)
    return Data.of(np.zeros((n, 1), np.float32), labels, parts=parts)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data | Detection]:
    found: dict[str, Data | Detection] = {name: _synthetic(name) for name in SIZES}
    photographs = painted(tmp_path_factory.mktemp("photographs"), 60, 8)
    return {**found, "wdbc": ALL["wdbc"].load(), "voc-detection": photographs, "coco-detection": photographs}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_planned_and_split_at_every_tier(
    name: str, synthetic: dict[str, Data | Detection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "data_of", lambda component, custom: synthetic[component.name])
    sizes = []
    for tier in papers.tiers(name):
        study = papers.study(name, tier)
        p = study.protocol
        trials = plan(study)
        assert len(trials) == len(study.trained) * p.folds * p.repeats * max(1, len(study.train.lr_grid))
        data = synthetic[study.dataset.name]
        if study.protocol.share is None and study.protocol.validation == "official":
            # The data sets without parts of their own have the two that the protocol asks for.
            assert set(np.unique(data.parts)) == {0, 1, 2}
        parts = split(trials[0], data)
        assert min(len(parts.train), len(parts.validation), len(parts.test)) > 0
        sizes.append(sum(t.train.epochs for t in trials) * len(parts.train))
        assert (study.tier, study.overrides, study.name) == (tier, (), name)
        assert study.paper in papers.FILES
        assert study.question.endswith("?")
    assert sizes == sorted(sizes), "a tier costs more than a larger one"


@pytest.mark.parametrize("name", STUDIES)
def test_every_activation_of_every_study_can_be_made(name: str) -> None:
    for activation in STUDIES[name].trained:
        assert spec_of(activation).create() is not None
        assert spelled(activation) == activation


def test_tiers_are_never_confused() -> None:
    full, smoke = papers.study("srelu-wdbc"), papers.study("srelu-wdbc", "smoke")
    assert papers.tiers("srelu-wdbc") == ("smoke", "lite", "full")
    assert papers.tiers("dsrelu-table4-mini") == ("full",)
    assert (full.directory, smoke.directory) == ("srelu-wdbc", "srelu-wdbc.smoke")
    assert full.heading == "SReLU on WDBC"
    assert smoke.heading == "SReLU on WDBC (smoke tier, reduced)"
    changed = smoke.override(["train.epochs=3"])
    assert re.fullmatch(r"srelu-wdbc\.smoke\.[0-9a-f]{8}", changed.directory)
    assert changed.heading.endswith("(smoke tier, reduced)")
    result = Result(smoke, None)
    assert result.remarks[0].startswith("Tier smoke: ")
    assert not any("tier" in remark.lower() for remark in Result(full, None).remarks)
    assert all(row["study"] == "srelu-wdbc.smoke" for row in result.rows)
    with pytest.raises(UnknownNameError, match="tier of dsrelu-table4-mini named 'smoke'"):
        papers.study("dsrelu-table4-mini", "smoke")
    with pytest.raises(UnknownNameError, match="Did you mean 'srelu-wdbc'"):
        papers.tiers("srelu-wbdc")
    for name in STUDIES:
        directories = [papers.study(name, tier).directory for tier in papers.tiers(name)]
        assert len(set(directories)) == len(directories)


def test_a_tier_is_no_part_of_a_trial() -> None:
    smoke = papers.study("srelu-wdbc", "smoke")
    same = Study(**{**smoke.model_dump(), "tier": None, "name": "mine"})
    assert [t.key for t in plan(smoke)] == [t.key for t in plan(same)]


def test_a_reduced_tier_is_not_said_to_agree_with_what_is_printed() -> None:
    estimate = Estimate("relu", "ReLU", n=5, diverged=0, failed=0, missing=0, mean=0.88, low=0.87, high=0.89, sd=0.01)
    for tier, said in (("full", True), ("lite", False)):
        context = papers.context(papers.study("aaf-table1-vggnet", tier))
        (entry,) = (e for e in context.printed if e.get("activation") == "relu")
        assert entry["value"] == 0.88
        assert (agreement(estimate, entry, metric("accuracy"), 0.05) is not None) == said
        assert any(n.startswith("This is the tier") for n in context.notes) != said


# What is being run, or was: another spec would be another trial.
KEPT = """
activations = ["relu", "srelu", "elu[alpha=0.25]", "leakyrelu", "prelu", "elu", "gelu", "sigmoid"]
model = { name = "ffnn", options = { width = 512, hidden_layers = 2, dropout = 0.3 } }
protocol = { design = "official", repeats = 10, validation = 0.1, normalise = "none", seed = 0 }
[train]
epochs = 10
batch_size = 128
train_scores = "evaluated"
optimizer = { name = "adam", lr = 1e-3, betas = [0.9, 0.999], eps = 1e-7 }
"""


@pytest.mark.parametrize(("name", "dataset"), [("srelu-mnist", "mnist"), ("srelu-fashion", "fashion-mnist")])
def test_kept_trials_keep_their_identity(
    name: str, dataset: str, synthetic: dict[str, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "data_of", lambda component, custom: synthetic[component.name])
    kept = Study(name="kept", dataset=dataset, **tomllib.loads(KEPT))
    # Candidates of the beta that is chosen came later, and are trained beside them.
    now = tuple(t for t in plan(papers.study(name)) if t.activation in kept.activations)
    assert plan(kept) == now
    assert [t.key for t in plan(kept)] == [t.key for t in now]


def test_the_study_of_wdbc_holds_the_former_one() -> None:
    former, now = papers.study("srelu-wdbc", "lite"), papers.study("srelu-wdbc")
    assert len(plan(former)) == 240
    assert {t.key for t in plan(former)} < {t.key for t in plan(now)}
    assert now.protocol.folds * now.protocol.repeats >= 20
    for beta in ("0.01", "0.1", "0.5"):
        assert {f"srelu[beta={beta}]", f"elu[alpha={beta}]"} <= {*now.activations}


def test_every_table_and_figure_is_a_group() -> None:
    figures = {"dsrelu": 5, "srelu": 5, "aaf": 8}
    wanted = {f"{paper}-fig{i}" for paper, n in figures.items() for i in range(1, n + 1)}
    wanted |= {f"dsrelu-table{i}" for i in range(1, 5)} | {f"aaf-table{i}" for i in range(1, 8)} | {"srelu-results"}
    groups = papers.groups()
    assert set(groups) == wanted
    assert {g.printed for g in groups.values() if g.printed} == {*TABLES, "srelu_results"}
    without = {name for name, g in groups.items() if not g.studies}
    assert without == {"dsrelu-fig1", "aaf-fig1", "aaf-fig2", "aaf-fig5"}
    for group in groups.values():
        assert {STUDIES[s].paper for s in group.studies} <= {group.paper}
    used = {s for g in groups.values() for s in g.studies} | {s for c in papers.claims() for s in c.studies}
    assert set(STUDIES) - used == set(), "studies that neither a table, a figure nor a claim needs"


def test_members_of_a_name() -> None:
    assert papers.members("srelu-fig3") == ("srelu-wdbc",)
    # A study comes before the table of its name.
    assert papers.members("dsrelu-table1") == ("dsrelu-table1",)
    assert set(papers.members("aaf-table2")) == {s for s in STUDIES if s.startswith("aaf-table1-")}
    with pytest.raises(UnknownNameError, match="Did you mean 'aaf-table1"):
        papers.members("aaf-tabel1")


def test_as_written_and_as_released_stand_side_by_side() -> None:
    for name in ("dsrelu-table1", "dsrelu-table2", "dsrelu-table3", "aaf-table1"):
        studies = [STUDIES[s] for s in papers.groups()[name].studies]
        released = {s.name.removesuffix("-released") for s in studies if s.name.endswith("-released")}
        assert released
        for study in studies:
            assert bool(study.quirks) == study.name.endswith("-released")
            assert set(study.quirks) <= set(QUIRKS)
            if study.quirks:
                assert study.name.removesuffix("-released") in STUDIES
    quirks = [STUDIES[f"aaf-claim70-{case}"].quirks for case in ("double-softmax", "batch-statistics", "64-images", "tie-rule")]
    assert [len(q) for q in quirks] == [1, 1, 1, 1]
    assert {q for (q,) in quirks} == {*STUDIES["aaf-claim70-all"].quirks}
    assert STUDIES["aaf-claim70-none"].quirks == ()


def test_the_fixed_slopes_are_those_at_which_the_released_runs_stood() -> None:
    for name, variant in (("dsrelu-table1-released", "artifact"), ("dsrelu-table2-released", "released")):
        start = getattr(DSReLU, variant)().slope.item()
        (constant,) = (a for a in STUDIES[name].activations if a.startswith("dsrelu[constant"))
        (leaky,) = (a for a in STUDIES[name].activations if a.startswith("leakyrelu["))
        assert spec_of(constant).create().slope == pytest.approx(start, rel=1e-6)
        assert spec_of(leaky).create().negative_slope == pytest.approx(1 / start, abs=5e-4)
    middle = math.tan(math.radians(75)) / 2 + math.tan(math.radians(30)) / 2
    assert f"dsrelu[constant,slope={middle!r}]" in STUDIES["dsrelu-claim12"].activations


# --- deviations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("paper", "letter", "count"), [("dsrelu", "D", 30), ("srelu", "S", 13), ("aaf", "A", 31)])
def test_every_deviation_is_there(paper: str, letter: str, count: int) -> None:
    found = papers.deviations(paper)
    extra = {"S10a"} if paper == "srelu" else set()
    assert {d.id for d in found} == {f"{letter}{i}" for i in range(1, count + 1)} | extra
    for d in found:
        assert all((d.as_written, d.as_released, d.here))
        assert all(STUDIES[s].paper == paper for s in d.studies)
    assert set(found) <= set(papers.deviations())
    with pytest.raises(UnknownNameError, match="paper"):
        papers.deviations("drelu")


@pytest.mark.parametrize("name", papers.FILES)
def test_no_pattern_means_nothing(name: str) -> None:
    known = list(STUDIES)
    for section in ("group", "deviation", "note", "text_claim", "output"):
        for entry in sections(name, section):
            for pattern in entry.get("studies", []):
                assert any(matches(s, [pattern.removeprefix("!")]) for s in known), (section, pattern)


def test_each_study_lists_each_deviation_once() -> None:
    for name, study in STUDIES.items():
        ids = [d["id"] for d in papers.context(study).deviations]
        assert len(ids) == len(set(ids)), name
        assert ids or study.paper == "all"
    as_written, as_released = (papers.context(STUDIES[f"dsrelu-table1{s}"]) for s in ("", "-released"))
    rates = [next(d["here"] for d in c.deviations if d["id"] == "D10") for c in (as_written, as_released)]
    assert rates[0].startswith("1e-4")
    assert rates[1] == "1e-3"
    assert papers.context(Study(**{**STUDIES["srelu-wdbc"].model_dump(), "name": "mine"})) == papers.Context()


# --- claims -----------------------------------------------------------------------------------------------------------


def test_every_claim_is_there_once() -> None:
    claims = papers.claims()
    assert [c.number for c in claims] == list(range(1, 71))
    assert Counter(c.paper for c in claims) == {"dsrelu": 23, "srelu": 14, "aaf": 29, "all": 4}
    assert papers.claims("aaf") == claims[37:66]
    assert {c.evidence_status for c in claims} == set(papers.EVIDENCE)
    with pytest.raises(UnknownNameError, match="paper"):
        papers.claims("relu")


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What rows have, from a study that has one of everything."""
    study = papers.study("srelu-wdbc").override(
        [
            *('protocol.folds=2', "protocol.repeats=1", "train.epochs=2", "model.options.width=4"),
            *('quirks=["top_5_epoch_rows"]', "thresholds=[0.2]"),
        ]
    ).only(["relu", "srelu"])  # fmt: skip
    return set(run(study, store=tmp_path_factory.mktemp("columns"), stack=1).rows[0])


def test_every_claim_names_what_is_there(columns: set[str]) -> None:
    for claim in papers.claims():
        assert claim.title
        assert claim.evidence
        assert claim.experiment
        assert set(claim.studies) <= set(STUDIES)
        assert claim.tests or claim.settled_by or claim.not_yet, claim.number
        assert (claim.settled is None) == (claim.settled_by is None)
        if claim.settled_by:
            assert (ROOT / claim.settled_by).is_file()
            assert not claim.tests
        for test in claim.tests:
            study = STUDIES[test.study]
            assert test.study in claim.studies
            assert test.contender in study.activations
            if isinstance(test, CellsTest):
                assert set(test.across) <= set(claim.studies) - {test.study}
                assert all(test.contender in STUDIES[name].activations for name in test.across)
                assert f"test_{test.metric}" in columns
            if isinstance(test, InteractionTest):
                beside = STUDIES[test.beside]
                assert test.beside in claim.studies
                assert {test.contender, *test.against} <= {*study.activations} & {*beside.activations}
                assert len(test.against) == 1
                assert (study.dataset, study.protocol.seed) == (beside.dataset, beside.protocol.seed)
                check_column(test.metric, study, columns)
            if not isinstance(test, MeanTest | SpreadTest):
                continue
            check_column(test.metric, study, columns)
            if isinstance(test, SpreadTest):
                assert isinstance(test.against, str) or set(test.against) <= {*study.activations} - {test.contender}
                continue
            if test.across:
                others = [STUDIES[name] for name in test.across]
                assert set(test.across) <= set(claim.studies) - {test.study}
                assert all(
                    (o.dataset, o.protocol, o.model.name) == (study.dataset, study.protocol, study.model.name) for o in others
                ), "what is compared shares the division of the data and the seeds"
                assert isinstance(test.against, str) or all(set(test.against) <= {*o.activations} for o in others)
            elif isinstance(test.against, tuple):
                assert set(test.against) <= {*study.activations} - {test.contender}
            else:
                own = spec_of(test.contender).entry.name
                others = [a for a in study.trained if test.against == "all" or spec_of(a).entry.name != own]
                assert len({*others} - {test.contender}) > 1, test
            assert test.direction in ("higher", "lower", "same")
            assert test.margin >= 0


def check_column(metric: str, study: Study, columns: set[str]) -> None:
    assert set(metric.split(" - ")) <= columns | {"test_auc", "test_average_precision"} | DETECTED, metric
    if (at := metric.rpartition("_to_")[2]) != metric:
        assert float(at) in study.thresholds


def test_every_printed_column_is_one_of_the_rows(columns: set[str]) -> None:
    found = {c.metric for v in papers.printed() for c in papers.places(v) if c.study in STUDIES}
    # The AUC of two classes is there, that of several is named the same.
    assert found - columns <= {"test_auc", "train_auc"} | DETECTED


# --- the files --------------------------------------------------------------------------------------------------------


def test_like_and_each() -> None:
    entries: list[dict[str, Any]] = [
        {
            "name": "a-{x}",
            "each": [{"x": 1, "n": 3, "t": ["u"]}, {"x": 2, "n": 4, "t": False}],
            "train": {"epochs": "{n}", "patience": 5},
            "list": ["{x} of {y}"],
            "t": "{t}",
            "dataset": {"name": "d", "options": {"a": 1}},
        },
        {
            "name": "b",
            "like": "a-{x}",
            "each": [{"x": 7}],
            "train": {"patience": "", "lr": 1},
            "dataset": {"name": "e"},
            "t": "",
        },
    ]
    first, second, third = expanded(entries)
    assert (first["name"], first["train"], first["list"], first["t"]) == (
        "a-1",
        {"epochs": 3, "patience": 5},
        ["1 of {y}"],
        ["u"],
    )
    assert (second["name"], second["train"]["epochs"], second["t"]) == ("a-2", 4, False)
    # A data set is taken whole, the training key by key.
    assert third["train"] == {"epochs": "{n}", "lr": 1}
    assert third["dataset"] == {"name": "e"}


def test_patterns() -> None:
    assert matches("a-b", ["a-*"])
    assert not matches("a-b", ["a-*", "!*-b"])
    assert not matches("a-b", ["b"])
    assert not matches("a-b", [])


# --- the command line -------------------------------------------------------------------------------------------------


def test_studies_are_listed_with_tiers_and_groups(pliant) -> None:
    code, out, _ = pliant("list", "studies", "--json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["study", "srelu-wdbc"]["trials by tier"] == {"smoke": 24, "lite": 240, "full": 460}
    assert rows["table or figure", "srelu-fig3"]["studies"] == ["srelu-wdbc"]
    assert "aaf-table7-fcos" in rows["table or figure", "aaf-table7"]["studies"]
    assert len(rows) == len(STUDIES) + len(papers.groups())


def test_a_tier_and_a_table_on_the_command_line(pliant) -> None:
    code, out, _ = pliant("plan", "srelu-wdbc", "--tier", "smoke")
    assert code == 0
    assert "SReLU on WDBC (smoke tier, reduced)" in out
    assert "12 activations x 2 folds x 1 repeats = 24 trials" in out
    code, out, _ = pliant("plan", "srelu-fig3", "--tier", "lite", "--json")
    assert (json.loads(out)["study"], json.loads(out)["trials"]) == ("srelu-wdbc.lite", 240)
    for arguments, words in (
        (("plan", "srelu-wdbc", "--tier", "smke"), "Did you mean 'smoke'"),
        (("plan", "dsrelu-table4-mini", "--tier", "smoke"), "no tier of dsrelu-table4-mini named 'smoke'"),
        (("plan", "dsrelu-fig1"), "takes no training"),
        (("run", "mine.toml", "--tier", "smoke"), "tiers are of the papers' studies"),
        (("report", "srelu-wdbc", "--tier", "smoke"), "pliant run srelu-wdbc --tier smoke"),
    ):
        code, _, err = pliant(*arguments)
        assert code == 2
        assert words in err


@pytest.mark.slow
def test_a_tier_is_run_reported_and_looked_up(pliant, tmp_path: Path) -> None:
    small = ("--tier", "smoke", "-a", "srelu", "--set", "train.epochs=1", "--set", "model.options.width=4")
    assert pliant("run", "srelu-fig3", *small, "--on", "serial", "-q")[0] == 0
    (folder,) = (tmp_path / "pliant-store" / "studies").iterdir()
    assert folder.name.startswith("srelu-wdbc.smoke.")
    page = (folder / "report.html").read_text()
    assert "SReLU on WDBC (smoke tier, reduced)" in page
    assert "--tier smoke" in page
    assert "cannot be said" in page or "consistent" not in page
    (found,) = json.loads(pliant("status", "srelu-fig3", "--json")[1])
    assert found["name"] == folder.name
    assert json.loads(pliant("status", "srelu-wdbc", "--tier", "lite", "--json")[1]) == []
    store = Store(tmp_path / "pliant-store", create=False)
    assert matching(store, ["srelu-wdbc"]) == [folder.name]


def test_the_tier_of_a_folder() -> None:
    names = ("a", "a.smoke", "a.lite.0123abcd", "a.0123abcd", "v1.2")
    assert [tier_of(name) for name in names] == ["full", "smoke", "lite", "full", "full"]
