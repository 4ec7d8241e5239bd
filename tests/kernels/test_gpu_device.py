"""The GPU kernels on a CUDA device: what no interpreter can show. Values and gradients: tests/kernels/programs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pliant.kernels import gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

VALUES: dict[str, tuple[float, ...]] = {
    "dsrelu": (1.7,),
    "srelu": (1.1, 0.3),
    "arelu": (1.2, 0.25, 0.1, -0.2),
    "asigmoid": (1.3, 0.8, 0.1, -0.2),
    "atanh": (1.3, 0.8, 0.1, -0.2),
    "prelu": (0.25,),
    "swish": (1.2,),
    "pelu": (1.2, 0.7),
    "frelu": (-0.4,),
}


def arguments(name: str, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = torch.randn(size, device="cuda", dtype=dtype)
    return x, torch.randn_like(x), [torch.tensor([v], device="cuda") for v in VALUES[name]]


@pytest.fixture
def synchronization_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", VALUES)
def test_the_host_never_waits(name: str, synchronization_is_an_error: None) -> None:
    x, grad, values = arguments(name, 100_000)
    wanted = (True,) * (1 + len(values))
    # The first call compiles and loads; only launches are asked not to wait.
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        gpu.forward(name, x, values)
        gpu.backward(name, grad, x, values, wanted)
        gpu.forward(name, x, VALUES[name])
        gpu.forward(name, x.double(), VALUES[name])
    with pytest.raises(RuntimeError, match="synchronizing"):
        values[0].item()


@pytest.mark.parametrize("name", ["dsrelu", "arelu", "atanh"])
def test_a_captured_graph_follows_its_coefficient(name: str) -> None:
    x, grad, values = arguments(name, 100_000)
    # As a schedule keeps its value: a float32 view of an integer buffer, filled in place.
    buffer = torch.zeros(1, dtype=torch.int32, device="cuda")
    moving = buffer.view(torch.float32)
    moving.fill_(2.0)
    values[0] = moving
    wanted = (True,) * (1 + len(values))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gpu.forward(name, x, values)
        gpu.backward(name, grad, x, values, wanted)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = gpu.forward(name, x, values)
        grad_x, grad_values = gpu.backward(name, grad, x, values, wanted)
    assert grad_x is not None
    assert grad_values is not None
    seen = set()
    for value in (3.5, 1.0, 0.3):
        moving.fill_(value)
        graph.replay()
        expected_x, expected_values = gpu.backward(name, grad, x, values, wanted)
        assert expected_x is not None
        assert expected_values is not None
        assert torch.equal(y, gpu.forward(name, x, values))
        assert torch.equal(grad_x, expected_x)
        assert torch.equal(grad_values, expected_values)
        seen.add(y.sum().item())
    assert len(seen) == 3


@pytest.mark.slow
def test_more_than_2_31_elements() -> None:
    size = 2**31 + 1000
    if torch.cuda.mem_get_info()[0] < 7 * size * 2:
        pytest.skip("less than 30 GB of device memory are free")
    x = torch.ones(size, device="cuda", dtype=torch.bfloat16)
    x[-1] = -2.0
    slope = torch.tensor([3.0], device="cuda")
    y = gpu.forward("prelu", x, [slope])
    assert y[-1].item() == -6.0
    assert y[:-1].eq(1).all()
    grad_x, grad_slope = gpu.backward("prelu", x, x, [slope], (True, True))
    assert grad_x is not None
    assert grad_slope is not None
    assert grad_x[-1].item() == -6.0
    assert grad_slope.item() == 4.0
    # Two strides, so that places are computed.
    pairs = x.view(-1, 2)[:, 0]
    assert gpu.forward("prelu", pairs.expand(2, -1), [slope]).eq(1).all()


def milliseconds(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_bandwidth(name: str, dtype: torch.dtype) -> None:
    """At 256 MB, at least 90 % of the rate of a copy forward, of an addition (two reads, one write) backward."""
    x, grad, values = arguments(name, 256 * 2**20 // dtype.itemsize, dtype)
    wanted = (True,) * (1 + len(values))
    out = torch.empty_like(x)
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: out.copy_(x),
        "add": lambda: torch.add(x, grad, out=out),
        "forward": lambda: gpu.forward(name, x, values),
        "backward": lambda: gpu.backward(name, grad, x, values, wanted),
    }
    times: dict[str, list[float]] = {k: [] for k in calls}
    for _ in range(30):
        for key, call in calls.items():
            times[key].append(milliseconds(call))
    median = {k: statistics.median(t[5:]) for k, t in times.items()}
    assert median["copy"] / median["forward"] >= 0.9
    assert median["add"] / median["backward"] >= 0.9
