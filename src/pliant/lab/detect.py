"""Training a detector: a trial of detection from its spec to its result, resumable at every epoch with the same numbers.

What it shares with classification - seeds, splits, rates, checkpoints, history, the form of a result - is in
:mod:`pliant.lab.course`. What differs: images are read as they are needed, the detector computes its own losses, and the epoch
is chosen by COCO's average precision on the validation part, because a detector has no loss in evaluation mode.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pliant.lab import optimizers
from pliant.lab.average_precision import AREAS, Detections, Truth, match, pack
from pliant.lab.batches import batches
from pliant.lab.course import Course, coefficients
from pliant.lab.datasets import Detection
from pliant.lab.models import detection
from pliant.lab.models.detection import Detector
from pliant.lab.photographs import stream
from pliant.lab.protocol import seed_of, split
from pliant.lab.store import DETECTIONS, TrialDirectory
from pliant.lab.study import Custom, StudyError, TrialSpec, activation_factory
from pliant.lab.train import arithmetic, device_of, make_clock

__all__ = ["Detecting", "anchors_of", "build", "train"]

EVALUATION_BATCH = 8
"""Images evaluated at once. A fixed number: images of one batch are padded to one size, which shows in the last bits."""
TRAIN_SCORED = 512
"""How many of the fitted images the average precision on the training part is measured on, at most; evenly spaced."""
ANCHORS = 5
"""As many as YOLOv2 has (Redmon and Farhadi 2017)."""

Report = Callable[[Mapping[str, float]], None]


@final
@dataclass(eq=False, kw_only=True)
class Detecting(Course):
    """A detector under way."""

    judged_by: ClassVar = "validation_ap"

    data: Detection

    @property
    def detector(self) -> Detector:
        assert isinstance(self.network, Detector)
        return self.network

    def detect(self, rows: NDArray[np.int64]) -> Detections:
        """What is found in these images."""
        self.detector.eval()
        shown = (rows[i : i + EVALUATION_BATCH].tolist() for i in range(0, len(rows), EVALUATION_BATCH))
        found: list[dict[str, NDArray[Any]]] = []
        for images, _ in stream(self.data, shown, self.device):
            for one in self.detector(images):
                # Weights that overflowed in the last step of an epoch give boxes that are none.
                kept = torch.isfinite(one["boxes"]).all(dim=1) & torch.isfinite(one["scores"])
                found.append({name: value[kept].cpu().numpy() for name, value in one.items()})
        return Detections.of(found)

    def truth(self, rows: NDArray[np.int64]) -> Truth:
        return Truth.of([self.data.truth(int(i)) for i in rows])

    def scores(self, rows: NDArray[np.int64], found: Detections) -> dict[str, float]:
        """Every metric of detection on these images."""
        return match(found, self.truth(rows), len(self.data.classes)).scores()

    def judge(self, line: Mapping[str, float]) -> bool:
        """Whether the epoch that just ended is the best so far. Of equal ones the later counts: before anything is found all
        are equal, and the detector is still learning."""
        state, ap = self.state, line[self.judged_by]
        state.diverged = not math.isfinite(line["train_loss"])
        worth = 1 - ap if math.isfinite(ap) else 1.0
        better = worth <= state.best_loss and not state.diverged
        if better:
            state.best_loss, state.best_epoch = worth, state.epoch
        return better

    def finish(self) -> None:
        """Look at the test part, and write predictions and result."""
        state, parts = self.state, self.parts
        rows = {
            "train": parts.train[:: math.ceil(len(parts.train) / TRAIN_SCORED)],
            "validation": parts.validation,
            "test": parts.test,
        }
        row: dict[str, float] = {}
        found: dict[str, Detections] = {}
        for suffix in ("_last", ""):
            if not suffix and state.best_epoch != state.epoch:
                self.network.load_state_dict(self.best)
                found = {}
            # A detector that diverged, at this epoch or before any was usable, finds nothing.
            broken = state.diverged if suffix else state.best_epoch == 0
            if broken:
                found = {name: Detections.of([_NOTHING] * len(part)) for name, part in rows.items()}
            elif not found:
                found = {name: self.detect(part) for name, part in rows.items()}
            for name, part in rows.items():
                row |= {f"{name}_{metric}{suffix}": value for metric, value in self.scores(part, found[name]).items()}
        test = self.truth(parts.test)
        for size in ("small", "medium", "large"):
            row[f"test_ap_{size}"] = match(found["test"], test, len(self.data.classes), AREAS[size]).score_of("ap")
        self.trial.write(DETECTIONS, pack(parts.test, found["test"], test))
        self.close(row, detector={"plan": list(self.detector.plan), "weights": str(self.detector.weights_from)})


_NOTHING: Mapping[str, NDArray[Any]] = {
    "boxes": np.zeros((0, 4), np.float32),
    "scores": np.zeros(0, np.float32),
    "labels": np.zeros(0, np.int16),
}


def train(
    spec: TrialSpec,
    data: Detection,
    custom: Custom,
    trial: TrialDirectory,
    report: Report = lambda _: None,
    *,
    checkpoint_every: float = 20.0,
) -> None:
    """Run a trial of detection, or what is left of it, and write its result into its directory.

    See :func:`pliant.lab.train.train`, with which it shares arguments, errors and what is promised; ``report`` is told
    validation_ap. A resumed trial goes on exactly where the device's arithmetic is reproducible; on a GPU the sums of the
    detectors' pooling are not.
    """
    device = device_of(spec)
    with arithmetic(spec.train, device):
        _train(begin(spec, data, custom, trial, device), report, checkpoint_every)


def _train(training: Detecting, report: Report, checkpoint_every: float) -> None:
    spec, state = training.spec, training.state
    clock = make_clock(training.network, spec, training.steps_per_epoch)
    session = time.perf_counter() - state.seconds
    written = time.perf_counter()
    while training.goes_on:
        start = time.perf_counter()
        training.set_rate(training.optimizer)
        state.epoch += 1
        torch.manual_seed(training.epoch_seed)
        line = _run_epoch(training, clock.step)
        held = training.parts.validation
        usable = math.isfinite(line["train_loss"])
        scores = training.scores(held, training.detect(held)) if usable else {}
        line |= {f"validation_{metric}": scores.get(metric, math.nan) for metric in ("ap", "ap50")}
        if training.judge(line):
            training.best = copy.deepcopy(training.network.state_dict())
        state.seconds = time.perf_counter() - session
        training.record(line, coefficients(training.network), time.perf_counter() - start, report)
        if time.perf_counter() - written >= checkpoint_every and training.goes_on:
            training.save()
            written = time.perf_counter()
    training.finish()


def _run_epoch(training: Detecting, moved: Callable[[], object]) -> dict[str, float]:
    """One pass over the fitted images: the mean loss over them, as it was while weights moved, and each of its parts.

    An epoch ends at a loss that is not finite: the weights after it would be none.
    """
    spec, optimizer, detector = training.spec, training.optimizer, training.detector
    order = training.order().cpu().numpy()
    slices = batches(training.fitted, spec.train.batch_size, spec.train.drop_last)
    seed = seed_of("augmentation", spec.seed, spec.repeat, spec.fold, training.state.epoch)
    sizes = seed_of("sizes", spec.seed, spec.repeat, spec.fold)
    before = (training.state.epoch - 1) * training.steps_per_epoch
    sums: dict[str, float] = {}
    shown = 0
    detector.train()
    for step, (images, targets) in enumerate(
        stream(training.data, (order[s].tolist() for s in slices), training.device, spec.train.augment, seed)
    ):
        detector.resize_for(sizes, before + step)
        parts: dict[str, Tensor] = detector(images, targets)
        loss = torch.stack(list(parts.values())).sum()
        values = {"loss": loss, **{f"loss_{name.removeprefix('loss_')}": part for name, part in parts.items()}}
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(images)
        shown += len(images)
        if not math.isfinite(sums["loss"]):
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        moved()
    return {f"train_{name}": value / shown for name, value in sums.items()}


def begin(spec: TrialSpec, data: Detection, custom: Custom, trial: TrialDirectory, device: torch.device) -> Detecting:
    """A trial as its directory has it: new, or as its checkpoint left it.

    Raises:
        DataError, StudyError, WeightsError: the data, the detector or its weights cannot be used.
    """
    parts = split(spec, data)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    network, activations = build(spec, data, custom)
    network = network.to(device)
    training = Detecting(
        spec=spec,
        trial=trial,
        parts=parts,
        network=network,
        activations=activations,
        optimizer=optimizers.make(network, spec.train.optimizer, activations),
        device=device,
        best=copy.deepcopy(network.state_dict()),
        data=data,
    )
    training.resume()
    return training


def build(spec: TrialSpec, data: Detection, custom: Custom) -> tuple[Detector, list[nn.Module]]:
    """The detector of a trial, on the host, and its activations. The initial weights are the same for every activation of one
    fold.

    Raises:
        StudyError: an option that the detector does not take; several processes. WeightsError: a file of weights that does
            not fit.
    """
    if spec.train.world_size > 1:
        raise StudyError(
            f"train.world_size is {spec.train.world_size}, but a detector trains in one process; leave world_size at 1."
        )
    make = activation_factory(spec, custom)
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        # An activation that draws random numbers while it is built must not shift the draws of the weights.
        with torch.random.fork_rng(devices=[]):
            made.append(make())
        return made[-1]

    given: dict[str, Any] = dict(spec.model.options)
    if spec.model.name in detection.ANCHORED:
        given["anchors"] = anchors_of(spec, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", spec.seed, spec.repeat, spec.fold))
        detector = detection.find(spec.model.name)(activation, classes=len(data.classes), **given)
    if not made:
        raise StudyError(
            f"{spec.model.name} with these options has no site for an activation, so every activation would give the same "
            "results; widen model.options.sites."
        )
    return detector, made


def anchors_of(spec: TrialSpec, data: Detection) -> tuple[tuple[float, float], ...]:
    """Anchors from the boxes that a trial is trained on, in fractions of their images.

    Source: Redmon and Farhadi (2017), "YOLO9000", section 2.
    """
    shapes = []
    for i in split(spec, data).train:
        truth = data.truth(int(i))
        height, width = data.sizes[i]
        border = np.array([width, height] * 2, np.float64)
        boxes = truth["boxes"][~(truth["iscrowd"] | truth["difficult"])].clip(0, border) / border
        shapes.append(boxes[:, 2:] - boxes[:, :2])
    every = np.concatenate(shapes)
    every = every[(every > 0).all(axis=1)]
    if not len(every):
        raise StudyError("No image of the training part has an object to learn from, so there is nothing to train.")
    count = min(ANCHORS, len(np.unique(every, axis=0)))
    return detection.cluster(every, count, seed=seed_of("anchors", spec.seed, spec.repeat, spec.fold))
