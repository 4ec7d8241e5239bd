"""What a study is: frozen data that names everything that can change a number, and the plan of trials that follows from it.

Nothing here runs anything. :func:`plan` is a pure function of the study; a trial's key is a hash of its resolved values, so the
same command finds its results again, and a study with more repeats reuses the trials of one with fewer.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import itertools
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pliant import catalog
from pliant.activation import Activation
from pliant.coefficients import Learned
from pliant.errors import PliantError, unknown
from pliant.lab import datasets, models
from pliant.lab.datasets import Arrays, Data, Dataset, Detection, files
from pliant.lab.metrics import DETECTION
from pliant.lab.models import detection
from pliant.lab.network import construct, module_identity, source_identity
from pliant.lab.recipe import Frozen, Normalise, Optimizer, Protocol, Train, canonical, check_quirks

__all__ = [
    "CHOSEN",
    "FROZEN",
    "Component",
    "Custom",
    "Optimizer",
    "Protocol",
    "Study",
    "StudyError",
    "Train",
    "TrialSpec",
    "canonical",
    "plan",
    "spec_of",
    "spelled",
]

TRAINING_VERSION = 2
"""Bumped by hand when the training loop changes in a way that alters numbers; part of a trial's identity."""


MAX_TRIALS = 1_000_000
"""Beyond this a study is a slip of the pen, and its plan would fill the memory before anybody could say so."""


class StudyError(PliantError, ValueError):
    """A study that cannot be planned as it is written."""


CHOSEN = "best:"
"""What the name of an entrant that is chosen among candidates starts with, see :attr:`Study.select`."""


FROZEN = "frozen:"
"""What the name of an entrant that keeps what another training learned starts with, see :attr:`Study.activations`."""


class _Options(dict[str, Any]):
    """A dict that stays as it is, as everything in a study does."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError(f"the options of a study are frozen; make a new study with {key}={value!r}, for example by override()")

    __delitem__ = update = pop = clear = setdefault = __setitem__  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy and a pickle are filled at once; item by item they would meet the refusal.
        return type(self), (dict(self),)


class Component(Frozen):
    """A data set or a network by name, with its options."""

    name: str
    """Alone it may stand for the whole, as in ``model = "cnn"``."""
    options: Annotated[dict[str, bool | int | float | str | tuple[int | float, ...]], pydantic.AfterValidator(_Options)] = (
        Field(default_factory=dict)
    )
    """What it takes beside its name; ``pliant list`` shows them."""


_LATER = (
    *("share", "train.augment.scale", "train.augment.photometric", "train.world_size", "train.sync_batch_norm"),
    *("train.batch_norm", "train.label_smoothing"),
)
"""Fields of a trial that came after results were kept: at their defaults they change nothing, the key included."""


def _leave_out(values: dict[str, Any], model: type[BaseModel], paths: Iterable[str]) -> None:
    """Take the fields at ``paths`` out of a dump of ``model`` where they have their defaults."""
    for path in paths:
        *parents, name = path.split(".")
        part, fields = values, model.model_fields
        for parent in parents:
            part, fields = part[parent], fields[parent].annotation.model_fields  # type: ignore[union-attr]
        if part[name] == fields[name].get_default(call_default_factory=True):
            del part[name]


class TrialSpec(Frozen):
    """One training. Every field can change its numbers, and nothing that cannot is here."""

    dataset: Component
    data_sha256: str
    model: Component
    activation: str
    sources: dict[str, str] = Field(default_factory=dict)
    """What came from outside: sha256 of the source code of the user's own "network" and "activation", or the library and its
    version that a "network" is from; sha256 of the file of "weights" that a detector starts from."""
    design: Literal["kfold", "holdout", "official"] = "kfold"
    folds: int
    test: float | None = None
    validation: float | Literal["official"]
    share: float | None = None
    groups: bool = False
    normalise: Normalise = Normalise()
    seed: int
    repeat: int
    fold: int
    train: Train
    quirks: tuple[str, ...] = ()
    versions: dict[str, int]

    @property
    def frozen(self) -> bool:
        """Whether its coefficients are those that another trial has learned."""
        return self.activation.startswith(FROZEN)

    @functools.cached_property
    def key(self) -> str:
        """sha256 of the resolved values, in hex: where the store keeps the trial."""
        return hashlib.sha256(self._spelled().encode()).hexdigest()

    def at(self, places: Iterable[tuple[int, int]]) -> Iterator[TrialSpec]:
        """The same training at other repeats and folds. Its keys are put together and not worked out one by one, which for
        100,000 trials are seconds.

        Args:
            places: (repeat, fold), both from 0.
        """
        mark = self.model_copy(update={"fold": -1_000_001, "repeat": -1_000_002})
        # The names are sorted, so the fold comes first. An option may be such a number too: then nothing is put together.
        parts = re.split(f"{mark.fold}|{mark.repeat}", mark._spelled())
        for repeat, fold in places:
            spec = self.model_copy(update={"repeat": repeat, "fold": fold})
            if len(parts) == 3:
                spelled = f"{parts[0]}{fold}{parts[1]}{repeat}{parts[2]}"
                spec.__dict__["key"] = hashlib.sha256(spelled.encode()).hexdigest()
            yield spec

    def _spelled(self) -> str:
        values = self.model_dump(mode="json")
        # Where data lie on this machine changes no number: data_sha256 says what they are.
        values["dataset"]["options"].pop("path", None)
        if "weights" in self.sources:
            # Nor where a file of weights lies: sources hold what is in it.
            values["model"]["options"].pop("weights", None)
        _leave_out(values, type(self), _LATER)
        return canonical(values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        # A copy is made to be changed, and a key that was found before belongs to the original.
        copied.__dict__.pop("key", None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        copied.__dict__.pop("key", None)
        return copied


class Custom(BaseModel):
    """What a user brought as Python objects; travels to the workers beside the specs, never into a store."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    model: Callable[..., nn.Module] | None = None
    data: Data | Detection | None = None
    activations: dict[str, Callable[..., nn.Module]] = Field(default_factory=dict)


