from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official import pycocotools_scores, voc_kit_scores
from photographs import painted
from test_report import checked_figures

from pliant import AReLU
from pliant.lab import Study, detect, records, run
from pliant.lab.average_precision import match, unpack
from pliant.lab.datasets import Detection
from pliant.lab.datasets.arrays import DataError
from pliant.lab.report import build, wording, write_tables
from pliant.lab.result import Result
from pliant.lab.store import DETECTIONS, Store
from pliant.lab.study import StudyError, plan

TINY = {"name": "yolov2", "options": {"size": 64, "width": 0.1, "prior_images": 0}}
EACH: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"backbone": "resnet18", "size": 64, "box_features": 16, "proposals": 50, "pyramid_channels": 64},
    "fcos": {"backbone": "resnet18", "size": 64, "head_convs": 1, "pyramid_channels": 64},
    # The input size of a step and the end of the prior depend on how much was seen before.
    "yolov2": {"size": 64, "width": 0.1, "prior_images": 9, "scales": (32, 96), "every": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Detection:
    return painted(tmp_path_factory.mktemp("painted"))


def study(data: Detection, **given: Any) -> Study:
    values: dict[str, Any] = {
        "name": "tiny",
        "data": data,
        "model": TINY,
        "activations": ["relu", "arelu"],
        "protocol": {"design": "official", "validation": "official", "repeats": 2},
        "train": {"epochs": 2, "batch_size": 3, "augment": {"flip": True, "scale": (0.7, 1.4), "photometric": True}},
    }
    return Study(**{**values, **given})


@pytest.fixture(scope="module")
def finished(data: Detection, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(study(data), store=tmp_path_factory.mktemp("stores") / "store")


def test_a_study_of_detection_runs_and_every_row_is_scored(finished: Any) -> None:
    assert finished.study.metric == "ap"
    assert finished.counts == {"done": 4, "diverged": 0, "failed": 0, "missing": 0}
    for row in finished.rows:
        assert (row["n_train"], row["n_validation"], row["n_test"]) == (6, 2, 4)
        for part in ("train", "validation", "test"):
            for metric in ("ap", "ap50", "ap75", "ap50_voc", "ap50_voc07"):
                assert 0 <= row[f"{part}_{metric}"] <= 1
                assert 0 <= row[f"{part}_{metric}_last"] <= 1
        assert row["epochs"] == 2
        assert row["steps"] == 4
    again = run(finished.study, store=finished.store.root)
    assert again.rows == finished.rows, "nothing was trained twice"


def test_history_holds_the_parts_of_the_loss(finished: Any) -> None:
    history = finished.store.trial(finished.rows[0]["key"]).history()
    assert len(history) == 2
    for line in history:
        parts = [v for k, v in line.items() if k.startswith("train_loss_")]
        assert len(parts) >= 3
        assert sum(parts) == pytest.approx(line["train_loss"], rel=1e-5)
        assert {"validation_ap", "validation_ap50"} <= set(line)


def test_stored_detections_give_the_score_of_the_row(finished: Any, data: Detection) -> None:
    for row in finished.rows:
        saved = finished.store.trial(row["key"]).read(DETECTIONS)
        index, found, truth = unpack(saved)
        assert index.tolist() == data.part(2).tolist()
        assert match(found, truth, 2).score_of("ap50") == row["test_ap50"]
        assert truth.difficult.sum() == 1


def test_the_plan_of_the_swap_and_the_weights_are_in_the_result(finished: Any) -> None:
    told = finished.store.trial(finished.rows[1]["key"]).result()["detector"]
    assert told["weights"] == "random"
    assert sum("AReLU" in line for line in told["plan"]) == 22


def test_compared_detectors_start_from_the_same_weights_and_see_the_same_boxes(data: Detection) -> None:
    relu, arelu = plan(study(data))[:2]
    one, _ = detect.build(relu, data, study(data).custom)
    other, made = detect.build(arelu, data, study(data).custom)
    assert len(made) == 22
    theirs = other.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())
    assert detect.anchors_of(relu, data) == detect.anchors_of(arelu, data)


def test_a_test_part_without_some_classes_is_said_to_be_one(finished: Any, data: Detection, tmp_path: Path) -> None:
    assert finished.remarks == ()
    more = dataclasses.replace(data, classes=(*data.classes, "cross"), categories=(1, 2, 3))
    told = Result(study(more), Store(tmp_path)).remarks
    assert told == (
        "The 4 test images have objects of 2 of 3 classes; average precision is the mean over these, another quantity than "
        "over all.",
    )


def test_the_verdict_resamples_images_and_seeds(finished: Any) -> None:
    verdict = finished.verdict()
    assert verdict.metric == "ap"
    assert verdict.units == 4
    assert {c.activation for c in verdict.comparisons} == {"arelu"}
    assert set(verdict.estimates) == {"ap", "ap50", "ap75"}
    assert wording.headline(verdict).startswith("AReLU compared with ReLU on test AP (COCO): ")
    assert wording.sentence(verdict.comparisons[0], verdict).startswith("Test AP (COCO) is ")


def test_the_report_shows_boxes_classes_losses_and_the_plan(finished: Any, tmp_path: Path) -> None:
    data = finished.report_data(command="pliant run tiny")
    page = build(data, tmp_path).read_text()
    write_tables(data, tmp_path)
    assert page.count("data:image/jpeg;base64,") == 3, "once for each test image with objects, whatever the activations"
    assert page.count('<svg viewBox="0 0 64 64"') == 6
    assert 'class="truth"' in page
    assert "of each class on the test part" in page
    assert "The backbones started from: random." in page
    assert "What was swapped for AReLU" in page
    assert "Loss: " in page
    assert "Validation AP50 (COCO)" in page
    assert "curves" in checked_figures(page)
    # In the order of the network, not of the alphabet.
    assert page.index('"backbone.early.2.act"') < page.index('"backbone.early.10.act"')
    assert 'id="confusion"' not in page
    assert len(page) < 3_000_000
    assert "AP (COCO)" in (tmp_path / "table.tex").read_text()


def test_a_record_keeps_rows_and_verdict_and_says_that_boxes_are_left_out(finished: Any, tmp_path: Path) -> None:
    kept = records.read(records.write(finished, tmp_path, command="pliant run tiny"))
    assert kept.about["left_out"] == ["predictions: boxes in images; the verdict is kept as it was computed from them"]
    assert [row["test_ap50"] for row in kept.evidence.rows] == [row["test_ap50"] for row in finished.rows]
    mine, theirs = kept.verdict.comparisons[0], finished.verdict().comparisons[0]
    assert (mine.metric, mine.difference, mine.word) == (theirs.metric, theirs.difference, theirs.word)


class _KilledError(Exception):
    pass


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "seconds" not in name}


