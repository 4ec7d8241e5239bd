"""The report: what stands on the page, what must never, and what a browser makes of it."""

from __future__ import annotations

import csv
import functools
import html
import html.parser
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars
import pytest
from jsonschema import ValidationError

from pliant.lab.report import ReportData, Shape, Stage, build, write_tables
from pliant.lab.report.page import environment, in_script
from pliant.lab.store import StorageFullError
from pliant.lab.verdict import judge

MEGABYTE = 1024 * 1024
NASTY = "</script><script>alert('x')</script><!-- \"'&{{7*7}}"

NAMES = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU(0.01)",
    "prelu": "PReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "sigmoid": "Sigmoid",
    "srelu": "SReLU",
    "dsrelu": "DSReLU",
    "arelu": "AReLU",
    "asigmoid": "ASigmoid",
    "atanh": "ATanh",
    "swish": "Swish",
    "mish": "Mish",
    "pelu": "PELU",
    "frelu": "FReLU",
    "tanh": "Tanh",
}
LEARNED: dict[str, tuple[str, ...]] = {
    "prelu": ("weight",),
    "arelu": ("a", "b", "c", "d"),
    "asigmoid": ("a", "b", "c", "d"),
    "atanh": ("a", "b", "c", "d"),
    "swish": ("beta",),
    "pelu": ("a", "b"),
    "frelu": ("b",),
}
SITES = ("act1", "act2")
X = np.linspace(-5.0, 5.0, 101)


def sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "prelu": lambda x, weight=0.25: np.where(x > 0, x, weight * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "gelu": lambda x: x * sigmoid(1.702 * x),
    "sigmoid": sigmoid,
    "srelu": lambda x: np.where(x > 0, x, 0.25 * np.expm1(np.minimum(x, 0.0))),
    "dsrelu": lambda x, s=1.0: np.where(x > 0, s * x, x),
    "arelu": lambda x, a=1.0, b=0.25, c=0.0, d=0.0: np.maximum(a * x + c, b * x + d),
    "asigmoid": lambda x, a=1.0, b=1.0, c=0.0, d=0.0: b * sigmoid(a * x + c) + d,
    "atanh": lambda x, a=1.0, b=1.0, c=0.0, d=0.0: b * np.tanh(a * x + c) + d,
    "swish": lambda x, beta=1.0: x * sigmoid(beta * x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "pelu": lambda x, a=1.0, b=1.0: np.where(x > 0, a / b * x, a * np.expm1(np.minimum(x, 0.0) / b)),
    "frelu": lambda x, b=-0.1: np.maximum(x, 0.0) + b,
    "tanh": np.tanh,
}


def stage(activation: str, name: str, site: str | None, **coefficients: float) -> Stage:
    f = FUNCTIONS[activation]
    step = 1e-5
    value = f(X, **coefficients)
    slope = (f(X + step, **coefficients) - f(X - step, **coefficients)) / (2 * step)
    return Stage(name, site, X.tolist(), value.tolist(), slope.tolist())


def shapes(seed: int = 3) -> list[Shape]:
    rng = np.random.default_rng(seed)
    out = []
    for activation, label in NAMES.items():
        if activation == "dsrelu":
            steps = np.linspace(0, 1, 11)
            slopes = 3.7 + (0.18 - 3.7) / (1 + np.exp(-10 * (steps - 0.5)))
            stages = [stage(activation, f"t = {t:.1f}", None, s=float(s)) for t, s in zip(steps, slopes, strict=True)]
            out.append(Shape(activation, label, "scheduled", stages))
        elif activation in LEARNED:
            stages = [stage(activation, "start", None)]
            for epoch in (25, 50, 75, 100):
                for site in SITES:
                    moved = {
                        name: default + float(rng.normal(0.15, 0.12)) * epoch / 100
                        for name, default in zip(LEARNED[activation], defaults(activation), strict=True)
                    }
                    stages.append(stage(activation, f"epoch {epoch}", site, **moved))
            out.append(Shape(activation, label, "learned", stages))
        else:
            out.append(Shape(activation, label, "plain", [stage(activation, "", None)]))
    return out


def defaults(activation: str) -> tuple[float, ...]:
    return {
        "prelu": (0.25,),
        "arelu": (1.0, 0.25, 0.0, 0.0),
        "asigmoid": (1.0, 1.0, 0.0, 0.0),
        "atanh": (1.0, 1.0, 0.0, 0.0),
        "swish": (1.0,),
        "pelu": (1.0, 1.0),
        "frelu": (-0.1,),
    }[activation]


def study_rows(activations: Mapping[str, str], repeats: int, folds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    effect = dict.fromkeys(activations, 0.0) | {"srelu": 0.0115, "sigmoid": -0.03, "elu": 0.0004, "dsrelu": -0.006}
    rows = []
    for repeat in range(repeats):
        for fold in range(folds):
            easy = rng.normal(0.0, 0.011)
            for activation, label in activations.items():
                spread = 0.0006 if activation in ("relu", "elu", "leaky_relu", "srelu", "prelu") else 0.0055
                test = float(np.clip(0.965 + easy + effect.get(activation, 0.0) + rng.normal(0, spread), 0.0, 1.0))
                row: dict[str, Any] = {
                    "study": "srelu-wdbc",
                    "key": f"{activation}-{repeat}-{fold}".encode().hex().ljust(64, "0"),
                    "activation": activation,
                    "label": label,
                    "repeat": repeat,
                    "fold": fold,
                    "seed": 1000 + repeat,
                    "outcome": "done",
                    "n_train": 387,
                    "n_validation": 68,
                    "n_test": 114,
                }
                for split, shift in (("train", 0.02), ("validation", 0.004), ("test", 0.0)):
                    level = min(1.0, test + shift)
                    for metric in ("accuracy", "precision", "recall", "f1", "f1_weighted", "auc"):
                        value = float(np.clip(level + rng.normal(0, 0.002), 0, 1))
                        row[f"{split}_{metric}"] = test if (split, metric) == ("test", "accuracy") else value
                        row[f"{split}_{metric}_last"] = float(np.clip(value - 0.002, 0, 1))
                    row[f"{split}_loss"] = float(0.09 + rng.normal(0, 0.01))
                    row[f"{split}_loss_last"] = float(0.12 + rng.normal(0, 0.01))
                late = float(abs(rng.normal(0.012, 0.004)))
                row |= {
                    "gap": row["train_accuracy"] - row["validation_accuracy"],
                    "gap_matched": row["train_accuracy"] - row["validation_accuracy"] - 0.01,
                    "gap_last": row["train_accuracy"] - row["validation_accuracy"] + late,
                    "selected_epoch": int(rng.integers(20, 90)),
                    "epochs": 100,
                    "parameters": 279_041,
                    "activation_parameters": 2 * len(LEARNED.get(activation, ())),
                    "seconds": float(rng.normal(3.1, 0.1)),
                    "seconds_per_epoch": float(rng.normal(0.031 + 0.002 * len(LEARNED.get(activation, ())), 0.001)),
                    "device": "cpu",
                    "error": None,
                }
                rows.append(row)
    return rows


MEASURED = ("train_", "validation_", "test_", "gap", "selected_epoch", "epochs", "parameters", "seconds", "activation_p")


def unscored(row: dict[str, Any], outcome: str, error: str | None = None) -> dict[str, Any]:
    blank = {k: None for k in row if k.startswith(MEASURED) or k == "device"}
    return {**row, **blank, "outcome": outcome, "error": error}


def history(activation: str, epochs: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    slow = {"sigmoid": 4.0, "asigmoid": 2.5, "tanh": 1.4}.get(activation, 1.0) * float(rng.uniform(0.85, 1.2))
    t = np.arange(1, epochs + 1)
    train = 0.65 * np.exp(-t / (6 * slow)) + 0.02 + 0.03 * np.exp(-t / 60) + rng.normal(0, 0.002, epochs)
    validation = train + 0.04 + 0.0006 * t + rng.normal(0, 0.006, epochs)
    names = LEARNED.get(activation, ())
    moving = (
        {
            site: {
                name: d + float(rng.normal(0.2, 0.08)) * (1 - np.exp(-t / 25)) * (1 + k)
                for name, d in zip(names, defaults(activation), strict=True)
            }
            for k, site in enumerate(SITES)
        }
        if names
        else {}
    )
    slope = 3.7 + (0.18 - 3.7) / (1 + np.exp(-10 * (t / epochs - 0.5)))
    out = []
    for i in range(epochs):
        coefficients: dict[str, Any] = {site: {n: float(v[i]) for n, v in named.items()} for site, named in moving.items()}
        if activation == "dsrelu":
            coefficients = {site: {"slope": float(slope[i])} for site in SITES}
        out.append(
            {
                "epoch": i + 1,
                "train_loss": float(train[i]),
                "train_accuracy": float(min(1.0, 1.0 - 0.36 * train[i])),
                "validation_loss": float(validation[i]),
                "validation_accuracy": float(min(1.0, 1.0 - 0.3 * validation[i])),
                "seconds": 0.03,
                "coefficients": coefficients,
                "increments": {f"layer{k}.weight": float(0.5 / (i + 1 + k) / slow) for k in range(14)},
                "single_weights": {
                    f"layer{k}.weight": [float((-1) ** j * 0.01 / (i + 1)) for j in range(4)] for k in (0, 4, 8)
                },
            }
        )
    return out


def verdict_of(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Any:
    return judge(rows, activations=list(names), labels=names, baseline="relu", margin=0.01)


def study(repeats: int = 3, folds: int = 5, epochs: int = 100, seed: int = 1) -> ReportData:
    rng = np.random.default_rng(seed)
    rows = study_rows(NAMES, repeats, folds, rng)
    for i, row in enumerate(rows):
        where = (row["activation"], row["repeat"], row["fold"])
        if where in {("pelu", 0, 2), ("pelu", 2, 4)}:
            rows[i] = {**row, "outcome": "diverged", "test_accuracy": 0.628, "epochs": 41}
        elif where == ("frelu", 1, 1):
            rows[i] = unscored(row, "failed", "RuntimeError: worker died of signal 9 (out of memory?) after 3 attempts")
        elif where == ("mish", 2, 3):
            rows[i] = unscored(row, "missing")
    histories = {r["key"]: history(r["activation"], epochs, rng) for r in rows if r["outcome"] in ("done", "diverged")}
    for row in rows:
        if row["outcome"] == "diverged":
            epochs_run = histories[row["key"]][:41]
            epochs_run[-1] |= {"train_loss": None, "validation_loss": None}
            histories[row["key"]] = epochs_run
    confusions = {}
    for activation in NAMES:
        wrong = rng.integers(18, 45, 2)
        confusions[activation] = [[636 - int(wrong[0]), int(wrong[0])], [int(wrong[1]), 1071 - int(wrong[1])]]
    printed: list[dict[str, object]] = [
        {
            "what": "SReLU, accuracy on WDBC",
            "value": 98.2,
            "unit": "%",
            "note": "in the text; the paper prints no table",
            "activation": "srelu",
            "metric": "accuracy",
        },
        {
            "what": "ReLU, accuracy on WDBC",
            "value": 0.974,
            "unit": "fraction",
            "released": 0.9737,
            "note": "",
            "activation": "relu",
            "metric": "accuracy",
        },
        {"what": "Gain of SReLU in F1", "value": "+0.2", "unit": "%", "note": "baseline not named"},
    ]
    deviations = [
        {"id": "S1", "as_written": "80/20 split, once", "as_released": "no code", "here": "3 × 5 stratified folds"},
        {"id": "S2", "as_written": "α and β tuned by hand", "as_released": "no code", "here": "α = 1, β = 0.25, fixed"},
    ]
    return ReportData(
        title="SReLU on WDBC",
        question="Does any of fifteen activations beat ReLU on breast-cancer diagnosis from thirty cell measurements?",
        study={"name": "srelu-wdbc", "folds": folds, "repeats": repeats, "activations": list(NAMES)},
        rows=rows,
        verdict=verdict_of(rows, NAMES),
        histories=histories,
        confusions=confusions,
        class_names=["malignant", "benign"],
        reliability={a: [(0.55, 0.5, 40), (0.75, 0.8, 200), (0.98, 0.97, 1467)] for a in NAMES},
        shapes=shapes(),
        printed=printed,
        deviations=deviations,
        notes=["The bundled WDBC data are scikit-learn's copy; the paper does not say which it used."],
        environment={"pliant": "0.1.0", "torch": "2.9.1+cpu", "Python": "3.11.7", "Processor": "2 cores", "System": "Linux"},
        command="pliant run srelu-wdbc --executor local",
        paper={"title": "SReLU: a smooth rectified linear unit", "authors": ["R. Bhat"], "year": 2025},
        labels=NAMES,
    )


@functools.cache
def sample() -> ReportData:
    return study()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sample(), tmp_path_factory.mktemp("report"))


class Tree(html.parser.HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text_of(data: ReportData, directory: Path) -> str:
    return build(data, directory).read_text(encoding="utf-8")


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found.group(1))
    return loaded


def checked_figures(text: str) -> set[str]:
    """The ids of the figures on a page, once all their layouts are found to be Vega-Lite: drawing checks nothing."""
    figures: dict[str, Any] = payload(text)["figures"] if 'id="report-data"' in text else {}
    for figure in figures.values():
        for layout in figure["layouts"]:
            alt.Root.validate(layout["spec"])
    return set(figures)


def packed(data: dict[str, Any], name: str) -> dict[str, list[Any]]:
    return {
        c["name"]: [c["words"][i] for i in c["codes"]] if "codes" in c else c["values"] for c in data["tables"][name]["columns"]
    }


# The page as a document


def test_the_sections_stand_in_order_and_the_navigation_leads_to_each(page: Path) -> None:
    tree = Tree(page.read_text(encoding="utf-8"))
    assert tree.all("html")[0]["lang"] == "en"
    assert len(tree.all("h1")) == 1
    sections = [attributes["id"] for attributes in tree.all("section")]
    assert sections == [
        "verdict", "table", "differences", "folds", "curves", "functions", "coefficients", "weights", "confusion",
        "reliability", "gap", "time", "failures", "paper", "deviations", "again",
    ]  # fmt: skip
    links = [a["href"] for a in tree.all("a") if (a["href"] or "").startswith("#")]
    assert [f"#{s}" for s in sections] == [link for link in links[1:] if "deviation-" not in link]
    assert {link[1:] for link in links} <= {attributes.get("id") for _, attributes in tree.tags}
    ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in (a for _, a in tree.tags):
        for reference in ("aria-labelledby", "for"):
            if reference in attributes:
                assert attributes[reference] in ids


def test_every_figure_says_what_it_shows_with_n_and_has_its_data(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    figures = re.findall(r"<figure.*?</figure>", text, re.S)
    assert len(figures) == 13
    for figure in figures:
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure, re.S)
        assert caption is not None
        assert "n = " in caption.group(1) or "function" in caption.group(1)
        assert '<details class="data">' in figure
        assert 'data-description="' in figure
    data = payload(text)
    for entry in data["figures"].values():
        assert [layout["width"] for layout in entry["layouts"]] == [900, 600, 330]
        assert set(entry["tables"]) <= set(data["tables"])
        for layout in entry["layouts"]:
            assert "datasets" not in layout["spec"]


def test_every_layout_is_what_vega_lite_takes(page: Path, parts: dict[str, Path]) -> None:
    text = page.read_text(encoding="utf-8")
    assert checked_figures(text) == set(re.findall(r'data-figure="([a-z_]+)"', text))
    for part in parts.values():
        checked_figures(part.read_text(encoding="utf-8"))
    with pytest.raises(ValidationError):
        checked_figures(text.replace('"scale":', '"scales":'))


def test_sortable_tables_have_a_button_in_every_head(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for table in re.findall(r'<table class="sortable.*?</table>', text, re.S):
        heads = re.findall(r"<th scope=\"col\".*?</th>", table, re.S)
        assert heads
        assert all('aria-sort="none"' in head and "<button" in head for head in heads)
        assert "<caption" in table


def test_the_verdict_is_said_in_words_with_interval_and_n(page: Path) -> None:
    text = Tree(page.read_text(encoding="utf-8")).text
    verdict = sample().verdict
    assert verdict is not None
    assert "Of 15 activations compared with ReLU on test accuracy" in text
    for c in verdict.comparisons:
        low = f"{abs(100 * c.low):.2f}"
        assert re.search(rf"\[[+−]?{low}, [+−]?[\d.]+; n = {c.n}\]", text), c.label
    assert {c.word for c in verdict.comparisons} == {"BETTER", "WORSE", "EQUIVALENT", "CANNOT TELL"}
    for warning in verdict.warnings:
        assert warning in text


def test_failures_are_listed_and_the_paper_is_never_mixed_with_us(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "worker died of signal 9" in text
    failures = re.search(r'<section id="failures".*?</section>', text, re.S)
    assert failures is not None
    assert failures.group().count("<td>diverged</td>") == 2
    assert failures.group().count("<td>missing</td>") == 1
    heads = re.search(r'<section id="paper".*?<thead>(.*?)</thead>', text, re.S)
    assert heads is not None
    assert re.findall(r"<button[^>]*>([^<]+)", heads.group(1)) == [
        "What", "Printed", "Released", "Ours", "n", "Ours minus printed", "Consistent?", "Note",
    ]  # fmt: skip


def test_all_done_says_none_plainly(tmp_path: Path) -> None:
    rows = study_rows({"relu": "ReLU", "srelu": "SReLU"}, 2, 5, np.random.default_rng(0))
    names = {"relu": "ReLU", "srelu": "SReLU"}
    text = text_of(ReportData("t", "q", rows=rows, verdict=verdict_of(rows, names), labels=names), tmp_path)
    assert "None. All 20" in text


# Nothing from outside, and nothing too big


def test_nothing_on_the_page_can_be_fetched(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tree = Tree(text)
    for tag, attributes in tree.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style.group(1)
    assert "@import" not in style.group(1)
    assert "http" not in json.dumps(payload(text))
    policy = next(m["content"] for m in tree.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_page_is_small_and_the_same_data_give_the_same_bytes(page: Path, tmp_path: Path) -> None:
    assert page.stat().st_size < 3 * MEGABYTE
    assert build(sample(), tmp_path).read_bytes() == page.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_users_name_is_text_and_never_markup(tmp_path: Path) -> None:
    names = {"relu": f"ReLU {NASTY}", "srelu": NASTY, "elu": "ELU"}
    rng = np.random.default_rng(5)
    rows = study_rows(names, 2, 5, rng)
    rows[3] = unscored(rows[3], "failed", NASTY)
    histories = {r["key"]: history("srelu", 4, rng) for r in rows}
    for epochs in histories.values():
        for epoch in epochs:
            epoch["coefficients"] = {NASTY: {NASTY: 0.5}}
    points = [-1.0, 0.0, 1.0]
    text = text_of(
        ReportData(
            title=NASTY,
            question=NASTY,
            study={NASTY: NASTY},
            rows=rows,
            verdict=verdict_of(rows, names),
            histories=histories,
            confusions={"srelu": [[3, 1, 0, 0]] * 4, "relu": [[4, 0, 1, 0]] * 4},
            class_names=[NASTY, "b", "c", "d"],
            reliability={"srelu": [(0.9, 0.8, 10)]},
            remarks=[NASTY],
            shapes=[Shape("srelu", NASTY, "learned", [Stage(NASTY, NASTY, points, points, points)])],
            printed=[{"what": NASTY, "value": NASTY, "unit": NASTY, "note": NASTY}],
            deviations=[{"id": NASTY, "as_written": NASTY, "as_released": NASTY, "here": NASTY}],
            notes=[NASTY],
            environment={NASTY: NASTY},
            command=NASTY,
            paper={"title": NASTY, "authors": NASTY, "year": NASTY},
            labels=names,
        ),
        tmp_path,
    )
    assert "<script>alert" not in text
    assert "<!--" not in text
    assert "{{7*7}}" in text
    # The data, the library and the glue; had a name ended one of them, there would be more.
    assert len(Tree(text).all("script")) == 3
    assert NASTY in packed(payload(text), "curves")["label"]


def test_json_cannot_leave_its_script() -> None:
    hard = {"a": "</script><!--&\u2028\u2029"}
    text = in_script(hard)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == hard


# Parts of a study


def partial() -> Iterator[tuple[str, ReportData]]:
    rng = np.random.default_rng(9)
    two = {"relu": "ReLU", "srelu": "SReLU"}
    full = study_rows(two, 2, 5, rng)
    nothing_run = [unscored(row, "missing") for row in full]
    alone = study_rows({"relu": "ReLU"}, 1, 5, rng)
    one_pair = study_rows(two, 1, 1, rng)
    nulls = [{**row, "test_auc": None, "test_precision": None, "gap": None, "seconds_per_epoch": None} for row in full]
    everything_diverged = [{**row, "outcome": "diverged"} for row in full]

    def data(rows: list[dict[str, Any]], names: dict[str, str], **more: Any) -> ReportData:
        return ReportData("t", "q?", rows=rows, verdict=verdict_of(rows, names), labels=names, **more)

    yield "nothing at all", ReportData("t", "q?")
    yield "labels only", ReportData("t", "q?", labels=two)
    yield "rows without a verdict", ReportData("t", "q?", rows=full)
    yield "nothing run", data(nothing_run, two)
    yield "one activation", data(alone, {"relu": "ReLU"})
    yield "one pair", data(one_pair, two)
    yield "null metrics", data(nulls, two)
    yield "all diverged", data(everything_diverged, two)
    blank = {"train_loss": None, "train_accuracy": None, "validation_loss": None, "validation_accuracy": None}
    short: list[dict[str, Any]] = [{"epoch": 1, **blank, "seconds": 0.1, "coefficients": {}}]
    yield "histories without a number", data(full, two, histories={r["key"]: short for r in full})
    yield "empty histories", data(full, two, histories={r["key"]: [] for r in full})
    ends = {**short[0], "train_loss": float("inf"), "validation_loss": float("nan"), "coefficients": {"a": {"b": None}}}
    yield "histories that are not finite", data(full, two, histories={r["key"]: [ends] for r in full})
    gone = [float("nan"), float("inf"), 1.0]
    odd = [
        Shape("relu", "ReLU", "plain", []),
        Shape("srelu", "SReLU", "plain", [Stage("always", None, [], [], [])]),
        Shape("x", "X", "plain", [Stage("always", None, [0.0, 1.0, 2.0], gone, gone)]),
    ]
    yield "odd shapes", data(full, two, shapes=odd)
    yield "ragged confusion", data(full, two, confusions={"relu": [[1, 2], [3]], "srelu": []})
    yield "an empty class", data(full, two, confusions={"relu": [[0, 0], [3, 4]]}, class_names=["a", "a"])
    yield "same label twice", data(full, {"relu": "ReLU", "srelu": "ReLU"})
    yield "printed without ours", data(nothing_run, two, printed=[{"what": "w", "value": None, "metric": "accuracy"}])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {what: build(data, tmp_path_factory.mktemp("part")) for what, data in partial()}


def test_a_partial_study_still_gives_a_page(parts: dict[str, Path]) -> None:
    for what, path in parts.items():
        text = path.read_text(encoding="utf-8")
        assert len(Tree(text).all("section")) == 16, what
        json.dumps(payload(text), allow_nan=False)
        assert ">nan" not in text, what
        assert ">inf" not in text, what


def test_a_partial_study_still_gives_tables(tmp_path: Path) -> None:
    for _, data in partial():
        assert all(p.stat().st_size > 0 for p in write_tables(data, tmp_path))


def test_what_is_missing_is_said(parts: dict[str, Path]) -> None:
    pages = {what: Tree(path.read_text(encoding="utf-8")).text for what, path in parts.items()}
    assert "There is no verdict yet" in pages["nothing at all"]
    assert "No trial is planned or stored" in pages["nothing at all"]
    assert "20 trials have not been run" in pages["nothing run"].replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "repeats 1–2: folds 1–5" in pages["nothing run"]
    assert "ReLU is the only one in this study" in pages["one activation"]
    assert "One pair has no spread" in pages["one pair"]
    assert "No trial has a finished training history yet" in pages["empty histories"]
    assert "ReLU (srelu)" in pages["same label twice"]
    assert "20 trials diverged" in pages["all diverged"].replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_without_the_lab_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pliant.errors import MissingExtraError

    environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[lab\]'"):
        build(ReportData("t", "q"), tmp_path)


def test_importing_the_report_does_not_import_what_only_a_page_needs() -> None:
    code = "import sys, pliant.lab.report; print([m for m in ('altair', 'vl_convert') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_full_disk_leaves_the_older_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = build(ReportData("old", "q"), tmp_path)
    before = target.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError, match="no space left"):
        build(ReportData("new", "q"), tmp_path)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# The numbers behind the figures


def test_curves_are_the_mean_and_the_central_eighty_per_cent_of_the_scored_trials(page: Path) -> None:
    data = sample()
    table = packed(payload(page.read_text(encoding="utf-8")), "curves")
    mine = [r["key"] for r in data.rows if r["activation"] == "gelu"]
    losses = np.array([[e["train_loss"] for e in data.histories[str(key)]] for key in mine])
    drawn = [i for i, label in enumerate(table["label"]) if label == "GELU"]
    assert [table["epoch"][i] for i in drawn] == list(range(1, 101))
    for name, wanted in (
        ("train_loss", losses.mean(axis=0)),
        ("train_loss_low", np.percentile(losses, 10, axis=0)),
        ("train_loss_high", np.percentile(losses, 90, axis=0)),
    ):
        np.testing.assert_allclose([table[name][i] for i in drawn], wanted, rtol=2e-4)


def test_a_trial_that_stopped_counts_only_while_it_ran(page: Path) -> None:
    table = packed(payload(page.read_text(encoding="utf-8")), "curves")
    counts = {(a, e): n for a, e, n in zip(table["label"], table["epoch"], table["n"], strict=True)}
    assert counts["PELU", 40] == 15
    assert counts["PELU", 100] == 13
    assert counts["FReLU", 1] == 14


def test_a_schedule_that_is_the_same_everywhere_is_one_line(page: Path) -> None:
    table = packed(payload(page.read_text(encoding="utf-8")), "coefficients")
    sites: dict[str, set[str]] = {}
    for label, site in zip(table["label"], table["site"], strict=True):
        sites.setdefault(label, set()).add(site)
    assert sites["DSReLU"] == {"all 2 sites"}
    assert sites["AReLU"] == {"act1", "act2"}


def test_coefficients_per_channel_are_summed_up_and_the_caption_says_so(tmp_path: Path) -> None:
    names = {"relu": "ReLU", "prelu": "PReLU"}
    rows = study_rows(names, 1, 3, np.random.default_rng(2))
    values = [float(v) for v in range(11)]
    epoch = {"train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5, "seconds": 1.0}
    epochs = [{"epoch": i, **epoch, "coefficients": {"act": {"weight": values}}} for i in (1, 2)]
    histories = {r["key"]: epochs for r in rows if r["activation"] == "prelu"}
    text = text_of(ReportData("t", "q", rows=rows, verdict=verdict_of(rows, names), histories=histories), tmp_path)
    table = packed(payload(text), "coefficients")
    assert (table["mean"], table["low"], table["high"]) == ([5, 5], [1, 1], [9, 9])
    assert "up to 11" in text


def test_how_the_weights_moved(tmp_path: Path) -> None:
    names = {"relu": "ReLU", "arelu": "AReLU"}
    rows = study_rows(names, 1, 3, np.random.default_rng(2))
    epoch = {"train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5, "seconds": 1.0}

    def history_of(row: dict[str, Any]) -> list[dict[str, Any]]:
        size = (row["fold"] + 1) * (2.0 if row["activation"] == "arelu" else 1.0)
        # The last of the third fold's weights has diverged.
        moved = [size, size / 10, None if row["fold"] == 2 else size / 100]
        increments = dict(zip(("a.weight", "b.weight", "c.weight"), moved, strict=True))
        return [
            {
                "epoch": i,
                **epoch,
                "coefficients": {},
                "increments": increments,
                "single_weights": {"a.weight": [0.1 * i, -size]},
            }
            for i in (1, 2)
        ]

    histories = {r["key"]: history_of(r) for r in rows}
    text = text_of(ReportData("t", "q", rows=rows, verdict=verdict_of(rows, names), histories=histories), tmp_path)
    table = packed(payload(text), "increments")
    series = list(zip(*(table[name] for name in ("label", "site", "epoch", "n", "mean")), strict=True))
    assert ("ReLU", "a.weight", 1, 3, 2) in series
    assert ("AReLU", "b.weight", 2, 3, 0.4) in series
    assert ("ReLU", "c.weight", 2, 2, 0.015) in series
    assert len(series) == 2 * 3 * 2
    single = packed(payload(text), "single_weights")
    first = {(r["activation"]): r for r in reversed(rows)}
    assert set(zip(*(single[name] for name in ("label", "site", "which", "epoch", "change")), strict=True)) == {
        (names[a], "a.weight", f"weight {k}", i, (0.1 * i, -1.0 if a == "relu" else -2.0)[k - 1])
        for a in first for k in (1, 2) for i in (1, 2)
    }  # fmt: skip
    assert "left out" not in text[text.index('id="weights"') : text.index('id="confusion"')]


def test_many_classes_keep_the_most_confused_ones(tmp_path: Path) -> None:
    matrix = np.diag(np.full(200, 50))
    matrix[7, 9] = 40
    names = {"relu": "ReLU"}
    data = ReportData("t", "q", confusions={"relu": matrix.tolist()}, labels=names)
    text = text_of(data, tmp_path)
    table = packed(payload(text), "confusions")
    assert len(table["label"]) <= 16_000
    cells = {(t, p): n for t, p, n in zip(table["true"], table["predicted"], table["count"], strict=True)}
    assert cells["7", "9"] == 40
    assert "of 200 classes" in text
    assert "confusions" in checked_figures(text)


def test_long_runs_and_deep_models_are_thinned_and_the_page_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    names = {"relu": "ReLU", "prelu": "PReLU"}
    rows = study_rows(names, 1, 2, rng)
    histories = {r["key"]: history(r["activation"], 3_000, rng) for r in rows}
    for row in rows:
        if row["activation"] == "prelu":
            for epoch in histories[row["key"]]:
                epoch["coefficients"] = {f"layer{i}": {"weight": 0.25 + 0.001 * i * epoch["epoch"]} for i in range(60)}
    text = text_of(ReportData("t", "q", rows=rows, verdict=verdict_of(rows, names), histories=histories), tmp_path)
    data = payload(text)
    assert data["tables"]["curves"]["length"] <= 3_000
    assert data["tables"]["coefficients"]["length"] <= 10_000
    epochs = packed(data, "curves")["epoch"]
    assert (min(epochs), max(epochs)) == (1, 3_000)
    assert "of 3000 epochs are drawn" in text
    assert len(set(packed(data, "increments")["site"])) == 12
    assert "2 tensors in between are left out" in text
    assert {"coefficients", "layers", "increments", "single_weights", "shape"} & checked_figures(text)
    assert len(text) < 3 * MEGABYTE


# Tables for other programs


def test_rows_come_back_from_csv_and_parquet(tmp_path: Path) -> None:
    data = sample()
    written = write_tables(data, tmp_path)
    assert [p.name for p in written] == ["rows.csv", "rows.parquet", "table.csv", "table.tex", "paper.tex"]
    frame = polars.read_parquet(tmp_path / "rows.parquet")
    assert frame.columns == list(data.rows[0])
    assert frame.rows(named=True) == [dict(row) for row in data.rows]
    assert frame["fold"].dtype == polars.Int64
    assert frame["error"].dtype == polars.String
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(data.rows)
    assert float(lines[0]["test_accuracy"]) == data.rows[0]["test_accuracy"]
    failed = next(line for line in lines if line["outcome"] == "failed")
    assert failed["test_accuracy"] == ""


def test_rows_without_a_number_keep_their_types(tmp_path: Path) -> None:
    rows = [unscored(row, "missing") for row in study_rows({"relu": "ReLU"}, 1, 2, np.random.default_rng(0))]
    rows[0] |= {"test_loss": float("nan")}
    write_tables(ReportData("t", "q", rows=rows), tmp_path)
    frame = polars.read_parquet(tmp_path / "rows.parquet")
    assert frame["test_accuracy"].dtype == polars.Float64
    assert frame["epochs"].dtype == polars.Int64
    assert frame["test_loss"].null_count() == 2


def test_no_rows_still_give_tables_with_heads(tmp_path: Path) -> None:
    write_tables(ReportData("t", "q"), tmp_path)
    assert "activation" in polars.read_parquet(tmp_path / "rows.parquet").columns
    assert r"\bottomrule" in (tmp_path / "table.tex").read_text()


def test_latex_prints_names_as_they_are(tmp_path: Path) -> None:
    label = r"50%_of $x$ & {y} #1 ~ ^2 \input{z} [w]"
    names = {"relu": "ReLU", "srelu": label}
    rows = study_rows(names, 2, 5, np.random.default_rng(6))
    write_tables(ReportData("a\n\\end{tabular}", "q", rows=rows, verdict=verdict_of(rows, names), labels=names), tmp_path)
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert r"50\%\_of \$x\$ \& \{y\} \#1 \textasciitilde{} \textasciicircum{}2 \textbackslash{}input\{z\} {[}w{]} &" in text
    body = [line for line in text.splitlines() if line and not line.startswith("%")]
    assert body[0].startswith(r"\begin{tabular}{l")
    assert [line for line in body if "end{tabular}" in line] == [r"\end{tabular}"]
    assert [line for line in body if line.startswith("\\") and line.endswith("rule")] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    columns = body[0].count("l") + body[0].count("r") - len("tabular".replace("tabula", "")) - 1
    heads = next(line for line in body if line.startswith("Activation"))
    assert heads.count("&") == 10 == columns - 1
