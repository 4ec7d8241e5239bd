"""The command line as a whole: help, mistakes, and what it says when it cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_help_and_version(pliant) -> None:
    code, out, _ = pliant("--help")
    assert code == 0
    for command in ("run", "plan", "status", "list", "report", "check", "bench", "data"):
        assert command in out
        assert pliant(command, "--help")[0] == 0
    assert pliant("--version")[1].startswith("pliant ")


def test_as_a_module_of_the_python_that_is_asked() -> None:
    run = subprocess.run([sys.executable, "-m", "pliant", "--version"], check=True, capture_output=True, text=True)
    assert run.stdout.startswith("pliant ")


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
    file = tmp_path / "mine.toml"
    file.write_text(GOOD + "[train]\nepoch = 3\n")
    code, _, err = pliant("run", str(file))
    assert code == 2
    assert "no key 'train.epoch'. Did you mean epochs?" in err


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
