from __future__ import annotations

import functools
import inspect
import itertools
import json
from pathlib import Path

import networks
import numpy as np
import pytest
from torch import nn

from pliant import AReLU, UnknownNameError
from pliant.lab import Component, Study, models, papers
from pliant.lab.network import ModelError
from pliant.lab.study import StudyError, TrialSpec, plan


def keys(study: Study) -> list[str]:
    return [spec.key for spec in plan(study)]


def test_studies_and_specs_are_frozen_and_hash_by_value(small: Study) -> None:
    again = Study(**small.model_dump())
    assert again == small
    assert hash(again) == hash(small)
    assert {small: 1}[again] == 1
    with pytest.raises(ValueError, match="frozen"):
        small.train.epochs = 5
    assert hash(plan(small)[0]) == hash(plan(again)[0])


def test_a_spec_survives_json_with_its_key(small: Study) -> None:
    for spec in plan(small):
        assert TrialSpec.model_validate_json(spec.model_dump_json()).key == spec.key
        assert len(spec.key) == 64


def test_keys_that_are_put_together_are_those_that_are_worked_out(small: Study) -> None:
    first = plan(small)[0]
    # The second holds a number that marks a place in a key's text, so that nothing can be put together.
    for spec in (first, first.model_copy(update={"seed": -1_000_002})):
        for found in spec.at(itertools.product((0, 7, 1234), (0, 11))):
            alone = TrialSpec(**{name: getattr(found, name) for name in TrialSpec.model_fields})
            assert (alone, alone.key) == (found, found.key)
    specs = plan(small.override(["protocol.repeats=3", "protocol.folds=4", "train.lr_grid=[0.1,0.01]"]))
    assert [(s.repeat, s.fold, s.train.optimizer.lr, s.activation) for s in specs] == list(
        itertools.product(range(3), range(4), (0.1, 0.01), small.activations)
    )


@pytest.mark.parametrize(
    "change",
    ["train.epochs=4", "train.batch_size=64", "train.optimizer.lr=0.01", "protocol.seed=1", "model.options.width=9",
     "protocol.validation=0.2", "protocol.standardise=false", "train.patience=3", "protocol.folds=3"],
)  # fmt: skip
def test_whatever_can_change_a_number_changes_the_key(small: Study, change: str) -> None:
    assert not set(keys(small)) & set(keys(small.override([change])))


def test_what_cannot_change_a_number_does_not_change_the_key(small: Study) -> None:
    renamed = Study(**{**small.model_dump(), "name": "other", "title": "t", "question": "q", "margin": 0.05, "metric": "f1"})
    assert keys(renamed) == keys(small)


def test_more_repeats_and_more_activations_reuse_the_trials_of_fewer(small: Study) -> None:
    assert set(keys(small)) < set(keys(small.override(["protocol.repeats=2"])))
    assert set(keys(small)) < set(keys(small.only(["relu", "arelu", "gelu"])))


def test_a_new_version_of_an_activation_gives_its_trials_a_new_key(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(small)
    monkeypatch.setattr(AReLU, "version", 2)
    assert [a == b for a, b in zip(before, keys(small), strict=True)] == [True, False] * 2


def test_spelling_does_not_matter_for_identity(small: Study) -> None:
    spelled = Study(**{**small.model_dump(), "activations": ["ReLU", "adaptive_relu"], "baseline": "ReLU"})
    assert keys(spelled) == keys(small)


def test_any_prefix_of_the_plan_is_nearly_balanced(small: Study) -> None:
    specs = plan(small.override(["protocol.repeats=3"]))
    for n in range(1, len(specs) + 1):
        counts = [sum(s.activation == a for s in specs[:n]) for a in small.activations]
        assert max(counts) - min(counts) <= 1


def test_functions_classes_and_arrays_of_a_user() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 30)), np.arange(40) % 2
    study = Study(
        name="mine", model=networks.tiny, data=(x, y), activations=["relu", AReLU, networks.MyReLU], folds=2, repeats=1
    )
    assert study.activations == ("relu", "arelu", "own:MyReLU")
    assert study.labels["own:MyReLU"] == "MyReLU"
    assert study.baseline == "relu"
    other = Study(name="mine", model=networks.tiny, data=(x + 1, y), activations=["relu", AReLU], folds=2, repeats=1)
    assert not set(keys(study)) & set(keys(other))
    network = Study(name="mine", model=networks.two_logits, data=(x, y), activations=["relu", AReLU], folds=2, repeats=1)
    assert not set(keys(study)) & set(keys(network))


