"""Objectives: arrays over the tokens of a rollout in, a scalar and metrics out."""
from r1jax.losses.advantages import ADVANTAGES, soft_overlong
from r1jax.losses.kl import ESTIMATORS, kl_penalty, token_kl
from r1jax.losses.policy import LOSSES, PolicyTerms
from r1jax.losses.value import value_loss

__all__ = ['ADVANTAGES', 'ESTIMATORS', 'LOSSES', 'PolicyTerms', 'kl_penalty', 'soft_overlong', 'token_kl',
           'value_loss']
