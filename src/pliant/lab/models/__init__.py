"""Networks, one a file. To add one: a new file, and its function in ``ALL``.

A network is a function ``f(activation, ...) -> nn.Module``. ``activation()`` gives a fresh activation for one call site; of the
keywords ``input_shape`` (one example's, a tuple) and ``outputs`` (numbers the network returns for an example: 1 for two
classes, else C) the lab passes those that the signature names. All other keywords are the network's options, with defaults.
"""

from pliant.lab.models.ffnn import ffnn

ALL = {"ffnn": ffnn}

VERSIONS = {"ffnn": 1}
"""Bumped by hand when a change alters the numbers that a network gives; part of a trial's identity."""

__all__ = ["ALL", "VERSIONS", "ffnn"]
