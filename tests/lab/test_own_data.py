"""What a user brings: torch data sets, arrays of bytes, tables, folders of images; and what a study makes of them."""

from __future__ import annotations

from pathlib import Path

import image_files
import numpy as np
import PIL.Image
import pytest
import torch
import torchvision

from pliant.errors import UnknownNameError
from pliant.lab import Study, run
from pliant.lab.datasets import CSV, MNIST, Arrays, Data, Folder
from pliant.lab.datasets.arrays import DataError
from pliant.lab.study import Component, StudyError, data_of, plan

TABLE = """a,b,kind,who,part
1,2.5,cat,p1,train
2,3.5,dog,p1,train
3,4.5,cat,p2,test
4,5.5,dog,p3,validation
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "pictures"
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        for i in range(4):
            image_files.image(top / name / ("deep" if i == 3 else ".") / f"{i}.png", colour, size=8, seed=i)
    return top


# --- tables -----------------------------------------------------------------------------------------------------------


def test_csv(table: Path) -> None:
    data = CSV.load(path=str(table), label="kind", group="who", part="part")
    assert data.x.tolist() == [[1, 2.5], [2, 3.5], [3, 4.5], [4, 5.5]]
    assert data.x.dtype == np.float64
    assert data.classes == ("cat", "dog")
    assert data.y.tolist() == [0, 1, 0, 1]
    assert data.groups is not None
    assert data.groups.tolist() == [0, 0, 1, 2]
    assert data.parts is not None
    assert data.parts.tolist() == [0, 0, 2, 1]
    assert CSV.load(path=str(table), label="a", drop="kind, who,part").classes == ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (TABLE, {"label": "sort"}, r"has no column 'sort'; it has a, b, kind, who, part"),
        (TABLE, {"label": "kind"}, r"the columns who, part are not numbers.*option drop"),
        (
            TABLE,
            {"label": "kind", "group": "who", "part": "a", "drop": "part"},
            "the column 'a' holds 1, 2, 3, 4; expected train",
        ),
        (TABLE, {"label": "kind", "drop": "a,b,who,part"}, "no column left for the features"),
        (
            TABLE.replace("2.5", ""),
            {"label": "kind", "drop": "who,part"},
            r"1 of 4 examples hold NaN or infinite values \(rows 0\)",
        ),
        (TABLE.replace("cat,p2", ",p2"), {"label": "kind", "drop": "who,part"}, "the column 'kind' is empty in row 4"),
        ("a,b\n1,2\n3\n", {"label": "b"}, "is empty in row 3"),
        ("a,b\n1,2\n3,4,5\n", {"label": "b"}, "cannot be read"),
        ("", {"label": "b"}, "cannot be read"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, options: dict[str, str], expected: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=expected) as told:
        CSV.load(path=str(tmp_path / "table.csv"), **options)
    assert "table.csv" in str(told.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv cannot be read"):
        CSV.load(path=str(tmp_path / "nothing.csv"), label="a")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folder_is_that_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    data = Folder.load(path=str(folder))
    theirs = torchvision.datasets.ImageFolder(str(folder))
    assert data.classes == tuple(theirs.classes) == ("blue", "red")
    assert data.y.tolist() == theirs.targets
    assert np.array_equal(data.x, Arrays.of(theirs).data.x)
    assert data.parts is None
    assert Folder.load(path=str(folder), size=4).x.shape == (8, 3, 4, 4)


def test_folder_with_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    top = tmp_path / "parted"
    top.mkdir()
    folder.rename(top / "train")
    for label in ("red", "blue"):
        image_files.image(top / "val" / label / "x.png", (9, 9, 9), size=8)
    data = Folder.load(path=str(top))
    assert data.classes == ("blue", "red")
    assert data.parts is not None
    assert data.parts.tolist() == [0] * 8 + [1] * 2
    image_files.image(top / "val" / "green" / "x.png", (9, 9, 9), size=8)
    with pytest.raises(DataError, match="do not hold the same classes: green"):
        Folder.load(path=str(top))


def test_unusable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="cannot be read"):
        Folder.load(path=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="size was given as -1"):
        Folder.load(path=str(folder), size=-1)
    with pytest.raises(DataError, match="holds no folders"):
        Folder.load(path=str(folder / "red" / "deep"))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image; expected files ending in \.jpg"):
        Folder.load(path=str(folder))
    (folder / "empty").rmdir()
    (folder / "red" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        Folder.load(path=str(folder))


# --- torch data sets and arrays ---------------------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset[tuple[PIL.Image.Image, int]]):
    classes = ("dark", "light")

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[PIL.Image.Image, int]:
        return PIL.Image.new(self.mode, (5, 4), 200 * (i % 2)), i % 2


def test_a_torch_data_set_of_images() -> None:
    data = Arrays.of(Pictures("L")).data
    assert data.x.shape == (6, 1, 4, 5)
    assert data.x.dtype == np.uint8
    assert data.x[:, 0, 0, 0].tolist() == [0, 200] * 3
    assert data.classes == ("dark", "light")
    assert Arrays.of(Pictures("RGB")).data.x.shape == (6, 3, 4, 5)


def test_torchvision_mnist_gives_the_data_of_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_files.mnist(tmp_path)
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    theirs = torchvision.datasets.MNIST(tmp_path, train=True)
    ours = MNIST.load(official=False)
    assert np.array_equal(Arrays.of(theirs).data.x, ours.x[:40])
    assert Arrays.of(theirs).data.y.tolist() == ours.y[:40].tolist()


def test_bytes_stay_bytes() -> None:
    x = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    data = Data.of(x, [0, 1])
    assert data.x.dtype == np.uint8
    x[:] = 0
    assert data.x.max() == 95, "what the caller does to the array changes nothing"
    assert not data.x.flags.writeable
    frozen = np.ones((2, 3, 4, 4), np.uint8)
    frozen.flags.writeable = False
    assert np.shares_memory(Data.of(frozen, [0, 1]).x, frozen), "a large read-only array is not copied"
    assert Data.of(x, [0, 1]).fingerprint() != Data.of(x.astype(np.float32), [0, 1]).fingerprint()
    with pytest.raises(DataError, match=r"looks like \(n, H, W, C\)"):
        Data.of(np.zeros((2, 32, 32, 3), np.uint8), [0, 1])
    # Tables of small whole numbers are numbers, not images.
    assert Data.of(np.ones((2, 3), np.uint8), [0, 1]).x.dtype == np.float32


def test_parts_and_groups() -> None:
    x, y = np.zeros((4, 2)), [0, 1, 0, 1]
    prints = {
        Data.of(x, y).fingerprint(),
        Data.of(x, y, parts=[0, 0, 1, 2]).fingerprint(),
        Data.of(x, y, parts=[0, 0, 2, 1]).fingerprint(),
        Data.of(x, y, groups=[0, 0, 1, 2]).fingerprint(),
        Data.of(x, y, parts=[0, 0, 1, 2], groups=[0, 0, 1, 2]).fingerprint(),
    }
    assert len(prints) == 5
    assert Data.of(x, y, note="a copy").fingerprint() == Data.of(x, y).fingerprint()
    with pytest.raises(DataError, match=r"parts takes the values \[0, 3\]"):
        Data.of(x, y, parts=[0, 0, 0, 3])
    with pytest.raises(DataError, match=r"groups has shape \(3,\).*each of the 4 examples"):
        Data.of(x, y, groups=[0, 0, 1])
    with pytest.raises(DataError, match="parts has shape"):
        Data.of(x, y, parts=[0.0, 0, 1, 2])


def test_several_labels_an_example() -> None:
    data = Data.of(np.zeros((2, 4)), [[1, 0, 255], [1, 1, 0]], ("a", "b", "c"))
    assert data.task == "multilabel"
    assert data.y.dtype == np.uint8
    assert data.fingerprint() != Data.of(np.zeros((2, 4)), [[1, 0, 0], [1, 1, 0]], ("a", "b", "c")).fingerprint()
    with pytest.raises(DataError, match=r"take the values \[0, 1, 2\]; expected 1 \(present\)"):
        Data.of(np.zeros((2, 4)), [[1, 0, 2], [1, 1, 0]])
    with pytest.raises(DataError, match="2 class names were given for 3"):
        Data.of(np.zeros((2, 4)), [[1, 0, 1], [1, 1, 0]], ("a", "b"))


# --- studies ----------------------------------------------------------------------------------------------------------


def study(dataset: object, **more: object) -> Study:
    return Study(
        name="own",
        data=dataset,
        model={"name": "ffnn", "options": {"width": 4}},
        activations=["relu", "arelu"],
        **{"folds": 2, "repeats": 1, "epochs": 2, **more},
    )


def test_a_study_of_a_table(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    lines = ["a,b,c,kind", *(f"{r[0]},{r[1]},{r[2]},{'yes' if r[0] + r[1] > 0 else 'no'}" for r in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    (tmp_path / "mine.toml").write_text(
        'model = {name = "ffnn", options = {width = 4}}\nactivations = ["relu", "arelu"]\n'
        'dataset = {name = "csv", options = {path = "table.csv", label = "kind"}}\n'
        "[protocol]\nfolds = 2\nrepeats = 1\n[train]\nepochs = 2\n"
    )
    mine = Study.from_toml(tmp_path / "mine.toml")
    result = run(mine, store=tmp_path / "store", on="serial")
    assert result.counts["done"] == 4
    # The same rows elsewhere are the same trials; another row makes others.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("table.csv", "mine.toml"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    again = plan(Study.from_toml(moved / "mine.toml"))
    assert [t.key for t in again] == [t.key for t in plan(mine)]
    (tmp_path / "other.csv").write_text((tmp_path / "table.csv").read_text().replace("yes", "YES", 1).replace("YES", "no", 1))
    other = plan(study({"name": "csv", "options": {"path": str(tmp_path / "other.csv"), "label": "kind"}}))
    assert not {t.key for t in other} & {t.key for t in again}


def test_a_study_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    by_path = study(folder)
    assert by_path.dataset == Component(name="folder", options={"path": str(folder)})
    named = study(Component(name="folder", options={"path": str(folder), "size": 0}))
    assert [t.key for t in plan(by_path)] == [t.key for t in plan(named)], "a default written out is the same trial"
    with pytest.raises(StudyError, match="which is no folder"):
        study(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("dataset", "error", "expected"),
    [
        ({"name": "csv", "options": {"path": "x.csv"}}, StudyError, r"needs the option label; give dataset = {name = 'csv'"),
        ({"name": "csv"}, StudyError, "needs the options path, label"),
        ({"name": "mini-imagenet", "options": {"size": 85}}, StudyError, "size was given as 85; expected 84 or 128"),
        ({"name": "mini-imagenet", "options": {"official": 1}}, StudyError, "official was given as 1; expected bool"),
        ({"name": "mini-imagenet", "options": {"sise": 84}}, StudyError, "Did you mean size"),
        ({"name": "folder", "options": {"path": 3}}, StudyError, "path was given as 3; expected str"),
        ({"name": "minst"}, UnknownNameError, "Did you mean 'mnist'"),
    ],
)
def test_wrong_options(dataset: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        plan(study(dataset))


def test_what_is_not_official_is_said_in_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_files.mnist(tmp_path, train=200, test=100)
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    mine = study({"name": "mnist", "options": {"official": False}})
    result = run(mine, store=tmp_path / "store", on="serial")
    said = "Data: MNIST (not the official files: 200 + 100 of 60,000 + 10,000 images)."
    assert result.verdict().warnings[0] == said
    assert said in result.report(tmp_path / "report").read_text(encoding="utf-8")
    assert data_of(mine.dataset, mine.custom) is data_of(plan(mine)[0].dataset, mine.custom), "read once in a process"


def test_a_file_that_changed_is_read_again(table: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    own = study({"name": "csv", "options": {"path": str(table), "label": "kind", "drop": "who,part"}})
    before = plan(own)[0].data_sha256
    table.write_text(TABLE.replace("2.5", "2.75"))
    assert plan(own)[0].data_sha256 != before
    own = study(folder)
    before = plan(own)[0].data_sha256
    image_files.image(folder / "red" / "deep" / "3.png", (1, 1, 1), size=8)
    assert plan(own)[0].data_sha256 != before
