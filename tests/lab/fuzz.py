"""How a property is tried on made-up input: a little in every run of the tests, long in the slow ones, always the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHORT, LONG = 60, 3000
_CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def lengths(short: int = SHORT, long: int = LONG) -> pytest.MarkDecorator:
    """Parametrises ``examples`` of a test: few in every run, many in the slow ones."""
    return pytest.mark.parametrize(
        "examples", [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)]
    )


def tried(strategy: st.SearchStrategy[Any], examples: int, check: Callable[[Any], None]) -> None:
    """Call ``check`` with ``examples`` values of ``strategy``; the first that raises is made small and shown."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=_CHECKS)
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with bits flipped, bytes replaced, cut out, put in or repeated, cut short; and bytes that never were it."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        content = bytearray(whole)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(content) - 1)))
            match draw(st.sampled_from(["flip", "byte", "cut", "put", "end", "repeat", "huge"])):
                case "flip" if content:
                    content[at] ^= 1 << draw(st.integers(0, 7))
                case "byte" if content:
                    content[at] = draw(st.integers(0, 255))
                case "cut":
                    del content[at : at + draw(st.integers(1, 16))]
                case "put":
                    content[at:at] = draw(st.binary(min_size=1, max_size=16))
                case "end":
                    del content[at:]
                case "repeat":
                    content[at:at] = content[at : at + 32] * draw(st.integers(1, 40))
                case "huge":
                    content[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"99999999", b"-1e99999"]))
        return bytes(content)

    return changed() | st.binary(max_size=64)
