"""The command line. Thin: it reads what the user typed, calls the lab, and shows what came back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
import statistics
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pliant.errors import PliantError, unknown

try:
    import typer
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as missing:
    print(
        f"The command line needs packages that are not installed ({missing.name}): run pip install 'pliant[lab]'.",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

if TYPE_CHECKING:
    from pliant.lab import Result, Study
    from pliant.lab.datasets.inventory import Status
    from pliant.lab.executors import Event
    from pliant.lab.study import TrialSpec
    from pliant.lab.verdict import Comparison, Estimate

app = typer.Typer(
    name="pliant",
    help="Activation functions that bend, and the lab that tells whether bending helps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well, 1 trials failed or are missing, 2 something you gave cannot be used, 130 interrupted.",
)

WORD_STYLES = {"BETTER": "green", "WORSE": "red", "EQUIVALENT": "blue", "CANNOT TELL": "yellow"}


def main() -> None:
    """The entry point: a user's mistake becomes one paragraph and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except PliantError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]pliant:[/] {_plain(str(error))}")
        raise SystemExit(2) from None


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _console() -> Console:
    # A pipe has no width; 80 columns would fold the tables there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


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


def _study(
    name: str, activations: Sequence[str] | None, folds: int | None, repeats: int | None, changes: Sequence[str] | None
) -> Study:
    from pliant.lab import papers
    from pliant.lab.study import Study

    study = Study.from_toml(Path(name)) if name.endswith(".toml") else papers.study(name)
    shorthand = [f"protocol.{k}={v}" for k, v in (("folds", folds), ("repeats", repeats)) if v is not None]
    return study.override([*shorthand, *(changes or [])]).only(activations or [])


def _baseline(study: Study, given: str | None) -> str | None:
    from pliant import catalog

    if given is None or given in study.activations:
        return given
    name = str(catalog.parse(given))
    if name not in study.activations:
        raise unknown("baseline in this study", name, study.activations)
    return name


