"""Step labels without people: roll-outs from each step, graded by a rule (Math-Shepherd, arXiv 2312.08935).

From the solution up to and with a step, N completions are sampled; the step's label is the share of them that end
right (soft), or whether any does (hard). The last step's completions go on from the whole solution.
"""

from r1jax.data import process
from r1jax.data.conversation import SEPARATORS

ESTIMATES = ('soft', 'hard')


def prefixes(row, rule, opening='', between=''):
  """Of a row with 'steps', the beginnings of its solution that end with each step, as texts of a response.

  Args:
    rule: of config.STEP_RULES. opening: text before the first step, such as '<think> '.
    between: text after each step where the policy writes its steps otherwise than the rule has it, such as ' '.
  """
  end = between or SEPARATORS[rule]
  steps = [process.one_step(step, rule) + end for step in row['steps']]
  # A space belongs to the token of the word behind it: a policy has seen none at the end of a text.
  return [(opening + ''.join(steps[: n + 1])).rstrip(' ') for n in range(len(steps))]


def label(rows, *, sample, grade, rule, estimate='soft', opening='', between=''):
  """Labels every step of some solutions.

  Args:
    rows: dicts with 'problem', 'steps', and what the grader needs ('answer').
    sample: function from a list of (row, beginning of its response) to a list of lists of N responses that go on
      from it, whole texts.
    grade: function from items (the row with 'prompt' and 'response') to floats; 1 or more is right.
    rule, opening, between: as of `prefixes`. estimate: 'soft' or 'hard'.

  Returns:
    the rows with 'labels', a float each step, and 'rollouts', [number right, N] each step.
  """
  asked = [(row, text) for row in rows for text in prefixes(row, rule, opening, between)]
  responses = sample(asked)
  items = [
    row | {'prompt': row['problem'], 'response': response}
    for (row, _), some in zip(asked, responses, strict=True)
    for response in some
  ]
  graded, found = iter(grade(items)), []
  for some in responses:
    found.append([sum(next(graded) >= 1 for _ in some), len(some)])
  out, found = [], iter(found)
  for row in rows:
    counts = [next(found) for _ in row['steps']]
    labels = [right / n if estimate == 'soft' else float(right > 0) for right, n in counts]
    out.append(row | {'labels': labels, 'rollouts': counts})
  return out
