"""Fused versions of the functions in :mod:`pliant.activations`; the only place that knows compiled code."""
