"""The Lightning callback with the real Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pliant

pl = pytest.importorskip("lightning.pytorch")
from pliant.adapters.lightning import PliantCallback  # noqa: E402

# What Lightning warns of - few workers, no logger - is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), pliant.DSReLU(pliant.Scheduled(pliant.Linear(2.0, 1.0))), nn.Linear(8, 1))
        self.slopes: list[float] = []

    def training_step(self, batch: Any, _: int) -> Any:
        self.slopes.append(round(self.net[1].slope.item(), 4))
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(pliant.param_groups(self), lr=0.01)


def fit(net: Net, callback: PliantCallback, folder: Path, ckpt: str | None = None, **options: Any) -> Any:
    data = DataLoader(TensorDataset(torch.randn(40, 4)), batch_size=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(default_root_dir=folder, accelerator="cpu", callbacks=[callback], **{**quiet, **options})
    trainer.fit(net, data, ckpt_path=ckpt)
    return trainer


def test_one_step_per_optimizer_step(tmp_path: Path) -> None:
    net, callback = Net(), PliantCallback()
    fit(net, callback, tmp_path, max_epochs=2, enable_checkpointing=False)
    assert net.slopes == [round(2 - i / 20, 4) for i in range(20)]
    assert net.net[1].now() == (20, 20, 10)


def test_gradient_accumulation(tmp_path: Path) -> None:
    net, callback = Net(), PliantCallback()
    fit(net, callback, tmp_path, max_epochs=2, accumulate_grad_batches=4, enable_checkpointing=False)
    # 10 batches an epoch in steps of 4, 4 and 2.
    assert net.net[1].now() == (6, 6, 3)
    assert net.slopes[:5] == [2.0] * 4 + [round(2 - 1 / 6, 4)]


def test_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    net = Net()
    trainer = fit(net, PliantCallback(), tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other, callback = Net(), PliantCallback(observe={"every": 5})
    fit(other, callback, tmp_path, ckpt=str(tmp_path / "one.ckpt"), max_epochs=2, enable_checkpointing=False)
    assert other.slopes == [round(2 - i / 20, 4) for i in range(10, 20)]
    assert {r["step"] for r in callback.observer.rows} == {10, 15, 20}


def test_observes_into_the_logger_and_leaves_nothing(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    net, callback = Net(), PliantCallback(observe={"every": 5})
    fit(net, callback, tmp_path, max_epochs=1, logger=logger, enable_checkpointing=False)
    assert {r["quantity"] for r in callback.observer.rows if r["step"] == 10} >= {
        "coefficient.slope",
        "fraction.positive",
        "units.dead",
        "gradient",
    }
    assert "net.1/fraction.positive" in (Path(logger.log_dir) / "metrics.csv").read_text()
    assert not net.net[1]._forward_hooks


def test_without_an_end_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(pliant.DomainError, match="total_steps"):
        fit(Net(), PliantCallback(), tmp_path, max_epochs=-1, enable_checkpointing=False)


def test_an_exception_leaves_no_hooks(tmp_path: Path) -> None:
    class Fails(Net):
        def training_step(self, batch: Any, i: int) -> Any:
            if i == 3:
                raise RuntimeError("three")
            return super().training_step(batch, i)

    net, callback = Fails(), PliantCallback(observe={})
    with pytest.raises(RuntimeError, match="three"):
        fit(net, callback, tmp_path, max_epochs=1, enable_checkpointing=False)
    assert callback.observer is not None
    assert not net.net[1]._forward_hooks
