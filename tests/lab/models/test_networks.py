"""The papers' networks against the numbers of papers and releases, and against torchvision's where these are the same."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pliant import AReLU
from pliant.errors import DomainError, PliantError, UnknownNameError
from pliant.lab import models
from pliant.lab.network import construct, hollow, measure

CIFAR = (3, 32, 32)


def build(name: str, shape: tuple[int, ...] = CIFAR, outputs: int = 10, activation: Any = nn.ReLU, **options: Any) -> nn.Module:
    return models.ALL[name](activation, input_shape=shape, outputs=outputs, **options)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "options", "parameters", "sites"),
    [
        ("alexnet", CIFAR, 10, {}, 4_061_130, 6),
        ("alexnet", CIFAR, 100, {}, 4_245_540, 6),
        ("alexnet", CIFAR, 10, {"padding": "torch"}, 4_061_130, 6),
        ("vggnet", CIFAR, 10, {}, 149_033_674, 15),
        ("vggnet", CIFAR, 100, {}, 149_771_044, 15),
        ("vggnet", CIFAR, 10, {"head": "fig5"}, 140_633_802, 15),
        ("vgg_v_guess", CIFAR, 100, {}, 15_038_116, 14),
        ("googlenet", CIFAR, 10, {}, 6_326_426, 57),
        ("googlenet", CIFAR, 100, {}, 6_418_676, 57),
        ("resnet50", CIFAR, 10, {}, 23_528_522, 49),
        ("resnet50", CIFAR, 100, {}, 23_712_932, 49),
        ("densenet", CIFAR, 10, {}, 10_236_298, 200),
        ("densenet", CIFAR, 100, {}, 10_365_988, 200),
        ("densenet", CIFAR, 10, {"bottleneck": 2}, 5_702_986, 200),
        ("densenet", CIFAR, 10, {"third_block": 40}, 8_557_642, 184),
        ("resnet34", CIFAR, 100, {}, 21_335_972, 33),
        ("resnet34", (3, 128, 128), 100, {"shared": True}, 21_335_972, 17),
        ("resnet34", (1, 1, 187), 5, {}, 21_280_965, 33),
        ("resnet34", CIFAR, 100, {"small_stem": True}, 21_335_972 - 3 * 64 * (49 - 9), 33),
        ("plain", CIFAR, 10, {}, 278_282, 20),
        ("plain", CIFAR, 10, {"depth": 50}, 763_242, 50),
        ("plain", CIFAR, 10, {"batch_norm": True}, 278_282 + 7 * 16 + 7 * 32 + 6 * 64, 20),
        ("ffnn", (1, 28, 28), 10, {}, 669_706, 2),
        ("ffnn", (30,), 1, {}, 279_041, 2),
        ("cnn", (1, 28, 28), 10, {}, 1_106_314, 4),
        ("cnn", (1, 28, 28), 10, {"padding": "same"}, 1_892_746, 4),
    ],
)
def test_parameters_and_sites(
    name: str, shape: tuple[int, ...], outputs: int, options: dict[str, Any], parameters: int, sites: int
) -> None:
    assert measure(models.ALL[name], shape, outputs, **options) == (parameters, sites)


def test_parameters_of_the_variants_that_have_no_printed_count() -> None:
    convolutions = sum(i * k * k * o + o for i, o, k in ((3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 256, 5)))
    head = 256 * 3 * 3 * 2048 + 2048 + 2048 * 10 + 10
    assert measure(models.alexnet, CIFAR, 10, variant="fig5") == (convolutions + head, 5)

    blocks = [n for stage in models.googlenet.__globals__["STAGES"] for _, n in stage]
    normalised = 64 + 192 + 192 + sum(map(sum, blocks))
    assert measure(models.googlenet, CIFAR, 10, variant="fig5") == (6_326_426 - 2 * normalised, 57)

    features = 149_033_674 - (8192 * 8192 + 8192) * 2 - (8192 * 10 + 10)
    small = 8192 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert measure(models.vggnet, CIFAR, 10, head="small") == (features + small, 15)


def test_four_scalars_a_site_are_the_printed_overhead() -> None:
    for name, extra, share in (
        ("alexnet", 24, 5.9e-6),
        ("vggnet", 60, 4.0e-7),
        ("googlenet", 228, 3.6e-5),
        ("resnet50", 196, 8.3e-6),
        ("densenet", 800, 7.8e-5),
    ):
        size = measure(models.ALL[name], CIFAR, 10)
        assert 4 * size.activations == extra
        assert 4 * size.activations / size.parameters == pytest.approx(share, rel=0.02)


def multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Of one example, in convolutions and linear layers."""
    total = 0

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        total += out[0].numel() * layer.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    network.eval()(torch.empty(1, *shape, device="meta"))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    ("name", "millions"), [("alexnet", 38.3), ("vggnet", 3873), ("googlenet", 53.3), ("resnet50", 78.7), ("densenet", 193.4)]
)
def test_multiply_adds(name: str, millions: float) -> None:
    network, _ = hollow(models.ALL[name], CIFAR, 10)
    assert multiply_adds(network, CIFAR) / 1e6 == pytest.approx(millions, abs=0.5 if millions > 1000 else 0.05)


