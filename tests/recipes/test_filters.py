"""Each reason to drop a row, by a row that has nothing else wrong."""

import json

import pytest

from r1jax import config
from r1jax.recipes import contamination, filters

SAMPLED, MERGED = filters.Source('samples', (), True), filters.Source('general', (), False, kind='general')
PROBLEM = 'A farmer has 17 sheep and buys 5 more at the market. How many sheep does the farmer have now?'
CHAIN = (
  'The farmer begins with 17 sheep and then buys 5 more of them.\n'
  'Adding the two numbers together gives 22, which is the answer.'
)
SAMPLE = {
  'id': 'p',
  'problem': PROBLEM,
  'answer': '22',
  'kind': 'math',
  'language': 'en',
  'prompt': PROBLEM + '\n',
  'response': f'<think>\n{CHAIN}\n</think>\nThe farmer has 22 sheep.',
  'tokens': 40,
  'stop': 'eos',
  'sample': 3,
  'reward': 1.0,
  'parts': {'math': 1.0},
  'correct': True,
}
HELD_OUT = (
  'A train travels 270 miles in 3 hours. At the same rate, how many additional hours would it take to travel '
  'an additional 180 miles?'
)
INDEX = contamination.Index([(('set', 'train'), HELD_OUT)], 50, 0.5)


def look(row, source=SAMPLED, judged=(), **rules):
  examine = filters.Examiner(config.Filters(**rules), judged, INDEX)
  return examine(source, 7, row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode())


def responding(chain, summary='The farmer has 22 sheep.'):
  return SAMPLE | {'response': f'<think>\n{chain}\n</think>\n{summary}'}


GOOD = look(SAMPLE)


def test_a_good_sample_becomes_a_row_to_learn_from():
  assert GOOD.reason == '' and GOOD.chain and GOOD.item is None
  assert GOOD.row == {
    'id': 'p/3',
    'problem': PROBLEM,
    'answer': '22',
    'kind': 'math',
    'language': 'en',
    'response': SAMPLE['response'],
    'source': 'samples',
  }


@pytest.mark.parametrize(
  'reason, row',
  [
    ('wrong', SAMPLE | {'correct': False}),
    ('truncated', SAMPLE | {'stop': 'length'}),
    ('form', SAMPLE | {'response': f'<think>{CHAIN} The farmer has 22 sheep.'}),
    ('form', SAMPLE | {'response': f'<think>{CHAIN}</think>'}),
    ('form', SAMPLE | {'response': CHAIN}),
    ('empty chain', responding(' ')),
    ('code', responding(CHAIN + '\n```python\nprint(17 + 5)\n```')),
    ('code', responding('So ```17 + 5` is not closed. ' + CHAIN)),
    ('paragraph', responding(' '.join(f'Then there are {n} sheep in the long line.' for n in range(40)))),
    ('repetition', responding((CHAIN + '\n') * 4)),
    ('repetition', responding(CHAIN, '\n'.join(['The farmer has 22 sheep, and nobody can say any more.'] * 20))),
    ('language', responding('农夫一开始有十七只羊，后来又买了五只，所以一共有二十二只羊。')),
    ('language', responding(CHAIN + '\n所以农夫现在一共有二十二只羊。')),
    ('contaminated', SAMPLE | {'problem': HELD_OUT.upper()}),
    ('contaminated', responding(CHAIN + '\nThis is like another one: ' + HELD_OUT)),
    ('malformed', {k: v for k, v in SAMPLE.items() if k != 'correct'}),
    ('malformed', SAMPLE | {'sample': 'x'}),
    ('malformed', SAMPLE | {'response': '  '}),
    ('malformed', SAMPLE | {'problem': ['x']}),
    ('malformed', SAMPLE | {'language': 'xx'}),
    ('malformed', SAMPLE | {'kind': ['math']}),
    ('malformed', SAMPLE | {'kind': 5}),
    ('malformed', SAMPLE | {'language': ['en']}),
    ('malformed', [SAMPLE]),
    ('malformed', b'{"id": "p", '),
    ('malformed', b'\xff{}'),
    ('malformed', {k: v for k, v in SAMPLE.items() if k != 'problem'} | {'turns': []}),
    (
      'malformed',
      {k: v for k, v in SAMPLE.items() if k != 'problem'} | {'turns': [{'role': 'assistant', 'content': 'x'}]},
    ),
  ],
)
def test_each_fault_is_named(reason, row):
  assert look(row).reason == reason


@pytest.mark.parametrize(
  'row',
  [
    responding(CHAIN, 'In Python:\n```python\nprint(17 + 5)\n```'),  # code, but not in the chain
    responding(CHAIN + '\nThe line `print(17 + 5)` would say so as well.'),
    responding('\n'.join(f'Then there are {n} sheep in line {n} of all.' for n in range(80))),  # long, but in lines
    responding('农夫一开始有十七只羊，后来又买了五只，所以一共有二十二只羊。') | {'language': 'zh'},
    responding(CHAIN, 'Le fermier a 22 moutons.'),  # what is told to the reader
    SAMPLE | {'kind': 'code', 'language': 'python'},  # of its programs, not of the chain
    {k: v for k, v in SAMPLE.items() if k not in ('kind', 'language')},
  ],
)
def test_what_is_near_a_fault_is_kept(row):
  assert look(row).reason == ''


