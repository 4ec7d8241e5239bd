"""How data are split and a network is trained, as frozen data with every number in it. Nothing here runs anything.

What a user leaves out is None here and a number in ``resolved()``, which is what a trial's identity is made of: two studies
that spell one training differently share its trials, and a default that changes in some library changes none of ours.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from pliant.errors import unknown

__all__ = ["QUIRKS", "Augment", "Normalise", "Optimizer", "Protocol", "Schedule", "Train", "canonical", "check_quirks"]


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Frozen(BaseModel):
    """Data that are compared and hashed by value and refuse keys that they do not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __hash__(self) -> int:
        return hash(canonical(self.model_dump(mode="json")))


# --- optimizer --------------------------------------------------------------------------------------------------------

_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
CONSTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "torch": {
        "sgd": {"lr": 1e-3},
        "momentum": {"lr": 1e-3, "momentum": 0.9},
        "adagrad": {"lr": 1e-2, "eps": 1e-10, "accumulator": 0.0},
        "adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
        "adam": {**_ADAM, "epsilon_hat": False},
        "adamw": {**_ADAM, "epsilon_hat": False},
    },
    "tf1": {
        "sgd": {"lr": 1e-3},
        "momentum": {"lr": 1e-3, "momentum": 0.9},
        "adagrad": {"lr": 1e-3, "eps": 0.0, "accumulator": 0.1},
        "adadelta": {"lr": 1e-3, "rho": 0.95, "eps": 1e-8},
        "adam": {**_ADAM, "epsilon_hat": True},
    },
}
"""What each optimizer starts from under each name. Where TensorFlow 1 asks for a number (the rates of SGD, Momentum and
Adagrad, the momentum), it is the one that reproduces the AAF paper."""


class Optimizer(Frozen):
    """An optimizer with every constant stated: frameworks differ in their defaults.

    ``constants`` says whose defaults fill in what is left out. PyTorch and TensorFlow 1 also differ in arithmetic, and the
    resolved numbers say how:

    * momentum: both add ``momentum * buffer + gradient`` and step by ``lr * buffer``; no dampening, not Nesterov's.
    * Adagrad: TensorFlow divides by ``sqrt(accumulator)``, which starts at 0.1; PyTorch by ``sqrt(accumulator) + eps`` from 0.
      ``eps = 0`` is TensorFlow's rule.
    * Adadelta: one rule; rho, eps and lr differ.
    * Adam: TensorFlow (and Keras) put epsilon beside the uncorrected second moment ("epsilon hat" of Kingma and Ba, section
      2.1), ``lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``; PyTorch beside the corrected one. The two agree if
      PyTorch's is multiplied by ``1 / sqrt(1 - b2^t)`` at step t, 32 at the first; ``epsilon_hat`` chooses.

    ``weight_decay`` is added to the gradient (decoupled for adamw) and never reaches an activation's coefficients.
    """

    name: Literal["sgd", "momentum", "adagrad", "adadelta", "adam", "adamw"] = "adam"
    """The rule that moves the weights."""
    constants: Literal["torch", "tf1"] | None = "torch"
    """Whose defaults fill in what is left out; None where every number is stated, as in a trial's spec."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; default as ``constants`` has it."""
    betas: tuple[float, float] | None = None
    """Decay of the two means of Adam."""
    eps: float | None = Field(None, ge=0)
    """What Adagrad, Adadelta and Adam add to what they divide by."""
    epsilon_hat: bool | None = None
    """Whether Adam adds it beside the uncorrected second moment, as TensorFlow 1 does."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """Of momentum SGD."""
    rho: float | None = Field(None, ge=0, lt=1)
    """Decay of the means of Adadelta."""
    accumulator: float | None = Field(None, ge=0)
    """What Adagrad's sums of squared gradients start from."""
    weight_decay: float = Field(0.0, ge=0)
    """Added to the gradient (decoupled for adamw), of weights and never of an activation's coefficients."""
    activation_lr_multiplier: float = Field(1.0, ge=0)
    """Learned coefficients of activations have so many times the learning rate."""

    @pydantic.model_validator(mode="after")
    def _no_idle_constants(self) -> Self:
        # A constant that does nothing would still give the trials another identity, and their reader another belief.
        if self.name not in self._preset:
            raise ValueError(f"TensorFlow 1 has no {self.name}; use constants = 'torch'")
        known = self._preset[self.name]
        for key in ("betas", "eps", "epsilon_hat", "momentum", "rho", "accumulator"):
            given = getattr(self, key)
            # SGD with momentum is what torch calls momentum SGD; it resolves to the optimizer of that name.
            if given and key not in known and not (key == "momentum" and self.name == "sgd"):
                instead = "; use betas" if (key, self.name) in (("momentum", "adam"), ("momentum", "adamw")) else ""
                raise ValueError(f"{key} has no effect on {self.name}{instead or '; leave it out'}")
        if self.epsilon_hat and self.name == "adamw":
            raise ValueError("epsilon_hat is TensorFlow's Adam; adamw has no such form, leave it out")
        if self.betas is not None and not all(0 <= b < 1 for b in self.betas):
            raise ValueError("betas lie in [0, 1)")
        if self.eps == 0 and self.name != "adagrad":
            raise ValueError(f"eps = 0 divides by zero in {self.name}; expected a positive number")
        if self.eps == 0 and not (known["accumulator"] if self.accumulator is None else self.accumulator):
            raise ValueError("eps = 0 and accumulator = 0 divide by zero where a gradient is zero; one must be positive")
        return self

    @property
    def _preset(self) -> dict[str, dict[str, Any]]:
        return CONSTANTS[self.constants or "torch"]

    def resolved(self) -> Self:
        """The same optimizer with every number that applies to it, and only these."""
        name = "momentum" if self.name == "sgd" and self.momentum else self.name
        name = "sgd" if name == "momentum" and self.momentum == 0 else name
        numbers = {k: v if (v := getattr(self, k)) is not None else default for k, default in self._preset[name].items()}
        if name == "sgd":
            numbers.pop("momentum", None)
        shared = {"weight_decay": self.weight_decay, "activation_lr_multiplier": self.activation_lr_multiplier}
        # Whose defaults they were is no longer said: the same numbers are the same training.
        return type(self).model_validate({"name": name, "constants": None, **numbers, **shared})