@pytest.mark.parametrize("name", EACH)
def test_a_killed_trial_goes_on_with_the_same_numbers_on_data_with_everything_official_sets_hold(
    name: str, tmp_path: Path
) -> None:
    """Images without objects, crowds, difficult objects, boxes without area and beyond the image, grey and CMYK."""
    rough = painted(tmp_path / "images", rough=True)
    chosen = study(rough, model={"name": name, "options": EACH[name]}, activations=[AReLU, "dsrelu"], repeats=1, epochs=3)
    spec = plan(chosen)[1]
    whole, killed = (Store(tmp_path / place).trial(spec.key) for place in ("whole", "killed"))
    detect.train(spec, rough, chosen.custom, whole)

    def kill(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:
            raise _KilledError

    with pytest.raises(_KilledError):
        detect.train(spec, rough, chosen.custom, killed, kill, checkpoint_every=0)
    assert killed.outcome() == "missing"
    torch.rand(7)
    detect.train(spec, rough, chosen.custom, killed)
    assert whole.outcome() == "done"
    assert killed.result()["provenance"]["resumed_from_epoch"] == 1
    assert whole.read(DETECTIONS) == killed.read(DETECTIONS)
    assert numbers(whole.result()["row"]) == numbers(killed.result()["row"])
    assert [{**e, "seconds": 0} for e in whole.history()] == [{**e, "seconds": 0} for e in killed.history()]


def test_worker_processes_give_the_same_rows(data: Detection, tmp_path: Path) -> None:
    chosen = study(data, repeats=1)
    before = torch.get_num_threads()
    try:
        # As many as each of two workers takes; their number shows in the last bits.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
        serial = run(chosen, store=tmp_path / "serial", on="serial")
    finally:
        torch.set_num_threads(before)
    local = run(chosen, store=tmp_path / "local", on="local:2")
    assert local.counts["done"] == 2
    assert [numbers(row) for row in local.rows] == [numbers(row) for row in serial.rows]
    for row in serial.rows:
        one, other = (result.store.trial(row["key"]).read(DETECTIONS) for result in (serial, local))
        assert one == other


def test_what_a_trial_stored_scores_as_the_official_tools_say(tmp_path: Path) -> None:
    rough = painted(tmp_path / "images", images=60, rough=True)
    optimizer = {"name": "adam", "lr": 3e-3}
    recipe = {"epochs": 40, "batch_size": 6, "optimizer": optimizer, "schedule": "cosine", "augment": {"flip": True}}
    result = run(study(rough, activations=["arelu"], repeats=1, train=recipe), store=tmp_path / "store")
    row = result.rows[0]
    _, found, truth = unpack(result.store.trial(row["key"]).read(DETECTIONS))
    renamed = {"crowd": "iscrowd", "areas": "area"}
    detections, annotated = (
        [
            {renamed.get(k, k): v[low:high] for k, v in vars(kept).items() if k != "offsets"}
            for low, high in itertools.pairwise(kept.offsets)
        ]
        for kept in (found, truth)
    )
    assert 0.1 < row["test_ap50"] < 0.99, "a case that says something"
    assert truth.crowd.any()
    expected, _ = pycocotools_scores(detections, annotated, 2)
    # In a row what is undefined, as of large objects where there are none, is None.
    ours = {name: math.nan if (value := row[f"test_{name}"]) is None else value for name in expected}
    assert ours == pytest.approx(expected, abs=1e-6, nan_ok=True)
    kit = np.array([voc_kit_scores(detections, annotated, c) for c in (0, 1)]).mean(axis=0)
    assert (row["test_ap50_voc"], row["test_ap50_voc07"]) == pytest.approx(tuple(kit), abs=1e-9)


def test_a_detector_that_diverges_is_a_result_that_found_nothing(data: Detection, tmp_path: Path) -> None:
    wild = study(
        data, activations=["relu"], repeats=1, train={"epochs": 3, "batch_size": 3, "optimizer": {"name": "sgd", "lr": 1e30}}
    )
    result = run(wild, store=tmp_path / "store")
    assert result.counts["diverged"] == 1
    assert result.rows[0]["test_ap"] == result.rows[0]["test_ap50_voc"] == 0.0
    assert result.rows[0]["selected_epoch"] == 0


def test_folds_of_images(data: Detection, tmp_path: Path) -> None:
    folds = study(data, activations=["relu"], protocol={"folds": 3, "repeats": 1, "validation": 0.25}, epochs=1)
    result = run(folds, store=tmp_path / "store")
    assert [(r["n_train"], r["n_validation"], r["n_test"]) for r in result.rows] == [(6, 2, 4)] * 3


def test_a_grid_of_rates_is_chosen_by_validation_ap(data: Detection, tmp_path: Path) -> None:
    grid = study(data, activations=["relu"], repeats=1, train={"epochs": 1, "batch_size": 3, "lr_grid": [1e-3, 1e-4]})
    result = run(grid, store=tmp_path / "store")
    assert len(result.trial_rows) == 2
    assert result.rows[0]["validation_ap"] == max(r["validation_ap"] for r in result.trial_rows)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    data = painted(tmp_path / "images")
    content = data.paths[4].read_bytes()
    broken = painted(tmp_path / "images")
    data.paths[4].write_bytes(content[: len(content) // 2])
    chosen = study(broken, repeats=1)
    with pytest.raises(DataError, match=r"004\.jpg"):
        detect.train(plan(chosen)[0], broken, chosen.custom, Store(tmp_path / "store").trial(plan(chosen)[0].key))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"model": "resnet50"}, "faster_rcnn, fcos, yolov2"),
        ({"metric": "accuracy"}, "no use for metric = 'accuracy'"),
        ({"thresholds": [0.5]}, "thresholds"),
        ({"train": {"batch_norm": "recomputed"}}, r"train\.batch_norm"),
        ({"train": {"label_smoothing": 0.1}}, r"train\.label_smoothing"),
        ({"train": {"augment": {"padding": 4}}}, "padding"),
        ({"train": {"speed": ["compile"]}}, "compile"),
        ({"protocol": {"design": "official", "groups": True}}, "groups"),
        ({"protocol": {"design": "official", "normalise": "channels"}}, "normalise"),
        ({"quirks": ["double_softmax"]}, "double_softmax"),
        ({"activations": ["relu", "frozen:arelu"]}, "no use for the activation frozen:arelu"),
        ({"model": {"name": "yolov2", "options": {"wdth": 1.0}}}, "width"),
        ({"model": {"name": "yolov2", "options": {"weights": "nowhere.pt"}}}, "nowhere.pt"),
        ({"model": {"name": "yolov2", "options": {"scales": 320}}}, "expected tuple"),
    ],
)
def test_what_detection_has_no_use_for_is_refused(data: Detection, given: dict[str, Any], part: str) -> None:
    with pytest.raises(StudyError, match=part):
        plan(study(data, **given))


