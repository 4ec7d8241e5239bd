"""What a study asks of training, seen in results: designs, grids, quirks, augmentation, arithmetic, real data."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import image_files
import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from pliant import DSReLU
from pliant.lab import Data, Study, datasets, run
from pliant.lab.batches import Examples
from pliant.lab.protocol import split
from pliant.lab.store import Store
from pliant.lab.study import Custom, StudyError, plan
from pliant.lab.train import DeviceError, _logits, build, correct, device_of, evaluation_batch, loss_of, make_clock, train


def bars(n: int = 240, classes: int = 3, **more: object) -> Data:
    """Grey images with a bright row, whose place says the class. A flip keeps it, noise hides it a little."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.integers(0, 120, (n, 1, 8, 8), dtype=np.uint8)
    x[np.arange(n), 0, 1 + 2 * y] += 80
    return Data.of(x, y, **more)


def small_cnn(activation: Callable[[], nn.Module], *, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        activation(),
        nn.Conv2d(6, 8, 3, stride=2),
        activation(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(72, outputs),
    )


def study(**more: object) -> Study:
    given = {
        "name": "images",
        "data": bars(),
        "model": small_cnn,
        "activations": ["relu"],
        "protocol": {"design": "holdout", "repeats": 1, "test": 0.3, "validation": 0.2, "normalise": "channels"},
        "train": {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 0.01}},
    }
    return Study(**{**given, **more})


def numbers(row: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in row.items() if "seconds" not in k}


def test_images_of_bytes_learn_and_their_rows_hold_every_metric(tmp_path: Path) -> None:
    result = run(study(thresholds=[0.5, 1.0], train={"epochs": 8, "batch_size": 32, "optimizer": {"lr": 0.01}}), store=tmp_path)
    (row,) = result.rows
    # A third is chance.
    assert row["test_accuracy"] > 0.8
    assert row["partition"] == "holdout 0"
    for name in ("test_precision_weighted", "test_average_precision", "test_brier", "test_ece", "validation_brier_last"):
        assert math.isfinite(row[name])
    history = result.store.trial(row["key"]).history()
    losses = [e["train_loss"] for e in history]
    assert row["loss_area_epochs"] == pytest.approx(sum(losses) - (losses[0] + losses[-1]) / 2)
    assert row["loss_area_steps"] == pytest.approx(row["loss_area_epochs"] * row["steps"] / row["epochs"])
    reached = [e["epoch"] for e in history if e["validation_accuracy"] >= 0.5]
    assert row["epochs_to_0.5"] == reached[0]
    assert sum(map(sum, result.report_data().confusions["relu"])) == row["n_test"]
    assert sum(n for _, _, n in result.reliability()["relu"]) == row["n_test"]


def test_the_gap_at_equal_train_accuracy(tmp_path: Path) -> None:
    rows = run(study(activations=["relu", "sigmoid"]), store=tmp_path).rows
    assert len({r["matched_train_accuracy"] for r in rows}) == 1
    for row in rows:
        history = Store(tmp_path).trial(row["key"]).history()
        level, first = (
            row["matched_train_accuracy"],
            next(e for e in history if e["train_accuracy"] >= row["matched_train_accuracy"]),
        )
        assert row["gap_matched"] is not None
        if first["epoch"] == 1 or first["train_accuracy"] == level:
            assert row["gap_matched"] == pytest.approx(level - first["validation_accuracy"])


def test_evaluated_train_scores_are_those_of_evaluation_mode(tmp_path: Path) -> None:
    asked = study(train={"epochs": 2, "batch_size": 32, "optimizer": {"lr": 0.01}, "train_scores": "evaluated"})
    result = run(asked, store=tmp_path)
    last = result.store.trial(result.rows[0]["key"]).history()[-1]
    assert last["evaluated_train_accuracy"] == pytest.approx(result.rows[0]["train_accuracy_last"])
    assert last["evaluated_train_loss"] == pytest.approx(result.rows[0]["train_loss_last"], rel=1e-5)
    assert last["evaluated_train_loss"] != last["train_loss"]


