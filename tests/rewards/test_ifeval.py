"""IF-Eval's checkable instructions."""

import json
import time

import pytest

from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards.text import ifeval, instructions

HINDI = 'मैं हर सुबह अपने दोस्तों के साथ पार्क में टहलने जाता हूँ।'
MARATHI = 'मी रोज सकाळी माझ्या मित्रांसोबत बागेत फिरायला जातो.'
POEM = 'I walk in the park with my friends every morning'


def item(response, *pairs, prompt=''):
  return {
    'prompt': prompt,
    'response': response,
    'instruction_id_list': [name for name, _ in pairs],
    'kwargs': [arguments for _, arguments in pairs],
  }


# (instruction, arguments, responses that follow it, responses that do not)
CASES = [
  ('keywords:existence', {'keywords': ['Rain', 'snow']}, ['rain and SNOWY days'], ['rain', 'ra in snow']),
  ('keywords:frequency', {'keyword': 'cat ', 'frequency': 2, 'relation': 'at least'}, ['Cat, concatenate'], ['a cat']),
  ('keywords:frequency', {'keyword': 'cat', 'frequency': 2, 'relation': 'less than'}, ['a cat', 'dogs'], ['cat cat']),
  ('keywords:forbidden_words', {'forbidden_words': ['rain', 'a.c']}, ['rainy abc'], ['no Rain.', 'an a.c here']),
  ('keywords:letter_frequency', {'letter': 'Q', 'let_frequency': 2, 'let_relation': 'at least'}, ['Qq'], ['queue']),
  ('keywords:letter_frequency', {'letter': '#', 'let_frequency': 1, 'let_relation': 'less than'}, ['a'], ['# a']),
  ('language:response_language', {'language': 'hi'}, [HINDI], [POEM, MARATHI, '123']),
  ('language:response_language', {'language': 'mr'}, [MARATHI], [HINDI]),
  (
    'length_constraints:number_sentences',
    {'num_sentences': 3, 'relation': 'at least'},
    ['One. Two! Is it?', '1. He came. 2. He saw... He won', '一。二。三。'],
    ['One. Two', 'Mr. J. Smith met Dr. Lee, e.g. at 3.5 p.m. or so... and left.', '1. 2. 3. 4.', '... ... ...'],
  ),
  ('length_constraints:number_sentences', {'num_sentences': 2, 'relation': 'less than'}, ['One'], ['One. two.']),
  ('length_constraints:number_words', {'num_words': 3, 'relation': 'at least'}, ['one, two-three'], ['one two']),
  ('length_constraints:number_words', {'num_words': 3, 'relation': 'less than'}, ['one two'], ['one two three']),
  (
    'length_constraints:number_paragraphs',
    {'num_paragraphs': 2},
    ['a\n***\nb', '*** a *** b ***'],
    ['a', 'a\n\nb', 'a *** *** b', 'a***b***c'],
  ),
  (
    'length_constraints:nth_paragraph_first_word',
    {'num_paragraphs': 2, 'nth_paragraph': 2, 'first_word': 'But'},
    ['a b\n\nbut c', 'a\n\n"BUT," c'],
    ['a\n\nbutter', 'but\n\na', 'a\n\nbut\n\nc', 'but', 'a\n\n\n\nbut c'],
  ),
  ('detectable_content:number_placeholders', {'num_placeholders': 2}, ['[a] [b c]', '[[a] []'], ['[a] [b\n]', '[[a]]']),
  ('detectable_content:postscript', {'postscript_marker': 'P.S.'}, ['a\np. s. b', 'a P.S. b'], ['ps: b', 'P.S b']),
  ('detectable_content:postscript', {'postscript_marker': 'P.P.S'}, ['a\nP.P.S. b', 'p. p. s'], ['P.S. b']),
  ('detectable_content:postscript', {'postscript_marker': 'N.B.'}, ['n.b. so'], ['nxby']),
  (
    'detectable_format:number_bullet_lists',
    {'num_bullets': 2},
    ['a\n* b\n  - c', '- a\n**b**\n*c*'],
    ['* a', '* a\n* b\n* c', '1. a\n2. b', '** a\n** b'],
  ),
  (
    'detectable_format:constrained_response',
    {},
    ['So: My answer is maybe. '],
    ['my answer is yes.', 'My answer: yes.'],
  ),
  (
    'detectable_format:number_highlighted_sections',
    {'num_highlights': 2},
    ['*a* and **b c**', '*a**b*'],
    ['*a*', '** ** * *', '*a\nb* *c*', '*a b*c*'],
  ),
  (
    'detectable_format:multiple_sections',
    {'section_spliter': ' SECTION', 'num_sections': 2},
    ['SECTION 1\na\nSECTION 2\nb', 'SECTION1 SECTION 22'],
    ['Section 1 Section 2', 'SECTION A SECTION 1'],
  ),
  (
    'detectable_format:json_format',
    {},
    ['{"a": [1]}', '```json\n{"a": 1}\n```', '[' + '9' * 9999 + ']'],
    ['{a: 1}', 'So: {"a": 1}', '[' * 100_000, '```json\n```'],
  ),
  ('detectable_format:title', {}, ['<<a>>\nb', 'b <<a b>> c'], ['<a>', '<<>>', '<< >>', '<<a\nb>>', '>>a<<']),
  (
    'combination:two_responses',
    {},
    ['a ****** b', '******a******b******'],
    ['a', 'a****** a', 'a *** b', 'a******b******c', 'a************b'],
  ),
  (
    'combination:repeat_prompt',
    {'prompt_to_repeat': 'Why so? '},
    [' why so? Because.'],
    ['"Why so?" Because', 'Because'],
  ),
  (
    'startend:end_checker',
    {'end_phrase': ' Is it so?'},
    ['a. is it SO?\n', '"a. Is it so?"'],
    ['Is it so? a', 'Is it so'],
  ),
  ('startend:quotation', {}, [' "a" '], ['"a', '"', '“a”', 'a']),
  (
    'change_case:capital_word_frequency',
    {'capital_frequency': 2, 'capital_relation': 'at least'},
    ['A CO-OP', 'IN THE 2ND', "DON'T"],
    ['CO-OP a', 'Aa Bb', '22 33'],
  ),
  ('change_case:capital_word_frequency', {'capital_frequency': 2, 'capital_relation': 'less than'}, ["I'm"], ['I AM']),
  ('change_case:english_capital', {}, [POEM.upper() + ' 7!'], [POEM, 'ICH GEHE JEDEN MORGEN MIT FREUNDEN IN DEN PARK']),
  ('change_case:english_lowercase', {}, [POEM.lower()], [POEM, 'ich gehe jeden morgen mit freunden in den park', '7']),
  ('punctuation:no_comma', {}, ['a; b、c'], ['a, b', ',']),
]


