"""DSReLU: a slope on the positive side that follows training progress."""

from __future__ import annotations

import math
import warnings
from typing import Literal, Self, final

import torch
from torch import Tensor

from pliant.activation import Activation
from pliant.coefficients import POSITIVE, Coefficient, Fixed, Scheduled, TimeUnit
from pliant.elementwise import elementwise
from pliant.schedules import Logistic


def _input(y: Tensor, slope: float | Tensor) -> Tensor:
    return torch.where(y > 0, y / slope, y)


@elementwise(kernel="dsrelu", inverse=_input, always_invertible=True)
def dsrelu(x: Tensor, slope: float | Tensor) -> Tensor:
    """``slope * x`` for x > 0, ``x`` otherwise, elementwise.

    df/dx = slope (x > 0) or 1 (x <= 0, which is the convention at the kink); df/dslope = max(x, 0). At a fixed slope s this
    is ``s * leaky_relu(x, 1/s)``, and the identity at s = 1.

    Args:
        x: any shape, floating point.
        slope: > 0; a number, or a tensor of shape (), (1,) or (C,).
    """
    return torch.where(x > 0, slope * x, x)


def _degrees(angle: float) -> float:
    return math.tan(math.radians(angle))


@final
class DSReLU(Activation):
    """Dynamic-slope ReLU: ``slope * x`` for x > 0 and ``x`` otherwise, where the slope follows training progress.

    Called DSReLU in the paper that defined it, which expands the name both as dynamic slope and as "dynamic smooth";
    nothing is smooth at 0. It is not Dynamic ReLU (Chen et al. 2020), whose slopes depend on the input.

    ``DSReLU()`` is the schedule as the paper prints it: logistic from tan 85 degrees to tan 10 degrees with steepness 5 over
    the planned steps. With these constants the slope runs from 10.58 to 1.03 and never comes near tan 10 degrees = 0.176:
    the network ends as an almost linear map. The paper, its figure and its released code disagree on the constants, so each
    set has a name:

    ==============  ==========  =========  =====  ===========================================================
    variant         start, end  steepness  s(t)   where it comes from
    ==============  ==========  =========  =====  ===========================================================
    ``paper``       85, 10 deg  5          10.58 -> 1.03   the text
    ``released``    75, 30 deg  5          3.49 -> 0.82    the notebooks
    ``artifact``    80, 15 deg  10         5.64 -> 0.30    the notebooks as of the commit that added the logs
    ``figure``      70, 35 deg  5          2.59 -> 0.86    figure 1
    ``constant``    -           -          3.49            what the released runs amount to: the slope never moved
    ==============  ==========  =========  =====  ===========================================================

    Drive the slope with :class:`pliant.Clock`; without a clock it stays at progress 0. Initial activations grow with the
    slope at every residual addition: expect a large first loss, and do not train the steep variants in float16. Batch
    normalisation evaluates with running averages, and those lag behind a slope that moves: while it moves fast, a network that
    fits its training batches may look untrained in evaluation. Recompute them before evaluating, by
    ``torch.optim.swa_utils.update_bn`` or, in a study, ``train.batch_norm = "recomputed"`` (docs/papers/dsrelu.md shows the
    difference).

    Args:
        slope: Scheduled, Fixed or Learned; > 0.

    Example:
        >>> act = DSReLU.released()
        >>> round(act.slope.item(), 4)
        3.4927

    Source: "DSReLU: A Novel Dynamic Slope Function for Superior Model Training" (2024), equations for f and s(t).
    """

    function = staticmethod(dsrelu)
    source = "DSReLU (2024)"
    aliases = ("dynamic_slope_relu",)
    variants = ("paper", "released", "artifact", "figure", "constant", "logistic")

    slope = Coefficient(Scheduled(Logistic(_degrees(85), _degrees(10), 5.0)), POSITIVE)

    @classmethod
    def logistic(
        cls,
        start: float,
        end: float,
        steepness: float = 5.0,
        *,
        endpoints: Literal["raw", "exact"] = "raw",
        unit: TimeUnit = "fraction",
    ) -> Self:
        """The slope on a logistic path of your own.

        Args:
            start, end: the a and b of the paper, as slopes (tangents, not angles); both > 0.
            steepness: the k of the paper; > 0.
            endpoints: "raw" is the printed formula, which does not reach a and b; "exact" does.
            unit: what progress is; see :class:`pliant.Scheduled`.

        Warns:
            UserWarning: the slope passes 1 between t = 0 and t = 1, where the network is linear for a moment and its
                activations turn from convex to concave.
        """
        schedule = Logistic(start, end, steepness, endpoints)
        crossing = schedule.crossing(1.0)
        if crossing is not None and 0.0 <= crossing <= 1.0:
            warnings.warn(
                f"The slope of {schedule} passes 1 at t = {crossing:.3f}: there every DSReLU is the identity, and the network "
                "is linear. Keep start and end on one side of 1 to avoid it, or use a named variant to accept it.",
                stacklevel=2,
            )
        return cls(Scheduled(schedule, unit))

    @classmethod
    def paper(cls, *, endpoints: Literal["raw", "exact"] = "raw", unit: TimeUnit = "fraction") -> Self:
        """tan 85 deg to tan 10 deg, steepness 5: the constants in the text."""
        return cls._preset(85, 10, 5.0, endpoints, unit)

    @classmethod
    def released(cls, *, endpoints: Literal["raw", "exact"] = "raw", unit: TimeUnit = "fraction") -> Self:
        """tan 75 deg to tan 30 deg, steepness 5: the constants in the released notebooks.

        The notebooks also moved t by 1 / batches per epoch, and at the stem only; for that attach the clock to the stem and
        pass ``unit="released"``.
        """
        return cls._preset(75, 30, 5.0, endpoints, unit)

    @classmethod
    def artifact(cls, *, endpoints: Literal["raw", "exact"] = "raw", unit: TimeUnit = "fraction") -> Self:
        """tan 80 deg to tan 15 deg, steepness 10: the notebooks at the commit that added the published logs."""
        return cls._preset(80, 15, 10.0, endpoints, unit)

    @classmethod
    def figure(cls, *, endpoints: Literal["raw", "exact"] = "raw", unit: TimeUnit = "fraction") -> Self:
        """tan 70 deg to tan 35 deg, steepness 5: the constants behind figure 1."""
        return cls._preset(70, 35, 5.0, endpoints, unit)

    @classmethod
    def constant(cls, slope: float = Logistic(_degrees(75), _degrees(30), 5.0)(0.0)) -> Self:
        """A slope that stays: ``slope * leaky_relu(x, 1 / slope)``.

        The default is the start of ``released``, 3.4927, where the slope of the published runs stayed at all sites but one.
        """
        return cls(Fixed(slope))

    @classmethod
    def _preset(cls, start: float, end: float, steepness: float, endpoints: Literal["raw", "exact"], unit: TimeUnit) -> Self:
        return cls(Scheduled(Logistic(_degrees(start), _degrees(end), steepness, endpoints), unit))