@app.command()
def run(
    study: StudyArgument,
    activation: Activations = None,
    folds: Folds = None,
    repeats: Repeats = None,
    changes: Changes = None,
    store: StoreOption = DEFAULT_STORE,
    on: Annotated[str, typer.Option(help="Where trials run: serial, local (a process per core), local:4.")] = "local",
    baseline: Baseline = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")] = False,
) -> None:
    """Train what has no result yet, print the verdict, write report.html and the rows.

    The same command goes on where it was stopped, and does nothing once all is done.
    """
    from pliant.lab import run as run_study

    console = _console()
    chosen = _study(study, activation, folds, repeats, changes)
    against = _baseline(chosen, baseline)
    display = None if quiet else _Display(console)
    try:
        result = run_study(chosen, store=store, on=on, progress=display)
    except KeyboardInterrupt:
        print("\npliant: stopped. What was finished is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    _finish(result, study, console, against, open_page, display.waiting if display else None)


@app.command()
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
    result = _stored(_study(study, activation, folds, repeats, changes), store)
    _finish(result, study, _console(), _baseline(result.study, baseline), open_page, None)


@app.command()
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

    result = _stored(_study(study, activation, folds, repeats, changes), store, create=False)
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
    console = _console()
    p, rates = chosen.protocol, len(chosen.train.lr_grid)
    console.print(f"[bold]{_plain(chosen.title or chosen.name)}[/]  {_plain(chosen.question)}")
    console.print(
        f"{len(chosen.activations)} activations x {p.folds} folds x {p.repeats} repeats"
        f"{f' x {rates} learning rates' if rates else ''} = {len(result.trials)} trials; "
        f"each fits {n_train} examples, chooses its epoch on {n_validation} and is tested on {n_test}."
    )
    for remark in result.remarks:
        console.print(f"[yellow]note:[/] {_plain(remark)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("activation")
    for outcome in result.counts:
        table.add_column(outcome, justify="right")
    for name, counts in by_activation.items():
        table.add_row(_plain(chosen.labels[name]), *(str(c) if c else "[dim]-[/]" for c in counts.values()))
    console.print(table)
    if not left:
        console.print("Nothing is left to train.")
    elif seconds:
        each = statistics.mean(seconds)
        console.print(f"Left: {left} trials of about {each:.1f} s each, {_duration(left * each)} on one process.")
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


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="activations, models, datasets, studies or executors.")],
    as_json: Json = False,
) -> None:
    """List what there is to choose from."""
    rows = _listing(what)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_cell(v)) for v in row.values()))
    _console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _listing(what: str) -> list[dict[str, Any]]:
    from pliant import catalog
    from pliant.lab import datasets, executors, models, papers
    from pliant.lab.datasets import inventory
    from pliant.lab.network import measure

    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().partition("\n")[0]

    def options_of(function: Callable[..., Any]) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [f"{p.name}={p.default}" for p in parameters if p.default is not p.empty]

    def network_row(name: str, function: Callable[..., Any]) -> dict[str, Any]:
        row = {"name": name, "what": first_line(function), "for": None, "parameters": None, "activations": None}
        if name in models.FIRST_USE:
            shape, outputs = models.FIRST_USE[name]
            size = measure(function, shape, outputs)
            row |= {"for": f"{'x'.join(map(str, shape))} to {outputs}", **size._asdict()}
        return {**row, "options": options_of(function)}

    known: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "activations": lambda: [
            {"name": e.name, "what": e.summary, "variants": sorted(e.variants), "aliases": list(e.aliases), "source": e.source}
            for e in catalog.ALL.values()
        ],
        "models": lambda: [
            *(network_row(n, f) for n, f in models.ALL.items()),
            *(network_row(f"{n}:NAME", f) for n, f in models.external.LIBRARIES.items()),
        ],
        "datasets": lambda: [
            {
                "name": n,
                "what": first_line(d),
                "options": [f"{o}: {words}" for o, words in inventory.options(d.load).items()],
                "source": d.source,
            }
            for n, d in datasets.ALL.items()
        ],
        "studies": lambda: [
            {
                "name": n,
                "question": s.question,
                "trials": len(s.activations) * s.protocol.folds * s.protocol.repeats * max(1, len(s.train.lr_grid)),
            }
            for n, s in papers.studies().items()
        ],
        "executors": lambda: [{"name": n, "what": first_line(sys.modules[e.__module__])} for n, e in executors.ALL.items()],
    }
    if what not in known:
        raise unknown("list", what, known)
    return known[what]()


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Python file that defines activations.")],
    kinks: Annotated[
        list[float] | None, typer.Option("--kink", help="Where the slope jumps; else it is searched for. May be given often.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold the activations in a file to the contract that Pliant's own are held to. Runs the file.

    Checked are the subclasses of pliant.Activation that it defines and the modules it lists in ACTIVATIONS.
    """
    from pliant import testing

    console, broken, listing = _console(), False, []
    for name, factory in testing.from_file(file).items():
        results = testing.check(factory, kinks=kinks or None)
        broken = broken or any(r.outcome == "failed" for r in results)
        listing += [{"activation": name, "check": r.check, "outcome": r.outcome, "message": r.message} for r in results]
        if as_json:
            continue
        console.print(f"[bold]{_plain(name)}[/]")
        for r in results:
            style = {"passed": "green", "failed": "red", "skipped": "dim"}[r.outcome]
            console.print(f"  [{style}]{r.outcome:8}[/] {_plain(r.check)}{_plain(f': {r.message}' if r.message else '')}")
    if as_json:
        print(json.dumps(listing, indent=1))
    if broken:
        raise typer.Exit(1)


@app.command()
def explore(
    activation: Annotated[
        str, typer.Argument(metavar="[ACTIVATION]", help='What to start with, e.g. dsrelu or "srelu[beta=0.1]".')
    ] = "dsrelu",
    port: Annotated[int, typer.Option(help="Where to listen on 127.0.0.1; 0 for any port that is free.")] = 8765,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say where the page is.")] = False,
) -> None:
    """Open a page to play with an activation: its coefficients, its shape, and a network that trains with it.

    The page is for this machine alone.
    """
    from pliant import explore as room

    room.serve(activation, port=port, browser=not no_browser)


@app.command()
def bench(
    activations: Annotated[
        list[str] | None, typer.Argument(metavar="[ACTIVATION]...", help="What to measure; all if nothing is named.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="small, medium, large or ROWSxCOLUMNS; may be given often. All three if not given.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16, float64; may be given often. The first two if not given.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Whose training steps to measure; may be given often. All if not given.")
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels/--no-kernels", help="Measure the activations alone.")] = True,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Measure whole training steps.")] = True,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also under torch.compile; takes minutes.")] = False,
    seconds: Annotated[float, typer.Option(help="Time for the rounds of each case.")] = 3.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file of the results; benchmarks/results/DEVICE.json if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what activations cost, against torch's own, the naive form and torch.compile.

    All contestants take turns in one process, and what is shown is the ratio of their times: below 1 is faster. What computes
    something else than the readable version in float64 gets no ratio, and the exit code is then 1.
    """
    from pliant import bench as lab

    options = lab.Options(
        activations=tuple(activations or ()),
        sizes=tuple(size or ()),
        dtypes=tuple(dtype or ()),
        networks=tuple(network or ()),
        kernels=kernels,
        steps=steps,
        compiled=compiled,
        seconds=seconds,
        device=device,
        threads=threads,
    )
    notes = Console(stderr=True, highlight=False)
    result = lab.run(
        options, command=_bench_command(sys.argv[1:]), tell=lambda text: notes.print(f"[dim]{_plain(text)}[/]", soft_wrap=True)
    )
    path = out or Path("benchmarks", "results", f"{result['device']}.json")
    lab.write(result, path)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show_bench(result, _console())
        _console().print(f"\nWritten: {path}", soft_wrap=True)
    if not result["complete"]:
        print("pliant: stopped. What was measured is kept.", file=sys.stderr)
        raise typer.Exit(130)
    if lab.disagreements(result):
        raise typer.Exit(1)


def _bench_command(given: Sequence[str]) -> str:
    """As typed, without the file: it changes no number and is a path of this machine."""
    words = [w for i, w in enumerate(given) if not w.startswith("--out=") and "--out" not in given[max(0, i - 1) : i + 1]]
    return shlex.join(["pliant", *words])


data = typer.Typer(no_args_is_help=True, help="See, verify and fetch data sets. They live below the folder PLIANT_DATA.")
app.add_typer(data, name="data")
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the data set, e.g. --set size=128.")
]
DatasetArgument = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name (see `pliant data list`).")]


def _status_row(found: Status) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "missing": list(found.missing), "different": list(found.different)}


