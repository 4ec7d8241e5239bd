"""run, plan, report: what they show and their exit codes."""

from __future__ import annotations

import importlib
import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from pliant import lab
from pliant.cli import outcome, progress
from pliant.errors import DomainError
from pliant.lab import Study
from pliant.lab.executors import Event, LocalExecutor
from pliant.lab.study import plan
from pliant.lab.verdict import judge

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


def study_file(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


GOOD = 'activations = ["relu"]\ndataset = { name = "wdbc" }\nmodel = { name = "ffnn" }\n'


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

    monkeypatch.setattr(importlib.import_module("pliant.lab.run"), "train_stacked", interrupted)
    code, _, err = pliant("run", *SMALL, "--on", "serial")
    assert code == 130
    assert "the same command goes on" in err


def test_several_studies_run_one_after_the_other(pliant, tmp_path: Path) -> None:
    text = GOOD.replace('name = "ffnn"', 'name = "ffnn", options = { width = 8 }').replace('["relu"]', '["relu", "elu"]')
    (tmp_path / "one.toml").write_text(text + "[train]\nepochs = 1\n")
    (tmp_path / "two.toml").write_text(text.replace('"wdbc"', '"cifar10"') + "[train]\nepochs = 1\n")
    code, out, err = pliant("run", "one.toml", "two.toml", "--folds", "2", "--repeats", "1", "--on", "serial")
    assert code == 2, "the second has no data, and the first is finished all the same"
    assert "two could not run:" in out
    summary = out.partition("summary")[2]
    assert "one." in summary
    assert "4 of 4" in summary
    assert "could not run, see above" in summary
    code, _, err = pliant("run", "one.toml", "nowhere.toml", "--on", "serial")
    assert code == 2
    assert "nowhere.toml cannot be read" in err


def test_studies_of_one_command_share_an_executor(pliant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which keeps its workers warm from one to the next, and has none when the command ends."""
    (tmp_path / "one.toml").write_text(GOOD)
    (tmp_path / "two.toml").write_text(GOOD)
    used: list[tuple[LocalExecutor, bool]] = []

    def fake(study: Study, *, on: LocalExecutor, **_: object) -> None:
        used.append((on, on._open))
        raise DomainError("not today")

    monkeypatch.setattr(lab, "run", fake)
    for arguments in (
        ["run", "one.toml", "two.toml", "--on", "local:3"],
        ["reproduce", "srelu", "--tier", "smoke", "--only", "srelu-wdbc", "--only", "srelu-mnist", "--on", "local:3"],
    ):
        used.clear()
        pliant(*arguments)
        (first, open_then), (second, open_later) = used
        assert first is second
        assert open_then
        assert open_later
        assert not first._open
        assert first.workers == 3


@pytest.mark.parametrize("command", [["run", "srelu-wdbc"], ["reproduce", "srelu", "--tier", "smoke"]])
def test_a_mistake_in_where_is_told_before_anything_runs(pliant, command: list[str], tmp_path: Path) -> None:
    code, _, err = pliant(*command, "--on", "locale")
    assert code == 2
    assert "Did you mean 'local'" in err
    assert not (tmp_path / "pliant-store").exists()


def rows(difference: float) -> list[dict[str, object]]:
    return [
        {
            "activation": name, "repeat": repeat, "fold": fold, "seed": 0, "n_train": 80, "n_test": 20,
            "outcome": "diverged" if (name, repeat, fold) == ("b", 0, 0) else "done",
            **{f"test_{m}": 0.9 + 0.001 * fold + (difference if name == "b" else 0.0) * (1 + 0.1 * fold)
               for m in ("accuracy", "precision", "recall", "f1")},
        }
        for repeat in range(2) for fold in range(5) for name in ("a", "b", "c")
    ]  # fmt: skip


@pytest.mark.parametrize("difference", [0.05, -0.05])
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_the_end_fits_and_says_the_word(width: int, difference: float) -> None:
    labels = {"a": "DSReLU[released](1.7, 0.1)", "b": "ASigmoid(1, 1, 0, 0)", "c": "PReLU[init=0.25]"}
    verdict = judge(rows(difference), activations=["a", "b", "c"], labels=labels, baseline="a", margin=0.01)
    text = io.StringIO()
    outcome._show(verdict, Console(file=text, width=width, highlight=False))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    line = next(x for x in lines if x.startswith("ASigmoid"))
    assert ("BETTER" if difference > 0 else "WORSE") in line
    assert f"{100 * difference * 1.2:+.2f} [" in line
    assert " 10 " in line, "n"
    assert any("div." in x for x in lines)
    assert ("recall" in text.getvalue()) == (width == 120)


def terminal(study: Study, monkeypatch: pytest.MonkeyPatch) -> tuple[progress.Display, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, highlight=False)
    display = progress.Display(console)
    display.planned(study, plan(study), plan(study))
    return display, text


@pytest.fixture
def small() -> Study:
    return Study(name="small", dataset="wdbc", model="ffnn", activations=["relu", "elu"], folds=2, repeats=1, epochs=10)


@pytest.mark.parametrize("plain", [True, False])
def test_progress_on_a_terminal(small: Study, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display, text = terminal(small, monkeypatch)
    trials = plan(small)

    def shown() -> str:
        # Not the display's own console, which repaints what it showed before.
        frame = io.StringIO()
        Console(file=frame, width=80, force_terminal=True, no_color=True).print(display._render())
        lines = frame.getvalue().splitlines()
        assert len(lines) == 2 + len(display._courses), "nothing is folded"
        return frame.getvalue()

    first, second, *_ = trials
    display.event(Event("started", first.key), first)
    assert "time left not known yet" in shown()
    now[0] += 60
    display.event(Event("progress", first.key, data={"epoch": 1, "epochs": 10, "validation_accuracy": 0.5}), first)
    assert "time left not known yet" in shown(), "the first epoch reads the data and promises nothing"
    now[0] += 10
    display.event(Event("progress", first.key, data={"epoch": 2, "epochs": 10, "validation_accuracy": 0.75}), first)
    # 8 epochs of 10 s, then three trials of 100 s.
    assert "at most about 6 min 20 s left" in shown()
    assert "epoch 2 of 10" in shown()
    assert "validation 75.00" in shown()
    now[0] += 10
    display.event(Event("finished", first.key, data={"diverged": 1.0}), first)
    display.event(Event("started", second.key), second)
    # Three trials as long as the first one was: 80 s.
    assert "1 of 4 trials, 1 diverged" in shown()
    assert "1 min 20 s so far, about 4 min 00 s left" in shown()
    display.event(Event("failed", second.key, message="worker died"), second)
    assert "2 of 4 trials, 1 diverged, 1 failed" in shown()
    display.finished()
    whole = text.getvalue()
    assert "diverged:" in whole
    assert "worker died" in whole
    assert ("\x1b[31m" in whole) != plain, "red, unless NO_COLOR is set"


def test_progress_in_a_log_is_lines(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    text = io.StringIO()
    display = progress.Display(Console(file=text, width=80, highlight=False))
    trials = plan(small)
    display.planned(small, trials, trials)
    display.event(Event("started", trials[0].key), trials[0])
    for epoch in range(1, 10):
        now[0] += 4
        display.event(Event("progress", trials[0].key, data={"epoch": epoch, "epochs": 10}), trials[0])
    display.finished()
    assert "\x1b" not in text.getvalue()
    told = [line for line in text.getvalue().splitlines() if "left" in line]
    assert told == [
        "0 of 4 trials; 16 s so far, at most about 2 min 24 s left",
        "0 of 4 trials; 32 s so far, at most about 2 min 08 s left",
    ]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_long_reading_is_shown_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(outcome.time, "monotonic", clock)
    for terminal in (True, False):
        text = io.StringIO()
        tell = outcome.Reading(Console(file=text, force_terminal=terminal, width=90))
        tell("results", 10, 1000)
        clock.now += 0.9
        tell("results", 20, 1000)
        # Who waits for less than a second is told nothing.
        assert text.getvalue() == ""
        clock.now += 0.2
        tell("results", 30, 1000)
        tell("results", 1000, 1000)
        shown = text.getvalue()
        assert ("Reading results" in shown) is terminal
        assert "30/1000" in shown or not terminal
        # What comes next has a second of its own.
        tell("histories", 1, 50)
        tell("histories", 50, 50)
        assert "histories" not in text.getvalue()
