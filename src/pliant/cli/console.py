"""How anything is shown: the console, text that is not markup, and the words for sizes and times."""

from __future__ import annotations

import os
import re
import sys

from rich.console import Console
from rich.markup import escape

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with nothing in it that a terminal would obey: names in somebody else's store or file could move the cursor,
    rewrite what stands there, or turn the direction of writing."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def plain(text: str) -> str:
    """The text with nothing in it that rich would take for markup, or a terminal for a command."""
    return escape(visible(text))


def make_console() -> Console:
    # A pipe has no width; 80 columns would fold the tables there.
    return Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {s:02d} s" if minutes else f"{s} s"


def roughly(seconds: float) -> str:
    """A duration with no more digits than an estimate has."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 600:
        return duration(seconds)
    return f"{minutes} min" if not hours else f"{hours} h {minutes:02d} min" if hours < 10 else f"{hours} h"


def size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
