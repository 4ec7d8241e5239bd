"""The ``heartbeat`` CSV files: single beats of MIT-BIH as DSReLU's release used them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.files import File, Manifest

__all__ = ["Heartbeat"]

SAMPLES: Final = 187
CLASSES: Final = ("N", "S", "V", "F", "Q")
_FILES: Final = {"mitbih_train.csv": 87_554, "mitbih_test.csv": 21_892}
"""The rows of each official file; no checksum is published."""


class Heartbeat:
    """Beats of MIT-BIH as CSV: 87,554 and 21,892 rows of 187 samples at 125 Hz, scaled to [0, 1], in the AAMI classes."""

    name: ClassVar = "heartbeat"
    version: ClassVar = 1
    source: ClassVar = "Kaggle, shayanfazeli/heartbeat; Kachuee et al. (2018), from MIT-BIH of PhysioNet"
    terms: ClassVar = "as MIT-BIH: Open Data Commons Attribution License 1.0"

    @classmethod
    def files(cls, *, shape: Literal["2d", "1d"] = "2d", official: bool = True) -> Manifest:
        return Manifest(
            tuple(File(f"{cls.name}/{name}") for name in _FILES),
            instructions="They are in heartbeat.zip of https://www.kaggle.com/datasets/shayanfazeli/heartbeat, which asks for "
            f"a login. Unpack {' and '.join(_FILES)} into the folder {cls.name}.",
        )

    @classmethod
    def load(cls, *, shape: Literal["2d", "1d"] = "2d", official: bool = True) -> Data:
        """The rows of mitbih_train.csv as part 0, then those of mitbih_test.csv as part 2. Beats of a patient are in both.

        Args:
            shape: of x, "2d" (n, 1, 1, 187) as ResNet-34 takes it, or "1d" (n, 1, 187); float32.
            official: whether the files must have the official numbers of rows.

        Raises:
            DataError: a file is missing, has another shape, or holds what is no number in [0, 1] or no class 0 .. 4.
        """
        folder = cls.files().require(cls.name)
        tables = [_table(file.at(folder)) for file in cls.files().files]
        rows = [len(t) for t in tables]
        if official and rows != [*_FILES.values()]:
            wanted = ", ".join(f"{name} {n}" for name, n in _FILES.items())
            raise DataError(
                f"The files in {folder / cls.name} have {' and '.join(map(str, rows))} rows, but the official ones have: "
                f"{wanted}. They may be cut short; to use other files knowingly set the option official = false, and every "
                "result will say so."
            )
        table = np.concatenate(tables)
        x = table[:, None, :SAMPLES]
        return Data.of(
            x[:, None] if shape == "2d" else x,
            table[:, SAMPLES],
            CLASSES,
            cls.name,
            parts=np.repeat([0, 2], rows),
            note="" if official else f"not the official files: {rows[0]} + {rows[1]} beats",
        )


def _table(path: Path) -> NDArray[np.float32]:
    names = [f"column {i + 1}" for i in range(SAMPLES + 1)]
    try:
        with path.open("rb") as stream:
            columns = stream.readline().count(b",") + 1
        if columns != len(names):
            raise DataError(f"{path} has {columns} columns in its first row; expected {SAMPLES} samples and a class.")
        table = pl.read_csv(path, has_header=False, schema=dict.fromkeys(names, pl.Float32))
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0][:200]
        raise DataError(f"{path} is not a table of {len(names)} numbers a row without a header: {detail}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    # A row that is too short is filled with nulls.
    short = table.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if len(short):
        raise DataError(
            f"{path}: row {short[0] + 1} and {len(short) - 1} more have empty or missing values; each row needs {SAMPLES} "
            "samples and a class. The file may be cut short or of another data set."
        )
    values = table.to_numpy()
    samples, labels = values[:, :SAMPLES], values[:, SAMPLES]
    # NaN compares false.
    wrong = np.flatnonzero(~((samples >= 0) & (samples <= 1)).all(axis=1))
    if wrong.size:
        raise DataError(f"{path}: {wrong.size} rows hold samples that are not in [0, 1], the first is row {wrong[0] + 1}.")
    wrong = np.flatnonzero(~np.isin(labels, range(len(CLASSES))))
    if wrong.size:
        raise DataError(
            f"{path}: {wrong.size} rows end with a class that is not 0, 1, 2, 3 or 4; row {wrong[0] + 1} ends with "
            f"{labels[wrong[0]]:g}."
        )
    return values
