"""Results that were really computed, small and whole, for a repository: they outlive the store that they came from.

A record is a folder, ``<study>[.<tier>]/``:

=================== ==================================================================================================
``record.json``     what was run (command, environment, outcomes, remarks), what is left out and why, and the sha256 of every
                    other file, so that a changed row is told
``study.json``      the study as it was resolved
``rows.csv``        one row for each activation, repeat and fold: every number a verdict or table is made of
``trials.csv``      every trial, where learning rates or activations were chosen among some that have no row of their own
``summary.json``    the verdict: estimates and comparisons of each metric
``predictions.npz`` on a fixed test part: the class each trial gave each example, from which the verdict follows again
``learned.csv``     learned coefficients of each trial at its last epoch, by call site; where there are some
``figures/``        figures of the report as SVG; those of courses and counts, which no row holds, also as CSV
=================== ==================================================================================================

No weights, no probabilities, no checkpoints, no histories: those are in the store alone.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import safetensors.numpy

from pliant.errors import PliantError
from pliant.lab.evidence import JUDGED, Evidence, tier_of
from pliant.lab.report import draw, figure_files
from pliant.lab.report.page import write_whole
from pliant.lab.store import PREDICTIONS
from pliant.lab.verdict import Comparison, Estimate, Posterior, Predictions, Sampled, Verdict

if TYPE_CHECKING:
    from pliant.lab.result import Result

__all__ = ["Record", "RecordError", "find", "index", "read", "write", "write_index"]

FORMAT: Final = "pliant-record"
VERSION: Final = 1
RECORD: Final = "record.json"
LEARNED: Final = "learned.csv"
LARGEST: Final = 200_000
"""Bytes above which predictions and a figure stay out of a record; what stays out is said in it."""

FIGURES: Final = (
    "forest",
    "curves",
    "shape",
    "coefficients",
    "layers",
    "increments",
    "single_weights",
    "confusions",
    "gap",
    "times",
)
COURSES: Final = ("curves", "coefficients", "increments", "single_weights", "confusions")


class RecordError(PliantError):
    """A record that is missing, damaged or of another version, or results of which none can be made."""


@dataclass(frozen=True)
class Record:
    """A record as it was read; its files have the checksums that were written with them."""

    path: Path
    about: Mapping[str, Any]
    """What ``record.json`` says."""
    study: Mapping[str, Any]
    evidence: Evidence

    @property
    def name(self) -> str:
        """The study's folder: its name, and its tier where it is reduced."""
        return self.evidence.directory

    @property
    def verdict(self) -> Verdict:
        """The verdict as it was computed when the record was made."""
        assert self.evidence.kept is not None
        return self.evidence.kept


# --- writing ----------------------------------------------------------------------------------------------------------


