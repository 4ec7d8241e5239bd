from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pliant.lab import Study

# Worker processes import the networks of a study by name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def small() -> Study:
    """A study of four trials that trains in about a second."""
    return Study(
        name="small",
        dataset="wdbc",
        model={"name": "ffnn", "options": {"width": 8}},
        activations=["relu", "arelu"],
        folds=2,
        repeats=1,
        epochs=3,
    )
