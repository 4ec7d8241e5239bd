from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import painted
from torchvision import tv_tensors
from torchvision.transforms import v2

from pliant.lab.datasets.arrays import DataError
from pliant.lab.photographs import changed, read, stream
from pliant.lab.recipe import Augment

CPU = torch.device("cpu")
ALL = Augment(flip=True, scale=(0.5, 2.0), photometric=True)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marked(height: int = 40, width: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image with one bright box in it."""
    image = torch.full((3, height, width), 30, dtype=torch.uint8)
    image[:, 10:26, 8:40] = 230
    return image, torch.tensor([[8.0, 10.0, 40.0, 26.0]]), torch.tensor([3])


def bright(image: torch.Tensor) -> list[float]:
    rows, columns = torch.where(image[0] > 170)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_a_mirror_is_that_of_torchvision() -> None:
    image, boxes, labels = marked()
    mirrored = [changed(image, boxes, labels, Augment(flip=True), generator(s)) for s in range(20)]
    expected = v2.functional.horizontal_flip(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(40, 60)))
    kinds = {tuple(b[0].tolist()) for _, b, _ in mirrored}
    assert kinds == {tuple(boxes[0].tolist()), tuple(expected[0].tolist())}, "about half of them are"
    for picture, box, _ in mirrored:
        assert bright(picture) == box[0].tolist()


@pytest.mark.parametrize("seed", range(12))
def test_boxes_move_with_what_is_in_them(seed: int) -> None:
    image, boxes, labels = marked()
    picture, moved, left = changed(image, boxes, labels, Augment(flip=True, scale=(0.5, 2.0)), generator(seed))
    assert picture.shape == image.shape
    assert picture.dtype == torch.uint8
    if len(moved):
        assert left.tolist() == [3]
        # Interpolation blurs the edge of what was enlarged.
        assert np.allclose(bright(picture), moved[0].tolist(), atol=1.6)
        assert (moved >= 0).all()
        assert (moved[0, 2:] <= torch.tensor([60.0, 40.0])).all()


def test_an_object_whose_centre_is_gone_is_left_out() -> None:
    image, boxes, labels = marked()
    counts = {len(changed(image, boxes, labels, Augment(scale=(3.0, 3.0)), generator(s))[2]) for s in range(40)}
    assert counts == {0, 1}


def test_colours_change_and_boxes_do_not() -> None:
    image, boxes, labels = marked()
    pictures = [changed(image, boxes, labels, Augment(photometric=True), generator(s)) for s in range(8)]
    assert len({p.numpy().tobytes() for p, _, _ in pictures}) > 4
    assert all(torch.equal(b, boxes) for _, b, _ in pictures)


def test_nothing_asked_for_is_nothing_done() -> None:
    image, boxes, labels = marked()
    for got, given in zip(changed(image, boxes, labels, Augment(), generator(0)), (image, boxes, labels), strict=True):
        assert torch.equal(got, given)


def test_an_image_of_an_epoch_depends_on_no_other(tmp_path: Path) -> None:
    data = painted(tmp_path)
    one = next(stream(data, [[5, 7]], CPU, ALL, 11))
    several = list(stream(data, [[1], [2, 7], [5]], CPU, ALL, 11))
    assert torch.equal(one[0][0], several[2][0][0])
    assert torch.equal(one[0][1], several[1][0][1])
    assert torch.equal(one[1][1]["boxes"], several[1][1][1]["boxes"])
    other = next(stream(data, [[5, 7]], CPU, ALL, 12))
    assert not torch.equal(one[0][0], other[0][0]), "another epoch"


def test_images_are_floats_up_to_one_and_hard_objects_are_not_taught(tmp_path: Path) -> None:
    data = painted(tmp_path)
    images, targets = next(stream(data, [list(range(12))], CPU))
    assert all(i.shape == (3, 64, 64) and i.dtype == torch.float32 and i.min() >= 0 and i.max() <= 1 for i in images)
    assert [len(t["labels"]) for t in targets] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 1, 3], "one of the tenth image is difficult"
    assert targets[0]["boxes"].shape == (0, 4)
    assert targets[3]["labels"].dtype == torch.int64


def test_grey_and_cmyk_images_are_read_as_colours(tmp_path: Path) -> None:
    data = painted(tmp_path)
    for i in (1, 2):
        image, target = read(data, i)
        left, top, right, bottom = (int(v) for v in target["boxes"][0])
        inside = image[:, top + 4 : bottom - 4, left + 4 : right - 4].float().mean()
        assert inside < 70 if target["labels"][0] else inside > 180


def test_a_damaged_image_is_named_and_ends_the_stream(tmp_path: Path) -> None:
    data = painted(tmp_path)
    content = data.paths[3].read_bytes()
    data.paths[3].write_bytes(content[:300])
    batches = stream(data, [[0], [1], [2], [3]], CPU)
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(DataError, match=r"003\.jpg"):
        next(batches)