# --- shapes -----------------------------------------------------------------------------------------------------------

STAGES: dict[tuple[str, tuple[int, ...], str], dict[str, tuple[int, ...]]] = {
    ("alexnet", CIFAR, ""): {
        "conv1": (96, 16, 16), "pool1": (96, 7, 7), "conv2": (256, 7, 7), "pool2": (256, 3, 3), "conv3": (384, 3, 3),
        "conv5": (256, 3, 3), "pool5": (256, 1, 1), "flatten": (256,), "fc6": (1024,), "fc7": (2048,), "output": (10,),
    },
    ("alexnet", CIFAR, "variant=fig5"): {
        "conv1": (96, 16, 16), "pool2": (256, 3, 3), "conv5": (256, 3, 3), "flatten": (2304,), "fc6": (2048,), "output": (10,),
    },
    ("vggnet", CIFAR, ""): {
        "block1": (64, 32, 32), "block2": (128, 32, 32), "block3": (256, 16, 16), "block4": (512, 8, 8), "block5": (512, 4, 4),
        "flatten": (8192,), "fc1": (8192,), "fc2": (8192,), "output": (10,),
    },
    ("vggnet", CIFAR, "head=fig5"): {"fc1": (8192,), "fc2": (7168,)},
    ("vgg_v_guess", CIFAR, ""): {"block1": (64, 16, 16), "block5": (512, 1, 1), "fc1": (512,)},
    ("googlenet", CIFAR, ""): {
        "conv1": (64, 16, 16), "pool1": (64, 8, 8), "conv2": (192, 8, 8), "conv3": (192, 8, 8), "pool2": (192, 4, 4),
        "inception3a": (256, 4, 4), "inception3b": (480, 4, 4), "pool3": (480, 2, 2), "inception4a": (512, 2, 2),
        "inception4b": (512, 2, 2), "inception4c": (512, 2, 2), "inception4d": (528, 2, 2), "inception4e": (832, 2, 2),
        "pool4": (832, 1, 1), "inception5a": (832, 1, 1), "inception5b": (1024, 1, 1), "output": (10,),
    },
    ("resnet50", CIFAR, ""): {
        "conv1": (64, 16, 16), "pool1": (64, 8, 8), "block2": (256, 8, 8), "block3": (512, 4, 4), "block4": (1024, 2, 2),
        "block5": (2048, 1, 1), "output": (10,),
    },
    ("resnet50", (3, 224, 224), ""): {"block5": (2048, 7, 7), "flatten": (2048,)},
    ("resnet50", (3, 84, 84), ""): {"conv1": (64, 42, 42), "block5": (2048, 3, 3)},
    ("densenet", CIFAR, ""): {
        "conv0": (48, 16, 16), "block1": (192, 16, 16), "transition1": (96, 8, 8), "block2": (384, 8, 8),
        "transition2": (192, 4, 4), "block3": (1344, 4, 4), "transition3": (672, 2, 2), "block4": (1440, 2, 2),
        "flatten": (1440,), "output": (10,),
    },
    ("resnet34", CIFAR, ""): {
        "conv1": (64, 16, 16), "maxpool": (64, 8, 8), "layer1": (64, 8, 8), "layer2": (128, 4, 4), "layer3": (256, 2, 2),
        "layer4": (512, 1, 1), "fc": (10,),
    },
    ("resnet34", (3, 84, 84), ""): {"conv1": (64, 42, 42), "maxpool": (64, 21, 21), "layer4": (512, 3, 3), "fc": (10,)},
    ("resnet34", (3, 128, 128), ""): {
        "conv1": (64, 64, 64), "maxpool": (64, 32, 32), "layer1": (64, 32, 32), "layer2": (128, 16, 16),
        "layer3": (256, 8, 8), "layer4": (512, 4, 4),
    },
    ("resnet34", (1, 1, 187), ""): {
        "conv1": (64, 1, 94), "maxpool": (64, 1, 47), "layer1": (64, 1, 47), "layer2": (128, 1, 24), "layer3": (256, 1, 12),
        "layer4": (512, 1, 6),
    },
    ("cnn", (1, 28, 28), ""): {
        "conv1": (32, 26, 26), "pool1": (32, 13, 13), "conv2": (64, 11, 11), "pool2": (64, 5, 5), "flatten": (1600,),
    },
    ("cnn", (1, 28, 28), "padding=same"): {
        "conv1": (32, 28, 28), "pool1": (32, 14, 14), "conv2": (64, 14, 14), "pool2": (64, 7, 7), "flatten": (3136,),
    },
}  # fmt: skip