@pytest.mark.parametrize(
    "optimizer", [{"name": "adam", "constants": "tf1"}, {"name": "adagrad"}, {"name": "adadelta"}, {"name": "momentum"}]
)
def test_a_resumed_training_on_augmented_images_has_the_same_bits(tmp_path: Path, optimizer: dict[str, object]) -> None:
    recipe = {
        "epochs": 4,
        "batch_size": 32,
        "drop_last": True,
        "optimizer": optimizer,
        "augment": {"padding": 2, "flip": True},
        "schedule": {"name": "steps", "factors": [[1, 0.5], [3, 0.1]]},
    }
    asked = study(train=recipe, activations=["arelu"])
    (spec,) = plan(asked)
    whole, parts = (Store(tmp_path / n).trial(spec.key) for n in ("whole", "parts"))
    whole.begin({})
    train(spec, asked.custom.data, asked.custom, whole)

    def stop(event) -> None:
        if event["epoch"] == 3:
            raise KeyboardInterrupt

    parts.begin({})
    with pytest.raises(KeyboardInterrupt):
        train(spec, asked.custom.data, asked.custom, parts, stop, checkpoint_every=0)
    random.seed(1)
    torch.manual_seed(99)
    train(spec, asked.custom.data, asked.custom, parts)
    assert parts.result()["provenance"]["resumed_from_epoch"] == 2
    assert parts.read("predictions.safetensors") == whole.read("predictions.safetensors")
    assert numbers(parts.result()["row"]) == numbers(whole.result()["row"])


def test_the_rate_falls_where_the_schedule_says(tmp_path: Path) -> None:
    """A rate of next to nothing from the third epoch on leaves the weights where the second left them."""
    recipe = {"epochs": 4, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.1}}
    falling = {**recipe, "schedule": {"name": "steps", "lr": [[2, 1e-30]]}}
    data = Data.of(np.random.default_rng(0).normal(size=(90, 5)), np.arange(90) % 3)

    def linear(activation: Callable[[], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 4), activation(), nn.Linear(4, 3))

    result = run(study(data=data, model=linear, train=falling, protocol={"design": "holdout", "repeats": 1}), store=tmp_path)
    losses = [e["validation_loss"] for e in result.store.trial(result.rows[0]["key"]).history()]
    assert losses[0] != losses[1] == losses[2] == losses[3]


# --- a grid of learning rates -----------------------------------------------------------------------------------------


def test_a_grid_chooses_on_the_validation_loss_alone(tmp_path: Path) -> None:
    asked = study(activations=["relu", "tanh"], train={"epochs": 2, "batch_size": 32, "lr_grid": [1e-5, 1e-2, 1e30]})
    result = run(asked, store=tmp_path)
    assert result.counts["done"] + result.counts["diverged"] == 6
    assert len(result.rows) == 2
    for row in result.rows:
        tried = [r for r in result.trial_rows if r["activation"] == row["activation"]]
        assert row["validation_loss"] == min(r["validation_loss"] for r in tried if r["outcome"] == "done")
        assert (row["lr_tried"], row["outcome"]) == (3, "done")
        assert row["lr"] < 1
        assert row["seconds_tried"] == pytest.approx(sum(r["seconds"] for r in tried))
    assert len(result.verdict().comparisons) == 1
    assert result.report().exists()


def test_a_search_that_is_not_finished_has_no_row_yet(tmp_path: Path) -> None:
    one = study(train={"epochs": 1, "batch_size": 32, "optimizer": {"lr": 1e-3}})
    run(one, store=tmp_path)
    from pliant.lab.result import Result

    grid = Result(study(train={"epochs": 1, "batch_size": 32, "lr_grid": [1e-3, 1e-2]}), Store(tmp_path))
    assert grid.counts == {"done": 1, "diverged": 0, "failed": 0, "missing": 1}
    assert [r["outcome"] for r in grid.rows] == ["missing"]


# --- released quirks --------------------------------------------------------------------------------------------------


def test_quirks_are_shown_wherever_the_numbers_are(tmp_path: Path) -> None:
    asked = study(quirks=["test_as_validation", "double_softmax"], activations=["relu", "gelu"])
    result = run(asked, store=tmp_path)
    assert any("Released quirks on: double_softmax" in w for w in result.verdict().warnings)
    page = result.report().read_text()
    assert "released quirks on: double_softmax, test_as_validation" in page
    assert "The test part chose the epoch" in page
    assert set(pl.read_csv(result.directory / "rows.csv")["quirks"]) == {"double_softmax test_as_validation"}
    assert "released quirks on" in (result.directory / "table.tex").read_text()


def test_without_quirks_nothing_speaks_of_them(tmp_path: Path) -> None:
    result = run(study(), store=tmp_path)
    assert result.remarks == ()
    assert "quirks" not in result.rows[0]


