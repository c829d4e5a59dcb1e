"""Evaluation with the paper's protocol, and the metrics of k graded samples for each problem."""

from r1jax.evaluation.metrics import majority, summarise
from r1jax.evaluation.runner import evaluate, key

__all__ = ['evaluate', 'key', 'majority', 'summarise']
