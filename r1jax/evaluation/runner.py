"""Samples and grades held-out problems."""
from r1jax import keys, rewards, templates
from r1jax.evaluation.metrics import summarise


def evaluate(sampler, params, problems, *, samples, sampling, key, accuracy, language, batch):
  """pass@1 over `samples` responses a problem, and what goes with it.

  Args:
    sampler: rollout.Sampler; its grader scores at least `accuracy`.
    problems: held-out problems.
    samples: k.
    sampling: Sampling.
    key: PRNG key. A problem's samples depend on its place in the list, and on `batch`.
    accuracy: the reward part that says whether a response is right.
    language: target of language consistency where a problem names none in its field 'language'.
    batch: problems sampled at a time; the training shape adds no programs.

  Returns:
    metrics (see `summarise`), and a row for each response, for the report.
  """
  rows, pending = [], []
  for first in range(0, len(problems), batch):
    some = problems[first:first + batch]
    wanted = len(some)
    some = some + problems[:batch - wanted]             # a short last batch is filled up: no new program
    rollout, scores = sampler.start(params, some[:batch], samples, keys.fold_in(key, first), sampling)
    pending.append((rollout, scores, wanted * samples))
  for rollout, scores, count in pending:
    table, _ = scores()
    table.pop('credit', None)
    rows += [_row(rollout, table, i, accuracy, language) for i in range(count)]
  return summarise(rows, samples), rows


def _row(rollout, scores, i, accuracy, language):
  item, text = rollout.items[i], templates.completed(rollout.items[i]['prompt'], rollout.items[i]['response'])
  parsed = templates.parse(text)
  return {
      'id': item['id'], 'problem': item['problem'], 'answer': item['answer'], 'response': item['response'],
      'reward': float(scores['total'][i]),
      'parts': {name: float(x[i]) for name, x in scores.items() if name != 'total'},
      'correct': bool(scores[accuracy][i] >= 1), 'voted': parsed.answer and ' '.join(parsed.answer.split()),
      'format': float(parsed.well_formed), 'length': int(rollout.samples.lengths[i]),
      'stop': str(rollout.samples.stop[i]),
      'reflections': templates.reflections(text),
      'language': rewards.language_consistency(text if parsed.thinking is None else parsed.thinking,
                                               item.get('language', language)),
  }
