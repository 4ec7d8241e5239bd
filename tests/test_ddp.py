from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pliant
from pliant import Learned, catalog
from pliant.activation import Activation

PROGRAM = Path(__file__).parent / "ddp_program.py"


def test_every_learned_coefficient_has_a_shape_that_can_be_sharded() -> None:
    """FSDP refuses a 0-dim parameter; a coefficient for each layer has shape (1,), one for each channel (C,)."""
    seen = 0
    for name in catalog.ALL:
        module = catalog.create(name)
        if isinstance(module, Activation):
            for parameter in module.parameters():
                seen += 1
                assert parameter.ndim == 1
                assert parameter.shape[0] >= 1
                assert parameter.is_contiguous()
    assert seen > 10
    assert pliant.PReLU(weight=Learned(0.1), channels=7).weight.shape == (7,)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What two processes of torchrun found; each process imports torch, so this takes a while."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("FOUND"))


@pytest.mark.slow
def test_ddp_averages_coefficients_and_schedules_stay_in_step(found: dict[str, Any]) -> None:
    assert found["ddp_same"]
    assert found["ddp_distance"] < 1e-12
    assert found["progress"] == pytest.approx([i / 6 for i in range(1, 7)])
    # No parameter is unused, and none is left out of the averaging.
    assert all(distance > 1e-6 for distance in found["moved"].values())
    assert len(found["moved"]) == 10 + 4 + 1 + 1


@pytest.mark.slow
def test_fsdp_shards_coefficients_like_any_parameter(found: dict[str, Any]) -> None:
    assert found["fsdp_sharded"]
    assert found["fsdp_same"]
    assert found["fsdp_distance"] < 1e-12
    assert all(len(shape) >= 1 for shape in found["shapes"].values())
    assert found["shapes"]["1.a"] == [1]
    assert found["shapes"]["7.weight"] == [5]


def test_a_copy_on_the_meta_device_keeps_its_shapes() -> None:
    """How large models are built before they are sharded."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), pliant.AReLU(), pliant.DSReLU())
    assert all(p.device.type == "meta" and p.ndim for p in model.parameters())
    model.to_empty(device="cpu")
    for module in model:
        module.reset_parameters()
    torch.testing.assert_close(model[1](torch.ones(3)), pliant.AReLU()(torch.ones(3)))