def test_a_study_with_python_objects_cannot_be_planned_from_its_file_alone() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 30)), np.arange(40) % 2
    study = Study(name="mine", model=networks.tiny, data=(x, y), activations=["relu", networks.MyReLU], folds=2)
    with pytest.raises(StudyError, match="run it from Python again"):
        plan(Study(**json.loads(study.model_dump_json())))


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'activations = ["relu", "prelu[init=0.1]"]\n[dataset]\nname = "wdbc"\n[model]\nname = "ffnn"\noptions = { width = 8 }\n'
        "[protocol]\nfolds = 2\nrepeats = 1\n[train]\nepochs = 3\n"
    )
    study = Study.from_toml(file)
    assert study.name == "mine"
    assert study.activations == ("relu", "prelu[weight=learned(0.1)]")
    assert study.train.epochs == 3


def test_overrides_are_remembered_and_kept_apart(small: Study) -> None:
    changed = small.override(["train.epochs=5"])
    assert changed.train.epochs == 5
    assert changed.overrides == ("train.epochs=5",)
    assert changed.directory.startswith("small.")
    assert small.directory == "small"


def test_only_brings_the_baseline_along(small: Study) -> None:
    assert small.only(["gelu"]).activations == ("relu", "gelu")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epoch": 3}, "no key 'epoch'.*Did you mean epochs"),
        ({"train": {"epoch": 3}}, "no key 'train.epoch'.*Did you mean epochs"),
        ({"train": {"optimizer": {"learning_rate": 1}}}, "no key 'train.optimizer.learning_rate'"),
        ({"train": {"epochs": 0}}, "train.epochs = 0: input should be greater than or equal to 1"),
        ({"train": {"epochs": "many"}}, "train.epochs = 'many'"),
        ({"name": "../evil"}, "name = '../evil'"),
        ({"baseline": "gelu"}, "baseline 'gelu' is not among"),
        ({"activations": "relu"}, "expected a list"),
        ({"activations": [nn.ReLU()]}, "activation object"),
        ({"activations": [3]}, "given 3 as an activation"),
        ({"data": "wdbc"}, "mean the same"),
        ({"metric": "acuracy"}, "metric = 'acuracy'"),
    ],
)
def test_mistakes_are_named(small: Study, given: dict[str, object], expected: str) -> None:
    values = {k: v for k, v in small.model_dump().items() if k not in ("baseline", "overrides")}
    with pytest.raises(StudyError, match=expected):
        Study(**{**values, **given})


def test_a_key_named_as_the_first_parameter_of_a_method_is_unknown_like_any_other(small: Study) -> None:
    with pytest.raises(StudyError, match="has no key 'self'"):
        Study(**{**small.model_dump(), "self": 1})


KEPT = {
    "alexnet": "0c0255a24d6d038c",
    "cnn": "0f8d5aec2df639d0",
    "densenet": "d80210849f0bfaac",
    "ffnn": "e8a2300d4ba49a47",
    "googlenet": "e189af28faebc56c",
    "resnet34": "307c6701d478d6ff",
    "resnet50": "e4c7a5d25b092e6b",
    "vgg_v_guess": "0978106c85ac2ddb",
    "vggnet": "688e947650c5d51a",
}
"""Of trials of each network, computed before it had the options that it has now."""


