"""Scores of a rollout -> advantages."""

import jax
import numpy as np

from r1jax import losses


def assign_advantage(batch, scores, cfg):
  """The batch with advantages, the KL penalty and the punishment of overlong responses in them where the config says.

  Args:
    batch: RolloutBatch on the host. scores: Scores. cfg: config.RL.
  """
  with jax.transfer_guard('allow'):  # one number a row, back and forth
    return _assign(batch, np.asarray(scores.total, np.float32), scores.credit, cfg)


def _assign(batch, reward, credit, cfg):
  if cfg.reward.overlong_buffer:
    reward = reward + np.asarray(
      losses.soft_overlong(batch.lengths, cfg.rollout.max_response, cfg.reward.overlong_buffer)
    )
  if cfg.loss.kl_place == 'reward' and cfg.loss.kl_coef:
    flat = lambda x: x.reshape(-1, x.shape[-1])
    penalty = losses.kl_penalty(
      flat(batch.old_logp), flat(batch.ref_logp), flat(batch.loss_mask), cfg.loss.kl_estimator
    )
    reward = reward - cfg.loss.kl_coef * np.asarray(penalty).reshape(reward.shape)
  advantage = np.asarray(losses.ADVANTAGES[cfg.loss.advantage](reward, batch))
  if credit is not None:
    advantage = advantage + np.float32(cfg.reward.step_credit) * credit
  return batch.replace(advantage=advantage)
