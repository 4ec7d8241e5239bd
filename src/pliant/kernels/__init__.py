"""Fused versions of the activations, and who gets them. Nothing else in Pliant knows Triton or C++."""

from pliant.kernels.dispatch import fused, set_fused, status

__all__ = ["fused", "set_fused", "status"]
