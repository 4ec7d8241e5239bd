"""Study files that nobody would write: a study, or a PliantError that says why not; nothing else, and nothing is run."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import fuzz
import pytest
from hypothesis import strategies as st
from torch import nn

from pliant import catalog
from pliant.errors import DomainError, PliantError
from pliant.lab.models import external
from pliant.lab.recipe import QUIRKS
from pliant.lab.study import Study, StudyError, plan

FILE = b"""
title = "A study"
dataset = {name = "wdbc", options = {}}
model = {name = "ffnn", options = {width = 8}}
activations = ["relu", "srelu[beta=0.1]", "prelu[weight=learned(0.1)]", "dsrelu"]
margin = 0.02
[protocol]
design = "kfold"
folds = 2
repeats = 1
validation = 0.1
[train]
epochs = 3
batch_size = 60
schedule = {name = "steps", factors = [[2, 0.1]]}
optimizer = {name = "momentum", lr = 0.01, momentum = 0.9}
"""


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "none"))


def used(path: Path) -> None:
    """All that is done with a study before anything is trained."""
    with contextlib.suppress(PliantError):
        study = Study.from_toml(path)
        assert Study(**study.model_dump()) == study
        assert study.labels.keys() == set(study.activations)
        assert study.directory.startswith(study.name)
        if study.protocol.folds * study.protocol.repeats < 500:
            specs = plan(study)
            assert len({spec.key for spec in specs[:20]}) == min(20, len(specs))


@fuzz.lengths(150, 5000)
def test_damaged_study_files(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "study.toml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        used(path)

    fuzz.tried(fuzz.damaged(FILE), examples, check)


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 2, 10**9, 2**63, 10**40, 1e308, 5e-324, 0.5])
NAMES = st.sampled_from(
    [
        *(
            "wdbc",
            "digits",
            "csv",
            "folder",
            "arrays",
            "mnist",
            "voc-detection",
            "ffnn",
            "cnn",
            "resnet34",
            "torchvision:resnet18",
        ),
        *(
            "os:system",
            "torchvision:",
            ":",
            "own:relu",
            "../x",
            "relu",
            "srelu",
            "own",
            "kfold",
            "official",
            "holdout",
            "image",
        ),
        *(
            "steps",
            "cosine",
            "adam",
            "sgd",
            "tf1",
            "torch",
            "channels",
            "features",
            "accuracy",
            "auc",
            "relu[",
            "prelu[init=nan]",
        ),
        *("dsrelu[schedule=cosine(2,1)]", "srelu[beta=learned(1e999)]", "arelu[a=((((1))))]", "relu[]]", "\u0000", "\u202e"),
        *QUIRKS,
        *catalog.ALL,
    ]
)
LEAVES = NUMBERS | NAMES | st.booleans() | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        *Study.model_fields,
        *(
            "name",
            "options",
            "folds",
            "repeats",
            "seed",
            "epochs",
            "batch_size",
            "data",
            "path",
            "label",
            "size",
            "width",
            "lr",
        ),
        *("test", "validation", "share", "groups", "normalise", "kind", "mean", "std", "augment", "padding", "flip", "speed"),
        *("betas", "eps", "momentum", "constants", "factors", "final", "lr_grid", "patience", "world_size", "sync_batch_norm"),
        *("dropout", "keep", "replace", "weights", "__class__", "self", ""),
    ]
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8)
BASE: dict[str, Any] = {
    "dataset": {"name": "wdbc", "options": {}},
    "model": {"name": "ffnn", "options": {"width": 8}},
    "activations": ["relu", "srelu"],
    "protocol": {"folds": 2, "repeats": 1},
    "train": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}},
}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("infinity", "inf")


@st.composite
def studies(draw: st.DrawFn) -> str:
    """A study that could be run with a few of its keys, at any depth, set to something else."""
    values: dict[str, Any] = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(0, 3))):
        at = values
        for _ in range(draw(st.integers(0, 3))):
            below = [k for k, v in at.items() if isinstance(v, dict)]
            if not below:
                break
            at = at[draw(st.sampled_from(below))]
        at[draw(KEYS)] = draw(TREES)
    return "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in values.items())


@fuzz.lengths(150, 5000)
def test_studies_of_any_structure(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "study.toml"

    def check(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="replace")
        used(path)

    fuzz.tried(studies(), examples, check)


@fuzz.lengths(100, 3000)
def test_overrides_of_any_text(examples: int) -> None:
    study = Study(name="base", **BASE)

    def check(change: str) -> None:
        with contextlib.suppress(PliantError):
            plan(study.override([change]).override(["protocol.repeats=1", "protocol.folds=2"]))

    paths = st.lists(KEYS, min_size=1, max_size=3).map(".".join)
    fuzz.tried(st.builds("{}={}".format, paths, TREES.map(toml) | st.text(max_size=10)) | st.text(max_size=20), examples, check)


@fuzz.lengths(300, 20000)
def test_specs_of_activations_of_any_text(examples: int) -> None:
    def check(text: str) -> None:
        with contextlib.suppress(PliantError):
            found = catalog.parse(text)
            assert str(catalog.parse(str(found))) == str(found)

    pieces = st.sampled_from(
        [*catalog.ALL, "[", "]", "(", ")", ",", "=", "learned", "scheduled", "cosine", "1", "nan", "-1e999", " "]
    )
    fuzz.tried(st.lists(pieces, max_size=8).map("".join) | st.text(max_size=20), examples, check)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = " + "[" * 100_000, "is not valid TOML"),
        ("x = " + "9" * 10_000, "is not valid TOML"),
        ("train = {epochs = 1e400}", "epochs"),
        ("margin = nan", "margin"),
        ("[protocol]\nrepeats = 1000000000000", "more than 1,000,000 trials"),
        ("[protocol]\nfolds = " + "9" * 400, "more than 1,000,000 trials"),
    ],
    ids=["deep", "long number", "infinite", "nan", "many", "more"],
)
def test_hostile_study_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "study.toml"
    # Keys of the root stand before its tables.
    root = '\ndataset = "wdbc"\nmodel = "ffnn"\nactivations = ["relu"]\n'
    path.write_text(root + text if text.startswith("[") else text + root)
    with pytest.raises(StudyError, match=expected):
        plan(Study.from_toml(path))


@pytest.mark.parametrize("key", ["model", "dataset", "activations", "baseline", "quirks", "metric"])
@pytest.mark.parametrize("path", ["planted:build", "planted.build", "own:build", "torchvision:planted", "planted"])
def test_a_study_file_names_what_there_is_and_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, path: str
) -> None:
    """There is no way to name code in a study file, so there is none to allow: what is not in a catalogue is refused."""
    (tmp_path / "planted.py").write_text("raise SystemExit('this was run')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    values = {"dataset": '"wdbc"', "model": '"ffnn"', "activations": '["relu"]'}
    values[key] = f'["{path}"]' if key in ("activations", "quirks") else f'"{path}"'
    (tmp_path / "study.toml").write_text("\n".join(f"{k} = {v}" for k, v in values.items()))
    with pytest.raises(PliantError):
        plan(Study.from_toml(tmp_path / "study.toml"))
    assert "planted" not in sys.modules


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained", "pretrained_cfg", "weights", "weights_backbone", "cache_dir"]
)
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_study_file_cannot_make_a_library_read_weights(library: str, option: str) -> None:
    """timm's checkpoint_path would unpickle a file that a stranger's study names."""
    build = external.LIBRARIES[library]
    with pytest.raises(DomainError, match=f"option '{option}', which would load weights"):
        build("resnet18", nn.ReLU, input_shape=(3, 32, 32), outputs=2, **{option: "evil.pth"})
