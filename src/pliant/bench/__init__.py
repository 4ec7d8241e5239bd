"""``pliant bench``: what an activation costs, as ratios measured in one process, and only where it computes the right thing.

====================  ================================================================================================
``subjects``          the activations, torch's counterparts, the naive forms
``timing``            races: interleaved rounds, medians and spreads of ratios
``agreement``         outputs and gradients against the readable version in float64; what disagrees gets no ratio
``kernels``           one activation alone; bytes saved for the backward pass; share of the copy bandwidth
``networks, steps``   whole training steps
``compilation``       programs and graph breaks under torch.compile along a schedule
``targets``           what is meant to be reached, and whether it is
``session``           a run, its results and their file
====================  ================================================================================================
"""

from pliant.bench.session import Options, disagreements, restless, run, write
from pliant.bench.targets import TARGETS, Target

__all__ = ["TARGETS", "Options", "Target", "disagreements", "restless", "run", "write"]
