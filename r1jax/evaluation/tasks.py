"""Samples and grades a chunk of a task's problems."""

import math

from r1jax import parallel, rewards
from r1jax.evaluation.runner import number_votes
from r1jax.rewards import mix, votes

# Of a verdict what a row keeps, and what stands for it where there is none: why, the word of a judge, and characters of
# the response's summary minus those of the one it was compared with.
ABOUT = {'reason': '', 'grade': '', 'length_difference': 0}


def _is_finite(x):
  return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def graded(sampler, params, problems, number, *, samples, sampling, key, seed, split='', watch=None):
  """The rows of `evaluation.samples` of some problems of a task.

  A sample depends on the key, its problem's number and its own alone.

  Args:
    sampler: rollout.Sampler with the config.Reward of a config.Task.
    params: of the policy.
    problems: as many as the engine can take in one call.
    number: of the first of them in the task.
    samples: k, responses to each.
    sampling: SamplingParams. key: PRNG key.
    seed: of the run, for the rows.
    split: field of the problems that is kept in the rows.
    watch: as for `Sampler.start`.

  Returns:
    list of P * k rows, the same in every process.
  """
  whole = 1 if sampler.engine.any_batch else sampler.chunk  # so that a short one does not compile another program
  padded = problems + problems[:1] * (-len(problems) % whole)
  rollout, pending = sampler.start(params, padded, samples, key, sampling, watch=watch, number=number)
  scores, part = pending.result(), sampler.reward.accuracy
  items, correct = rollout.items[: len(problems) * samples], mix.right(scores.parts, sampler.reward, rollout.items)
  kept = lambda verdict: {name: verdict[name] for name in ABOUT if name in verdict}
  about = parallel.merge_across_processes({i: kept(v) for i, v in scores.verdicts.get(part, {}).items()})
  can_vote = sampler.reward.function(part) in rewards.VOTES
  voted = number_votes(items, samples, sampler.reward, sampler.grader) if can_vote else [None] * len(items)
  answer = lambda item: votes.answer_text(item, part, sampler.reward.options.get(part)) if can_vote else None
  return [
    {
      'id': item['id'],
      'split': str(item.get(split, '')),
      'seed': seed,
      'sample': i % samples,
      'response': item['response'],
      'stop': str(rollout.batch.stop[divmod(i, samples)]),
      'length': int(rollout.batch.lengths[divmod(i, samples)]),
      'score': float(scores.parts[part][divmod(i, samples)]),
      'correct': bool(correct[i]),
      **ABOUT,
      **about.get(i, {}),
      'answer': answer(item),
      'voted': voted[i],
      **({'rating': item['rating']} if _is_finite(item.get('rating')) else {}),
    }
    for i, item in enumerate(items)
  ]
