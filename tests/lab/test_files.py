"""Downloads against a server on this machine, and archives that mean harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pliant.lab.datasets import files
from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.files import Download, File, Manifest, fetch, fetch_all, unpack

CONTENT = bytes(range(256)) * 20_000
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.sent = 0
        self.cut: int | None = None
        """Bytes after which each connection is cut."""
        self.knows_ranges = True
        self.failures: list[int] = []
        self.says_length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.failures:
            self.send_error(self.server.failures.pop(0))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = CONTENT[start:]
        if self.server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: self.server.cut]
        self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@pytest.mark.parametrize("checksum", [SHA, MD5, ""])
def test_fetch(server: Server, tmp_path: Path, checksum: str) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "file.bin"
    fetch(server.url, target, checksum, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    fetch(server.url, target, checksum)
    assert len(server.ranges) == 1, "a file that is here is not downloaded again"


def test_a_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    part(target).write_bytes(CONTENT[:1_000_000])
    fetch(server.url, target, SHA)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000000-"]
    assert server.sent == len(CONTENT) - 1_000_000


def test_a_server_without_ranges_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    target = tmp_path / "file.bin"
    part(target).write_bytes(b"\xff" * 1_000_000)
    fetch(server.url, target, SHA)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_opened_again(server: Server, tmp_path: Path) -> None:
    # More cuts than attempts: each brought something, so none of them counts.
    server.cut = 700_000
    fetch(server.url, tmp_path / "file.bin", SHA, attempts=2, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 8
    assert server.sent == len(CONTENT), "nothing was sent twice"


def test_a_dead_connection_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.cut = 0
    target = tmp_path / "file.bin"
    part(target).write_bytes(CONTENT[:5])
    with pytest.raises(DataError, match=r"the connection was cut, 3 times\. The 5 bytes that are here are kept") as told:
        fetch(server.url, target, SHA, attempts=3, pause=0)
    assert str(target) in str(told.value), "it says where to put the file by hand"
    assert len(server.ranges) == 3
    assert part(target).read_bytes() == CONTENT[:5]
    assert not target.exists()


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    with pytest.raises(DataError, match="is not the expected file"):
        fetch(server.url, target, "md5:" + "0" * 32)
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_found_out(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    part(target).write_bytes(b"\xff" * 1000)
    with pytest.raises(DataError, match="is not the expected file"):
        fetch(server.url, target, SHA)
    fetch(server.url, target, SHA)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_gets_its_name(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    part(target).write_bytes(CONTENT)
    fetch(server.url, target, SHA)
    assert target.read_bytes() == CONTENT
    assert server.sent == 0


def test_a_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"other")
    fetch(server.url, target, SHA)
    assert target.read_bytes() == CONTENT


def test_a_server_that_does_not_say_how_much(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    fetch(server.url, tmp_path / "file.bin", SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_answers_that_stay_are_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.failures = [404]
    with pytest.raises(DataError, match="answered 404"):
        fetch(server.url, tmp_path / "file.bin", SHA, pause=0)
    assert len(server.ranges) == 1
    server.failures = [503, 429]
    fetch(server.url, tmp_path / "file.bin", SHA, pause=0)
    assert len(server.ranges) == 4


def test_no_network(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(DataError, match=r"Without a network: get .* on another machine and put it at") as told:
        fetch(url, tmp_path / "file.bin", SHA, attempts=2, pause=0)
    assert str(tmp_path / "file.bin") in str(told.value)


def test_only_web_addresses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="https://"):
        fetch((tmp_path / "x").as_uri(), tmp_path / "file.bin")


@pytest.mark.skipif(sys.platform == "win32", reason="no flock on Windows")
def test_two_downloads_of_one_file(server: Server, tmp_path: Path) -> None:
    import fcntl

    with part(tmp_path / "file.bin").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process"):
            fetch(server.url, tmp_path / "file.bin", SHA)
    assert not server.ranges


# --- archives ---------------------------------------------------------------------------------------------------------


def tar(path: Path, *members: tuple[str, bytes | str], mode: str = "w:gz") -> Path:
    """Bytes are a file, text is where a symbolic link points to."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(params=["with", "without"])
def a_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's, which Python 3.11 has from 3.11.4 on."""
    if request.param == "without":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has no tarfile.data_filter")


