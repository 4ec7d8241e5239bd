"""The arguments and options that several commands share, and the study that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pliant.errors import unknown

if TYPE_CHECKING:
    from pliant.lab import Study

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's name (see `pliant list studies`) or a study file ending in .toml.")
]
Activations = Annotated[
    list[str] | None,
    typer.Option("-a", "--activation", help='Compare these instead of the study\'s, e.g. -a arelu -a "prelu[init=0.1]".'),
]
Folds = Annotated[int | None, typer.Option(help="Folds of each partition.")]
Repeats = Annotated[int | None, typer.Option(help="Partitions, each with its own split, weights and batches.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the study, e.g. --set train.epochs=20."),
]
StoreOption = Annotated[Path, typer.Option("--store", help="Where results are kept.")]
Baseline = Annotated[str | None, typer.Option(help="Compare with this activation of the study instead of its own baseline.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON for programs instead of a table.")]
DEFAULT_STORE = Path("pliant-store")


def chosen_study(
    name: str,
    activations: Sequence[str] | None,
    folds: int | None,
    repeats: int | None,
    changes: Sequence[str] | None,
    tier: str | None = None,
) -> Study:
    from pliant.lab import papers
    from pliant.lab.study import Study, StudyError

    if name.endswith(".toml") and tier:
        raise StudyError(f"--tier {tier} belongs to a study of a paper, and {name} is a file. Leave it out.")
    study = Study.from_toml(Path(name)) if name.endswith(".toml") else papers.study(name, tier or "full")
    shorthand = [f"protocol.{k}={v}" for k, v in (("folds", folds), ("repeats", repeats)) if v is not None]
    return study.override([*shorthand, *(changes or [])]).only(activations or [])


def chosen_baseline(study: Study, given: str | None) -> str | None:
    from pliant import catalog

    if given is None or given in study.activations:
        return given
    name = str(catalog.parse(given))
    if name not in study.activations:
        raise unknown("baseline in this study", name, study.activations)
    return name
