"""The charts of what was observed, from a real run and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pliant
from pliant.lab import observed


@pytest.fixture(scope="module")
def run() -> pliant.Observer:
    torch.manual_seed(0)
    layers = [m for _ in range(11) for m in (nn.Linear(4, 4), pliant.AReLU.prelu())]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grid = [i / 20 for i in range(-60, 61)]
    with pliant.observe(model, every=1, weights=True, grid=grid) as observer:
        for _ in range(9):
            (model(torch.randn(8, 4)) - 1).square().mean().backward()
            optimizer.step()
            observer.step()
            optimizer.zero_grad()
    return observer


def values(chart: Any) -> list[dict[str, Any]]:
    spec = chart.to_dict()
    rows: list[dict[str, Any]] = spec["datasets"][spec["data"]["name"]]
    return rows


def test_shapes_show_first_and_last_reading_of_every_layer_in_order(run: pliant.Observer, tmp_path: Path) -> None:
    assert len(run.curves) > 5000
    chart = observed.shapes(run.curves, steps=4)
    assert {r["step"] for r in values(chart)} == {0, 3, 6, 9}
    assert chart.to_dict()["facet"]["sort"] == [str(i) for i in range(1, 22, 2)]
    for name in ("shapes.svg", "shapes.png", "shapes.html"):
        chart.save(str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1000


def test_increments_of_one_run_and_of_several(run: pliant.Observer, tmp_path: Path) -> None:
    rows = values(observed.increments(run.rows))
    assert {r["step"] for r in rows} == set(range(1, 10))
    assert len({r["site"] for r in rows}) == 11
    chart = observed.increments({"AReLU": run.rows, "ReLU": run.rows}, sites=["10.weight", "2.weight"])
    assert {(r["run"], r["site"]) for r in values(chart)} == {
        (run_, site) for run_ in ("AReLU", "ReLU") for site in ("10.weight", "2.weight")
    }
    chart.save(str(tmp_path / "increments.svg"))
    assert "10.weight" in (tmp_path / "increments.svg").read_text()


def test_nothing_to_draw_says_what_to_ask_for() -> None:
    with pytest.raises(pliant.DomainError, match="grid="):
        observed.shapes([])
    with pytest.raises(pliant.DomainError, match="weights=True"):
        observed.increments([])
    with pytest.raises(pliant.DomainError, match="steps=1"):
        observed.shapes([{"step": 0, "site": "a", "x": 0.0, "y": 0.0}], steps=1)
