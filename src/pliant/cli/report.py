"""``pliant report``: the verdict and the page from what is in the store."""

from __future__ import annotations

from typing import Annotated

import typer

from pliant.cli.console import make_console
from pliant.cli.options import (
    DEFAULT_STORE,
    Activations,
    Baseline,
    Changes,
    Folds,
    Repeats,
    StoreOption,
    StudyArgument,
    chosen_baseline,
    chosen_study,
)
from pliant.cli.outcome import finish, incomplete, stored


def report(
    study: StudyArgument,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    baseline: Baseline = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Print the verdict and write the report of a study from what is in the store; trains nothing."""
    result = stored(chosen_study(study, activation, folds, repeats, changes), store)
    finish(result, study, make_console(), chosen_baseline(result.study, baseline), open_page, None)
    if incomplete(result):
        raise typer.Exit(1)
