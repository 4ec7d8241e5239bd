"""What the three detectors have in common: the protocol, the exchange of activations, weights, copies."""

from __future__ import annotations

import copy
import functools
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from real import folder as real_folder
from safetensors.torch import save_file
from torch import Tensor, nn

from pliant import AReLU, PReLU
from pliant.errors import DomainError, PliantError, UnknownNameError
from pliant.lab.average_precision import Detections, Truth, match
from pliant.lab.datasets import VOCDetection
from pliant.lab.models.detection import ALL, VERSIONS, Detector, WeightsError, cluster, find
from pliant.lab.models.detection.faster_rcnn import faster_rcnn
from pliant.lab.models.detection.fcos import fcos
from pliant.lab.models.detection.weights import load_backbone
from pliant.lab.models.detection.yolov2 import yolov2

CLASSES = 3
SMALL: dict[str, dict[str, object]] = {
    "faster_rcnn": {"backbone": "resnet18", "size": 64, "box_features": 16, "proposals": 50, "pyramid_channels": 64},
    "fcos": {"backbone": "resnet18", "size": 64, "head_convs": 1, "pyramid_channels": 64, "score_threshold": 0.0},
    "yolov2": {"width": 0.125, "size": 64},
}
IMAGES = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 3 * 70 * 64).view(3, 70, 64)]
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
OBJECTS = [
    {"boxes": torch.tensor([[4.0, 6.0, 44.0, 60.0], [50.0, 5.0, 75.0, 30.0]]), "labels": torch.tensor([0, 2])},
    {"boxes": torch.tensor([[10.0, 20.0, 50.0, 65.0]]), "labels": torch.tensor([1])},
]


def make(name: str, activation: Callable[[], nn.Module] = AReLU, **options: object) -> Detector:
    torch.manual_seed(0)
    return find(name)(activation, **{"classes": CLASSES, **SMALL[name], **options})


@functools.cache
def _made(name: str) -> Detector:
    return make(name)


@pytest.fixture(params=sorted(ALL))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(name: str) -> Detector:
    return copy.deepcopy(_made(name))


def losses(network: Detector, targets: list[dict[str, Tensor]], images: list[Tensor] = IMAGES) -> dict[str, Tensor]:
    torch.manual_seed(0)
    given = network.train()(images, targets)
    assert isinstance(given, dict)
    return given


def found(network: Detector, images: list[Tensor] = IMAGES) -> list[dict[str, Tensor]]:
    given = network.eval()(images)
    assert isinstance(given, list)
    return given


def test_each_has_a_version_and_is_found_by_its_name() -> None:
    assert tuple(VERSIONS) == ALL == tuple(SMALL)
    assert [find(name) for name in ALL] == [faster_rcnn, fcos, yolov2]
    with pytest.raises(UnknownNameError, match="yolov2"):
        find("yolo2")


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_training_gives_losses_and_a_gradient_for_every_coefficient(detector: Detector) -> None:
    given = losses(detector, OBJECTS)
    assert all(part.ndim == 0 and part.isfinite() for part in given.values())
    torch.stack(list(given.values())).sum().backward()
    coefficients = [p for m in detector.modules() if isinstance(m, AReLU) for p in m.parameters()]
    assert len(coefficients) == 4 * sum("AReLU" in line for line in detector.plan)
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in coefficients)


def test_detection_gives_boxes_in_each_image_best_first(detector: Detector) -> None:
    results = found(detector)
    assert len(results) == 2
    assert sum(len(r["boxes"]) for r in results) > 0
    for result, image in zip(results, IMAGES, strict=True):
        boxes, scores, labels = result["boxes"], result["scores"], result["labels"]
        height, width = image.shape[1:]
        assert boxes.shape == (len(scores), 4)
        assert labels.dtype == torch.int64
        assert ((labels >= 0) & (labels < CLASSES)).all()
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert not boxes.requires_grad


def test_images_without_objects_give_a_finite_loss_and_gradient(detector: Detector) -> None:
    total = torch.stack(list(losses(detector, [NOTHING, NOTHING]).values())).sum()
    total.backward()
    assert total.isfinite()
    assert total > 0
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


