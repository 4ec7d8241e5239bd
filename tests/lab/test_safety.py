"""What somebody else's file may do here: be read. See docs/safety.md."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import pliant as package
from pliant.lab import Study, run
from pliant.lab.datasets import Data
from pliant.lab.status import TRIALS
from pliant.lab.store import Store
from pliant.lab.study import plan

SOURCES = Path(package.__file__).parent
RUNS_CODE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "cloudpickle.load", "cloudpickle.loads"),
    *("torch.load", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load"),
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.run", "subprocess.Popen"),
    *("importlib.import_module", "runpy.run_path", "runpy.run_module", "np.load", "numpy.load", "pd.read_pickle"),
}
ALLOWED = {
    # Its find_class knows five names, of which none does anything; tests/lab/test_image_sets.py.
    ("lab/datasets/cifar.py", "pickle.Unpickler"),
    # With allow_pickle=False, which a test below holds it to.
    ("lab/datasets/images.py", "np.load"),
    # With allow_pickle=False too.
    ("lab/average_precision.py", "np.load"),
    ("lab/records.py", "np.load"),
    # The study's own code, which the driver wrote into the folder of its job; not a store and not data.
    ("lab/executors/slurm.py", "cloudpickle.loads"),
    # squeue, for the user who runs it: which of the driver's jobs are still there.
    ("lab/executors/slurm.py", "subprocess.run"),
    # With weights_only=True, which unpickles tensors and no names.
    ("lab/models/detection/weights.py", "torch.load"),
    # What the driver's own process sent down a pipe.
    ("lab/executors/local.py", "pickle.loads"),
    # "torchvision" or "timm" and nothing else.
    ("lab/models/external.py", "importlib.import_module"),
}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_that_reads_files_can_run_what_is_in_them() -> None:
    """Every place in the lab and the command line that could is known by name and has its reason."""
    found = set()
    for path in sorted(SOURCES.rglob("*.py")):
        room = path.relative_to(SOURCES).as_posix()
        if not room.startswith(("lab/", "cli/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.Name) and (name := name_of(node)) in RUNS_CODE:
                found.add((room, name))
            if isinstance(node, ast.Call) and name_of(node.func) == "np.load":
                kept = {k.arg: k.value for k in node.keywords}["allow_pickle"]
                assert isinstance(kept, ast.Constant)
                assert kept.value is False
    # The checks before anything is trained compile a network that the user brought as an object.
    assert found == ALLOWED


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_in_a_store_is_not_run(small: Study, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    content = pickle.dumps(Evil(evil))
    store = Store(tmp_path / "store")
    for spec in plan(small):
        trial = store.trial(spec.key)
        trial.begin(spec.model_dump(mode="json"))
        (trial.path / "checkpoint.safetensors").write_bytes(content)
        for name in ("checkpoint.pt", "checkpoint.pkl", "predictions.pt"):
            (trial.path / name).write_bytes(content)
    result = run(small, store=store.root)
    assert result.counts["done"] == 4
    assert all(store.trial(spec.key).result()["provenance"]["damaged_checkpoint"] for spec in plan(small))
    path = store.trial(plan(small)[0].key).path / "predictions.safetensors"
    path.write_bytes(content)
    with pytest.raises(package.errors.PliantError, match=r"predictions\.safetensors is damaged"):
        run(small, store=store.root).report(tmp_path / "out")
    assert not evil.exists()


NASTY = "<img src=x onerror=alert(1)></script><script>alert(2)</script>{{7*7}}'\"`"


class Tree(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))


def nasty_activation() -> nn.Module:
    return nn.ReLU()


def test_names_of_users_are_text_in_every_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a study to its page and its tables: title, question, activation and class names that are markup."""
    monkeypatch.setattr(nasty_activation, "__qualname__", NASTY)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    data = Data.of(x, (x[:, 0] > 0).astype(int), [NASTY, f"b{NASTY}"])
    values = {"model": {"name": "ffnn", "options": {"width": 4}}, "data": data, "folds": 2, "repeats": 1, "epochs": 1}
    study = Study(name="xss", title=NASTY, question=NASTY, activations=["relu", nasty_activation], **values)
    page = run(study, store=tmp_path / "store").report(tmp_path / "out", command=NASTY)
    text = page.read_text(encoding="utf-8")
    plain = run(
        Study(name="xss", title="A", question="B", activations=["relu", "elu"], **values), store=tmp_path / "plain"
    ).report(tmp_path / "without", command="c")
    tags, without = Tree(text).tags, Tree(plain.read_text(encoding="utf-8")).tags
    assert "{{7*7}}" in text
    # No tag, and no handler, that a page of harmless names has not.
    assert [t for t, _ in tags].count("script") == [t for t, _ in without].count("script")
    assert [t for t, _ in tags].count("img") == [t for t, _ in without].count("img")
    assert not any(name.startswith("on") for _, names in tags for name in names)
    for figure in (tmp_path / "out" / "figures").rglob("*.svg"):
        drawn = figure.read_text(encoding="utf-8")
        assert "<script" not in drawn
        assert "<img" not in drawn


def test_a_terminal_obeys_no_name(pliant, tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"
    store = Store(tmp_path / "store")
    folder = store.study("theirs")
    store.write_json(folder / "study.json", {})
    key = "a" * 64
    store.write_json(folder / TRIALS, [{"key": key, "label": hostile, "repeat": 0, "fold": 0, "epochs": 3}])
    store.trial(key).begin({})
    store.trial(key).fail(hostile, 3)
    code, out, err = pliant("status", "--store", str(store.root))
    assert "owned" in out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)
    (tmp_path / "study.toml").write_text(f"name = 'x'\ntitel = {json.dumps(hostile)}\n{json.dumps('k' + hostile)} = 1\n")
    code, out, err = pliant("plan", str(tmp_path / "study.toml"), "--store", str(store.root))
    assert code == 2
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)


def test_reading_a_store_starts_nothing(small: Study, tmp_path: Path) -> None:
    """In a fresh process: a status and a report open files, and neither a socket nor a process."""
    run(small, store=tmp_path / "store")
    program = """
import sys
from pliant.lab.status import Watch
from pliant.lab.store import Store
# Importing torch asks the system where its libraries are.
seen = []
watched = ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
sys.addaudithook(lambda event, args: seen.append((event, args)) if event in watched else None)
store = Store(sys.argv[1], create=False)
assert Watch(store, "small").look().counts["done"] == 4
for key in store.keys():
    trial = store.trial(key)
    trial.result(), trial.history(), trial.read("predictions.safetensors")
assert not seen, seen
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
