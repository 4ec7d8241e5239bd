"""The examples of docs/adapters.md run as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

TEXT = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n+```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))


def test_every_adapter_has_an_example() -> None:
    adapters = Path(__file__).parents[2] / "src" / "pliant" / "adapters"
    for path in adapters.glob("[!_]*.py"):
        assert any(f"pliant.adapters.{path.stem} " in code for code in EXAMPLES.values()), path.stem


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", EXAMPLES)
def test_example_runs(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"Lightning": "lightning", "Transformers": "accelerate", "timm": "timm", "Ignite": "ignite", "Keras 3": "keras"}
    pytest.importorskip(modules[library])
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[library], f"docs/adapters.md, {library}", "exec"), {})
