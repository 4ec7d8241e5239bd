"""The papers as data: their studies, printed numbers, claims and deviations live in the TOML and CSV files beside this one.

``dsrelu.toml``, ``srelu.toml`` and ``aaf.toml`` hold, for each paper, its studies with their reduced tiers (``[[study]]``),
the tables and figures that these fill (``[[group]]``), where each printed number belongs (``[[place]]``), the claims
(``[[claim]]``) and where text, release and we differ (``[[deviation]]``); ``all.toml`` holds what is about all three. Lists of
studies in them are patterns. ``printed.csv`` has every number that a paper prints, ``dsrelu_epochs.csv`` the epochs of the
logs that were released with DSReLU.
"""

from __future__ import annotations

from pliant.lab.papers.claims import EVIDENCE, Claim, claims
from pliant.lab.papers.files import FILES, PAPERS
from pliant.lab.papers.printed import Cell, PrintedValue, ReleasedEpoch, place, places, printed, released_epochs
from pliant.lab.papers.studies import (
    TIERS,
    Context,
    Deviation,
    Group,
    context,
    deviations,
    groups,
    members,
    studies,
    study,
    tiers,
)

__all__ = [
    "EVIDENCE",
    "FILES",
    "PAPERS",
    "TIERS",
    "Cell",
    "Claim",
    "Context",
    "Deviation",
    "Group",
    "PrintedValue",
    "ReleasedEpoch",
    "claims",
    "context",
    "deviations",
    "groups",
    "members",
    "place",
    "places",
    "printed",
    "released_epochs",
    "studies",
    "study",
    "tiers",
]
