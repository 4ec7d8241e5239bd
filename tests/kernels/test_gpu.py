"""The GPU kernels without a GPU: run by Triton's interpreter, and compiled for a real one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src" / "pliant"

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; it comes with the CUDA builds of torch"
)

NAMES = ("dsrelu", "srelu", "arelu", "asigmoid", "atanh", "prelu", "swish", "pelu", "frelu")
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    paths = [str(SOURCES.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE.parents[1],
        env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
    )


# Triton decides between compiler and interpreter when it is first imported, so the interpreter has a process of its own. It is
# several, because the interpreter is slow and pytest-xdist can then spread them.
@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, on which tests/kernels/programs runs directly")
@pytest.mark.parametrize("part", ["test_value_and_gradients", "not test_value_and_gradients"])
def test_programs_under_the_interpreter(part: str) -> None:
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", part)
    run = python("-m", "pytest", *options, str(HERE / "programs"), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= 36
    assert "skipped" not in run.stdout


def test_importing_pliant_imports_no_triton_and_its_absence_is_explained() -> None:
    code = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "import pliant, pliant.functional\n"
        "from pliant.kernels import gpu\n"
        "assert 'pliant.kernels.gpu_programs' not in sys.modules\n"
        "assert 'Triton cannot be imported' in gpu.unavailable(), gpu.unavailable()\n"
        "assert gpu.refusal('dsrelu', torch.ones(3), [1.0]) == gpu.unavailable()\n"
        "assert 'pliant.kernels.gpu_programs' not in sys.modules\n"
    )
    run = python("-c", code)
    assert run.returncode == 0, run.stderr


def test_only_one_file_imports_triton() -> None:
    importing = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if re.search(r"^\s*(import|from)\s+triton\b", path.read_text(), re.MULTILINE)
    }
    assert importing == {"kernels/gpu_programs.py"}


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absence_of_a_device_is_explained() -> None:
    from pliant.kernels import gpu

    assert "no CUDA device" in (gpu.unavailable() or "")
    assert gpu.refusal("dsrelu", torch.ones(3), [1.0]) == gpu.unavailable()


# --- Ahead of time ---------------------------------------------------------------------------------------------------------


def ptx(kernel: Any, dtype: torch.dtype, count: int, rank: int = 0, **constants: object) -> str:
    """Machine-near code of one kernel for compute capability 9.0 (H100), as :mod:`pliant.kernels.gpu` would launch it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pliant.kernels import gpu, gpu_programs

    x = torch.empty(4, dtype=dtype)
    strides = [(1,) * rank]
    settings = gpu._settings(x, (4,) * rank, strides, tensors=2**count - 1)
    options = {k: settings.pop(k) for k in ("num_warps", "enable_fp_fusion")}
    signature: dict[str, object] = {}
    fixed: dict[tuple[int, ...], object] = {}
    aligned: dict[tuple[int, ...], object] = {}
    sums = "fp64" if dtype is torch.float64 else "fp32"
    for i, name in enumerate(kernel.arg_names):
        if name in settings or name in constants:
            signature[name], fixed[(i,)] = "constexpr", {**settings, **constants}[name]
        elif name in "abcd":
            if "abcd".index(name) < count:
                signature[name] = "*fp32"
            else:
                signature[name], fixed[(i,)] = "constexpr", None
        elif name == "sizes" or name.endswith("strides"):
            signature[name] = ("i32",) * rank
        elif name == "n":
            signature[name] = "i32"
        else:
            signature[name] = "*" + (sums if name == "partials" else TYPES[dtype])
            aligned[(i,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(ASTSource(kernel, signature, fixed, aligned), target=GPUTarget("cuda", 90, 32), options=options)
    assert gpu_programs.INTERPRETED is False
    assert len(compiled.asm["cubin"]) > 0
    return str(compiled.asm["ptx"])


def wide(code: str, operation: str, dtype: torch.dtype) -> int:
    """How many 16-byte accesses to global memory there are."""
    width = "v2.b64" if dtype is torch.float64 else "v4.b32"
    return len(re.findall(rf"\b{operation}\.global[\w.:]*\.{re.escape(width)}\b", code))


@needs_triton
@pytest.mark.skipif(torch.version.hip is not None, reason="a ROCm build of Triton has no assembler for CUDA devices")
@pytest.mark.parametrize(
    "dtype",
    # What differs between the two half precisions is the conversion; dsrelu tests it below.
    [torch.float32, torch.float64, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_for_a_gpu_with_wide_accesses(name: str, dtype: torch.dtype) -> None:
    from pliant.kernels import gpu_programs

    function = gpu_programs.FUNCTIONS[name]
    each = function.coefficients
    code = ptx(gpu_programs.forward, dtype, each, VALUE=function.value)
    accesses = 1 if dtype.itemsize == 2 else 2
    assert wide(code, "ld", dtype) == accesses
    assert wide(code, "st", dtype) == accesses
    assert "ld.local" not in code
    assert ".shared" not in code
    for gradients in filter(None, (function.gradients, function.gradients_of_output)):
        code = ptx(gpu_programs.backward, dtype, each, GRADIENTS=gradients, COUNT=each, VECTOR=16 // dtype.itemsize)
        assert wide(code, "ld", dtype) == 2 * accesses
        assert wide(code, "st", dtype) == accesses
        assert "ld.local" not in code
        assert not re.search(r"\b(atom|red)\.", code)
        # All that threads tell each other is said after the loop: nothing jumps back from beyond the first such word.
        talk = code.index("shfl.sync")
        labels_before = set(re.findall(r"^(\$L\w+):", code[:talk], re.MULTILINE))
        assert not labels_before & set(re.findall(r"\bbra(?:\.uni)?\s+(\$L\w+);", code[talk:]))


@needs_triton
@pytest.mark.skipif(torch.version.hip is not None, reason="a ROCm build of Triton has no assembler for CUDA devices")
def test_compiles_in_half_precision_without_reductions_and_with_strides() -> None:
    from pliant.kernels import gpu_programs

    function = gpu_programs.FUNCTIONS["dsrelu"]
    dtype = torch.float16
    assert wide(ptx(gpu_programs.forward, dtype, 1, VALUE=function.value), "st", dtype) == 1
    code = ptx(gpu_programs.backward, dtype, 1, GRADIENTS=function.gradients, COUNT=0, VECTOR=8, partials=None)
    assert wide(code, "ld", dtype) == 2
    assert ".shared" not in code
    ptx(gpu_programs.forward, dtype, 1, rank=3, VALUE=function.value)
    ptx(gpu_programs.backward, dtype, 1, rank=3, GRADIENTS=function.gradients, COUNT=1, VECTOR=8)


class _DeviceOnPaper:
    """As much of a driver as it takes to specialize and compile a launch, and not to launch it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


class _Compiled:
    """A kernel that is compiled for each launch and not launched; ``made`` holds the distinct results."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.made: set[str] = set()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: object, **settings: object) -> None:
            self.made.add(self.kernel.warmup(*arguments, grid=grid, **settings).hash)

        return launch


@needs_triton
@pytest.mark.skipif(torch.version.hip is not None, reason="a ROCm build of Triton has no assembler for CUDA devices")
def test_one_program_for_all_sizes_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    from pliant.kernels import gpu, gpu_programs

    forward, backward = _Compiled(gpu_programs.forward), _Compiled(gpu_programs.backward)
    monkeypatch.setattr(gpu_programs, "forward", forward)
    monkeypatch.setattr(gpu_programs, "backward", backward)
    monkeypatch.setattr(gpu, "_most_programs", lambda device: 660)
    monkeypatch.setattr(driver, "_active", _DeviceOnPaper())
    for size in (1, 16, 63, 2500, 4096):
        x = torch.zeros(size)
        # A coefficient anywhere in a buffer, a number of any value.
        for values in ([torch.ones(1), 1.0], [torch.ones(3)[1:2], 16.0]):
            gpu.forward("srelu", x, values)
            gpu.backward("srelu", x, x, values, (True, True, True))
    assert len(forward.made) == 1
    assert len(backward.made) == 1
