"""The activations as pure functions ``f(x, coefficients..., channel_dim=1)``.

Coefficients are numbers, tensors of shape () or (1,), or tensors of shape (C,) along ``channel_dim`` of ``x``. Outputs have
the shape and dtype of ``x``.
"""

from pliant.activations.affine_relu import affine_relu
from pliant.activations.arelu import arelu
from pliant.activations.asigmoid import asigmoid
from pliant.activations.atanh import atanh
from pliant.activations.dsrelu import dsrelu
from pliant.activations.frelu import frelu
from pliant.activations.pelu import pelu
from pliant.activations.prelu import prelu
from pliant.activations.srelu import srelu
from pliant.activations.swish import swish

__all__ = [
    "affine_relu",
    "arelu",
    "asigmoid",
    "atanh",
    "dsrelu",
    "frelu",
    "pelu",
    "prelu",
    "srelu",
    "swish",
]
