"""Samples responses to problems, grades them, and turns their scores into advantages."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses

import jax
import numpy as np

from r1jax import config, losses, parallel
from r1jax.batch import Pending, RolloutBatch, concatenate
from r1jax.protocols import Engine, Grader, Tokenizer
from r1jax.rewards import mix
from r1jax.rewards.neural import process
from r1jax.rollout import gae
from r1jax.rollout.prompts import encode_prompt, grading_item
from r1jax.sampling import row_keys
from r1jax.templates import Template


@dataclasses.dataclass(frozen=True)
class Rollout:
  """G responses to each of P problems, as text and as arrays. B = P * G rows, the G of a problem adjacent.

  Attributes:
    problems: P problems. items: B grading items (see `r1jax.rewards`).
    weights: B dicts {part of the reward that scores this item: its weight}.
    batch: RolloutBatch on the host.
  """

  problems: list
  items: list
  weights: list
  batch: RolloutBatch


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of a rollout.

  Attributes:
    total: f32[P, G], what is learned from. parts: name -> f32[P, G], unweighted; 0 where the part does not score.
    timeouts: responses given up while they were graded.
    credit: f32[P, G, T], of each token, by a process reward model (`losses.step_credit`); None without one.
    verdicts: name -> {row: verdict}; see `rewards.workers.pool.Scores`. Of a rule those of the rows that this process
      has graded, of a model that gives verdicts all.
  """

  total: np.ndarray
  parts: dict[str, np.ndarray]
  timeouts: int
  credit: np.ndarray | None = None
  verdicts: dict[str, dict] = dataclasses.field(default_factory=dict)


class Sampler:
  """Samples and grades problems with one engine, template and grader.

  Args:
    engine, tokenizer, template: of the prompts and responses. grader: of the parts that are rules.
    reward: config.Reward, by which the parts are mixed.
    chunk: prompts sampled at a time; workers grade one chunk while the device samples the next.
    models: name -> function from items to scores, for the parts that a model on the devices scores. A part
      scores only the items whose kind uses it.
    step_scores: function from items to the scores of their steps (`rewards.neural.process.Steps`), for credit by step.
  """

  def __init__(
    self,
    engine: Engine,
    tokenizer: Tokenizer,
    template: Template,
    grader: Grader,
    reward: config.Reward,
    chunk: int,
    models: Mapping[str, Callable] | tuple = (),
    step_scores: Callable | None = None,
  ):
    self.engine, self.tokenizer, self.template, self.grader = engine, tokenizer, template, grader
    self.reward, self.chunk, self.models, self.step_scores = reward, chunk, dict(models), step_scores

  def start(self, params, problems, samples, key, sampling, step=None, watch=None, number=0):
    """Samples `samples` responses to each problem and hands them to the workers.

    Args:
      step: of training, for parts that begin later; None asks all parts.
      watch: called now and then with the number of problems sampled so far, which may be fractional.
      number: of the first problem among all that are sampled with this key; sample s of problem n has key n * samples
        + s.

    Returns:
      Rollout, and Pending Scores.
    """
    texts, prompts = zip(*(encode_prompt(self.tokenizer, self.template, p) for p in problems))
    batches, items, weights, pending = [], [], [], []
    params = self.engine.prepare_params(params)  # once for all chunks
    for first in range(0, len(problems), self.chunk):
      chunk = slice(first, first + self.chunk)
      keys = row_keys(key, len(prompts[chunk]), samples, (number + first) * samples)
      with _watched(self.engine, watch, first, len(prompts[chunk])):
        batch = self.engine.sample(params, prompts[chunk], keys, sampling, step or 0)
      new = self._items(problems[chunk], texts[chunk], batch)
      new_weights = mix.weights(new, self.reward, step)
      own = parallel.local_slice(len(new))  # the other processes grade the rest
      pending.append((self.grader.submit(new[own], new_weights[own]), own, len(new)))
      batches.append(batch)
      items += new
      weights += new_weights
    rollout = Rollout(problems, items, weights, concatenate(batches))
    return rollout, Pending(lambda: self._scores(rollout, pending))

  def _items(self, problems, prompts, batch):
    """The grading items of a chunk, in the order of its rows."""
    items = []
    for problem, prompt, rows, lengths in zip(problems, prompts, batch.tokens, batch.lengths):
      for ids, n in zip(rows, lengths):
        response, control = self.tokenizer.response(ids[:n])
        items.append(grading_item(problem, prompt, response, control, int(n)))
    return items

  def _scores(self, rollout, pending):
    """Waits for the workers, asks the models, and mixes."""
    graded = [(future.result(), own, count) for future, own, count in pending]
    column = lambda name: np.concatenate([_spread(s.parts[name], own, count) for s, own, count in graded])
    parts = {name: column(name) for name in graded[0][0].parts}
    parts, timeouts = parallel.sum_across_processes((parts, np.int32(sum(s.timeouts for s, _, _ in graded))))
    # A model's programs run on all processes at once: each scores all items.
    asked = {name: _ask(model, name, rollout) for name, model in self.models.items()}
    parts |= {name: scores for name, (scores, _) in asked.items()}
    shape = rollout.batch.lengths.shape
    total = mix.total(parts, self.reward, rollout.weights).reshape(shape)
    credit = self._credit(rollout, self.step_scores) if self.step_scores else None
    parts = {name: x.reshape(shape) for name, x in parts.items()}
    verdicts = _verdicts(graded) | {name: found for name, (_, found) in asked.items()}
    return Scores(total, parts, int(timeouts), credit, verdicts)

  def _credit(self, rollout, step_scores):
    batch, found = rollout.batch, [process.Steps((), ())] * len(rollout.items)
    rows = [i for i, parts in enumerate(rollout.weights) if 'process' in parts]
    for i, steps in zip(rows, step_scores([rollout.items[i] for i in rows]) if rows else [], strict=True):
      found[i] = steps
    responses = zip(batch.tokens.reshape(len(found), -1), batch.lengths.reshape(-1), found, strict=True)
    ends = [process.step_tokens(self.tokenizer, ids[:n], steps.ends) for ids, n, steps in responses]
    credit = losses.step_credit([s.scores for s in found], ends, batch.lengths.shape[1], batch.tokens.shape[2])
    return credit.reshape(batch.tokens.shape)


