"""Fused versions of the activations, and nothing else; the only place that knows Triton or C."""
