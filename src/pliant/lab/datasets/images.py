"""Image files as one array of bytes, decoded once and kept."""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pliant.lab.datasets.arrays import DataError
from pliant.lab.datasets.files import root

__all__ = ["EXTENSIONS", "decode", "decoded"]

EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_DECODING: Final = 1
"""Bumped by hand when the same files give other pixels; part of the name of every cache file."""


def decode(path: Path, size: int = 0) -> NDArray[np.uint8]:
    """An image file as RGB, uint8, shape (3, H, W).

    Args:
        size: side in pixels to resize to, without regard to the aspect ratio, bilinear and antialiased as torchvision's
            ``Resize`` does with Pillow images; 0 leaves the image as it is.

    Raises:
        DataError: the file is missing or no image; the message names it.
    """
    try:
        with warnings.catch_warnings():
            # A decompression bomb is refused, not announced.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                rgb = image.convert("RGB")
        if size and rgb.size != (size, size):
            rgb = rgb.resize((size, size), PIL.Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise DataError(f"The image {path} is missing.") from None
    # Pillow reports a damaged file by whatever its decoder stumbled over.
    except Exception as error:
        raise DataError(f"The image {path} cannot be read: {error}. It is damaged or not an image; replace it.") from None
    return np.asarray(rgb).transpose(2, 0, 1)


def decoded(
    paths: Sequence[Path], size: int, name: str, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> NDArray[np.uint8]:
    """Image files as one read-only array, uint8, shape (n, 3, size, size), mapped from a cache file below ``.cache``.

    The cache is found by the name, length and time of change of every image, the size and the version of the decoder: images
    that were changed are decoded again, and reading 60,000 unchanged ones costs their directory entries only.

    Args:
        size: as for :func:`decode`; 0 expects images that are all of the first one's shape.

    Raises:
        DataError: an image is missing, damaged, or of another shape than the first.
    """
    identity = hashlib.sha256(f"{_DECODING} {size}".encode())
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            raise DataError(f"The image {path} is missing.") from None
        identity.update(f"\0{path.parent.name}/{path.name}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    first = decode(paths[0], size)
    shape = (len(paths), *first.shape)
    cache = root() / ".cache" / f"{name}-{size}-{identity.hexdigest()[:24]}.npy"
    kept = _kept(cache, shape)
    if kept is not None:
        return kept
    temporary = cache.with_name(f".{cache.name}.{secrets.token_hex(4)}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        _fill(temporary, paths, size, first.shape, progress)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(cache)
    except OSError as error:
        raise DataError(f"The decoded images cannot be kept at {cache}: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    result = _kept(cache, shape)
    if result is None:
        raise DataError(f"{cache} was changed while it was written; try again.")
    return result


def _fill(target: Path, paths: Sequence[Path], size: int, shape: tuple[int, ...], progress: Callable[[int, int], None]) -> None:
    every = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(paths), *shape))

    def put(i: int) -> None:
        image = decode(paths[i], size)
        if image.shape != shape:
            raise DataError(
                f"The image {paths[i]} has {image.shape[2]} x {image.shape[1]} pixels, but {paths[0]} has {shape[2]} x "
                f"{shape[1]}. Give the option size, the side in pixels that all are resized to."
            )
        every[i] = image

    # Pillow decodes without the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done, _ in enumerate(pool.map(put, range(len(paths))), 1):
                if done % 1000 == 0 or done == len(paths):
                    progress(done, len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    every.flush()


def _kept(cache: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        found: NDArray[np.uint8] = np.load(cache, mmap_mode="r", allow_pickle=False)
    # A cache that cannot be read is made again.
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None
