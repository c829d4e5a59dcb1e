"""Language consistency."""

import collections
import json
import time

import pytest

from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards.text import language

MGSM = ('en', 'zh', 'de', 'fr', 'es', 'ru', 'ja', 'th', 'sw', 'bn', 'te')
CHINESE = ('cmath', 'cn_middle_school', 'gaokao2024_mix', 'gaokao_math_cloze', 'gaokao_math_qa')


def score(text, target='', **fields):
  return rewards.REWARDS['language']([{'prompt': '', 'response': text, **fields}], target=target)[0]


@pytest.fixture(scope='module')
def problems(data_dir):
  """{language: the 250 problems of MGSM in this language}."""
  out = collections.defaultdict(list)
  for line in (data_dir / 'zh' / 'mgsm.jsonl').open():
    row = json.loads(line)
    out[row['lang']].append(row['problem'])
  return out


@pytest.mark.parametrize(
  ('text', 'english', 'total'),
  [
    ('so the answer is', 4, 4),
    ('先算 then add', 2, 4),
    ('加八 43', 0, 2),
    ('<think>so</think><answer>那么</answer>', 1, 2),
    (r'so \frac{1}{2} x + y = \sqrt{3} 因此', 1, 2),
    ('слово word', 1, 2),
    ('add加add减', 2, 4),
    ('it is 12kg', 2, 2),
    ("don't 停", 1, 2),
  ],
)
def test_share_of_words(text, english, total):
  assert rewards.language_consistency(text, 'en') == pytest.approx(english / total)
  assert rewards.language_consistency(text, 'zh') == pytest.approx(0 if 'слово' in text else (total - english) / total)


@pytest.mark.parametrize(
  'text',
  [
    '36 - 3 = 33',
    'x + y',
    r'\alpha\beta',
    '<think>7</think>',
    '①②',
    'α + π',
    '12 kg, 3cm',
    'sin x + log y',
    r'$x^2+1$ \(\text{if } a\) \[\frac{\text{total}}{n}\] $$\sum ab$$ x_{max} \mathrm{lcm}',
    r'\begin{cases} x & \text{if } y \\ z & \text{otherwise} \end{cases}',
    'first_total = 3; itemCount += n2; ABC',
    'AB ⊥ CD, △ABC',
    '```python\nprint(total)\n```',
    '`total`',
  ],
)
def test_nothing_to_count_is_consistent(text):
  assert {score(text, target) for target in ('en', 'zh', 'th')} == {1.0}


@pytest.mark.parametrize(
  'text',
  [
    '',
    '  ',
    '...',
    '<think></think>',
    '<think></think> y',
    '<think> \n\n</think> the answer is seven',
    '<think>…</think>',
    '<think>\u200b - </think>因此',
    '<think>',
  ],
)
def test_an_empty_chain_is_worth_nothing(text):
  assert {score(text, target) for target in ('', 'en', 'zh')} == {0.0} == {score(text, language='en')}
  assert language.verdict({'prompt': 'Q?<think>\n', 'response': '\n</think> y', 'language': 'en'})['score'] == 0


def test_other_scripts_cannot_hide_in_mathematics_or_code():
  assert rewards.language_consistency(r'so $先算$ \text{加}', 'en') == pytest.approx(1 / 4)
  assert rewards.language_consistency('so ```\n先算加\n```', 'en') == pytest.approx(1 / 4)


@pytest.mark.parametrize(
  'text',
  [
    '先算 $so then ',
    '先算 \\(so then',
    '先算 ```so then',
    '先算 `so then',
    '先算 \\[so\n\nthen \\]',
    '先算 \\begin{align} so then',
    '先算 costs $so and $then',
  ],
)
def test_what_is_opened_and_not_closed_hides_nothing(text):
  assert score(text, 'zh') <= 0.5


def test_prices_are_no_mathematics():
  assert language.verdict({'response': 'one costs $2 per egg and two cost $3 or so'}, target='en')['words'] == 9


