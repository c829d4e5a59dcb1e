"""What else a judge is asked: three grades, safety, and which of two responses is better."""

import re

import pytest

from r1jax.config import ConfigError
from r1jax.rewards import scores
from r1jax.rewards.neural import NEURAL, judge, pairwise
from tests.rewards.test_judge import HOSTILE, item, parts, recording, saying


@pytest.mark.parametrize(
  ('question', 'text', 'grade', 'score'),
  [
    ('attempt', 'VERDICT: CORRECT', 'correct', 1),
    ('attempt', 'It differs.\nVERDICT: INCORRECT', 'incorrect', 0),
    ('attempt', '<think>VERDICT: CORRECT</think>\n**VERDICT: NOT_ATTEMPTED**', 'not_attempted', 0),
    ('attempt', 'VERDICT: NOT ATTEMPTED', 'unreadable', 0),
    ('attempt', 'VERDICT: INCORRECT\nVERDICT: CORRECT', 'unreadable', 0),
    ('attempt', None, 'refused', 0),
    ('safety', 'VERDICT: SAFE', 'safe', 1),
    ('safety', 'VERDICT: UNSAFE', 'unsafe', 0),
    ('safety', 'VERDICT: CORRECT', 'unreadable', 0),
    ('agreement', 'VERDICT: NOT_ATTEMPTED', 'unreadable', 0),
  ],
)
def test_each_question_has_its_own_verdicts(question, text, grade, score):
  (verdict,) = judge.verdicts([item('42')], saying(text), question=question)
  assert (verdict['grade'], verdict['reason'], verdict['score']) == (grade, grade, score)


def test_the_grade_of_several_votes():
  texts = {'C': 'VERDICT: CORRECT', 'I': 'VERDICT: INCORRECT', 'N': 'VERDICT: NOT_ATTEMPTED', '?': '?'}
  for votes, grade, reason in (
    ('NNC', 'not_attempted', '1 of 3 votes: correct'),
    ('CIN', 'undecided', '1 of 3 votes: correct'),
    ('CC?', 'correct', '2 of 3 votes: correct'),
    ('CI', 'undecided', '1 of 2 votes: correct'),
  ):
    (verdict,) = judge.verdicts([item('42')], saying(*(texts[v] for v in votes)), question='attempt', votes=len(votes))
    assert (verdict['grade'], verdict['reason'], verdict['score']) == (grade, reason, grade == 'correct')
  grades = [v['grade'] for v in judge.verdicts([item('42'), item('<think>')], saying(texts['C']), question='attempt')]
  assert grades == ['correct', 'no summary'] and scores.attempts(grades)['ungraded'] == 0.5


def test_safety_is_shown_all_and_needs_no_answer():
  chats = []
  harmful = {'prompt': 'Why?<think>', 'response': 'bomb</think>No.', 'problem': 'How?'}
  judge.verdicts([harmful], recording(chats), question='safety')
  assert parts(chats[0]) == ['How?', '< think>bomb< /think>No.']
  judge.verdicts([harmful], recording(chats), question='safety', view='summary')
  assert parts(chats[1]) == ['How?', 'No.']
  with pytest.raises(ConfigError, match="question is 'harm'; known: agreement, attempt, safety"):
    NEURAL['judge'](url='http://a/v1', model='m', question='harm')


@pytest.mark.parametrize('question', ['attempt', 'safety'])
@pytest.mark.parametrize('hostile', HOSTILE, ids=ascii)
def test_what_is_judged_cannot_give_the_verdict(hostile, question):
  hostile = '</think>' + hostile.replace(
    'VERDICT: CORRECT', 'VERDICT: SAFE' if question == 'safety' else 'VERDICT: CORRECT'
  )
  for cut in (
    lambda chat: chat[0]['content'],
    lambda chat: parts(chat)[-1],
    lambda chat: parts(chat)[-1].split('\n')[-1],
  ):
    assert judge.judge([item(hostile)], lambda chats, cut=cut: list(map(cut, chats)), question=question) == [0]


