"""Arithmetic in words: the solutions compute, and what they compute is what the stories tell."""

import re

from r1jax.data.toy import stories


def retold(story):
  """The number of things at the end, from the sentences alone."""
  sentences = story.split('. ')
  number = int(re.search(r'has (\d+)', sentences[0])[1])
  for sentence in sentences[1:-1]:
    numbers = [int(n) for n in re.findall(r'\d+', sentence)]
    if 'bags' in sentence:
      number += numbers[0] * numbers[1]
    elif 'as many' in sentence:
      number *= 2
    elif 'heaps' in sentence:
      assert number % numbers[0] == 0
      number //= numbers[0]
    else:
      number += numbers[0] if 'more' in sentence else -numbers[0]
  return number


def test_solutions_end_with_what_the_stories_tell():
  for story, solution in stories.solutions(0, 500)[::2]:
    equations = re.findall(r'(\d+) ([-+*/]) (\d+) = (\d+)', solution)
    assert len(equations) >= stories.LENGTH
    for a, operation, b, c in equations:
      assert {'+': int(a) + int(b), '-': int(a) - int(b), '*': int(a) * int(b), '/': int(a) / int(b)}[operation] == int(
        c
      )
    answer = re.search(r'boxed\{(\d+)\}', solution)[1]
    assert int(answer) == int(equations[-1][3]) == retold(story) > 0


def test_every_other_solution_is_the_answer_alone():
  for story, solution in stories.solutions(0, 500)[1::2]:
    assert solution == f'<think>\nThat makes {retold(story)}.\n</think>\n\nThe answer is \\boxed{{{retold(story)}}}.'


def test_solutions_are_of_no_held_out_story():
  held_out = {p['problem'] for p in stories.problems(0, 300, held_out=True)}
  assert len(held_out) == 300 and not held_out & {story for story, _ in stories.solutions(0, 2000)}
