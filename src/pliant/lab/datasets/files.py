"""Where data sets live, whether their files are the official ones, and how to get them.

Every data set has one folder under :func:`root`, in the format that its authors publish, so that files which are there for
another program serve here too. Nothing is downloaded while a data set is loaded; ``pliant data fetch`` does that.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import secrets
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from pliant.lab.datasets.arrays import DataError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "VARIABLE",
    "Download",
    "File",
    "Manifest",
    "State",
    "fetch",
    "fetch_all",
    "is_official",
    "read",
    "root",
    "stamp",
    "unpack",
    "write",
]

VARIABLE: Final = "PLIANT_DATA"
_CHUNK: Final = 1 << 20

State = Literal["verified", "present", "missing", "different"]
Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and those there will be, None where the server does not say."""


def root() -> Path:
    """The folder of all data sets: the environment variable PLIANT_DATA, else ``pliant/data`` in the user's cache folder
    (XDG_CACHE_HOME or ``~/.cache``; LOCALAPPDATA on Windows)."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "pliant" / "data"


def stamp(path: Path) -> str:
    """What changes when a file, or any file below a folder, does: a hash of names, lengths and times of change."""
    digest = hashlib.sha256()
    for found in [path, *sorted(path.rglob("*"))]:
        with contextlib.suppress(OSError):
            state = found.stat()
            digest.update(f"\0{found}\0{state.st_size}\0{state.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class File:
    """A file that a data set reads.

    Args:
        path: below :func:`root`, with forward slashes.
        checksum: of the official file, ``"md5:..."`` or ``"sha256:..."``; "" where none is published.
        size: of the official file in bytes, if known.
    """

    path: str
    checksum: str = ""
    size: int | None = None

    def at(self, folder: Path) -> Path:
        return folder.joinpath(*PurePosixPath(self.path).parts)

    def state(self, folder: Path) -> State:
        """What ``folder`` holds: "verified" is the official file, "different" is another one, "present" has nothing to be
        compared with."""
        path = self.at(folder)
        if not path.is_file():
            return "missing"
        if self.size is not None and path.stat().st_size != self.size:
            return "different"
        if not self.checksum:
            return "present"
        return "verified" if _checksum_of(path, self.checksum) == self.checksum else "different"


@dataclass(frozen=True)
class Download:
    """Something to fetch from the official source.

    Args:
        url: http or https.
        path: where the download is kept, below :func:`root`.
        checksum: as in :class:`File`.
        unpack: the folder below :func:`root` to unpack the archive into, "" for :func:`root` itself; None keeps the file.
        gives: files below :func:`root`; once they are all there the download is not needed.
    """

    url: str
    path: str
    checksum: str = ""
    unpack: str | None = None
    gives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a data set needs on the disk. Without files it comes with a package.

    Args:
        files: all that it reads.
        downloads: what brings them. Empty where the source asks for a login or a licence: ``instructions`` says what to do.
        instructions: a sentence or two for those who get the files by hand.
    """

    files: tuple[File, ...] = ()
    downloads: tuple[Download, ...] = ()
    instructions: str = ""

    def missing(self, folder: Path) -> tuple[File, ...]:
        return tuple(f for f in self.files if not f.at(folder).is_file())

    def require(self, name: str, folder: Path | None = None) -> Path:
        """The folder :func:`root`, once every file is in it.

        Raises:
            DataError: files are missing; the message says which, where they belong and how to get them.
        """
        folder = root() if folder is None else folder
        missing = self.missing(folder)
        if missing:
            raise DataError(f"The data set {name!r} is not complete: {self.advice(name, folder, missing)}")
        return folder

    def advice(self, name: str, folder: Path, missing: tuple[File, ...]) -> str:
        shown = ", ".join(f.path for f in missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        how = self.instructions
        if self.downloads:
            lacking = {f.path for f in missing}
            wanted = list(dict.fromkeys(d.url for d in self.downloads if not d.gives or lacking & {*d.gives}))
            urls = " ".join(wanted[:4]) + (f" and {len(wanted) - 4} more like these" if len(wanted) > 4 else "")
            if wanted:
                how = f"Run `pliant data fetch {name}`, or get them from {urls} by hand. {how}"
        return (
            f"{len(missing)} of {len(self.files)} files are not in {folder}: {shown}. {how.strip()} "
            f"Where data live is set by the environment variable {VARIABLE}."
        )


def read(file: File, folder: Path, *, official: bool = True) -> bytes:
    """A file's content, verified in the same pass.

    Args:
        official: False accepts another content than the official one.

    Raises:
        DataError: the file is missing, cannot be read or is not the official one.
    """
    path = file.at(folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if official and file.checksum and (found := _checksum(content, file.checksum)) != file.checksum:
        raise DataError(_differs(path, found, file.checksum))
    return content


def is_official(file: File, content: bytes) -> bool:
    """Whether the content of a file is the official one; False where no checksum is published."""
    return bool(file.checksum) and _checksum(content, file.checksum) == file.checksum


def _checksum(content: bytes, like: str) -> str:
    kind = like.partition(":")[0]
    return f"{kind}:{hashlib.new(kind, content, usedforsecurity=False).hexdigest()}"


def _differs(path: Path, found: str, expected: str) -> str:
    return (
        f"{path} is not the official file: its checksum is {found}, but {expected} was expected. It may be cut short, damaged, "
        "or a copy in another encoding. Delete it and fetch it again; to use a copy knowingly set the option official = false, "
        "and every result will say so."
    )


def _checksum_of(path: Path, like: str) -> str:
    kind = like.partition(":")[0]
    with path.open("rb") as stream:
        return f"{kind}:{hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()}"


def fetch(
    url: str,
    destination: Path,
    checksum: str = "",
    *,
    progress: Progress = lambda done, total: None,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> None:
    """Download a file. A download that was stopped goes on where it stopped; only a whole, verified file gets its name.

    Args:
        destination: the file; until it is whole, its content is in ``destination`` + ".part".
        checksum: "md5:..." or "sha256:..."; "" verifies the length alone.
        progress: called after each megabyte.
        attempts: how often a cut connection is opened again, after ``pause``, 2 ``pause``, 4 ``pause`` ... seconds.
        timeout: seconds of silence after which a connection counts as cut.

    Raises:
        DataError: no connection, an HTTP error, a full disk, or a content that does not have the checksum.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"The address {url!r} cannot be downloaded from; expected one that begins with https:// or http://.")
    if destination.is_file() and (not checksum or _checksum_of(destination, checksum) == checksum):
        return
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream, _only_one(stream, destination):
            if destination.is_file() and checksum and _checksum_of(destination, checksum) == checksum:
                return
            _download(url, stream, progress, attempts, timeout, pause, destination)
            stream.flush()
            os.fsync(stream.fileno())
            if checksum and (found := _checksum_of(part, checksum)) != checksum:
                part.unlink()
                raise DataError(
                    f"What {url} gave is not the expected file: its checksum is {found}, but {checksum} was expected. The "
                    "download was deleted; try again. If it comes again, the source has changed or a proxy answers instead."
                )
            part.replace(destination)
    except OSError as error:
        raise DataError(f"{destination} cannot be written: {error.strerror or error}. What was downloaded is kept.") from None


@contextlib.contextmanager
def _only_one(stream: IO[bytes], destination: Path) -> Iterator[None]:
    """Two processes that append to one file would spoil it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{destination} is being downloaded by another process; wait until it is done.") from None
    yield


def _download(
    url: str, stream: IO[bytes], progress: Progress, attempts: int, timeout: float, pause: float, destination: Path
) -> None:
    failures = 0
    while failures < attempts:
        before = stream.tell()
        try:
            if _transfer(url, stream, progress, timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            # 4xx but 408 and 429 say that asking again gives the same answer.
            if error.code < 500 and error.code not in (408, 429):
                raise DataError(f"{url} answered {error.code} {error.reason}. {_by_hand(url, destination)}") from None
            reason = f"the server answered {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        # A line that breaks often but moves on is no reason to give up; one that stands still is.
        failures = 0 if stream.tell() > before else failures + 1
        if 0 < failures < attempts:
            time.sleep(pause * 2 ** (failures - 1))
    raise DataError(
        f"{url} could not be downloaded: {reason}, {attempts} times. The {stream.tell()} bytes that are here are kept, and the "
        f"same command goes on from there. {_by_hand(url, destination)}"
    )


def _by_hand(url: str, destination: Path) -> str:
    return f"Without a network: get {url} on another machine and put it at {destination}."


def _transfer(url: str, stream: IO[bytes], progress: Progress, timeout: float) -> bool:
    """Append what is still missing; whether all of it came."""
    have = stream.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "pliant", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        # Nothing lies behind what is here: it is whole, or it belongs to another version and the checksum will tell.
        return True
    with response:
        if have and response.status != 206:
            stream.truncate(0)
            have = stream.seek(0)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        progress(have, total)
        while chunk := response.read(_CHUNK):
            stream.write(chunk)
            have += len(chunk)
            progress(have, total)
    return total is None or have == total


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar, zip or gz file into ``folder``. No member can land outside it; links out of it are refused as well.

    The files appear in ``folder`` once all of them are unpacked.

    Raises:
        DataError: the archive is damaged, of another kind, or holds a member that would leave the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".unpack-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _untar(tar, staging)
        elif zipfile.is_zipfile(archive):
            _unzip(archive, staging)
        elif archive.suffix == ".gz":
            with gzip.open(archive) as source, (staging / archive.stem).open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        else:
            raise DataError(
                f"{archive} is not a tar, zip or gz archive; it may be a page that says why the file was not given."
            )
        _merge(staging, folder)
    except DataError:
        raise
    except _UNSAFE as error:
        raise DataError(f"{archive} is not safe to unpack: {error}. Nothing was unpacked.") from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}. Delete it and fetch it again.") from None
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _UnsafeError(Exception):
    pass


_UNSAFE: tuple[type[Exception], ...] = (_UnsafeError, *([tarfile.FilterError] if hasattr(tarfile, "FilterError") else []))


def _untar(tar: tarfile.TarFile, folder: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
        return
    # Python 3.11 has the filter from 3.11.4 on, and Debian 12 an earlier one. Stricter: no links at all.
    for member in tar:
        member.name = member.name.lstrip("/")
        if not (member.isreg() or member.isdir()):
            raise _UnsafeError(f"{member.name!r} is a link or a device")
        if not (folder / member.name).resolve().is_relative_to(folder.resolve()):
            raise _UnsafeError(f"{member.name!r} would be extracted outside the destination")
        tar.extract(member, folder, set_attrs=False)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if (
                not parts
                or ".." in parts
                or parts[0].startswith("/")
                or ":" in parts[0]
                or stat.S_ISLNK(member.external_attr >> 16)
            ):
                raise DataError(
                    f"{archive} is not safe to unpack: {member.filename!r} would leave the folder. Nothing was unpacked."
                )
        file.extractall(folder)


def _merge(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            place.mkdir(exist_ok=True)
            _merge(entry, place)
        else:
            entry.replace(place)


def fetch_all(manifest: Manifest, progress: Callable[[Download], Progress], folder: Path | None = None) -> None:
    """Download and unpack what a data set still lacks.

    Args:
        progress: makes the progress of one download.

    Raises:
        DataError: see :func:`fetch` and :func:`unpack`.
    """
    folder = root() if folder is None else folder
    for download in manifest.downloads:
        if download.gives and all(File(path).at(folder).is_file() for path in download.gives):
            continue
        target = File(download.path).at(folder)
        fetch(download.url, target, download.checksum, progress=progress(download))
        if download.unpack is not None:
            unpack(target, folder / download.unpack)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
