"""The tables of docs/papers/*.md: arithmetic on printed and released numbers, and our results from the records.

python scripts/papers_tables.py           # prints the pages with the tables put in
python scripts/papers_tables.py --write   # puts them there, and writes the index of the records
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pliant.lab import papers, records
from pliant.lab.claims import Known, settle
from pliant.lab.evidence import Evidence
from pliant.lab.papers import ReleasedEpoch
from pliant.schedules import Logistic

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records"
PAGES = ROOT / "docs" / "papers"

CONSTANTS = {
    "the paper's text": (85, 10, 5.0),
    "the notebooks, latest": (75, 30, 5.0),
    "the notebooks, when the logs were added": (80, 15, 10.0),
    "figure 1": (70, 35, 5.0),
}
"""Angles of a and b in degrees, and k."""

RUNS = {
    "mini-ImageNet": (40_800, 32, ("the notebooks, latest", "the notebooks, when the logs were added")),
    "CIFAR-100": (40_000, 64, ("the notebooks, latest", "the notebooks, when the logs were added")),
    "MIT-BIH": (70_043, 64, ("the notebooks, latest",)),
}
"""Examples that the released runs trained on, their batch size, and the constants they may have had (D2)."""

TABLES = {"mini-ImageNet": "dsrelu_T1", "CIFAR-100": "dsrelu_T2", "MIT-BIH": "dsrelu_T3"}


# --- DSReLU -----------------------------------------------------------------------------------------------------------


def schedule(name: str) -> Logistic:
    a, b, k = CONSTANTS[name]
    return Logistic(math.tan(math.radians(a)), math.tan(math.radians(b)), k)


def slopes() -> list[list[str]]:
    rows = []
    for name, (a, b, k) in CONSTANTS.items():
        s = schedule(name)
        one = s.crossing(1.0)
        rows.append(
            [
                name,
                f"tan {a}° = {s.start:.3f}",
                f"tan {b}° = {s.end:.3f}",
                f"{k:g}",
                *(f"{s(t):.3f}" for t in (0.0, 0.5, 1.0)),
                f"{one:.3f}" if one is not None else "never",
            ]
        )
    return rows


def batches(dataset: str) -> int:
    examples, size, _ = RUNS[dataset]
    return math.ceil(examples / size)


def logged(dataset: str, activation: str) -> list[ReleasedEpoch]:
    """A released log. Its data set is called MIT-BIH where the table says which files of it."""
    return [e for e in papers.released_epochs() if e.dataset == dataset and e.activation == activation]


def stem_path(dataset: str, constants: str) -> tuple[float, float, float]:
    """The slope that blocks kept, that the stem had in the last epoch, and by what share the stem's had moved."""
    s, epochs = schedule(constants), len(logged(dataset, "DSReLU"))
    start, end = s(0.0), s(epochs / batches(dataset))
    return start, end, (start - end) / start


def stems() -> list[list[str]]:
    rows = []
    for dataset, (_, _, possible) in RUNS.items():
        for constants in possible:
            start, end, moved = stem_path(dataset, constants)
            epochs, n = len(logged(dataset, "DSReLU")), batches(dataset)
            rows.append(
                [
                    dataset,
                    constants,
                    f"{n:,}",
                    f"{epochs}",
                    f"{epochs}/{n} = {epochs / n:.4f}",
                    f"{start:.4f}",
                    f"{end:.4f}",
                    f"{100 * moved:.1f} %",
                    f"{1 / start:.3f}",
                ]
            )
    return rows


def scores(epoch: ReleasedEpoch) -> tuple[float, ...]:
    return (
        epoch.train_acc,
        epoch.val_acc,
        epoch.train_f1_weighted,
        epoch.val_f1_weighted,
        epoch.train_auc_ovr_macro,
        epoch.val_auc_ovr_macro,
    )


def rows_that_are_epochs() -> list[list[str]]:
    """For each log: its five epochs with the highest score of any kind, those of the table, and its best epoch."""
    rows = []
    for dataset, table in TABLES.items():
        for activation in dict.fromkeys(v.activation for v in papers.printed(table)):
            log = logged(dataset, activation)
            top = sorted(log, key=lambda e: max(scores(e)), reverse=True)[:5]
            told = {v.row_index: v.epoch_in_log for v in papers.printed(table) if v.activation == activation}
            in_table = [told[i] for i in sorted(told, key=lambda i: i or 0)]
            best = max(log, key=lambda e: e.val_acc)
            rows.append(
                [
                    dataset,
                    activation,
                    str(len(log)),
                    ", ".join(str(e.epoch) for e in top),
                    "yes" if [e.epoch for e in top] == in_table else "no",
                    str(min(log, key=lambda e: e.val_loss).epoch),
                    f"{statistics.fmean(e.val_acc for e in top):.4f}",
                    f"{best.val_acc:.4f} (epoch {best.epoch})",
                ]
            )
    return rows


