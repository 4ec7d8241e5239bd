"""The table of docs/verdict.md, from the rates that benchmarks/null_suite.py measured.

Prints the page with the table put in; ``--write`` puts it there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "null-suite.json"
PAGE = ROOT / "docs" / "verdict.md"
START, END = "<!-- null suite -->", "<!-- end -->"


def interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's, 95 %."""
    low = stats.beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    differences = next(list(found["power"]) for found in results.values() if "power" in found)
    shown = [f"+{100 * float(d):g}" for d in differences]
    lines = [
        f"| design (source) | nothing comes out different | 95 % interval | n | {' | '.join(shown)} | n |",
        f"| --- | --: | --- | --: | {' | '.join('--:' for _ in shown)} | --: |",
    ]
    for design, found in results.items():
        hits, n = found["different"], found["studies"]
        low, high = interval(hits, n)
        power = [f"{found['power'][d] / found['powered']:.0%}" if "power" in found else "" for d in differences]
        lines.append(
            f"| {design} | {hits / n:.1%} | {100 * low:.1f} to {100 * high:.1f} % | {n} | {' | '.join(power)} | "
            f"{found.get('powered', '')} |"
        )
    return "\n".join(lines)


def page() -> str:
    text = PAGE.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(json.loads(RESULTS.read_text()))}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/verdict.md")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    main()