def versus(response, reference, **fields):
  return item(response, reference=reference, **fields)


def longer(chats):
  """A judge that prefers the longer text, and finds equal lengths a tie."""
  pairs = [parts(chat)[1:] for chat in chats]
  return [f'VERDICT: {"A" if len(a) > len(b) else "B" if len(b) > len(a) else "TIE"}' for a, b in pairs]


def test_pairs_are_shown_in_both_orders_and_only_their_summaries():
  chats = []
  items = [versus('<think>secret</think>mine', '<think>secret</think>theirs', problem='Say it.')]
  pairwise.pairwise(items, lambda seen: chats.extend(seen) or ['VERDICT: TIE'] * len(seen))
  assert list(map(parts, chats)) == [['Say it.', 'mine', 'theirs'], ['Say it.', 'theirs', 'mine']]


def test_wins_losses_and_ties():
  items = [versus('long one', 'short'), versus('x', 'longer'), versus('abc', 'xyz'), versus('<think>', 'it')]
  results = pairwise.pairwise(items, longer)
  assert [(v['score'], v['grade'], v['reason'], v['length_difference']) for v in results] == [
    (1.0, 'win', 'win', 3),
    (0.0, 'loss', 'loss', -5),
    (0.5, 'tie', 'tie', 0),
    (0.0, 'loss', 'no summary', -2),
  ]
  assert results[0]['votes'] == ['a', 'b'] and results[3]['votes'] == []
  assert [v['score'] for v in pairwise.pairwise(items[::-1], longer)] == [0.0, 0.5, 0.0, 1.0]
  assert pairwise.pairwise([versus('x' * 11, 'it')], longer, limit=10)[0]['reason'] == 'too long'


@pytest.mark.parametrize(
  ('first', 'second', 'score', 'reason'),
  [
    ('A', 'B', 1, 'win'),
    ('B', 'A', 0, 'loss'),
    ('A', 'A', 0.5, 'orders disagree'),  # prefers a position
    ('B', 'B', 0.5, 'orders disagree'),
    ('A', 'TIE', 0.5, 'orders disagree'),
    ('TIE', 'A', 0.5, 'orders disagree'),
    ('TIE', 'TIE', 0.5, 'tie'),
    ('C', 'B', 0, 'unreadable'),
  ],
)
def test_orders_are_combined(first, second, score, reason):
  (verdict,) = pairwise.pairwise([versus('x', 'y')], saying(f'VERDICT: {first}', f'VERDICT: {second}'))
  assert (verdict['score'], verdict['reason']) == (score, reason)
  assert verdict['grade'] == ('tie' if score == 0.5 else reason)


@pytest.mark.parametrize('hostile', HOSTILE, ids=ascii)
def test_neither_response_can_give_the_verdict(hostile):
  hostile = '</think>x' + hostile.replace('CORRECT', 'A')
  for i in (0, 1, 2):
    echo = lambda chats, i=i: [parts(chat)[i] for chat in chats]
    assert pairwise.pairwise([versus(hostile, hostile, problem=hostile)], echo)[0]['grade'] == 'unreadable'


def test_references_that_cannot_be_compared_with():
  for other, words in ((7, 'must be a text'), ('<think>so', 'no summary'), ('', 'no summary'), ('x' * 30, 'too long')):
    with pytest.raises(ValueError, match=words):
      pairwise.pairwise([versus('x', other)], longer, limit=20)


def test_pairs_by_an_endpoint(server):
  pytest.importorskip('httpx')
  server.reply = lambda body, number: longer([body['messages']])[0]
  compare = NEURAL['pairwise'](url=server.url, model='m')
  items = [versus('long one', 'short'), versus('x', 'longer')]
  assert compare(items) == [1, 0] and [v['grade'] for v in compare.verdicts(items)] == ['win', 'loss']
  assert re.search('(?m)VERDICT: A, VERDICT: B or VERDICT: TIE$', server.bodies[0]['messages'][0]['content'])
  with pytest.raises(ConfigError, match='url or .*path'):
    NEURAL['pairwise'](model='m')
