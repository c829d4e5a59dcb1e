"""Samples and grades held-out problems."""

import io
import itertools

import jax

from r1jax import keys, parallel, rewards, templates
from r1jax.evaluation.metrics import summarise
from r1jax.metrics import progress
from r1jax.parallel import interrupt
from r1jax.rewards import mix, votes
from r1jax.rewards.text import form


def key(run_key):
  """The PRNG key of a run's evaluations: of its seed alone, so that steps are compared on equal draws."""
  return keys.fold_in(run_key, 2**32 - 1)  # as of a step that no run reaches


def evaluate(sampler, params, problems, *, samples, sampling, key, reward, language, batch):
  """pass@1 over `samples` responses a problem, and what goes with it.

  Args:
    sampler: rollout.Sampler; its grader scores at least the parts that say what is right.
    problems: held-out problems.
    samples: k.
    sampling: Sampling.
    key: PRNG key. A problem's samples depend on its place in the list, and on `batch`.
    reward: config.Reward: what is right, and the form asked for. Parts that begin later in training count as well.
    language: target of language consistency where a problem names none in its field 'language'.
    batch: problems sampled at a time, rounded up to what divides over the sampler's mesh; the training shape adds no
      programs.

  Returns:
    metrics (see `summarise`), and a row for each response, for the report. Where problems have kinds or languages,
    the metrics of each are there too, as 'kind/NAME/pass@1' and 'language/NAME/pass@1'. Shares of right responses
    (pass@1, any@k, cons@k) are given only of problems judged alike: where a reward model says of some kinds what is
    right, or nothing does, they are there by kind alone.
  """
  rows, pending, shards = [], [], sampler.engine.shards
  batch = -(-batch // shards) * shards
  with progress.fraction(
    -(-len(problems) // batch) * batch, 'evaluation', None if parallel.is_primary() else io.StringIO()
  ) as bar:
    for first in range(0, len(problems), batch):
      interrupt.raise_if_stopped()
      some = problems[first : first + batch]
      wanted = len(some)
      some = some + list(itertools.islice(itertools.cycle(problems), batch - wanted))  # a short one is filled up
      rollout, scores = sampler.start(
        params,
        some,
        samples,
        keys.fold_in(key, first),
        sampling,
        watch=lambda done, first=first: _watch(bar, first + done),
      )
      pending.append((rollout, scores, wanted * samples))
  for rollout, scores, count in pending:
    scores = scores.result()
    right = mix.right(scores.parts, reward, rollout.items)
    voted = _votes(rollout.items[:count], samples, reward, sampler.grader)
    rows += [_row(rollout, scores, i, right[i], voted[i], reward, language) for i in range(count)]
  metrics = _figures(rows, samples, reward, sampler.models)
  for field, values in (
    ('kind', sorted({r['kind'] for r in rows if 'kind' in r})),
    ('target', sorted({r['target'] for r in rows if 'target' in r})),
  ):
    for value in values:
      some = _figures([r for r in rows if r.get(field) == value], samples, reward, sampler.models)
      metrics |= {f'{"language" if field == "target" else field}/{value}/{name}': x for name, x in some.items()}
  return metrics, rows


def _watch(bar, done):
  bar.at(done)
  if jax.process_count() == 1:  # several look between batches, where all are at the same place
    interrupt.raise_if_stopped()


def _figures(rows, samples, reward, models):
  """`summarise`, less the shares of right responses where these would mix what is judged in different ways.

  models: the parts of the reward that models score; rules score the others.
  """
  metrics = summarise(rows, samples)
  parts = {reward.accuracy_of(row.get('kind')) for row in rows}
  judges = {name if name in models else 'rule' for name in parts - {''}}
  if len(judges) == 1 and '' not in parts:
    return metrics
  return {name: x for name, x in metrics.items() if not name.startswith(('pass@', 'any@', 'cons@'))}


def _votes(items, samples, reward, grader):
  """Of each item the number of the answer that it votes for, among those of its problem, or None (`votes.groups`).

  What is an answer, and which are equal, is up to the part that says of its kind what is right.
  """
  problems, found = [items[i : i + samples] for i in range(0, len(items), samples)], {}
  judges = [reward.accuracy_of(mix.kind_of(group[0])) for group in problems]
  for part in dict.fromkeys(judges):
    own = [i for i, judge in enumerate(judges) if judge == part]
    numbers = votes.groups(
      [problems[i] for i in own], reward.function(part), reward.options.get(part), grader if samples > 1 else None, part
    )  # one sample is the majority of itself
    found |= dict(zip(own, numbers, strict=True))
  return [None if n < 0 else n for i in range(len(problems)) for n in found[i]]


def _row(rollout, scores, i, right, voted, reward, language):
  at = divmod(i, scores.total.shape[1])
  item, text = rollout.items[i], templates.completed(rollout.items[i]['prompt'], rollout.items[i]['response'])
  parsed = templates.parse(text)
  target = rewards.language_of(item)
  return {
    'id': item['id'],
    'problem': item['problem'],
    'answer': item['answer'],
    'response': item['response'],
    **({'kind': item['kind']} if isinstance(item.get('kind'), str) else {}),
    **({'target': target} if target else {}),
    'reward': float(scores.total[at]),
    'parts': {name: float(x[at]) for name, x in scores.parts.items() if name in rollout.weights[i]},
    'correct': bool(right),
    'voted': voted,
    'format': _well_formed(item, parsed, reward),
    'length': int(rollout.batch.lengths[at]),
    'stop': str(rollout.batch.stop[at]),
    'reflections': templates.reflections(text),
    'language': rewards.language_consistency(text if parsed.thinking is None else parsed.thinking, target or language),
  }


def _form(reward):
  """Options of the form that the reward asks for."""
  parts = [name for name in reward.names() if reward.function(name) == 'format']
  return {k: v for k, v in reward.options.get(parts[0], {}).items() if k != 'graded'} if parts else {}


def _well_formed(item, parsed, reward):
  options = _form(reward)
  return form.verdict(item, **options)['score'] if options else float(parsed.well_formed)
