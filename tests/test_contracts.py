"""Every import contract can fail: each is broken once in a copy of the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

VIOLATIONS = {
    "library": ("clock.py", "import pliant.lab.store"),
    "kernels": ("elementwise.py", "import triton"),
    "bench": ("bench/session.py", "import rich"),
    "adapters": ("adapters/timm.py", "import pliant.lab.store"),
    "schedules": ("schedules.py", "import torch"),
    "activations": ("activations/srelu.py", "from pliant.activations import prelu"),
    "judging": ("lab/verdict/paired.py", "import torch"),
    "report": ("lab/report/page.py", "import pliant.lab.study"),
    "executors": ("lab/executors/local.py", "import pliant.lab.study"),
    "explore": ("explore/state.py", "import nicegui"),
    "data-and-networks": ("lab/models/ffnn.py", "import pliant.lab.datasets"),
    "lab": ("lab/study.py", "import pliant.lab.run"),
}


def lint(copy: Path, contract: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip("import-linter is not installed beside this Python")
    # The copy must shadow the installed package, and a shared cache would answer for the other copy.
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    command = [str(program), "--no-logo", "--no-cache", "--contract", contract]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def test_every_contract_has_a_violation() -> None:
    assert {c["id"] for c in CONTRACTS} == set(VIOLATIONS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_contract_fails_when_it_is_broken(contract: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "pliant", tmp_path / "src" / "pliant", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file, line = VIOLATIONS[contract]
    target = tmp_path / "src" / "pliant" / file
    target.write_text(target.read_text() + f"\n{line}\n")
    broken = lint(tmp_path, contract)
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "BROKEN" in broken.stdout