# fmt: off
Metric = Literal[
    "accuracy", "precision", "recall", "f1", "precision_weighted", "f1_weighted", "auc", "average_precision",
    "ap", "ap50", "ap75", "ap50_voc", "ap50_voc07",
]
# fmt: on


class Study(Frozen):
    """A comparison of activations: everything but the activation is the same on both sides.

    In Python, ``model`` may also be a function and ``data`` your own::

        Study(name="mine", model=build, data=(x, y), activations=["relu", "gelu", AReLU], folds=5, repeats=3)

    ``build(activation)`` returns the network; it calls ``activation()`` once for each call site, and may name the keywords
    ``input_shape`` and ``outputs`` to be told the shape of one example and how many numbers to return for it.

    The fields are the keys of a study file; ``pliant list keys`` lists them all. Beside names, ``dataset`` (or ``data``) takes
    arrays ``(x, y)``, a torch data set, the :class:`~pathlib.Path` of a folder with one folder of images for each class, or a
    :class:`~pliant.lab.datasets.Detection`; ``activations`` takes catalogue classes and your own module classes. The data say
    whether the study is one of classification or of detection. ``folds``, ``repeats``, ``seed``, ``epochs`` and ``batch_size``
    may be given directly.

    Where a network has an option ``dropout``, the share dropped, ``keep`` gives the share kept instead.

    Raises:
        StudyError: an unknown or ill-typed key; the message says which and what was expected.
        UnknownNameError: a data set, network, activation or quirk that does not exist.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    """Letters, digits, ``.``, ``_``, ``-``; also the name of the report's folder. That of the file where it is left out."""
    title: str = ""
    """Stands above results; default the name."""
    question: str = ""
    """What the comparison is to answer; stands under the title."""
    paper: str | None = None
    """The paper whose study it is."""
    dataset: Component
    """What to train on: a name of ``pliant list datasets``, with its options."""
    model: Component
    """A name of ``pliant list models``, with its options. For detection that of a detector."""
    activations: tuple[str, ...] = Field(min_length=1)
    """What is compared: specs such as ``srelu[beta=0.1]``, names of ``pliant list activations``. ``frozen:arelu`` is AReLU with
    coefficients that do not learn: each call site keeps those with which the training of ``arelu`` with the same weights, split
    and batches ended. That training is done first where the store lacks it, and its time does not count as the entrant's."""
    select: Annotated[dict[str, tuple[str, ...]], pydantic.AfterValidator(_Options)] = Field(default_factory=_Options)
    """Families of activations by name, each a list of candidates. Among ``activations`` ``best:<name>`` is then one entrant:
    for each repeat and fold that candidate whose validation loss is lowest (of detectors: whose validation AP is highest), and
    of it alone the test scores count. The candidates are trained like any other activation."""
    baseline: str = ""
    """What all others are compared with; default the first of ``activations``."""
    metric: Metric = "accuracy"
    """What the verdict is about; default accuracy, for detection ``ap``."""
    margin: float = Field(0.01, ge=0, lt=1)
    """Differences up to this size count as practically equal, in units of the metric."""
    protocol: Protocol = Protocol()
    train: Train = Train()
    thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Validation accuracies; the rows say after how many epochs, steps and seconds each was reached."""
    quirks: tuple[str, ...] = ()
    """What released code did that its paper does not say, see :data:`pliant.lab.recipe.QUIRKS`; shown wherever the results
    are."""
    tier: Literal["smoke", "lite", "full"] | None = None
    """The size at which a paper's study is run, see :data:`pliant.lab.papers.TIERS`; None for a study of your own. It changes
    no number by itself, so it is no part of a trial's identity."""
    overrides: tuple[str, ...] = ()
    """What the command line changed, as written there; shown wherever results are."""

    _custom: Custom = pydantic.PrivateAttr(default_factory=Custom)

    def __init__(self, /, **given: Any) -> None:
        plain, custom = _resolve(dict(given))
        try:
            super().__init__(**plain)
        except pydantic.ValidationError as error:
            raise StudyError(_explain(error, str(given.get("name", "?")))) from None
        object.__setattr__(self, "_custom", custom)

    @property
    def custom(self) -> Custom:
        return self._custom

    @property
    def directory(self) -> str:
        """The study's folder in a store: its name, marked where its size is reduced and where the command line changed it."""
        name = f"{self.name}.{self.tier}" if self.reduced else self.name
        if not self.overrides:
            return name
        values = self.model_dump(mode="json", exclude={"overrides", "title", "question", "tier"})
        values["activations"] = sorted(self.activations)
        # What nothing is chosen from changes nothing.
        values["select"] = self.families
        # Studies that were begun before are found again.
        _leave_out(values, Study, ["select", *(path for path in _LATER if path.startswith("train."))])
        return f"{name}.{hashlib.sha256(canonical(values).encode()).hexdigest()[:8]}"

    @property
    def reduced(self) -> bool:
        """Whether it is smaller than what its paper did, by its tier."""
        return self.tier in ("smoke", "lite")

    @property
    def heading(self) -> str:
        """What to call the study above its results: its title, and its tier where that is a reduced one."""
        return (self.title or self.name) + (f" ({self.tier} tier, reduced)" if self.reduced else "")

    @property
    def labels(self) -> dict[str, str]:
        """What to show for each activation, candidates included."""
        own = (*self.custom.activations, *self.families)
        found = {a: a.partition(":")[2] if a in own else _label(a) for a in dict.fromkeys([*self.activations, *self.trained])}
        shown = list(found.values())
        # A label has fewer digits than the spec.
        return {a: label if shown.count(label) == 1 else a for a, label in found.items()}

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The entrants that are chosen among candidates, and these."""
        return {a: self.select[a.removeprefix(CHOSEN)] for a in self.activations if a.startswith(CHOSEN)}

    @property
    def trained(self) -> tuple[str, ...]:
        """The activations that have trials: those that are compared themselves, then the candidates that are not."""
        families = self.families
        candidates = itertools.chain.from_iterable(families.values())
        return tuple(dict.fromkeys([*(a for a in self.activations if a not in families), *candidates]))

    def override(self, changes: Sequence[str]) -> Study:
        """The study with ``changes`` of the form ``train.epochs=20`` made; values are TOML, or plain text, and nothing at
        all (``train.patience=``) takes an optional value out.

        Raises:
            StudyError: a change without "=", or a key the study does not have.
        """
        if not changes:
            return self
        values = self.model_dump()
        begun: list[dict[str, Any]] = []
        for change in changes:
            path, sign, text = change.partition("=")
            if not sign:
                raise StudyError(f"--set was given {change!r}; expected key=value, for example --set train.epochs=20.")
            at: dict[str, Any] = values
            *parents, last = path.strip().split(".")
            for i, parent in enumerate(parents):
                if parent in at and at[parent] is None:
                    # A section that was left out; what it can hold is checked with the rest.
                    at[parent] = {}
                    begun.append(at[parent])
                if not isinstance(at.get(parent), dict):
                    raise StudyError(_no_key(".".join(parents[: i + 1]), at))
                at = at[parent]
            free = parents[-1:] == ["options"] or any(at is section for section in begun)
            if (last not in at and not free) or path.strip() == "overrides":
                raise StudyError(_no_key(path.strip(), at))
            at[last] = _toml(text.strip())
        values["overrides"] = (*self.overrides, *changes)
        return self._again(values)

    def only(self, activations: Sequence[str]) -> Study:
        """The study with another list of activations; the baseline comes first where it is not among them.

        Raises:
            UnknownNameError: an activation that does not exist.
        """
        if not activations:
            return self
        own = {_activation_name(a): a for a in self.custom.activations.values()}
        named = [a if isinstance(a, str) else _activation_name(a) for a in activations]
        wanted = [a if a in own else spelled(a) for a in named]
        names = dict.fromkeys([*([] if self.baseline in wanted else [self.baseline]), *wanted])
        return self._again(
            {**self.model_dump(), "activations": tuple(names), "overrides": (*self.overrides, *(f"-a {a}" for a in wanted))}
        )

    def _again(self, values: dict[str, Any]) -> Study:
        study = Study(**values)
        # What was brought as an object goes where the change names something else in its place.
        custom = Custom(
            model=self._custom.model if study.model == self.model else None,
            data=self._custom.data if study.dataset == self.dataset else None,
            activations=self._custom.activations,
        )
        object.__setattr__(study, "_custom", custom)
        return study

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a study file.

        Raises:
            StudyError: the file is missing, is not TOML, or does not describe a study.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"The study file {path} cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:
            # Beside its own errors tomllib passes on those of numbers with thousands of digits and of endless nesting.
            raise StudyError(f"The study file {path} is not valid TOML: {error}.") from None
        values.setdefault("name", path.stem)
        options = dataset.get("options") if isinstance(dataset := values.get("dataset"), dict) else None
        if isinstance(options, dict) and isinstance(options.get("path"), str):
            # A study file and its data move together.
            options["path"] = str(path.parent / Path(options["path"]).expanduser())
        options = model.get("options") if isinstance(model := values.get("model"), dict) else None
        if isinstance(options, dict) and _is_file(options.get("weights")):
            options["weights"] = str(path.parent / Path(options["weights"]).expanduser())
        return cls(**values)


_SHORT = {"folds": "protocol", "repeats": "protocol", "seed": "protocol", "epochs": "train", "batch_size": "train"}


def _resolve(given: dict[str, Any]) -> tuple[dict[str, Any], Custom]:
    """Split what a user wrote into plain data, which identifies the study, and Python objects, which do the work."""
    model, data = None, None
    acts: dict[str, Any] = {}
    if "data" in given:
        if "dataset" in given:
            raise StudyError("The study was given both data and dataset, which mean the same; give one of them.")
        given["dataset"] = given.pop("data")
    for short, section in _SHORT.items():
        if short in given:
            part = given.get(section, {})
            if not isinstance(part, BaseModel | Mapping):
                raise StudyError(
                    f"The study's {section} is {part!r}; expected a table of its keys, or a {section.title()} object."
                )
            part = part.model_dump() if isinstance(part, BaseModel) else dict(part)
            given[section] = {**part, short: given.pop(short)}

    dataset = given.get("dataset")
    if isinstance(dataset, str):
        given["dataset"] = Component(name=dataset)
    elif isinstance(dataset, Path):
        if not dataset.is_dir():
            raise StudyError(
                f"The study's data are the path {dataset}, which is no folder. Give a folder with one folder of images for "
                "each class; for a table give Component(name='csv', options={'path': ..., 'label': its column of classes})."
            )
        given["dataset"] = Component(name="folder", options={"path": str(dataset)})
    elif dataset is not None and not isinstance(dataset, Component | Mapping):
        data = dataset if isinstance(dataset, Detection) else Arrays.of(dataset).data
        given["dataset"] = Component(name="arrays", options={"sha256": data.fingerprint()})
    named = given.get("dataset")
    if isinstance(data, Detection) or (isinstance(named, Component) and _is_detection(named.name)):
        given.setdefault("metric", "ap")
    network = given.get("model")
    if isinstance(network, str):
        given["model"] = Component(name=network)
    elif isinstance(network, nn.Module):
        raise StudyError(
            f"The study was given a network of type {type(network).__name__} as its model; expected a function that builds "
            "one, because every trial needs a new one: def build(activation): return ..."
        )
    elif callable(network):
        model = network
        given["model"] = Component(name=_name(network), options={"source": source_identity(network)})

    quirks = given.get("quirks", ())
    if isinstance(quirks, str) or not isinstance(quirks, Iterable) or not all(isinstance(q, str) for q in quirks):
        raise StudyError(f"The study's quirks are {quirks!r}; expected a list such as ['double_softmax'].")
    given["quirks"] = check_quirks(tuple(quirks))

    listed = given.get("activations", ())
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise StudyError(f"The study's activations are {listed!r}; expected a list such as ['relu', 'arelu'].")
    names = []
    for item in listed:
        if not isinstance(item, str):
            name = _activation_name(item)
            if name not in catalog.ALL:
                if acts.get(name, item) is not item:
                    raise StudyError(
                        f"Two different activations of the study are called {name.removeprefix('own:')!r}, so their results "
                        "could not be told apart. Define each as a function or class with a name of its own."
                    )
                acts[name] = item
        else:
            name = spelled(item)
        names.append(name)
    given["activations"] = tuple(dict.fromkeys(names))
    given["select"] = _families(given.get("select") or {}, names)
    baseline = given.get("baseline") or (names[0] if names else "")
    baseline = _activation_name(baseline) if not isinstance(baseline, str) else baseline
    given["baseline"] = spelled(baseline) if baseline else ""
    if names and given["baseline"] not in names:
        raise StudyError(
            f"The baseline {given['baseline']!r} is not among the study's activations ({', '.join(names)}); add it to them or "
            "choose one of them."
        )
    return given, Custom(model=model, data=data, activations=acts)


def spelled(activation: str) -> str:
    """The spec of an activation in the one spelling that studies have.

    Another name with ":" than that of a frozen one is no spec and stays: a user's own class in a study that is read back, which
    resolves only next to that class, or an entrant that is chosen among candidates.

    Raises:
        UnknownNameError, DomainError: as :func:`pliant.catalog.parse`.
        StudyError: what is to be frozen learns nothing.
    """
    if not activation.startswith(FROZEN):
        return activation if ":" in activation else str(catalog.parse(activation))
    learned = activation.removeprefix(FROZEN)
    if ":" in learned:
        raise StudyError(
            f"The study's activation {activation!r} freezes {learned!r}; expected one of pliant list activations after "
            f"{FROZEN!r}, such as '{FROZEN}arelu'."
        )
    spec = catalog.parse(learned)
    made = [m for m in spec.create().modules() if isinstance(m, Activation)]
    if not any(isinstance(kind, Learned) for m in made for kind in m.kinds.values()):
        raise StudyError(
            f"The study's activation {activation!r} freezes {spec.label}, which learns no coefficient, so that it would be the "
            f"same function twice. Give {str(spec)!r}, or one that learns, such as '{FROZEN}arelu'."
        )
    return f"{FROZEN}{spec}"


def spec_of(activation: str) -> catalog.Spec:
    """The catalogue's spec of an entrant that has one: of a frozen one, that of what learned its coefficients."""
    return catalog.parse(activation.removeprefix(FROZEN))


