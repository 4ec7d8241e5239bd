"""docs/fold-table.md: swap every activation of a network for AReLU or DSReLU, fold it, and measure how far the copy is off.

Networks come from torchvision, and from timm where it is installed, with random weights (seed 0).
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
import torchvision
from torch import nn

import pliant
from pliant.fold import Absorb

TORCHVISION = (
    "resnet18", "resnet50", "googlenet", "inception_v3", "densenet121", "vgg16_bn", "mobilenet_v3_large", "efficientnet_b0",
    "convnext_tiny", "regnet_y_400mf",
)  # fmt: skip
TIMM = ("hrnet_w18_small", "dla34", "res2net50_26w_4s", "dpn68", "mobilevit_xxs", "nasnetalarge")
SIZES = {"inception_v3": 299, "nasnetalarge": 96}
OLD = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)
NEW: dict[str, Callable[[], nn.Module]] = {
    "AReLU": lambda: pliant.AReLU(1.1, 0.15, 0.05, -0.03),
    "DSReLU": lambda: pliant.DSReLU(1.3),
}


def networks() -> list[tuple[str, Callable[[], nn.Module]]]:
    get = torchvision.models.get_model
    found = [(name, functools.partial(get, name, weights=None)) for name in TORCHVISION]
    try:
        import timm
    except ModuleNotFoundError:
        return found
    return found + [(name, functools.partial(timm.create_model, name, pretrained=False)) for name in TIMM]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/fold-table.md"))
    parser.add_argument("--only", nargs="*", help="names of networks")
    arguments = parser.parse_args()
    lines = [
        "# Folding whole networks",
        "",
        f"Written by `scripts/fold_networks_table.py` with torch {torch.__version__}, float32 on the CPU,",
        "random weights (seed 0).",
        f"Every {', '.join(c.__name__ for c in OLD)} of the network was swapped for the activation, then it was",
        "folded. Errors are the largest difference of an output to the unfolded network, relative to max(1, largest output);",
        "the tolerance of `pliant.fold` is 1e-5.",
        "",
        "| network | activation | sites | error, none | error, bias | error, full | moved by full |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for name, build in networks():
        if arguments.only and name not in arguments.only:
            continue
        for label, make in NEW.items():
            began = time.perf_counter()
            torch.manual_seed(0)
            model = build().eval()
            side = SIZES.get(name, 64)
            x = torch.randn(2, 3, side, side)
            plan = pliant.plan(model, dict.fromkeys(OLD, make), example=x)
            pliant.swap_(model, plan)
            cells = []
            for absorb in get_args(Absorb):
                try:
                    report = pliant.fold(model, example=x, absorb=absorb).fold_report
                    cells.append(f"{report.relative_error:.1e}")
                except pliant.PliantError as error:
                    print(f"{name} {label} {absorb}: {error}", flush=True)
                    cells.append("refused")
            moved = sum(bool(site.absorbed) for site in report.sites)
            lines.append(f"| {name} | {label} | {len(plan)} | {' | '.join(cells)} | {moved} |")
            print(lines[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
            arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
