"""The default backend of torch.compile: one program for a whole schedule."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from pliant import AReLU, Clock, DSReLU


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


# The quick form of this, without a C++ compiler, is the check "compiled_once" of the contract.
@pytest.mark.slow
@pytest.mark.skipif(_compiler() is None, reason="the default backend of torch.compile needs a C++ compiler on a CPU")
def test_one_program_for_20_values_of_progress(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache of its own, so that an earlier run cannot stand in for the compilation.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    model = nn.Sequential(DSReLU.released(), AReLU())
    clock = Clock(model, 20)
    programs = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, backend=programs, fullgraph=True)
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(0))
    try:
        with torch._dynamo.config.patch(error_on_recompile=True):
            slopes = set()
            for _ in range(20):
                z = x.clone().requires_grad_(True)
                got = compiled(z)
                got.square().sum().backward()
                w = x.clone().requires_grad_(True)
                expected = model(w)
                expected.square().sum().backward()
                torch.testing.assert_close(got, expected)
                torch.testing.assert_close(z.grad, w.grad)
                slopes.add(model[0].slope.item())
                clock.step()
    finally:
        torch.compiler.reset()
    assert len(slopes) == 20
    assert programs.frame_count == 1
