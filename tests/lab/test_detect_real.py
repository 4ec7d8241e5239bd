"""The three detectors on the real samples of VOC and COCO, through the lab: each learns its images by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real

from pliant.lab import Study, run

DATA = {
    "VOCdevkit": {"name": "voc-detection", "options": {"train": "2012/train", "validation": "", "test": "2012/val"}},
    "coco": {"name": "coco-detection", "options": {}},
}
SHARE = {"VOCdevkit": 0.15, "coco": 0.4}
"""So many of the sample that six or seven images are trained on."""
BAR = {"VOCdevkit": 0.5, "coco": 0.2}
"""AP50 on the training images. At 160 pixels many objects of COCO are a few pixels wide."""
SMALL: dict[str, Any] = {"backbone": "resnet18", "size": 160, "max_size": 160, "pyramid_channels": 64}


@pytest.mark.slow
@pytest.mark.parametrize("folder", DATA)
@pytest.mark.parametrize(
    ("name", "options", "epochs", "rate", "falls"),
    [
        ("faster_rcnn", {**SMALL, "box_features": 128, "proposals": 100}, 40, 1e-3, 5),
        ("fcos", {**SMALL, "head_convs": 2}, 40, 1e-3, 2),
        ("yolov2", {"width": 0.25, "size": 160, "prior_images": 0}, 50, 2e-3, 20),
    ],
)
def test_it_learns_by_heart(
    folder: str,
    name: str,
    options: dict[str, Any],
    epochs: int,
    rate: float,
    falls: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("PLIANT_DATA", str(real.folder(folder, tmp_path / "data")))
    asked = Study(
        name="by-heart",
        dataset=DATA[folder],
        model={"name": name, "options": options},
        activations=["relu", "arelu", "prelu", "swish"],
        metric="ap50",
        protocol={"design": "official", "validation": 0.15, "repeats": 1, "share": SHARE[folder]},
        train={"epochs": epochs, "batch_size": 3, "optimizer": {"name": "adam", "lr": rate}, "schedule": "cosine"},
    )
    result = run(asked, store=tmp_path / "store")
    assert result.counts["done"] == 4
    for row in result.rows:
        losses = [epoch["train_loss"] for epoch in result.store.trial(row["key"]).history()]
        assert losses[-1] < losses[0] / falls, f"{row['label']}: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
        assert row["train_ap50_last"] > BAR[folder], (
            f"{row['label']}: AP50 on its training images is {row['train_ap50_last']:.3f}"
        )