class Schedule(Frozen):
    """The learning rate over epochs, as a multiple of the optimizer's.

    * ``constant``.
    * ``steps``: ``factors = [[70, 0.1], [100, 0.01]]``, or the rates themselves, ``lr = [[70, 1e-4], [100, 1e-5]]``: each holds
      once so many epochs are complete, until the next. Epochs before the first have the optimizer's own rate.
    * ``cosine``: half a cosine from 1 to ``final``, by epochs complete over epochs planned.
    """

    name: Literal["constant", "steps", "cosine"] = "constant"
    """How the rate goes over the epochs; alone it may stand for the whole: ``schedule = "cosine"``."""
    factors: tuple[tuple[int, float], ...] = ()
    """Steps: ``[[70, 0.1], [100, 0.01]]``, multiples of the optimizer's rate once so many epochs are complete."""
    lr: tuple[tuple[int, float], ...] = ()
    """Steps: the rates themselves, ``[[70, 1e-4], [100, 1e-5]]``."""
    final: float = Field(0.0, ge=0, le=1)
    """Cosine: what the rate ends at, as a multiple."""

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        steps = self.factors or self.lr
        if self.name == "steps":
            if bool(self.factors) == bool(self.lr):
                raise ValueError("steps need either factors or lr, a list of [epochs complete, value]")
            if any(a >= b for (a, _), (b, _) in itertools.pairwise(steps)) or steps[0][0] < 1:
                raise ValueError("the epochs of the steps must start from 1 on and rise")
            if any(not (math.isfinite(v) and v > 0) for _, v in steps):
                raise ValueError("the values of the steps must be positive")
        elif steps:
            raise ValueError(f"factors and lr belong to name = 'steps', not to {self.name!r}")
        if self.final and self.name != "cosine":
            raise ValueError(f"final belongs to name = 'cosine', not to {self.name!r}")
        return self

    def rate(self, lr: float, complete: int, epochs: int) -> float:
        """The learning rate once ``complete`` of ``epochs`` are done, for an optimizer whose own is ``lr``."""
        if self.name == "cosine":
            return lr * (self.final + (1 - self.final) * (1 + math.cos(math.pi * complete / epochs)) / 2)
        rate = lr
        for start, value in self.factors:
            rate = lr * value if complete >= start else rate
        for start, value in self.lr:
            rate = value if complete >= start else rate
        return rate


# --- what the network is shown ----------------------------------------------------------------------------------------