def test_a_name_does_not_change_the_language_and_a_sentence_does():
  assert score('Then Schwarzenegger, Toulouse and Guadalajara have twelve each, so we add them.', 'en') == 1.0
  english, german = 'So we add the two numbers and get twelve.', 'Dann teilen wir durch die Anzahl der Kinder.'
  assert score(f'{english} {german} {english}', 'en') == pytest.approx(18 / 26, abs=0.1)  # 'so' is German, too
  assert score(f'{english} {german} {english}', 'de') == pytest.approx(8 / 26, abs=0.1)


def test_characters_shared_by_chinese_and_japanese_go_with_their_neighbours():
  chinese, japanese = '因此三个苹果一共需要十二元', '合計金額は十二円になりますので答えは三個です'
  kanji = sum('\u4e00' <= c <= '\u9fff' for c in japanese)
  assert score(japanese, 'ja') == 1.0 and score(japanese, 'zh') == 0.0
  assert score(chinese, 'zh') == 1.0 and score(chinese, 'ja') == 0.0
  verdict = language.verdict({'response': f'{chinese}。{japanese}'}, target='zh', chinese='characters')
  assert verdict['in_target'] == len(chinese) + len('合計金額')  # up to the first kana: the known error
  assert verdict['words'] > len(chinese) + kanji


def test_chinese_by_words():
  item = {'response': '因此我们需要十二个苹果 so there'}  # 因此 我们 需要 十二个 苹果
  count = lambda **options: language.verdict(item, target='zh', **options)['in_target']
  assert (count(), count(chinese='words'), count(chinese='characters')) == (5, 5, 11)


@pytest.mark.parametrize(
  ('chinese', 'english'),
  [
    ('因此 我们 需要 苹果', 'therefore we need apples'),
    ('首先 检查 价格', 'first check price'),
    ('答案 是 三十', 'answer is thirty'),
    ('所以 他们 今天 没有 时间', 'so they today lack time'),
  ],
)
def test_a_chain_weighs_alike_in_both_languages(chinese, english):
  words, joined = len(english.split()), chinese.replace(' ', '')
  for text in (f'{joined} {english}', f'{english}，{joined}', f'{joined}。{english}', f'{chinese} {english}'):
    assert [score(text, target) for target in ('zh', 'en')] == [0.5, 0.5], text
  assert score(f'{joined}，{joined} {english}', 'zh') == pytest.approx(2 / 3) == 2 * words / (3 * words)


def test_counting_by_words_without_the_segmenter_says_what_to_install(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ConfigError, match='pip install jieba'):
    rewards.check('language', {'chinese': 'words'})


def test_the_target_is_the_option_or_the_field_or_the_problem_or_the_prompt_or_the_chain():
  text = 'so the answer is seven'
  target = lambda **fields: language.verdict({'prompt': '', 'response': text, **fields})['target']
  assert language.verdict({'response': text, 'language': 'zh'}, target='th')['target'] == 'th'
  assert target(language='ru', problem='三个苹果') == 'ru'
  assert target(problem='三个苹果', prompt='Answer the question: 三个苹果') == 'zh'
  assert target(problem='$1+1$', prompt='Beantworte die Frage bitte auf Deutsch') == 'de'
  assert target() == 'en'
  assert [language.detect(word) for word in ('Simplify', 'Evaluate', 'Solve', 'Compute $1+1$')] == ['en'] * 4
  assert score('7') == 1.0 and language.verdict({'response': '7'})['target'] == ''


def test_the_place():
  item = {'prompt': 'Q: <think>', 'response': '先算</think><answer>so then</answer>'}
  assert language.verdict(item, target='zh')['score'] == 1.0
  assert language.verdict(item, target='zh', where='response')['score'] == 0.5
  assert score('先算 so then', 'zh') == 0.5  # without tags, the whole response


