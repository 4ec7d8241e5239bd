"""A module's forward with some calls redirected, from its own source: control flow, defaults and globals stay what they were.

Tracing would freeze whatever Python decides while it runs - ``self.training``, drop rates, optional arguments, checkpointing.
So the source is kept and only the calls in question are exchanged, found by their position, which the interpreter knows for
every frame. The result is ordinary Python: torch.compile and torch.export read it as they read the original.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, ClassVar, NoReturn, TypeAlias

from torch import Tensor, nn

from pliant.swap.errors import SwapError
from pliant.swap.frames import Chain

__all__ = ["PerCall", "Recipe", "Rewritten", "Sites", "Slot", "recipe_for"]

_HANDLE = "__pliant__"
_FUTURE = functools.reduce(lambda a, b: a | b, (getattr(__future__, n).compiler_flag for n in __future__.all_feature_names))
Position: TypeAlias = tuple[int, int]


class Sites(nn.ModuleDict):
    """The activations of the functional calls in one module's forward, by name."""


class PerCall(nn.ModuleList):
    """What stands in place of one activation that a model calls at several places: one module for each place."""

    _dispatch: ClassVar[Callable[[PerCall, Tensor], Tensor] | None] = None
    """How an intercepted forward finds the place; set by the module that knows how."""

    def forward(self, x: Tensor) -> Tensor:
        """Not to be called as one.

        Raises:
            SwapError: outside of an intercepted forward; the way past the places that were planned must not go unnoticed.
        """
        dispatch = type(self)._dispatch
        return self._refuse() if dispatch is None else dispatch(self, x)

    def _refuse(self) -> NoReturn:
        raise SwapError(
            f"One activation was exchanged for {len(self)}, one for each place that calls it, and is now called from a "
            "place that the plan never saw. Give pliant.plan an example that goes there, or parameters='module' to share one."
        )


@dataclass(frozen=True)
class Slot:
    """One call in the source: what is expected there, and the names of what is called instead, in the order of the calls."""

    form: str
    expected: Any
    names: tuple[str | int, ...]
    inplace: bool = False

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a slot without a name")


@dataclass(frozen=True)
class Recipe:
    """A function and the calls in it that are redirected: to a slot, or to a function that is redirected itself.

    Positions are relative to the first line of the function.
    """

    function: FunctionType
    slots: dict[Position, Slot] = field(default_factory=dict)
    inner: dict[Position, Recipe] = field(default_factory=dict)
    digest: str = ""


# --- from source ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _functions_in(filename: str, digest: str) -> dict[tuple[int, str], tuple[ast.AST, tuple[str, ...]]]:
    found: dict[tuple[int, str], tuple[ast.AST, tuple[str, ...]]] = {}

    def walk(node: ast.AST, classes: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inside = classes
            if isinstance(child, ast.FunctionDef):
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                found[first, child.name] = (child, classes)
                inside = ()
            elif isinstance(child, ast.ClassDef):
                inside = (child.name,)
            walk(child, inside)

    walk(ast.parse("".join(linecache.getlines(filename))), ())
    return found


def _digest(code: CodeType) -> str:
    return hashlib.sha256("".join(linecache.getlines(code.co_filename)).encode()).hexdigest()[:16]


def _definition(code: CodeType) -> tuple[ast.FunctionDef, tuple[str, ...]] | None:
    if not linecache.getlines(code.co_filename):
        return None
    try:
        found = _functions_in(code.co_filename, _digest(code)).get((code.co_firstlineno, code.co_name))
    except SyntaxError:
        return None
    return found  # type: ignore[return-value]


def body_digest(function: FunctionType) -> str | None:
    """A hash of the function's source, without its position in the file; None without a source."""
    found = _definition(function.__code__)
    return hashlib.sha256(ast.dump(found[0]).encode()).hexdigest()[:16] if found else None


def is_discarded(code: CodeType, end: Position) -> bool:
    """Whether the result of the call that ends at ``end`` is thrown away, as in a line ``x.relu_()``."""
    found = _definition(code)
    return found is not None and any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and (node.value.end_lineno, node.value.end_col_offset) == end
        for node in ast.walk(found[0])
    )


