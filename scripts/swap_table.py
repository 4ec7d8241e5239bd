"""Writes docs/swap-table.md: one identity-preserving swap in each of many models, built without weights.

    python scripts/swap_table.py [torchvision|timm|transformers ...] [--only NAME]

Needs torchvision, timm and transformers; a library that is missing is said to be so. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pliant

INTRODUCTION = """\
Written by `scripts/swap_table.py`: models with random weights; every ReLU, SiLU, LeakyReLU and ELU exchanged for an
activation of Pliant that computes the same function, every GELU, Hardswish and ReLU6 for a new module of torch, because
none of ours can start as these. *Found* and *swapped* count places in the source of each module; *train* are those that
run in train mode only, *idle* modules that the example never reaches. *Difference* is the largest of any output element
in eval mode; *keys* whether every checkpoint key is still there; *restored* whether `restore_` gives back the same keys
and bit-identical outputs. Seconds are those of `pliant.plan` on 2 CPU cores that others used too.
"""

Case = tuple[str, Callable[[], nn.Module], Any, Any]

TORCHVISION = {
    "resnet18": 64, "resnet50": 64, "googlenet": 96, "inception_v3": 299, "densenet121": 64, "vgg16_bn": 64, "alexnet": 96,
    "squeezenet1_1": 64, "shufflenet_v2_x1_0": 64, "mobilenet_v2": 64, "mobilenet_v3_large": 64, "efficientnet_b0": 64,
    "efficientnet_v2_s": 64, "convnext_tiny": 64, "regnet_y_400mf": 64, "mnasnet1_0": 64, "swin_t": 64, "vit_b_16": 224,
    "maxvit_t": 224,
}  # fmt: skip
SEGMENTATION = {"fcn_resnet50": 64, "deeplabv3_resnet50": 64}
DETECTION = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn", "ssdlite320_mobilenet_v3_large")
TIMM = {
    "hrnet_w18_small": 64, "dla34": 64, "res2net50_26w_4s": 64, "dpn68": 64, "mobilevit_s": 64, "nasnetalarge": 96,
    "pnasnet5large": 96, "xception41": 64, "legacy_xception": 96, "cspresnet50": 64, "vovnet39a": 64, "ese_vovnet19b_dw": 64,
    "ghostnet_100": 64, "selecsls42b": 64, "skresnet18": 64, "resnest14d": 64, "seresnet18": 64, "resnetv2_50": 64,
    "tresnet_m": 64, "regnetx_002": 64, "efficientnet_b0": 64, "mixnet_s": 64, "rexnet_100": 64, "hardcorenas_a": 64,
    "inception_v4": 96, "inception_resnet_v2": 96, "repvgg_a0": 64, "levit_128s": 224, "convnextv2_atto": 64,
    "coatnet_0_rw_224": 224,
    "deit_tiny_patch16_224": 224, "mixer_s32_224": 224, "poolformer_s12": 64, "fastvit_t8": 64, "edgenext_xx_small": 64,
    "densenet121": 64, "nf_resnet50": 64,
}  # fmt: skip


def mapping() -> dict[Any, Any]:
    """Every common activation to the activation of Pliant that can start as the same function, or to itself in torch."""
    same: dict[Any, Any] = {
        nn.ReLU: lambda site: pliant.preserving("relu", pliant.AReLU),
        nn.SiLU: lambda site: pliant.preserving("silu", pliant.Swish),
        nn.LeakyReLU: lambda site: pliant.preserving(site.old_module(), pliant.PReLU),
        nn.ELU: lambda site: pliant.preserving(site.old_module(), pliant.SReLU),
        # Nothing of ours can start as these; a fresh module of torch still shows whether the site is exact.
        nn.GELU: lambda site: site.old_module(),
        nn.Hardswish: lambda site: site.old_module(),
        nn.ReLU6: lambda site: site.old_module(),
    }
    try:
        from timm.layers import activations as timm_layers

        same[timm_layers.Swish] = lambda site: pliant.preserving("silu", pliant.Swish)
    except ImportError:
        pass
    return same


def vision(build: Callable[[], nn.Module], size: int) -> Case:
    return "", build, torch.randn(2, 3, size, size), None


def torchvision_cases() -> Iterator[Case]:
    import torchvision.models as models

    for name, size in TORCHVISION.items():
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        yield name, lambda n=name, e=extra: getattr(models, n)(weights=None, **e), torch.randn(2, 3, size, size), None
    for name, size in SEGMENTATION.items():
        build = getattr(models.segmentation, name)
        yield name, lambda b=build: b(weights=None, weights_backbone=None, aux_loss=True), torch.randn(2, 3, size, size), None
    for name in DETECTION:
        build = getattr(models.detection, name)
        images = [torch.rand(3, 96, 96)]
        targets = [{"boxes": torch.tensor([[5.0, 5.0, 60.0, 60.0]]), "labels": torch.tensor([1])}]
        small = {} if "ssd" in name else {"min_size": 96, "max_size": 96}
        yield name, lambda b=build, s=small: b(weights=None, weights_backbone=None, **s), (images,), (images, targets)


def timm_cases() -> Iterator[Case]:
    import timm

    for name, size in TIMM.items():
        yield name, lambda n=name: timm.create_model(n, pretrained=False), torch.randn(2, 3, size, size), None


def transformers_cases() -> Iterator[Case]:
    import transformers as t

    tokens = {"input_ids": torch.arange(2, 18).reshape(2, 8)}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    yield "BertModel", lambda: t.BertModel(t.BertConfig(**small)), tokens, None
    yield "RobertaModel (relu)", lambda: t.RobertaModel(t.RobertaConfig(**small, hidden_act="relu")), tokens, None
    yield "AlbertModel", lambda: t.AlbertModel(t.AlbertConfig(**small, embedding_size=16, hidden_act="gelu")), tokens, None
    yield (
        "DistilBertModel",
        lambda: t.DistilBertModel(t.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64)),
        tokens,
        None,
    )
    yield (
        "GPT2Model (gelu)",
        lambda: t.GPT2Model(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, activation_function="gelu")),
        tokens,
        None,
    )
    yield "T5Model", lambda: t.T5Model(t.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)), {
        **tokens, "decoder_input_ids": tokens["input_ids"]
    }, None  # fmt: skip
    yield "LlamaModel", lambda: t.LlamaModel(t.LlamaConfig(**small, vocab_size=100)), tokens, None
    yield (
        "OPTModel",
        lambda: t.OPTModel(
            t.OPTConfig(hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2, word_embed_proj_dim=32)
        ),
        tokens,
        None,
    )
    yield "ViTModel", lambda: t.ViTModel(t.ViTConfig(**small, image_size=32, patch_size=8)), pixels, None
    yield (
        "ResNetModel",
        lambda: t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        pixels,
        None,
    )


def outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    from pliant.swap.probe import run, tensors_of

    torch.manual_seed(0)
    with torch.no_grad():
        return tensors_of(run(model.eval(), example))


def row(case: Case) -> str:
    name, build, example, train_example = case
    torch.manual_seed(0)
    model = build()
    start = time.perf_counter()
    plan = pliant.plan(model, mapping(), example=example, train_example=train_example)
    seconds = time.perf_counter() - start
    expected = outputs(model, example)
    keys = set(model.state_dict())
    swap = pliant.swap_(model, plan)
    got = outputs(model, example)
    worst = max(float((g.double() - e.double()).abs().max()) if e.numel() else 0.0 for g, e in zip(got, expected, strict=True))
    kept = "yes" if keys <= set(model.state_dict()) else f"{len(keys - set(model.state_dict()))} missing"
    pliant.restore_(model)
    again = outputs(model, example)
    restored = set(model.state_dict()) == keys and all(torch.equal(a, e) for a, e in zip(again, expected, strict=True))
    train = sum(s.modes == {"train"} for s in plan)
    kinds = {k: sum(s.kind == k for s in plan) for k in ("module", "call", "function", "method", "intercepted")}
    cells = [
        name, len(plan) + len(plan.left), len(swap), train, len(plan.idle), *kinds.values(), f"{worst:.1e}", kept,
        "yes" if restored else "**no**", f"{seconds:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", default=["torchvision", "timm", "transformers"])
    parser.add_argument("--only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "swap-table.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    lines = ["# What a swap finds", "", *INTRODUCTION.splitlines(), ""]
    cases = {"torchvision": torchvision_cases, "timm": timm_cases, "transformers": transformers_cases}
    for library in given.libraries:
        try:
            version = __import__(library).__version__
        except ImportError:
            print(f"{library} is not installed")
            continue
        lines += [f"## {library} {version} (torch {torch.__version__})", ""]
        lines += ["| model | found | swapped | train | idle | module | call | function | method | intercepted | difference | "
                  "keys | restored | s |", "|" + " --- |" * 14]  # fmt: skip
        for case in cases[library]():
            if given.only and given.only not in case[0]:
                continue
            try:
                lines.append(row(case))
            except Exception as error:
                what = str(error).replace("\n", " ").replace("|", "/")[:300]
                lines.append(f"| {case[0]} | **failed**: {type(error).__name__}: {what} |" + " |" * 12)
            print(lines[-1], flush=True)
            gc.collect()
        lines.append("")
    if not given.only:
        given.out.write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