def leads() -> list[list[str]]:
    """DSReLU's relative lead in validation accuracy over the best other, by the rule that picks the epochs."""
    rules: dict[str, Callable[[Sequence[ReleasedEpoch]], float]] = {
        "rows of the table": lambda log: max(e.val_acc for e in sorted(log, key=lambda e: max(scores(e)), reverse=True)[:5]),
        "best epoch": lambda log: max(e.val_acc for e in log),
        "epoch of lowest validation loss": lambda log: min(log, key=lambda e: e.val_loss).val_acc,
    }
    rows = []
    for dataset, table in TABLES.items():
        names = list(dict.fromkeys(v.activation for v in papers.printed(table)))
        cells = []
        for rule in rules.values():
            found = {name: rule(logged(dataset, name)) for name in names}
            other = max((n for n in names if n != "DSReLU"), key=lambda n: found[n])
            cells.append(f"{100 * (found['DSReLU'] / found[other] - 1):+.2f} % ({other} {found[other]:.4f})")
        rows.append([dataset, *cells])
    return rows


def at_equal_training() -> list[list[str]]:
    """Validation accuracy where each log first reaches a training accuracy, on the line between the epochs around it."""
    rows = []
    for dataset, level in (("mini-ImageNet", 0.3), ("mini-ImageNet", 0.59), ("CIFAR-100", 0.3), ("CIFAR-100", 0.59)):
        cells = []
        for name in ("DSReLU", "Mish", "ReLU", "Tanh", "LeakyReLU"):
            log = logged(dataset, name)
            i = next(i for i, e in enumerate(log) if e.train_acc >= level)
            a, b = log[max(0, i - 1)], log[i]
            share = (level - a.train_acc) / (b.train_acc - a.train_acc) if b is not a else 1.0
            cells.append(f"{a.val_acc + share * (b.val_acc - a.val_acc):.4f}")
        rows.append([dataset, f"{level:g}", *cells])
    return rows


def seconds() -> list[list[str]]:
    """Table 4 beside the mean over the epochs of the released logs."""
    rows = []
    for value in papers.printed("dsrelu_T4"):
        dataset = value.dataset.partition(" (")[0]
        mean = statistics.fmean(e.epoch_seconds for e in logged(dataset, value.activation))
        assert value.value is not None
        rows.append(
            [
                dataset,
                value.activation,
                f"{value.value:.6f}",
                f"{mean:.6f}",
                f"{round(mean - value.value, 6) + 0.0:+.6f}".replace("+0.000000", "0"),
            ]
        )
    return rows


def slower() -> list[list[str]]:
    rows = []
    for dataset in TABLES:
        a, b = logged(dataset, "DSReLU"), logged(dataset, "ReLU")
        mean = [statistics.fmean(e.epoch_seconds for e in log) for log in (a, b)]
        total = [sum(e.epoch_seconds for e in log) for log in (a, b)]
        rows.append(
            [
                dataset,
                f"{mean[0]:.2f} s",
                f"{mean[1]:.2f} s",
                f"{100 * (mean[0] / mean[1] - 1):+.1f} %",
                f"{len(a)} and {len(b)}",
                f"{total[0] / total[1]:.1f} times",
            ]
        )
    return rows


# --- AAF --------------------------------------------------------------------------------------------------------------

ADAPTIVE = {"ASigmoid": "Sigmoid", "ATanh": "Tanh", "AReLU": "ReLU"}


def loss_bounds(classes: int) -> tuple[float, float, float]:
    """Cross-entropy of a softmax of a softmax: the least, that of a uniform output, and the most it can be.

    The inner softmax puts p in [0, 1] on the true class. The outer one is least sure of it where the inner is wholly sure of
    another (p = 0, the other 1), and most where p = 1: loss = ln(sum of e^q) - p.
    """
    e = math.e
    return math.log(e + classes - 1) - 1, math.log(classes), math.log(e + classes - 1)


def bounds() -> list[list[str]]:
    return [[str(c), *(f"{x:.3f}" for x in loss_bounds(c)), f"0 to any, {math.log(c):.3f} at the start"] for c in (10, 100)]


