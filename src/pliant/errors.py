"""Errors that a user can cause, each a paragraph that says what was given, what was expected and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PliantError(Exception):
    """Base of every error that Pliant raises about something a user gave it."""


class DomainError(PliantError, ValueError):
    """A coefficient, schedule or size lies outside the set on which its function is defined."""


class UnknownNameError(PliantError, LookupError):
    """A name stands for nothing that Pliant knows; the message holds the nearest names it does know."""


class MissingExtraError(PliantError, ImportError):
    """A part of Pliant was asked for whose dependencies are not installed."""


class KernelError(PliantError, RuntimeError):
    """A fused kernel was asked for where there is none; the message says why."""


class KernelWarning(UserWarning):
    """Fused kernels are missing on this machine. Said once; results are the same, only slower."""


def unknown(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name outside ``known``: names the nearest ones first, then how to see all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UnknownNameError(f"There is no {kind} named {given!r}. {hint}Known: {', '.join(names)}.")
