"""list and check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pliant.lab import Study
from pliant.lab.study import StudyError, plan


@pytest.mark.parametrize("what", ["activations", "models", "datasets", "studies", "keys", "executors"])
def test_lists(pliant, what: str) -> None:
    code, out, _ = pliant("list", what, "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows
    assert all(row["name"] for row in rows)
    code, text, _ = pliant("list", what)
    assert all(row["name"][:20] in text for row in rows)


def test_networks_are_listed_with_their_size_and_options(pliant) -> None:
    rows = {row["name"]: row for row in json.loads(pliant("list", "models", "--json")[1])}
    assert rows["alexnet"]["for"] == "3x32x32 to 10"
    assert (rows["alexnet"]["parameters"], rows["alexnet"]["activations"]) == (4_061_130, 6)
    assert "variant=code" in rows["alexnet"]["options"]
    assert rows["torchvision:NAME"]["options"] == ["replace=auto"]
    assert "4,061,130" in pliant("list", "models")[1]


def test_every_key_of_a_study_is_listed_and_can_be_set(pliant) -> None:
    rows = {row["name"]: row for row in json.loads(pliant("list", "keys", "--json")[1])}
    study = Study(name="s", dataset="wdbc", model="ffnn", activations=["relu"])

    def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]

    filled = {"dataset.options", "model.options", *leaves(study.model_dump(exclude={"overrides", "tier", "paper"}))}
    assert filled - {"protocol.normalise"} <= set(rows)
    for name, row in rows.items():
        assert row["what"], name
        if row["default"]:
            # A default that is written out is no other training.
            assert plan(study.override([f"{name}={row['default']}"]))[0].key == plan(study)[0].key
    assert rows["train.schedule.name"]["values"] == "constant, steps, cosine"
    assert rows["train.augment.scale"]["values"] == "[number, number]"
    assert rows["protocol.validation"]["values"] == "number or official"
    assert "double_softmax" in rows["quirks"]["values"]
    with pytest.raises(StudyError, match="pliant list keys"):
        study.override(["train.epoch=3"])


def test_the_whole_catalogue_is_listed(pliant) -> None:
    names = {row["name"] for row in json.loads(pliant("list", "activations", "--json")[1])}
    assert {"dsrelu", "srelu", "arelu", "asigmoid", "atanh", "prelu", "swish", "pelu", "frelu", "relu", "gelu", "mish"} <= names


ACTIVATIONS = """
import torch
from pliant import Activation, Coefficient, Learned, elementwise


@elementwise
def good(x, a=1.0):
    return torch.where(x > 0, x, a * torch.expm1(torch.where(x > 0, 0.0, x)))


@elementwise
def overflows(x, a=1.0):
    return torch.where(x > 0, x, a * (torch.exp(x) - 1))


class Good(Activation):
    function = staticmethod(good)
    a = Coefficient(Learned(1.0))
"""

BAD = """

class Overflows(Activation):
    function = staticmethod(overflows)
    a = Coefficient(Learned(1.0))
"""


def test_check_holds_a_file_to_the_contract(pliant, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ACTIVATIONS)
    code, out, err = pliant("check", str(file))
    assert code == 0, out + err
    assert "passed" in out
    file.write_text(ACTIVATIONS + BAD)
    code, out, _ = pliant("check", str(file), "--json")
    assert code == 1
    failed = [r for r in json.loads(out) if r["outcome"] == "failed"]
    assert {(r["activation"], r["check"]) for r in failed} == {("Overflows", "finite")}


def test_the_example_of_the_readme_keeps_the_contract(pliant, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = (b for b in text.split("```python") if "# my_activation.py" in b)
    (tmp_path / "mine.py").write_text(block.partition("```")[0])
    code, out, err = pliant("check", str(tmp_path / "mine.py"))
    assert code == 0, out + err


def test_check_of_nothing(pliant, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    assert pliant("check", str(tmp_path / "empty.py"))[0] == 2
    assert pliant("check", str(tmp_path / "missing.py"))[0] == 2