def test_a_threshold_of_zero_takes_a_filter_away():
  mixed = responding(CHAIN + '\n所以农夫现在一共有二十二只羊。')
  assert look(mixed, language=0.0).reason == '' and look(mixed, language=0.2).reason == ''
  long = responding(' '.join(f'Then there are {n} sheep in the long line.' for n in range(40)))
  assert look(long, paragraph=0).reason == '' and look(long, paragraph=1000).reason == ''
  assert look(responding((CHAIN + '\n') * 4), repetition=0.0).reason == ''
  assert look(responding(CHAIN + '\n```\nx\n```'), code=True).reason == ''
  assert look(SAMPLE | {'response': CHAIN}, form='').reason == ''
  assert look(SAMPLE, near=0.0).both is None and GOOD.both.shape == (2, 120)


def test_what_the_prompt_opened_belongs_to_the_response():
  opened = SAMPLE | {'prompt': PROBLEM + ' <think>', 'response': SAMPLE['response'].removeprefix('<think>')}
  assert look(opened).row['response'] == SAMPLE['response']
  token = '|special_token|'
  special = SAMPLE | {'prompt': PROBLEM + token, 'response': f'{CHAIN}{token}The farmer has 22 sheep.'}
  found = look(special, form='special')
  assert found.reason == '' and found.row['response'] == f'{token}{CHAIN}{token}The farmer has 22 sheep.'
  mixed = special | {'response': f'{CHAIN} 所以农夫现在一共有二十二只羊。{token}x'}
  assert look(mixed, form='special').reason == 'language'
  assert look(special | {'response': CHAIN}, form='special').reason == 'form'


def test_a_judge_decides_on_its_kinds_alone():
  wrong = SAMPLE | {'correct': False}
  assert look(wrong, judged=('math',)).item == wrong and look(wrong, judged=('math',)).reason == ''
  assert look(wrong, judged=('open',)).reason == 'wrong'
  assert look({k: v for k, v in wrong.items() if k != 'answer'}, judged=('math',)).reason == 'malformed'


def test_merged_rows_need_no_chain_and_no_verdict():
  row = {'problem': 'Say something nice.', 'response': 'You look well today.'}
  found = look(row, MERGED)
  assert found.reason == '' and not found.chain
  assert found.row == row | {'id': 'general/7', 'source': 'general', 'kind': 'general'}
  turns = {'id': 5, 'turns': [{'role': 'user', 'content': 'Bonjour!'}], 'response': '你好！', 'kind': 'greeting'}
  assert look(turns, MERGED).row == turns | {'id': '5', 'source': 'general'}
  assert look(turns | {'turns': [{'role': 'user', 'content': HELD_OUT}]}, MERGED).reason == 'contaminated'
  assert look(row | {'response': 'No. ' * 100}, MERGED).reason == 'repetition'
  assert look(row | {'response': '<think>Hm.'}, MERGED).reason == 'form'
  assert look(row | {'response': '<think>```x```</think>Fine.'}, MERGED).reason == 'code'


def test_a_trace_with_its_reasoning_apart_is_written_in_the_form():
  found = look({'id': 'q', 'problem': PROBLEM, 'reasoning': CHAIN + '\n', 'response': '22 sheep.'}, MERGED)
  assert found.reason == '' and found.chain and 'reasoning' not in found.row
  assert found.row['response'] == f'<think>\n{CHAIN}\n</think>\n\n22 sheep.'


def test_a_row_keeps_the_template_it_was_asked_by_and_nothing_else_of_its_sampling():
  assert look(SAMPLE | {'template': 'r1_zero', 'part': 'signs'}).row == GOOD.row | {'template': 'r1_zero'}
  unknown = look(SAMPLE | {'kind': None, 'language': None})
  assert unknown.reason == '' and not {'kind', 'language'} & set(unknown.row)


def test_the_evaluation_problem_is_named():
  found = look(SAMPLE | {'problem': HELD_OUT})
  assert (found.held, found.detail) == ('set', 'p/3 holds train of set')


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'form': 'r2'}, 'filters.form'),
    ({'language': 1.5}, r'1\.5; it must lie in'),
    ({'near': 0.3}, 'filters.near'),
    ({'special': ''}, 'filters.special'),
    ({'near_ngram': 0}, r'filters.near_ngram is 0; it must lie in \[1'),
  ],
)
def test_rules_that_cannot_work_are_refused(fields, words):
  with pytest.raises(config.ConfigError, match=words):
    config.convert({'samples': 'x', 'per_prompt': 1, 'filters': fields}, config.Curate)
