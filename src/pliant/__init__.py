"""Pliant: activation functions that bend. The library; the lab is ``pliant.lab``."""

from pliant import functional, kernels, schedules
from pliant.activation import Activation
from pliant.activations import (
    PELU,
    AffineReLU,
    AReLU,
    ASigmoid,
    ATanh,
    DSReLU,
    FReLU,
    PReLU,
    SReLU,
    Swish,
)
from pliant.catalog import create
from pliant.clock import Clock
from pliant.coefficients import Coefficient, Fixed, Learned, Scheduled
from pliant.elementwise import elementwise
from pliant.errors import DomainError, KernelError, KernelWarning, MissingExtraError, PliantError, UnknownNameError
from pliant.fold import FoldError, fold
from pliant.gain import gain
from pliant.groups import param_groups
from pliant.observe import Observer, observe
from pliant.schedules import Constant, Cosine, Exponential, Linear, Logistic, Steps
from pliant.swap import Plan, Site, Swap, SwapError, Transition, finish_, plan, preserving, restore_, swap_, update_optimizer

__version__ = "0.1.0"

__all__ = [
    "PELU",
    "AReLU",
    "ASigmoid",
    "ATanh",
    "Activation",
    "AffineReLU",
    "Clock",
    "Coefficient",
    "Constant",
    "Cosine",
    "DSReLU",
    "DomainError",
    "Exponential",
    "FReLU",
    "Fixed",
    "FoldError",
    "KernelError",
    "KernelWarning",
    "Learned",
    "Linear",
    "Logistic",
    "MissingExtraError",
    "Observer",
    "PReLU",
    "Plan",
    "PliantError",
    "SReLU",
    "Scheduled",
    "Site",
    "Steps",
    "Swap",
    "SwapError",
    "Swish",
    "Transition",
    "UnknownNameError",
    "create",
    "elementwise",
    "finish_",
    "fold",
    "functional",
    "gain",
    "kernels",
    "observe",
    "param_groups",
    "plan",
    "preserving",
    "restore_",
    "schedules",
    "swap_",
    "update_optimizer",
]
