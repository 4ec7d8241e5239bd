"""Change the activations of any model: probe -> plan -> swap_ -> restore_."""

from pliant.swap.apply import Swap, restore_, swap_, update_optimizer
from pliant.swap.errors import SwapError
from pliant.swap.plan import Plan, plan
from pliant.swap.site import Site
from pliant.swap.start import Transition, finish_, preserving

__all__ = [
    "Plan",
    "Site",
    "Swap",
    "SwapError",
    "Transition",
    "finish_",
    "plan",
    "preserving",
    "restore_",
    "swap_",
    "update_optimizer",
]
