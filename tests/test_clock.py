"""The clock: who moves, in which unit, where it goes on from after a checkpoint, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pliant import AReLU, Clock, DomainError, DSReLU, Linear, Logistic, Scheduled, SReLU, Swish


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), DSReLU.released(), nn.Linear(4, 4), DSReLU.released(), nn.Linear(4, 1))


def _slope(model: nn.Module, place: int = 1) -> float:
    return float(model.get_submodule(str(place)).slope)


def _run(clock: Clock, steps: int) -> None:
    for _ in range(steps):
        clock.step()


RELEASED = DSReLU.released().kinds["slope"].schedule


def test_every_site_follows_one_progress() -> None:
    model = _model()
    clock = Clock(model, 10)
    assert len(clock) == 2
    for step in range(1, 11):
        clock.step()
        assert clock.progress == step / 10
        assert _slope(model, 1) == _slope(model, 3) == pytest.approx(RELEASED(step / 10), rel=1e-6)
        assert model[1].progress.tolist() == model[3].progress.tolist() == [step, 10, 0]


def test_without_a_clock_it_stays_at_progress_0() -> None:
    model = _model()
    model(torch.randn(3, 2))
    assert _slope(model) == pytest.approx(RELEASED(0.0), rel=1e-6)
    assert model[1].progress.tolist() == [0, 0, 0]


def test_different_schedules_share_one_clock() -> None:
    model = nn.Sequential(DSReLU(Scheduled(Linear(2.0, 1.0))), nn.Linear(2, 2), Swish(Scheduled(Linear(1.0, 3.0))))
    _run(Clock(model, 4), 1)
    assert model[0].slope.item() == 1.75
    assert model[2].beta.item() == 1.5


def test_an_activation_used_twice_is_moved_once() -> None:
    act = DSReLU()
    clock = Clock(nn.Sequential(act, nn.Linear(2, 2), act), 10)
    clock.step()
    assert len(clock) == 1
    assert act.progress.tolist() == [1, 10, 0]


def test_two_coefficients_of_one_activation() -> None:
    act = AReLU(a=Scheduled(Linear(1.0, 2.0)), b=Scheduled(Linear(0.0, 0.5)))
    _run(Clock(act, 2), 1)
    assert (act.a.item(), act.b.item()) == (1.5, 0.25)
    assert sorted(n for n, _ in act.named_parameters()) == ["c", "d"]


def test_past_the_end_it_stays_and_goes_on_counting() -> None:
    model = _model()
    clock = Clock(model, 3)
    _run(clock, 3)
    end = _slope(model)
    assert end == pytest.approx(RELEASED(1.0), rel=1e-6)
    _run(clock, 4)
    assert _slope(model) == end
    assert clock.progress == 1.0
    assert model[1].progress.tolist() == [7, 3, 0]


def test_a_part_of_a_model() -> None:
    model = _model()
    clock = Clock(model[:2], 10)
    _run(clock, 5)
    assert len(clock) == 1
    assert _slope(model, 1) == pytest.approx(RELEASED(0.5), rel=1e-6)
    assert _slope(model, 3) == pytest.approx(RELEASED(0.0), rel=1e-6)


def test_a_model_without_schedule_is_fine() -> None:
    for model in (nn.Linear(2, 2), SReLU(), nn.Sequential(nn.ReLU(), AReLU())):
        clock = Clock(model, 10)
        _run(clock, 3)
        assert len(clock) == 0
        assert clock.progress == 0.0
        assert repr(clock) == "Clock(activations=0, progress=0)"


def test_eval_neither_moves_nor_resets() -> None:
    model = _model()
    clock = Clock(model, 10)
    _run(clock, 4)
    before = _slope(model)
    model.eval()
    model(torch.randn(3, 2))
    assert _slope(model) == before
    model.train()
    assert _slope(model) == before
    assert model[1].progress.tolist() == [4, 10, 0]


# --- resuming ---------------------------------------------------------------------------------------------------------


def _checkpoint(total: int = 10, steps: int = 4) -> dict[str, Any]:
    model = _model()
    _run(Clock(model, total), steps)
    return copy.deepcopy(model.state_dict())


def test_a_state_dict_alone_restores_the_value() -> None:
    model = _model()
    model.load_state_dict(_checkpoint())
    assert _slope(model, 1) == _slope(model, 3) == pytest.approx(RELEASED(0.4), rel=1e-6)
    assert model[1].now() == (4, 10, 0)


def test_progress_decides_over_a_stored_value() -> None:
    # The bits in a checkpoint are for averages; a file in which they disagree with progress must not win.
    state = _checkpoint()
    state["1._slope_bits"].zero_()
    model = _model()
    model.load_state_dict(state)
    assert _slope(model) == pytest.approx(RELEASED(0.4), rel=1e-6)


@pytest.mark.parametrize("loaded_first", [True, False], ids=["clock after loading", "clock before loading"])
@pytest.mark.parametrize("total", [10, 20], ids=["same plan", "longer plan"])
def test_a_clock_goes_on_from_a_checkpoint(loaded_first: bool, total: int) -> None:
    state, model = _checkpoint(), _model()
    if loaded_first:
        model.load_state_dict(state)
        clock = Clock(model, total)
    else:
        clock = Clock(model, total)
        model.load_state_dict(state)
    assert clock.progress == 4 / total
    clock.step()
    assert clock.progress == 5 / total
    assert _slope(model, 1) == _slope(model, 3) == pytest.approx(RELEASED(5 / total), rel=1e-6)
    assert model[1].progress.tolist() == [5, total, 0]


def test_resumed_is_the_same_as_uninterrupted_at_every_step() -> None:
    whole, clock, slopes = _model(), None, []
    clock = Clock(whole, 12)
    for _ in range(12):
        clock.step()
        slopes.append(_slope(whole))
    for cut in range(12):
        model = _model()
        model.load_state_dict(_checkpoint(12, cut))
        clock = Clock(model, 12)
        resumed = []
        for _ in range(12 - cut):
            clock.step()
            resumed.append(_slope(model))
        assert resumed == slopes[cut:]


def test_reset_parameters_starts_again() -> None:
    model = _model()
    _run(Clock(model, 10), 4)
    for place in (1, 3):
        model[place].reset_parameters()
    assert _slope(model) == pytest.approx(RELEASED(0.0), rel=1e-6)
    assert Clock(model, 10).progress == 0.0


# --- averaged models --------------------------------------------------------------------------------------------------


def test_an_averaged_model_follows_exactly() -> None:
    model = _model()
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    clock = Clock(model, 10)
    for _ in range(10):
        clock.step()
        averaged.update_parameters(model)
    assert averaged.module[1].progress.tolist() == [10, 10, 0]
    assert _slope(averaged.module) == _slope(model)
    assert averaged.module[1].now() == (10, 10, 0)


def test_an_average_over_buffers_too_needs_the_clock() -> None:
    def train(both: bool) -> tuple[nn.Module, nn.Module]:
        model = _model()
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        clock = Clock(nn.ModuleList([model, averaged.module]) if both else model, 10)
        for _ in range(10):
            averaged.update_parameters(model)
            clock.step()
        return model, averaged.module

    model, averaged = train(both=True)
    assert averaged[1].progress.tolist() == [10, 10, 0]
    assert _slope(averaged) == _slope(model)
    # The control: torch averages integers as well when it is told to average buffers.
    model, averaged = train(both=False)
    assert averaged[1].progress.tolist() != model[1].progress.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_blurs_neither_progress_nor_value(dtype: torch.dtype) -> None:
    model = _model()
    clock = Clock(model, 100_003)
    model[1].seek(77_777, 100_003, 0)
    model[3].seek(77_777, 100_003, 0)
    before = _slope(model)
    model.to(dtype)
    assert model[1].progress.tolist() == [77_777, 100_003, 0]
    assert _slope(model) == before
    clock.step()
    assert _slope(model) == pytest.approx(RELEASED(77_778 / 100_003), rel=1e-6)


# --- units ------------------------------------------------------------------------------------------------------------


def test_epochs_run_on_without_a_bound() -> None:
    act = DSReLU.figure(unit="epochs")
    clock = Clock(act, 8, steps_per_epoch=4)
    path = act.kinds["slope"].schedule
    for step in range(1, 21):
        clock.step()
        assert act.slope.item() == pytest.approx(path(step / 4), rel=1e-6)
    assert clock.progress == 1.0
    assert act.slope.item() == pytest.approx(path.end, rel=1e-6)


# batches, epochs, constants, s in epoch 1, s in the last epoch, s of the blocks, as printed in the forensics.
TRAJECTORIES = [
    ("released", 1275, 91, 3.49187, 3.40089, 3.49274),
    ("artifact", 1275, 91, 5.63484, 5.59796, 5.63512),
    ("released", 625, 44, 3.49097, 3.40233, 3.49274),
    ("artifact", 625, 44, 5.63454, 5.59866, 5.63512),
    ("released", 1095, 56, 3.49173, 3.42970, 3.49274),
]


@pytest.mark.parametrize(("variant", "batches", "epochs", "first", "last", "blocks"), TRAJECTORIES)
def test_released_stem(variant: str, batches: int, epochs: int, first: float, last: float, blocks: float) -> None:
    build = getattr(DSReLU, variant)
    model = nn.ModuleDict({"stem": build(unit="released"), "block": build(unit="released")})
    clock = Clock(model["stem"], batches * epochs, batches)
    # During the first epoch, from its first batch to its last ...
    for _ in range(batches):
        assert model["stem"].slope.item() == pytest.approx(first, abs=5.1e-6)
        clock.step()
    assert model["stem"].slope.item() < first - 1e-5
    # ... and during the last.
    for step in (batches * (epochs - 1), batches * epochs - 1):
        model["stem"].seek(step, batches * epochs, batches)
        assert model["stem"].slope.item() == pytest.approx(last, abs=5.1e-6)
    assert model["block"].slope.item() == pytest.approx(blocks, abs=5.1e-6)


def test_units_from_integers() -> None:
    fraction, epochs, released = (Scheduled(Logistic(2.0, 1.0), unit) for unit in ("fraction", "epochs", "released"))
    assert [fraction.time(s, 10, 0) for s in (0, 5, 10, 11)] == [0.0, 0.5, 1.0, 1.0]
    assert fraction.time(5, 0, 0) == 0.0
    assert [epochs.time(s, 10, 4) for s in (0, 2, 4, 40)] == [0.0, 0.5, 1.0, 10.0]
    assert [released.time(s, 10, 4) for s in (0, 3, 4, 40)] == [0.25, 0.25, 0.5, 2.75]
    assert epochs.time(5, 10, 0) == released.time(5, 10, 0) == 0.0


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_steps": 0}, "total_steps=0"),
        ({"total_steps": -3}, "total_steps=-3"),
        ({"total_steps": 2.5}, "total_steps=2.5"),
        ({"total_steps": True}, "total_steps=True"),
        ({"total_steps": 10, "steps_per_epoch": 0}, "steps_per_epoch=0"),
    ],
)
def test_counts_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DomainError, match=words):
        Clock(_model(), **options)


@pytest.mark.parametrize("unit", ["epochs", "released"])
def test_a_unit_that_needs_the_length_of_an_epoch(unit: Any) -> None:
    with pytest.raises(DomainError, match=r"DSReLU\.slope is scheduled in units of .*pass steps_per_epoch"):
        Clock(DSReLU.released(unit=unit), 10)


def test_activations_at_different_steps() -> None:
    model = _model()
    _run(Clock(model[:2], 10), 3)
    with pytest.raises(DomainError, match=r"different steps \[0, 3\]"):
        Clock(model, 10)


def test_a_schedule_that_leaves_its_domain_past_the_first_epoch() -> None:
    with pytest.warns(UserWarning, match="passes 1"):
        act = DSReLU.logistic(2.0, -0.1, unit="epochs")
    clock = Clock(act, 10, steps_per_epoch=1)
    clock.step()
    with pytest.raises(DomainError, match="must be a number > 0 wherever it is driven"):
        _run(clock, 9)


def test_repr() -> None:
    clock = Clock(_model(), 8)
    _run(clock, 2)
    assert repr(clock) == "Clock(activations=2, progress=0.25)"
    assert "step=2/8" in repr(clock._activations[0])
