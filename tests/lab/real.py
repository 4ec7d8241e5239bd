"""Real data for tests: what PLIANT_DATA holds, else the packed samples in ../shared/data beside the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.lab.datasets.files import unpack

SHARED = Path(__file__).parents[3] / "shared" / "data"
PACKED = {
    "mit-bih-arrhythmia-database-1.0.0": "mitbih/mit-bih-arrhythmia-43records.tar.xz",
    "VOCdevkit": "voc/VOCdevkit",
    "coco": "coco",
}


def folder(name: str, into: Path) -> Path:
    """A data root that holds the folder ``name``. Skips where there is none."""
    given = os.environ.get("PLIANT_DATA")
    if given and (Path(given) / name).is_dir():
        # A link, so that caches of the tests do not end up among the user's data.
        (into / name).symlink_to(Path(given).resolve() / name)
        return into
    packed = SHARED / PACKED[name]
    if packed.is_dir():
        (into / name).symlink_to(packed)
    elif packed.is_file():
        unpack(packed, into)
    else:
        pytest.skip(f"{name} is neither in PLIANT_DATA nor in {SHARED}")
    return into


@pytest.fixture(scope="module")
def real_root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data root of the folder that the test module names in ``REAL``; set as PLIANT_DATA while a test runs."""
    root = folder(request.module.REAL, tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLIANT_DATA", str(root))
        yield root
