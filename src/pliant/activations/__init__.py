"""The activations of this package, one file each. To add one: a new file, and its class in ``ALL``."""

from pliant.activations.affine_relu import AffineReLU
from pliant.activations.arelu import AReLU
from pliant.activations.asigmoid import ASigmoid
from pliant.activations.atanh import ATanh
from pliant.activations.dsrelu import DSReLU
from pliant.activations.frelu import FReLU
from pliant.activations.pelu import PELU
from pliant.activations.prelu import PReLU
from pliant.activations.srelu import SReLU
from pliant.activations.swish import Swish

ALL = (DSReLU, SReLU, AReLU, ASigmoid, ATanh, AffineReLU, PReLU, Swish, PELU, FReLU)

__all__ = [
    "ALL",
    "PELU",
    "AReLU",
    "ASigmoid",
    "ATanh",
    "AffineReLU",
    "DSReLU",
    "FReLU",
    "PReLU",
    "SReLU",
    "Swish",
]
