from __future__ import annotations

import math

import pytest

from pliant.lab import curves

COURSE = {
    "steps_per_epoch": 10,
    "train_loss": [4.0, 2.0, 1.0, 1.0],
    "train_accuracy": [0.2, 0.4, 0.8, 0.7],
    "validation_accuracy": [0.3, 0.5, 0.6, 0.55],
    "seconds": [2.0, 1.0, 1.0, 3.0],
}


def test_areas_by_hand() -> None:
    # Trapezoids of mean heights 3, 1.5 and 1, one epoch wide; 1, 1 and 3 seconds wide.
    assert curves.areas(COURSE) == {
        "loss_area_epochs": pytest.approx(5.5),
        "loss_area_steps": pytest.approx(55.0),
        "loss_area_seconds": pytest.approx(3 + 1.5 + 3),
    }


def test_restlessness_of_the_last_epochs() -> None:
    # Whatever was before the last fifteen; 0 and 2 in turns have mean square 1 around their mean, which is 1/15 off 1.
    course = {**COURSE, "validation_loss": [100.0, 50.0] + [0.0, 2.0] * 7 + [0.0]}
    found = curves.late_spread(course)["validation_loss_late_sd"]
    assert found == pytest.approx(math.sqrt((7 * (2 - 14 / 15) ** 2 + 8 * (14 / 15) ** 2) / 14))
    assert curves.late_spread({**course, "validation_loss": [1.0] * 14}) == {"validation_loss_late_sd": None}
    assert curves.late_spread({**course, "validation_loss": [1.0] * 16 + [None]}) == {"validation_loss_late_sd": None}


def test_a_loss_that_was_not_finite_has_no_area() -> None:
    broken = {**COURSE, "train_loss": [4.0, 2.0, None, 1.0]}
    assert all(math.isnan(v) for v in curves.areas(broken).values())


def test_time_to_a_threshold() -> None:
    assert curves.times_to(COURSE, 0.5) == {"epochs_to_0.5": 2.0, "steps_to_0.5": 20.0, "seconds_to_0.5": 3.0}
    assert set(curves.times_to(COURSE, 0.61).values()) == {None}


def test_validation_accuracy_at_equal_train_accuracy() -> None:
    assert curves.crossing(COURSE, 0.5) == pytest.approx(0.5 + 0.25 * 0.1)
    # The first crossing counts, also where the curve comes down again; before the first epoch nothing is known.
    assert curves.crossing(COURSE, 0.75) == pytest.approx(0.5 + 0.35 / 0.4 * 0.1)
    assert curves.crossing(COURSE, 0.1) == 0.3
    assert curves.crossing(COURSE, 0.9) is None
    assert curves.gap_at(COURSE, 0.5) == pytest.approx(0.5 - 0.525)
    assert curves.gap_at(COURSE, None) is None


def test_the_level_is_one_that_all_reached() -> None:
    other = {**COURSE, "train_accuracy": [0.1, 0.3, 0.5, 0.6]}
    assert curves.matched_level([COURSE, other]) == 0.6
    assert curves.matched_level([]) is None
    # What an evaluation pass found goes before what ran along.
    assert curves.matched_level([{**COURSE, "evaluated_train_accuracy": [0.3, 0.5, 0.9, 0.8]}]) == 0.9
