"""What a step's rollout and its scores say, as metrics."""

import numpy as np

from r1jax import templates
from r1jax.batch import LENGTH
from r1jax.rewards import mix


def equal_rewards(reward):
  """bool[P]: groups whose rewards f32[P, G] are all equal, from which nothing can be learned."""
  return (reward == reward[:, :1]).all(axis=1)


def response_metrics(rollout):
  """response/* of a rollout."""
  batch = rollout.batch
  return {
    'response/length_mean': batch.lengths.mean(),
    'response/length_max': batch.lengths.max(),
    'response/truncated_fraction': (batch.stop == LENGTH).mean(),
    'response/reflection_rate': np.mean([templates.reflections(item['response']) > 0 for item in rollout.items]),
  }


def reward_metrics(rollout, scores, reward):
  """reward/* of a rollout: its total, and reward/PART/mean over what the part scored; and kind/NAME/* by kind.

  The latter are a kind's prompts, mean reward, means of its parts, accuracy and length.

  Args:
    scores: rollout.Scores. reward: config.Reward.
  """
  return {
    'reward/mean': scores.total.mean(),
    'reward/std': scores.total.std(),
    'reward/frac_zero_std_groups': equal_rewards(scores.total).mean(),
    'reward/timeouts': scores.timeouts,
  } | part_metrics(rollout, scores, reward)


def part_metrics(rollout, scores, reward):
  """reward/PART/mean and kind/NAME/*, see `reward_metrics`."""
  right = mix.right(scores.parts, reward, rollout.items)
  flat = {name: x.reshape(-1) for name, x in scores.parts.items()}
  scored = {name: np.array([name in parts for parts in rollout.weights]) for name in flat}
  out = {f'reward/{name}/mean': flat[name][rows].mean() for name, rows in scored.items() if rows.any()}
  for kind, where in mix.by_kind(rollout.items).items():
    found = {name: flat[name][where].mean() for name, rows in scored.items() if rows[where].all()} | {
      'reward': scores.total.reshape(-1)[where].mean(),
      'length_mean': rollout.batch.lengths.reshape(-1)[where].mean(),
      'prompts': where.mean() * len(rollout.problems),
    }
    if reward.accuracy_of(kind) in found:
      found['accuracy'] = right[where].mean()
    out |= {f'kind/{kind}/{name}': x for name, x in found.items()}
  return out