@data.command("list")
def data_list(as_json: Json = False) -> None:
    """Show each data set: whether it is here, complete and the official one. Reads every file that has a checksum."""
    from pliant.lab import datasets
    from pliant.lab.datasets import files, inventory

    found = [inventory.status(dataset) for dataset in datasets.ALL.values()]
    if as_json:
        print(json.dumps({"folder": str(files.root()), "datasets": [_status_row(s) for s in found]}, indent=1))
        return
    words = {"bundled": "comes with a package", "own": "your own", "complete": "complete", "absent": "[dim]-[/]"}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "here", "size", "checksums", "source"):
        table.add_column(column, overflow="fold")
    for s in found:
        here = words.get(s.state, f"{s.here} of {s.files} files")
        stopped = f", {_size(s.unfinished)} of a download" if s.unfinished else ""
        table.add_row(s.name, here + stopped, _size(s.bytes) if s.here else "", _plain(s.checksums), _plain(s.source))
    console = _console()
    console.print(table)
    console.print(f"Folder: {_plain(str(files.root()))} (environment variable {files.VARIABLE})", style="dim")


@data.command("check")
def data_check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets; default all that are here.")
    ] = None,
    options: Options = None,
    as_json: Json = False,
) -> None:
    """Verify every file of data sets and read them; exit code 1 where one is missing, not official or cannot be read."""
    from pliant.lab import datasets
    from pliant.lab.datasets import inventory
    from pliant.lab.study import dataset_with

    chosen = [dataset_with(n, options or []) for n in names] if names else [(d, {}) for d in datasets.ALL.values()]
    pairs = [(inventory.status(dataset, given), dataset, given) for dataset, given in chosen]
    # Nobody needs every data set; one that was named, or that is there in part, is wanted.
    pairs = [(s, dataset, given) for s, dataset, given in pairs if names or s.here]
    found = [(s, *inventory.readable(dataset, s, given)) for s, dataset, given in pairs]
    if as_json:
        print(json.dumps([{**_status_row(s), "readable": good, "content": text} for s, good, text in found], indent=1))
    console = _console()
    for s, readable, text in found if not as_json else ():
        good = readable and not s.missing and not s.different
        word = s.state if not s.files else f"{s.here} of {s.files} files, {s.checksums}"
        console.print(f"[{'green' if good else 'red'}]{_plain(s.name)}[/]: {_plain(word)}; {_plain(text)}")
        for what, paths in (("missing", s.missing), ("not the official file", s.different)):
            for path in paths[:20]:
                console.print(f"  {what}: {_plain(path)}")
            if len(paths) > 20:
                console.print(f"  {what}: {len(paths) - 20} more")
    if any(s.missing or s.different or not readable for s, readable, _ in found):
        raise typer.Exit(1)