def test_a_double_softmax_confines_the_loss(tmp_path: Path) -> None:
    data, plain = bars(), study(train={"epochs": 1, "batch_size": 32})
    quirky = plain.override(['quirks=["double_softmax"]'])
    logits, y = torch.tensor([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]), torch.tensor([0, 0])
    one, two = (float(loss_of(logits, y, plan(s)[0])) for s in (plain, quirky))
    assert one == pytest.approx(25.0)
    # Between ln(1 + 2/e) and ln(2 + e): probabilities 1 and 0 taken for logits.
    assert two == pytest.approx((math.log(1 + 2 / math.e) + math.log(2 + math.e)) / 2)
    flat = Study(name="x", dataset="wdbc", model="ffnn", activations=["relu"], quirks=["double_softmax"])
    with pytest.raises(StudyError, match="needs a softmax over classes, and ffnn returns 1"):
        run(flat, store=tmp_path)
    assert data.task == "multiclass"


def test_batch_statistics_at_test_leave_the_network_as_it_was(tmp_path: Path) -> None:
    asked = study(quirks=["batch_statistics_at_test"])
    (spec,) = plan(asked)
    data = asked.custom.data
    network, _ = build(spec, data, asked.custom)
    examples = Examples.of(data, spec.normalise, np.arange(len(data)), torch.device("cpu"))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    rows = torch.arange(64)
    by_batch = _logits(network, examples, rows, 32, spec)
    assert not network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    plain = _logits(network, examples, rows, 32, plan(study())[0])
    assert (by_batch - plain).abs().max() > 0.01
    # One batch of all, so that the order in it does not matter: what the network gives in training mode, dropout apart.
    whole = _logits(network, examples, rows, 64, spec)
    network.train()
    network[6].eval()
    np.testing.assert_allclose(whole.numpy(), network(examples.batch(rows)).detach().numpy(), rtol=1e-4, atol=1e-5)
    flat = Study(name="x", dataset="wdbc", model="ffnn", activations=["relu"], quirks=["batch_statistics_at_test"])
    with pytest.raises(StudyError, match="ffnn has none"):
        run(flat, store=tmp_path)


def test_the_slope_moves_at_the_first_site_only(tmp_path: Path) -> None:
    asked = study(activations=["relu", "dsrelu[released]"], quirks=["slope_on_stem_only"])
    result = run(asked, store=tmp_path)
    last = result.store.trial(result.rows[1]["key"]).history()[-1]["coefficients"]
    start, end = (DSReLU.released().values(t)[0] for t in (0.0, 1.0))
    assert [s["slope"] for s in last.values()] == [pytest.approx(end, abs=1e-5), pytest.approx(start, abs=1e-5)]
    # The unit of the released code as well: t grows by 1 / batches at the start of each epoch, the third here.
    spec = plan(study(activations=["dsrelu[released,unit=released]"], quirks=["slope_on_stem_only"]))[0]
    network, _ = build(spec, bars(), asked.custom)
    clock = make_clock(network, spec, 5)
    assert len(clock) == 1
    for _ in range(10):
        clock.step()
    assert network[2].values()[0].item() == pytest.approx(DSReLU.released().values(3 / 5)[0], rel=1e-5)
    assert network[4].values()[0].item() == pytest.approx(start, rel=1e-5)


def test_the_released_start_of_arelu(tmp_path: Path) -> None:
    plain, quirky = (study(activations=["arelu"], quirks=q) for q in ((), ("released_tie_rule",)))
    values = []
    for asked in (plain, quirky):
        _, (act, *_) = build(plan(asked)[0], asked.custom.data, asked.custom)
        values.append([v.item() for v in act.values()])
    assert values == [[1, 0, 0, 0], [1, 1, 0, 0]]
    result = run(quirky, store=tmp_path)
    end = result.store.trial(result.rows[0]["key"]).history()[-1]["coefficients"]["2"]
    # The tie was broken: the two lines moved apart.
    assert abs(end["a"] - end["b"]) > 1e-4


def test_rows_of_the_five_highest_epochs(tmp_path: Path) -> None:
    asked = study(quirks=["top_5_epoch_rows"], train={"epochs": 8, "batch_size": 32, "optimizer": {"lr": 0.01}})
    result = run(asked, store=tmp_path)
    (row,) = result.rows
    history = result.store.trial(row["key"]).history()
    names = [f"{p}_{m}" for p in ("train", "validation") for m in ("accuracy", "f1_weighted", "auc")]
    best = sorted(history, key=lambda e: -max(e[n] for n in names))[:5]
    assert row["top_5_epochs"] == " ".join(str(e["epoch"]) for e in best)
    for name in names:
        assert row[f"top_5_{name}"] == pytest.approx(np.mean([e[name] for e in best]))


# --- several labels ---------------------------------------------------------------------------------------------------