def test_boxes_without_area_and_beyond_the_image_are_cut(detector: Detector) -> None:
    more = [
        {
            "boxes": torch.cat([t["boxes"], torch.tensor([[5.0, 5.0, 5.0, 9.0], [-9.0, 3.0, 0.0, 9.0]])]),
            "labels": torch.cat([t["labels"], torch.tensor([1, 1])]),
        }
        for t in OBJECTS
    ]
    over = [{"boxes": torch.tensor([[30.0, 20.0, 900.0, 900.0]]), "labels": torch.tensor([1])}, NOTHING]
    cut = [{"boxes": torch.tensor([[30.0, 20.0, 80.0, 64.0]]), "labels": torch.tensor([1])}, NOTHING]
    for given, same in ((more, OBJECTS), (over, cut)):
        expected = losses(copy.deepcopy(detector), same)
        for name, part in losses(copy.deepcopy(detector), given).items():
            torch.testing.assert_close(part, expected[name], rtol=0, atol=0)


def test_a_call_that_cannot_be_is_refused(detector: Detector) -> None:
    with pytest.raises(DomainError, match="no targets"):
        detector.train()(IMAGES)
    with pytest.raises(DomainError, match="2 images and 1 targets"):
        detector.train()(IMAGES, OBJECTS[:1])
    with pytest.raises(DomainError, match="no image"):
        detector.eval()([])


def test_a_copy_a_pickle_and_a_checkpoint_detect_the_same(name: str, detector: Detector) -> None:
    losses(detector, OBJECTS)
    loaded = make(name)
    loaded.load_state_dict(detector.state_dict())
    expected = found(detector)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector)), loaded):
        assert other.plan == detector.plan
        for a, b in zip(found(other), expected, strict=True):
            for key in ("boxes", "scores", "labels"):
                assert torch.equal(a[key], b[key])


def test_labels_go_from_zero_in_and_out() -> None:
    """Faster R-CNN has the background at 0 inside; FCOS has none, and would leave its first class unused with an offset."""
    for name, offset in (("faster_rcnn", 1), ("fcos", 0)):
        network = copy.deepcopy(_made(name))
        inside: list[Tensor] = []
        inner = network.get_submodule("network")
        inner.register_forward_pre_hook(lambda _, given, seen=inside: seen.extend(t["labels"] for t in given[1:] for t in t))
        losses(network, OBJECTS)
        assert [t.tolist() for t in inside] == [[0 + offset, 2 + offset], [1 + offset]]
        predictor = inner.get_submodule(
            "roi_heads.box_predictor.cls_score" if offset else "head.classification_head.cls_logits"
        )
        assert isinstance(predictor, nn.Linear | nn.Conv2d)
        assert predictor.bias is not None
        assert len(predictor.bias) == CLASSES + offset
        for label in range(CLASSES):
            nn.init.zeros_(predictor.weight)
            nn.init.constant_(predictor.bias, -9.0)
            predictor.bias.data[label + offset] = 9.0
            best = found(network)[0]
            assert best["labels"][0] == label
            assert best["scores"][0] > 0.5


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sites", "count"),
    [
        ("faster_rcnn", "all", 20),
        ("faster_rcnn", "backbone", 17),
        ("faster_rcnn", "head", 3),
        ("fcos", "all", 20),
        ("fcos", "fpn", 1),
        ("fcos", "fpn, head", 3),
    ],
)
def test_the_sites_that_were_asked_for_are_exchanged(name: str, sites: str, count: int) -> None:
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        made.append(PReLU())
        return made[-1]

    network = make(name, activation, sites=sites)
    assert len(made) == len({id(m) for m in made}) == count
    assert {id(m) for m in made} == {id(m) for m in network.modules() if isinstance(m, PReLU)}
    assert sum("PReLU" in line for line in network.plan) == count
    hits = dict.fromkeys(map(id, made), 0)
    for module in made:
        module.register_forward_hook(lambda m, *_: hits.__setitem__(id(m), hits[id(m)] + 1))
    losses(network, OBJECTS)
    assert all(hits.values())


def test_the_papers_fcos_has_58_sites() -> None:
    network = fcos(AReLU, classes=CLASSES, size=64)
    assert sum(isinstance(m, AReLU) for m in network.modules()) == 49 + 1 + 8


def test_the_distances_of_fcos_stay_positive() -> None:
    network = copy.deepcopy(_made("fcos"))
    assert sum("no activation" in line for line in network.plan) == 5
    regression = network.get_submodule("network.head.regression_head")
    distances, _ = regression([torch.randn(1, 64, 8, 8)])
    assert (distances >= 0).all()
    assert (distances == 0).any()


def test_weights_are_those_of_the_seed_whatever_the_activation() -> None:
    def draws() -> nn.Module:
        torch.rand(3)
        return nn.ReLU()

    for name in ALL:
        plain, other = make(name, nn.ReLU).state_dict(), _made(name).state_dict()
        assert all(torch.equal(v, other[k]) for k, v in plain.items())
    # The lab guards the draws of an activation itself (pliant.lab.network); those of the exchange do not count either.
    torch.manual_seed(0)
    fcos(draws, classes=CLASSES, **SMALL["fcos"])
    after = torch.rand(1)
    torch.manual_seed(0)
    fcos(nn.ReLU, classes=CLASSES, **SMALL["fcos"])
    assert torch.equal(torch.rand(1), after)


