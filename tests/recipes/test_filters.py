"""Each reason to drop a row, on a row with no other fault."""

import json
import re

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


def examine(row, source=SAMPLED, judged=(), **rules):
  examiner = filters.Examiner(config.Filters(**rules), judged, INDEX)
  return examiner(source, 7, row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode())


def with_response(chain, summary='The farmer has 22 sheep.'):
  return SAMPLE | {'response': f'<think>\n{chain}\n</think>\n{summary}'}


GOOD = examine(SAMPLE)


def test_a_good_sample_becomes_a_row():
  assert GOOD.reason == '' and GOOD.has_chain and GOOD.item is None
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
  ('reason', 'row'),
  [
    ('wrong', SAMPLE | {'correct': False}),
    ('truncated', SAMPLE | {'stop': 'length'}),
    ('form', SAMPLE | {'response': f'<think>{CHAIN} The farmer has 22 sheep.'}),
    ('form', SAMPLE | {'response': f'<think>{CHAIN}</think>'}),
    ('form', SAMPLE | {'response': CHAIN}),
    ('empty chain', with_response(' ')),
    ('code', with_response(CHAIN + '\n```python\nprint(17 + 5)\n```')),
    ('code', with_response('So ```17 + 5` is not closed. ' + CHAIN)),
    ('paragraph', with_response(' '.join(f'Then there are {n} sheep in the long line.' for n in range(40)))),
    ('repetition', with_response((CHAIN + '\n') * 4)),
    ('repetition', with_response(CHAIN, '\n'.join(['The farmer has 22 sheep, and nobody can say any more.'] * 20))),
    ('language', with_response('农夫一开始有十七只羊，后来又买了五只，所以一共有二十二只羊。')),
    ('language', with_response(CHAIN + '\n所以农夫现在一共有二十二只羊。')),
    ('contaminated', SAMPLE | {'problem': HELD_OUT.upper()}),
    ('contaminated', with_response(CHAIN + '\nThis is like another one: ' + HELD_OUT)),
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
def test_each_reason_to_drop_a_row(reason, row):
  assert examine(row).reason == reason


@pytest.mark.parametrize(
  'row',
  [
    with_response(CHAIN, 'In Python:\n```python\nprint(17 + 5)\n```'),  # code, but not in the chain
    with_response(CHAIN + '\nThe line `print(17 + 5)` would say so as well.'),
    with_response('\n'.join(f'Then there are {n} sheep in line {n} of all.' for n in range(80))),  # long, but in lines
    with_response('农夫一开始有十七只羊，后来又买了五只，所以一共有二十二只羊。') | {'language': 'zh'},
    with_response(CHAIN, 'Le fermier a 22 moutons.'),  # the summary may be in another language
    SAMPLE | {'kind': 'code', 'language': 'python'},  # the language of its programs, not of the chain
    {k: v for k, v in SAMPLE.items() if k not in ('kind', 'language')},
  ],
)
def test_similar_but_harmless_rows_are_kept(row):
  assert examine(row).reason == ''


def test_a_threshold_of_zero_disables_a_filter():
  mixed = with_response(CHAIN + '\n所以农夫现在一共有二十二只羊。')
  assert examine(mixed, language=0.0).reason == '' and examine(mixed, language=0.2).reason == ''
  long = with_response(' '.join(f'Then there are {n} sheep in the long line.' for n in range(40)))
  assert examine(long, paragraph=0).reason == '' and examine(long, paragraph=1000).reason == ''
  assert examine(with_response((CHAIN + '\n') * 4), repetition=0.0).reason == ''
  assert examine(with_response(CHAIN + '\n```\nx\n```'), code=True).reason == ''
  assert examine(SAMPLE | {'response': CHAIN}, form='').reason == ''
  assert examine(SAMPLE, near=0.0).signatures is None and GOOD.signatures.shape == (2, 120)


def test_an_opening_tag_in_the_prompt_becomes_part_of_the_response():
  opened = SAMPLE | {'prompt': PROBLEM + ' <think>', 'response': SAMPLE['response'].removeprefix('<think>')}
  assert examine(opened).row['response'] == SAMPLE['response']
  token = '|special_token|'
  special = SAMPLE | {'prompt': PROBLEM + token, 'response': f'{CHAIN}{token}The farmer has 22 sheep.'}
  finding = examine(special, form='special')
  assert finding.reason == '' and finding.row['response'] == f'{token}{CHAIN}{token}The farmer has 22 sheep.'
  mixed = special | {'response': f'{CHAIN} 所以农夫现在一共有二十二只羊。{token}x'}
  assert examine(mixed, form='special').reason == 'language'
  assert examine(special | {'response': CHAIN}, form='special').reason == 'form'


def test_the_judge_only_decides_on_its_kinds():
  wrong = SAMPLE | {'correct': False}
  assert examine(wrong, judged=('math',)).item == wrong and examine(wrong, judged=('math',)).reason == ''
  assert examine(wrong, judged=('open',)).reason == 'wrong'
  assert examine({k: v for k, v in wrong.items() if k != 'answer'}, judged=('math',)).reason == 'malformed'


def test_merged_rows_need_neither_chain_nor_grading():
  row = {'problem': 'Say something nice.', 'response': 'You look well today.'}
  finding = examine(row, MERGED)
  assert finding.reason == '' and not finding.has_chain
  assert finding.row == row | {'id': 'general/7', 'source': 'general', 'kind': 'general'}
  turns = {'id': 5, 'turns': [{'role': 'user', 'content': 'Bonjour!'}], 'response': '你好！', 'kind': 'greeting'}
  assert examine(turns, MERGED).row == turns | {'id': '5', 'source': 'general'}
  assert examine(turns | {'turns': [{'role': 'user', 'content': HELD_OUT}]}, MERGED).reason == 'contaminated'
  assert examine(row | {'response': 'No. ' * 100}, MERGED).reason == 'repetition'
  assert examine(row | {'response': '<think>Hm.'}, MERGED).reason == 'form'
  assert examine(row | {'response': '<think>```x```</think>Fine.'}, MERGED).reason == 'code'


def test_a_trace_with_separate_reasoning_gets_think_tags():
  finding = examine({'id': 'q', 'problem': PROBLEM, 'reasoning': CHAIN + '\n', 'response': '22 sheep.'}, MERGED)
  assert finding.reason == '' and finding.has_chain and 'reasoning' not in finding.row
  assert finding.row['response'] == f'<think>\n{CHAIN}\n</think>\n\n22 sheep.'


def test_a_row_keeps_its_template_but_no_other_field_of_its_sampling():
  assert examine(SAMPLE | {'template': 'r1_zero', 'part': 'signs'}).row == GOOD.row | {'template': 'r1_zero'}
  unknown = examine(SAMPLE | {'kind': None, 'language': None})
  assert unknown.reason == '' and not {'kind', 'language'} & set(unknown.row)


def test_the_contained_evaluation_problem_is_reported():
  finding = examine(SAMPLE | {'problem': HELD_OUT})
  assert finding.contaminated_by == 'set' and re.search('p/3 .*train of set', finding.detail)


@pytest.mark.parametrize(
  ('fields', 'match'),
  [
    ({'form': 'r2'}, 'filters.form'),
    ({'language': 1.5}, r'filters.language is 1\.5'),
    ({'near': 0.3}, 'filters.near'),
    ({'special': ''}, 'filters.special'),
    ({'near_ngram': 0}, 'filters.near_ngram is 0'),
  ],
)
def test_invalid_rules_are_refused(fields, match):
  with pytest.raises(config.ConfigError, match=match):
    config.convert({'samples': 'x', 'per_prompt': 1, 'filters': fields}, config.Curate)