def test_examples_with_several_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    y = (x[:, :2] > 0).astype(np.uint8)
    y[::10, 1] = 255

    def linear(activation: Callable[[], nn.Module], *, outputs: int) -> nn.Module:
        assert outputs == 2
        return nn.Sequential(nn.Linear(6, 16), activation(), nn.Linear(16, outputs))

    result = run(
        study(data=Data.of(x, y), model=linear, protocol={"design": "holdout", "repeats": 1}, metric="average_precision",
              train={"epochs": 30, "batch_size": 32, "optimizer": {"lr": 0.01}}, activations=["relu", "gelu"]),
        store=tmp_path,
    )  # fmt: skip
    assert all(row["test_average_precision"] > 0.95 and row["test_accuracy"] > 0.85 for row in result.rows)
    assert result.report().exists()
    assert result.report_data().confusions == {}


def test_labels_that_count_neither_way_have_no_gradient() -> None:
    (spec,) = plan(study())
    logits = torch.randn(3, 2, requires_grad=True)
    y = torch.tensor([[1, 255], [0, 1], [255, 255]], dtype=torch.uint8)
    loss_of(logits, y, spec).backward()
    assert torch.equal(logits.grad == 0, y == 255)
    assert float(correct(torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), y)) == pytest.approx(2 / 3 * 3)


def test_smoothed_labels_by_hand() -> None:
    (spec,) = plan(study())
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    target = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss_of(logits, torch.tensor([0, 1]), spec, smoothing=0.3), expected)
    # Of two classes, and of several labels an example, half of the share goes to the other answer.
    z, y = torch.tensor([2.0, -1.0]), torch.tensor([1, 0])
    expected = nn.functional.binary_cross_entropy_with_logits(z, torch.tensor([0.85, 0.15]))
    torch.testing.assert_close(loss_of(z, y, spec, smoothing=0.3), expected)
    several = torch.tensor([[1, 255], [0, 255]], dtype=torch.uint8)
    torch.testing.assert_close(loss_of(torch.stack([z, z], 1), several, spec, smoothing=0.3), expected)


def test_labels_are_smoothed_in_training_alone(tmp_path: Path) -> None:
    recipe = {"epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 1e-30}, "train_scores": "evaluated"}
    plain, smoothed = (
        run(
            study(model=lambda activation: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), activation()), train=more),
            store=tmp_path,
        )
        for more in (recipe, {**recipe, "label_smoothing": 0.4})
    )
    (one,), (other,) = (r.store.trial(r.rows[0]["key"]).history() for r in (plain, smoothed))
    assert one["train_loss"] != pytest.approx(other["train_loss"], rel=1e-3)
    for name in ("validation_loss", "evaluated_train_loss", "train_accuracy"):
        assert one[name] == pytest.approx(other[name], rel=1e-6)
    with pytest.raises(StudyError, match="label_smoothing"):
        study(train={"label_smoothing": 1.0})


# --- device and arithmetic --------------------------------------------------------------------------------------------


def test_what_needs_a_gpu_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DEVICE", "cpu")
    for option in ("tf32", "cuda_graphs", "cudnn_benchmark"):
        with pytest.raises(DeviceError, match=f"asks for {option}"):
            device_of(plan(study(train={"epochs": 1, "speed": [option]}))[0])
    monkeypatch.setenv("PLIANT_DEVICE", "abacus")
    with pytest.raises(DeviceError, match="PLIANT_DEVICE is 'abacus'"):
        device_of(plan(study())[0])


def test_other_arithmetic_gives_other_numbers_and_says_so(tmp_path: Path) -> None:
    exact, fast = (run(study(train={"epochs": 2, "batch_size": 32, "speed": s}), store=tmp_path) for s in ([], ["bf16"]))
    one, two = exact.rows[0]["train_loss_last"], fast.rows[0]["train_loss_last"]
    assert one != two
    assert one == pytest.approx(two, rel=0.1)
    assert fast.rows[0]["speed"] == "bf16"
    assert fast.remarks == ("Arithmetic changed for speed: bf16.",)


def test_the_evaluation_batch_fits_the_memory_set_aside() -> None:
    def wide(activation: Callable[[], nn.Module], *, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 512, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs))

    data = Data.of(np.zeros((6, 1, 64, 64), np.uint8), np.arange(6) % 3)
    found = []
    for model, given in ((wide, data), (small_cnn, bars())):
        (spec,) = plan(study(model=model, data=given, protocol={"design": "holdout", "repeats": 1}))
        network, _ = build(spec, given, Custom(model=model))
        examples = Examples.of(given, spec.normalise, np.arange(len(given)), torch.device("cpu"))
        found.append(evaluation_batch(network, examples, spec))
    # 512 channels of 62 x 62 floats, in and out of the activation: 15.7 MB an example, 47 MB with what may lie beside them.
    assert found == [4, 8192]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("wdbc", 0.85), ("digits", 0.75)])