@pytest.mark.parametrize("name", KEPT)
def test_options_that_came_later_leave_old_trials_their_names(name: str) -> None:
    plain = Study(name="c", dataset="digits", model=name, activations=["relu"])
    assert plan(plain)[0].key[:16] == KEPT[name]
    for option in models.LATER.get(name, ()):
        default = inspect.signature(models.ALL[name]).parameters[option].default
        written = Study(name="c", dataset="digits", model={"name": name, "options": {option: default}}, activations=["relu"])
        changed = Study(
            name="c", dataset="digits", model={"name": name, "options": {option: default / 2}}, activations=["relu"]
        )
        assert plan(written)[0].key == plan(plain)[0].key != plan(changed)[0].key


def test_missing_keys_are_named() -> None:
    with pytest.raises(StudyError, match="key 'model' is missing"):
        Study(name="x", dataset="wdbc", activations=["relu"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"activations": ["rleu"]}, "Did you mean 'relu'"),
        ({"dataset": "wbdc"}, "no data set named 'wbdc'. Did you mean 'wdbc'"),
        ({"model": "fnn"}, "no network named 'fnn'. Did you mean 'ffnn'"),
    ],
)
def test_unknown_names_show_the_nearest(small: Study, given: dict[str, object], expected: str) -> None:
    with pytest.raises(UnknownNameError, match=expected):
        plan(Study(**{**small.model_dump(), "baseline": "", **given}))


def test_unknown_option_of_a_network(small: Study) -> None:
    study = Study(**{**small.model_dump(), "model": Component(name="ffnn", options={"widht": 3})})
    with pytest.raises(StudyError, match=r"no key 'model.options.widht'. Did you mean width"):
        plan(study)


@pytest.mark.parametrize("change", ["train.epoch=3", "trian.epochs=3", "epochs=3", "train.epochs.x=3"])
def test_unknown_overrides(small: Study, change: str) -> None:
    with pytest.raises(StudyError, match="has no key"):
        small.override([change])


def test_override_without_a_value(small: Study) -> None:
    with pytest.raises(StudyError, match="expected key=value"):
        small.override(["train.epochs"])


@pytest.mark.parametrize(("text", "expected"), [("a = ", "not valid TOML"), (None, "cannot be read")])
def test_unreadable_files(tmp_path: Path, text: str | None, expected: str) -> None:
    file = tmp_path / "study.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(StudyError, match=expected):
        Study.from_toml(file)


def test_the_studies_of_the_papers_can_be_planned() -> None:
    study = papers.study("srelu-wdbc")
    assert len({s.key for s in plan(study)}) == len(study.trained) * study.protocol.folds * study.protocol.repeats
    with pytest.raises(UnknownNameError, match="Did you mean 'srelu-wdbc'"):
        papers.study("srelu-wbdc")


def test_srelu_wdbc_is_the_study_of_the_paper() -> None:
    study = papers.study("srelu-wdbc")
    assert study.train.epochs == 100
    assert study.train.batch_size == 128
    assert (study.train.optimizer.name, study.train.optimizer.lr) == ("adam", 1e-3)
    assert study.model.options == {"width": 512, "hidden_layers": 2, "dropout": 0.3}
    assert {"relu", "leakyrelu", "prelu", "elu", "gelu", "sigmoid", "srelu"} <= set(study.activations)


X, Y = np.random.default_rng(0).normal(size=(40, 30)), np.arange(40) % 2


def own(model, activation="relu") -> list[str]:
    return keys(Study(name="own", model=model, data=(X, Y), activations=[activation], folds=2, repeats=1))


def sized(activation, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(30, width), activation(), nn.Linear(width, 1))


def closed_over(width: int):
    def build(activation) -> nn.Module:
        return nn.Sequential(nn.Linear(30, width), activation(), nn.Linear(width, 1))

    return build


class Helper(nn.Module):
    scale = 1.0

    def forward(self, x):
        return x * self.scale