def _is_own(activation: str) -> bool:
    """Whether it is, by its name, a class or function of the user's."""
    return ":" in activation and not activation.startswith(FROZEN)


def _label(activation: str) -> str:
    return f"{spec_of(activation).label}{', frozen' if activation.startswith(FROZEN) else ''}"


def _families(select: Any, activations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(select, Mapping) or not all(
        isinstance(c, list | tuple) and c and all(isinstance(a, str) and ":" not in a for a in c) for c in select.values()
    ):
        raise StudyError(
            f"The study's select is {select!r}; expected names with lists of activations to choose among, such as "
            "{'SReLU': ['srelu[beta=0.1]', 'srelu[beta=1]']}."
        )
    for name in (a.removeprefix(CHOSEN) for a in activations if a.startswith(CHOSEN)):
        if name not in select:
            raise StudyError(
                f"The activation {CHOSEN + name!r} is to be chosen among candidates, but select has no {name!r}; it has "
                f"{', '.join(map(repr, select)) or 'nothing'}. Give select = {{{name!r} = ['...', '...']}}."
            )
    return {str(name): tuple(dict.fromkeys(map(spelled, candidates))) for name, candidates in select.items()}


def _activation_name(item: Any) -> str:
    for name, entry in catalog.ALL.items():
        if entry.factory is item:
            return name
    if isinstance(item, nn.Module):
        raise StudyError(
            f"The study was given the activation object {item!r}; expected a name, a class or a function that makes a new one, "
            "because every call site of every trial needs its own: def mine(): return ..."
        )
    if not callable(item):
        raise StudyError(f"The study was given {item!r} as an activation; expected a name such as 'relu', or a module class.")
    return f"own:{_name(item)}"


def _name(thing: Any) -> str:
    """What a user's function or class is called, wherever it is defined: a script and its import are the same thing."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return str(getattr(thing, "__qualname__", type(thing).__qualname__)).rpartition("<locals>.")[2]


def _toml(text: str) -> Any:
    if not text:
        # TOML has no null; "train.patience=" takes the key out.
        return None
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def _no_key(path: str, siblings: Iterable[str]) -> str:
    name = path.rpartition(".")[2]
    siblings = sorted({*siblings} - {"overrides"})
    near = difflib.get_close_matches(name, siblings, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"A study has no key {path!r}. {hint}Here it has: {', '.join(siblings) or 'none'}. pliant list keys lists all."


def _explain(error: pydantic.ValidationError, name: str) -> str:
    """One line a mistake, naming the key as the user wrote it."""
    lines = []
    for item in error.errors():
        path = [str(p) for p in item["loc"] if p != "__root__"]
        if item["type"] == "extra_forbidden":
            section: Any = Study
            for part in path[:-1]:
                annotation = section.model_fields[part].annotation
                # An optional section is a union with None.
                section = next((a for a in typing.get_args(annotation) if hasattr(a, "model_fields")), annotation)
            short = _SHORT if section is Study else {}
            lines.append(_no_key(".".join(path), [f for f in (*section.model_fields, *short) if f != "overrides"]))
        elif item["type"] == "missing":
            lines.append(f"The key {'.'.join(path)!r} is missing.")
        else:
            given = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
            lines.append(f"{'.'.join(path)}{given}: {item['msg'].lower().removeprefix('value error, ')}.")
    return f"The study {name!r} cannot be used. " + " ".join(lines)


def dataset_of(component: Component) -> Dataset:
    """The class of a data set by name.

    Raises:
        UnknownNameError: there is none.
    """
    if component.name not in datasets.ALL:
        raise unknown("data set", component.name, datasets.ALL)
    return datasets.ALL[component.name]


def _with_defaults(component: Component) -> Component:
    """A data set with every option written out: a default that a user wrote is no other data set."""
    options = _check_options("dataset", component, dataset_of(component).load)
    return Component(name=component.name, options={**options, **component.options})


def dataset_with(name: str, changes: Sequence[str] = ()) -> tuple[Dataset, dict[str, Any]]:
    """A data set by name, and its options from ``changes`` of the form ``size=128``.

    Raises:
        UnknownNameError: there is no such data set. StudyError: a change without "=", or an option it does not have.
    """
    given = {}
    for change in changes:
        key, sign, text = change.partition("=")
        if not sign:
            raise StudyError(f"--set was given {change!r}; expected option=value, for example --set size=128.")
        given[key.strip()] = _toml(text.strip())
    component = Component(name=name, options=given)
    if given:
        _with_defaults(component)
    return dataset_of(component), given


def _is_detection(name: str) -> bool:
    return getattr(datasets.ALL.get(name), "task", None) == "detection"


def _is_file(weights: object) -> bool:
    """Whether the option ``weights`` of a detector is the path of a file: "" are random ones, "torchvision" the official."""
    return isinstance(weights, str) and weights not in ("", "torchvision")


_loaded: dict[str, Data | Detection] = {}


def release_data() -> None:
    """Let go of the data that :func:`data_of` has read; it reads them again."""
    _loaded.clear()


def data_of(component: Component, custom: Custom) -> Data | Detection:
    """The user's own data, or those that ``component`` names, read once in a process.

    Raises:
        UnknownNameError: there is no such data set. StudyError: an option it does not have. DataError: it cannot be used.
    """
    if custom.data is not None:
        return custom.data
    named = _with_defaults(component)
    # A session outlives the files it has read: what lies elsewhere or was changed since is read again.
    path = named.options.get("path")
    key = canonical(
        [named.model_dump(mode="json"), str(files.root()), files.stamp(Path(path)) if isinstance(path, str) else ""]
    )
    if key not in _loaded:
        _loaded[key] = dataset_of(named).load(**named.options)
    return _loaded[key]


def plan(study: Study) -> tuple[TrialSpec, ...]:
    """The trials of a study, fold by fold: any prefix compares the activations on (nearly) equal terms.

    Raises:
        UnknownNameError: the study names a data set or a network that does not exist.
        StudyError: it was read back without the Python objects that it was made with.
    """
    custom, named = study.custom, study.dataset
    versions = {"training": TRAINING_VERSION}
    of_activation = {a: spec_of(a).entry.version for a in study.trained if not _is_own(a)}
    if custom.data is not None:
        fingerprint = custom.data.fingerprint()
    elif study.dataset.name == "arrays":
        raise StudyError(f"The study {study.name!r} was made with arrays, which a file cannot hold; run it from Python again.")
    else:
        dataset = dataset_of(study.dataset)
        versions["dataset"] = dataset.version
        named = _with_defaults(study.dataset)
        fingerprint = getattr(dataset, "sha256", None) or data_of(named, custom).fingerprint()
    detects = isinstance(custom.data, Detection) or _is_detection(study.dataset.name)
    _check_task(study, detects)
    _check_frozen(study)
    if detects:
        model, sources = _detector(study.model)
        versions["model"] = detection.VERSIONS[study.model.name]
    else:
        model, sources = _network(study, versions)
    _check_quirks(study)
    p = study.protocol
    rates = len(study.train.lr_grid) or 1
    if p.repeats * p.folds * len(study.trained) * rates > MAX_TRIALS:
        grid = f" and {rates} learning rates" if study.train.lr_grid else ""
        raise StudyError(
            f"The study {study.name!r} has {len(study.trained)} activations, {p.folds} folds, {p.repeats} repeats{grid}, "
            f"which are more than {MAX_TRIALS:,} trials. Lower protocol.repeats or protocol.folds, or make several studies."
        )
    share = 0.2 if p.design == "holdout" and p.test is None else p.test
    recipes = [study.train.resolved(lr) for lr in study.train.lr_grid] or [study.train.resolved()]
    identities = {name: [source_identity(factory), _identity_of(factory, name)] for name, factory in custom.activations.items()}
    trials = []
    for recipe, activation in itertools.product(recipes, study.trained):
        own = dict(sources)
        if activation in custom.activations:
            own["activation"], own["activation_module"] = identities[activation]
        elif _is_own(activation):
            raise StudyError(f"The activation {activation!r} is a class that only the program that made the study has.")
        first = TrialSpec(
            dataset=named,
            data_sha256=fingerprint,
            model=model,
            activation=activation,
            sources=own,
            design=p.design,
            folds=p.folds,
            test=share,
            validation=p.validation,
            share=p.share,
            groups=p.groups,
            # A detector normalises its images itself.
            normalise=Normalise(kind="none") if detects else p.resolved_normalise,
            seed=p.seed,
            repeat=0,
            fold=0,
            train=recipe,
            quirks=study.quirks,
            versions={**versions, "activation": of_activation.get(activation, 0)},
        )
        trials.append(first.at(itertools.product(range(p.repeats), range(p.folds))))
    return tuple(itertools.chain.from_iterable(zip(*trials, strict=True)))


def _network(study: Study, versions: dict[str, int]) -> tuple[Component, dict[str, str]]:
    """The network of a classification with every option, and where it is from; its version is added to ``versions``."""
    custom, sources = study.custom, {}
    if custom.model is None:
        function = models.find(study.model.name)
        versions["model"] = models.version(study.model.name)
        if ":" in study.model.name:
            sources["network"] = models.external.release(study.model.name)
        given = _with_dropout(study.model, function)
        defaults = _check_options("model", given, function)
        # With the defaults filled in, a default that is written out is no other trial.
        options = {**defaults, **given.options}
        for name in models.LATER.get(study.model.name, ()):
            if options[name] == defaults[name]:
                del options[name]
        return Component(name=study.model.name, options=options), sources
    data = data_of(study.dataset, custom)
    assert isinstance(data, Data)
    example = torch.tensor(data.x[:2], dtype=torch.get_default_dtype())
    several = data.task == "multilabel"
    network, _ = construct(custom.model, nn.Identity, example, len(data.classes), {}, 0, study.model.name, multilabel=several)
    sources["network"] = module_identity(network)
    return study.model, sources


def _detector(component: Component) -> tuple[Component, dict[str, str]]:
    """A detector with every option, and where its weights are from."""
    defaults = _check_options("model", component, detection.find(component.name))
    options = {**defaults, **component.options}
    if not _is_file(weights := options.get("weights")):
        return Component(name=component.name, options=options), {}
    try:
        with Path(str(weights)).expanduser().open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(
            f"model.options.weights is {weights!r}, which cannot be read: {error.strerror}. Expected '' for random weights, "
            "'torchvision' for its official ones, or the file of a backbone's state_dict."
        ) from None
    return Component(name=component.name, options=options), {"weights": digest}


def _check_task(study: Study, detects: bool) -> None:
    """Classification and detection share a study's keys; what the other task alone has would silently do nothing."""
    if not detects:
        if study.model.name in detection.ALL and study.custom.model is None:
            raise StudyError(
                f"The study's network {study.model.name!r} is a detector, and {study.dataset.name!r} has no boxes; use data "
                "such as 'voc-detection', or a network that classifies."
            )
        if study.metric in DETECTION:
            raise StudyError(f"metric = {study.metric!r} is of detection; for classes give one such as 'accuracy'.")
        if study.train.augment.scale is not None or study.train.augment.photometric:
            raise StudyError("train.augment.scale and .photometric are of detection; for classes there are padding and flip.")
        return
    if study.custom.model is not None or study.model.name not in detection.ALL:
        raise StudyError(
            f"The data set {study.dataset.name!r} is one for detection: boxes in images. Its networks are "
            f"{', '.join(detection.ALL)}; {study.model.name!r} is none of them."
        )
    train, p = study.train, study.protocol
    wrong = {
        f"metric = {study.metric!r}": study.metric not in DETECTION,
        "thresholds": bool(study.thresholds),
        "train.augment.padding": train.augment.padding > 0,
        "train.train_scores": train.train_scores != "running",
        "train.batch_norm": train.batch_norm != "running",
        "train.label_smoothing": train.label_smoothing > 0,
        "protocol.groups": p.groups,
        "protocol.normalise": p.standardise is not None or p.normalise is not None,
    }
    wrong |= {f"train.speed = {s!r}": s not in ("tf32", "cudnn_benchmark") for s in train.speed}
    wrong |= {f"the activation {a}": a.startswith(FROZEN) for a in study.trained}
    wrong |= {f"the quirk {q}": q not in ("test_on_64_images", "test_as_validation", "released_tie_rule") for q in study.quirks}
    if named := [key for key, found in wrong.items() if found]:
        raise StudyError(
            f"The study is one of detection, and has no use for {' and '.join(named)}. Its metrics are {', '.join(DETECTION)}; "
            "its augmentations are flip, scale and photometric; detectors normalise images themselves."
        )


def _with_dropout(component: Component, function: Callable[..., Any]) -> Component:
    """The share kept, which TensorFlow 1 and figure 5 of the AAF paper speak of, as the share dropped."""
    known, given = inspect.signature(function).parameters, component.options
    if "keep" not in given or "keep" in known or "dropout" not in known:
        return component
    keep = given["keep"]
    if "dropout" in given:
        raise StudyError(f"model.options has both dropout = {given['dropout']!r} and keep = {keep!r}; give one of them.")
    if isinstance(keep, bool | str | tuple) or not 0 < keep <= 1:
        raise StudyError(f"model.options.keep was given as {keep!r}; expected the share of units kept, above 0 and at most 1.")
    # 1 - 0.9 is 0.09999999999999998, which would be another trial than dropout = 0.1.
    return Component(
        name=component.name, options={**{k: v for k, v in given.items() if k != "keep"}, "dropout": round(1 - keep, 12)}
    )


def _check_quirks(study: Study) -> None:
    """A quirk that cannot change anything here is a misunderstanding, and would still be printed above the results."""
    entries = [spec_of(a) for a in study.trained if not _is_own(a)]
    if "released_tie_rule" in study.quirks and not any(_plain_arelu(e) for e in entries):
        raise StudyError(
            "The quirk released_tie_rule starts AReLU from (1, 1, 0, 0), but the study has no plain 'arelu'. Add it, or leave "
            "the quirk out ('arelu[released]' has that start without it)."
        )
    if "slope_on_stem_only" in study.quirks and not any(getattr(e.create(), "scheduled", None) for e in entries):
        raise StudyError(
            "The quirk slope_on_stem_only holds scheduled coefficients still, but no activation of the study has one. Add "
            "'dsrelu[released]', or leave the quirk out."
        )
    if "batch_statistics_at_test" in study.quirks and study.train.batch_norm != "running":
        raise StudyError(
            "The quirk batch_statistics_at_test uses no averages, so train.batch_norm = 'recomputed' has no effect beside it. "
            "Leave one of them out."
        )
    if study.protocol.validation == 0 and "test_as_validation" not in study.quirks:
        raise StudyError(
            "protocol.validation is 0, which leaves nothing to choose the epoch on. Give a share such as 0.1; only the quirk "
            "test_as_validation does without one."
        )


def _check_frozen(study: Study) -> None:
    frozen = [a for a in study.trained if a.startswith(FROZEN)]
    if frozen and study.train.world_size > 1:
        raise StudyError(
            f"The activation {frozen[0]!r} keeps what another training learned, which a single process can; leave it out, or "
            f"give train.world_size = 1 in place of {study.train.world_size}."
        )


def _plain_arelu(spec: catalog.Spec) -> bool:
    return str(spec) == "arelu"


def _identity_of(factory: Callable[..., nn.Module], name: str) -> str:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = factory()
    except PliantError:
        raise
    except Exception as error:
        raise StudyError(
            f"The activation {name.removeprefix('own:')} cannot be made: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(module, nn.Module):
        raise StudyError(
            f"The activation {name.removeprefix('own:')} made {type(module).__name__}, but a torch.nn.Module was expected. "
            "Give the class itself, or a function that returns a new module."
        )
    return module_identity(module)


def _check_options(section: str, component: Component, function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a component's options, once those given are known, complete and of the types that are declared."""
    # A network of a library is a function with its name filled in.
    hints = typing.get_type_hints(getattr(function, "func", function))
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    # The lab itself tells a network the shape of its data.
    told = ("input_shape", "outputs", "classes", "anchors") if section == "model" else ()
    options = {p.name: p.default for p in parameters if p.name not in told}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    for option, value in component.options.items():
        if option not in options:
            if passes_on:
                continue
            raise StudyError(_no_key(f"{section}.options.{option}", options))
        choices = typing.get_args(hints[option]) if typing.get_origin(hints[option]) is Literal else ()
        kinds = dict.fromkeys([type(c) for c in choices] or [_plain(t) for t in alternatives(hints[option])])
        if type(value) not in [*kinds, *([int] if float in kinds else [])] or (choices and value not in choices):
            named = [t.__name__ for t in kinds if t is not type(None)]
            wanted = " or ".join(map(repr, choices)) or " or ".join(named)
            default = "" if options[option] is inspect.Parameter.empty else f", such as the default {options[option]!r}"
            raise StudyError(f"{section}.options.{option} was given as {value!r}; expected {wanted}{default}.")
    lacking = [o for o, default in options.items() if default is inspect.Parameter.empty and o not in component.options]
    if lacking:
        raise StudyError(
            f"The {section} {component.name!r} needs the option{'s' * (len(lacking) > 1)} {', '.join(lacking)}; give "
            f"{section} = {{name = {component.name!r}, options = {{{', '.join(f'{o} = ...' for o in lacking)}}}}}."
        )
    # None stands for a default that the network works out from its other options.
    return {o: default for o, default in options.items() if default is not inspect.Parameter.empty and default is not None}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one that it is."""
    # A union with a Literal in it is typing's own, another one the language's.
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _plain(hint: Any) -> type:
    """What a value of an option is in a study: a sequence is a tuple there."""
    return tuple if typing.get_origin(hint) in (tuple, Sequence) else hint


def activation_factory(spec: TrialSpec, custom: Custom) -> Callable[[], nn.Module]:
    """What makes a new activation for one call site of a trial."""
    if spec.activation in custom.activations:
        return custom.activations[spec.activation]
    chosen = spec_of(spec.activation)
    if "released_tie_rule" in spec.quirks and _plain_arelu(chosen):
        chosen = catalog.parse("arelu[released]")
    return chosen.create
