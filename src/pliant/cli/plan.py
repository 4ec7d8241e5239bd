"""``pliant plan``: what a study would cost and what it could show, before it is run."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING

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
    chosen_study,
)
from pliant.cli.outcome import stored

if TYPE_CHECKING:
    from pliant.lab import Result


def plan(
    study: StudyArgument,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Show the trials of a study, what is done, how long the rest takes, and what precision to expect."""
    from pliant.lab.verdict import expected_precision

    result = stored(chosen_study(study, activation, folds, repeats, changes), store, create=False)
    chosen = result.study
    by_activation = {
        a: {o: sum(r["activation"] == a and r["outcome"] == o for r in result.trial_rows) for o in result.counts}
        for a in chosen.activations
    }
    seconds = [float(r["seconds"]) for r in result.trial_rows if r.get("seconds")]
    left = result.counts["missing"] + result.counts["failed"]
    n_train, n_validation, n_test = result.sizes()
    spread = [float(c) for c in _spreads(result)]
    sd = statistics.median(spread) if spread else None
    half = expected_precision(chosen.protocol.folds, chosen.protocol.repeats, n_train, n_test, sd if sd else 0.01)
    if as_json:
        print(
            json.dumps(
                {
                    "study": chosen.directory,
                    "trials": len(result.trials),
                    "outcomes": result.counts,
                    "activations": by_activation,
                    "cpu_seconds_left": left * statistics.mean(seconds) if seconds else None,
                    "n_train": n_train,
                    "n_validation": n_validation,
                    "n_test": n_test,
                    "sd_of_differences": sd,
                    "expected_half_width": half if sd else None,
                },
                indent=1,
            )
        )
        return
    console = make_console()
    p, rates = chosen.protocol, len(chosen.train.lr_grid)
    console.print(f"[bold]{plain(chosen.title or chosen.name)}[/]  {plain(chosen.question)}")
    console.print(
        f"{len(chosen.activations)} activations x {p.folds} folds x {p.repeats} repeats"
        f"{f' x {rates} learning rates' if rates else ''} = {len(result.trials)} trials; "
        f"each fits {n_train} examples, chooses its epoch on {n_validation} and is tested on {n_test}."
    )
    for remark in result.remarks:
        console.print(f"[yellow]note:[/] {plain(remark)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("activation")
    for outcome in result.counts:
        table.add_column(outcome, justify="right")
    for name, counts in by_activation.items():
        table.add_row(plain(chosen.labels[name]), *(str(c) if c else "[dim]-[/]" for c in counts.values()))
    console.print(table)
    if not left:
        console.print("Nothing is left to train.")
    elif seconds:
        each = statistics.mean(seconds)
        console.print(f"Left: {left} trials of about {each:.1f} s each, {duration(left * each)} on one process.")
    else:
        console.print(f"Left: {left} trials; how long one takes is known once the first is done.")
    if sd:
        console.print(
            f"Expected precision: differences in {chosen.metric} within +-{100 * half:.2f} points (95 %), at the spread of "
            f"{100 * sd:.2f} points between folds seen so far."
        )
    else:
        console.print(
            f"Expected precision: +-{100 * half:.2f} points (95 %) for each point of spread (sd) between folds in the "
            f"difference of two activations. Practically equal means within {100 * chosen.margin:g} points."
        )


def _spreads(result: Result) -> list[float]:
    if result.counts["done"] + result.counts["diverged"] == 0:
        return []
    spreads = []
    for c in result.verdict().comparisons:
        values = [d for _, _, d in c.differences]
        if len(values) > 1:
            spreads.append(statistics.stdev(values))
    return [s for s in spreads if s > 0]
