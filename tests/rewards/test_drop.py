"""DROP's F1, against the values recorded in the tests of AllenNLP's script and values worked out by hand."""

import pytest

from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards.text import drop


@pytest.mark.parametrize(
  ('predicted', 'gold', 'exact', 'f1'),
  [
    # From the tests of drop_eval.py in AllenNLP.
    (['78'], ['78.0'], 1, 1),
    (['td'], ['td', 'td'], 0, 0.5),
    (['td', 'td'], ['td'], 0, 0.5),
    (['the', 'fat', 'cat', 'the fat', 'fat cat', 'the fat cat'], ['cat'], 0, 0.17),
    (['cat'], ['the', 'fat', 'cat', 'the fat', 'fat cat', 'the fat cat'], 0, 0.17),
    (['the', 'fat', 'cat', 'the fat', 'fat cat', 'the fat cat'], ['cat', 'cat dog'], 0, 0.25),
    (['td'], ['the td'], 1, 1),
    (['the a NOT an ARTICLE the an a'], ['NOT ARTICLE'], 1, 1),
    (['John Elton'], ['Elton John'], 0, 1),
    (['50 yard'], ['yard 50'], 0, 1),
    (['Per.i.o.d....'], ['.P....e.r,,i;;;o...d,,'], 1, 1),
    (['Spa     c  e   s     '], ['    Spa c     e s'], 1, 1),
    (['78-yard'], ['78 yard'], 1, 1),
    (['78'], ['78-yard'], 0, 0.67),
    (['78-yard'], ['78'], 0, 0.67),
    (['This was a triumph'], ['tHIS Was A TRIUMPH'], 1, 1),
    (['Green bay', 'packers'], ['Green bay', 'packers'], 1, 1),
    ([''], ['army'], 0, 0),
    (['packers'], ['Green bay packers'], 0, 0.5),
    (['packers'], ['Green bay'], 0, 0),
    (['yard'], ['36 yard td'], 0, 0),
    (['23 yards'], ['43 yards'], 0, 0),
    (['56 yards'], ['56 yd'], 0, 0.5),
    (['26'], ['26 yard td'], 0, 0.5),
    (['78-yard', '56', '28', '40', '44', 'touchdown'], ['78-yard', '56 yard', '1 yard touchdown'], 0, 0.28),
    (['23', '23 yard'], ['23-yard', '56 yards'], 0, 0.5),
    (['John Karman', 'Joe Hardy'], ['Joe Karman', 'John Hardy'], 0, 0.5),
    (['ottoman', 'Kantakouzenous'], ['ottoman', 'army of Kantakouzenous'], 0, 0.75),
    (['b'], ['b', 'c'], 0, 0.5),
    # By hand. Pairing the equal spans first would give (1 + 0) / 2; the best pairing gives (2/3 + 1/2) / 2.
    (['x y', 'z y'], ['x y', 'x'], 0, 0.58),
    (['1,200'], ['1200'], 1, 1),
    (['$5'], ['5%'], 1, 1),  # the script drops all punctuation of what is no number
  ],
)
def test_metrics_of_the_official_script(predicted, gold, exact, f1):
  assert drop.metrics(predicted, gold) == (exact, f1)


def test_numbers_and_initials_are_normalized():
  assert {drop.normalize(text) for text in ('12.0', '12.000', '12', '  1.2e1  ')} == {'12.0'}
  assert (drop.normalize('12.0 persons'), drop.normalize('S.K. Singh')) == ('12.0 persons', 'sk singh')


@pytest.mark.parametrize(
  ('fields', 'response', 'score'),
  [
    # The cases of the script's own test of whole files.
    ({'answers': {'number': '1'}, 'validated_answers': [{'number': '0'}]}, '1', 1),
    ({'answers': {'spans': ['0']}, 'validated_answers': [{'number': '1'}, {'number': '2'}]}, '1', 1),
    ({'answers': {'date': {'day': '17', 'month': 'August', 'year': ''}}}, '17 August', 1),
    ({'answers': {'spans': ['span1', 'span2']}, 'validated_answers': [{'spans': ['span2']}]}, 'span1', 0.5),
    ({'answers': {'spans': ['answer1']}, 'validated_answers': [{'spans': ['answer2']}]}, 'answer', 0),
    # Alternatives are not spans.
    ({'answers': ['Tom', 'Tom Brady']}, 'Tom Brady', 1),
    ({'answers': [['Tom', 'Brady']]}, 'Tom Brady', 0.33),
    ({'answers': [['Tom', 'Bob']]}, 'Bob and Tom', 1),
    ({'answers': [['Tom', 'Bob', 'Al']]}, 'Al, Bob, and Tom', 1),
    ({'answers': [['Tom', 'Bob']]}, 'Bob; Tom', 1),
    ({'answers': ['Tom and Bob']}, 'Tom and Bob', 1),
    ({'answers': [['1,000', '20']]}, '1,000, 20', 1),
    ({'answer': 7}, '7.0', 1),
  ],
)
def test_a_response_gets_the_best_of_the_gold_answers(fields, response, score):
  verdict = drop.verdict(fields | {'response': f'<think>99</think><answer>{response}</answer>'})
  assert verdict['score'] == score and verdict['extracted'] == response
  assert rewards.REWARDS['drop_f1']([fields | {'response': f'so \\boxed{{{response}}}'}]) == [score]


def test_an_answer_that_is_missing_or_taken_back():
  item = {'answers': ['7 yards'], 'response': '<think>7 yards'}
  assert drop.verdict(item)['reason'] == 'the thinking is not closed' and drop.vote(item) is None
  item['response'] = '<answer>7 yards</answer> No: the answer is 8.'
  assert drop.verdict(item)['score'] == 0
  item['response'] = 'It went 7 yards.'
  assert [drop.verdict(item, where=where)['score'] for where in ('both', 'summary')] == [0, 0.67]
  assert drop.vote(item, where='summary') == 'it went 7.0 yards'


@pytest.mark.parametrize('answers', [[3.5, True], [[]], [[1]], 'x', ['', ' '], {'number': ''}])
def test_gold_answers_of_other_forms_are_refused(answers):
  with pytest.raises(ValueError, match='drop_f1'):
    drop.verdict({'answers': answers, 'response': '\\boxed{1}'})
  with pytest.raises(ConfigError, match='where'):
    rewards.check('drop_f1', {'where': 'nowhere'})