def write(result: Result, into: Path, *, command: str, timed: bool = False) -> Path:
    """Make or replace the record of a study in the folder ``into``, and the index of all records there; the record's path.

    Args:
        command: what gives the same result again, without paths of this machine.
        timed: whether its trials had the machine to themselves, one after the other, so that their times may be compared.

    Raises:
        RecordError: the study has no result yet.
    """
    counts = result.counts
    if not counts["done"] + counts["diverged"]:
        raise RecordError(
            f"The study {result.study.directory!r} has no finished trial in {result.store.root}, so there is nothing to "
            f"record. Run it first: {command}."
        )
    contents, left_out = _contents(result, command)
    target = Path(into) / result.study.directory
    (target / "figures").mkdir(parents=True, exist_ok=True)
    stale = {p for p in target.rglob("*") if p.is_file() and p.relative_to(target).as_posix() not in contents}
    # Until its own file is back, a reader is told that the record is not whole.
    (target / RECORD).unlink(missing_ok=True)
    for path in stale - {target / RECORD}:
        path.unlink()
    for name, content in contents.items():
        write_whole(target / name, content)
    about = {**_about(result, command, left_out), **({"timed": True} if timed else {})}
    about["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    about["sha256"] = _checksum(about)
    write_whole(target / RECORD, _json(about))
    if not any((target / "figures").iterdir()):
        (target / "figures").rmdir()
    write_index(into)
    return target


def _contents(result: Result, command: str) -> tuple[dict[str, bytes], list[str]]:
    rows, left_out = [_kept(row) for row in result.rows], []
    contents = {"rows.csv": _csv(rows)}
    if result.study.train.lr_grid or set(result.study.trained) - set(result.study.activations):
        contents["trials.csv"] = _csv([_kept(row) for row in result.trial_rows])
    if sites := [
        {"activation": activation, "trial": number, "site": site, "coefficient": name, "value": value}
        for activation, trials in result.learned().items()
        for number, trial in enumerate(trials)
        for site, named in trial.items()
        for name, value in named.items()
    ]:
        table = _csv(sites)
        if len(table) <= LARGEST:
            contents[LEARNED] = table
        else:
            left_out.append(f"{LEARNED}: {len(table) / 1e3:.0f} kB")
    values = result.study.model_dump(mode="json")
    values["dataset"]["options"].pop("path", None)
    contents["study.json"] = _json(values)
    evidence = Evidence.of(result)
    verdict = evidence.verdict(metrics=_judged(evidence))
    contents["summary.json"] = _json(_plain(dataclasses.asdict(verdict)))
    if evidence.examples is not None:
        packed, why = _predictions(result, rows)
        if packed is not None:
            contents["predictions.npz"] = packed
        left_out += [why] if why else []
    drawn = draw(result.report_data(command=command))
    for name, content in figure_files({id_: drawn[id_] for id_ in FIGURES}, kinds=("svg", "csv")):
        if name.endswith(".csv") and Path(name).stem not in COURSES:
            continue
        if len(content) <= LARGEST:
            contents[f"figures/{name}"] = content
        else:
            left_out.append(f"figures/{name}: {len(content) / 1e3:.0f} kB")
    return contents, left_out


def _about(result: Result, command: str, left_out: Sequence[str]) -> dict[str, Any]:
    study = result.study
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": study.name,
        "directory": study.directory,
        "tier": tier_of(study),
        "paper": study.paper,
        "title": study.heading,
        "question": study.question,
        "command": command,
        "changes": list(study.overrides),
        "outcomes": result.counts,
        "environment": result.environment(),
        "remarks": list(Evidence.of(result).remarks),
        "labels": study.labels,
        "task": result.task,
        "classes": len(result.classes),
        "left_out": list(left_out),
    }


def _judged(evidence: Evidence) -> list[str]:
    """The metrics that every scored row has: one that some lack cannot be judged as the study's own is."""
    scored = [row for row in evidence.rows if row["outcome"] in ("done", "diverged")]
    return [m for m in (*JUDGED, "ap", "ap50", "ap75") if all(f"test_{m}" in row for row in scored)]


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    # The text of an error may name files of the machine; that the trial failed is in its outcome.
    return {name: value for name, value in row.items() if name != "error"}


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    out = io.BytesIO()
    pl.DataFrame([dict(row) for row in rows], infer_schema_length=None).write_csv(out)
    return out.getvalue()


def _predictions(result: Result, rows: Iterable[Mapping[str, Any]]) -> tuple[bytes | None, str]:
    """The class that each scored trial gave each example of the one test part, and why not."""
    if result.task == "multilabel":
        return None, "predictions: examples have several labels, so a class an example does not say what a verdict needs"
    if result.task == "detection":
        return None, "predictions: boxes in images; the verdict is kept as it was computed from them"
    keys, classes, index, target, count = [], [], None, None, max(2, len(result.classes))
    for row in rows:
        if row["key"] in keys:
            # An entrant that is chosen among others is one of their trials.
            continue
        saved = result.store.trial(row["key"]).read(PREDICTIONS) if row["outcome"] in ("done", "diverged") else None
        if saved is None:
            continue
        parts = safetensors.numpy.load(saved)
        if index is not None and not np.array_equal(index, parts["test_index"]):
            return None, "predictions: the trials were not tested on the same examples"
        index, target = parts["test_index"], parts["test_target"]
        keys.append(row["key"])
        classes.append(_classes(parts["test_score"]))
    if index is None or target is None:
        return None, "predictions: the store has none"
    # By example and as the distance to the target: most are 0, and an example that is hard is so for all, which packs well.
    wrong = (np.stack(classes, axis=1) - target.astype(np.int64)[:, None]) % count
    arrays = {
        "key": np.array(keys),
        "index": index,
        "target": target,
        "wrong": wrong.astype(np.uint16 if count > 256 else np.uint8),
    }
    if (groups := result.groups) is not None:
        arrays["group"] = np.unique(groups[index], return_inverse=True)[1]
    packed = _npz(arrays)
    if len(packed) > LARGEST:
        return None, f"predictions: {len(packed) / 1e3:.0f} kB; the verdict is kept as it was computed from them"
    return packed, ""