def test_one_module_for_two_sites_is_refused() -> None:
    one = AReLU()
    with pytest.raises(DomainError, match="one module twice"):
        make("fcos", lambda: one)


# --- options ----------------------------------------------------------------------------------------------------------


def test_random_weights_are_normalised_by_the_batch_and_nothing_is_frozen() -> None:
    for name in ("faster_rcnn", "fcos"):
        network = _made(name)
        assert not any(isinstance(m, torchvision.ops.FrozenBatchNorm2d) for m in network.modules())
        assert all(p.requires_grad for p in network.parameters())
        assert str(network.weights_from) == "random"


@pytest.mark.parametrize("options", [{"norm": "frozen"}, {"trainable": 3}])
def test_random_weights_cannot_be_frozen(options: dict[str, object]) -> None:
    with pytest.raises(DomainError, match="never learned"):
        make("fcos", **options)


def test_group_normalisation_does_not_see_the_batch() -> None:
    network = make("fcos", norm="group")
    body = network.get_submodule("network.backbone.body").train()
    pair = torch.randn(2, 3, 64, 64)
    for key, value in body(pair).items():
        torch.testing.assert_close(value[:1], body(pair[:1])[key], rtol=1e-4, atol=1e-4)


def test_anchors_and_proposals_are_in_proportion_to_the_size() -> None:
    network = _made("faster_rcnn")
    rpn = network.get_submodule("network.rpn")
    assert [s[0] for s in rpn.anchor_generator.sizes] == pytest.approx([32 * 2**i * 64 / 800 for i in range(5)])
    coarse = make("faster_rcnn", levels=(2, 3, 4)).get_submodule("network.rpn")
    assert coarse.anchor_generator.sizes == rpn.anchor_generator.sizes[1:]
    assert (rpn.post_nms_top_n(), network.get_submodule("network.transform").max_size) == (50, 107)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("faster_rcnn", {"anchors": [(0.1, 0.1)]}, "anchor_sizes="),
        ("fcos", {"anchors": [(0.1, 0.1)]}, "has none"),
        ("faster_rcnn", {"anchor_sizes": [8.0, 16.0]}, "5 sizes"),
        ("faster_rcnn", {"levels": (1, 3)}, "up to 4"),
        ("faster_rcnn", {"size": 16}, "at least 32"),
        ("fcos", {"max_size": 40}, "of the longer"),
        ("fcos", {"classes": 0}, "at least 1"),
        ("fcos", {"head_convs": 0}, "at least 1"),
        ("faster_rcnn", {"proposals": 0}, "at least 1"),
        ("fcos", {"trainable": 6}, "0 to 5"),
        ("fcos", {"pyramid_channels": 40}, "multiple of 32"),
        ("fcos", {"sites": "neck"}, "fpn"),
        ("faster_rcnn", {"sites": "fpn"}, "part of faster_rcnn"),
        ("faster_rcnn", {"backbone": "resnet51"}, "resnet50"),
        ("fcos", {"norm": "layer"}, "group"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(PliantError, match=said):
        make(name, **options)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_backbone_file_is_loaded_and_named(ending: str, resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"mine.{ending}"
    if ending == "pth":
        torch.save(resnet18, path)
    else:
        save_file(resnet18, path)
    network = make("fcos", weights=str(path))
    body = network.get_submodule("network.backbone.body").state_dict()
    assert all(torch.equal(v, resnet18[k]) for k, v in body.items() if "activation_sites" not in k and k in resnet18)
    assert sum(k in resnet18 for k in body) == 20 * 5
    assert network.weights_from.source == path.name
    assert network.weights_from.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert any(isinstance(m, torchvision.ops.FrozenBatchNorm2d) for m in network.modules())
    frozen = {n.split("body.")[1].split(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    # The activations in the frozen layers learn.
    torch.stack(list(losses(network, OBJECTS).values())).sum().backward()
    assert all(p.grad is not None and p.grad.any() for m in network.modules() if isinstance(m, AReLU) for p in m.parameters())


class Tiny(nn.Module):
    """A backbone with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file"),
        (b"nonsense", "cannot be read"),
        (b"", "cannot be read"),
        ([1, 2], "no state_dict"),
        ({"model": {"conv1.bias": torch.zeros(4)}}, "no state_dict"),
        ({"conv1.weight": torch.zeros(4, 3, 3, 3)}, r"1 tensors are lacking \(conv1.bias\) and 0"),
        (
            {"conv1.weight": torch.zeros(4, 3, 3, 3), "conv1.bias": torch.zeros(4), "x": torch.zeros(1)},
            r"1 have no place \(x\)",
        ),
        ({"conv1.weight": torch.zeros(4, 3, 1, 1), "conv1.bias": torch.zeros(4)}, "do not fit tiny"),
    ],
)
def test_files_that_are_no_weights_of_the_backbone_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=said):
        load_backbone(Tiny(), "tiny", str(path))


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "given.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_backbone(Tiny(), "tiny", str(tmp_path / "given.safetensors"))


def test_a_classifier_in_the_file_is_passed_over(tmp_path: Path) -> None:
    state = {**Tiny().state_dict(), "fc.weight": torch.zeros(1000, 4)}
    torch.save(state, tmp_path / "tiny.pth")
    network = Tiny()
    load_backbone(network, "tiny", str(tmp_path / "tiny.pth"))
    assert torch.equal(network.conv1.weight, state["conv1.weight"])


def test_torchvisions_weights_come_from_its_cache(
    resnet18: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(resnet18, tmp_path / "hub" / "checkpoints" / name)
    network = make("fcos", weights="torchvision")
    assert str(network.weights_from).startswith("torchvision resnet18 IMAGENET1K_V1 (sha256 ")
    assert torch.equal(network.state_dict()["network.backbone.body.conv1.weight"], resnet18["conv1.weight"])


def test_without_a_network_torchvisions_weights_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"no network.*give its path"):
        make("faster_rcnn", weights="torchvision")
    with pytest.raises(WeightsError, match="torchvision has no weights of darknet19"):
        yolov2(AReLU, classes=3, weights="torchvision", width=0.125)


def test_faster_rcnn_by_default_is_torchvisions() -> None:
    """The same detections from the same weights as torchvision's own builder, with ReLU put in 52 places."""
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=64,
        max_size=107,
        box_score_thresh=0.0,
        rpn_post_nms_top_n_test=50,
    ).eval()
    ours = faster_rcnn(
        nn.ReLU, classes=3, size=64, anchor_sizes=(32, 64, 128, 256, 512), score_threshold=0.0, proposals=50
    ).eval()
    assert sum("ReLU" in line for line in ours.plan) == 52
    ours.get_submodule("network").load_state_dict(theirs.state_dict())
    for mine, their in zip(found(ours), theirs(IMAGES), strict=True):
        assert torch.equal(mine["labels"], their["labels"] - 1)
        torch.testing.assert_close(mine["boxes"], their["boxes"])
        torch.testing.assert_close(mine["scores"], their["scores"])


# --- real images ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "rate", "falls", "options"),
    [
        (
            "faster_rcnn",
            60,
            1e-3,
            5,
            {"backbone": "resnet18", "size": 192, "max_size": 256, "box_features": 128, "proposals": 100},
        ),
        ("fcos", 50, 1e-3, 3, {"backbone": "resnet18", "size": 192, "head_convs": 2}),
        ("yolov2", 90, 2e-3, 50, {"width": 0.25, "size": 224, "prior_images": 0}),
    ],
)
def test_it_learns_four_photographs_by_heart(
    name: str, steps: int, rate: float, falls: float, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(real_folder("VOCdevkit", tmp_path)))
    data = VOCDetection.load(train="2012/train", validation="", test="")
    examples = [data.example(i) for i in range(4)]
    images = [torch.from_numpy(pixels) / 255 for pixels, _ in examples]
    targets = [{k: torch.from_numpy(t[k].copy()) for k in ("boxes", "labels")} for _, t in examples]
    if name == "yolov2":
        sides = [
            (t["boxes"][:, 2:] - t["boxes"][:, :2]) / torch.tensor(i.shape[:0:-1]) for t, i in zip(targets, images, strict=True)
        ]
        options = {**options, "anchors": cluster(torch.cat(sides).numpy())}
    else:
        options = {**options, "pyramid_channels": 64}
    torch.manual_seed(0)
    network = find(name)(AReLU, classes=20, **options)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    totals = []
    for _ in range(steps):
        total = torch.stack(list(network.train()(images, targets).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        totals.append(total.item())
    # FCOS's loss of centres is a cross-entropy with shares, which stays near 0.6.
    assert totals[-1] < totals[0] / falls
    detected = Detections.of([{k: v.numpy() for k, v in one.items()} for one in found(network, images)])
    assert match(detected, Truth.of([truth for _, truth in examples]), 20).score_of("ap50") > 0.9
