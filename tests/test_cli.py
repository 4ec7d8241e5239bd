from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pliant import cli

SMALL = [
    "srelu-wdbc",
    "--folds",
    "2",
    "--repeats",
    "1",
    "--set",
    "train.epochs=2",
    "--set",
    "model.options.width=8",
    "-a",
    "srelu",
]


@pytest.fixture
def pliant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run the command line in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pliant", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), " ".join(err.split())

    return call


def test_run_then_run_again_then_report(pliant, tmp_path: Path) -> None:
    code, out, _ = pliant("run", *SMALL, "--on", "serial")
    assert code == 0, out
    assert "4 of 4 trials to train" in out
    assert "SReLU(1, 0.25)" in out
    assert "baseline" in out
    assert any(word in out for word in ("BETTER", "WORSE", "EQUIVALENT", "CANNOT TELL"))
    (page,) = tmp_path.glob("pliant-store/studies/*/report.html")
    assert page.stat().st_size > 10_000
    assert (page.parent / "rows.csv").exists()
    assert (page.parent / "rows.parquet").exists()
    code, out, _ = pliant("run", *SMALL, "--on", "serial")
    assert code == 0
    assert "All 4 trials were done already; nothing was trained." in out
    page.unlink()
    code, out, _ = pliant("report", *SMALL)
    assert code == 0
    assert page.exists()
    assert "pliant run srelu-wdbc --set protocol.folds=2" in page.read_text()
    assert str(tmp_path) not in page.read_text()


def test_plan_before_and_after(pliant) -> None:
    code, out, _ = pliant("plan", *SMALL)
    assert code == 0
    assert "= 4 trials" in out
    assert "Expected precision" in out
    assert not Path("pliant-store").exists(), "planning leaves nothing behind"
    code, out, _ = pliant("plan", *SMALL, "--json")
    planned = json.loads(out)
    assert planned["outcomes"] == {"done": 0, "diverged": 0, "failed": 0, "missing": 4}
    assert planned["n_train"] + planned["n_validation"] + planned["n_test"] == 569
    pliant("run", *SMALL, "--on", "serial", "-q")
    code, out, _ = pliant("plan", *SMALL)
    assert "Nothing is left to train." in out
    assert json.loads(pliant("plan", *SMALL, "--json")[1])["expected_half_width"] is not None


def test_an_unfinished_study_says_so_with_exit_code_one(pliant) -> None:
    pliant("run", *SMALL, "--on", "serial", "-q")
    code, out, _ = pliant("report", *SMALL[:4], "2", *SMALL[5:])
    assert code == 1
    assert "4 are missing" in out


@pytest.mark.parametrize("what", ["activations", "models", "datasets", "studies", "executors"])
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


def test_the_whole_catalogue_is_listed(pliant) -> None:
    names = {row["name"] for row in json.loads(pliant("list", "activations", "--json")[1])}
    assert {"dsrelu", "srelu", "arelu", "asigmoid", "atanh", "prelu", "swish", "pelu", "frelu", "relu", "gelu", "mish"} <= names


def test_help_and_version(pliant) -> None:
    code, out, _ = pliant("--help")
    assert code == 0
    for command in ("run", "plan", "list", "report"):
        assert command in out
        assert pliant(command, "--help")[0] == 0
    assert pliant("--version")[1].startswith("pliant ")