def test_whatever_changes_a_users_network_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    networks_of_a_user = [
        sized,
        functools.partial(sized, width=9),
        functools.partial(sized, width=10),
        closed_over(8),
        closed_over(9),
    ]
    found = [own(n)[0] for n in networks_of_a_user]
    assert len(set(found)) == len(found)
    assert own(closed_over(9)) == own(closed_over(9))

    def with_helper(activation) -> nn.Module:
        return nn.Sequential(nn.Linear(30, helper_width()), activation(), nn.Linear(helper_width(), 1))

    global helper_width
    helper_width = lambda: 8  # noqa: E731
    before = own(with_helper)
    helper_width = lambda: 9  # noqa: E731
    assert own(with_helper) != before, "a helper that changed is a change, though the function did not"


def test_whatever_changes_a_users_activation_changes_the_key() -> None:
    slopes = [functools.partial(nn.LeakyReLU, 0.1), functools.partial(nn.LeakyReLU, 0.2)]
    assert own(sized, slopes[0]) != own(sized, slopes[1])
    assert own(sized, slopes[0]) == own(sized, functools.partial(nn.LeakyReLU, 0.1))
    with pytest.raises(StudyError, match="Two different activations of the study are called 'LeakyReLU'"):
        Study(name="own", model=sized, data=(X, Y), activations=["relu", *slopes])


def test_a_value_whose_changes_cannot_be_seen_is_refused() -> None:
    hidden = object()

    def build(activation) -> nn.Module:
        assert hidden
        return sized(activation)

    with pytest.raises(ModelError, match="whose changes could not be seen"):
        own(build)


def test_defaults_that_are_written_out_are_no_other_trial(small: Study) -> None:
    written = small.override(["model.options.hidden_layers=2", "model.options.dropout=0.3"])
    assert keys(written) == keys(small)


def test_an_override_replaces_what_was_brought_as_an_object() -> None:
    study = Study(name="own", model=sized, data=(X, Y), activations=["relu"], folds=2, repeats=1)
    changed = study.override(["dataset.name=wdbc", "dataset.options={}"])
    assert changed.custom.data is None
    assert changed.custom.model is sized
    assert plan(changed)[0].data_sha256 != plan(study)[0].data_sha256


def test_options_are_frozen_too(small: Study) -> None:
    with pytest.raises(TypeError, match="frozen"):
        small.model.options["width"] = 9


def test_the_folder_of_a_changed_study_does_not_depend_on_the_order_of_changes(small: Study) -> None:
    assert small.only(["gelu", "relu"]).directory == small.only(["relu", "gelu"]).directory
    one, two = ["train.epochs=5", "protocol.seed=2"], ["protocol.seed=2", "train.epochs=5"]
    assert small.override(one).directory == small.override(two).directory != small.override(one[:1]).directory


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.options.width=abc", "expected int, such as the default 512"),
        ("model.options.width=32.5", "expected int"),
        ("model.options.width=true", "expected int"),
        ("dataset.options.foo=1", "no key 'dataset.options.foo'"),
        ("train.optimizer.momentum=0.9", "momentum has no effect on adam"),
        ("margin=1", "less than 1"),
    ],
)
def test_changes_that_make_no_sense(small: Study, change: str, expected: str) -> None:
    with pytest.raises(StudyError, match=expected):
        plan(small.override([change]))


def test_a_network_instead_of_a_function() -> None:
    with pytest.raises(StudyError, match="expected a function that builds one"):
        own(sized(nn.ReLU))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda activation: nn.Linear(30, 1), "never called activation"),
        (lambda activation: nn.Sequential(nn.Linear(7, 1), activation()), "cannot be built and run on two examples"),
        (
            lambda activation: nn.Sequential(nn.Linear(30, 8), activation, nn.Linear(8, 1)),
            "makes a new one",
        ),
    ],
)
def test_networks_of_a_user_are_tried_before_anything_runs(model, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        own(model)


def test_labels_that_would_be_one_are_the_specs() -> None:
    near = ["srelu[beta=0.123456781]", "srelu[beta=0.123456789]", "relu"]
    labels = Study(name="near", dataset="wdbc", model="ffnn", activations=near).labels
    assert labels == {near[0]: near[0], near[1]: near[1], "relu": "ReLU"}