@pytest.mark.parametrize('options', [dict(target='klingon'), dict(chinese='letters'), dict(where='answer')])
def test_an_unknown_option_is_refused(options):
  with pytest.raises(ConfigError, match='known: '):
    rewards.check('language', options)


def test_an_unknown_language_is_refused():
  with pytest.raises(ConfigError, match="'xx' is not known; known: zh, ja"):
    rewards.language_consistency('le mot', 'xx')
  with pytest.raises(ConfigError, match="'xx' is not known"):
    score('le mot', language='xx')


def test_pure_text_is_consistent_and_text_of_another_language_is_not(problems):
  for name in MGSM:
    scores = [score(text, name) for text in problems[name]]
    assert sum(scores) / len(scores) >= 0.99 and min(scores) > 0.6, name
    for other in set(MGSM) - {name}:
      foreign = [score(text, other) for text in problems[name][::10]]
      assert sum(foreign) / len(foreign) <= 0.05, (name, other)


def test_the_language_of_a_problem_is_found(problems):
  assert {(name, language.detect(text)) for name in MGSM for text in problems[name]} == {(name, name) for name in MGSM}


@pytest.mark.parametrize('name', CHINESE)
def test_chinese_sets(data_dir, name):
  texts = [json.loads(line)['problem'] for line in (data_dir / 'zh' / f'{name}.jsonl').open()]
  verdicts = [language.verdict({'response': text}, target='zh') for text in texts]
  assert sum(v['score'] for v in verdicts) / len(texts) >= 0.99
  english = [score(text, 'en') for text, v in zip(texts, verdicts, strict=True) if v['words']]
  assert sum(english) / len(english) <= 0.05


def halves(first, second, one, two):
  """The start of one text and the end of another, each with half as many words as the shorter text."""
  split = lambda name, text: list(text) if name in ('zh', 'ja', 'th') else [word + ' ' for word in text.split()]
  count = lambda name, units: language.verdict({'response': ''.join(units)}, target=name)['in_target']
  start, end = split(one, first), split(two, second)
  half = min(count(one, start), count(two, end)) // 2
  while count(one, start) > half:
    start.pop()
  while count(two, end) > half:
    end.pop(0)
  return ''.join(start) + ' ' + ''.join(end)


def test_half_and_half(problems):
  for one in MGSM:
    for two in set(MGSM) - {one}:
      scores = [score(halves(problems[one][i], problems[two][i + 7], one, two), one) for i in (30, 60, 90)]
      assert sum(scores) / len(scores) == pytest.approx(0.5, abs=0.06), (one, two, scores)
      assert scores == pytest.approx([0.5] * 3, abs=0.1), (one, two)
  english_chinese = [
    score(halves(problems['en'][i], problems['zh'][i], 'en', 'zh'), t) for i in range(0, 250, 5) for t in ('en', 'zh')
  ]
  assert english_chinese == pytest.approx([0.5] * 100, abs=0.1)


def test_a_score_depends_on_its_own_item_alone(problems):
  items = [{'prompt': '', 'response': problems[name][i]} for i in range(5) for name in MGSM]
  alone = [language.language([item])[0] for item in items]
  assert language.language(items) == alone == language.language(items[::-1])[::-1]


@pytest.mark.parametrize(
  'bait',
  [
    '$a ',
    '$',
    '`',
    '``` ',
    '\\(',
    '\\[ ',
    '\\begin{align}',
    '\\begin{alig',
    '\\mathrm{',
    '\\',
    '\n',
    '\n ',
    'a',
    "a'",
    '好',
    'a\u0301\u0316',
    '<think>',
    '1',
    '的',
    '龘',
    'a_',
    '<',
    'é ',
    '\ud800',
    'หก',
  ],
)
def test_long_text_is_read_in_linear_time(bait):
  text = bait * (300_000 // len(bait))
  start = time.process_time()
  assert 0 <= score(text, 'en') <= 1
  assert time.process_time() - start < 20  # quadratic time would take minutes
