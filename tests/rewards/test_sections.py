"""The reward for sections of a response."""

import pytest

from configs import ablations
from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards.text import sections as module

ALL = 'Analysis: two numbers.\nSteps: 2 + 3 = 5\nVerification: 5 - 3 = 2'


def score(text, **options):
  return rewards.resolve('sections')([{'response': text}], **options)[0]


@pytest.mark.parametrize(
  ('text', 'share'),
  [
    (f'<think>{ALL}</think>5', 3),
    (ALL, 3),  # without tags the whole response counts
    (ALL.upper(), 3),
    (ALL.replace('Steps', 'Analysis: Steps'), 3),  # twice in its section
    (f'<think>5</think>{ALL}', 0),  # not in the thinking
    (ALL.replace('Verification: 5 - 3 = 2', 'Verification:'), 2),  # empty
    (ALL.replace('two numbers.', '...'), 2),
    ('Steps: 2 + 3 = 5. Analysis: easy.', 1),  # in the wrong order
    ('A metaanalysis of footsteps', 0),  # no whole words
    ('analysis steps verification', 0),  # the words alone
    ('analysis steps verification done', 1),
    ('', 0),
  ],
)
def test_sections_that_are_there_in_order_and_not_empty(text, share):
  assert score(text) == pytest.approx(share / 3)


def test_headings_places_and_reasons():
  chinese = {'headings': ('分析', '检查|验证')}
  assert score('分析这个题,然后验证一下', **chinese) == 1 and score('检查一下', **chinese) == 0.5
  text = '<think>no plan</think>Steps: add. Check: done.'
  assert score(text, headings=('steps', 'check|verify'), where='summary') == 1
  assert score(text, headings=('plan', 'verify|check'), where='response') == 1
  found = module.verdict({'response': text}, headings=('steps', 'proof'), where='summary')
  assert found == {'score': 0.5, 'reason': 'missing or empty: proof', 'missing': ['proof']}
  assert score('<think>a plan</think>done', headings=('plan',)) == 0  # nothing after it in the thinking


def test_a_checked_chain_of_the_toy_world_has_the_sections_of_its_ablation():
  options = ablations.get_config('tool_reward_shape').stages.light.config.reward.options.sections.to_dict()
  text = '<think> first a 15 b +4 19 {} so </think> <answer> 19 </answer>'
  assert score(text.format('wait check a 15 b +4 19'), **options) == 1
  assert score(text.format('').replace('<think>', ''), **options) == score(text.format(''), **options) == 0.5


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'headings': ()}, 'list how each section begins'),
    ({'headings': 'steps'}, 'list how each section begins'),
    ({'headings': ('steps', 'a||b')}, 'list how each section begins'),
    ({'headings': ('a', 'a')}, 'twice'),
    ({'where': 'answer'}, 'known: thinking, summary, response'),
  ],
)
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(ConfigError, match=message):
    score('x', **options)