def test_every_kind_has_a_case():
  assert len(instructions.INSTRUCTIONS) == 25
  assert {name for name, *_ in CASES} == set(instructions.INSTRUCTIONS)


@pytest.mark.parametrize(
  ('name', 'given', 'good', 'bad'), CASES, ids=[f'{i}-{case[0]}' for i, case in enumerate(CASES)]
)
def test_followed_and_violated(name, given, good, bad):
  scores = rewards.REWARDS['ifeval']([item(text, (name, given)) for text in good + bad])
  assert scores == [1.0] * len(good) + [0.0] * len(bad)


COMMA, TWO = ('punctuation:no_comma', {}), ('length_constraints:number_words', {'num_words': 2, 'relation': 'at least'})


def test_all_or_the_share():
  items = [item(text, COMMA, TWO) for text in ('a b', 'a, b', 'a,')]
  assert ifeval.ifeval(items) == [1.0, 0.0, 0.0]
  assert ifeval.ifeval(items, fraction=True) == [1.0, 0.5, 0.0]
  verdict = ifeval.verdict(items[1])
  assert verdict['followed'] == [('punctuation:no_comma', False), ('length_constraints:number_words', True)]
  assert verdict['reason'] == 'not followed: punctuation:no_comma'


@pytest.mark.parametrize(
  'text', ['Sure, here:\n"a"', '"a"\nHope, that helps', 'So:\n"a"\nDone', '*"a"*', 'So:\n*"a"*\nDone']
)
def test_loose_passes_over_first_and_last_lines_and_asterisks(text):
  row = item(text, ('startend:quotation', {}))
  assert ifeval.ifeval([row]) == [0.0] and ifeval.ifeval([row], loose=True) == [1.0]


