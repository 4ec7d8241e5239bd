"""The command line. Thin: each command reads what the user typed, calls the lab, and shows what came back."""

from __future__ import annotations

import sys

try:
    from pliant.cli.app import main
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("pliant"):
        raise
    print(
        f"The command line needs packages that are not installed ({missing.name}): run pip install 'pliant[lab]'.",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

__all__ = ["main"]
