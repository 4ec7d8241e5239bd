"""The arguments and options that several commands share, and the study that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pliant.errors import unknown

if TYPE_CHECKING:
    from pliant.lab import Study

STUDY_HELP = (
    "The name of a study, or of a table or figure for all its studies (see `pliant list studies`), or a file ending in .toml"
)
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help=f"{STUDY_HELP}.")]
TierOption = Annotated[
    str | None,
    typer.Option(
        "--tier",
        help="The size of a paper's study: smoke, lite or full, which is the default and the paper's own; `pliant list "
        "studies` says which there are. Reduced ones are marked in every output.",
    ),
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


def chosen_studies(
    name: str,
    tier: str | None,
    activations: Sequence[str] | None,
    folds: int | None,
    repeats: int | None,
    changes: Sequence[str] | None,
) -> list[Study]:
    """The studies that a name stands for: one, or all of a table or figure of a paper that have the tier."""
    from pliant.lab import papers
    from pliant.lab.study import Study, StudyError

    if name.endswith(".toml"):
        if tier is not None:
            raise StudyError(
                f"--tier {tier} was given with the file {name}; tiers are of the papers' studies. Use --set instead."
            )
        found = [Study.from_toml(Path(name))]
    else:
        known_tier(tier)
        members = papers.members(name)
        # A figure may need no training, and a table may hold studies that are too large for a tier.
        found = [papers.study(m, tier or "full") for m in members if len(members) == 1 or (tier or "full") in papers.tiers(m)]
        if not found:
            wanted = (
                f"no study at the tier {tier}" if members else "no study: what it shows takes no training, or is not there yet"
            )
            raise StudyError(f"{name} has {wanted}. `pliant list studies` shows what there is.")
    shorthand = [f"protocol.{k}={v}" for k, v in (("folds", folds), ("repeats", repeats)) if v is not None]
    return [study.override([*shorthand, *(changes or [])]).only(activations or []) for study in found]


def known_tier(tier: str | None) -> None:
    from pliant.lab import papers

    if tier is not None and tier not in papers.TIERS:
        raise unknown("tier", tier, papers.TIERS)


def chosen_baseline(study: Study, given: str | None) -> str | None:
    from pliant.lab.study import spelled

    if given is None or given in study.activations:
        return given
    name = spelled(given)
    if name not in study.activations:
        raise unknown("baseline in this study", name, study.activations)
    return name
