"""The papers as data: their studies, printed numbers and deviations live in the TOML files beside this one."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from pliant.errors import unknown
from pliant.lab.study import Study

__all__ = ["FILES", "Context", "context", "studies", "study"]

FILES = ("srelu",)
"""The papers, each a file ``<name>.toml``."""


@dataclass(frozen=True)
class Context:
    """What a paper says about one of its studies."""

    paper: dict[str, Any] | None = None
    printed: tuple[dict[str, Any], ...] = ()
    deviations: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())
    names: dict[str, str] = field(default_factory=dict)
    """Which table or figure of the paper one of the report's stands for: ``table`` or a figure's id -> the files' name."""


@functools.cache
def _file(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))


@functools.cache
def studies() -> dict[str, Study]:
    """Every study of every paper, by name."""
    return {values["name"]: Study(**values) for paper in FILES for values in _file(paper)["study"]}


def study(name: str) -> Study:
    """A study by name.

    Raises:
        UnknownNameError: there is none; the message holds the nearest names.
    """
    if name not in studies():
        raise unknown("study", name, studies())
    return studies()[name]


def context(study: Study) -> Context:
    """What the paper of a study says about it; empty for a study without a paper."""
    if study.paper not in FILES:
        return Context()
    values = _file(study.paper)

    def mine(section: str) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in item.items() if k != "studies"}
            for item in values.get(section, [])
            if study.name in item["studies"]
        ]

    return Context(
        values["paper"],
        tuple(mine("printed")),
        tuple(mine("deviation")),
        tuple(n["text"] for n in mine("note")),
        {output["shows"]: output["name"] for output in mine("output")},
    )
