"""What batch normalisation is evaluated with: running averages, as in torch; recomputed ones; or statistics of each batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pliant.lab.ranks import ALONE, Ranks

__all__ = ["layers", "of_the_batch", "recompute"]


def layers(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of a network, of any dimension."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]


@contextlib.contextmanager
def of_the_batch(network: nn.Module) -> Iterator[None]:
    """Evaluate with the statistics of each batch; averages are neither used nor changed. ``network`` is in evaluation mode."""
    norms = layers(network)
    tracked = [m.track_running_stats for m in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, was in zip(norms, tracked, strict=True):
            norm.training, norm.track_running_stats = False, was


@torch.no_grad()
def recompute(network: nn.Module, shown: Iterable[Tensor], ranks: Ranks = ALONE) -> None:
    """Replace the running averages by plain means over ``shown``, with the weights and slopes as they are now.

    Running averages hold the last few dozen steps. Where what they average has moved since, as behind a scheduled slope, the
    network is evaluated with the statistics of another network; these are its own. As ``torch.optim.swa_utils.update_bn``, but
    for dropout and the like, which stay in evaluation mode: so will they be when the averages are used.

    Args:
        network: left in evaluation mode.
        shown: batches of what the network was fitted on, two examples or more each, in any order but by class.
        ranks: processes that see a share of each batch each; all end with the mean of theirs.
    """
    norms = [m for m in layers(network) if m.track_running_stats]
    momenta = [m.momentum for m in norms]
    network.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None
        for x in shown:
            network(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = False, momentum
    if ranks.size > 1:
        for norm in norms:
            for average in (norm.running_mean, norm.running_var):
                assert average is not None
                ranks.add(average).div_(ranks.size)
