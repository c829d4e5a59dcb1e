"""The step from rewards to advantages in PPO."""

import numpy as np

from r1jax import losses
from r1jax.losses import reductions


def assign(batch, reward, cfg):
  """Adds advantages of tokens, and returns for the critic.

  The reward lies at a response's last token. With loss.kl_place 'reward', each token also pays for its own KL (Ouyang
  et al., arXiv 2203.02155 eq. 2), where a group's advantages have the sum.

  Args:
    batch: RolloutBatch on the host, with values. reward: f32[P, G]. cfg: config.RL.
  """
  rewards = losses.at_last_token(reward, batch.loss_mask)
  if cfg.loss.kl_place == 'reward' and cfg.loss.kl_coef:
    kl = losses.ESTIMATORS[cfg.loss.kl_estimator](batch.old_logp, batch.ref_logp)
    rewards = rewards - cfg.loss.kl_coef * np.asarray(reductions.keep(kl, batch.loss_mask))
  advantages, returns = losses.gae(rewards, batch.values, batch.loss_mask, cfg.critic.gamma, cfg.critic.gae_lambda)
  return batch.replace(advantage=losses.whiten(advantages, batch.loss_mask), returns=returns)