def shapes_of(network: nn.Module, stages: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Filled when the network runs."""
    seen: dict[str, tuple[int, ...]] = {}
    for stage in stages:
        network.get_submodule(stage).register_forward_hook(
            lambda _, __, out, stage=stage: seen.__setitem__(stage, tuple(out.shape[1:]))
        )
    return seen


@pytest.mark.parametrize(("name", "shape", "option"), STAGES)
def test_shapes_of_the_stages(name: str, shape: tuple[int, ...], option: str) -> None:
    options = dict([option.split("=")]) if option else {}
    expected = STAGES[name, shape, option]
    plans = [options] if "padding" not in inspect.signature(models.ALL[name]).parameters or name == "cnn" else [
        options, {**options, "padding": "torch"}
    ]  # fmt: skip
    for given in plans:
        network, _ = hollow(models.ALL[name], shape, 10, **given)
        seen = shapes_of(network, expected)
        network.eval()(torch.empty(2, *shape, device="meta"))
        assert seen == expected


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        ("alexnet", {}, 29),
        ("alexnet", {"padding": "torch"}, 29),
        ("alexnet", {"variant": "fig5"}, 13),
        ("vggnet", {}, 8),
        ("vgg_v_guess", {}, 32),
        ("googlenet", {}, 1),
        ("resnet50", {}, 1),
        ("densenet", {}, 15),
        ("plain", {}, 1),
        ("resnet34", {}, 1),
        ("cnn", {}, 10),
        ("cnn", {"padding": "same"}, 4),
    ],
)
def test_any_size_from_the_smallest_on(name: str, options: dict[str, Any], smallest: int) -> None:
    for height, width in ((smallest, smallest), (smallest + 1, smallest + 6), (84, 84), (91, 128)):
        network, _ = hollow(models.ALL[name], (2, height, width), 7, **options)
        assert network.eval()(torch.empty(3, 2, height, width, device="meta")).shape == (3, 7)
    if smallest > 1:
        with pytest.raises(DomainError, match=f"needs at least {smallest}"):
            hollow(models.ALL[name], (2, smallest - 1, 64), 7, **options)
    with pytest.raises(DomainError, match=r"\(channels, height, width\)"):
        hollow(models.ALL[name], (30,), 7, **options)


@pytest.mark.parametrize("name", [n for n in models.ALL if n != "resnet34"])
def test_wrong_options(name: str) -> None:
    shape, outputs = models.FIRST_USE[name]
    parameters = inspect.signature(models.ALL[name]).parameters
    for option, parameter in parameters.items():
        if isinstance(parameter.default, str):
            with pytest.raises(UnknownNameError, match=f"no {option} of this network named 'nonsense'.*Known: "):
                hollow(models.ALL[name], shape, outputs, **{option: "nonsense"})
        if isinstance(parameter.default, float):
            with pytest.raises(DomainError, match="dropout"):
                hollow(models.ALL[name], shape, outputs, **{option: 1.0})
        if isinstance(parameter.default, int) and not isinstance(parameter.default, bool):
            with pytest.raises(DomainError, match=r"\d on"):
                hollow(models.ALL[name], shape, outputs, **{option: 0})


def test_the_lists_agree() -> None:
    assert set(models.FIRST_USE) <= set(models.ALL) == set(models.VERSIONS)
    assert all(models.find(n) is f and models.version(n) >= 1 for n, f in models.ALL.items())
    with pytest.raises(UnknownNameError, match="Did you mean 'alexnet'"):
        models.find("alexnett")


# --- what they compute ------------------------------------------------------------------------------------------------


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    values = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))


def randomise_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [CIFAR, (3, 84, 84)])
def test_resnet34_is_that_of_torchvision(shape: tuple[int, ...]) -> None:
    theirs = torchvision.models.resnet34(num_classes=100)
    randomise_statistics(theirs)
    ours = build("resnet34", shape, 100)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, *shape)
    for training in (False, True):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-4, atol=1e-4)


def test_resnet34_at_height_one_is_a_network_in_one_dimension() -> None:
    ours = build("resnet34", (1, 1, 187), 5)
    x = torch.randn(4, 1, 1, 187)
    ours(x).square().sum().backward()
    weight = ours.get_submodule("conv1").weight
    assert isinstance(weight, nn.Parameter)
    assert weight.grad is not None
    outer = [0, 1, 2, 4, 5, 6]
    assert weight.grad[:, :, 3].abs().min() > 0
    assert not weight.grad[:, :, outer].any()
    inner = nn.functional.conv1d(x[:, :, 0], weight[:, :, 3], stride=2, padding=3)
    torch.testing.assert_close(ours.get_submodule("conv1")(x)[:, :, 0], inner)


def test_resnet50_is_that_of_torchvision_with_the_stride_in_the_first_convolution() -> None:
    theirs = torchvision.models.resnet50(num_classes=10)
    randomise_statistics(theirs)
    for module in theirs.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    ours = build("resnet50", padding="torch")
    same_weights(ours, theirs)
    x = torch.randn(4, *CIFAR)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_densenet_is_that_of_torchvision_without_what_follows_its_first_convolution() -> None:
    theirs = torchvision.models.DenseNet(24, (6, 12, 48, 32), 48, num_classes=10)
    randomise_statistics(theirs)
    for name in ("norm0", "relu0", "pool0"):
        setattr(theirs.features, name, nn.Identity())
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    ours = build("densenet", padding="torch")
    same_weights(ours, theirs)
    x = torch.randn(4, *CIFAR)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_the_guess_at_vgg_v_has_the_convolutions_of_torchvisions_vgg16() -> None:
    theirs = torchvision.models.vgg16_bn(num_classes=2).features
    randomise_statistics(theirs)
    network = build("vgg_v_guess")
    assert isinstance(network, nn.Sequential)
    ours = network[:5]
    same_weights(ours, theirs)
    x = torch.randn(2, *CIFAR)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


class Slope(nn.Module):
    """DSReLU at one moment: x times ``s`` where x > 0."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, self.s * x, x)


@pytest.mark.parametrize(
    ("activation", "rms"),
    [(nn.ReLU, 1.6), (lambda: Slope(3.49), 44), (lambda: Slope(5.64), 180), (lambda: Slope(10.58), 1184)],
)
def test_slopes_multiply_along_the_residual_stream(activation: Callable[[], nn.Module], rms: float) -> None:
    network = build("resnet34", CIFAR, 100, activation).train()
    x = nn.functional.interpolate(torch.rand(32, 3, 8, 8), size=32, mode="bilinear")
    with torch.no_grad():
        features = nn.Sequential(*list(network.children())[:-1])(x)
    assert features.shape == (32, 512)
    # The printed numbers have two to four digits and come from other draws; over draws ours vary by 1 %.
    assert features.square().mean().sqrt().item() == pytest.approx(rms, rel=0.05)


# --- what they start from ---------------------------------------------------------------------------------------------


def is_drawn(weight: Tensor, sd: float, limit: float = math.inf) -> bool:
    """Whether mean and sd are those of a draw with ``sd``, within five standard errors, and no value lies beyond ``limit``."""
    n = weight.numel()
    error = 5 * sd / math.sqrt(n)
    return bool(abs(weight.mean()) < error and abs(weight.std() - sd) < error and weight.abs().max() <= limit)


def starts(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def glorot(weight: Tensor) -> bool:
    area = weight[0, 0].numel()
    limit = math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))
    return is_drawn(weight, limit / math.sqrt(3), limit * (1 + 1e-6)) and not is_drawn(weight, limit)


