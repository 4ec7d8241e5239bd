"""What is public: the exact names, their documentation, and an import that brings torch and nothing else."""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

import pliant
from pliant.activations import ALL

NAMES = [
    "PELU",
    "AReLU",
    "ASigmoid",
    "ATanh",
    "Activation",
    "AffineReLU",
    "Clock",
    "Coefficient",
    "Constant",
    "Cosine",
    "DSReLU",
    "DomainError",
    "Exponential",
    "FReLU",
    "Fixed",
    "FoldError",
    "KernelError",
    "KernelWarning",
    "Learned",
    "Linear",
    "Logistic",
    "MissingExtraError",
    "Observer",
    "PReLU",
    "Plan",
    "PliantError",
    "SReLU",
    "Scheduled",
    "Site",
    "Steps",
    "Swap",
    "SwapError",
    "Swish",
    "Transition",
    "UnknownNameError",
    "create",
    "elementwise",
    "finish_",
    "fold",
    "functional",
    "gain",
    "kernels",
    "observe",
    "param_groups",
    "plan",
    "preserving",
    "restore_",
    "schedules",
    "swap_",
    "update_optimizer",
]
FUNCTIONS = ["affine_relu", "arelu", "asigmoid", "atanh", "dsrelu", "frelu", "pelu", "prelu", "srelu", "swish"]
MODULES = [
    "activation",
    "catalog",
    "clock",
    "coefficients",
    "elementwise",
    "errors",
    "fold",
    "gain",
    "groups",
    "kernels",
    "observe",
    "schedules",
    "testing",
]


def test_the_names_are_exactly_these() -> None:
    assert pliant.__all__ == NAMES
    assert pliant.functional.__all__ == FUNCTIONS


def test_every_activation_is_public_with_its_function() -> None:
    for cls in ALL:
        assert getattr(pliant, cls.__name__) is cls
        assert getattr(pliant.functional, cls.function.__name__) is cls.function
    assert len(ALL) == len(FUNCTIONS)


def _public() -> dict[str, Any]:
    found = {f"pliant.{n}": getattr(pliant, n) for n in pliant.__all__}
    found |= {f"pliant.functional.{n}": getattr(pliant.functional, n) for n in FUNCTIONS}
    for name in MODULES:
        module = importlib.import_module(f"pliant.{name}")
        found[f"pliant.{name}"] = module
        found |= {f"pliant.{name}.{n}": getattr(module, n) for n in getattr(module, "__all__", ())}
    return found


PUBLIC = _public()


@pytest.mark.parametrize(
    "name", [n for n, v in PUBLIC.items() if inspect.ismodule(v) or inspect.isclass(v) or inspect.isfunction(v)]
)
def test_every_public_name_is_documented(name: str) -> None:
    thing = PUBLIC[name]
    doc = thing.__doc__ or ""
    assert doc.strip(), f"{name} has no docstring"
    if inspect.isclass(thing) and thing.__module__.startswith("pliant"):
        assert not doc.startswith(f"{thing.__name__}("), f"{name} has only the docstring that its dataclass made up"
        for method, value in vars(thing).items():
            if inspect.isroutine(value) or isinstance(value, classmethod | property):
                assert method.startswith("_") or inspect.getdoc(getattr(thing, method)), f"{name}.{method} has no docstring"


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_an_activation_says_where_it_comes_from(cls: Any) -> None:
    doc = inspect.getdoc(cls)
    assert "Args:" in doc
    assert "Source: " in doc
    assert cls.source
    for c in cls.coefficients:
        assert c.name in doc
    assert "df/dx" in cls.function.__doc__


@pytest.mark.parametrize("name", [*MODULES, *(f"activations.{f}" for f in FUNCTIONS)])
def test_examples_in_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"pliant.{name}")).failed == 0


@functools.cache
def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_pliant_imports_torch_and_nothing_else() -> None:
    with_torch, with_pliant = _modules_after("import torch"), _modules_after("import pliant")
    ours = {m for m in with_pliant if m.split(".")[0] == "pliant"}
    brought = {m for m in with_pliant - with_torch - ours if m.split(".")[0] not in sys.stdlib_module_names}
    # Parts of torch itself that `import torch` leaves for later are fine; other packages are not.
    assert {m.split(".")[0] for m in brought} <= {"torch"}
    lab = {"pydantic", "scipy", "sklearn", "rich", "polars", "altair", "typer", "jinja2", "pandas", "matplotlib", "triton"}
    assert not {m.split(".")[0] for m in with_pliant - with_torch} & lab
    assert not {m for m in ours if m.startswith(("pliant.lab", "pliant.testing", "pliant.cli"))}


def test_importing_the_contract_needs_no_pytest() -> None:
    with_torch, with_contract = _modules_after("import torch"), _modules_after("import pliant.testing")
    brought = {m.split(".")[0] for m in with_contract - with_torch} - set(sys.stdlib_module_names)
    assert brought <= {"torch", "pliant"}


def test_schedules_need_the_standard_library_alone() -> None:
    # Through importlib, because importing pliant.schedules by its name imports the package, and with it torch.
    path = inspect.getsourcefile(pliant.schedules)
    source = inspect.getsource(pliant.schedules)
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert path is not None
    assert imported - {"__future__"} <= {"math", "collections", "dataclasses", "typing", "pliant"}
    assert "torch" not in imported