@pytest.mark.usefixtures("a_filter")
def test_unpack(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (target / "set").mkdir(parents=True)
    (target / "set" / "kept").write_bytes(b"mine")
    (target / "set" / "a").write_bytes(b"old")
    unpack(tar(tmp_path / "a.tar.gz", ("set/a", b"1"), ("set/deep/b", b"2")), target)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("set/c", b"3")
    unpack(tmp_path / "b.zip", target)
    (tmp_path / "d.gz").write_bytes(gzip.compress(b"4"))
    unpack(tmp_path / "d.gz", target / "set")
    found = {str(p.relative_to(target / "set").as_posix()): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {"kept": b"mine", "a": b"1", "deep/b": b"2", "c": b"3", "d": b"4"}
    assert [p.name for p in target.iterdir()] == ["set"]


@pytest.mark.usefixtures("a_filter")
@pytest.mark.parametrize(
    "members",
    [
        [("good", b"1"), ("../evil", b"1")],
        [("set/../../evil", b"1")],
        [("link", ".."), ("link/evil", b"1")],
        [("link", "/etc/passwd")],
    ],
)
def test_a_tar_cannot_leave_its_folder(tmp_path: Path, members: list[tuple[str, bytes | str]]) -> None:
    with pytest.raises(DataError, match="not safe to unpack"):
        unpack(tar(tmp_path / "a.tar", *members, mode="w"), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "data"]


@pytest.mark.usefixtures("a_filter")
def test_an_absolute_path_in_a_tar_lands_inside(tmp_path: Path) -> None:
    outside = tmp_path / "evil"
    unpack(tar(tmp_path / "a.tar", (str(outside), b"1"), mode="w"), tmp_path / "data")
    assert not outside.exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "set/../../evil", "..\\evil", "C:/evil", "link"])
def test_a_zip_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"1")
        info = zipfile.ZipInfo(name)
        info.external_attr = ((stat.S_IFLNK if name == "link" else stat.S_IFREG) | 0o644) << 16
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(DataError, match="would leave the folder"):
        unpack(tmp_path / "a.zip", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.usefixtures("a_filter")
def test_archives_that_are_none(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar.gz", ("set/a", CONTENT))
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "page.tar.gz").write_bytes(b"<html>please log in</html>")
    (tmp_path / "page.zip").write_bytes(b"<html>please log in</html>")
    for name in ("cut.tar.gz", "page.tar.gz", "page.zip"):
        with pytest.raises(DataError, match=f"{name}.*(cannot be unpacked|is not a tar)"):
            unpack(tmp_path / name, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


# --- where data live --------------------------------------------------------------------------------------------------


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    assert files.root() == tmp_path
    monkeypatch.delenv("PLIANT_DATA")
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.root() == tmp_path / "cache" / "pliant" / "data"


def test_fetch_all_unpacks_and_stops_where_nothing_is_missing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "data"))
    archive = tar(tmp_path / "a.tar.gz", ("set/a", b"1")).read_bytes()
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", archive)
    md5 = f"md5:{hashlib.md5(archive).hexdigest()}"
    manifest = Manifest((File("set/a"),), (Download(server.url, "a.tar.gz", md5, unpack="", gives=("set/a",)),))
    with pytest.raises(DataError, match=r"1 of 1 files are not in .*: set/a. Run `pliant data fetch mine`.*PLIANT_DATA"):
        manifest.require("mine")
    fetch_all(manifest, lambda download: lambda done, total: None)
    assert manifest.require("mine") == tmp_path / "data"
    assert (tmp_path / "data" / "set" / "a").read_bytes() == b"1"
    fetch_all(manifest, lambda download: lambda done, total: None)
    assert len(server.ranges) == 1


def test_the_state_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert File("a").state(tmp_path) == "present"
    assert File("a", SHA).state(tmp_path) == "verified"
    assert File("a", MD5, size=len(CONTENT)).state(tmp_path) == "verified"
    assert File("a", "md5:" + "0" * 32).state(tmp_path) == "different"
    assert File("a", size=3).state(tmp_path) == "different"
    assert File("b").state(tmp_path) == "missing"
    assert files.read(File("a", SHA), tmp_path) == CONTENT
    with pytest.raises(DataError, match=r"is not the official file.*official = false"):
        files.read(File("a", "md5:" + "0" * 32), tmp_path)
    assert files.read(File("a", "md5:" + "0" * 32), tmp_path, official=False) == CONTENT