def adaptive_cells() -> list[list[str]]:
    """How often the adaptive version stands above its fixed one in tables 1 to 7, each shared cell counted once."""
    rows = []
    for ours, theirs in ADAPTIVE.items():
        cells: dict[tuple[str, ...], tuple[float, float]] = {}
        for value in papers.printed():
            if value.paper.startswith("AAF") and value.activation == ours and value.value is not None:
                place = (value.dataset, value.model, value.optimizer, value.metric)
                other = [
                    v.value
                    for v in papers.printed(value.table)
                    if (v.dataset, v.model, v.optimizer, v.metric, v.activation) == (*place, theirs) and v.value is not None
                ]
                if other:
                    cells.setdefault(place, (value.value, other[0]))
        won = [place for place, (a, b) in cells.items() if a > b]
        lost = [f"{p[1]} on {p[0]}{f' with {p[2]}' if p[2] == 'Momentum' else ''}" for p in cells if p not in won]
        rows.append([f"{ours} above {theirs}", f"{len(won)} of {len(cells)}", "; ".join(lost) or "none"])
    return rows


def spreads() -> list[list[str]]:
    """What is printed after the ±: read as a standard deviation, and as a variance."""
    # Tables 1, 2 and 5 share cells.
    cells = {(v.dataset, v.model, v.optimizer, v.activation): v.std for v in papers.printed() if v.std is not None}
    found = sorted(cells.values())
    n, median = len(found), statistics.median(found)
    tested = math.sqrt(0.85 * 0.15 / 64)
    return [
        ["cells that have one", str(n), ""],
        ["smallest, median, largest", f"{found[0]:.2e}, {median:.2e}, {found[-1]:.2e}", "as printed"],
        [
            "their square roots",
            ", ".join(f"{math.sqrt(x):.4f}" for x in (found[0], median, found[-1])),
            "if they are variances",
        ],
        ["accuracy of one batch of 64 at 85 %", f"{tested:.3f}", "standard deviation by chance alone, sqrt(0.85 x 0.15 / 64)"],
    ]


# --- SReLU ------------------------------------------------------------------------------------------------------------


def resolution() -> list[list[str]]:
    """What one test example is worth, and what chance alone does to a test of that size."""
    rows = []
    for name, n, accuracy in (("WDBC, 20 % of 569", 114, 0.97), ("MNIST, official test part", 10_000, 0.982)):
        rows.append([name, f"{n:,}", f"{100 / n:.3f}", f"{100 * math.sqrt(accuracy * (1 - accuracy) / n):.2f}"])
    return rows


# --- ours -------------------------------------------------------------------------------------------------------------


def known() -> Known:
    return Known(None, RECORDS)


def results(paper: str) -> str:
    """Every record of the paper's studies: estimates and words."""
    found = [r for r in records.find(RECORDS).values() if r.about["paper"] == paper]
    if not found:
        return "No study of this paper has a record yet; `pliant reproduce " + paper + "` says what each tier takes."
    return "\n\n".join(_result(record) for record in found)


def _result(record: records.Record) -> str:
    e, verdict = record.evidence, record.verdict
    about = record.about
    counts = about["outcomes"]
    done = counts["done"] + counts["diverged"]
    shown = list(dict.fromkeys([e.metric, *(m for m in ("accuracy", "precision", "recall", "f1") if m in verdict.estimates)]))
    words = {c.activation: (c.word, c) for c in verdict.comparisons}
    lines = []
    for i, estimate in enumerate(verdict.estimates[e.metric]):
        cells = [_points(verdict.estimates[m][i]) for m in shown]
        word, c = words.get(estimate.activation, ("baseline", None))
        difference = "" if c is None or not math.isfinite(c.difference) else f"{100 * c.difference:+.2f}" + _ends(c.low, c.high)
        lines.append([estimate.label, *cells, difference, word if word == "baseline" else word.lower(), str(estimate.n)])
    heads = ["activation", *(f"{m}, %" for m in shown), f"minus {verdict.baseline_label}, points", "word", "n"]
    changes = f"; changed: {', '.join(f'`{c}`' for c in e.changes)}" if e.changes else ""
    tier = f"**{e.tier} tier{', reduced' if e.tier != 'full' else ''}{', changed' if e.changes else ''}**{changes}"
    rest = "" if done == sum(counts.values()) else f"; {sum(counts.values()) - done} not run"
    title = re.sub(r" \((?:smoke|lite) tier, reduced\)$", "", e.title)
    return "\n".join(
        [
            f"### {title} ({tier})",
            "",
            f"Record [`{record.name}`](../../records/{record.name}), `{about['command']}`: {done} of {sum(counts.values())} "
            f"trials{rest}. {verdict.design}",
            *[f"\n> {remark}" for remark in e.remarks],
            "",
            table(heads, lines),
        ]
    )


