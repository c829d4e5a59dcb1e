"""The format reward."""

import pytest

from r1jax import rewards, templates
from r1jax.config import ConfigError

GOOD = '<think>a</think><answer>7</answer>'
SPECIAL = '|special_token|'
COLD = f'{SPECIAL}a{SPECIAL}b'


def item(response, template='plain'):
  problem = {'problem': '3+4', 'answer': '7'}
  return dict(problem, prompt=templates.TEMPLATES[template].format(problem), response=response)


def score(response, **options):
  return rewards.REWARDS['format']([item(response)], **options)[0]


def test_one_only_where_well_formed():
  assert rewards.REWARDS['format']([item(GOOD), item(GOOD + '.'), item('7'), item('')]) == [1.0, 0.0, 0.0, 0.0]


def test_the_prompt_may_have_opened_the_thinking():
  rest = GOOD.removeprefix('<think>')
  items = [item(rest, 'r1_zero_open'), item(rest, 'r1_zero'), item(GOOD, 'r1_zero_open'), item(GOOD, 'r1_zero')]
  assert rewards.REWARDS['format'](items) == [1.0, 0.0, 0.0, 1.0]
  cold = [dict(item(COLD.removeprefix(SPECIAL)), prompt=prompt) for prompt in ('Q' + SPECIAL, 'Q')]
  assert rewards.REWARDS['format'](cold, form='special') == [1.0, 0.0]
  summary = [item('a</think>b', name) for name in ('r1_zero_open', 'r1_zero')]
  assert rewards.REWARDS['format'](summary, form='r1') == [1.0, 0.0]


@pytest.mark.parametrize('space', ['', '\n', ' \n', '\n\n'])
def test_white_space_behind_what_the_prompt_opened_changes_nothing(space):
  row = lambda opened, response: dict(item(response), prompt=f'Q? Assistant: {opened}{space}')
  rows = [
    row('<think>', 'a\n</think>\n<answer>5</answer>'),
    row('<think>', 'a</think><answer>5'),
    row('<think>', GOOD),
    row('', GOOD),
  ]
  assert rewards.REWARDS['format'](rows) == [1.0, 0.0, 0.0, 1.0]
  assert rewards.REWARDS['format']([row('<think>', 'a</think>b'), row('<think>', 'a')], form='r1') == [1.0, 0.0]
  assert rewards.REWARDS['format']([row(SPECIAL, f'a{SPECIAL}b'), row(SPECIAL, COLD)], form='special') == [1, 0]


@pytest.mark.parametrize(
  ('response', 'met'),
  [
    (GOOD, 6),
    (f'\n{GOOD} ', 6),
    (GOOD + '.', 5),
    ('a' + GOOD, 5),
    ('', 0),
    ('7', 0),
    ('<think>a', 1),
    (GOOD + GOOD, 0),
    ('<think>a</think>7', 2),
    ('<answer>7</answer><think>a</think>', 4),
    (GOOD + '</think>', 3),
    (GOOD + '<think>', 3),
  ],
)
def test_r1_zero_graded(response, met):
  assert score(response, graded=True) == pytest.approx(met / 6)
  assert score(response) == float(met == 6) == float(templates.parse(response).well_formed)


@pytest.mark.parametrize(
  ('response', 'met'),
  [
    ('<think>a</think>b', 5),
    ('\n<think>\na\n</think>\n\nb\n', 5),
    ('<think></think>b', 5),
    (GOOD, 5),
    ('<think>a</think>', 4),
    ('<think>a</think> \n', 4),
    ('so <think>a</think>b', 4),
    ('<think>a', 1),
    ('b', 0),
    ('', 0),
    ('a</think>b', 1),
    ('</think>a<think>b', 2),
    ('<think>a</think>b</think>c', 1),
    ('<think>a<think>b</think>c', 1),
  ],
)
def test_r1_form_of_thinking_and_a_summary(response, met):
  assert score(response, form='r1', graded=True) == pytest.approx(met / 5)
  assert score(response, form='r1') == float(met == 5)


@pytest.mark.parametrize(
  ('response', 'met'),
  [
    (COLD, 3),
    (f' {COLD}\n', 3),
    (f'{SPECIAL}{SPECIAL}b', 3),
    (f'{SPECIAL}a{SPECIAL} ', 2),
    ('x' + COLD, 2),
    ('', 0),
    ('b', 0),
    (SPECIAL + 'a', 0),
    (COLD + SPECIAL, 0),
  ],
)
def test_cold_start_form(response, met):
  assert score(response, form='special', graded=True) == pytest.approx(met / 3)
  assert score(response, form='special') == float(met == 3)
  other = response.replace(SPECIAL, '<|sep|>')
  assert score(other, form='special', special='<|sep|>') == float(met == 3)


@pytest.mark.parametrize('token', ['<|im_start|>', '<|endoftext|>', '<|eot_id|>', '<｜User｜>', '<｜begin▁of｜>'])
def test_a_control_token_is_in_no_form(token):
  for response in (f'<think>a{token}b</think><answer>7</answer>', f'<think>a</think><answer>{token}7</answer>'):
    assert score(response) == score(response, form='r1') == 0.0 and score(response, graded=True) == pytest.approx(6 / 7)
  verdict = rewards.VERDICTS['format'](item(f'<think>{token}</think><answer>7</answer>'))
  assert verdict['missing'] == ['no control tokens']
  cold = f'{token}a{token}b'
  assert [score(text, form='special', special=token) for text in (cold, cold + '<|other|>')] == [1.0, 0.0]


def test_a_special_token_that_the_tokenizer_names_is_in_no_form_and_think_tags_are_none():
  row = item('<think>a[PAD]</think><answer>7</answer>')
  named = [dict(row, control=control) for control in ((), ['[PAD]'], ('<think>', '</think>'))]
  assert rewards.REWARDS['format'](named) == [1.0, 0.0, 1.0]
  for text in ('a <|> b', 'x <| f |> y', 'a<b|c>d', 'p(a<|x|)'):  # operators of programs
    assert score(f'<think>{text}</think><answer>7</answer>') == 1.0


def test_a_verdict_names_what_is_missing():
  verdict = rewards.VERDICTS['format'](item(GOOD + '.'), graded=True)
  assert verdict == {'score': 5 / 6, 'reason': 'not met: nothing outside', 'missing': ['nothing outside']}
  assert rewards.VERDICTS['format'](item(GOOD))['reason'] == 'well formed'


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'form': 'r2'}, "the form is 'r2'; known: r1_zero, r1, special"),
    ({'special': ''}, "the special token is ''"),
    ({'graded': 'yes'}, "graded is 'yes'"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ConfigError, match=message):
    rewards.REWARDS['format']([], **options)


def test_a_megabyte_is_no_matter():
  for unit in ('<think>', '</think>', '<answer>', '<', SPECIAL, ' ', '<think>a</think><answer>'):
    for form in ('r1_zero', 'r1', 'special'):
      assert score(unit * (1_000_000 // len(unit)), form=form) == 0.0
