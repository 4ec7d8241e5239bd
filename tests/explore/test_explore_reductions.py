"""Every statement of the table is evaluated on both sides, and seen to keep silent where it is not true."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pliant import activations, catalog
from pliant.errors import PliantError
from pliant.explore import reductions
from pliant.explore.reductions import ALL, REACH, Reduction
from pliant.explore.state import coefficients, evaluate

X = torch.linspace(-REACH, REACH, 3201, dtype=torch.float64)
IDS = [f"{r.name}: {r.words}" for r in ALL]


def difference(r: Reduction, values: dict[str, float]) -> float:
    return float((evaluate(r.name, values, X) - r.other(X, SimpleNamespace(**values))).abs().max())


@pytest.mark.parametrize("r", ALL, ids=IDS)
def test_the_statement_is_true(r: Reduction) -> None:
    assert set(r.example) == set(coefficients(r.name)), "an example gives all coefficients"
    assert r.holds(r.example)
    assert difference(r, dict(r.example)) <= max(r.tolerance, 1e-12)


@pytest.mark.parametrize("r", ALL, ids=IDS)
def test_it_is_said_where_it_holds(r: Reduction) -> None:
    sentences = reductions.of(r.name, r.example)
    assert sentences
    assert r.general or r.sentence(r.example) in sentences
    assert all("{" not in s for s in sentences)


# True elsewhere as well, where something simpler is said, or where the other side would be outside its own domain.
WIDER = {
    "dsrelu: {slope} · LeakyReLU(1/{slope})",
    "prelu: LeakyReLU({weight})",
    "elu: SReLU(1, {alpha})",
    "celu: PELU({alpha}, {alpha})",
}
CONDITIONAL = [r for r in ALL if r.when and not r.words.startswith("two lines")]
MOVES = (-0.7, -0.31, 0.13, 0.57)


@pytest.mark.parametrize("r", ALL, ids=IDS)
def test_wherever_it_is_said_it_is_true(r: Reduction) -> None:
    """Over a grid of coefficients, special ones among them: a condition that is too wide is found here."""
    grid = {n: sorted({-1.0, 0.0, 0.5, 1.0, 2.0, v, *(v + m for m in MOVES)}) for n, v in r.example.items()}
    names = list(grid)
    tried = 0
    for point in torch.cartesian_prod(*(torch.tensor(grid[n], dtype=torch.float64) for n in names)) if names else []:
        values = dict(zip(names, point.reshape(-1).tolist(), strict=True))
        if not _legal(r.name, values) or not r.holds(values):
            continue
        tried += 1
        if tried > 300:
            break
        assert difference(r, values) <= max(r.tolerance, 1e-11), values
    assert tried > 0 or not names


def test_two_lines_are_said_of_lines_that_meet() -> None:
    (meeting,) = (r for r in ALL if r.words.startswith("two lines"))
    assert meeting.holds({**meeting.example, "b": 1.2})
    assert not meeting.holds({**meeting.example, "b": meeting.example["a"]})


@pytest.mark.parametrize("r", CONDITIONAL, ids=[f"{r.name}: {r.words}" for r in CONDITIONAL])
def test_off_its_condition_it_is_silent(r: Reduction) -> None:
    silent = [
        v
        for n in r.example
        for m in (-3.0, -1.5, -0.5, -0.25, 0.11, 3.0)
        if _legal(r.name, v := {**r.example, n: r.example[n] + m}) and not r.holds(v)
    ]
    assert silent, "no move of one coefficient makes the statement untrue"
    if f"{r.name}: {r.words}" not in WIDER:
        assert any(difference(r, v) > max(r.tolerance, 1e-6) for v in silent), "the condition is narrower than need be"
    assert all(r.sentence(v) not in reductions.of(r.name, v) or r.words in _twice(r) for v in silent)


def _twice(r: Reduction) -> set[str]:
    return {o.words for o in ALL if o.name == r.name and o is not r}


def _legal(name: str, values: dict[str, float]) -> bool:
    try:
        evaluate(name, values, X[:1])
    except PliantError:
        return False
    return True


def test_the_statements_are_about_activations_of_the_catalogue() -> None:
    assert {r.name for r in ALL} <= set(catalog.ALL)
    ours = {cls.__name__.lower() for cls in activations.ALL}
    assert ours <= {r.name for r in ALL}, "each of our own has something to say"


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("dsrelu", {"slope": 1.0}, "the identity: a network of these is linear"),
        ("srelu", {"alpha": 1.0, "beta": 0.25}, "ELU(0.25)"),
        ("arelu", {"a": 1.0, "b": 0.2, "c": 0.0, "d": 0.0}, "LeakyReLU(0.2)"),
        ("swish", {"beta": 1.0}, "SiLU"),
    ],
)
def test_the_special_comes_first(name: str, values: dict[str, float], said: str) -> None:
    assert reductions.of(name, values)[0] == said