def test_classes_have_no_use_for_detectors() -> None:
    def one(**given: Any) -> Study:
        return Study(**{"name": "c", "dataset": "wdbc", "model": "ffnn", "activations": ["relu"], **given})

    with pytest.raises(StudyError, match="is a detector"):
        plan(one(model="fcos"))
    with pytest.raises(StudyError, match="is of detection"):
        plan(one(metric="ap50"))
    with pytest.raises(StudyError, match="of detection"):
        plan(one(train={"augment": {"photometric": True}}))


def test_the_new_keys_of_a_study_leave_old_trials_their_names() -> None:
    old = plan(Study(name="c", dataset="wdbc", model="ffnn", activations=["relu"]))[0]
    # Computed before there was detection.
    assert old.key == "3580246d8ebf433f44e728c8af0b918193e141a87bc4b24baddf11c0ee3994f4"


def test_a_file_of_weights_is_known_by_its_content_and_not_its_place(data: Detection, tmp_path: Path) -> None:
    detector, _ = detect.build(plan(study(data))[0], data, study(data).custom)
    keys, chosen = [], None
    torch.save(detector.backbone.state_dict(), tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        chosen = study(data, model={"name": "yolov2", "options": {**TINY["options"], "weights": str(tmp_path / name)}})
        keys.append(plan(chosen)[0].key)
    assert keys[0] == keys[1]
    assert keys[0] != plan(study(data))[0].key
    loaded, _ = detect.build(plan(chosen)[0], data, chosen.custom)
    assert "b.pt" in str(loaded.weights_from)
    torch.save({k: v + 1 for k, v in detector.backbone.state_dict().items()}, tmp_path / "a.pt")
    assert (
        plan(study(data, model={"name": "yolov2", "options": {**TINY["options"], "weights": str(tmp_path / "a.pt")}}))[0].key
        not in keys
    )


def test_sizes_of_training_come_from_the_study(data: Detection) -> None:
    chosen = study(data, model={"name": "yolov2", "options": {**TINY["options"], "scales": [32, 96], "every": 1}})
    spec = type(plan(chosen)[0]).model_validate(json.loads(plan(chosen)[0].model_dump_json()))
    assert spec.key == plan(chosen)[0].key
    detector, _ = detect.build(spec, data, chosen.custom)
    assert {detector.resize_for(0, step) for step in range(30)} == {32, 64, 96}


def test_test_images_are_looked_at_once(data: Detection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    original = detect.Detecting.detect

    def note(self: Any, rows: Any) -> Any:
        looked.extend(r for r in rows.tolist() if data.parts[r] == 2)
        return original(self, rows)

    monkeypatch.setattr(detect.Detecting, "detect", note)
    run(study(data, activations=["relu"], repeats=1, epochs=3), store=tmp_path / "store")
    assert len(looked) <= 2 * len(data.part(2)), "at the selected and the last epoch"
