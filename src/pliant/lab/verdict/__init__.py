"""Statistics on the rows of a study: which activations differ from the baseline, by how much, and how sure that is.

`judge` compares the activations of one study, `judge_datasets` those of several studies on different data. Numbers in, words
out; nothing here trains, reads files or draws. docs/verdict.md explains it, tests/lab/test_null.py measures its rates of error.
"""

from pliant.lab.verdict.crossed import Sampled, bootstrap, expected_precision_crossed, identity, resamples
from pliant.lab.verdict.judging import judge
from pliant.lab.verdict.many import DatasetComparison, DatasetVerdict, judge_datasets, means_of, nemenyi, signed_rank
from pliant.lab.verdict.paired import expected_precision, holm
from pliant.lab.verdict.resample import Predictions
from pliant.lab.verdict.rows import MOST_REPEATS
from pliant.lab.verdict.words import Comparison, Estimate, Posterior, Verdict, VerdictError, Word

__all__ = [
    "MOST_REPEATS",
    "Comparison",
    "DatasetComparison",
    "DatasetVerdict",
    "Estimate",
    "Posterior",
    "Predictions",
    "Sampled",
    "Verdict",
    "VerdictError",
    "Word",
    "bootstrap",
    "expected_precision",
    "expected_precision_crossed",
    "holm",
    "identity",
    "judge",
    "judge_datasets",
    "means_of",
    "nemenyi",
    "resamples",
    "signed_rank",
]
