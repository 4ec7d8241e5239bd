"""The training loop of classification: a trial from its spec to its result, resumable at every epoch with the same numbers."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pliant.activation import Activation
from pliant.clock import Clock
from pliant.errors import PliantError
from pliant.lab import batch_norm, dropout, frozen, models, optimizers
from pliant.lab.batches import Changes, Examples, batches
from pliant.lab.course import Course, Report, coefficients
from pliant.lab.datasets import Data
from pliant.lab.increments import Increments, weights
from pliant.lab.network import construct
from pliant.lab.protocol import Split, seed_of, split
from pliant.lab.ranks import ALONE, Ranks
from pliant.lab.recipe import Train
from pliant.lab.score import score
from pliant.lab.store import PREDICTIONS, TrialBusyError, TrialDirectory
from pliant.lab.study import Custom, StudyError, TrialSpec, activation_factory

__all__ = [
    "DeviceError",
    "Training",
    "arithmetic",
    "begin",
    "build",
    "coefficients",
    "correct",
    "device_of",
    "evaluation_batch",
    "hits",
    "loss_of",
    "make_clock",
    "run_epoch",
    "train",
]

EVALUATION_BATCH = 8192
EVALUATION_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""What the activations of one evaluation batch may take. Fixed numbers and not what happens to be free, because the size of a
batch shows in the last bits of a score."""
PARTS = ("train", "validation", "test")
TOP = 5
"""How many epochs the tables of the DSReLU paper list."""
TOP_METRICS = ("accuracy", "f1_weighted", "auc")


class DeviceError(PliantError, RuntimeError):
    """A device that is not there, or that cannot do what a study asks for."""


