"""Prompts -> samples -> rewards -> a batch to learn from."""

import contextlib
import dataclasses
import functools
import logging

import jax
import numpy as np

from r1jax import losses, parallel, templates
from r1jax.config import require
from r1jax.rewards import mix
from r1jax.rewards.neural import process
from r1jax.sampling import Samples, row_keys
from r1jax.sampling.engine import LENGTH, pad_prompts
from r1jax.training.update import Graded

log = logging.getLogger('r1jax')

# What the model writes, and what is made of it: a problem's fields of these names are no part of a grading item.
WRITTEN = ('program', 'pred', 'response', 'prompt', 'tokens', 'control')


@dataclasses.dataclass(frozen=True)
class Rollout:
  """G samples of P problems, and their scores (`rewards.workers.pool.Scores`) once graded.

  Attributes:
    problems: P problems. prompts: P lists of token ids. items: B = P * G grading items.
    samples: Samples of B rows.
  """

  problems: list
  prompts: list
  items: list
  samples: Samples


def encode_prompt(tokenizer, template, problem):
  """A problem's prompt: its text, ending in `<think>` where a chat template has opened the thinking, and its ids.

  template: templates.Template; a problem that names one in its field 'template' goes by that.
  A problem with 'turns', of which the user's is last, is that conversation; only a chat template can write several.
  """
  template = templates.own(problem, template)
  turns = problem.get('turns')
  *before, last = turns if turns and isinstance(turns, list) else [{'content': problem['problem']}]
  text = template.format(problem | {'problem': last['content']})
  if not template.chat:
    require(
      not before,
      "a conversation of several turns needs a chat template; set data.template to one of those, such as 'chat'.",
    )
    return text, tokenizer.encode(text, bos=True)
  messages = [*before, {'role': 'user', 'content': text}]
  ids = tokenizer.chat(messages)
  opening = ids[len(tokenizer.chat(messages, generate=False)) :]
  return f'{templates.closed(text)}\n{tokenizer.decode(opening).strip()}', ids


class Sampler:
  """Samples and grades problems with one engine, template and grader.

  Args:
    engine: sampling.Engine. tokenizer, template: of the prompts. grader: rewards.workers.pool.Grader.
    reward: config.Reward, by which the parts are mixed.
    chunk: prompts sampled at a time; workers grade one chunk while the device samples the next.
    models: name -> function from items to scores, for the parts that a model on the devices scores. All parts are
      asked only of the items whose kind has them.
    steps: function from items to the scores of their steps (`rewards.neural.process.Steps`), for credit by step.
  """

  def __init__(self, engine, tokenizer, template, grader, reward, chunk, models=(), steps=None):
    self.engine, self.tokenizer, self.template, self.grader = engine, tokenizer, template, grader
    self.reward, self.chunk, self.models, self.steps = reward, chunk, dict(models), steps

  def start(self, params, problems, samples, key, sampling, step=None, watch=None):
    """Samples `samples` responses to each problem and hands them to the workers.

    Args:
      step: of training, for parts that begin later; None asks all parts.
      watch: function told now and then how many of the problems have been sampled, a fraction.

    Returns:
      Rollout, and a function that waits for the workers and returns {'total', part...: f32[B]} and timeouts; with
      `steps` also 'credit', f32[B, T] (`losses.step_credit`).
    """
    texts, prompts = zip(*(encode_prompt(self.tokenizer, self.template, p) for p in problems))
    parts, items, pending = [], [], []
    weights = self.engine.weights(params)  # once for all chunks
    for first in range(0, len(problems), self.chunk):
      some = slice(first, first + self.chunk)
      keys = row_keys(key, len(prompts[some]), samples, first * samples)
      with watched(self.engine, watch, first, len(prompts[some])):
        part = self.engine.sample(weights, prompts[some], keys, sampling)
      responses = [self.tokenizer.response(ids[:n]) for ids, n in zip(part.tokens, part.lengths)]
      graded = [
        _given(problem)
        | {
          'prompt': text,
          'response': responses[row][0],
          'tokens': int(part.lengths[row]),
          'control': responses[row][1],
        }
        for i, (problem, text) in enumerate(zip(problems[some], texts[some]))
        for row in range(i * samples, (i + 1) * samples)
      ]
      own = parallel.own(len(graded))  # the other processes grade the rest
      asked = mix.weights(graded, self.reward, step)
      pending.append((self.grader.submit(graded[own], asked[own]), own, len(graded)))
      parts.append(part)
      items += graded
    rollout = Rollout(problems, list(prompts), items, concatenate(parts))

    def scores():
      found = [(future.result(), own, count) for future, own, count in pending]
      column = lambda pick: np.concatenate([_at(own, count, pick(s)) for s, own, count in found])
      table = {name: column(lambda s, name=name: s.parts[name]) for name in found[0][0].parts}
      table, timeouts = parallel.add_up((table, np.int32(sum(s.timeouts for s, _, _ in found))))
      # A model's programs run on all processes at once: each scores all items.
      asked = mix.weights(items, self.reward, step)
      table |= {name: _ask(model, name, items, asked) for name, model in self.models.items()}
      table['total'] = mix.total(table, self.reward, asked)
      if self.steps:
        table['credit'] = self._credit(items, asked, rollout.samples, samples)
      return table, int(timeouts)

    return rollout, scores

  def _credit(self, items, asked, drawn, samples):
    found = [process.Steps((), ())] * len(items)
    rows = [i for i, parts in enumerate(asked) if 'process' in parts]
    for i, steps in zip(rows, self.steps([items[i] for i in rows]) if rows else [], strict=True):
      found[i] = steps
    ends = [
      process.step_tokens(self.tokenizer, ids[:n], steps.ends)
      for ids, n, steps in zip(drawn.tokens, drawn.lengths, found, strict=True)
    ]
    return losses.step_credit([steps.scores for steps in found], ends, samples, drawn.tokens.shape[1])