@pytest.mark.parametrize(
    ("name", "options", "ones"),
    [
        ("alexnet", {}, {"conv2", "conv5", "fc6", "fc7", "output"}),
        ("alexnet", {"variant": "fig5"}, {"conv2", "conv5", "fc6", "output"}),
        ("vggnet", {"head": "small"}, {"fc1", "fc2", "output"}),
        ("googlenet", {}, set()),
    ],
)
def test_fixed_standard_deviation(name: str, options: dict[str, Any], ones: set[str]) -> None:
    for layer, module in starts(build(name, **options)).items():
        if name == "googlenet" and layer == "output":
            # A normal cut at two standard deviations has 0.8796 of its spread.
            assert is_drawn(module.weight, 0.02 * 0.8796, 0.04)
        else:
            assert is_drawn(module.weight, 0.01), layer
            assert module.weight.abs().max() > 0.03, layer
        assert module.bias is not None
        assert (module.bias == (1.0 if layer in ones else 0.0)).all(), layer


@pytest.mark.parametrize(("name", "biased"), [("resnet50", {"output"}), ("densenet", {"output"})])
def test_glorot(name: str, biased: set[str]) -> None:
    layers = starts(build(name))
    assert all(glorot(m.weight) for m in layers.values())
    assert {n for n, m in layers.items() if m.bias is not None} == biased
    assert not any(m.bias.any() for m in layers.values() if m.bias is not None)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_cnn_starts_as_in_keras(padding: str) -> None:
    for module in starts(build("cnn", (1, 28, 28), padding=padding)).values():
        assert glorot(module.weight)
        assert module.bias is not None
        assert not module.bias.any()


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet50", "densenet"])
def test_kaiming(name: str) -> None:
    for module in starts(build(name, init="kaiming")).values():
        assert is_drawn(module.weight, math.sqrt(2 / module.weight[0].numel()))
        assert module.bias is None or not module.bias.any()


