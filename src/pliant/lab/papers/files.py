"""The files of the papers, read once; and the way in which they say that one thing is a variation of another."""

from __future__ import annotations

import csv
import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

__all__ = ["FILES", "PAPERS", "expanded", "matches", "read", "rows", "sections"]

PAPERS = ("dsrelu", "srelu", "aaf")
"""The papers, each a file ``<name>.toml``."""

FILES = (*PAPERS, "all")
"""The papers, and what is about all of them."""


@functools.cache
def read(name: str) -> dict[str, Any]:
    """The content of ``<name>.toml``."""
    return tomllib.loads((resources.files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))


def rows(name: str) -> list[dict[str, str]]:
    """The lines of ``<name>.csv`` by column."""
    return list(csv.DictReader((resources.files(__package__) / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def sections(name: str, section: str) -> list[dict[str, Any]]:
    """The tables ``[[section]]`` of a file."""
    found: list[dict[str, Any]] = read(name).get(section, [])
    return found


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a study is meant by ``patterns`` such as ``aaf-table1-*``; one that starts with ``!`` takes out again."""
    wanted = [p for p in patterns if not p.startswith("!")]
    return any(fnmatchcase(name, p) for p in wanted) and not any(
        fnmatchcase(name, p[1:]) for p in patterns if p.startswith("!")
    )


def expanded(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries with all their values.

    ``like = "name"`` gives an entry what that earlier one has and it does not say itself, also within ``protocol``, ``train``
    and ``tiers``. An entry with ``each``, a list of tables, stands for one entry a table, in which ``{key}`` is replaced by the
    table's value: text within text, and a text that is nothing but ``{key}`` by the value as it is.
    """
    by_name: dict[str, Mapping[str, Any]] = {}
    found = []
    for entry in entries:
        whole = _like(by_name[entry["like"]], entry) if "like" in entry else dict(entry)
        whole.pop("like", None)
        by_name[whole["name"]] = whole
        plain = {k: v for k, v in whole.items() if k != "each"}
        found += [_filled(plain, values) for values in whole.get("each", [{}])]
    return found


def _like(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**base, **own}
    for section in ("protocol", "train", "tiers"):
        if section in base and section in own:
            # TOML has no null: "" takes out what does not go with the rest.
            whole[section] = {k: v for k, v in {**base[section], **own[section]}.items() if v != ""}
    return whole


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, values) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, values) for v in value]
    if not isinstance(value, str):
        return value
    if (whole := re.fullmatch(r"\{(\w+)\}", value)) and whole[1] in values:
        return values[whole[1]]
    return re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), value)