def _given(problem):
  """The fields of a problem that rewards may read."""
  if found := [name for name in WRITTEN if name in problem]:
    _say(*found)
  return {name: value for name, value in problem.items() if name not in WRITTEN}


@functools.cache
def _say(*names):
  log.warning(
    'problems have fields %s, which are dropped: what the model writes is graded, not what a row holds.',
    ', '.join(map(repr, names)),
  )


@contextlib.contextmanager
def watched(engine, watch, first, count):
  """`watch` is told how many problems are done while the engine samples `count` behind the `first`; None: nobody is."""
  engine.watch = watch and (lambda share: watch(first + share * count))
  try:
    yield
    if watch:
      watch(first + count)
  finally:
    engine.watch = None


def _ask(model, name, items, asked):
  """f32[B]: the model's scores of the items that have the part `name`; 0 elsewhere."""
  rows = [i for i, parts in enumerate(asked) if name in parts]
  out = np.zeros(len(items), np.float32)
  if rows:
    out[rows] = np.asarray(model([items[i] for i in rows]), np.float32)
  return out


def _at(rows, count, values):
  """`count` zeros with `values` in `rows`."""
  out = np.zeros(count, values.dtype)
  out[rows] = values
  return out


def concatenate(parts):
  """Samples of several chunks as one."""
  return (
    parts[0]
    if len(parts) == 1
    else Samples(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Samples)))
  )


def arrays(rollout, samples, max_prompt):
  """The rollout as [P, G, T] host arrays, advantages yet to come."""
  prompts, lengths = pad_prompts(rollout.prompts, max_prompt)
  fold = lambda x: x.reshape(len(rollout.prompts), samples, *x.shape[1:])
  s = rollout.samples
  return Graded(prompts, lengths, fold(s.tokens), fold(s.lengths), None, fold(s.sampling_logp))


def with_advantage(batch, reward, cfg, credit=None):
  """Adds advantages (and, by config, the KL penalty and the overlong punishment) to a Graded.

  Args:
    reward: f32[B] from the graders.
    cfg: config.RL.
    credit: f32[B, T] of single tokens, added with the weight cfg.reward.step_credit; None for none.
  """
  with jax.transfer_guard('allow'):  # one number a row, back and forth
    return _with_advantage(batch, np.asarray(reward, np.float32), cfg, credit)


def _with_advantage(batch, reward, cfg, credit):
  shape = batch.lengths.shape
  if cfg.reward.overlong_buffer:
    reward = reward + np.asarray(
      losses.soft_overlong(batch.lengths.reshape(-1), cfg.rollout.max_response, cfg.reward.overlong_buffer)
    )
  if cfg.loss.kl_place == 'reward' and cfg.loss.kl_coef:
    flat = lambda x: x.reshape(-1, x.shape[-1])
    mask = np.arange(batch.responses.shape[2]) < batch.lengths.reshape(-1, 1)
    penalty = losses.kl_penalty(flat(batch.old_logp), flat(batch.ref_logp), mask, cfg.loss.kl_estimator)
    reward = reward - cfg.loss.kl_coef * np.asarray(penalty)
  advantage = np.asarray(losses.ADVANTAGES[cfg.loss.advantage](reward, shape[1]))
  advantage = advantage.reshape(shape)
  if credit is not None:
    advantage = advantage[..., None] + np.float32(cfg.reward.step_credit) * credit.reshape(*shape, -1)
  return dataclasses.replace(batch, advantage=advantage)


def zero_variance(reward, samples):
  """bool[P]: groups whose rewards are all equal, from which nothing can be learned."""
  r = np.asarray(reward).reshape(-1, samples)
  return (r == r[:, :1]).all(axis=1)


def response_metrics(rollout, reflections):
  """response/* of a rollout; reflections: text -> number of reflection words."""
  s = rollout.samples
  return {
    'response/length_mean': s.lengths.mean(),
    'response/length_max': s.lengths.max(),
    'response/truncated_fraction': (s.stop == LENGTH).mean(),
    'response/reflection_rate': np.mean([reflections(i['response']) > 0 for i in rollout.items]),
  }