class _Redirect(ast.NodeTransformer):
    def __init__(self, recipe: Recipe, numbers: dict[int, int]) -> None:
        self.first = recipe.function.__code__.co_firstlineno
        self.recipe = recipe
        self.numbers = numbers
        self.done: set[Position] = set()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        end = (node.end_lineno - self.first, node.end_col_offset)
        if slot := self.recipe.slots.get(end):
            self.done.add(end)
            number = ast.Constant(self.numbers[id(slot)])
            if slot.form == "method" and isinstance(node.func, ast.Attribute):
                # Split, so that no bound method of a tensor is handed around: compilers follow the plain form.
                head = [number, node.func.value, ast.Constant(node.func.attr)]
                new = ast.Call(_attribute("method"), [*head, *node.args], node.keywords)
            else:
                new = ast.Call(_attribute("call"), [number, node.func, *node.args], node.keywords)
            return ast.copy_location(new, node)
        if inner := self.recipe.inner.get(end):
            self.done.add(end)
            number = ast.Constant(self.numbers[id(inner)])

            def through(value: ast.expr) -> ast.expr:
                # The function may be called by whoever is called here: checkpoint(self._inner, x).
                if isinstance(value, ast.Starred | ast.Constant):
                    return value
                return ast.copy_location(ast.Call(_attribute("inner"), [number, value], []), value)

            # Only plain names and attributes can be a function that is handed on; the rest keeps its form.
            node.args = [through(a) if isinstance(a, ast.Name | ast.Attribute) else a for a in node.args]
            node.func = through(node.func)
            return node
        return node


def _attribute(name: str) -> ast.Attribute:
    return ast.Attribute(ast.Name(_HANDLE, ast.Load()), name, ast.Load())


def _compile(recipe: Recipe, numbers: dict[int, int]) -> CodeType:
    code = recipe.function.__code__
    found = _definition(code)
    if found is None:
        raise SwapError(f"The source of {code.co_qualname} cannot be read, so its calls cannot be redirected.")
    definition, classes = copy.deepcopy(found[0]), found[1]
    definition.decorator_list = []
    redirect = _Redirect(recipe, numbers)
    definition.body = [redirect.visit(statement) for statement in definition.body]
    if redirect.done != {*recipe.slots, *recipe.inner}:
        raise SwapError(f"The source of {code.co_qualname} is not the one that ran.")
    definition.args.kwonlyargs.append(ast.arg(_HANDLE))
    definition.args.kw_defaults.append(None)
    body: ast.stmt = definition
    for name in classes:
        # Inside a class of the same name, so that self.__private and super() mean what they meant.
        body = ast.ClassDef(name=name, bases=[], keywords=[], body=[body], decorator_list=[])
    free = [ast.arg(n) for n in code.co_freevars if n != "__class__"]
    arguments = ast.arguments(posonlyargs=[], args=free, kwonlyargs=[], kw_defaults=[], defaults=[])
    factory = ast.FunctionDef(name="factory", args=arguments, body=[body], decorator_list=[])
    module = ast.fix_missing_locations(ast.copy_location(ast.Module([factory], []), definition))
    compiled = compile(module, code.co_filename, "exec", flags=code.co_flags & _FUTURE, dont_inherit=True)
    for inner in _codes(compiled):
        if inner.co_name == code.co_name and _HANDLE in inner.co_varnames[: inner.co_argcount + inner.co_kwonlyargcount]:
            return inner
    raise SwapError(f"The source of {code.co_qualname} could not be compiled anew.")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


_ORIGINAL: dict[CodeType, FunctionType] = {}


def original(function: FunctionType) -> FunctionType:
    """The function as it was written, for one that was redirected."""
    return _ORIGINAL.get(function.__code__, function)


def original_of_code(code: CodeType) -> FunctionType | None:
    """The function as it was written, for the code of one that was redirected."""
    return _ORIGINAL.get(code)


def _function(recipe: Recipe, numbers: dict[int, int]) -> FunctionType:
    old = recipe.function
    code = _compile(recipe, numbers)
    _ORIGINAL[code] = old
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
    new = FunctionType(code, old.__globals__, old.__name__, old.__defaults__, tuple(cells[n] for n in code.co_freevars))
    new.__kwdefaults__ = old.__kwdefaults__
    new.__module__ = old.__module__
    new.__qualname__ = old.__qualname__
    return new


