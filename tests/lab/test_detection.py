from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from real import folder as real_folder

from pliant.lab import Study
from pliant.lab.datasets import VOC, COCODetection, Detection, VOCDetection
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.detection import Objects
from pliant.lab.study import StudyError, plan

DRAW = np.random.default_rng(0)


def photograph(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(DRAW.integers(256, size=(height, width, 3), dtype=np.uint8))


def xml(name: str, width: int, height: int, *objects: tuple[str, tuple[float, ...], int]) -> str:
    items = "".join(
        f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for kind, b, hard in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>{size}{items}</annotation>"


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VOC2007 with four images: two to train, one to validate, one to test."""
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    base = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / name).mkdir(parents=True)
    for name, ids in {"train": "000001\n000002\n", "val": "000003\n", "test": "000004\n", "trainval": "000001\n000003"}.items():
        (base / "ImageSets" / "Main" / f"{name}.txt").write_text(ids)
    objects: dict[str, list[tuple[str, tuple[float, ...], int]]] = {
        "000001": [("dog", (1, 1, 40, 30), 0), ("person", (5.5, 6, 20, 21), 1), ("dog", (3, 3, 9, 9), 1)],
        "000002": [],
        "000003": [("cat", (10, 10, 10, 10), 0), ("sofa", (-4, 2, 60, 500), 0), ("car", (41, 1, 50, 9), 0)],
        "000004": [("tvmonitor", (2, 2, 3, 3), 0)],
    }
    for name, found in objects.items():
        photograph(30, 40).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
        (base / "Annotations" / f"{name}.xml").write_text(xml(name, 40, 30, *found))
    return base


def test_boxes_begin_at_the_outer_edge_of_the_first_pixel(voc: Path) -> None:
    data = VOCDetection.load()
    assert data.ids == ("000001", "000002", "000003", "000004")
    assert data.parts.tolist() == [0, 0, 1, 2]
    assert data.part(0).tolist() == [0, 1]
    assert data.sizes.tolist() == [[30, 40]] * 4
    truth = data.truth(0)
    assert truth["boxes"].tolist() == [[0, 0, 40, 30], [4.5, 5, 20, 21], [2, 2, 9, 9]]
    assert truth["boxes"].dtype == np.float32
    assert [data.classes[c] for c in truth["labels"]] == ["dog", "person", "dog"]
    assert truth["difficult"].tolist() == [False, True, True]
    assert not truth["iscrowd"].any()
    # The official area of the first box: (40 - 1 + 1) x (30 - 1 + 1).
    assert truth["area"].tolist() == [1200, 248, 49]
    assert truth["image_id"] == 0
    # One pixel is no empty box: 10 .. 10 is a pixel wide.
    assert data.truth(2)["area"][0] == 1


def test_an_image_without_objects(voc: Path) -> None:
    image, target = VOCDetection.load().example(1)
    assert image.shape == (3, 30, 40)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].dtype == np.int64
    assert target["labels"].shape == (0,)


def test_training_sees_what_is_in_the_image_and_evaluation_what_is_annotated(voc: Path) -> None:
    data = VOCDetection.load()
    assert data.truth(2)["boxes"].tolist() == [[9, 9, 10, 10], [-5, 1, 60, 500], [40, 0, 50, 9]]
    target = data.example(2)[1]
    # The car lies wholly to the right of the image.
    assert target["boxes"].tolist() == [[9, 9, 10, 10], [0, 1, 40, 30]]
    assert [data.classes[c] for c in target["labels"]] == ["cat", "sofa"]
    assert len(target["area"]) == len(target["iscrowd"]) == len(target["difficult"]) == 2


def test_arrays_are_read_only(voc: Path) -> None:
    data = VOCDetection.load()
    with pytest.raises(ValueError, match="read-only"):
        data.truth(0)["boxes"][0] = 0


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB", "1", "YCbCr"])
def test_every_kind_of_image_becomes_rgb(voc: Path, mode: str) -> None:
    path = voc / "JPEGImages" / "000001.jpg"
    grey = PIL.Image.fromarray(np.full((30, 40), 200, np.uint8))
    # From colours Pillow would dither to a palette; from grey it has every level.
    grey = grey.convert(mode) if mode == "P" else grey.convert("RGB").convert(mode)
    grey.save(path, format="PNG" if mode in "P1" else "JPEG", quality=95)
    image = VOCDetection.load().image(0)
    assert (image.shape, image.dtype, image.flags.c_contiguous) == ((3, 30, 40), np.uint8, True)
    if mode != "1":
        np.testing.assert_allclose(image.astype(int), 200, atol=4)


def test_sixteen_bits_are_not_cut_to_eight(voc: Path) -> None:
    PIL.Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(voc / "JPEGImages" / "000001.jpg", format="PNG")
    with pytest.raises(DataError, match=r"000001\.jpg .*more than eight bits"):
        VOCDetection.load().image(0)


def test_orientation_is_what_the_annotated_size_says(voc: Path) -> None:
    path = voc / "JPEGImages" / "000001.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    stored = photograph(40, 30)
    stored.save(path, exif=exif, quality=100, subsampling=0)
    # Stored upright 30 wide, annotated 40 wide: the camera's note turns it.
    turned = VOCDetection.load().image(0)
    upright = np.asarray(PIL.Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))
    # Annotated as it is stored: the note is ignored, as the official tools do.
    (voc / "Annotations" / "000001.xml").write_text(xml("000001", 30, 40))
    assert np.array_equal(VOCDetection.load().image(0), upright)
    (voc / "Annotations" / "000001.xml").write_text(xml("000001", 31, 40))
    with pytest.raises(DataError, match=r"000001\.jpg has 30 x 40 pixels, but its annotation says 31 x 40"):
        VOCDetection.load().image(0)


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"<html>no</html>"])
def test_a_broken_image_is_named(voc: Path, damage: Any) -> None:
    path = voc / "JPEGImages" / "000004.jpg"
    path.write_bytes(damage(path.read_bytes()))
    data = VOCDetection.load()
    with pytest.raises(DataError, match=r"000004\.jpg cannot be read"):
        data.example(3)
    with pytest.raises(DataError, match=r"000004\.jpg cannot be read"):
        VOC.load(size=8)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>'
GOOD = xml("000001", 40, 30, ("dog", (1, 1, 40, 30), 0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not an XML annotation"),
        (GOOD[:-20], "is not an XML annotation"),
        (BOMB + GOOD.replace("dog", "&c;"), "document type declaration"),
        (OUTSIDE + GOOD.replace("dog", "&b;"), "document type declaration"),
        (f'<?xml version="1.0" encoding="no-such"?>{GOOD}', "is not an XML annotation"),
        ("<html></html>", "its root is <html>"),
        (GOOD.replace("000001", "000007"), "annotates the image '000007.jpg'"),
        (GOOD.replace("dog", "dragon"), "object 1: the class is 'dragon'"),
        (GOOD.replace("<xmax>40", "<xmax>0", 1), "ends before it begins"),
        (GOOD.replace("<xmax>40", "<xmax>wide", 1), "bndbox/xmax is 'wide'"),
        (GOOD.replace("<xmax>40", "<xmax>nan", 1), "bndbox/xmax is 'nan'"),
        (GOOD.replace("<xmax>40</xmax>", "", 1), "bndbox/xmax is None"),
        (GOOD.replace("<difficult>0", "<difficult>yes"), "difficult is 'yes'"),
        (GOOD.replace("<width>40", "<width>0"), "has a size of 0 x 30 pixels"),
        (GOOD.replace("<width>40", "<width>40.5"), "not a whole number of pixels"),
        (GOOD.replace("<size>", "<sizes>").replace("</size>", "</sizes>"), "size/width is None"),
    ],
)
def test_a_broken_annotation_is_named(voc: Path, content: str, expected: str) -> None:
    (voc / "Annotations" / "000001.xml").write_text(content)
    with pytest.raises(DataError, match=expected) as error:
        VOCDetection.load()
    assert "000001" in str(error.value)


def test_entities_are_refused_in_any_encoding(voc: Path) -> None:
    (voc / "Annotations" / "000001.xml").write_bytes((BOMB + GOOD.replace("dog", "&c;")).encode("utf-16"))
    with pytest.raises(DataError, match="document type declaration"):
        VOCDetection.load()


def test_lists_and_parts(voc: Path) -> None:
    joined = VOCDetection.load(train="2007/train+2007/val", validation="")
    assert joined.parts.tolist() == [0, 0, 0, 2]
    with pytest.raises(DataError, match=r"1 images are listed twice, the first is .*000001\.jpg"):
        VOCDetection.load(train="2007/trainval+2007/train", validation="")
    with pytest.raises(DataError, match="in two parts"):
        VOC.load(train="2007/trainval", size=8)
    with pytest.raises(DataError, match="expected year/list"):
        VOCDetection.load(train="trainval")
    with pytest.raises(DataError, match=r"VOC2012/ImageSets/Main/train\.txt.*VOCtrainval_11-May-2012\.tar"):
        VOCDetection.load(train="2012/train")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("../../000001\n")
    with pytest.raises(DataError, match="expected the name of one image"):
        VOCDetection.load()
    (voc / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no image"):
        VOCDetection.load()
    (voc / "ImageSets" / "Main" / "train.txt").write_text("000009\n")
    with pytest.raises(DataError, match=r"000009\.xml cannot be read"):
        VOCDetection.load()


def test_a_missing_image_is_named(voc: Path) -> None:
    (voc / "JPEGImages" / "000003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 annotated images have no file: .*000003\.jpg"):
        VOCDetection.load()


def test_fingerprints_see_annotations_and_files(voc: Path) -> None:
    data = VOCDetection.load()
    before, contents = data.fingerprint(), data.contents()
    assert VOCDetection.load().fingerprint() == before
    assert VOCDetection.load(validation="").fingerprint() != before
    path = voc / "JPEGImages" / "000003.jpg"
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 1
    path.write_bytes(bytes(damaged))
    again = VOCDetection.load()
    assert again.fingerprint() == before
    assert again.contents() != contents
    path.write_bytes(bytes(damaged) + b"\0")
    assert VOCDetection.load().fingerprint() != before
    path.write_bytes(bytes(damaged))
    (voc / "Annotations" / "000002.xml").write_text(xml("000002", 40, 30, ("dog", (1, 1, 4, 3), 0)))
    assert VOCDetection.load().fingerprint() != before


def test_difficult_objects_count_neither_way(voc: Path) -> None:
    data = VOC.load(size=8)
    assert data.x.shape == (4, 3, 8, 8)
    assert data.x.dtype == np.uint8
    assert data.task == "multilabel"
    assert data.parts is not None
    assert data.parts.tolist() == [0, 0, 1, 2]
    labels = {data.classes[c]: int(v) for c, v in enumerate(data.y[0]) if v}
    # One dog is easy; the only person is not.
    assert labels == {"dog": 1, "person": 255}
    assert not data.y[1].any()


def test_images_are_stretched_or_cropped(voc: Path) -> None:
    path = voc / "JPEGImages" / "000001.jpg"
    bars = np.zeros((30, 40, 3), np.uint8)
    bars[:, 5:35] = 255
    PIL.Image.fromarray(bars).save(path, format="PNG")
    stretched = VOC.load(size=40).x[0]
    assert (stretched[:, :, 0] == 0).all()
    assert (stretched[:, :, 20] == 255).all()
    # The middle square is 30 wide: the black bars are outside.
    assert (VOC.load(size=30, resize="crop").x[0] == 255).all()
    with pytest.raises(DataError, match="size was given as 0"):
        VOC.load(size=0)


# COCO.

INSTANCES: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 9, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 25, "file_name": "b.jpg", "height": 30, "width": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 90, "bbox": [1.5, 2, 10, 5.25], "area": 30.5, "iscrowd": 0, "segmentation": []},
        {"id": 7, "image_id": 9, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        {"id": 8, "image_id": 9, "category_id": 1, "bbox": [35, 25, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 1, "bbox": [5, 5, 0, 3], "area": 0, "iscrowd": 0},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
}


def save(base: Path, content: Any, part: str = "train2017") -> None:
    (base / "annotations" / f"instances_{part}.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    base = tmp_path / "coco"
    (base / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (base / part).mkdir()
        for name in "ab":
            photograph(30, 40).save(base / part / f"{name}.jpg")
        save(base, INSTANCES, part)
    return base


def test_instances_of_coco(coco: Path) -> None:
    data = COCODetection.load()
    assert data.ids == ("9", "25", "9", "25")
    assert data.parts.tolist() == [0, 0, 2, 2]
    # Classes are numbered without gaps, in the order of the categories, and know their category.
    assert data.classes == ("person", "toothbrush")
    assert data.categories == (1, 90)
    truth = data.truth(0)
    assert truth["labels"].tolist() == [1, 0, 0, 0]
    assert [data.categories[c] for c in truth["labels"]] == [90, 1, 1, 1]
    assert truth["boxes"].tolist() == [[1.5, 2, 11.5, 7.25], [0, 0, 40, 30], [35, 25, 45, 35], [5, 5, 5, 8]]
    assert truth["iscrowd"].tolist() == [False, True, False, False]
    # The area is that of the outline.
    assert truth["area"].tolist() == [30.5, 900, 100, 0]
    target = data.example(0)[1]
    # Trained on: what is in the image, and has an area.
    assert target["boxes"].tolist() == [[1.5, 2, 11.5, 7.25], [0, 0, 40, 30], [35, 25, 40, 30]]
    assert len(data.truth(1)["boxes"]) == 0


def change(at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(INSTANCES)
    place: Any = content
    for key in at[:-1]:
        place = place[key]
    if value is None:
        del place[at[-1]]
    else:
        place[at[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not JSON"),
        (json.dumps(INSTANCES)[:-9], "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "no list of categories"),
        (change(("images",), None), "no list of images"),
        (change(("annotations",), [1]), "no list of annotations"),
        (change(("categories",), []), "no categories"),
        (change(("categories", 1, "id"), 90), "two of the same number"),
        (change(("categories", 1, "name"), 3), "category 1 has the name 3"),
        (change(("images", 1, "id"), 9), "image 1 has the number 9"),
        (change(("images", 1, "id"), True), "image 1 has the id True"),
        (change(("images", 1, "height"), None), "image 1 has the height None"),
        (change(("images", 1, "height"), -3), "the image 25 has a size of 40 x -3"),
        (change(("images", 1, "file_name"), "../train2017/a.jpg"), "not inside the folder"),
        (change(("images", 1, "file_name"), "/etc/hostname"), "not inside the folder"),
        (change(("images", 1, "file_name"), "a.jpg"), "1 images are listed twice"),
        (change(("images", 1, "file_name"), "c.jpg"), r"have no file: .*c\.jpg"),
        (change(("annotations", 1, "id"), 1), "annotation 1 has the number 1"),
        (change(("annotations", 1, "image_id"), 10), "annotation 1 is of image 10"),
        (change(("annotations", 1, "category_id"), 2), "annotation 1 is of category 2"),
        (change(("annotations", 1, "bbox"), [1, 2, 3]), r"annotation 1 has the box \[1, 2, 3\]"),
        (change(("annotations", 1, "bbox"), [1, 2, -3, 4]), r"annotation 1 has the box \[1, 2, -3, 4\]"),
        (change(("annotations", 1, "bbox"), [1, 2, float("nan"), 4]), "annotation 1 has the box"),
        (change(("annotations", 1, "bbox"), [1, 2, 1e300, 4]), "annotation 1 has the box"),
        (change(("annotations", 1, "bbox"), None), "annotation 1 has the box None"),
        (change(("annotations", 1, "iscrowd"), 2), "annotation 1 has iscrowd 2"),
        (change(("annotations", 1, "area"), "big"), "annotation 1 has iscrowd 1 and area big"),
    ],
)
def test_broken_instances_are_named(coco: Path, content: Any, expected: str) -> None:
    save(coco, content)
    with pytest.raises(DataError, match=expected) as error:
        COCODetection.load()
    assert "train2017" in str(error.value) or "image 25" in str(error.value)


def test_parts_of_coco_have_the_same_classes(coco: Path) -> None:
    save(coco, change(("categories", 1, "name"), "man"), "val2017")
    with pytest.raises(DataError, match=r"instances_val2017\.json has other categories"):
        COCODetection.load()
    assert COCODetection.load(test="").classes == ("person", "toothbrush")
    with pytest.raises(DataError, match=r"instances_val2018\.json") as error:
        COCODetection.load(test="val2018")
    assert "fetch" not in str(error.value)
    with pytest.raises(DataError, match="expected the name of an image folder"):
        COCODetection.load(test="../val2017")


def test_damaged_bytes_are_read_or_refused_but_never_crash(voc: Path, coco: Path) -> None:
    # Both fixtures share one root.
    refused = 0
    cases = [
        (voc / "Annotations" / "000001.xml", VOCDetection),
        (coco / "annotations" / "instances_train2017.json", COCODetection),
        (voc / "ImageSets" / "Main" / "train.txt", VOCDetection),
        (voc / "JPEGImages" / "000001.jpg", VOCDetection),
    ]
    for path, kind in cases:
        whole = path.read_bytes()
        for _ in range(100):
            content = bytearray(whole)
            for at in DRAW.integers(len(content), size=DRAW.integers(1, 4)):
                content[at] = DRAW.integers(256)
            path.write_bytes(bytes(content))
            try:
                kind.load().example(0)
            except DataError:
                refused += 1
        path.write_bytes(whole)
    assert 80 < refused < 400


# A type of its own.


def test_what_is_packed_must_make_sense(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photograph(4, 4).save(path)
    good = {"id": "a", "path": path, "size": (4, 4), "boxes": [(0.0, 0.0, 1.0, 1.0)], "labels": [0], "part": 0, "areas": None}

    def pack(**changed: Any) -> Detection:
        objects = Objects(**{**good, "difficult": [False], "crowd": [False], **changed})
        return Detection.of([objects], ("x",), (0,), "own")

    assert pack().task == "detection"
    assert len(pack()) == 1
    for changed, expected in [
        ({"labels": [1]}, "classes go from 0 to 0"),
        ({"labels": [0, 0]}, "another number of boxes"),
        ({"boxes": [(2.0, 0.0, 1.0, 1.0)]}, "left <= right"),
        ({"boxes": [(0.0, 0.0, float("inf"), 1.0)]}, "finite"),
        ({"size": (0, 4)}, "4 x 0 pixels"),
    ]:
        with pytest.raises(DataError, match=expected):
            pack(**changed)
    with pytest.raises(DataError, match="no image in it"):
        Detection.of([], ("x",), (0,), "own")


def test_a_study_of_classification_refuses_detection_data(voc: Path) -> None:
    study = Study(name="s", dataset="voc-detection", model="ffnn", activations=["relu"])
    with pytest.raises(StudyError, match="'voc-detection' is one for detection"):
        plan(study)


# The real samples.


def test_the_real_voc_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(real_folder("VOCdevkit", tmp_path)))
    lists = {"train": "2012/train", "validation": "", "test": "2012/val"}
    data = VOCDetection.load(**lists)
    examples = [data.example(i) for i in range(min(len(data), 60))]
    assert all(image.shape == (3, *data.sizes[i]) for i, (image, _) in enumerate(examples))
    assert (np.bincount(data.labels, minlength=20) > 0).all()
    if len(data) == 60:
        assert len(data.boxes) == 173
        assert np.bincount(data.parts).tolist() == [42, 0, 18]
    if len(data) <= 1000:
        labels = VOC.load(**lists, size=32)
        for i in range(len(data)):
            truth = data.truth(i)
            assert set(np.flatnonzero(labels.y[i] == 1)) == set(truth["labels"][~truth["difficult"]])
            assert set(np.flatnonzero(labels.y[i])) == set(truth["labels"])


def test_the_real_coco_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = real_folder("coco", tmp_path)
    monkeypatch.setenv("PLIANT_DATA", str(root))
    data = COCODetection.load(train="val2017", test="")
    assert len(data.classes) == 80
    assert (data.categories[0], data.categories[-1]) == (1, 90)
    api = json.loads((root / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert len(data.boxes) == len(api["annotations"])
    for i in range(min(len(data), 30)):
        image, _ = data.example(i)
        mine = sorted(data.truth(i)["area"].tolist())
        theirs = sorted(a["area"] for a in api["annotations"] if a["image_id"] == int(data.ids[i]))
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        assert image.shape == (3, *data.sizes[i])
    both = COCODetection.load()
    if len(both) == 28:
        assert len(both.boxes) == 319
        assert both.crowd.sum() == 4
