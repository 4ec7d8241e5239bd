"""docs/bench-table.md from the results of `pliant bench`: every file of benchmarks/results that the bench has written.

python scripts/bench_table.py            # writes docs/bench-table.md
python scripts/bench_table.py cpu.json   # of one file, to the terminal
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLE = ROOT / "docs" / "bench-table.md"

INTRODUCTION = """\
# What an activation costs

Written by `scripts/bench_table.py` from what `pliant bench` measured; do not edit.

Every number is a ratio of times within one round of one process: all contestants take turns, in a new random order each
round, after a warm-up. Printed is the median of the rounds, in brackets the 10 % and the 90 % quantile. **Below 1 is faster**
than what it is compared with. Nothing is compared that computes something else: outputs and all gradients were held to the
readable version in float64 first, and what is off says DISAGREES.

- *against*: torch's own activation nearest in kind (for AReLU there is none with as many coefficients).
- *naive*: how many times longer the formula takes as an author would write it, forward and backward.
- *of a copy*: the speed forward in per cent of `torch.Tensor.copy_` (one read, one write), and backward of `torch.add` (two
  reads, one write), both into memory that is there already.
- *saved*: bytes an element that autograd keeps for the backward pass; each storage once, without coefficients, and without the
  output where that is all, because the next layer keeps it anyway ("out").
- *fresh* memory comes from the system page by page, as in an ordinary loop; *kept* memory is handed out again, and shows the
  kernel alone.
