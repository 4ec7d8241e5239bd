"""What a backbone starts from: nothing, a file, or torchvision's weights of ImageNet."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant.errors import PliantError

__all__ = ["RANDOM", "Origin", "WeightsError", "load_backbone"]

_CLASSIFIER = ("fc.", "classifier.")


class WeightsError(PliantError, ValueError):
    """Weights of a backbone that cannot be had, or are those of another network."""


@dataclass(frozen=True)
class Origin:
    """Where the weights of a backbone are from.

    Args:
        source: "random", the name of the user's file, or torchvision's name of the weights.
        sha256: of the file; empty for random weights.
    """

    source: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.source} (sha256 {self.sha256})" if self.sha256 else self.source


RANDOM = Origin("random")


def load_backbone(network: nn.Module, name: str, weights: str) -> Origin:
    """Fill a backbone, in place.

    Args:
        network: takes the tensors; those of a classifier (fc.*, classifier.*) in the file are passed over.
        name: of the network, as torchvision has it.
        weights: "" leaves it as it is. "torchvision" takes torchvision's weights of ImageNet (IMAGENET1K_V1, from which its
            detectors were trained), from the cache of torch.hub or the network. Else a file: a state_dict, as torch.save or
            safetensors wrote it.

    Raises:
        WeightsError: torchvision has none or they cannot be fetched; the file is missing, is no state_dict, or has other
            tensors.
    """
    if not weights:
        return RANDOM
    path, source = _official(name) if weights == "torchvision" else (Path(weights).expanduser(), Path(weights).name)
    state = {k: v for k, v in _read(path).items() if not k.startswith(_CLASSIFIER)}
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"The weights {source} do not fit {name}: {error}") from error
    # A count of batches is in files of newer versions of torch only, and a frozen normalisation has none.
    lacking = [k for k in result.missing_keys if not k.startswith(_CLASSIFIER) and not k.endswith("num_batches_tracked")]
    extra = [k for k in result.unexpected_keys if not k.endswith("num_batches_tracked")]
    if lacking or extra:
        raise WeightsError(
            f"The weights {source} are of another network than {name}: {len(lacking)} tensors are lacking ({_some(lacking)}) "
            f"and {len(extra)} have no place ({_some(extra)}). Give the state_dict of a {name}, with its names."
        )
    return Origin(source, _sha256(path))


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f'There is no file of weights {path}. Give the path of a state_dict, "torchvision" for its official weights, or "" '
            "for random ones."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"The file of weights {path} cannot be read: {error}") from error
    except Exception as error:
        # safetensors' own error has no base but Exception.
        if type(error).__name__ != "SafetensorError":
            raise
        raise WeightsError(f"The file of weights {path} cannot be read: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"The file of weights {path} holds no state_dict: expected tensors by name, as "
            "torch.save(network.state_dict(), path) writes them."
        )
    return state


def _official(name: str) -> tuple[Path, str]:
    import torchvision

    try:
        entry = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    except (ValueError, KeyError):
        raise WeightsError(f'torchvision has no weights of {name}. Give a file, or "" for random weights.') from None
    path = Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])
    try:
        torch.hub.load_state_dict_from_url(entry.url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision's weights of {name} could not be fetched from {entry.url}: {error}. Fetch the file on a machine with "
            f"a network and give its path as weights, or put it at {path}."
        ) from error
    return path, f"torchvision {name} IMAGENET1K_V1"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
