"""The pages about the papers: they say what the records and the arithmetic say, computed here a second time."""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

import pliant
from pliant.lab import papers, records
from pliant.lab.papers import FILES

ROOT = Path(__file__).parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("papers_tables", ROOT / "scripts" / "papers_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script()


@pytest.mark.parametrize("paper", FILES)
def test_every_table_is_what_the_records_and_the_formulas_give(paper: str) -> None:
    written = (ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8")
    assert written == tables.page(paper), "run python scripts/papers_tables.py --write"
    # And a page whose table was edited by hand would not pass.
    assert written.count("<!-- end -->") >= (1 if paper == "all" else 3)


def test_the_index_of_the_records_is_what_they_are() -> None:
    assert (ROOT / "records" / "README.md").read_text(encoding="utf-8") == records.index(ROOT / "records")


def test_an_edited_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGES", tmp_path)
    page = tmp_path / "srelu.md"
    page.write_text("before\n<!-- resolution -->\n| WDBC | 114 | 0.5 |\n<!-- end -->\nafter\n")
    assert "| 0.877 |" in tables.page("srelu")
    assert tables.page("srelu") != page.read_text()


def test_links_lead_somewhere() -> None:
    for paper in FILES:
        page = ROOT / "docs" / "papers" / f"{paper}.md"
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


# --- DSReLU -----------------------------------------------------------------------------------------------------------


def test_the_slope_of_the_text_ends_at_1_03() -> None:
    def slope(a: float, b: float, k: float, t: float) -> float:
        a, b = math.tan(math.radians(a)), math.tan(math.radians(b))
        return a + (b - a) / (1 + math.exp(-k * (t - 0.5)))

    for name, (a, b, k) in tables.CONSTANTS.items():
        ours = tables.schedule(name)
        for t in (0.0, 0.25, 0.5, 1.0):
            assert ours(t) == pytest.approx(slope(a, b, k, t), rel=1e-12), name
    assert slope(85, 10, 5, 1.0) == pytest.approx(1.03001, abs=1e-5)
    assert tables.schedule("the paper's text").crossing(1.0) == pytest.approx(1.00773, abs=1e-5)
    # What the text of the page says about the middle of the logistic function.
    assert 1 / (1 + math.exp(-2.5)) - 1 / (1 + math.exp(2.5)) == pytest.approx(0.848, abs=5e-4)


def test_the_released_slope_moved_by_a_few_per_cent_and_at_the_stem_only() -> None:
    expected = {
        ("mini-ImageNet", "the notebooks, latest"): 3.40089,
        ("mini-ImageNet", "the notebooks, when the logs were added"): 5.59796,
        ("CIFAR-100", "the notebooks, latest"): 3.40233,
        ("CIFAR-100", "the notebooks, when the logs were added"): 5.59866,
        ("MIT-BIH", "the notebooks, latest"): 3.42970,
    }
    moved = []
    for (dataset, constants), last in expected.items():
        start, end, share = tables.stem_path(dataset, constants)
        assert end == pytest.approx(last, abs=2e-5)
        assert start == pytest.approx({"the notebooks, latest": 3.49274}.get(constants, 5.63512), abs=1e-5)
        moved.append(share)
    assert 0.006 < min(moved) < max(moved) < 0.0265


def test_at_rest_dsrelu_is_a_scaled_leaky_relu() -> None:
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    for s in (3.4927409662153903, 5.635118119849622):
        assert torch.equal(pliant.functional.dsrelu(x, s) > 0, x > 0)
        torch.testing.assert_close(pliant.functional.dsrelu(x, s), s * F.leaky_relu(x, 1 / s), rtol=1e-14, atol=1e-14)


def test_the_rows_of_tables_1_to_3_are_epochs_of_the_logs() -> None:
    rows = tables.rows_that_are_epochs()
    assert len(rows) == 18
    assert {row[4] for row in rows} == {"yes"}
    compared = 0
    columns = {
        ("train", "accuracy"): "train_acc",
        ("val", "accuracy"): "val_acc",
        ("train", "f1_weighted"): "train_f1_weighted",
        ("val", "f1_weighted"): "val_f1_weighted",
        ("train", "auc_ovr_macro"): "train_auc_ovr_macro",
        ("val", "auc_ovr_macro"): "val_auc_ovr_macro",
    }
    for dataset, table in tables.TABLES.items():
        for value in papers.printed(table):
            log = {e.epoch: e for e in tables.logged(dataset, value.activation)}
            assert value.value == pytest.approx(
                getattr(log[value.epoch_in_log], columns[value.split, value.metric]), abs=1.1e-6
            )
            compared += 1
    assert compared == 540
    # The highest score of any kind is the train AUC, in every row.
    for dataset in tables.TABLES:
        for name in ("DSReLU", "Mish", "ReLU", "Sigmoid", "Tanh", "LeakyReLU"):
            top = sorted(tables.logged(dataset, name), key=lambda e: max(tables.scores(e)), reverse=True)[:5]
            assert all(e.train_auc_ovr_macro == max(tables.scores(e)) for e in top)


def test_the_validation_part_on_mini_imagenet_has_the_size_of_the_test_part() -> None:
    accuracies = [e.val_acc for e in papers.released_epochs() if e.dataset == "mini-ImageNet"]
    assert len(accuracies) == 232
    # Logged with six decimals: 1/9000 is 111 millionths, 1/10200 is 98.
    assert all(abs(a * 9000 - round(a * 9000)) < 0.006 for a in accuracies)
    assert sum(abs(a * 10200 - round(a * 10200)) < 0.006 for a in accuracies) < 20


def test_table_4_differs_from_the_logs_for_dsrelu_alone_and_by_round_numbers() -> None:
    differences = {}
    for value in papers.printed("dsrelu_T4"):
        dataset = value.dataset.partition(" (")[0]
        mean = statistics.fmean(e.epoch_seconds for e in tables.logged(dataset, value.activation))
        differences[dataset, value.activation] = mean - value.value
    assert len(differences) == 18
    ours = {key: d for key, d in differences.items() if abs(d) > 1e-5}
    assert {key: round(d, 5) for key, d in ours.items()} == {
        ("mini-ImageNet", "DSReLU"): 21.8,
        ("CIFAR-100", "DSReLU"): 8.0,
        ("MIT-BIH", "DSReLU"): 10.2,
    }
    # No epoch was as short as the printed mean.
    shortest = {d: min(e.epoch_seconds for e in tables.logged(d, "DSReLU")) for d in tables.TABLES}
    printed = {v.dataset.partition(" (")[0]: v.value for v in papers.printed("dsrelu_T4") if v.activation == "DSReLU"}
    assert all(shortest[d] > printed[d] for d in shortest)


def test_the_lead_depends_on_the_rule() -> None:
    (mini, cifar, mitbih) = tables.leads()
    assert [cell.split(" %")[0] for cell in mini[1:]] == ["+22.29", "+15.17", "+13.36"]
    assert [cell.split(" %")[0] for cell in cifar[1:]] == ["+11.05", "+10.23", "+5.62"]
    assert [cell.split(" %")[0] for cell in mitbih[1:]] == ["-0.03", "-0.02", "-0.03"]


# --- SReLU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.25, 0.5, 1.0, 2.0])
def test_srelu_with_alpha_1_is_elu(beta: float) -> None:
    x = torch.linspace(-6, 6, 601, dtype=torch.float64, requires_grad=True)
    ours, theirs = pliant.functional.srelu(x, 1.0, beta), F.elu(x, alpha=beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)
    (slope,) = torch.autograd.grad(ours.sum(), x)
    (expected,) = torch.autograd.grad(theirs.sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-14, atol=1e-15)


def test_srelu_in_general_is_a_scaled_elu_with_a_kink_of_alpha_minus_beta() -> None:
    x = torch.linspace(-6, 6, 600, dtype=torch.float64)
    torch.testing.assert_close(pliant.functional.srelu(x, 1.7, 0.4), 1.7 * F.elu(x, alpha=0.4 / 1.7), rtol=1e-14, atol=1e-15)
    near = torch.tensor([-1e-9, 1e-9], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(pliant.functional.srelu(near, 1.0, 0.01).sum(), near)
    assert (slopes[1] - slopes[0]).item() == pytest.approx(0.99, abs=1e-8)


def test_what_one_example_is_worth() -> None:
    (wdbc, mnist) = tables.resolution()
    assert wdbc[2] == "0.877"
    assert float(mnist[3]) == pytest.approx(0.13)


# --- AAF --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_softmax_of_a_softmax_bounds_the_loss(classes: int) -> None:
    least, uniform, most = tables.loss_bounds(classes)
    target = torch.tensor([0])

    def loss(logits: torch.Tensor) -> float:
        return F.cross_entropy(torch.softmax(logits, dim=1), target).item()

    sure = torch.zeros(1, classes, dtype=torch.float64)
    assert loss(sure) == pytest.approx(uniform)
    right, wrong = sure.clone(), sure.clone()
    right[0, 0] = wrong[0, 1] = 1e4
    assert loss(right) == pytest.approx(least)
    assert loss(wrong) == pytest.approx(most)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0, 100.0):
        for _ in range(50):
            drawn = scale * torch.randn(1, classes, generator=generator, dtype=torch.float64)
            assert least - 1e-12 <= loss(drawn) <= most + 1e-12


def test_the_bounds_that_the_page_names() -> None:
    assert tables.bounds()[0][1:4] == ["1.461", "2.303", "2.461"]


def test_the_loss_of_the_lab_with_the_quirk_is_the_same() -> None:
    from pliant.lab.study import plan
    from pliant.lab.train import loss_of

    spec = plan(papers.study("srelu-wdbc"))[0].model_copy(update={"quirks": ("double_softmax",)})
    logits = torch.zeros(1, 10, dtype=torch.float64)
    logits[0, 3] = 1e3
    assert loss_of(logits, torch.tensor([3]), spec).item() == pytest.approx(tables.loss_bounds(10)[0])
    assert loss_of(logits, torch.tensor([4]), spec).item() == pytest.approx(tables.loss_bounds(10)[2])


def test_how_often_the_adaptive_version_is_ahead() -> None:
    assert [row[1] for row in tables.adaptive_cells()] == ["8 of 8", "6 of 8", "23 of 27"]


def test_torch_maximum_would_keep_a_tied_arelu_linear_for_ever() -> None:
    def slopes(rule) -> tuple[float, float]:
        x = torch.linspace(-2, 2, 41, dtype=torch.float64)
        a, b = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
        for _ in range(20):
            loss = ((rule(a * x, b * x) - x.clamp(min=0)) ** 2).mean()
            da, db = torch.autograd.grad(loss, (a, b), allow_unused=True)
            with torch.no_grad():
                a -= 0.1 * da
                b -= 0.1 * (db if db is not None else 0.0)
        return a.item(), b.item()

    tied = slopes(torch.maximum)
    assert tied[0] == tied[1]
    first = slopes(lambda u, v: torch.where(u >= v, u, v))
    assert first[0] != first[1]


@pytest.mark.parametrize(("study", "data"), [("srelu-mnist", "MNIST"), ("srelu-fashion", "Fashion-MNIST")])
def test_how_far_one_function_ends_from_itself(study: str, data: str) -> None:
    with (ROOT / "records" / study / "rows.csv").open(encoding="utf-8") as file:
        rows = {(row["activation"], row["repeat"]): float(row["test_accuracy"]) for row in csv.DictReader(file)}
    seeds = {repeat for _, repeat in rows}
    apart = [100 * (rows["srelu", seed] - rows["elu[alpha=0.25]", seed]) for seed in seeds]
    said = " ".join((ROOT / "docs" / "papers" / "srelu.md").read_text(encoding="utf-8").split())
    assert len(seeds) == 10
    assert re.search(rf"{min(apart):.2f} to \+{max(apart):.2f}( points from ELU\(0\.25\))? on {data}", said)
