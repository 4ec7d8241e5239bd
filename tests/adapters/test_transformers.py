"""The Transformers callback, decay groups and names with the real Trainer, on a tiny model made from its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pliant

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from pliant.adapters.transformers import PliantCallback, register, without_decay  # noqa: E402

# What Transformers and Accelerate warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(act: str) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, hidden_act=act
    )
    return transformers.BertForSequenceClassification(config)


class Data(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": torch.arange(6) + i % 20, "labels": i % 2}


def trainer_of(model: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    defaults = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "weight_decay": 0.1, "save_strategy": "no"}
    args = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **{**defaults, **options}
    )
    return transformers.Trainer(model=model, args=args, train_dataset=Data(), callbacks=list(callbacks))


def decayed(trainer: Any) -> set[str]:
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    assert sum(len(g["params"]) for g in groups) == len(names)
    return {names[id(p)] for g in groups if g["weight_decay"] > 0 for p in g["params"]}


@pytest.mark.parametrize("act", ["arelu", "pelu", "prelu", "swish", "asigmoid"])
def test_the_trainer_decays_no_coefficient(act: str, tmp_path: Path) -> None:
    register()
    model = tiny(f"pliant.{act}")
    coefficients = {
        f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, pliant.Activation) for p, _ in m.named_parameters()
    }
    assert len(coefficients) >= 2
    # Left to itself it decays them all.
    assert coefficients <= decayed(trainer_of(model, tmp_path))
    weights = decayed(trainer_of(model, tmp_path)) - coefficients
    assert decayed(without_decay(trainer_of(model, tmp_path))) == weights


def test_decay_does_not_move_a_coefficient_in_training(tmp_path: Path) -> None:
    register()
    model = tiny("pliant.arelu")
    for p in model.parameters():
        p.register_hook(torch.zeros_like)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    without_decay(trainer_of(model, tmp_path, weight_decay=0.5, learning_rate=0.1)).train()
    after = dict(model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved
    assert not {n for n in moved if "act_fn" in n}


def test_it_must_come_before_the_optimizer(tmp_path: Path) -> None:
    trainer = trainer_of(tiny("relu"), tmp_path)
    trainer.create_optimizer()
    with pytest.raises(pliant.DomainError, match="before train"):
        without_decay(trainer)


def test_the_clock_counts_optimizer_steps_and_resumes(tmp_path: Path) -> None:
    register("dsrelu[slope=linear(2,1)]")
    callback = PliantCallback(observe={"every": 2})
    model = tiny("pliant.dsrelu[slope=linear(2,1)]")
    acts = [m for m in model.modules() if isinstance(m, pliant.DSReLU)]
    trainer = trainer_of(
        model, tmp_path, callback, gradient_accumulation_steps=3, save_strategy="steps", save_steps=3, num_train_epochs=2
    )
    trainer.train()
    # 24 examples in batches of 4, three to a step: 2 steps an epoch.
    assert [a.now() for a in acts] == [(4, 4, 2)] * 2
    assert [round(a.slope.item(), 3) for a in acts] == [1.0, 1.0]
    assert {r["step"] for r in callback.observer.rows} == {0, 2, 4}
    assert {"gradient", "coefficient.slope"} <= {r["quantity"] for r in callback.observer.rows}
    assert not any(m._forward_hooks for m in model.modules())

    again, callback = tiny("pliant.dsrelu[slope=linear(2,1)]"), PliantCallback(observe={"every": 1})
    trainer = trainer_of(again, tmp_path, callback, gradient_accumulation_steps=3, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    slopes = {r["step"]: round(r["value"], 3) for r in callback.observer.rows if r["quantity"] == "coefficient.slope"}
    assert slopes == {3: 1.25, 4: 1.0}


def test_names_in_a_config_survive_saving(tmp_path: Path) -> None:
    names = register()
    assert len(names) == 10
    assert "pliant.arelu" in names
    assert register("prelu[init=0.1]") == ["pliant.prelu[weight=learned(0.1)]"]
    assert isinstance(transformers.activations.ACT2FN["prelu"], nn.PReLU)
    model = tiny("pliant.arelu").eval()
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.intermediate_act_fn.b.fill_(0.3)
    model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    x = torch.arange(6)[None]
    assert torch.equal(model(x).logits, again(x).logits)


@pytest.mark.parametrize("act", ["arelu", "pelu", "dsrelu", "prelu"])
def test_a_checkpoint_without_our_coefficients_starts_them(act: str, tmp_path: Path) -> None:
    register()
    register()
    tiny("gelu").save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.hidden_act = f"pliant.{act}"
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path, config=config)
    fresh = pliant.create(act)
    acts = [m for m in model.modules() if isinstance(m, pliant.Activation)]
    assert len(acts) == 2
    for module in acts:
        for name, value in fresh.state_dict().items():
            assert torch.equal(module.state_dict()[name], value), name
