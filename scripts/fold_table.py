"""The table of docs/fold.md: fold torchvision networks, export them, run them in ONNX Runtime, print what comes out.

Needs the extra ``dev``. Weights are random (seed 0), with running statistics and affine parameters of the normalisations
drawn too, so that nothing is measured on zeros and ones.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import onnxruntime
import torch
import torchvision
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

import pliant
from pliant.fold import Absorb, FoldReport

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # What quantisation costs where there is nothing to fold.
    "ReLU": nn.ReLU,
    "AReLU(1.1, 0.15, 0.05, -0.03)": lambda: pliant.AReLU(1.1, 0.15, 0.05, -0.03),
    "DSReLU(1.3)": lambda: pliant.DSReLU(1.3),
    "SReLU(1.1, 0.3)": lambda: pliant.SReLU(1.1, 0.3),
}


def network(name: str, act: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(parent, child_name, act())
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, 0.0, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return model.eval()


def operations(model: nn.Module, x: Tensor) -> int:
    """Calls in the exported program."""
    return sum(n.op == "call_function" for n in torch.export.export(model, (x,)).graph.nodes)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, x: Tensor) -> None:
        self.batches = iter([{"x": x.numpy()}])

    def get_next(self) -> Any:
        return next(self.batches, None)


def infer(path: Path, x: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def onnx_errors(folded: nn.Module, x: Tensor, expected: Tensor, at: Path) -> tuple[float, float]:
    """Largest error over the largest output: float, and int8."""
    torch.onnx.export(folded, (x,), at / "f.onnx", dynamo=False, input_names=["x"], output_names=["y"])
    quantize_static(
        str(at / "f.onnx"),
        str(at / "q.onnx"),
        Reader(x),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    size = max(1.0, expected.abs().max().item())
    errors = [(infer(at / name, x) - expected).abs().max().item() / size for name in ("f.onnx", "q.onnx")]
    return errors[0], errors[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--size", type=int, default=64, help="height and width of the images; 224 for VGG")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--only", help="one activation, by its label")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| network | activation | absorb | max error | in float64 | calls before | calls after | ONNX float | ONNX int8 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.networks:
        for label, act in ACTIVATIONS.items():
            if arguments.only not in (None, label):
                continue
            model = network(name, act)
            x = torch.randn(arguments.images, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(1))
            before = operations(model, x)
            with torch.no_grad():
                expected = model(x)
            for absorb in get_args(Absorb) if label != "ReLU" else ("none",):
                folded = pliant.fold(model, x, absorb)
                report = folded.fold_report
                assert isinstance(report, FoldReport)
                size = max(1.0, report.max_output)
                with tempfile.TemporaryDirectory() as directory:
                    plain, int8 = onnx_errors(folded, x, expected, Path(directory))
                print(
                    f"| {name} | {label} | {absorb} | {report.relative_error:.1e} | {(report.exact_error or 0) / size:.1e} | "
                    f"{before} | {operations(folded, x)} | {plain:.1e} | {int8:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