def study_file(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


GOOD = 'activations = ["relu"]\ndataset = { name = "wdbc" }\nmodel = { name = "ffnn" }\n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "srelu-wbdc"], "Did you mean 'srelu-wdbc'"),
        (["run", "srelu-wdbc", "-a", "rleu"], "Did you mean 'relu'"),
        (["run", "srelu-wdbc", "-a", "dsrelu[relesed]"], "Did you mean 'released'"),
        (["run", "srelu-wdbc", "-a", "srelu[beta=-1]"], "beta must be a number >= 0"),
        (["run", "srelu-wdbc", "-a", "srelu[gamma=1]"], "no option of SReLU named 'gamma'"),
        (["run", "srelu-wdbc", "--set", "train.epoch=3"], "Did you mean epochs"),
        (["run", "srelu-wdbc", "--set", "train.epochs=-3"], "train.epochs = -3"),
        (["run", "srelu-wdbc", "--folds", "500"], "too few for 500"),
        (["run", "srelu-wdbc", "--on", "locl"], "Did you mean 'local'"),
        (["run", "srelu-wdbc", "--baseline", "tanh"], "tanh"),
        (["report", "srelu-wdbc"], "There is no store"),
        (["list", "activation"], "Did you mean 'activations'"),
        (["run", "nowhere.toml"], "cannot be read"),
    ],
)
def test_mistakes_are_one_paragraph_and_exit_code_two(pliant, arguments: list[str], expected: str) -> None:
    code, out, err = pliant(*arguments)
    assert code == 2, out + err
    assert err.startswith("pliant: ")
    assert expected in err
    assert "Traceback" not in out + err
    assert not Path("pliant-store").exists(), "a mistake leaves nothing behind"


def test_wrong_key_in_a_study_file(pliant, tmp_path: Path) -> None:
    code, _, err = pliant("run", study_file(tmp_path, GOOD + "[train]\nepoch = 3\n"))
    assert code == 2
    assert "no key 'train.epoch'. Did you mean epochs?" in err


def test_a_study_file_runs(pliant, tmp_path: Path) -> None:
    text = GOOD.replace('name = "ffnn"', 'name = "ffnn", options = { width = 8 }')
    code, out, err = pliant(
        "run", study_file(tmp_path, text + "[train]\nepochs = 1\n"), "--folds", "2", "--repeats", "1", "--on", "serial"
    )
    assert code == 0, out + err


def test_another_version_of_the_store(pliant, tmp_path: Path) -> None:
    (tmp_path / "pliant-store").mkdir()
    (tmp_path / "pliant-store" / "store.json").write_text('{"format": "pliant-store", "version": 99}')
    code, _, err = pliant("run", *SMALL, "--on", "serial")
    assert code == 2
    assert "99" in err


def test_interrupt(pliant, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("pliant.lab.run"), "train", interrupted)
    code, _, err = pliant("run", *SMALL, "--on", "serial")
    assert code == 130
    assert "the same command goes on" in err


def test_without_the_extra_the_command_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    process = subprocess.run(
        [sys.executable, "-c", "from pliant.cli import main; main()"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode != 0
    assert "pip install 'pliant[lab]'" in process.stderr
    assert "Traceback" not in process.stderr


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), ("dsrelu", 8765, True)), (("srelu[beta=0.1]", "--port", "0", "--no-browser"), ("srelu[beta=0.1]", 0, False))],
)
def test_explore_serves_what_is_asked_for(pliant, monkeypatch: pytest.MonkeyPatch, arguments, expected) -> None:
    served = []
    monkeypatch.setattr("pliant.explore.serve", lambda a, *, port, browser: served.append((a, port, browser)))
    code, out, err = pliant("explore", *arguments)
    assert code == 0, out + err
    assert served == [expected]


def test_explore_without_its_extra_says_what_to_install(pliant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pliant.explore.page", raising=False)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    code, out, err = pliant("explore", "--no-browser")
    assert code == 2, out
    assert "pip install 'pliant[explore]'" in err
    assert "Traceback" not in err


def test_explore_has_no_option_for_another_interface(pliant) -> None:
    code, _, err = pliant("explore", "--host", "0.0.0.0")
    assert code == 2
    assert "No such option" in err


def test_check_of_nothing(pliant, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    assert pliant("check", str(tmp_path / "empty.py"))[0] == 2
    assert pliant("check", str(tmp_path / "missing.py"))[0] == 2
