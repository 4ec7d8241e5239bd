"""The processes that train one network together: who has which share of a batch, and how they agree.

Every process holds all examples and draws the same order of them, so that nothing but gradients, sums and logits has to
travel. The shares of a batch are neighbouring rows; together they are the batch that a single process would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "Ranks"]

_LEAST = 2
"""Examples that a process is shown at least: the statistics of a batch need two."""


@dataclass(frozen=True)
class Ranks:
    """One process among ``size`` that a process group connects; alone it needs none.

    Args:
        rank: the number of this process, from 0. size: how many there are.
        device: where this process trains; None for whatever a single process takes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    def own(self, part: slice) -> slice:
        """The rows of a batch that are this process's: the batch in ``size`` pieces that differ by one row at most."""
        n = part.stop - part.start
        return slice(part.start + n * self.rank // self.size, part.start + n * (self.rank + 1) // self.size)

    def share(self, part: slice) -> tuple[slice, slice]:
        """The rows that this process's network is shown, and where among them its own are.

        A short last batch can leave a process less than two rows, or none; it then sees neighbouring ones as well, which count
        for nothing but the statistics of batch normalisation.
        """
        if self.size == 1:
            return part, slice(0, part.stop - part.start)
        own = self.own(part)
        start = max(part.start, min(own.start, part.stop - _LEAST))
        return slice(start, min(part.stop, max(own.stop, start + _LEAST))), slice(own.start - start, own.stop - start)

    def averaging(self, network: nn.Module) -> nn.Module:
        """``network`` in torch's DistributedDataParallel, which averages gradients over the processes while they come."""
        return nn.parallel.DistributedDataParallel(network)

    @torch.no_grad()
    def agree(self, network: nn.Module) -> None:
        """Give every process the buffers of the first one, as DistributedDataParallel does before each step: after the last one
        the running statistics of batch normalisation would still be each process's own."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def assemble(self, values: Tensor, places: slice | Tensor, n: int) -> Tensor:
        """The rows of all processes as one tensor, the same bits everywhere.

        Args:
            values: this process's rows, shape (m, ...). places: where they belong, m numbers below ``n``. n: rows in all.
        """
        whole = values.new_zeros(n, *values.shape[1:])
        whole[places.to(values.device) if isinstance(places, Tensor) else places] = values
        # Each place gets one value and zeros, so the sum changes no bit.
        return self.add(whole)


ALONE = Ranks()
