"""Knights and knaves, on the data's own answers."""

import json
import random

import pytest

from r1jax import rewards
from r1jax.config import ConfigError

NAMES, KNIGHTS = ['Amelia', 'Penelope', 'Evelyn'], [True, True, False]
RIGHT = '(1) Amelia is a knight\n(2) Penelope is a knight\n(3) Evelyn is a knave'


def score(answer, wrap='<think>t</think><answer>{}</answer>', **options):
  item = {'response': wrap.replace('{}', answer), 'names': NAMES, 'is_knight': KNIGHTS}
  out = rewards.REWARDS['logic']([item], **options)[0]
  assert out == rewards.VERDICTS['logic'](item, **options)['score']
  return out


@pytest.fixture(scope='module')
def table(data_dir):
  with open(data_dir / 'logic' / 'knights_knaves_test.jsonl', encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def test_each_row_with_its_answer_and_with_changes_of_it(table):
  rng = random.Random(0)
  for row in table:
    lines = row['answer'].split('\n')
    i = rng.randrange(len(lines))
    negated = lines[i].replace('knight', 'KNAVE') if 'knight' in lines[i] else lines[i].replace('knave', 'knight')
    flipped = lines[:i] + [negated] + lines[i + 1 :]
    shuffled = rng.sample(lines, len(lines))
    share = 1 - 1 / len(lines)
    for expected, partial, answer_lines in (
      (1, 1, lines),
      (1, 1, shuffled),
      (1, 1, lines + [lines[i]]),  # said twice
      (0, share, flipped),
      (0, 0, lines + [negated]),
      (0, 0, [negated] + lines),
      (0, 0, lines[:i] + lines[i + 1 :]),
      (0, 0, lines[:i] + lines[i + 1 :] + [lines[i].replace(row['names'][i], 'Nobody')]),
      (0, 0, []),
      (0, 0, lines + ['Zed is a knave']),
      (0, 0, [line.replace(' is a ', ' is not a ') for line in lines]),
    ):
      for wrap in ('<answer>{}</answer>', '<think>{}</think>\n<answer>\n{}\n</answer>', '\\boxed{{}}'):
        item = dict(row, response=wrap.replace('{}', '\n'.join(answer_lines)))
        assert rewards.REWARDS['logic']([item]) == [expected], (row['id'], answer_lines)
        assert rewards.REWARDS['logic']([item], partial=True) == [pytest.approx(partial)], (row['id'], answer_lines)
    hidden = dict(row, response=f'<think>{row["answer"]}</think>')
    assert rewards.REWARDS['logic']([hidden]) == [0.0]


@pytest.mark.parametrize(
  'answer',
  [
    RIGHT,
    RIGHT.replace('\n', ', '),
    'Amelia: knight; Penelope: knight; Evelyn: knave',
    RIGHT.upper(),
    '**Amelia** is a **knight**, **Penelope** is a **knight**, and **Evelyn** is a **knave**.',
    'Evelyn is the knave. Amelia = knight. Penelope is knight',
    r'\text{Amelia is a knight, Penelope is a knight, Evelyn is a knave}',
    'So we have:\n- Amelia: a knight\n- Penelope: a knight\n- Evelyn: a knave\nDone.',
  ],
)
def test_ways_to_say_it(answer):
  assert score(answer) == 1.0
  assert score(answer, wrap='<think>t</think>{}', where='summary') == 1.0
  assert score(answer, wrap='<think>t</think>{}') == 0.0


@pytest.mark.parametrize(
  'answer',
  [
    '',
    'knight knight knave',
    'Amelia and Penelope are knights, Evelyn is a knave',
    RIGHT.replace('knave', 'knight or a knave'),
    RIGHT.replace('is a knave', 'is not a knight'),
    RIGHT.replace('Evelyn is', 'Evelyn may be'),
    RIGHT + ' or a knight',
    RIGHT + '\nEvelyn is a knight',
    RIGHT.replace('knave', 'liar'),
    RIGHT.replace('Evelyn', 'Eve'),
    'all knights but Evelyn',
    'Amelia is a knight',
    RIGHT.replace('Amelia', 'Penelope'),
    'knight ' * 300,
    RIGHT * 900,
  ],
)
def test_what_is_not_a_statement_for_each(answer):
  assert score(answer) == score(answer, partial=True) == 0.0


def test_partial_is_the_share_of_people():
  assert score(RIGHT.replace('knave', 'knight'), partial=True) == pytest.approx(2 / 3)
  assert score(RIGHT.replace('knight', 'knave'), partial=True) == pytest.approx(1 / 3)


def test_a_second_answer_behind_the_first_spoils_it():
  assert score(RIGHT, wrap='<answer>{}</answer> \\boxed{Evelyn is a knight}') == 0.0


def test_options_are_checked():
  for options, message in (({'where': 'here'}, "where is 'here'"), ({'partial': 'yes'}, "partial is 'yes'")):
    with pytest.raises(ConfigError, match=message):
      rewards.REWARDS['logic']([], **options)
