"""Objectives: arrays over the tokens of a rollout in, a scalar and metrics out."""
from r1jax.losses.advantages import ADVANTAGES, soft_overlong
from r1jax.losses.kl import ESTIMATORS, kl_penalty, token_kl
from r1jax.losses.policy import LOSSES, PolicyTerms

__all__ = ['ADVANTAGES', 'ESTIMATORS', 'LOSSES', 'PolicyTerms', 'kl_penalty', 'soft_overlong', 'token_kl']
