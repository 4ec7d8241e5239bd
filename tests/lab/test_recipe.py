"""What a study may say about protocol and training, and the numbers that it stands for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pliant import UnknownNameError
from pliant.lab import Study
from pliant.lab.recipe import CONSTANTS, Normalise, Optimizer, Protocol, Schedule, Train
from pliant.lab.study import StudyError, plan


def keys(study: Study) -> list[str]:
    return [spec.key for spec in plan(study)]


@pytest.mark.parametrize("constants", CONSTANTS)
def test_every_number_of_an_optimizer_is_in_the_spec(constants: str) -> None:
    for name, numbers in CONSTANTS[constants].items():
        found = Optimizer(name=name, constants=constants).resolved()
        assert {k: getattr(found, k) for k in numbers} == numbers
        assert found.resolved() == found
        assert found.constants is None


def test_the_two_frameworks_differ_where_the_notes_say() -> None:
    tf, torch = (lambda n: Optimizer(name=n, constants="tf1").resolved()), (lambda n: Optimizer(name=n).resolved())
    assert (tf("adagrad").accumulator, torch("adagrad").accumulator) == (0.1, 0.0)
    assert (tf("adadelta").lr, tf("adadelta").rho, tf("adadelta").eps) == (1e-3, 0.95, 1e-8)
    assert (torch("adadelta").lr, torch("adadelta").rho, torch("adadelta").eps) == (1.0, 0.9, 1e-6)
    assert (tf("adam").epsilon_hat, torch("adam").epsilon_hat) == (True, False)
    assert tf("momentum") == torch("momentum")


def test_one_training_has_one_identity(small: Study) -> None:
    written = small.override(["train.optimizer.lr=0.001", "train.optimizer.eps=1e-8"])
    assert keys(written) == keys(small)
    sgd = small.override(["train.optimizer.name=sgd", "train.optimizer.momentum=0.9"])
    assert keys(sgd) == keys(small.override(["train.optimizer.name=momentum"]))
    assert keys(small.override(["train.optimizer.constants=tf1"])) != keys(small)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "adam", "momentum": 0.9}, "momentum has no effect on adam; use betas"),
        ({"name": "sgd", "eps": 1e-7}, "eps has no effect on sgd"),
        ({"name": "adam", "rho": 0.9}, "rho has no effect on adam"),
        ({"name": "adamw", "constants": "tf1"}, "TensorFlow 1 has no adamw"),
        ({"name": "adamw", "epsilon_hat": True}, "adamw has no such form"),
        ({"name": "adagrad", "eps": 0.0}, "one must be positive"),
        ({"name": "adam", "eps": 0.0}, "divides by zero"),
        ({"betas": (0.9, 1.0)}, "betas lie in"),
    ],
)
def test_constants_that_do_nothing_or_harm(given: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Optimizer(**given)


def test_stepwise_rates_hold_from_the_stated_epoch_on() -> None:
    aaf = Schedule(name="steps", factors=((70, 0.1), (100, 0.01)))
    # The released code counts epochs from 0: number 70 is the first with the lower rate, which is after 70 are complete.
    assert [aaf.rate(1e-3, n, 150) for n in (0, 69, 70, 99, 100, 149)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    stated = Schedule(name="steps", lr=((70, 1e-4), (100, 1e-5)))
    assert [stated.rate(1e-3, n, 150) for n in (69, 70, 100)] == [1e-3, 1e-4, 1e-5]
    cosine = Schedule(name="cosine", final=0.1)
    assert [cosine.rate(2.0, n, 10) for n in (0, 5, 10)] == pytest.approx([2.0, 1.1, 0.2])


@pytest.mark.parametrize(
    ("section", "given", "expected"),
    [
        ("schedule", {"name": "steps"}, "either factors or lr"),
        ("schedule", {"name": "steps", "factors": [[3, 0.1], [3, 0.01]]}, "rise"),
        ("schedule", {"name": "steps", "factors": [[0, 0.1]]}, "start from 1"),
        ("schedule", {"name": "constant", "factors": [[3, 0.1]]}, "belong to name = 'steps'"),
        ("schedule", {"name": "steps", "lr": [[100, 0.1]]}, "step at 100 is never reached in 100 epochs"),
        ("lr_grid", [0.1, 0.1], "different positive"),
        ("speed", ["fast"], "input should be 'tf32'"),
        ("augment", {"flips": True}, "no key 'train.augment.flips'. Did you mean flip"),
    ],
)
def test_mistakes_in_the_training_are_named(small: Study, section: str, given: object, expected: str) -> None:
    with pytest.raises(StudyError, match=expected):
        Study(**{**small.model_dump(), "train": {section: given}})


def test_a_grid_and_a_rate_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="no effect beside lr_grid"):
        Train(lr_grid=(0.1, 0.2), optimizer=Optimizer(lr=0.1))
    with pytest.raises(ValueError, match=r"use schedule\.factors"):
        Train(lr_grid=(0.1, 0.2), schedule=Schedule(name="steps", lr=((3, 0.1),)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"design": "kfold", "folds": 1}, "kfold needs folds"),
        ({"design": "official", "folds": 5}, "folds has no effect on design = 'official'"),
        ({"design": "official", "test": 0.2}, "test has no effect on design = 'official'"),
        ({"validation": "official"}, "goes with design = 'official'"),
        ({"validation": 1.5}, "validation is a share"),
        ({"standardise": True, "normalise": "none"}, "say the same thing"),
        ({"normalise": {"kind": "channels", "mean": [1, 2], "std": [1]}}, "mean has 2 values and std has 1"),
        ({"normalise": {"kind": "image", "mean": [1], "std": [1]}}, "belong to kind = 'channels'"),
        ({"normalise": {"knd": "image"}}, "no key 'protocol.normalise.knd'. Did you mean kind"),
    ],
)
def test_mistakes_in_the_protocol_are_named(small: Study, given: dict[str, object], expected: str) -> None:
    with pytest.raises(StudyError, match=expected):
        Study(**{**small.model_dump(), "protocol": given})


def test_the_short_form_of_normalising() -> None:
    assert Protocol().resolved_normalise == Protocol(standardise=True).resolved_normalise == Normalise(kind="features")
    assert Protocol(standardise=False).resolved_normalise == Protocol(normalise="none").resolved_normalise


def test_a_section_that_was_left_out_can_be_set_key_by_key(small: Study) -> None:
    found = small.override(
        ["protocol.normalise.kind=channels", "protocol.normalise.mean=[0.5]", "protocol.normalise.std=[0.2]"]
    )
    assert found.protocol.normalise == Normalise(kind="channels", mean=(0.5,), std=(0.2,))
    with pytest.raises(StudyError, match=r"no key 'protocol\.normalise\.knd'. Did you mean kind"):
        small.override(["protocol.normalise.knd=none"])
    with pytest.raises(StudyError, match=r"train\.patience"):
        small.override(["train.patience.x=3"])


def test_nothing_after_the_sign_takes_an_option_out(small: Study) -> None:
    assert small.override(["train.patience=3"]).override(["train.patience="]).train.patience is None


@pytest.mark.parametrize(
    "change",
    ["train.schedule.name=cosine", "train.augment.flip=true", "train.drop_last=true", 'train.speed=["bf16"]',
     'protocol.normalise="image"', "train.train_scores=evaluated", 'quirks=["test_as_validation"]'],
)  # fmt: skip
def test_what_changes_a_number_changes_the_key(small: Study, change: str) -> None:
    assert not set(keys(small)) & set(keys(small.override([change])))


def test_what_is_only_read_off_afterwards_does_not(small: Study) -> None:
    assert keys(small.override(["thresholds=[0.9]"])) == keys(small)


def test_a_grid_is_trials_that_a_study_of_one_rate_shares(small: Study) -> None:
    grid = small.override(["train.lr_grid=[1e-3, 1e-2]"])
    assert len(keys(grid)) == 2 * len(keys(small))
    assert set(keys(small)) < set(keys(grid))
    assert set(keys(small.override(["train.optimizer.lr=1e-2"]))) < set(keys(grid))


def test_dropout_as_the_share_kept(small: Study) -> None:
    kept, dropped = small.override(["model.options.keep=0.9"]), small.override(["model.options.dropout=0.1"])
    assert keys(kept) == keys(dropped)
    with pytest.raises(StudyError, match=r"both dropout = 0.1 and keep = 0.9"):
        plan(kept.override(["model.options.dropout=0.1"]))
    with pytest.raises(StudyError, match="share of units kept"):
        plan(small.override(["model.options.keep=0"]))


@pytest.mark.parametrize(
    ("quirks", "error", "expected"),
    [
        (["double_softmx"], UnknownNameError, "Did you mean 'double_softmax'"),
        ("double_softmax", StudyError, "expected a list"),
        (["slope_on_stem_only"], StudyError, "no activation of the study has one"),
        (["released_tie_rule"], StudyError, "no plain 'arelu'"),
    ],
)
def test_quirks_that_do_not_exist_or_apply(small: Study, quirks: object, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        plan(Study(**{**small.only(["relu", "gelu"]).model_dump(), "quirks": quirks}))


def test_no_validation_part_needs_the_quirk_that_does_without(small: Study) -> None:
    with pytest.raises(StudyError, match="nothing to choose the epoch on"):
        plan(small.override(["protocol.validation=0"]))
    assert plan(small.override(["protocol.validation=0", 'quirks=["test_as_validation"]']))


AAF = """
activations = ["relu", "arelu", "asigmoid", "swish"]
dataset = "digits"
quirks = ["released_tie_rule"]
[model]
name = "ffnn"
options = { width = 8, keep = 0.9 }
[protocol]
design = "holdout"
test = 0.2
repeats = 2
normalise = "image"
[train]
epochs = 150
batch_size = 64
drop_last = true
optimizer = { name = "adagrad", constants = "tf1" }
schedule = { name = "steps", factors = [[70, 0.1], [100, 0.01]] }
"""


def test_a_study_of_a_table_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "aaf.toml").write_text(AAF)
    study = Study.from_toml(tmp_path / "aaf.toml")
    spec = plan(study)[0]
    assert len(plan(study)) == 8
    assert (spec.folds, spec.test, spec.model.options["dropout"]) == (1, 0.2, 0.1)
    assert spec.train.optimizer.accumulator == 0.1
    assert math.isclose(spec.train.schedule.rate(spec.train.optimizer.lr, 120, 150), 1e-5)
    assert Study(**study.model_dump()) == study
