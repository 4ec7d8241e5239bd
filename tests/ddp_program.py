"""What test_ddp.py starts under torchrun: a user's own training on two processes, with Pliant's activations in it."""

from __future__ import annotations

import copy
import json

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import pliant
from pliant import AReLU, DSReLU, Learned, PReLU, SReLU

STEPS = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 9),
        AReLU(),
        nn.Linear(9, 8),
        DSReLU(),
        nn.Linear(8, 8),
        SReLU(beta=Learned(0.25)),
        nn.Linear(8, 5),
        PReLU(weight=Learned((0.1, 0.2, 0.3, 0.4, 0.5))),
        nn.Linear(5, 1),
    )


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(100 * step + rank))
    return x, x.sin().sum(1, keepdim=True)


def trained(model: nn.Module, forward: nn.Module, ranks: list[int]) -> list[float]:
    """Train on the batches of ``ranks``; the progress of the schedules after each step."""
    optimizer = torch.optim.SGD(pliant.param_groups(model, weight_decay=1e-2), lr=0.05, momentum=0.9)
    clock = pliant.Clock(model, STEPS)
    seen = []
    for step in range(STEPS):
        x, y = (torch.cat(parts) for parts in zip(*(batch(step, r) for r in ranks), strict=True))
        optimizer.zero_grad()
        nn.functional.mse_loss(forward(x), y).backward()
        optimizer.step()
        clock.step()
        seen.append(clock.progress)
    return seen


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach()


def same_everywhere(model: nn.Module) -> bool:
    for value in (*model.parameters(), *model.buffers()):
        mine = whole(value).contiguous()
        found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(found, mine)
        if not all(torch.equal(f, mine) for f in found):
            return False
    return True


def distance(one: nn.Module, two: nn.Module) -> float:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return max(0.0 if name != other else float((whole(a) - whole(b)).abs().max()) for (name, a), (other, b) in pairs)


def main() -> None:
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    rank, everyone = dist.get_rank(), list(range(dist.get_world_size()))
    start = network()
    alone = copy.deepcopy(start)
    trained(alone, alone, everyone)

    averaged = copy.deepcopy(start)
    # Its default: a parameter that takes no part in the loss is an error at the second step.
    progress = trained(averaged, nn.parallel.DistributedDataParallel(averaged), [rank])

    sharded = copy.deepcopy(start)
    mesh = init_device_mesh("cpu", (len(everyone),))
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    shapes = {name: list(p.shape) for name, p in sharded.named_parameters()}
    trained(sharded, sharded, [rank])
    found = {
        "progress": progress,
        "ddp_same": same_everywhere(averaged),
        "ddp_distance": distance(alone, averaged),
        "moved": {n: float((p - dict(start.named_parameters())[n]).abs().max()) for n, p in averaged.named_parameters()},
        "fsdp_sharded": all(isinstance(p, DTensor) for p in sharded.parameters()),
        "fsdp_same": same_everywhere(sharded),
        "fsdp_distance": distance(alone, sharded),
        "shapes": shapes,
    }
    if rank == 0:
        print("FOUND" + json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