@contextlib.contextmanager
def _watched(engine, watch, first, count):
  """Calls `watch`, unless None, with the number of problems done while the engine samples `count` after `first`."""
  engine.watch = watch and (lambda share: watch(first + share * count))
  try:
    yield
    if watch:
      watch(first + count)
  finally:
    engine.watch = None


def _ask(model, name, rollout):
  """f32[B], the scores of the items that have the part `name`, 0 elsewhere; and {row: verdict} if the model has any."""
  rows = [i for i, parts in enumerate(rollout.weights) if name in parts]
  out, items, verdicts = np.zeros(len(rollout.items), np.float32), [rollout.items[i] for i in rows], {}
  if rows and hasattr(model, 'verdicts'):
    verdicts = dict(zip(rows, model.verdicts(items), strict=True))
    out[rows] = [verdict['score'] for verdict in verdicts.values()]
  elif rows:
    out[rows] = np.asarray(model(items), np.float32)
  return out, verdicts


def _verdicts(graded):
  """{part: {row: verdict}} of [(pool.Scores, its slice of the rows of a chunk, rows of the chunk)]."""
  out, first = {}, 0
  for scores, own, count in graded:
    for name, column in scores.verdicts.items():
      out.setdefault(name, {}).update(enumerate(column, first + own.start))
    first += count
  return out


def _spread(values, rows, count):
  """`count` zeros with `values` in `rows`."""
  out = np.zeros(count, values.dtype)
  out[rows] = values
  return out


def assign_advantage(batch, scores, cfg):
  """Adds advantages; the penalties for overlong responses and for KL, if configured, are applied to the reward first.

  With loss.drop_zero_variance, a group without any advantage, whose rewards are all equal, loses its loss mask
  (ScaleRL, arXiv 2510.13786, section 3.2: zero-variance filtering).

  Args:
    batch: RolloutBatch on the host. scores: Scores. cfg: config.RL.
  """
  reward, flat = np.asarray(scores.total, np.float32), lambda x: x.reshape(-1, x.shape[-1])
  with jax.transfer_guard('allow'):  # one number per row, back and forth
    if cfg.reward.overlong_buffer:
      reward = reward + np.asarray(
        losses.soft_overlong(batch.lengths, cfg.rollout.max_response, cfg.reward.overlong_buffer)
      )
    if batch.values is not None:  # PPO
      return gae.assign(batch, reward, cfg)
    if cfg.loss.kl_place == 'reward' and cfg.loss.kl_coef:
      penalty = losses.kl_penalty(
        flat(batch.old_logp), flat(batch.ref_logp), flat(batch.loss_mask), cfg.loss.kl_estimator
      )
      reward = reward - cfg.loss.kl_coef * np.asarray(penalty).reshape(reward.shape)
    advantage = np.asarray(losses.ADVANTAGES[cfg.loss.advantage](reward, batch))
  if scores.credit is not None:
    advantage = advantage + np.float32(cfg.reward.step_credit) * scores.credit
  if cfg.loss.drop_zero_variance:  # centred equal rewards are exactly zero
    batch = batch.replace(loss_mask=batch.loss_mask & advantage.any(axis=(1, 2), keepdims=True))
  return batch.replace(advantage=advantage)
