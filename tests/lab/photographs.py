"""A small detection data set: bright squares and dark discs on noise, as files, with everything official sets hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from pliant.lab.datasets import Detection
from pliant.lab.datasets.detection import Objects

CLASSES = ("square", "disc")
ROUGH = (
    ((-10.0, 40.0, 20.0, 90.0), 0, False),
    ((70.0, 70.0, 80.0, 80.0), 0, False),
    ((30.0, 30.0, 30.0, 44.0), 1, False),
    ((0.0, 0.0, 64.0, 32.0), 1, True),
)
"""Box, class and whether it is a crowd: partly and wholly outside a 64 x 64 image, without area, around many objects."""


def painted(folder: Path, images: int = 12, side: int = 64, seed: int = 0, *, rough: bool = False) -> Detection:
    """Image i has i % 4 objects, so some have none. The last two images of every six are the test part, the one before them
    validation. One object is difficult, one image is grey, one is CMYK. ``rough`` adds to each image with three objects what
    ``ROUGH`` holds."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    rows, columns = np.mgrid[:side, :side]
    for i in range(images):
        pixels = rng.integers(90, 140, (side, side, 3))
        boxes, labels = [], []
        for k in range(i % 4):
            size = int(rng.integers(side // 4, side // 2))
            left, top = (int(v) for v in rng.integers(0, side - size, 2))
            label = (i + k) % 2
            inside = (columns >= left) & (columns < left + size) & (rows >= top) & (rows < top + size)
            if label:
                inside &= (columns - left - size / 2) ** 2 + (rows - top - size / 2) ** 2 < (size / 2) ** 2
            pixels[inside] = 20 if label else 235
            boxes.append((float(left), float(top), float(left + size), float(top + size)))
            labels.append(label)
        path = folder / f"{i:03}.jpg"
        picture = PIL.Image.fromarray(pixels.astype(np.uint8))
        picture.convert({1: "L", 2: "CMYK"}.get(i, "RGB")).save(path, quality=95)
        part = (0, 0, 0, 1, 2, 2)[i % 6]
        difficult = [i == 10 and k == 1 for k in range(len(labels))]
        more = ROUGH if rough and i % 4 == 3 else ()
        boxes += [box for box, _, _ in more]
        labels += [label for _, label, _ in more]
        difficult += [False] * len(more)
        crowd = [False] * (len(labels) - len(more)) + [of_many for _, _, of_many in more]
        listed.append(Objects(f"{i:03}", path, (side, side), boxes, labels, difficult, crowd, None, part))
    return Detection.of(listed, CLASSES, (1, 2), "painted")