# --- at run time ------------------------------------------------------------------------------------------------------


class Rewritten:
    """A redirected forward: stands in an instance's ``forward`` and can be copied and pickled with it.

    It is not a bound method, because a bound method pickles as its name, and under that name a fresh process finds the old
    forward. This one carries the recipe, and refuses to load where the source has become another.
    """

    def __init__(self, owner: nn.Module, recipe: Recipe, host: nn.Module) -> None:
        self.owner = owner
        self.host = host
        self.recipe = recipe
        self._build()

    def _build(self) -> None:
        self._slots: list[Slot] = []
        self._recipes: list[Recipe] = []
        numbers: dict[int, int] = {}

        def number(recipe: Recipe) -> None:
            for slot in recipe.slots.values():
                numbers[id(slot)] = len(self._slots)
                self._slots.append(slot)
            for inner in recipe.inner.values():
                numbers[id(inner)] = len(self._recipes)
                self._recipes.append(inner)
                number(inner)

        number(self.recipe)
        self._function = _function(self.recipe, numbers)
        self._inner = [_function(r, numbers) for r in self._recipes]
        self._originals = [r.function for r in self._recipes]
        self._counts = any(len(s.names) > 1 for s in self._slots)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handle = _Counting(self) if self._counts else self
        return self._function(self.owner, *args, __pliant__=handle, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.recipe.function.__get__(self.owner))

    @property
    def __name__(self) -> str:
        return "forward"

    @property
    def __code__(self) -> CodeType:
        # torch.export reads it to tell the user where a model comes from.
        return self.recipe.function.__code__

    def __getstate__(self) -> dict[str, Any]:
        return {"owner": self.owner, "host": self.host, "recipe": self.recipe}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _require_same_source(self.recipe)
        self._build()

    def __deepcopy__(self, memo: dict[int, Any]) -> Rewritten:
        new = Rewritten.__new__(Rewritten)
        memo[id(self)] = new
        # The host may be an ancestor that is not being copied itself: what is cut out of a model then takes it along.
        new.owner = copy.deepcopy(self.owner, memo)
        new.host = copy.deepcopy(self.host, memo)
        new.recipe = self.recipe
        new._build()
        return new

    # What the redirected source calls.

    def call(self, number: int, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A function, or a module, at a slot."""
        return _call(self, self._slots[number], 0, function, args, kwargs)

    def method(self, number: int, value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """A method of a tensor at a slot."""
        return _method(self, self._slots[number], 0, value, name, args, kwargs)

    def inner(self, number: int, function: Any) -> Any:
        """A function on the way to a slot, redirected; anything else as it is."""
        return _inner(self, self, number, function)


class _Counting:
    """One run of a redirected forward in which some line runs several times: which time it is."""

    def __init__(self, rewritten: Rewritten) -> None:
        self.rewritten = rewritten
        self.times = [0] * len(rewritten._slots)

    def _next(self, number: int) -> int:
        self.times[number] += 1
        return self.times[number] - 1

    def call(self, number: int, function: Any, *args: Any, **kwargs: Any) -> Any:
        return _call(self.rewritten, self.rewritten._slots[number], self._next(number), function, args, kwargs)

    def method(self, number: int, value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return _method(self.rewritten, self.rewritten._slots[number], self._next(number), value, name, args, kwargs)

    def inner(self, number: int, function: Any) -> Any:
        return _inner(self.rewritten, self, number, function)


def _name_at(slot: Slot, time: int) -> str | int:
    if time >= len(slot.names):
        if len(set(slot.names)) == 1:
            return slot.names[0]
        raise SwapError(
            f"A line of the model calls its activation for the {time + 1}th time in one forward, but ran {len(slot.names)} "
            "times when the swap was planned, and each time has parameters of its own. Plan with an example of this size, or "
            "with parameters='module'."
        )
    return slot.names[time]


def _apply(module: nn.Module, x: Tensor, inplace: bool) -> Any:
    if inplace:
        # The result has to be in x, but what the activation keeps for its gradient must not be overwritten.
        x.copy_(module(x.clone()))
        return x
    return module(x)


def _call(owner: Rewritten, slot: Slot, time: int, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if slot.form == "module":
        if not isinstance(function, PerCall):
            return function(*args, **kwargs)
        module = function[int(_name_at(slot, time))]
    elif function is slot.expected or (isinstance(slot.expected, type) and type(function) is slot.expected):
        module = _sites(owner)[str(_name_at(slot, time))]
    else:
        return function(*args, **kwargs)
    return _apply(module, args[0] if args else kwargs["input"], slot.inplace)


def _method(
    owner: Rewritten, slot: Slot, time: int, value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not isinstance(value, Tensor):
        return getattr(value, name)(*args, **kwargs)
    return _apply(_sites(owner)[str(_name_at(slot, time))], value, slot.inplace)


def _inner(owner: Rewritten, handle: Any, number: int, function: Any) -> Any:
    plain = getattr(function, "__func__", function)
    if plain is not owner._originals[number]:
        return function
    bound = getattr(function, "__self__", None)
    if bound is None:
        return functools.partial(owner._inner[number], __pliant__=handle)
    return functools.partial(owner._inner[number], bound, __pliant__=handle)


def _sites(owner: Rewritten) -> Any:
    return owner.host.activation_sites


def _require_same_source(recipe: Recipe) -> None:
    if recipe.digest and body_digest(recipe.function) != recipe.digest:
        raise SwapError(
            f"The source of {recipe.function.__module__}.{recipe.function.__qualname__} is not the one that this model was "
            "swapped with, so the swap cannot be put back. Load it with the version it was saved with, call pliant.restore_, "
            "and swap again; or swap a new model and load the state_dict."
        )
    for inner in recipe.inner.values():
        _require_same_source(inner)


# --- making recipes ---------------------------------------------------------------------------------------------------


def _is_nested(inner: CodeType, outer: CodeType) -> bool:
    return any(c is inner for c in _codes(outer))


def _resolve(code: CodeType, owner: nn.Module) -> FunctionType | None:
    if known := original_of_code(code):
        return known
    for cls in type(owner).__mro__:
        for value in vars(cls).values():
            plain = getattr(value, "__func__", value)
            if getattr(plain, "__code__", None) is code:
                return plain  # type: ignore[no-any-return]
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == code.co_filename:
            found: Any = module
            for name in code.co_qualname.split("."):
                found = getattr(found, name, None)
            plain = getattr(found, "__func__", found)
            if getattr(plain, "__code__", None) is code:
                return plain  # type: ignore[no-any-return]
    return None


def steps(chain: Chain, owner: nn.Module) -> list[tuple[FunctionType, Position]] | None:
    """A way to a call as functions whose source can be changed, each with the position in it; None if there is no such way."""
    found: list[tuple[FunctionType, CodeType, Position]] = []
    for link in chain:
        if link.is_torchs:
            continue
        end = (link.line, link.column)
        if found and _is_nested(link.code, found[-1][1]):
            found[-1] = (found[-1][0], found[-1][1], end)
            continue
        function = _resolve(link.code, owner)
        if not isinstance(function, FunctionType) or _definition(function.__code__) is None:
            return None
        found.append((function, link.code, end))
    if not found or found[0][0] is not original(getattr(type(owner), "forward", None)):  # type: ignore[arg-type]
        return None
    return [(f, (line - f.__code__.co_firstlineno, column)) for f, _, (line, column) in found]


def recipe_for(calls: list[tuple[list[tuple[FunctionType, Position]], Slot]], start: Recipe | None = None) -> Recipe:
    """One recipe for all redirected calls of a module's forward.

    Args:
        calls: for each line, the way to it and what comes there.
        start: what was redirected before, and stays so.
    """
    function = calls[0][0][0][0]
    slots = dict(start.slots) if start else {}
    inner = dict(start.inner) if start else {}
    deeper: dict[Position, list[tuple[list[tuple[FunctionType, Position]], Slot]]] = {}
    for way, slot in calls:
        position = way[0][1]
        if len(way) == 1:
            slots[position] = slot
        else:
            deeper.setdefault(position, []).append((way[1:], slot))
    for position, below in deeper.items():
        if len({way[0][0] for way, _ in below}) != 1:
            raise SwapError(f"{function.__qualname__} calls different functions at one place.")
        inner[position] = recipe_for(below, inner.get(position))
    return Recipe(function, slots, inner, body_digest(function) or "")


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function as it stands in a table."""
    return str(getattr(function, "__name__", function))