def _points(estimate: object) -> str:
    mean, low, high = (getattr(estimate, k) for k in ("mean", "low", "high"))
    if not math.isfinite(mean):
        return "-"
    return f"{100 * mean:.2f}" + _ends(low, high)


def _ends(low: float, high: float) -> str:
    return f" [{100 * low:.2f}, {100 * high:.2f}]" if math.isfinite(low) and math.isfinite(high) else ""


def _courses(evidence: Evidence) -> dict[str, list[dict[str, str]]]:
    """By label the epochs of a record's curves, which are means over its trials."""
    assert evidence.path is not None
    found: dict[str, list[dict[str, str]]] = {}
    with (evidence.path / "figures" / "curves.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            found.setdefault(line["Activation"], []).append(line)
    return found


def moving() -> str:
    """What batch normalisation makes of a moving slope on MIT-BIH: one training, evaluated in two ways."""
    quirk = 'quirks=["batch_statistics_at_test"]'
    found = [r.evidence for r in records.find(RECORDS).values() if r.evidence.name == "dsrelu-mitbih-random"]
    (averages,) = (_courses(e) for e in found if quirk not in e.changes)
    (batch,) = (_courses(e) for e in found if quirk in e.changes)
    told = {
        "DSReLU released, on its training batches": (averages["DSReLU released"], "Training accuracy"),
        "DSReLU released: validation, running averages": (averages["DSReLU released"], "Validation accuracy"),
        "DSReLU released: validation, statistics of the batch": (batch["DSReLU released"], "Validation accuracy"),
        "ReLU: validation, running averages": (averages["ReLU"], "Validation accuracy"),
        "ReLU: validation, statistics of the batch": (batch["ReLU"], "Validation accuracy"),
    }
    heads = ["epoch", *(line["Epoch"] for line in averages["ReLU"])]
    return table(heads, [[name, *(_share(line[column]) for line in lines)] for name, (lines, column) in told.items()])


def course() -> str:
    """Train accuracy on the way, and validation accuracy at the end, of what claim 12 compares."""
    evidence = known().best("dsrelu-claim12")
    assert evidence is not None
    told = [
        "DSReLU released, from 3.5 to 0.8",
        "the same reversed, from 0.8 to 3.5",
        "its first slope at rest, 3.5",
        "its middle slope at rest, 2.15",
        "its last slope at rest, 0.82",
        "ReLU",
    ]
    rows = []
    for name, lines in zip(told, _courses(evidence).values(), strict=True):
        last = len(lines)
        shown = [_share(lines[last * quarter // 4 - 1]["Training accuracy"], 2) for quarter in (1, 2, 3, 4)]
        rows.append([name, *shown, _share(lines[-1]["Validation accuracy"], 2), lines[-1]["Trials"]])
    return table([f"of {last} epochs, after", *(str(last * q // 4) for q in (1, 2, 3, 4)), "validation", "n"], rows)


def _share(text: str, digits: int = 3) -> str:
    return f"{float(text):.{digits}f}".removeprefix("0")


def starts() -> str:
    """The same activations in ResNet-50 with logits and with probabilities taken for logits."""
    names = {
        "relu": "ReLU",
        "arelu": "AReLU from ReLU, (1, 0, 0, 0)",
        "arelu[released]": "AReLU from the identity, (1, 1, 0, 0), as released",
        "prelu[weight=learned(1)]": "PReLU from the identity, slope 1",
        "identity": "the identity, never anything else: a linear network",
    }
    evidence = [r.evidence for r in records.find(RECORDS).values()]
    sides = [("aaf-claim70-none", "aaf-claim69-resnet50"), ("aaf-claim70-double-softmax",)]
    rows = []
    for activation, name in names.items():
        cells = []
        for studies in sides:
            found = [e.estimate(activation, "test_accuracy") for e in evidence if e.name in studies]
            best = max((e for e in found if e is not None), key=lambda e: e.n, default=None)
            cells += ["not run", ""] if best is None else [f"{100 * best.mean:.1f}", str(best.n)]
        rows.append([name, *cells])
    return table(["", "loss of logits", "n", "probabilities taken for logits", "n"], rows)


def deviations(paper: str) -> str:
    """Where the text, the release and our studies differ, and which studies that is about."""
    rows = []
    for d in papers.deviations(paper):
        here = f"{d.here}. As released: {d.here_released}" if d.here_released else d.here
        about, rest = ", ".join(f"`{name}`" for name in d.studies[:3]), len(d.studies) - 3
        about += f" and {rest} more" if rest > 0 else ""
        rows.append([d.id, d.as_written, d.as_released, here, about or "the text alone"])
    return table(["", "as written", "as released", "here", "studies"], rows)


def claim_rows(paper: str, known_: Known) -> list[list[str]]:
    rows = []
    for claim in papers.claims(paper):
        answer = settle(claim, known_)
        if answer.findings:
            told = [
                f"**{f.brief}**: {f.sentence} ({f.verdict.lower() or 'no verdict'}; "
                f"[`{f.directory}`](../../records/{f.directory}))"
                for f in answer.findings
            ]
            if answer.lacking:
                told.append(f"{answer.lacking}; next `{answer.command}`, {answer.cost}")
            ours = "; ".join(told)
        elif answer.state == "settled":
            ours = f"**{claim.settled}**, by algebra or a test (`{claim.settled_by}`): {claim.experiment.rstrip('.')}"
        elif answer.state == "not run":
            ours = f"**not run**: `{answer.command}`, {answer.cost}"
            ours += f"; {answer.lacking}" if answer.lacking else ""
        else:
            ours = f"**open**: {claim.experiment.rstrip('.')}"
        ours += f". {claim.not_yet}" if claim.not_yet else ""
        rows.append([str(claim.number), claim.title, f"**{claim.evidence_status}**: {claim.evidence}", ours])
    return rows


# --- pages ------------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[str], str]] = {
    "slopes": lambda _: table(["constants of", "a", "b", "k", "s(0)", "s(1/2)", "s(1)", "t where s = 1"], slopes()),
    "stems": lambda _: table(
        [
            "run",
            "if its constants were of",
            "batches an epoch",
            "epochs",
            "t at the end",
            "slope of the blocks",
            "of the stem at the end",
            "moved by",
            "1/s",
        ],
        stems(),
    ),
    "epochs": lambda _: table(
        [
            "run",
            "activation",
            "epochs",
            "five epochs of the highest score of any kind",
            "are the table's rows",
            "lowest val. loss at",
            "their mean val. accuracy",
            "best val. accuracy of the run",
        ],
        rows_that_are_epochs(),
    ),
    "leads": lambda _: table(
        ["DSReLU's lead over the best other", "rows of the table", "best epoch of each", "epoch of lowest validation loss"],
        leads(),
    ),
    "equal": lambda _: table(["run", "at train accuracy", "DSReLU", "Mish", "ReLU", "Tanh", "LeakyReLU"], at_equal_training()),
    "seconds": lambda _: table(["run", "activation", "table 4, s", "mean of the log, s", "log minus table, s"], seconds()),
    "slower": lambda _: table(
        ["run", "DSReLU, an epoch", "ReLU, an epoch", "DSReLU over ReLU", "epochs", "whole training takes"], slower()
    ),
    "bounds": lambda _: table(["classes", "least", "uniform output", "most", "ordinary cross-entropy"], bounds()),
    "adaptive": lambda _: table(["printed value", "cells", "not in"], adaptive_cells()),
    "spreads": lambda _: table(["the number after ±", "value", "read as"], spreads()),
    "resolution": lambda _: table(["test part", "examples", "one example, points", "chance alone (sd), points"], resolution()),
    "moving": lambda _: moving(),
    "course": lambda _: course(),
    "starts": lambda _: starts(),
    "deviations": deviations,
    "results": results,
    "claims": lambda paper: table(["no.", "claim", "the paper's own numbers", "ours"], claim_rows(paper, known())),
}


def page(paper: str) -> str:
    """The text of docs/papers/<paper>.md with every block between its markers made anew."""
    text = (PAGES / f"{paper}.md").read_text(encoding="utf-8")
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda m: f"<!-- {m[1]} -->\n{BLOCKS[m[1]](paper)}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/papers and records/README.md")
    write = parser.parse_args().write
    for paper in papers.FILES:
        if write:
            (PAGES / f"{paper}.md").write_text(page(paper), encoding="utf-8")
        else:
            print(page(paper))
    if write:
        records.write_index(RECORDS)


if __name__ == "__main__":
    main()
