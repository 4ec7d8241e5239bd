"""The real data sets that come with scikit-learn: WDBC and the 8 x 8 digits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import sklearn.datasets

from pliant.lab.datasets.arrays import Data, DataError
from pliant.lab.datasets.files import Manifest

__all__ = ["WDBC", "Digits"]


def _verified(data: Data, name: str, expected: str) -> Data:
    found = data.fingerprint()
    if found != expected:
        raise DataError(
            f"The installed scikit-learn brings other {name} data than this version of Pliant knows (sha256 {found[:12]}, "
            f"expected {expected[:12]}), so results would not be comparable. Install a scikit-learn release from 1.5 on."
        )
    return data


class WDBC:
    """Wisconsin diagnostic breast cancer: 569 samples (357 benign, 212 malignant), 30 features, positive = malignant."""

    name: ClassVar = "wdbc"
    version: ClassVar = 1
    source: ClassVar = "UCI, through scikit-learn; Wolberg et al. (1993)"
    sha256: ClassVar = "d6d28b6525c8fe6bae3a98c88de42c7df4efc4509bff9b1cff53e04859df449c"

    @classmethod
    def files(cls) -> Manifest:
        return Manifest()

    @classmethod
    def load(cls) -> Data:
        bunch = sklearn.datasets.load_breast_cancer()
        # scikit-learn numbers malignant 0; class 1 is the positive one here, and the paper's positive class is malignant.
        data = Data.of(np.float32(bunch.data), 1 - bunch.target, ("benign", "malignant"), cls.name)
        return _verified(data, cls.name, cls.sha256)


class Digits:
    """Handwritten digits, 8 x 8 pixels in 17 grey levels, scaled to [0, 1]: 1,797 samples, 10 classes, shape (1, 8, 8)."""

    name: ClassVar = "digits"
    version: ClassVar = 1
    source: ClassVar = "UCI, through scikit-learn; Alpaydin & Kaynak (1998)"
    sha256: ClassVar = "1f9d523ac07e51607b3a82f566b0b9fd64b3d082c8523558b00cf4412c3f119c"

    @classmethod
    def files(cls) -> Manifest:
        return Manifest()

    @classmethod
    def load(cls) -> Data:
        bunch = sklearn.datasets.load_digits()
        data = Data.of(np.float32(bunch.images[:, None]) / 16, bunch.target, name=cls.name)
        return _verified(data, cls.name, cls.sha256)
