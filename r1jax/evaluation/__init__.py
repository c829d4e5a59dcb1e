"""Evaluation with the paper's protocol, and the metrics of k graded samples for each problem."""

from r1jax.evaluation.metrics import majority, summarise
from r1jax.evaluation.runner import evaluate, key
from r1jax.evaluation.tasks import graded

__all__ = ['evaluate', 'graded', 'key', 'majority', 'summarise']