def test_loose_never_takes_away():
  row = item('*a* *b*', ('detectable_format:number_highlighted_sections', {'num_highlights': 2}))
  assert ifeval.ifeval([row], loose=True) == [1.0]


@pytest.mark.parametrize(
  ('response', 'score'),
  [
    ('<think>a, b</think>c', 1.0),
    ('<think>a</think><answer>b</answer>, c', 1.0),
    ('<think>a</think>b, c', 0.0),
    ('<think>a', 0.0),
    ('<think>a</think> \n', 0.0),
    ('', 0.0),
    ('<think>a<answer>b</answer></think>', 0.0),
    ('<think>a</think><answer> </answer>b', 0.0),
  ],
)
def test_the_final_answer_is_judged(response, score):
  assert ifeval.ifeval([item(response, COMMA)]) == [score]
  if response.startswith('<think>'):
    assert ifeval.ifeval([item(response.removeprefix('<think>'), COMMA, prompt='Q <think>')]) == [score]


@pytest.mark.parametrize(
  ('pairs', 'match'),
  [
    ([('punctuation:no_commas', {})], "the nearest known one is 'punctuation:no_comma'"),
    ([('length_constraints:number_words', {'num_words': 3})], "missing a required argument: 'relation'"),
    ([('punctuation:no_comma', {'num_words': 3})], 'num_words'),
    ([('length_constraints:number_words', {'num_words': 3, 'relation': 'most'})], "known: 'at least', 'less than'"),
    ([('language:response_language', {'language': 'xx'})], 'known: af, ar'),
    ([], 'must not be empty'),
  ],
)
def test_bad_data_is_refused(pairs, match):
  with pytest.raises(ConfigError, match=match):
    ifeval.ifeval([item('a', *pairs)])


def test_no_value_stands_for_no_argument_and_options_are_checked():
  assert ifeval.ifeval([item('a', ('punctuation:no_comma', {'num_words': None}))]) == [1.0]
  with pytest.raises(ConfigError, match='True or False'):
    rewards.check('ifeval', {'loose': 1})


@pytest.fixture(scope='module')
def rows(data_dir):
  return [json.loads(line) for line in (data_dir / 'instruct' / 'ifeval.jsonl').open()]


def test_all_rows_are_accepted(rows):
  assert len(rows) == 541 and {n for row in rows for n in row['instruction_id_list']} == set(instructions.INSTRUCTIONS)
  items = [dict(row, response=row['prompt']) for row in rows]
  strict, loose = ifeval.ifeval(items, fraction=True), ifeval.ifeval(items, fraction=True, loose=True)
  assert all(s <= v for s, v in zip(strict, loose, strict=True))
  assert 0 < sum(strict) < len(rows)
  assert ifeval.ifeval(items[::-1], fraction=True)[::-1] == strict


@pytest.mark.parametrize(
  'bait',
  [
    '[',
    '*',
    '* ',
    '\n',
    '\n*',
    '<<',
    '.',
    '. ',
    '.a',
    '."',
    '{',
    '[[]',
    '"',
    'a',
    'p.',
    ' ',
    '-',
    'A-',
    'SECTION 1',
    '。',
    '1. ',
    'a\u0301\u0316',
    '\ud800',
  ],
)
def test_long_text_is_read_in_linear_time(bait):
  text = bait * (200_000 // len(bait))
  start = time.process_time()
  for name, given, *_ in CASES:
    ifeval.ifeval([item(text + 'x', (name, given))])
  assert time.process_time() - start < 6  # all instructions together; quadratic time would take a minute
