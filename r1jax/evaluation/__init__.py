"""Evaluation: the paper's protocol, and the figures derived from k graded samples a problem."""

from r1jax.evaluation.metrics import majority, summarise
from r1jax.evaluation.runner import evaluate, key

__all__ = ['evaluate', 'key', 'majority', 'summarise']
