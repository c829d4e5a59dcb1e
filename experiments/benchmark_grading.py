"""Speed of grading by rules; see `experiments.benchmark`, which runs it as `math` and `code`."""

import json
import os

from r1jax.rewards.workers import pool

ANSWERS = (
  ('{}', '{}'),
  (r'\frac{{{}}}{{7}}', '{}/7'),
  ('{}.50', '{}.5'),
  (r'{} \text{{ cm}}', '{}'),
  ('x = {}', '{}'),
  (r'\{{1, {}\}}', r'\{{{}, 1\}}'),
  (r'{}\sqrt{{2}}', r'\sqrt{{2}} \cdot {}'),
  ('({}, 3)', '({}, 3)'),
)


def math_items(count):
  """Responses of 2 kB; every other one is correct."""
  think = 'Let me see: 17 times 24 is 408, so the rest follows from the second equation. ' * 25
  forms = [ANSWERS[i % len(ANSWERS)] for i in range(count)]
  return [
    {
      'prompt': '',
      'answer': gold.format(i + 2),
      'response': f'<think>{think}</think><answer>{pred.format(i + 2 + i // len(ANSWERS) % 2)}</answer>',
    }
    for i, (pred, gold) in enumerate(forms)
  ]


def code_items(count):
  """Short programs; every other one is correct."""
  # All different, because equal programs would be run only once.
  program = '# {}\ndef f(n):\n    total = {}\n    for i in range(n):\n        total += i * i\n    return total\n'
  asserts = ['assert f(3) == 5', 'assert f(0) == 0', 'assert f(100) == 328350']
  return [{'prompt': '', 'program': program.format(i, i % 2), 'asserts': asserts} for i in range(count)]


def run(name, f, timed):
  """Benchmarks `math` and `code`; f: flags; timed: function (run, repeats) of experiments.benchmark."""
  items = {'math': math_items, 'code': code_items}[name](f.items)
  with pool.Grader({name: {}}, f.workers, timeout=60.0) as grader:
    grader.submit(items[: f.workers]).result()  # waits until the workers have started
    times, _ = timed(lambda: grader.submit(items).result(), f.repeats)
    scores = grader.submit(items).result()
  best = min(wall for wall, _ in times)
  print(
    json.dumps(
      {
        'bench': name,
        'items': f.items,
        'workers': f.workers,
        'seconds': round(best, 2),
        'items_s': round(f.items / best, 1),
        'right': float(scores.parts[name].mean()),
        'timeouts': scores.timeouts,
        'cores': len(os.sched_getaffinity(0)),
        'load1': round(os.getloadavg()[0], 2),
      }
    )
  )
