"""Countdown: what is an expression of the given numbers, and what only looks like one."""

import random
import warnings

import pytest

from r1jax import config, rewards, templates
from r1jax.config import ConfigError
from r1jax.data.toy import countdown as game
from r1jax.rewards import mix, needs
from r1jax.rewards.workers import pool

NUMBERS, TARGET = [44, 19, 35], 98
TAGGED = '<think>t</think><answer>{}</answer>'


def verdict(answer, numbers=NUMBERS, target=TARGET, wrap=TAGGED, **options):
  item = {'response': wrap.replace('{}', answer), 'numbers': numbers, 'target': target}
  out = rewards.VERDICTS['countdown'](item, **options)
  assert rewards.REWARDS['countdown']([item], **options) == [out['score']]
  return out


def score(answer, *args, **options):
  return verdict(answer, *args, **options)['score']


@pytest.mark.parametrize(
  'answer',
  ['44 + 19 + 35', '(44+19)+35', '35 +\n 44 + 19', ' ((44)) + (19 + (35)) ', r'\boxed{44 + 19 + 35}', '44+19+35'],
)
def test_a_right_expression_in_any_writing(answer):
  assert score(answer) == score(answer, attempt=0.1) == 1.0


def test_values_are_exact_fractions():
  assert score('8 / (3 - 8 / 3)', [3, 3, 8, 8], 24) == 1.0  # a third is no float
  assert score('1 / 3 * 3 + 9', [1, 3, 3, 9], 10) == 1.0
  assert score('49 / 49 * 49 + 1', [49, 49, 49, 1], 50) == 1.0
  assert score('99 * 99 / 98 - 3', [99, 99, 98, 3], 97) == 0.0  # 97.01...
  assert 'the value is 9507/98, not 97' in verdict('99 * 99 / 98 - 3', [99, 99, 98, 3], 97)['reason']


def test_every_number_is_used_exactly_as_often_as_it_is_given():
  assert score('7 + 7 - 4', [7, 4, 7], 10) == 1.0
  for answer, numbers, reason in (
    ('44 + 44 + 19 + 35 - 44', NUMBERS, '44 is not given, or not so often'),
    ('7 + 4 - 1', [7, 4], '1 is not given'),
    ('7 + 7 - 4', [7, 4], '7 is not given, or not so often'),
    ('7 + 3', [7, 3, 5], '5 is not used'),
    ('7 + 3', [7, 3, 3], '3 is not used'),
    ('4419 + 35', NUMBERS, '4419 is not given'),
    ('98', NUMBERS, '98 is not given'),
  ):
    target = {'44 + 44 + 19 + 35 - 44': 98, '98': 98, '4419 + 35': 4454}.get(answer, 10)
    found = verdict(answer, numbers, target)
    assert found['score'] == 0.0 and reason in found['reason'], answer


# None of these may be evaluated, and none takes time or memory.
HOSTILE = [
  '9**9**9**9',
  '44 ** 19 + 35',
  '10**100**100',
  '44 // 19 + 35',
  '44 % 19 + 35',
  '44 << 9999999999',
  '44 + 19 + 35 if 1 else 0',
  '[44 + 19 + 35][0]',
  '44 + 19 + 35 #',
  '44 + 19 + 35;',
  '44 + 19 + 35 = 98',
  '44 + 19 == 63',
  '44 + 19 + 35, 98',
  '(44, 19, 35)',
  '44(19)(35)',
  '()',
  '44.0 + 19 + 35',
  '44e0 + 19 + 35',
  '4_4 + 19 + 35',
  '0x2c + 19 + 35',
  '044 + 19 + 35',
  'True * 44 + 19 + 35',
  '__import__("os").system("true")',
  'f"{44}"',
  '44 + 19 + 35j',
  '４４ + 19 + 35',  # full width
  '٤٤ + 19 + 35',  # Arabic
  '4² + 19',
  '44 × 19 + 35',
  '44 + 19 − 35',
  '44 ÷ 19',
  '44\u200b + 19 + 35',
  '44 + 19 +',
  '44 19 35',
  ')44 + 19 + 35(',
  '((44 + 19 + 35)',
  '+' * 150 + '44',
  '-' * 190,
  '(' * 95 + '44' + ')' * 95,
  '(' * 5000 + '44 + 19 + 35' + ')' * 5000,
  '1' * 199,
  '9' * 100_000,
  '1+' * 100_000 + '1',
  '\x00',
  '44 + 19 + 35' + ' + 0' * 60,
]


