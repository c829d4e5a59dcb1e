"""DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): groups that are all right or all wrong are replaced."""

import jax
import numpy as np

from r1jax.batch import concatenate
from r1jax.rewards import mix
from r1jax.rollout.metrics import equal_rewards, part_metrics
from r1jax.rollout.sampler import Rollout, Scores


def right_responses(rollout, scores, reward):
  """bool[P, G], bool[P]: responses that are right by the accuracy part of their kind, and groups that have that part.

  Args:
    scores: Scores. reward: config.Reward.
  """
  shape = scores.total.shape
  accuracy = [reward.accuracy_of(mix.kind_of(item)) for item in rollout.items]
  known = np.array([name in parts for name, parts in zip(accuracy, rollout.weights)]).reshape(shape)[:, 0]
  return mix.right(scores.parts, reward, rollout.items).reshape(shape), known


def all_right_or_all_wrong(rollout, scores, reward):
  """bool[P], bool[P]: groups that are all right, and all wrong, by the accuracy part of their kind.

  A group without such a part counts as both if its rewards are all equal.

  Args:
    scores: Scores. reward: config.Reward.
  """
  (right, known), equal = right_responses(rollout, scores, reward), equal_rewards(scores.total)
  return np.where(known, right.all(axis=1), equal), np.where(known, ~right.any(axis=1), equal)


class DynamicSampling:
  """Collects groups that are neither all right nor all wrong until there are enough.

  Only accuracy counts: a group that is all right is replaced even if the rewards for format or length differ in it.

  Args:
    prompts: groups wanted. reward: config.Reward.
  """

  def __init__(self, prompts, reward):
    self._wanted, self._reward = prompts, reward
    self._kept, self._filtered, self._drawn, self._timeouts = [], [], [], 0

  def add(self, rollout, scores):
    """Takes a graded rollout."""
    self._timeouts += scores.timeouts
    all_right, all_wrong = all_right_or_all_wrong(rollout, scores, self._reward)
    for i, uninformative in enumerate(all_right | all_wrong):
      (self._filtered if uninformative else self._kept).append((rollout, scores, i))
      self._drawn.append((rollout, scores, i))

  def missing(self):
    """How many groups are still wanted."""
    return max(self._wanted - len(self._kept), 0)

  def result(self):
    """Rollout and Scores of exactly the wanted number of groups; those filtered out fill up the rest."""
    return _join(self._chosen(), self._timeouts)

  def metrics(self):
    """filter/before/* of all groups drawn, filter/after/* of those that `result` gives."""
    both = (('before', self._drawn), ('after', self._chosen()))
    return {f'filter/{when}/{name}': x for when, groups in both for name, x in self._figures(*_join(groups)).items()}

  def _chosen(self):
    return (self._kept + self._filtered)[: self._wanted]

  def _figures(self, rollout, scores):
    all_right, all_wrong = all_right_or_all_wrong(rollout, scores, self._reward)
    by_kind = part_metrics(rollout, scores, self._reward)
    accuracy = {name: x for name, x in by_kind.items() if name.endswith('/accuracy')}
    if not accuracy and self._reward.accuracy in scores.parts:
      accuracy = {'accuracy': mix.right(scores.parts, self._reward, rollout.items).mean()}
    return accuracy | {
      'groups': len(rollout.problems),
      'reward': scores.total.mean(),
      'all_right': all_right.mean(),
      'all_wrong': all_wrong.mean(),
    }


def _join(groups, timeouts=0):
  """One Rollout, and its Scores, of some groups: (Rollout, Scores, number of the group) each."""
  one = lambda tree, i: jax.tree.map(lambda x: x[i : i + 1], tree)
  size = groups[0][1].total.shape[1]
  rows = lambda of, i: of[i * size : (i + 1) * size]
  rollout = Rollout(
    [r.problems[i] for r, _, i in groups],
    [item for r, _, i in groups for item in rows(r.items, i)],
    [parts for r, _, i in groups for parts in rows(r.weights, i)],
    concatenate([one(r.batch, i) for r, _, i in groups]),
  )
  join = lambda pick: np.concatenate([pick(s)[i : i + 1] for _, s, i in groups])
  credit = None if groups[0][1].credit is None else join(lambda s: s.credit)
  parts = {name: join(lambda s, name=name: s.parts[name]) for name in groups[0][1].parts}
  return rollout, Scores(join(lambda s: s.total), parts, timeouts, credit)