def device_of(spec: TrialSpec) -> torch.device:
    """Where a trial is trained: on what the environment variable PLIANT_DEVICE names, else on a GPU if there is one.

    The device is provenance and no part of a trial's identity.

    Raises:
        DeviceError: there is no such device, or it cannot do what ``train.speed`` asks for.
    """
    name = os.environ.get("PLIANT_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"PLIANT_DEVICE is {name!r}, which cannot be used: {str(error).splitlines()[0]}") from None
    # A request that does nothing would be believed to have done something.
    needs = [s for s in spec.train.speed if s in ("tf32", "cuda_graphs", "cudnn_benchmark")]
    if needs and device.type != "cuda":
        raise DeviceError(
            f"train.speed asks for {', '.join(needs)}, which a GPU of NVIDIA's has and {device} has not; leave it out here."
        )
    return device


@contextlib.contextmanager
def arithmetic(recipe: Train, device: torch.device) -> Iterator[None]:
    """Float32 products in float32 and reproducible convolutions, but for what ``recipe.speed`` names; as before afterwards."""
    if device.type != "cuda":
        yield
        return
    tf32, benchmark = "tf32" in recipe.speed, "cudnn_benchmark" in recipe.speed
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        # torch lets convolutions use TF32 unless it is told not to.
        with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=not benchmark, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def train(
    spec: TrialSpec,
    data: Data,
    custom: Custom,
    trial: TrialDirectory,
    report: Report = lambda _: None,
    *,
    checkpoint_every: float = 20.0,
    ranks: Ranks = ALONE,
) -> None:
    """Run a trial, or what is left of it, and write its result into its directory.

    Randomness is re-seeded each epoch from the spec's seed, repeat, fold and the epoch, and never from the activation: trials
    that are compared see the same initial weights, batches and augmented images, and the same dropout masks unless an
    activation draws random numbers itself in its forward pass. A resumed trial goes on exactly.

    Args:
        data: what ``spec.dataset`` names, whole.
        custom: the user's own model and activations, if any.
        trial: where checkpoint, history, predictions and result go.
        report: called after each epoch with epoch, epochs and validation_accuracy.
        checkpoint_every: seconds between checkpoints; 0 writes one each epoch. Does not change numbers.
        ranks: the processes that run this same function for this same trial, see :mod:`pliant.lab.distributed`.

    Raises:
        DataError, ModelError, StudyError, DeviceError: the data, the network, a quirk or the device cannot be used.
        StorageFullError: the disk is full; what was finished stays finished.
    """
    device = device_of(spec) if ranks.device is None else ranks.device
    with arithmetic(spec.train, device):
        training = begin(spec, data, custom, trial, device, ranks=ranks)
        if spec.frozen:
            _keep(training, custom, report, checkpoint_every)
        _train(training, report, checkpoint_every)


def _train(training: Training, report: Report, checkpoint_every: float) -> None:
    spec, recipe, state = training.spec, training.spec.train, training.state
    network, optimizer, examples, ranks = training.network, training.optimizer, training.examples, training.ranks
    fitted, held = training.fitted, training.held
    forward = _compiled(network, recipe) if ranks.size == 1 else ranks.averaging(network)
    clock = make_clock(network, spec, training.steps_per_epoch)
    session = time.perf_counter() - state.seconds
    written = time.perf_counter()
    top_5 = "top_5_epoch_rows" in spec.quirks
    moved = Increments(weights(network, training.activations))

    while training.goes_on:
        start = time.perf_counter()
        training.set_rate(optimizer)
        state.epoch += 1
        torch.manual_seed(training.epoch_seed)
        dropout.reseed(network, training.epoch_seed)
        order = training.order()
        if ranks.rank:
            # What a network draws for other examples must be other draws.
            own = seed_of("rank", training.epoch_seed, ranks.rank)
            torch.manual_seed(own)
            dropout.reseed(network, own)
        seed = seed_of("augmentation", spec.seed, spec.repeat, spec.fold, state.epoch)
        changes = Changes.draw(recipe.augment, len(order), seed, examples.y.device)
        loss, accuracy, running = run_epoch(
            network, forward, optimizer, clock, examples, order, changes, spec, keep_logits=top_5, ranks=ranks
        )
        ranks.agree(network)
        if recipe.batch_norm == "recomputed":
            training.recompute_averages()
        logits = training.logits(held)
        line = {"train_loss": loss, "train_accuracy": accuracy, **_scored(logits, examples.y[held], spec, "validation")}
        if training.judge(line):
            training.best = copy.deepcopy(network.state_dict())
        if recipe.train_scores == "evaluated":
            line |= _scored(training.logits(fitted), examples.y[fitted], spec, "evaluated_train")
        if top_5 and not state.diverged:
            for name, rows, given in (("train", order[: len(running)], running), ("validation", held, logits)):
                scores = score(_numpy(examples.y[rows]), _probabilities(given, training.data), training.data.task)
                line |= {f"{name}_{m}": scores[m] for m in TOP_METRICS}
        state.seconds = time.perf_counter() - session
        training.record(line, coefficients(network), time.perf_counter() - start, report, *moved.read())
        if time.perf_counter() - written >= checkpoint_every and training.goes_on:
            training.save()
            written = time.perf_counter()
    training.finish()


def begin(
    spec: TrialSpec,
    data: Data,
    custom: Custom,
    trial: TrialDirectory,
    device: torch.device,
    others: Iterable[Training] = (),
    *,
    ranks: Ranks = ALONE,
) -> Training:
    """A trial as its directory has it: new, or as its checkpoint left it.

    Args:
        others: further trainings on ``data`` and ``device``, whose examples are taken where they are the same.
        ranks: as for :func:`train`.

    Raises:
        DataError, ModelError, StudyError: the data, the network or a quirk cannot be used.
    """
    parts = split(spec, data)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    examples = _examples(spec, data, parts, device, others)
    network, activations = build(spec, data, custom)
    if spec.frozen:
        frozen.freeze(activations)
    if spec.train.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network = network.to(device)
    if examples.x.ndim == 4:
        network = network.to(memory_format=torch.channels_last)
    training = Training(
        spec=spec,
        trial=trial,
        parts=parts,
        network=network,
        activations=activations,
        optimizer=optimizers.make(network, spec.train.optimizer, activations),
        device=device,
        best=copy.deepcopy(network.state_dict()),
        data=data,
        examples=examples,
        evaluation_batch=evaluation_batch(network, examples, spec),
        ranks=ranks,
    )
    training.resume()
    return training


def _keep(training: Training, custom: Custom, report: Report, checkpoint_every: float) -> None:
    """Give a frozen trial that begins the coefficients with which the trial ended that learned them. That one is run first
    where it must be, and its epochs are reported, so that whoever listens knows that something goes on."""
    first = frozen.learner(training.spec)
    training.learned_by = first.key
    if not training.state.epoch:
        kept = training.trial.beside(first.key)
        frozen.put(training.network, _learned(first, kept, training.data, custom, report, checkpoint_every))
        training.best = copy.deepcopy(training.network.state_dict())


def _learned(
    spec: TrialSpec, kept: TrialDirectory, data: Data, custom: Custom, report: Report, checkpoint_every: float
) -> dict[str, Any]:
    """The coefficients by site with which a trial ended, once it has."""
    while kept.outcome() not in ("done", "diverged"):
        try:
            with kept.lock():
                if kept.outcome() not in ("done", "diverged"):
                    kept.begin(spec.model_dump(mode="json"))
                    train(spec, data, custom, kept, report, checkpoint_every=checkpoint_every)
        except TrialBusyError:
            # Another process is training it.
            time.sleep(1.0)
    # With it the history was compared with its checksum.
    result = kept.result()
    assert result is not None
    found: dict[str, Any] = kept.history()[-1]["coefficients"]
    if result["outcome"] == "diverged":
        # There is nothing to keep, and with that it diverges too: left out it would be judged where the other went well alone.
        return {site: dict.fromkeys(named, math.nan) for site, named in found.items()}
    return found


def _examples(spec: TrialSpec, data: Data, parts: Split, device: torch.device, others: Iterable[Training]) -> Examples:
    like = None
    for other in others:
        if other.spec.normalise == spec.normalise:
            if not spec.normalise.fitted or np.array_equal(other.parts.train, parts.train):
                return other.examples
            like = other.examples
    return Examples.of(data, spec.normalise, parts.train, device, like)


@final
@dataclass(eq=False, kw_only=True)
class Training(Course):
    """A classification under way. What trains it, alone or in a stack, moves its weights; everything else is here."""

    judged_by: ClassVar = "validation_accuracy"

    data: Data
    examples: Examples
    evaluation_batch: int

    def logits(self, rows: Tensor) -> Tensor:
        """What the network returns for the examples in evaluation mode, shape (n, outputs)."""
        if self.ranks.size == 1 or "batch_statistics_at_test" in self.spec.quirks:
            return _logits(self.network, self.examples, rows, self.evaluation_batch, self.spec)
        shown, own = self.ranks.share(slice(0, len(rows)))
        found = _logits(self.network, self.examples, rows[shown], self.evaluation_batch, self.spec)[own]
        return self.ranks.assemble(found, self.ranks.own(slice(0, len(rows))), len(rows))

    def recompute_averages(self) -> None:
        """Give batch normalisation the statistics of the fitted part with the weights as they are, see ``train.batch_norm``."""
        rows = self.fitted[_shuffled(len(self.fitted), "averages", self.spec).to(self.fitted.device)]
        parts = batches(rows, self.spec.train.batch_size)
        shown = (self.examples.batch(rows[self.ranks.share(part)[0]]) for part in parts)
        batch_norm.recompute(self.network, shown, self.ranks)

    def judge(self, line: Mapping[str, float]) -> bool:
        """Whether the epoch that just ended is the best so far; its losses also say whether the trial has diverged."""
        state, validation_loss = self.state, line["validation_loss"]
        state.diverged = not (math.isfinite(line["train_loss"]) and math.isfinite(validation_loss))
        better = validation_loss < state.best_loss and not state.diverged
        if better:
            state.best_loss, state.best_epoch = validation_loss, state.epoch
        return better

    def finish(self) -> None:
        """Look at the test part, and write predictions and result."""
        row, predictions = _measure(self)
        if self.ranks.rank:
            return
        self.trial.write(PREDICTIONS, safetensors.torch.save(predictions))
        top = _top_5(self.trial.history()) if "top_5_epoch_rows" in self.spec.quirks else {}
        self.close({**row, **top})


def build(spec: TrialSpec, data: Data, custom: Custom) -> tuple[nn.Module, list[nn.Module]]:
    """The network of a trial, on the host, and its activations. The initial weights are the same for every activation of one
    fold.

    Raises:
        ModelError: see :func:`pliant.lab.network.construct`. StudyError: a quirk that this network has no use for.
    """
    example = torch.tensor(data.x[:2], dtype=torch.get_default_dtype())
    example = example / 255 if data.x.dtype == np.uint8 else example
    network, activations = construct(
        custom.model or models.find(spec.model.name),
        activation_factory(spec, custom),
        example,
        len(data.classes),
        {} if custom.model else spec.model.options,
        seed_of("weights", spec.seed, spec.repeat, spec.fold),
        spec.model.name,
        multilabel=data.task == "multilabel",
    )
    norms = batch_norm.layers(network)
    asked, found = "The quirk batch_statistics_at_test", norms
    if spec.train.batch_norm == "recomputed":
        asked, found = "train.batch_norm = 'recomputed'", [m for m in norms if m.track_running_stats]
    if not found and (spec.train.batch_norm == "recomputed" or "batch_statistics_at_test" in spec.quirks):
        what = "batch normalisation that keeps averages" if norms else "batch normalisation"
        raise StudyError(f"{asked} needs {what}, and {spec.model.name} has none; leave it out.")
    if "double_softmax" in spec.quirks:
        with torch.no_grad():
            outputs = network(example).numel() // 2
        if data.task == "multilabel" or outputs == 1:
            raise StudyError(
                f"The quirk double_softmax needs a softmax over classes, and {spec.model.name} returns {outputs} independent "
                "numbers here; leave it out."
            )
    return network, activations


def make_clock(network: nn.Module, spec: TrialSpec, steps_per_epoch: int) -> Clock:
    """What moves the scheduled coefficients of a trial: all of them, or the first call site's alone."""
    driven = network
    if "slope_on_stem_only" in spec.quirks:
        driven = next((m for m in network.modules() if isinstance(m, Activation) and m.scheduled), network)
    return Clock(driven, spec.train.epochs * steps_per_epoch, steps_per_epoch)


def _compiled(network: nn.Module, recipe: Train) -> Callable[[Tensor], Tensor]:
    """What a training step calls: the network, or a compiled form of it that shares its weights."""
    forward: Callable[[Tensor], Tensor] = network
    if "compile" in recipe.speed:
        forward = torch.compile(network, mode="reduce-overhead" if "cuda_graphs" in recipe.speed else None)
    elif "cuda_graphs" in recipe.speed:
        forward = torch.compile(network, backend="cudagraphs")
    return forward


def loss_of(
    logits: Tensor, y: Tensor, spec: TrialSpec, reduction: Literal["mean", "none"] = "mean", *, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy in nats, a 0-dim tensor; or of each example, shape (n,), which several labels an example do not have.

    Args:
        logits: shape (n, C), or n numbers for two classes.
        y: int64, shape (n,); or uint8, shape (n, C), where 255 counts neither way and the mean is over the labels that count.
        smoothing: see ``train.label_smoothing``; of a label that is 0 or 1, half of it goes to the other.
    """
    if y.ndim == 2:
        counted = y != 255
        return torch.where(counted, _yes_or_no(logits, y == 1, "none", smoothing), 0.0).sum() / counted.sum()
    if logits.numel() == len(y):
        return _yes_or_no(logits.flatten(), y, reduction, smoothing)
    if "double_softmax" in spec.quirks:
        logits = logits.softmax(1)
    return nn.functional.cross_entropy(logits, y, reduction=reduction, label_smoothing=smoothing)


def _yes_or_no(logits: Tensor, y: Tensor, reduction: Literal["mean", "none"], smoothing: float) -> Tensor:
    target = y.to(logits.dtype)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction=reduction)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """How many of n examples are classified right, a 0-dim tensor on the device. With several labels an example, n times the
    share of labels that are right."""
    if y.ndim == 2:
        counted = y != 255
        return ((((logits > 0) == (y == 1)) & counted).sum() / counted.sum()) * len(y)
    return hits(logits, y).sum()


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Which of n examples with one label each are classified right, bool, shape (n,)."""
    if logits.numel() == len(y):
        return (logits.flatten() > 0) == (y == 1)
    return logits.argmax(1) == y


def _scored(logits: Tensor, y: Tensor, spec: TrialSpec, part: str) -> dict[str, float]:
    return {f"{part}_loss": float(loss_of(logits, y, spec)), f"{part}_accuracy": float(correct(logits, y)) / len(y)}


def run_epoch(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    examples: Examples,
    order: Tensor,
    changes: Changes | None,
    spec: TrialSpec,
    *,
    keep_logits: bool = False,
    ranks: Ranks = ALONE,
) -> tuple[float, float, Tensor]:
    """One pass over the fitted part: mean loss in nats and accuracy over its examples, as they were while weights moved.

    The host waits for the device once, at the end: a loss that is not finite stays so in the sum, so nothing is lost by looking
    at it then.

    Args:
        order: the rows to fit, int64, on the device. keep_logits: also return the logits in this order; else an empty tensor.
        ranks: the processes that share each batch; ``forward`` then averages their gradients. All return the same.
    """
    network.train()
    recipe = spec.train
    total = torch.zeros((), dtype=torch.float64, device=order.device)
    right = torch.zeros((), dtype=torch.float64, device=order.device)
    kept: list[Tensor] = []
    parts = batches(order, recipe.batch_size, recipe.drop_last)
    for part in parts:
        shown, own = ranks.share(part)
        rows = order[shown]
        x, target = examples.batch(rows, None if changes is None else changes[shown]), examples.y[rows]
        if "cuda_graphs" in recipe.speed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(order.device.type, torch.bfloat16, enabled="bf16" in recipe.speed):
            logits = forward(x)
        # A loss is summed in full precision, whatever computed the logits.
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        if ranks.size == 1:
            loss = loss_of(logits, target, spec, smoothing=recipe.label_smoothing)
            hit = correct(logits.detach(), target)
        else:
            logits = logits[own]
            loss, hit = _summand(logits, target[own], examples.y[order[part]], spec)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the ranks, and what is wanted is the sum of what each adds.
        (loss if ranks.size == 1 else loss * ranks.size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock.step()
        total += loss.detach() * (part.stop - part.start)
        right += hit
        if keep_logits:
            kept.append(logits.detach().reshape(len(logits), -1).clone())
    n = parts[-1].stop
    total, right = ranks.add(torch.stack([total, right]))
    running = torch.cat(kept) if kept else order[:0]
    if kept and ranks.size > 1:
        places = torch.cat([torch.arange(p.start, p.stop) for p in map(ranks.own, parts)])
        running = ranks.assemble(running, places, n)
    return float(total) / n, float(right) / n, running


def _summand(logits: Tensor, y: Tensor, whole: Tensor, spec: TrialSpec) -> tuple[Tensor, Tensor]:
    """What a part of a batch, possibly empty, adds to the mean loss of the batch and to how many of it are right.

    Args:
        logits, y: of the part, as for :func:`loss_of`. whole: the labels of the batch.
    """
    if y.ndim == 2:
        counted, all_counted = y != 255, (whole != 255).sum()
        each = _yes_or_no(logits, y == 1, "none", spec.train.label_smoothing)
        hit = (((logits.detach() > 0) == (y == 1)) & counted).sum() / all_counted * len(whole)
        return torch.where(counted, each, 0.0).sum() / all_counted, hit
    if not len(y):
        # With nothing to add it still has to take part, or the others would wait for its gradients.
        return logits.sum() * 0.0, y.new_zeros(())
    loss = loss_of(logits, y, spec, smoothing=spec.train.label_smoothing)
    return loss * (len(y) / len(whole)), correct(logits.detach(), y)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluation_batch(network: nn.Module, examples: Examples, spec: TrialSpec) -> int:
    """How many examples are evaluated at once: a power of two that the memory set aside for it allows."""
    if "batch_statistics_at_test" in spec.quirks:
        return spec.train.batch_size
    largest = 0

    def note(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(t.numel() for t in (*given, result) if isinstance(t, Tensor)))

    hooks = [m.register_forward_hook(note) for m in network.modules() if not any(m.children())]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()(examples.batch(torch.arange(2, device=examples.y.device)))
    finally:
        for hook in hooks:
            hook.remove()
    # Beside the largest layer's input and output, a residual branch and a temporary of the same size may be alive.
    allowed = EVALUATION_BYTES.get(examples.y.device.type, 2**28) // max(1, largest // 2 * 4 * 3)
    return min(EVALUATION_BATCH, 1 << max(0, allowed.bit_length() - 1))


def _logits(network: nn.Module, examples: Examples, rows: Tensor, size: int, spec: TrialSpec) -> Tensor:
    """What the network returns for the examples in evaluation mode, shape (n, outputs)."""
    network.eval()
    with torch.no_grad():
        if "batch_statistics_at_test" in spec.quirks:
            return _logits_by_batch_statistics(network, examples, rows, size, spec)
        return torch.cat([network(examples.batch(part)).reshape(len(part), -1) for part in torch.split(rows, size)])


def _logits_by_batch_statistics(network: nn.Module, examples: Examples, rows: Tensor, size: int, spec: TrialSpec) -> Tensor:
    shuffled = _shuffled(len(rows), "evaluation", spec).to(rows.device)
    with batch_norm.of_the_batch(network):
        found = [
            network(examples.batch(rows[shuffled[part]])).reshape(part.stop - part.start, -1) for part in batches(rows, size)
        ]
    logits = torch.cat(found)
    return torch.empty_like(logits).index_copy_(0, shuffled, logits)


def _shuffled(n: int, purpose: str, spec: TrialSpec) -> Tensor:
    """An order for statistics of batches: data sets are often sorted by class, and one class has other statistics than all."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(purpose, spec.seed, spec.repeat, spec.fold)))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _probabilities(logits: Tensor, data: Data) -> NDArray[np.float64]:
    """What :func:`pliant.lab.score.score` takes: float64, shape (n,) for two classes, else (n, C)."""
    values = logits.double().cpu()
    if data.task == "multilabel":
        return _numpy(values.sigmoid())
    if values.numel() == len(values):
        return _numpy(values.flatten().sigmoid())
    probabilities = values.softmax(1)
    return _numpy(probabilities[:, 1] if values.shape[1] == 2 else probabilities)


def _measure(training: Training) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores and test predictions at the selected and at the last epoch. The test part is looked at here and nowhere else."""
    state, parts, data, examples = training.state, training.parts, training.data, training.examples
    row: dict[str, float] = {}
    rows = {name: torch.from_numpy(getattr(parts, name)).to(examples.y.device) for name in PARTS}
    targets = {name: _numpy(examples.y[rows[name]]) for name in PARTS}
    predictions = {"test_index": torch.from_numpy(parts.test), "test_target": torch.from_numpy(targets["test"])}
    usable = state.best_epoch > 0
    found: dict[str, NDArray[np.float64]] = {}
    for suffix in ("_last", ""):
        broken = not usable if not suffix else state.diverged
        if not suffix and state.best_epoch != state.epoch:
            training.network.load_state_dict(training.best)
            found = {}
        if broken:
            found = {}
        elif not found:
            found = {n: _probabilities(training.logits(rows[n]), data) for n in PARTS}
        if not all(np.isfinite(s).all() for s in found.values()):
            # Finite while it was trained, and not on what it had not seen: that is a divergence like any other.
            state.diverged = broken = True
        for name in PARTS:
            # A network that diverged has no opinion; it is scored as the class frequencies of what it was fitted on.
            scores = _frequencies(data, parts, len(targets[name])) if broken else found[name]
            for metric, value in score(targets[name], scores, data.task).items():
                row[f"{name}_{metric}{suffix}"] = value
            if name == "test":
                predictions[f"test_score{suffix}"] = torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float32))
        row[f"gap{suffix}"] = row[f"train_accuracy{suffix}"] - row[f"validation_accuracy{suffix}"]
    return row, predictions


def _frequencies(data: Data, parts: Split, n: int) -> NDArray[np.float64]:
    if data.task == "multilabel":
        counted = data.y[parts.train] != 255
        present = (data.y[parts.train] == 1).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
        return np.tile(present, (n, 1))
    share = np.bincount(data.y[parts.train], minlength=len(data.classes)) / len(parts.train)
    return np.full(n, share[1]) if data.task == "binary" else np.tile(share, (n, 1))


def _top_5(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of the DSReLU paper's tables: the epochs with the highest score of any kind, which in its logs is always the
    train AUC and hence mostly the last, most over-fitted epochs."""
    names = [f"{part}_{metric}" for part in ("train", "validation") for metric in TOP_METRICS]
    scored = [e for e in history if all(isinstance(e.get(n), float) for n in names)]
    listed = sorted(scored, key=lambda e: max(e[n] for n in names), reverse=True)[:TOP]
    means = {f"top_5_{n}": float(np.mean([e[n] for e in listed])) if listed else None for n in names}
    return {**means, "top_5_epochs": " ".join(str(e["epoch"]) for e in listed)}
