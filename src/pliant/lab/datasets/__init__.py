"""Data sets, one family a file. To add one: a new file, and its class in ``ALL``."""

from pliant.lab.datasets.arrays import Arrays, Data
from pliant.lab.datasets.scikit import WDBC, Digits

ALL = {dataset.name: dataset for dataset in (WDBC, Digits)}

__all__ = ["ALL", "WDBC", "Arrays", "Data", "Digits"]