def _classes(score: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return (score > 0.5).astype(np.int64) if score.ndim == 1 else score.argmax(axis=1).astype(np.int64)


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """As numpy's own, with the best packing and no date, so that the same results give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def _checksum(about: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """With null for what JSON has no number for; :func:`_verdict` knows which it was by the name of the field."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Record:
    """Read a record and compare every file with its checksum.

    Raises:
        RecordError: there is none, it is of another version, or a file is missing or was changed.
    """
    about = _parsed(path / RECORD)
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise RecordError(
            f"{path / RECORD} is a {about.get('format')!r} of version {about.get('version')!r}; expected {FORMAT!r} version "
            f"{VERSION}. Make it again with this version: {about.get('command', 'pliant record')}."
        )
    if about.get("sha256") != _checksum(about):
        raise RecordError(
            f"{path / RECORD} is not what was recorded. Restore it from the repository, or make the record again."
        )
    for name, expected in about["files"].items():
        found = hashlib.sha256(_bytes(path / name)).hexdigest()
        if found != expected:
            raise RecordError(
                f"{path / name} is not what was recorded: its sha256 is {found[:12]}..., expected {expected[:12]}.... Restore "
                f"it from the repository, or make the record again: {about['command']}, then pliant record {about['study']}."
            )
    study, verdict = _parsed(path / "study.json"), _verdict(_parsed(path / "summary.json"))
    rows = pl.read_csv(path / "rows.csv", infer_schema_length=None).to_dicts()
    packed = path / "predictions.npz"
    evidence = Evidence(
        name=about["study"],
        directory=about["directory"],
        title=about["title"],
        tier=about["tier"],
        origin="record",
        rows=rows,
        activations=tuple(study["activations"]),
        labels=about["labels"],
        baseline=study["baseline"],
        metric=study["metric"],
        margin=study["margin"],
        design=study["protocol"]["design"],
        examples=_Examples(packed, about["task"], about["classes"]) if "predictions.npz" in about["files"] else None,
        kept=verdict,
        remarks=tuple(about["remarks"]),
        path=path,
        changes=tuple(about["changes"]),
        confusions=functools.partial(_confusions, path / "figures" / "confusions.csv", about["labels"], about["classes"]),
        classes=about["classes"],
        learned=functools.partial(_learned, path / LEARNED),
        timed=about.get("timed", False),
    )
    return Record(path, about, study, evidence)


def _confusions(path: Path, labels: Mapping[str, str], classes: int) -> dict[str, dict[tuple[str, str], int]]:
    """The matrices that are whole: of many classes a figure holds those alone that are confused most."""
    if not path.is_file():
        return {}
    spec = {label: activation for activation, label in labels.items()}
    found: dict[str, dict[tuple[str, str], int]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            cells = found.setdefault(spec[line["Activation"]], {})
            cells[line["True class"], line["Predicted class"]] = int(line["Count"])
    return {activation: cells for activation, cells in found.items() if len(cells) == classes**2}


def _learned(path: Path) -> dict[str, list[dict[str, dict[str, float]]]]:
    if not path.is_file():
        return {}
    trials: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for line in pl.read_csv(path, schema_overrides={"site": pl.String, "value": pl.Float64}).iter_rows(named=True):
        sites = trials.setdefault(line["activation"], {}).setdefault(line["trial"], {})
        sites.setdefault(line["site"], {})[line["coefficient"]] = line["value"]
    return {activation: list(by.values()) for activation, by in trials.items()}


def find(root: Path) -> dict[str, Record]:
    """Every record in a folder, by the name of its own; none where the folder does not exist.

    Raises:
        RecordError: as :func:`read`, for the first that is not whole.
    """
    return {p.parent.name: read(p.parent) for p in sorted(Path(root).glob(f"*/{RECORD}"))}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}), and a record is whole or none. Restore it from the repository, or name "
            "the folder of a record."
        ) from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(path))
    except ValueError as error:
        raise RecordError(f"{path} is not JSON ({error}). Restore it from the repository.") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path} holds {type(value).__name__}, expected an object. Restore it from the repository.")
    return value


