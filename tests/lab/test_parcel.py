"""Trials travel as bytes and arrive whole, or not at all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.lab.parcel import ParcelError, TrialHost, pack, unpack
from pliant.lab.store import Store, StoreError, TrialDirectory

KEYS = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def half(trial: TrialDirectory, epochs: int = 2) -> TrialDirectory:
    trial.begin({"n": 1})
    for epoch in range(1, epochs + 1):
        trial.append_history({"epoch": epoch})
    trial.write("checkpoint.safetensors", b"weights")
    return trial


def finish(trial: TrialDirectory, accuracy: float = 0.5) -> TrialDirectory:
    half(trial)
    trial.write("predictions.safetensors", b"logits")
    trial.finish({"outcome": "done", "row": {"test_accuracy": accuracy}, "provenance": {}})
    return trial


def sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return body.getvalue()


def test_there_and_back() -> None:
    files = {KEYS[0]: {"spec.json": b"{}", "history.jsonl": b'{"epoch":1}\n'}, KEYS[1]: {}}
    assert unpack(pack(files), KEYS) == files


@pytest.mark.parametrize(
    "name",
    [
        f"{KEYS[0]}/../../store.json",
        f"../{KEYS[0]}/spec.json",
        f"/{KEYS[0]}/spec.json",
        f"{KEYS[0]}/lock",
        f"{KEYS[0]}/sub/spec.json",
        f"{KEYS[2]}/spec.json",
        "spec.json",
    ],
)
def test_a_parcel_cannot_name_anything_else(name: str) -> None:
    with pytest.raises(ParcelError, match="may hold only files of the 2 trials"):
        unpack(sealed(archive({name: b"x"})), KEYS[:2])


def test_a_parcel_cannot_swell() -> None:
    bomb = archive({f"{KEYS[0]}/history.jsonl": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ParcelError):
        unpack(sealed(bomb), KEYS)


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p[:40] + bytes([p[40] ^ 1]) + p[41:], lambda p: b""])
def test_a_damaged_parcel(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ParcelError, match="not what its checksum says"):
        unpack(change(pack({KEYS[0]: {"spec.json": b"{}"}})), KEYS)


def test_a_trial_is_finished_elsewhere(store: Store, tmp_path: Path) -> None:
    half(store.trial(KEYS[0]))
    finish(store.trial(KEYS[1]))
    busy: list[str] = []
    host = TrialHost(store, {key: {"n": 1} for key in KEYS[:2]}, busy.append)
    again: list[str] = []
    other = TrialHost(store, {KEYS[0]: {}}, again.append)
    assert (busy, again, other.pack()) == ([], [KEYS[0]], None)
    parcel = host.pack()
    assert parcel is not None
    out = unpack(parcel, KEYS)
    assert set(out) == {KEYS[0]}, "what is finished stays at home"

    away = Store(tmp_path / "away").trial(KEYS[0])
    away.adopt(out[KEYS[0]])
    assert away.read("checkpoint.safetensors") == b"weights"
    away.append_history({"epoch": 3})
    away.write("checkpoint.safetensors", b"more")
    host.unpack(pack({KEYS[0]: away.contents()}))
    assert store.trial(KEYS[0]).read("checkpoint.safetensors") == b"more"
    assert len(store.trial(KEYS[0]).history()) == 3

    away.write("predictions.safetensors", b"logits")
    away.finish({"outcome": "done", "row": {}, "provenance": {}})
    for _ in range(2):
        host.unpack(pack({KEYS[0]: away.contents()}))
    assert host.pack() is None
    host.close()
    home = store.trial(KEYS[0])
    assert home.result() == away.result()
    assert {f.name for f in home.path.iterdir()} == {"spec.json", "history.jsonl", "predictions.safetensors", "result.json"}
    assert all((home.path / f.name).read_bytes() == f.read_bytes() for f in away.path.iterdir())


@pytest.mark.parametrize("name", ["history.jsonl", "predictions.safetensors", "result.json", "spec.json"])
def test_what_arrives_damaged_is_not_stored(store: Store, tmp_path: Path, name: str) -> None:
    files = finish(Store(tmp_path / "away").trial(KEYS[0])).contents()
    for wrong in ({**files, name: files[name].replace(files[name][3:4], b"~")}, {n: d for n, d in files.items() if n != name}):
        trial = store.trial(KEYS[0])
        if name == "result.json" and name not in wrong:
            # Without a result it claims to be unfinished, and predictions are then out of place.
            with pytest.raises(StoreError, match=r"'predictions\.safetensors', which is no file of such a trial"):
                trial.adopt(wrong)
        else:
            with pytest.raises(StoreError, match=rf"{name} that was brought .* is not what its checksum says"):
                trial.adopt(wrong)
        assert not trial.path.exists() or not list(trial.path.iterdir())


def test_strangers_and_finished_trials_are_refused(store: Store, tmp_path: Path) -> None:
    away = half(Store(tmp_path / "away").trial(KEYS[0]))
    with pytest.raises(StoreError, match=r"'\.\./x', which is no file"):
        store.trial(KEYS[0]).adopt({**away.contents(), "../x": b""})
    finish(store.trial(KEYS[0]))
    with pytest.raises(StoreError, match="finished"):
        store.trial(KEYS[0]).adopt(away.contents())


# Seals


def test_a_checkpoint_with_a_flipped_bit_counts_as_absent(store: Store) -> None:
    trial = half(store.trial(KEYS[0]))
    path = trial.path / "checkpoint.safetensors"
    whole = path.read_bytes()
    assert trial.read("checkpoint.safetensors") == b"weights"
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        assert trial.read("checkpoint.safetensors") is None, i
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert trial.read("checkpoint.safetensors") is None, end


def test_a_checkpoint_needs_the_history_that_it_has_seen(store: Store) -> None:
    trial = half(store.trial(KEYS[0]))
    trial.append_history({"epoch": 3})
    assert trial.read("checkpoint.safetensors") == b"weights", "what came later is cut off on resume"
    path = trial.path / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"7", 1))
    assert trial.read("checkpoint.safetensors") is None


def test_checkpoints_from_before_there_were_seals(store: Store) -> None:
    trial = half(store.trial(KEYS[0]))
    header = b'{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    old = len(header).to_bytes(8, "little") + header + b"abc"
    path = trial.path / "checkpoint.safetensors"
    path.write_bytes(old)
    assert trial.read("checkpoint.safetensors") == old
    for wrong in (old[:-1], old + b"x", old[:4], b""):
        path.write_bytes(wrong)
        assert trial.read("checkpoint.safetensors") is None
