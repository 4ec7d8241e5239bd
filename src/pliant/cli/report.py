"""``pliant report``: the verdict and the page from what is in the store."""

from __future__ import annotations

from typing import Annotated

import typer

from pliant.cli.console import make_console, plain
from pliant.cli.options import (
    DEFAULT_STORE,
    Activations,
    Baseline,
    Changes,
    Folds,
    Repeats,
    StoreOption,
    StudyArgument,
    TierOption,
    chosen_baseline,
    chosen_studies,
)
from pliant.cli.outcome import finish, incomplete, stored


def report(
    study: StudyArgument,
    tier: TierOption = None,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    baseline: Baseline = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Print the verdict and write the report of a study from what is in the store; trains nothing."""
    console = make_console()
    chosen = chosen_studies(study, tier, activation, folds, repeats, changes)
    results = [stored(one, store) for one in chosen]
    for result in results:
        if len(results) > 1:
            console.rule(plain(result.study.directory), style="dim")
        name = study if study.endswith(".toml") else result.study.name
        finish(result, name, console, chosen_baseline(result.study, baseline), open_page, None)
    if any(incomplete(result) for result in results):
        raise typer.Exit(1)
