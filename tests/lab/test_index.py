"""An index of what was read changes what a look costs, and never what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import synthetic_store

from pliant.lab import index
from pliant.lab.fsck import check
from pliant.lab.merge import merge
from pliant.lab.result import Result
from pliant.lab.run import _listed
from pliant.lab.status import TRIALS, Watch
from pliant.lab.store import RESULT, Store, StoreError, TrialDirectory
from pliant.lab.study import Study, plan

STUDY = synthetic_store.study_of(2, 5, ["relu", "prelu", "swish"])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of 30 finished trials, and an index of it."""
    monkeypatch.setattr(index, "WORTH", 1)
    store = synthetic_store.filled(tmp_path / "store", STUDY)
    store.write_json(store.study(STUDY.directory) / TRIALS, _listed(STUDY, plan(STUDY)))
    Result(STUDY, store).trial_rows  # noqa: B018  Writes it.
    assert path(store).exists()
    return store


def path(store: Store) -> Path:
    return store.root / "studies" / STUDY.directory / index.INDEX


def seen(store: Store, study: Study = STUDY) -> list[list[tuple[str, Any]]]:
    return [list(row.items()) for row in Result(study, store).trial_rows]


def without_index(store: Store, study: Study = STUDY) -> list[list[tuple[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "WORTH", 10**9)
        return seen(store, study)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trials whose result is read."""
    found: list[str] = []
    own = TrialDirectory.result

    def result(self: TrialDirectory, *, verify_files: bool = True) -> Any:
        found.append(self.key)
        return own(self, verify_files=verify_files)

    monkeypatch.setattr(TrialDirectory, "result", result)
    return found


def test_a_second_look_reads_nothing_and_says_the_same(kept: Store, reads: list[str]) -> None:
    one, two = Result(STUDY, kept), Result(STUDY, kept)
    assert seen(kept) == [list(row.items()) for row in one.trial_rows]
    assert not reads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "WORTH", 10**9)
        assert two.trial_rows == one.trial_rows
        assert [list(map(type, r.values())) for r in two.trial_rows] == [list(map(type, r.values())) for r in one.trial_rows]
    assert len(reads) == 30
    assert two.environment() == one.environment()
    assert two.verdict() == one.verdict()


def test_only_the_fold_of_a_trial_that_changed_is_read(kept: Store, reads: list[str]) -> None:
    spec = plan(STUDY)[4]
    trial = kept.trial(spec.key)
    document = json.loads((trial.path / RESULT).read_text())
    for file in trial.path.iterdir():
        file.unlink()
    assert sum(dict(row)["outcome"] == "missing" for row in seen(kept)) == 1
    row = {**document["row"], "test_accuracy": 0.123456789}
    trial.finish({"outcome": "done", "row": row, "curves": document["curves"], "provenance": {}})
    reads.clear()
    assert [dict(r) for r in seen(kept)][4]["test_accuracy"] == 0.123456789
    together = [s.key for s in plan(STUDY) if (s.repeat, s.fold) == (spec.repeat, spec.fold)]
    assert reads == together
    assert seen(kept) == without_index(kept)


def test_a_flipped_bit_is_seen_past_the_index(kept: Store) -> None:
    file = kept.trial(plan(STUDY)[7].key).path / RESULT
    data = bytearray(file.read_bytes())
    place = data.index(b'"test_accuracy": 0.') + 20
    data[place] ^= 1
    before = file.stat()
    file.write_bytes(data)
    # Neither the size nor the time of the content says so.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match="damaged"):
        seen(kept)
    assert len(check(kept).redo) == 1


def test_a_torn_or_damaged_index_is_none(kept: Store) -> None:
    whole = path(kept).read_bytes()
    truth = without_index(kept)
    assert index.load(kept, STUDY.directory)
    broken = [whole[: len(whole) * i // 7] for i in range(7)]
    for i in range(0, len(whole), len(whole) // 60):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        broken.append(bytes(flipped))
    broken += [b"[]\n[]", b"{}\n", b"\xff\n", b'{"version": 1}\n']
    for data in broken:
        path(kept).write_bytes(data)
        for of in ("x", None):
            found = index.load(kept, STUDY.directory, of)
            assert not found or data.partition(b"\n")[2] == whole.partition(b"\n")[2]
        assert seen(kept) == truth


def test_it_is_of_one_study_and_one_code(kept: Store, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    other = STUDY.model_copy(update={"activations": ("relu", "swish"), "thresholds": (0.7,)})
    assert other.directory == STUDY.directory
    assert seen(kept, other) == without_index(kept, other)
    assert seen(kept) == without_index(kept)
    reads.clear()
    seen(kept)
    assert not reads
    monkeypatch.setattr(index, "code", lambda: "of tomorrow")
    seen(kept)
    assert len(reads) == 30


def test_it_is_not_needed_to_write_one(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = seen(kept)
    path(kept).unlink()

    def refuse(*_: object) -> None:
        raise StoreError("read-only")

    monkeypatch.setattr(Store, "write", refuse)
    assert seen(kept) == truth
    assert not path(kept).exists()


def test_two_drivers_write_at_once(kept: Store) -> None:
    """The one that ends last stays, though it knows less: what it lacks is read again."""
    truth = seen(kept)
    all_of_them = index.load(kept, STUDY.directory)
    of = json.loads(path(kept).read_bytes().partition(b"\n")[0])["of"]
    index.save(kept, STUDY.directory, of, dict(list(all_of_them.items())[:11]))
    assert seen(kept) == truth
    assert index.load(kept, STUDY.directory) == all_of_them


def test_a_merged_store_has_none_of_another(kept: Store, tmp_path: Path, reads: list[str]) -> None:
    target = Store(tmp_path / "other")
    assert len(merge(kept, target).copied) == 30
    assert not path(target).exists()
    # Even one that was copied by hand is of other files.
    target.write(target.study(STUDY.directory) / index.INDEX, path(kept).read_bytes())
    reads.clear()
    assert seen(target) == seen(kept)
    assert len(reads) == 30


def test_a_report_is_written_again_where_something_changed(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    own = Result.report_data
    monkeypatch.setattr(Result, "report_data", lambda self, **given: made.append(1) or own(self, **given))  # type: ignore[func-returns-value]

    def report(**given: str) -> bytes:
        made.clear()
        return Result(STUDY, kept).report(tmp_path / "out", **given).read_bytes()

    page = report()
    assert made
    assert report() == page
    assert not made
    assert report(command="another") != page
    assert made
    assert report() == page
    assert made
    (tmp_path / "out" / "rows.csv").write_text("of somebody else")
    assert report() == page
    assert made
    assert report() == page
    assert not made
    predictions = kept.trial(plan(STUDY)[3].key).path / "predictions.safetensors"
    predictions.write_bytes(predictions.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="damaged"):
        report()


def test_status_takes_from_it_what_has_not_changed(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = kept.trial(plan(STUDY)[3].key).path / RESULT
    truth = Watch(kept, STUDY.directory).look(now=0.0)
    gone.unlink()
    glanced: list[str] = []
    own = TrialDirectory.glance
    monkeypatch.setattr(TrialDirectory, "glance", lambda self: glanced.append(self.key) or own(self))  # type: ignore[func-returns-value]
    found = Watch(kept, STUDY.directory).look(now=0.0)
    assert glanced == [plan(STUDY)[3].key]
    assert found.counts["done"] == truth.counts["done"] - 1 == 29