def test_resnet34_starts_from_its_fan_out() -> None:
    for layer, module in starts(build("resnet34")).items():
        if layer != "fc":
            assert is_drawn(module.weight, math.sqrt(2 / (module.weight.shape[0] * module.weight[0, 0].numel())))
    assert starts(build("resnet34"))["conv1"].weight.std().item() == pytest.approx(math.sqrt(2 / (49 * 64)), rel=0.05)


def test_batch_normalisation_constants_and_dropout() -> None:
    for name, eps, drop in (
        ("alexnet", 1e-3, 0.1), ("vggnet", 1e-3, 0.1), ("googlenet", 1e-3, 0.1), ("resnet50", 1e-3, None),
        ("densenet", 1e-3, 0.2), ("resnet34", 1e-5, None), ("plain", None, None), ("cnn", None, 0.3), ("ffnn", None, 0.3),
    ):  # fmt: skip
        shape, outputs = models.FIRST_USE[name]
        network, _ = hollow(models.ALL[name], shape, outputs)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == ({(eps, 0.1)} if eps else set()), name
        assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == ({drop} if drop else set()), name


@pytest.mark.parametrize("name", ["googlenet", "plain", "resnet34"])
def test_compared_activations_start_from_the_same_weights(name: str) -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    x = torch.randn(2, *CIFAR)
    one, _ = construct(models.find(name), nn.ReLU, x, 10, {}, 3, name)
    other, made = construct(models.find(name), Drawing, x, 10, {}, 3, name)
    assert len(made) >= 20
    theirs = other.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alexnet", {}),
        ("alexnet", {"variant": "fig5", "init": "kaiming"}),
        ("vggnet", {"head": "small"}),
        ("vgg_v_guess", {}),
        ("googlenet", {}),
        ("resnet50", {}),
        ("densenet", {}),
        ("resnet34", {}),
        ("resnet34", {"shared": True, "small_stem": True}),
        ("resnet34", {"branch_scale": 0.5, "logit_scale": 0.5}),
        ("plain", {}),
        ("plain", {"batch_norm": True, "init": "he", "depth": 7}),
        ("ffnn", {}),
        ("cnn", {}),
    ],
)
def test_every_activation_gets_a_gradient_and_a_few_steps_lower_the_loss(name: str, options: dict[str, Any]) -> None:
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        made.append(AReLU())
        return made[-1]

    shape, _ = models.FIRST_USE[name]
    if name == "vggnet" or "small_stem" in options:
        shape = (3, 16, 16)  # They are heavy, and have room for it.
    network = build(name, shape, 10, activation, **options).to(memory_format=torch.channels_last).train()
    x = torch.randn(8, *shape).to(memory_format=torch.channels_last)
    y = torch.arange(8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    losses = []
    for step in range(4):
        torch.manual_seed(1)  # the same dropout, so that the losses can be compared
        loss = nn.functional.cross_entropy(network(x), y)
        losses.append(loss.item())
        if step == 3:
            break
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert made
            for i, module in enumerate(made):
                grads = [p.grad for p in module.parameters()]
                assert len(grads) == 4
                assert all(g is not None and g.isfinite().all() for g in grads), i
                assert any(g is not None and g.any() for g in grads), i
            assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
    assert losses[-1] < losses[0], losses


def test_errors_are_pliants_own() -> None:
    with pytest.raises(PliantError):
        construct(models.find("alexnet"), nn.ReLU, torch.randn(2, 1, 28, 28), 10, {}, 0, "alexnet")