@data.command("fetch")
def data_fetch(name: DatasetArgument, options: Options = None) -> None:
    """Download what a data set lacks from its official source; a download that was stopped goes on."""
    from pliant.lab.datasets import inventory
    from pliant.lab.datasets.files import Download, Progress
    from pliant.lab.study import dataset_with

    dataset, given = dataset_with(name, options or [])
    console = _console()
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn())
    try:
        with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console) as shown:

            def progress(download: Download) -> Progress:
                task = shown.add_task(_plain(download.url.rpartition("/")[2]), total=None)
                return lambda done, total: shown.update(task, completed=done, total=total)

            found = inventory.fetch(dataset, progress, given)
    except KeyboardInterrupt:
        print("\npliant: stopped. What was downloaded is kept; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    console.print(
        f"{_plain(name)}: {found.state}" + (f", {found.checksums}." if found.files else "; there is nothing to fetch.")
    )


@data.command("subset")
def data_subset(
    name: DatasetArgument,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; use it as PLIANT_DATA afterwards.")],
    per_class: Annotated[int, typer.Option(help="Examples of each class, from each official part.")],
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    options: Options = None,
) -> None:
    """Write a class-balanced part of a data set, in the same format."""
    from pliant.lab.datasets import inventory
    from pliant.lab.study import dataset_with

    dataset, given = dataset_with(name, options or [])
    folder = inventory.subset(dataset, target, per_class, seed, given)
    _console().print(
        f"Written to {_plain(str(folder))}. To use it: PLIANT_DATA={_plain(shlex.quote(str(target)))}, and the option official "
        "= false, since these are not the official files."
    )


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pliant {metadata.version('pliant')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    pass


# --- showing ----------------------------------------------------------------------------------------------------------


def _stored(study: Study, store: Path, *, create: bool = True) -> Result:
    from pliant.lab.result import Result
    from pliant.lab.store import Store, StoreError

    if create and not store.exists():
        raise StoreError(
            f"There is no store at {store}, so there is nothing to report. Run `pliant run {study.name}` first, or name the "
            "store with --store."
        )
    return Result(study, Store(store, create=False) if store.exists() else None)


def _command(result: Result, name: str, baseline: str | None) -> str:
    """What gives the same result in any store: no paths of this machine, no options that only concern the screen."""
    words = ["pliant", "run", Path(name).name]
    for change in result.study.overrides:
        words += ["-a", change[3:]] if change.startswith("-a ") else ["--set", change]
    return shlex.join([*words, *(["--baseline", baseline] if baseline else [])])


def _finish(result: Result, name: str, console: Console, baseline: str | None, open_page: bool, trained: int | None) -> None:
    counts = result.counts
    if trained == 0:
        console.print(f"All {len(result.trials)} trials were done already; nothing was trained.")
    _show(result, console, baseline)
    page = result.report(baseline=baseline, command=_command(result, name, baseline))
    console.print(f"\nReport: {page}\nRows:   {page.parent / 'rows.csv'}, rows.parquet")
    if counts["failed"] or counts["missing"]:
        for row in result.trial_rows:
            if row["outcome"] == "failed":
                place = f"{row['label']}, repeat {row['repeat']}, fold {row['fold']}"
                console.print(f"[red]failed:[/] {_plain(place)}: {_plain(str(row['error']))}")
        console.print(
            f"{counts['failed']} trials failed and {counts['missing']} are missing; {_command(result, name, None)} trains them."
        )
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    if counts["failed"] or counts["missing"]:
        raise typer.Exit(1)


def _show(result: Result, console: Console, baseline: str | None) -> None:
    verdict = result.verdict(baseline=baseline)
    compared = {c.activation: c for c in verdict.comparisons}
    metric = verdict.metric
    shown = list(dict.fromkeys([metric, "accuracy", "precision", "recall", "f1"]))
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("activation")
    table.add_column("n", justify="right")
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column(f"{metric} - {_plain(verdict.baseline_label)}", justify="right")
    table.add_column("verdict")
    for i, estimate in enumerate(verdict.estimates[metric]):
        cells = [_mean(verdict.estimates[name][i]) for name in shown]
        c = compared.get(estimate.activation)
        n = f"{estimate.n}" + (f" ({estimate.diverged} diverged)" if estimate.diverged else "")
        table.add_row(_plain(estimate.label), n, *cells, _difference(c), _word(c))
    console.print()
    console.print(table)
    console.print(
        "\nTest scores in points (hundredths), mean +- half of the 95 % interval; differences paired by fold. "
        f"{_plain(verdict.design)}",
        style="dim",
    )
    settled = [c for c in verdict.comparisons if c.word in ("BETTER", "WORSE")]
    for c in settled:
        console.print(_plain(verdict.sentence(c)))
    if not settled and verdict.comparisons:
        words = [c.word for c in verdict.comparisons]
        console.print(
            f"No activation is shown to differ from {_plain(verdict.baseline_label)} on {metric}: "
            f"{words.count('EQUIVALENT')} practically equal, {words.count('CANNOT TELL')} cannot be told."
        )
    for warning in verdict.warnings:
        console.print(f"[yellow]note:[/] {_plain(warning)}")


def _show_bench(result: dict[str, Any], console: Console) -> None:
    e = result["environment"]
    console.print(
        f"\n[bold]{_plain(e.get('gpu') or e['cpu'])}[/], {e['threads']} threads, torch {e['torch']}, {result['date']}"
    )
    console.print(
        "Time as a ratio, forward + backward or a whole training step: median of the rounds, [10 %, 90 %]. Below 1 is faster "
        "than what it is compared with. Saved: bytes an element that are kept for the backward pass; "
        "copy: speed forward and backward in per cent of a copy's.",
        style="dim",
    )
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("what", "at", "compared with", "ratio", "target", "saved", "copy"):
        table.add_column(column, justify="right" if column in ("ratio", "saved", "copy") else "left", overflow="fold")
    for record in [*result["kernels"], *result["steps"]]:
        for row in _bench_rows(record, result["targets"]):
            table.add_row(*row)
    console.print(table)
    for record in result["compilation"]:
        if "skipped" not in record and (record["programs"] != 1 or record["graph_breaks"]):
            console.print(
                f"[yellow]torch.compile:[/] {record['activation']}: {record['programs']} programs and {record['graph_breaks']} "
                f"graph breaks in {record['steps']} steps; expected 1 and 0."
            )
    from pliant.bench import restless

    if count := restless(result):
        console.print(
            f'[yellow]note:[/] in {count} races torch\'s own came out more than 5 % from itself (the lines with "again"): the '
            "machine was busy. Give the bench more --seconds, or the machine to itself."
        )


def _bench_rows(record: dict[str, Any], targets: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A line for each thing that the contestants of a race are compared with."""
    step = "network" in record
    where = record["network"] if step else record["size"]
    at = f"step of {where}" if step else f"{where} {record['dtype']}"
    at += ", kept memory" if record.get("memory") == "kept" else ""
    if "skipped" in record:
        yield [_plain(record.get("activation", "")), _plain(at), f"[dim]not measured: {_plain(record['skipped'])}[/]"]
    for c in record.get("contestants", ()):
        if c["role"] == "torch":
            continue
        name = c["name"] if step or c["role"] == "control" else f"{record['activation']} {c['name'].removeprefix('pliant')}"
        name = name.removesuffix(" pliant").strip()
        if c["disagrees"]:
            bad = c["disagrees"]
            yield [
                _plain(name),
                _plain(at),
                f"[red]DISAGREES[/]: {bad['what']} {bad['difference']}, allowed {bad['tolerance']:g}",
            ]
            continue
        shown = c["ratio"] if c["role"] == "pliant" else dict([next(iter(c["ratio"].items()))])
        for other, ratios in shown.items():
            low, median, high = ratios["step" if step else "total"]
            target = next(
                (
                    t
                    for t in targets
                    if (t["subject"], t["where"], t["memory"], t["against"] + " compiled" * t["compiled"])
                    == (c.get("activation") or record["activation"], where, record.get("memory", "fresh"), other)
                    and record["dtype"] == "float32"
                    and c["name"].removesuffix(" compiled").endswith("pliant")
                    and t["compiled"] == (c["role"] == "compiled")
                ),
                None,
            )
            saved, share = c.get("saved_bytes"), c.get("share_of_copy")
            kept = saved["input"] + saved["other"] if saved else 0
            yield [
                _plain(name),
                _plain(at),
                _plain(other),
                _plain(f"{median:.2f} [{low:.2f}, {high:.2f}]"),
                _bench_word(target),
                "" if saved is None else f"{kept:g}" if kept or not saved["output"] else "out",
                f"{100 * share['forward'][1]:.0f}, {100 * share['backward'][1]:.0f} %" if share else "",
            ]


def _bench_word(target: dict[str, Any] | None) -> str:
    if target is None:
        return ""
    word = {True: "[green]met[/]", False: "[red]missed[/]", None: "[yellow]cannot tell[/]"}[target["met"]]
    return f"{'>=' if target['at_least'] else '<='} {target['bound']:.2f} {word}"


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _mean(e: Estimate) -> str:
    if not _finite(e.mean):
        return "[dim]-[/]"
    half = (e.high - e.low) / 2
    return f"{100 * e.mean:.2f}" + (f" +-{100 * half:.2f}" if _finite(half) else "")


def _difference(c: Comparison | None) -> str:
    if c is None or not _finite(c.difference):
        return "[dim]-[/]"
    if c.identical:
        return "identical"
    interval = f" [{100 * c.low:+.2f}, {100 * c.high:+.2f}]" if _finite(c.low) and _finite(c.high) else ""
    return _plain(f"{100 * c.difference:+.2f}{interval}")


def _word(c: Comparison | None) -> str:
    if c is None:
        return "[dim]baseline[/]"
    return f"[{WORD_STYLES[c.word]}]{c.word}[/]"


def _spreads(result: Result) -> list[float]:
    if result.counts["done"] + result.counts["diverged"] == 0:
        return []
    spreads = []
    for c in result.verdict().comparisons:
        values = [d for _, _, d in c.differences]
        if len(values) > 1:
            spreads.append(statistics.stdev(values))
    return [s for s in spreads if s > 0]


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {s:02d} s" if minutes else f"{s} s"


class _Display:
    """Live progress of a run: a bar with the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.waiting = 0
        self._settled = 0
        self._began = 0.0
        self._told = 0.0
        self._share: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self._bar: bars.Progress | None = None
        self._task: bars.TaskID | None = None

    def planned(self, study: Study, trials: Sequence[TrialSpec], waiting: Sequence[TrialSpec]) -> None:
        self.waiting, self._labels, self._began = len(waiting), study.labels, time.monotonic()
        self._told = self._began
        self.console.print(f"[bold]{_plain(study.title or study.name)}[/]  {_plain(study.question)}")
        if study.overrides:
            self.console.print(f"Changed: {_plain(' '.join(study.overrides))}", style="dim")
        if not waiting:
            return
        done = len(trials) - len(waiting)
        self.console.print(f"{len(waiting)} of {len(trials)} trials to train" + (f", {done} done before." if done else "."))
        if self.console.is_terminal:
            self._bar = bars.Progress(
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(),
                bars.TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=len(waiting), note="")

    def event(self, event: Event, trial: TrialSpec) -> None:
        label = f"{self._labels.get(trial.activation, trial.activation)}, repeat {trial.repeat}, fold {trial.fold}"
        if event.kind == "progress":
            self._share[event.key] = event.data["epoch"] / event.data["epochs"]
        elif event.kind in ("finished", "failed"):
            self._share.pop(event.key, None)
            self._settled += 1
        if event.kind in ("retrying", "failed"):
            self.console.print(f"[red]{event.kind}:[/] {_plain(label)}: {_plain(event.message)}")
        self._tell(label)

    def _tell(self, label: str) -> None:
        now = time.monotonic()
        equivalent = self._settled + sum(self._share.values())
        elapsed = now - self._began
        left = f"about {_duration(elapsed / equivalent * (self.waiting - equivalent))} left" if equivalent > 0.5 else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._settled, note=_plain(f"{left}  {label}"))
        elif now - self._told > 15:
            self._told = now
            self.console.print(f"{self._settled} of {self.waiting} trials after {_duration(elapsed)}, {left}")

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.waiting:
            self.console.print(f"{self._settled} trials trained in {_duration(time.monotonic() - self._began)}.", style="dim")