class _Examples:
    """How a recorded trial's score varies with the test examples, from the classes it gave them."""

    def __init__(self, path: Path, task: Literal["binary", "multiclass"], classes: int) -> None:
        self._path = path
        self._task = task
        self._classes = classes
        self._loaded: dict[str, Any] = {}
        self._found: dict[tuple[object, str], Sampled | None] = {}

    def __call__(self, row: Mapping[str, object], metric: str) -> Sampled | None:
        if metric not in JUDGED:
            return None
        asked = row["key"], metric
        if asked not in self._found:
            self._found[asked] = self._sampled(row, metric)
        return self._found[asked]

    def _sampled(self, row: Mapping[str, object], metric: str) -> Sampled | None:
        if not self._loaded:
            with np.load(self._path, allow_pickle=False) as packed:
                self._loaded = dict(packed)
            self._loaded["place"] = {key: i for i, key in enumerate(self._loaded["key"].tolist())}
        of = self._loaded
        if row["key"] not in of["place"]:
            return None
        given = (of["wrong"][:, of["place"][row["key"]]].astype(np.int64) + of["target"]) % self._classes
        # Any probabilities with the same largest class give the same counts.
        score = given.astype(np.float64)
        if self._task == "multiclass":
            score = np.eye(self._classes)[given]
        return Predictions(of["index"], of["target"], score, self._task, of.get("group")).sampled(metric)


def _verdict(values: Mapping[str, Any]) -> Verdict:
    def numbers(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
        ends = {"low": -math.inf, "high": math.inf}
        floats = {f.name for f in dataclasses.fields(kind) if f.type == "float"}
        return {k: ends.get(k, math.nan) if v is None and k in floats else v for k, v in given.items()}

    def compared(given: Mapping[str, Any]) -> Comparison:
        fields = numbers(Comparison, given)
        posterior = given["posterior"]
        fields["posterior"] = None if posterior is None else Posterior(**posterior)
        fields["differences"] = tuple((r, f, math.nan if d is None else d) for r, f, d in given["differences"])
        return Comparison(**fields)

    return Verdict(
        **{
            **values,
            "estimates": {m: tuple(Estimate(**numbers(Estimate, e)) for e in es) for m, es in values["estimates"].items()},
            "comparisons": tuple(compared(c) for c in values["comparisons"]),
            "secondary": {m: tuple(compared(c) for c in cs) for m, cs in values["secondary"].items()},
            "warnings": tuple(values["warnings"]),
        }
    )


# --- the index --------------------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# Records

What was really run, small and whole: a folder a study, made by `pliant record`, read by `pliant.lab.records`. Rows, verdict,
environment, command and figures are in it; weights, probabilities and histories are not. Every table in `docs/papers/` is
made from these files by `scripts/papers_tables.py`, and a test compares. **smoke** and **lite** are reduced tiers: fewer
epochs, runs or examples than the paper; they show that the whole runs, and never stand for the full claim.

The table is written by `pliant record`; do not edit.
"""


def index(root: Path) -> str:
    """The text of ``README.md`` in a folder of records."""
    lines = [
        _INTRODUCTION,
        "| record | tier | trials with a result | compared with | words | command |",
        "| --- | --- | --: | --- | --- | --- |",
    ]
    for name, record in find(root).items():
        evidence, verdict = record.evidence, record.verdict
        outcomes = record.about["outcomes"]
        done = outcomes["done"] + outcomes["diverged"]
        words = [c.word for c in verdict.comparisons]
        told = ", ".join(f"{words.count(w)} {w.lower()}" for w in dict.fromkeys(words))
        diverged = f" ({outcomes['diverged']} diverged)" if outcomes["diverged"] else ""
        lines.append(
            f"| [{name}]({name}) | {evidence.size} | {done} of {sum(outcomes.values())}{diverged} | "
            f"{verdict.baseline_label} on {verdict.metric} | {told} | `{record.about['command']}` |"
        )
    return "\n".join(lines) + "\n"


def write_index(root: Path) -> Path:
    """Write the index of a folder of records, and give its path."""
    target = Path(root) / "README.md"
    write_whole(target, index(root).encode())
    return target
