"""The lab: fair comparisons of activations, and a verdict with a tested error rate."""

from pliant.errors import MissingExtraError

try:
    from pliant.lab.datasets import Data
    from pliant.lab.result import Result
    from pliant.lab.run import run
    from pliant.lab.study import Component, Optimizer, Protocol, Study, Train
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "pliant":
        raise
    raise MissingExtraError(
        f"The lab needs packages that are not installed, first of all {error.name!r}. Run pip install 'pliant[lab]'."
    ) from error

__all__ = ["Component", "Data", "Optimizer", "Protocol", "Result", "Study", "Train", "run"]
