"""The format reward."""
from r1jax import rewards, templates

GOOD = '<think>a</think><answer>7</answer>'


def item(response, template='plain'):
  problem = {'problem': '3+4', 'answer': '7'}
  return dict(problem, prompt=templates.TEMPLATES[template].format(problem), response=response)


def test_one_only_where_well_formed():
  assert rewards.REWARDS['format']([item(GOOD), item(GOOD + '.'), item('7'), item('')]) == [1.0, 0.0, 0.0, 0.0]


def test_the_prompt_may_have_opened_the_thinking():
  rest = GOOD.removeprefix('<think>')
  items = [item(rest, 'r1_zero_open'), item(rest, 'r1_zero'), item(GOOD, 'r1_zero_open'), item(GOOD, 'r1_zero')]
  assert rewards.REWARDS['format'](items) == [1.0, 0.0, 0.0, 1.0]