@pytest.mark.parametrize('answer', HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_expression_of_the_game_is_wrong(answer):
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # the parser's warnings would reach a worker's standard error
    assert score(answer) == 0.0
    vote = rewards.VOTES['countdown']({'response': TAGGED.replace('{}', answer)})
  assert vote is None or set(vote) <= set('0123456789+-*/()')


def test_a_division_by_zero_is_wrong_and_not_an_error():
  found = verdict('19 / (44 - 44) + 35', [19, 44, 44, 35], 35)
  assert found['score'] == 0.0 and 'division by zero' in found['reason']
  assert score('(35 - 35) / 19', [35, 35, 19], 0) == 1.0


@pytest.mark.parametrize('answer', ['-19 + 44', '44 + -19', '+44 - 19', '-(19 - 44)', '44 - -19'])
def test_a_sign_is_no_operation_of_the_game(answer):
  found = verdict(answer, [44, 19], 25)
  assert found['score'] == 0.0 and 'sign' in found['reason']


def test_where_the_expression_is_looked_for():
  right = '44 + 19 + 35'
  for wrap, both, tags, boxed in (
    (TAGGED, 1, 1, 0),
    ('<think>t</think>\\boxed{{}}', 1, 0, 1),
    ('<answer>{}</answer>', 1, 1, 0),
    ('{}', 0, 0, 0),
    ('<think><answer>{}</answer>', 0, 0, 0),  # still thinking
    ('<think><answer>{}</answer></think>', 0, 0, 0),
    ('<answer>1</answer><answer>{}</answer>', 1, 1, 0),
    ('<answer>{}</answer><answer>1</answer>', 0, 0, 0),
    ('<answer>{}</answer> so the answer is 97', 0, 0, 0),
    ('<answer></answer>', 0, 0, 0),
  ):
    for where, want in (('both', both), ('tags', tags), ('boxed', boxed)):
      assert score(right, wrap=wrap, where=where) == want, (wrap, where)
      assert score(right, wrap=wrap) == score(right, wrap=wrap, attempt=0.0)


def test_an_attempt_scores_only_where_there_is_an_answer():
  """TinyZero's scores: 1 for a right answer, 0.1 for any other in the tags, else 0."""
  options = dict(where='tags', attempt=0.1)
  assert score('44 + 19 + 35', **options) == 1.0
  for answer in ('44 + 19', '9**9**9', 'I do not know'):
    assert score(answer, **options) == pytest.approx(0.1)
  for wrap in ('{}', '<think>{}', '\\boxed{{}}', '<think>t</think><answer></answer>'):
    assert score('44 + 19 + 35', wrap=wrap, **options) == 0.0


def test_the_published_prompt_and_reward_can_be_written_in_a_config():
  cfg = config.convert(
    dict(parts=dict(countdown=1.0), accuracy='countdown', options=dict(countdown=dict(attempt=0.1, where='tags'))),
    config.Reward,
  )
  (problem,) = game.problems(0, 1, held_out=True)
  prompt = templates.TEMPLATES['countdown'].format(problem)
  assert prompt.startswith('A conversation between User and Assistant.') and prompt.endswith('step by step.\n<think>')
  assert f'\nUser: {problem["problem"]} Show your work in <think> </think> tags.' in prompt
  responses = [f' so</think>\n<answer> {problem["answer"]} </answer>', ' </think> <answer>1</answer>', 'no idea']
  items = [problem | {'prompt': prompt, 'response': response} for response in responses]
  with pool.Grader(cfg.options, functions=cfg.functions) as grader:
    scores = grader.submit(items).result()
  assert mix.total(scores.parts, cfg).tolist() == pytest.approx([1.0, 0.1, 0.0])
  assert mix.right(scores.parts, cfg, items).tolist() == [True, False, False]


def test_random_expressions_against_pythons_own_arithmetic():
  """The tree is made here, written, and computed in floats; operations and numbers are then changed."""
  rng = random.Random(0)

  def tree(numbers):
    if len(numbers) == 1:
      return str(numbers[0])
    cut = rng.randrange(1, len(numbers))
    return f'({tree(numbers[:cut])} {rng.choice("+-*/")} {tree(numbers[cut:])})'

  right = 0
  for _ in range(400):
    numbers = [rng.randrange(1, 20) for _ in range(rng.randrange(2, 5))]
    text = tree(numbers)
    try:
      reached = eval(text)
    except ZeroDivisionError:
      assert score(text, numbers, 1) == 0.0
      continue
    whole = round(reached)
    exact = abs(reached - whole) < 1e-9
    right += exact
    shuffled = rng.sample(numbers, len(numbers))
    assert score(text, shuffled, whole) == float(exact), (text, reached)
    assert score(text, shuffled, whole + 1) == 0.0
    assert score(text, [*numbers, 3], whole) == 0.0
  assert right > 100


def test_votes_are_the_expressions():
  vote = lambda response: rewards.VOTES['countdown']({'response': response}, attempt=0.1)
  assert vote(TAGGED.replace('{}', ' 44 +19 + 35')) == '44+19+35'
  assert vote('44 + 19') is vote(TAGGED.replace('{}', 'none')) is None
  assert vote('<answer>44 + 19</answer> The answer is 5.') is None


def test_options_and_rows_are_checked():
  for options, message in (
    ({'where': 'summary'}, "where is 'summary'"),
    ({'attempt': 1.0}, 'attempt is 1.0'),
    ({'attempt': -0.1}, 'attempt is -0.1'),
    ({'attempt': True}, 'attempt is True'),
    ({'attempt': '0.1'}, "attempt is '0.1'"),
  ):
    with pytest.raises(ConfigError, match=message):
      rewards.REWARDS['countdown']([], **options)
  check = needs.checker(config.Reward(parts={'countdown': 1.0}, accuracy='countdown'))
  check({'problem': 'x', 'numbers': [1, 2], 'target': 3})
  for row, message in (
    ({'numbers': [1, 2]}, "no field 'target'"),
    ({'target': 3}, "no field 'numbers'"),
    ({'numbers': [], 'target': 3}, "'numbers' must"),
    ({'numbers': '1 2', 'target': 3}, "'numbers' must"),
    ({'numbers': [1.5], 'target': 3}, "'numbers' must"),
    ({'numbers': [True], 'target': 3}, "'numbers' must"),
    ({'numbers': [-1], 'target': 3}, "'numbers' must"),
    ({'numbers': [1, 2], 'target': '3'}, "'target' is '3'"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      check({'problem': 'x'} | row)
    assert '\n' not in str(error.value)