class Normalise(Frozen):
    """What is done to the values of an example before the network sees them. Bytes are first divided by 255, except for
    ``image``.

    * ``none``.
    * ``features``: each feature (each pixel of each channel) minus its mean, over its standard deviation, both from the fitted
      part alone.
    * ``channels``: the same with one mean and deviation a channel (axis 1): those in ``mean`` and ``std``, or of the fitted
      part.
    * ``image``: each example minus its own mean, over max(its own deviation, 1 / sqrt(values in it)), as
      ``tf.image.per_image_standardization`` does, in units of bytes where the data are bytes.
    """

    kind: Literal["none", "features", "channels", "image"] = "features"
    """What is subtracted and divided by; alone it may stand for the whole: ``normalise = "image"``."""
    mean: tuple[float, ...] = ()
    """Of each channel, for ``channels``; default that of the fitted part."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel, likewise."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}; expected one of each a channel")
        if self.mean and self.kind != "channels":
            raise ValueError(f"mean and std belong to kind = 'channels', not to {self.kind!r}")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        return self

    @property
    def fitted(self) -> bool:
        """Whether it takes anything from the fitted part."""
        return self.kind in ("features", "channels") and not self.mean


class Augment(Frozen):
    """Random changes of the fitted images, drawn anew each epoch, the same for every activation."""

    padding: int = Field(0, ge=0, le=1024)
    """Crop the image's own size at a random place of the image with so many zeros (black) added on each side."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    scale: tuple[float, float] | None = None
    """Of detection: zoom by a factor drawn evenly between these two; what is larger than the image is cropped at a random
    place, what is smaller lies at a random place on grey. Objects whose centre is outside are left out."""
    photometric: bool = False
    """Of detection: change brightness, contrast, saturation and hue at random, each with probability one half."""

    @pydantic.field_validator("scale")
    @classmethod
    def _rising(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not 0.05 <= given[0] <= given[1] <= 20:
            raise ValueError("scale is two factors, the smaller first, from 0.05 to 20")
        return given


SPEED = ("tf32", "bf16", "compile", "cuda_graphs", "cudnn_benchmark")


class Train(Frozen):
    """How one network is trained."""

    epochs: int = Field(100, ge=1, le=10**7)
    """Passes over the fitted part, if nothing stops them earlier."""
    batch_size: int = Field(128, ge=1, le=2**31)
    """Examples a step."""
    drop_last: bool = False
    """Leave out the examples of each epoch's order that do not fill a batch."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    lr_grid: tuple[float, ...] = ()
    """Each activation gets the same tuning: one training for each of these learning rates, of which the one with the lowest
    validation loss counts. Empty: the optimizer's own rate."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without a lower validation loss; None trains all epochs."""
    augment: Augment = Augment()
    train_scores: Literal["running", "evaluated"] = "running"
    """Each epoch's train loss and accuracy: as they were while weights moved, or also of an evaluation pass afterwards."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each fitted label that is spread evenly over all classes (Szegedy et al., CVPR 2016). The running train loss is
    the smoothed one; every other loss is not."""
    batch_norm: Literal["running", "recomputed"] = "running"
    """What batch normalisation is evaluated with: its running averages, or the statistics of the whole fitted part (not
    augmented), recomputed before each evaluation, which costs a forward pass over it. Fair to a scheduled slope in a short
    training, which running averages lag behind. Weights are the same either way."""
    speed: tuple[Literal["tf32", "bf16", "compile", "cuda_graphs", "cudnn_benchmark"], ...] = ()
    """What changes the arithmetic for speed, all of it off by default: TF32 products, bfloat16 autocasting, torch.compile, CUDA
    graphs, the fastest (not the reproducible) convolutions. Evaluation never uses bfloat16."""
    world_size: int = Field(1, ge=1, le=1024)
    """Processes that train one network together, each a share of every batch, their gradients averaged; see
    :mod:`pliant.lab.distributed`. ``batch_size`` counts the examples of all of them."""
    sync_batch_norm: bool = False
    """Batch normalisation over the whole batch; by default each process has the statistics of its own share."""

    @pydantic.field_validator("schedule", mode="before")
    @classmethod
    def _schedule_by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @pydantic.field_validator("speed")
    @classmethod
    def _once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(name for name in SPEED if name in given)

    @pydantic.model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.lr_grid:
            if len(set(self.lr_grid)) != len(self.lr_grid) or any(not (math.isfinite(v) and v > 0) for v in self.lr_grid):
                raise ValueError("lr_grid must hold different positive learning rates")
            if self.optimizer.lr is not None:
                raise ValueError("optimizer.lr has no effect beside lr_grid; leave it out, or put it into the grid")
            if self.schedule.lr:
                raise ValueError("schedule.lr would overrule lr_grid after its first step; use schedule.factors")
        if self.world_size > 1:
            if self.batch_size < 2 * self.world_size:
                raise ValueError(
                    f"batch_size = {self.batch_size} leaves some of world_size = {self.world_size} processes fewer than two "
                    "examples of a batch"
                )
            if unfit := [s for s in self.speed if s in ("compile", "cuda_graphs")]:
                raise ValueError(f"speed = {unfit[0]!r} is for one process; leave it out with world_size > 1")
        elif self.sync_batch_norm:
            raise ValueError("sync_batch_norm has no effect on one process; leave it out, or set world_size")
        late = [start for start, _ in self.schedule.factors or self.schedule.lr if start >= self.epochs]
        if late:
            raise ValueError(f"the schedule's step at {late[0]} is never reached in {self.epochs} epochs; leave it out")
        return self

    def resolved(self, lr: float | None = None) -> Self:
        """One training with every number in it; ``lr`` is the value of the grid that it is for."""
        optimizer = self.optimizer if lr is None else self.optimizer.model_copy(update={"lr": lr})
        return self.model_copy(update={"optimizer": optimizer.resolved(), "lr_grid": ()})


# --- what is split ----------------------------------------------------------------------------------------------------


class Protocol(Frozen):
    """How the data are split into what is fitted, what chooses the epoch, and what is tested.

    * ``kfold``: ``folds`` stratified parts, each tested once; a new partition each repeat.
    * ``holdout``: a stratified random share ``test``; a new one each repeat.
    * ``official``: the data set's own test part. The repeats are further seeds on this one split, which says nothing about
      other training data: a verdict crosses them with the test examples.
    """

    design: Literal["kfold", "holdout", "official"] = "kfold"
    """Which part is tested: of several in turn, a random one, or the data set's own."""
    folds: int = Field(5, ge=1)
    """Parts of ``kfold``; 1 for the other designs."""
    repeats: int = Field(3, ge=1)
    """Partitions, each with its own split, weights and batches; on the official split seeds."""
    test: float | None = Field(None, gt=0, lt=1)
    """Share of all examples that ``holdout`` tests on; default 0.2."""
    validation: float | Literal["official"] = 0.1
    """Share of what is not tested that is held out, stratified, to choose the epoch; or the data set's own validation part."""
    share: float | None = Field(None, gt=0, lt=1)
    """Use only this share of the examples, stratified by class and official part, drawn once by the seed: for a reduced tier.
    The split is then made of these alone."""
    groups: bool = False
    """Keep the examples of one of the data set's groups (a patient, a record) in one part. Shares then hold approximately."""
    standardise: bool | None = None
    """The short form of ``normalise``: "features" if true (also where neither is given), "none" if false."""
    normalise: Normalise | None = None
    seed: int = Field(0, ge=0)
    """What splits, initial weights, batches and dropout masks are drawn from, the same for every activation."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_fold(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("design", "kfold") != "kfold" and "folds" not in given:
            return {**given, "folds": 1}
        return given

    @pydantic.model_validator(mode="after")
    def _fits_the_design(self) -> Self:
        if self.design == "kfold" and self.folds < 2:
            raise ValueError("kfold needs folds from 2 on")
        if self.design != "kfold" and self.folds != 1:
            raise ValueError(f"folds has no effect on design = {self.design!r}; set folds = 1 or leave it out")
        if self.test is not None and self.design != "holdout":
            raise ValueError(f"test has no effect on design = {self.design!r}; leave it out")
        if self.validation == "official":
            if self.design != "official":
                raise ValueError("validation = 'official' goes with design = 'official'")
        elif not 0 <= self.validation < 1:
            raise ValueError("validation is a share from 0 to below 1")
        if self.standardise is not None and self.normalise is not None:
            raise ValueError("standardise and normalise say the same thing; give one of them")
        return self

    @property
    def resolved_normalise(self) -> Normalise:
        return self.normalise or Normalise(kind="none" if self.standardise is False else "features")


# --- released quirks --------------------------------------------------------------------------------------------------

QUIRKS: dict[str, str] = {
    "double_softmax": "the loss takes the soft-maxed output for logits (AAF, GoogLeNet and ResNet-50)",
    "batch_statistics_at_test": "batch normalisation uses the statistics of the batch in evaluation too (AAF)",
    "test_on_64_images": "64 images, drawn by the seed, stand for the test part (AAF)",
    "released_tie_rule": "AReLU starts from (1, 1, 0, 0), where all points are ties that the first line wins (AAF)",
    "slope_on_stem_only": "scheduled coefficients move at the first call site only and keep their start elsewhere (DSReLU)",
    "top_5_epoch_rows": "beside the selected epoch, means over the five epochs of the highest score of any kind (DSReLU)",
    "test_as_validation": "the test part chooses the epoch (DSReLU on mini-ImageNet)",
}
"""What the authors' code did that their text does not say, by name: off unless a study names it, shown wherever its numbers
are."""


def check_quirks(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names in one order, each once.

    Raises:
        UnknownNameError: there is no such quirk.
    """
    for name in names:
        if name not in QUIRKS:
            raise unknown("released quirk", name, QUIRKS)
    return tuple(name for name in QUIRKS if name in names)
