"""What goes wrong when activations are exchanged."""

from __future__ import annotations

from pliant.errors import PliantError

__all__ = ["SwapError"]


class SwapError(PliantError, RuntimeError):
    """A swap would change nothing, or could not change all that was asked; the model is as it was."""
