"""Step labels without human annotators: rollouts from each step, graded by a rule (Math-Shepherd, arXiv 2312.08935).

N completions are sampled from the solution up to and including a step. The label of the step is the share of
completions that are correct (soft), or whether any is (hard). Those of the last step continue the whole solution.
"""

from r1jax.data import process
from r1jax.data.conversation import SEPARATORS


def prefixes(row, rule, opening='', between=''):
  """The prefixes of a solution that end with each of its steps, as beginnings of a response.

  Args:
    row: dict with 'steps', a list of str. If it also has the 'response' that they are from, prefixes are cut from it.
    rule: one of config.STEP_RULES.
    opening: text before the first step, such as '<think> '.
    between: text after each step, such as ' ', if the policy separates its steps differently from the rule.

  Returns:
    list of str, one per step.
  """
  if 'response' in row:
    return [row['response'][:end] for _, end in process.spans(row['response'], rule)]
  end = between or SEPARATORS[rule]
  steps = [process.one_step(step, rule) + end for step in row['steps']]
  # A space is part of the token of the next word, so a policy has never seen a text that ends with one.
  return [(opening + ''.join(steps[: n + 1])).rstrip(' ') for n in range(len(steps))]


def label(rows, *, sample, right, rule, estimate='soft', opening='', between=''):
  """Labels every step of the given solutions.

  Args:
    rows: list of dicts with 'problem', 'steps', and the fields that the grader needs ('answer').
    sample: function from a list of (row, prefix of a response) to a list of lists of N whole responses that continue
      the prefix.
    right: function from items (the row with 'prompt' and 'response') to whether each is right.
    rule, opening, between: as in `prefixes`.
    estimate: 'soft' or 'hard'.

  Returns:
    the rows with 'labels', a float per step, and 'rollouts', [number correct, N] per step.
  """
  starts = [(row, text) for row in rows for text in prefixes(row, rule, opening, between)]
  groups = sample(starts)
  items = [
    row | {'prompt': row['problem'], 'response': response}
    for (row, _), responses in zip(starts, groups, strict=True)
    for response in responses
  ]
  verdicts = iter(right(items))
  counts = iter([[sum(next(verdicts) for _ in responses), len(responses)] for responses in groups])
  out = []
  for row in rows:
    row_counts = [next(counts) for _ in row['steps']]
    labels = [correct / n if estimate == 'soft' else float(correct > 0) for correct, n in row_counts]
    out.append(row | {'labels': labels, 'rollouts': row_counts})
  return out