def reward_metrics(rollout, scores, reward, step):
  """reward/PART/mean of a rollout, over what the part scored; and kind/NAME/* for each kind of problem.

  The latter are its prompts, mean reward, means of its parts, accuracy and length.

  Args:
    scores: what the rollout's scores() returned. reward: config.Reward. step: as of `Sampler.start`.
  """
  asked, right = mix.weights(rollout.items, reward, step), mix.right(scores, reward, rollout.items)
  has = {name: np.array([name in parts for parts in asked]) for name in scores}
  out = {f'reward/{name}/mean': scores[name][rows].mean() for name, rows in has.items() if rows.any()}
  for kind, where in mix.by_kind(rollout.items).items():
    found = {name: scores[name][where].mean() for name, rows in has.items() if rows[where].all()} | {
      'reward': scores['total'][where].mean(),
      'length_mean': rollout.samples.lengths[where].mean(),
      'prompts': where.mean() * len(rollout.problems),
    }
    if reward.accuracy_of(kind) in found:
      found['accuracy'] = right[where].mean()
    out |= {f'kind/{kind}/{name}': x for name, x in found.items()}
  return out


def settled(items, scores, samples, reward, step):
  """bool[P], bool[P]: groups that are all right, and all wrong, by the part that says so of their kind.

  Of a group that no part says it of, one whose totals are all equal counts as both.

  Args:
    items: B = P * samples grading items. scores: {'total', part...: f32[B]}.
    reward: config.Reward. step: as of `Sampler.start`.
  """
  fold = lambda x: np.asarray(x).reshape(-1, samples)
  asked = mix.weights(items, reward, step)
  known = fold([reward.accuracy_of(mix.kind_of(item)) in parts for item, parts in zip(items, asked)])[:, 0]
  right, equal = fold(mix.right(scores, reward, items)), zero_variance(scores['total'], samples)
  return np.where(known, right.all(axis=1), equal), np.where(known, ~right.any(axis=1), equal)


class Kept:
  """DAPO's dynamic sampling: collects groups that are neither all right nor all wrong until there are enough.

  Accuracy alone decides: parts of the reward that differ within such a group, as its form or length may, do not keep
  it.

  Args:
    prompts: groups wanted. samples: of each.
    reward: config.Reward. step: as of `Sampler.start`.
  """

  def __init__(self, prompts, samples, reward, step):
    self._wanted, self._samples, self._reward, self._step = prompts, samples, reward, step
    self._groups, self._spare, self._timeouts, self._drawn = [], [], 0, []

  def add(self, rollout, scored):
    """Takes a graded rollout: scored is what its scores() returned."""
    scores, timeouts = scored
    self._timeouts += timeouts
    all_right, all_wrong = settled(rollout.items, scores, self._samples, self._reward, self._step)
    for i, dull in enumerate(all_right | all_wrong):
      (self._spare if dull else self._groups).append((rollout, scores, i))
    self._drawn += [(rollout, scores, i) for i in range(len(rollout.problems))]

  def missing(self):
    """How many groups are still wanted."""
    return max(self._wanted - len(self._groups), 0)

  def result(self):
    """Rollout and scores function of exactly the wanted number of groups; those filtered out fill up the rest."""
    joined, scores = self._join(self._chosen())
    return joined, lambda: (scores, self._timeouts)

  def metrics(self):
    """filter/before/* of all groups drawn, filter/after/* of those that `result` gives."""
    return {
      f'filter/{when}/{name}': x
      for when, groups in (('before', self._drawn), ('after', self._chosen()))
      for name, x in self._figures(*self._join(groups)).items()
    }

  def _chosen(self):
    return (self._groups + self._spare)[: self._wanted]

  def _figures(self, rollout, scores):
    all_right, all_wrong = settled(rollout.items, scores, self._samples, self._reward, self._step)
    by_kind = reward_metrics(rollout, scores, self._reward, self._step)
    accuracy = {name: x for name, x in by_kind.items() if name.endswith('/accuracy')}
    if not accuracy and self._reward.accuracy in scores:
      accuracy = {'accuracy': mix.right(scores, self._reward, rollout.items).mean()}
    return accuracy | {
      'groups': len(rollout.problems),
      'reward': scores['total'].mean(),
      'all_right': all_right.mean(),
      'all_wrong': all_wrong.mean(),
    }

  def _join(self, chosen):
    g = self._samples
    rows = lambda x, i: x[i * g : (i + 1) * g]
    samples = concatenate(
      [Samples(*(rows(getattr(r.samples, f.name), i) for f in dataclasses.fields(Samples))) for r, _, i in chosen]
    )
    joined = Rollout(
      [r.problems[i] for r, _, i in chosen],
      [r.prompts[i] for r, _, i in chosen],
      [item for r, _, i in chosen for item in rows(r.items, i)],
      samples,
    )
    scores = {name: np.concatenate([rows(s[name], i) for _, s, i in chosen]) for name in chosen[0][1]}
    return joined, scores