- *control*: torch's own against itself as a second contestant. The further from 1.00, the less the machine can tell.
"""


def files() -> list[Path]:
    """The results of the bench, not those of other benchmarks that lie beside them."""
    return [p for p in sorted(RESULTS.glob("*.json")) if "targets" in json.loads(p.read_text())]


def number(spread: list[float] | None) -> str:
    if spread is None:
        return "-"
    low, median, high = spread
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def saved(kept: dict[str, float]) -> str:
    here = kept["input"] + kept["other"]
    return f"{here:g}" if here or not kept["output"] else "out"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " --: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def refusal(bad: dict[str, Any]) -> str:
    return f"**DISAGREES**: {bad['what']} {bad['difference']}, allowed {bad['tolerance']:g}"


def kernel_rows(record: dict[str, Any]) -> Iterator[list[str]]:
    if "skipped" in record:
        yield [record["activation"], f"not measured: {record['skipped']}", *[""] * 7]
        return
    by_role: dict[str, list[dict[str, Any]]] = {}
    for c in record["contestants"]:
        by_role.setdefault(c["role"], []).append(c)
    control = next(iter(by_role["control"][0]["ratio"].values()))["total"]
    for role in ("pliant", "readable", "compiled", "other"):
        for c in by_role.get(role, ()):
            name = record["activation"] + ("" if role == "pliant" else f" ({c['name'].removeprefix('pliant ')})")
            if c["disagrees"]:
                yield [name, refusal(c["disagrees"]), *[""] * 7]
                continue
            for i, own in enumerate(o["name"] for o in by_role["torch"]):
                ratio, naive, share = c["ratio"][own], c["ratio"].get("naive"), c["share_of_copy"]
                yield [
                    name if i == 0 else "",
                    own,
                    number(ratio["forward"]),
                    number(ratio["backward"]),
                    f"**{number(ratio['total'])}**",
                    f"{1 / naive['total'][1]:.1f} x" if naive else "-",
                    f"{100 * share['forward'][1]:.0f}, {100 * share['backward'][1]:.0f} %",
                    f"{saved(c['saved_bytes'])} ({own}: {saved(by_role['torch'][i]['saved_bytes'])})",
                    f"{control[1]:.2f}" if i == 0 else "",
                ]


def step_rows(record: dict[str, Any]) -> Iterator[list[str]]:
    if "skipped" in record:
        yield [record["network"], f"not measured: {record['skipped']}", "", ""]
        return
    own = record["contestants"][0]
    yield [record["network"], "ReLU", "1", f"{1000 * own['seconds']['step'][1]:.1f} ms"]
    for c in record["contestants"][1:]:
        time = f"{1000 * c['seconds']['step'][1]:.1f} ms" if c["seconds"] else ""
        against = "ReLU compiled" if c["role"] == "compiled" and c["name"] != "ReLU compiled" else "ReLU"
        if c["disagrees"]:
            yield ["", c["name"], refusal(c["disagrees"]), ""]
        else:
            suffix = " of ReLU compiled" if against != "ReLU" else ""
            spread = (c["ratio"] or {}).get(against)
            yield ["", c["name"], number(spread and spread["step"]) + suffix, time]


def target_rows(result: dict[str, Any]) -> Iterator[list[str]]:
    for t in result["targets"]:
        sign = ">=" if t["at_least"] else "<="
        where = t["where"] + (", kept memory" if t["memory"] == "kept" else "") + (", compiled" if t["compiled"] else "")
        stage = "forward + backward" if t["stage"] == "total" else t["stage"]
        word = {True: "met", False: "**missed**", None: t["why"]}[t["met"]]
        yield [t["subject"], t["against"], where, stage, f"{sign} {t['bound']:.2f}", number(t["measured"]), word]


def section(result: dict[str, Any]) -> Iterator[str]:
    e = result["environment"]
    yield f"## {e.get('gpu') or e['cpu']}"
    yield ""
    cache = f"{e['cache_bytes'] / 2**20:.0f} MiB" if e["cache_bytes"] else "unknown size"
    yield (
        f"{e['cpu']}, {e['cores']} cores, {e['threads']} threads, last cache {cache}, {e['cpu_capability']}; "
        f"torch {e['torch']}, Python {e['python']}, Pliant {e['pliant']}, fused kernels: {e['kernels'] or 'none'}. "
        f"Measured {result['date'][:10]} by `{result['command']}`, {result['seconds_per_case']:g} s a case."
        + ("" if result["complete"] else " **Stopped before the end.**")
    )
    yield ""
    yield "### Targets"
    yield ""
    yield from table(("activation", "against", "at", "of", "target", "measured", ""), target_rows(result))
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in result["kernels"]:
        size = f"{record['size']} ({' x '.join(map(str, record['shape']))})" if "shape" in record else record["size"]
        groups.setdefault((size, record["dtype"], record["memory"]), []).append(record)
    for (size, dtype, memory), records in groups.items():
        yield ""
        yield f"### {size}, {dtype}, {memory} memory"
        yield ""
        speeds = sorted(r["copy_bytes_per_second"] / 1e9 for r in records if "contestants" in r)
        if speeds:
            rounds = [r["rounds"] for r in records if "contestants" in r]
            yield (
                f"A copy moves {speeds[0]:.0f} to {speeds[-1]:.0f} GB/s, reading and writing; "
                f"{min(rounds)} to {max(rounds)} rounds."
            )
            yield ""
        head = ("activation", "against", "forward", "backward", "both", "naive", "of a copy", "saved", "control")
        yield from table(head, (row for r in records for row in kernel_rows(r)))
    if result["steps"]:
        yield ""
        yield "### Training steps, float32"
        yield ""
        yield "The same network with ReLU as it comes, and with its activations swapped; the time is that of a whole step."
        yield ""
        yield from table(("network", "activation", "against ReLU", "step"), (r for s in result["steps"] for r in step_rows(s)))
    if result["compilation"]:
        yield ""
        yield "### torch.compile while the coefficients move"
        yield ""
        rows = [
            [c["activation"], *(("not measured", "") if "skipped" in c else (str(c["programs"]), str(c["graph_breaks"])))]
            for c in result["compilation"]
        ]
        steps = result["compilation"][0]["steps"]
        yield from table(("activation", f"programs in {steps} steps", "graph breaks"), rows)


def page(results: Iterable[dict[str, Any]]) -> str:
    """The text of docs/bench-table.md."""
    lines = [INTRODUCTION]
    for result in results:
        lines += [*section(result), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="show the table of one file instead")
    given = parser.parse_args()
    if given.file:
        print(page([json.loads(given.file.read_text())]))
    else:
        TABLE.write_text(page(json.loads(f.read_text()) for f in files()))


if __name__ == "__main__":
    main()