def test_bundled_data_are_learned(tmp_path: Path, name: str, least: float) -> None:
    """WDBC's majority is 62.7 %, a digit's chance 10 %."""
    asked = Study(
        name=name,
        dataset=name,
        model={"name": "ffnn", "options": {"width": 32}},
        activations=["relu"],
        protocol={"design": "holdout", "repeats": 1},
        train={"epochs": 12, "batch_size": 64, "optimizer": {"name": "momentum", "lr": 0.05}},
    )
    (row,) = run(asked, store=tmp_path).rows
    assert row["test_accuracy"] > least


@pytest.mark.parametrize(
    ("name", "options", "folder", "least"),
    [
        ("mnist", {}, "MNIST", 0.5),
        ("fashion-mnist", {}, "FashionMNIST", 0.5),
        # A copy in another encoding will do.
        ("cifar10", {"official": False}, "cifar-10-batches-py", 0.2),
        # Five classes in the sample; a hundred in the whole, of which a few epochs tell little.
        ("cifar100", {"official": False}, "cifar-100-python", 0.3),
    ],
)
def test_real_images_are_learned(
    tmp_path: Path, name: str, options: dict[str, bool], folder: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,500 training images and a few epochs, far above the chance of 10 %."""
    monkeypatch.setenv("PLIANT_DATA", str(image_files.real(folder).parent))
    whole = datasets.ALL[name].load(**options)
    rng = np.random.default_rng(0)
    assert whole.parts is not None
    rows = np.concatenate([rng.permutation(np.flatnonzero(whole.parts == p))[:n] for p, n in ((0, 1500), (2, 500))])
    asked = Study(
        name=name,
        data=Data.of(whole.x[rows], whole.y[rows], whole.classes, parts=whole.parts[rows]),
        model=real_cnn,
        activations=["relu"],
        protocol={"design": "official", "repeats": 1, "normalise": "channels"},
        train={"epochs": 4, "batch_size": 50, "optimizer": {"lr": 2e-3}, "augment": {"padding": 2}},
    )
    (row,) = run(asked, store=tmp_path).rows
    assert row["test_accuracy"] > least


@pytest.mark.slow
def test_mini_imagenet_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of its classes, where chance is 20 %."""
    monkeypatch.setenv("PLIANT_DATA", str(image_files.real("mini-imagenet").parent))
    whole = datasets.ALL["mini-imagenet"].load(official=False)
    rows = np.flatnonzero(whole.y < 5)
    asked = Study(
        name="mini",
        data=Data.of(whole.x[rows], whole.y[rows], whole.classes[:5]),
        model=real_cnn,
        activations=["relu"],
        protocol={"design": "holdout", "repeats": 1, "normalise": "channels"},
        train={"epochs": 12, "batch_size": 32, "optimizer": {"lr": 2e-3}, "augment": {"flip": True}},
    )
    (row,) = run(asked, store=tmp_path).rows
    assert row["test_accuracy"] > 0.3


def test_voc_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample has two images a class, too few to test on; that its labels can be fitted shows that they reach the loss."""
    monkeypatch.setenv("PLIANT_DATA", str(image_files.real("VOCdevkit", "voc/VOCdevkit").parent))
    asked = Study(
        name="voc",
        dataset={"name": "voc", "options": {"train": "2012/train", "validation": "", "test": "2012/val", "size": 32}},
        model={"name": "cnn", "options": {"dropout": 0.0}},
        activations=["relu"],
        metric="average_precision",
        protocol={"design": "official", "repeats": 1, "normalise": "channels"},
        train={"epochs": 25, "batch_size": 10, "optimizer": {"lr": 1e-3}},
    )
    result = run(asked, store=tmp_path)
    (row,) = result.rows
    losses = result.store.trial(row["key"]).history()
    assert losses[-1]["train_loss"] < 0.5 * losses[0]["train_loss"]


def real_cnn(activation: Callable[[], nn.Module], *, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, stride=2),
        activation(),
        nn.Conv2d(16, 32, 3, stride=2),
        activation(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(288, outputs),
    )


def test_split_is_what_the_row_says(tmp_path: Path) -> None:
    asked = study()
    (spec,) = plan(asked)
    parts, row = split(spec, asked.custom.data), run(asked, store=tmp_path).rows[0]
    assert (row["n_train"], row["n_validation"], row["n_test"]) == (len(parts.train), len(parts.validation), len(parts.test))
