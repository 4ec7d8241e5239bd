"""``pliant plan``: what a study would cost and what it could show, before it is run."""

from __future__ import annotations

import collections
import json
import math
import statistics
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pliant.cli.console import duration, make_console, plain
from pliant.cli.options import (
    DEFAULT_STORE,
    Activations,
    Changes,
    Folds,
    Json,
    Repeats,
    StoreOption,
    StudyArgument,
    TierOption,
    chosen_studies,
)
from pliant.cli.outcome import stored

if TYPE_CHECKING:
    from rich.console import Console

    from pliant.lab import Study
    from pliant.lab.result import Precision, Result


def plan(
    study: StudyArgument,
    tier: TierOption = None,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Show the trials of a study, what is done, how long the rest takes, and what precision to expect."""
    results = [stored(s, store, create=False) for s in chosen_studies(study, tier, activation, folds, repeats, changes)]
    if as_json:
        documents = [_document(result) for result in results]
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=1))
        return
    console = make_console()
    for i, result in enumerate(results):
        if i:
            console.print()
        _show(result, console)


def _seconds(result: Result) -> list[float]:
    return [float(r["seconds"]) for r in result.trial_rows if r.get("seconds")]


def _left(result: Result) -> int:
    return result.counts["missing"] + result.counts["failed"]


def _by_activation(result: Result) -> dict[str, dict[str, int]]:
    found = collections.Counter((r["activation"], r["outcome"]) for r in result.trial_rows)
    return {a: {o: found[a, o] for o in result.counts} for a in result.study.trained}


def _document(result: Result) -> dict[str, Any]:
    seconds, precision = _seconds(result), result.expected_precision()
    n_train, n_validation, n_test = result.sizes()
    return {
        "study": result.study.directory,
        "tier": result.study.tier,
        "trials": len(result.trials),
        "outcomes": result.counts,
        "activations": _by_activation(result),
        "cpu_seconds_left": _left(result) * statistics.mean(seconds) if seconds else None,
        "n_train": n_train,
        "n_validation": n_validation,
        "n_test": n_test,
        "sd_of_differences": precision.sd if precision.measured else None,
        "sd_from_test_examples": precision.sd_examples if precision.measured else None,
        "expected_half_width": precision.half_width if precision.measured else None,
    }


def _show(result: Result, console: Console) -> None:
    chosen, seconds, left = result.study, _seconds(result), _left(result)
    n_train, n_validation, n_test = result.sizes()
    precision = result.expected_precision()
    p, rates = chosen.protocol, len(chosen.train.lr_grid)
    console.print(f"[bold]{plain(chosen.heading)}[/]  {plain(chosen.question)}")
    console.print(
        f"{len(chosen.trained)} activations x {p.folds} folds x {p.repeats} repeats"
        f"{f' x {rates} learning rates' if rates else ''} = {len(result.trials)} trials; "
        f"each fits {n_train} examples, chooses its epoch on {n_validation} and is tested on {n_test}."
    )
    for remark in result.remarks:
        console.print(f"[yellow]note:[/] {plain(remark)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("activation")
    for outcome in result.counts:
        table.add_column(outcome, justify="right")
    for name, counts in _by_activation(result).items():
        table.add_row(plain(chosen.labels[name]), *(str(c) if c else "[dim]-[/]" for c in counts.values()))
    console.print(table)
    if not left:
        console.print("Nothing is left to train.")
    elif seconds:
        each = statistics.mean(seconds)
        console.print(f"Left: {left} trials of about {each:.1f} s each, {duration(left * each)} on one process.")
    else:
        console.print(f"Left: {left} trials; how long one takes is known once the first is done.")
    console.print(plain(_precision(precision, chosen)))


def _precision(found: Precision, study: Study) -> str:
    def points(share: float) -> str:
        return f"{100 * share:.2f} points"

    official = study.protocol.design == "official"
    where = "seeds" if official else "folds" if study.protocol.design == "kfold" else "splits"
    if not math.isfinite(found.half_width):
        return f"Expected precision: none; it takes at least 2 {where} to know the spread of a difference."
    start = f"Expected precision: differences in {study.metric} within +-{points(found.half_width)} (95 %)"
    if found.measured:
        limit = f" and of {points(1.96 * found.sd_examples)} from the test examples, which more seeds do not take away,"
        return f"{start}, at the spread of {points(found.sd)} between {where}{limit if official else ''} seen so far."
    end = f"Practically equal means within {100 * study.margin:g} points."
    if official:
        return (
            f"{start} if the spread (sd) between seeds in the difference of two activations is 1 point and they differ "
            f"systematically on 1 % of the test examples; the latter alone is +-{points(1.96 * found.sd_examples)}, which more "
            f"seeds do not take away. {end}"
        )
    return (
        f"Expected precision: +-{points(found.half_width)} (95 %) for each point of spread (sd) between {where} in the "
        f"difference of two activations. {end}"
    )
