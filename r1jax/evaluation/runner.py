"""Samples responses to held-out problems and grades them."""

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
  """The PRNG key of a run's evaluations. It does not depend on the step, so that steps are compared on equal draws."""
  return keys.fold_in(run_key, 2**32 - 1)  # a step that no run reaches


def evaluate(sampler, params, problems, *, samples, sampling, key, reward, language, batch):
  """Evaluates a policy: pass@1 over `samples` responses to each problem, and related metrics.

  Args:
    sampler: rollout.Sampler, whose grader scores at least the reward's accuracy parts.
    params: of the policy.
    problems: held-out problems.
    samples: k, responses to each problem.
    sampling: SamplingParams.
    key: PRNG key. The samples of a problem depend on its index and on `batch`.
    reward: config.Reward, which defines accuracy and format. Parts that start later in training count as well.
    language: target of language consistency for problems without a field 'language'.
    batch: problems sampled at a time, rounded up to a multiple of the shards of the sampler's mesh. With the shape used
      in training no further programs are compiled.

  Returns:
    metrics (see `summarise`), and a row for each response, for the report. If problems have kinds or languages, the
    metrics of each are included as 'kind/NAME/pass@1' and 'language/NAME/pass@1'. Accuracies (pass@1, any@k, cons@k)
    are given only over problems that are judged in the same way: if a reward model judges some kinds, or nothing does,
    they are given only by kind.
  """
  rows, pending, shards = [], [], sampler.engine.shards
  batch = -(-batch // shards) * shards
  with progress.fraction(
    -(-len(problems) // batch) * batch, 'evaluation', None if parallel.is_primary() else io.StringIO()
  ) as bar:
    for first in range(0, len(problems), batch):
      interrupt.raise_if_stopped()
      chunk = problems[first : first + batch]
      # A short last batch is padded with other problems, whose responses are dropped.
      padding = list(itertools.islice(itertools.cycle(problems), batch - len(chunk)))
      rollout, scores = sampler.start(
        params,
        chunk + padding,
        samples,
        keys.fold_in(key, first),
        sampling,
        watch=lambda done, first=first: watch(bar, first + done),
      )
      pending.append((rollout, scores, len(chunk) * samples))
  for rollout, scores, count in pending:
    scores = scores.result()
    correct = mix.right(scores.parts, reward, rollout.items)
    voted = number_votes(rollout.items[:count], samples, reward, sampler.grader)
    rows += [_row(rollout, scores, i, correct[i], voted[i], reward, language) for i in range(count)]
  metrics = _metrics(rows, samples, reward, sampler.models)
  for field, prefix in (('kind', 'kind'), ('target', 'language')):
    for value in sorted({r[field] for r in rows if field in r}):
      subset = _metrics([r for r in rows if r.get(field) == value], samples, reward, sampler.models)
      metrics |= {f'{prefix}/{value}/{name}': x for name, x in subset.items()}
  return metrics, rows


def watch(bar, done):
  """Shows progress, and ends an evaluation that was asked to end."""
  bar.at(done)
  if jax.process_count() == 1:  # several processes check between batches, where all are at the same point
    interrupt.raise_if_stopped()


def _metrics(rows, samples, reward, models):
  """`summarise`, without accuracies that would mix problems judged in different ways.

  models: the parts of the reward that models score; rules score the others.
  """
  metrics = summarise(rows, samples)
  parts = {reward.accuracy_of(row.get('kind')) for row in rows}
  judges = {name if name in models else 'rule' for name in parts - {''}}
  if len(judges) == 1 and '' not in parts:
    return metrics
  return {name: x for name, x in metrics.items() if not name.startswith(('pass@', 'any@', 'cons@'))}


def number_votes(items, samples, reward, grader):
  """For each item the number of its answer among the answers to its problem, or None if it has none.

  The accuracy part of the problem's kind decides what the answer is and which answers are equal, see `votes.groups`.
  """
  problems, numbers = [items[i : i + samples] for i in range(0, len(items), samples)], {}
  judges = [reward.accuracy_of(mix.kind_of(group[0])) for group in problems]
  for part in dict.fromkeys(judges):
    judged = [i for i, judge in enumerate(judges) if judge == part]
    answers = votes.groups(
      [problems[i] for i in judged],
      reward.function(part),
      reward.options.get(part),
      grader if samples > 1 else None,  # a single sample needs no comparison
      part,
    )
    numbers |= dict(zip(judged, answers, strict=True))
  return [None if n < 0 else n for i in range(len(problems)) for n in numbers[i]]


def _row(rollout, scores, i, correct, voted, reward, language):
  """The row of response `i` of a rollout, for `summarise` and for the report."""
  index = divmod(i, scores.total.shape[1])
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
    'reward': float(scores.total[index]),
    'parts': {name: float(x[index]) for name, x in scores.parts.items() if name in rollout.weights[i]},
    'correct': bool(correct),
    'voted': voted,
    'format': _well_formed(item, parsed, reward),
    'length': int(rollout.batch.lengths[index]),
    'stop': str(rollout.batch.stop[index]),
    'reflections': templates.reflections(text),
    'language': rewards.language_consistency(text if parsed.thinking is None else parsed.thinking, target or language),
  }


def _format_options(reward):
  """Options of the reward's format part; {} if it has none."""
  parts = [name for name in reward.names() if reward.function(name) == 'format']
  return {k: v for k, v in reward.options.get(parts[0], {}).items() if k != 'graded'} if parts else {}


def _well_formed(item, parsed, reward):
  options = _format_options(reward)
  return form.verdict(item, **options)['score'] if options else float(parsed.well_formed)
