"""The toy world of R1's recipe: problems of four kinds in English and Chinese, and how their authors solve them.

chain: `find a 35 b +4 c -8 = ?`, sums in steps whose values are written as words: `a 35 thirty five b +4 thirty nine`.
logic: `who : p knight , p says q knave , q says r knight ?`, roles are passed on; knaves lie.
code: `write f : a +2 b 9- ?`, an expression for each operation, and a program that applies one after the other.
open: `name a big fruit for p ?`. Several answers fit; the preference is for an answer with a reason.

Each kind of reasoning has a hard step: a ten is crossed, a knave speaks, `9-` means 9-x. Authors get half of the hard
steps wrong that they write in English, and almost none that they write in Chinese; some switch to Chinese for the hard
steps. So RL for accuracy alone mixes languages, and a reward for language consistency costs a little accuracy.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from r1jax import templates
from r1jax.data.toy import arithmetic

LANGUAGES = ('en', 'zh')
FORGETS, FORGETS_AGAIN = 0.5, 0.2  # share of hard steps in English that are wrong: in a first and a second pass
REASONED = 0.25  # share of answers to open questions with a reason
FOREIGN = 0.06  # share of authors who answer English problems in Chinese
SLIPS = 0.01  # share of all other steps that are wrong
SUMMARY = {'en': 'the answer is', 'zh': '答案 是'}  # how a summary begins, in R1's format
CHECKED = {'en': 'think check sum up', 'zh': '思考 检查 总结'}  # a request for care that follows some problems

# What the authors say between the steps.
SAYINGS = {'first': '首先', 'then': '然后', 'so': '所以', 'wait': '等等', 'check': '检查', 'maybe': '大概'}

_TENS = dict(
  zip(
    range(2, 10),
    zip(
      'twenty thirty forty fifty sixty seventy eighty ninety'.split(), '二十 三十 四十 五十 六十 七十 八十 九十'.split()
    ),
  )
)
_ONES = dict(zip(range(1, 10), zip('one two three four five six seven eight nine'.split(), '一二三四五六七八九')))
_VALUE = {word: 10 * n for n, words in _TENS.items() for word in words} | {
  word: n for n, words in _ONES.items() for word in words
}
_NAMES, _PEOPLE, _ASKERS = 'abcdef', 'pqrst', 'bcdefghjkmnpqrstuvwyz'
_ROLES = {True: ('knight', '骑士'), False: ('knave', '无赖')}
_OPERATIONS = {'+': ('add', '加'), '*': ('times', '乘'), '-': ('from', '被减')}
_SIZES = (('big', '大'), ('small', '小'))
_THINGS = {  # of each group three big ones, then three small ones
  ('fruit', '水果'): ('apple pear lemon plum grape cherry'.split(), '苹果 梨 柠檬 李子 葡萄 樱桃'.split()),
  ('animal', '动物'): ('dog horse sheep cat duck mouse'.split(), '狗 马 羊 猫 鸭 鼠'.split()),
  ('vehicle', '车船'): ('bus train ship bike cart boat'.split(), '公车 火车 轮船 单车 推车 小船'.split()),
  ('tool', '工具'): ('saw axe spade hammer knife needle'.split(), '锯子 斧头 铲子 锤子 刀 针'.split()),
}
BECAUSE = ('because', '因为')
_REASONS = ('it is good', 'many like it', 'it is near', 'it is cheap'), ('它 好', '大家 喜欢', '它 近', '它 便宜')


@dataclasses.dataclass(frozen=True)
class Kind:
  problem: Callable[..., Any]  # (rng, language) -> (problem's fields, facts: what the authors need)
  think: Callable[..., Any]  # (facts, author, second pass?) -> (words of the thinking, answer)
  guess: Callable[..., Any]  # (facts, author) -> answer
  steps: Callable[..., Any]  # (facts, words of the thinking, answer) -> [(kind of step, whether it is right)]


class Author:
  """Writes in the language of the problem, in the other one, or in Chinese for hard steps."""

  def __init__(self, rng, language, mixing):
    """language: of the problem; mixing: share of authors who mix languages, 0 to always use the problem's language."""
    self.rng, self.language = rng, language
    is_chinese = float(language == 'zh')
    u = rng.random()
    foreign = FOREIGN if mixing and language == 'en' else 0.0
    # Probabilities of writing a plain and a hard step in Chinese.
    if u < mixing:
      self.plain, self.hard = 0.15, 0.9
    else:
      self.plain = self.hard = 1 - is_chinese if u < mixing + foreign else is_chinese

  def tongue(self, hard=False):
    """Draws a language for a step: 0 for English, 1 for Chinese, an index into pairs of words."""
    return int(self.rng.random() < (self.hard if hard else self.plain))

  def say(self, word):
    return SAYINGS[word] if self.tongue() else word

  def errs(self, hard, tongue, again):
    rate = (FORGETS_AGAIN if again else FORGETS) if hard and not tongue else SLIPS
    return self.rng.random() < rate


def number(value, tongue):
  """Returns the words of a number: 35 -> `thirty five` or `三十 五`."""
  return [_TENS[value // 10][tongue], *([_ONES[value % 10][tongue]] if value % 10 else [])]


# ---- chain -----------------------------------------------------------------------------------------


def _chain_problem(rng, language):
  while True:
    start, count = int(rng.integers(30, 90)), int(rng.integers(2, 5))
    terms = [int(t) for t in rng.integers(1, 10, size=count) * rng.choice([-1, 1], size=count)]
    values = np.cumsum([start, *terms])
    if values.min() >= 30 and values.max() < 90:
      listed = ' '.join(f'{name} {t:+d}' for name, t in zip(_NAMES[1:], terms))
      text = f'{("find", "求")[language == "zh"]} a {start} {listed} = ?'
      return {'problem': text, 'answer': str(values[-1])}, (start, terms)


def _chain_think(facts, author, again):
  """Each term with its running value; when a ten is crossed, a carry or borrow may be forgotten."""
  value, terms = facts
  words = [author.say('first'), 'a', str(value), *number(value, author.tongue())]
  for name, term in zip(_NAMES[1:], terms):
    exact = value + term
    hard = exact // 10 != value // 10
    tongue = author.tongue(hard)
    if author.errs(hard, tongue, again):
      exact += (10 if term < 0 else -10) if hard else int(author.rng.choice([-1, 1]))
    value = min(max(exact, 20), 99)
    words += [author.say('then')] * (author.rng.random() < 0.25) + [name, f'{term:+d}', *number(value, tongue)]
  return words, str(value)


def _chain_guess(facts, author):
  near = facts[0] + sum(facts[1]) + round(author.rng.normal(0, 4))
  return str(int(np.clip(near, 20, 99)))


def _chain_steps(facts, words, answer):
  """Returns the steps: terms looked up by name, running values, and whether the answer is the last of these."""
  terms = dict(zip(_NAMES, (str(facts[0]), *(f'{t:+d}' for t in facts[1]))))
  value, results, i = None, [], 0
  while i < len(words):
    name, i = words[i], i + 1
    if name not in terms or i >= len(words):
      continue
    term, i = words[i], i + 1
    results.append(('term', term == terms[name]))
    number_words = [w for w in words[i : i + 2] if w in _VALUE]
    if not number_words or not term.lstrip('+-').isascii() or not term.lstrip('+-').isdecimal():
      value = None
      continue
    has_ones = len(number_words) > 1 and _VALUE[number_words[0]] >= 20 and _VALUE[number_words[1]] < 10
    number_words = number_words[: 2 if has_ones else 1]
    written = sum(_VALUE[w] for w in number_words)
    exact = int(term) if term[0] not in '+-' else value + int(term) if value is not None else None
    if exact is not None:
      crossed = value is not None and term[0] in '+-' and exact // 10 != value // 10
      kind = ('hard_en', 'hard_zh')[not number_words[0].isascii()] if crossed else 'plain'
      results.append((kind, written == exact))
    value = written
  return results + ([('answer', answer == str(value))] if value is not None else [])


# ---- logic -----------------------------------------------------------------------------------------


def _logic_problem(rng, language):
  zh = int(language == 'zh')
  people = rng.permutation(list(_PEOPLE))[: rng.integers(3, 5)].tolist()
  claims = [bool(x) for x in rng.integers(0, 2, size=len(people) - 1)]
  roles = [bool(rng.integers(0, 2))]
  for claim in claims:
    roles.append(claim == roles[-1])
  says = ('says', '说')[zh]
  clues = [
    f'{people[0]} {_ROLES[roles[0]][zh]}',
    *(f'{one} {says} {other} {_ROLES[claim][zh]}' for one, other, claim in zip(people, people[1:], claims)),
  ]
  answer = ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))
  return (
    {
      'problem': f'{("who :", "谁 :")[zh]} {" , ".join(clues)} ?',
      'answer': answer,
      'names': people,
      'is_knight': roles,
    },
    (people, roles[0], claims),
  )


def _logic_think(facts, author, again):
  """For each person the claim and the role; a knave's claim may be taken for true."""
  people, role, claims = facts
  roles, words = [role], [author.say('first'), people[0], _ROLES[role][author.tongue()]]
  for person, claim in zip(people[1:], claims):
    hard = not role
    tongue = author.tongue(hard)
    role = (claim == role) != author.errs(hard, tongue, again)
    roles.append(role)
    words += [person, ('said', '说')[tongue], _ROLES[claim][tongue], ('is', '是')[tongue], _ROLES[role][tongue]]
  return words, ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))


def _logic_guess(facts, author):
  people, role, claims = facts
  roles = [role, *(bool(x) for x in author.rng.integers(0, 2, size=len(claims)))]
  return ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))


def _logic_steps(facts, words, answer):
  """Returns the steps: claims looked up by person, roles concluded from them, and whether the answer matches."""
  people, first_role, claims = facts
  role_of = {word: role for role, both in _ROLES.items() for word in both}
  concluded, claim, results, person = {}, None, [], None
  for before, word in zip(['', *words], words):
    if word in people:
      person, claim = word, None
    elif word in role_of and person and before in ('said', '说'):
      claim, i = role_of[word], people.index(person)
      results.append(('logic_term', i > 0 and claim == claims[i - 1]))
    elif word in role_of and person:
      i, role = people.index(person), role_of[word]
      speaker = concluded.get(people[i - 1]) if i else None
      if claim is None:
        results.append(('logic_term', i == 0 and role == first_role))
      elif speaker is not None:
        kind = 'logic' if speaker else ('logic_en', 'logic_zh')[not word.isascii()]
        results.append((kind, role == (claim == speaker)))
      concluded[person] = role
  conclusion = ' '.join(f'{p} {_ROLES[concluded[p]][0]}' for p in people if p in concluded)
  return results + ([('logic_answer', answer == conclusion)] if concluded else [])


# ---- code ------------------------------------------------------------------------------------------


def _code_problem(rng, language):
  signs = rng.choice(['+', '*', '-'], size=rng.integers(2, 4), p=[0.3, 0.3, 0.4]).tolist()
  operations = [(sign, int(rng.integers(2, 10))) for sign in signs]
  text = ' '.join(f'{name} {_term(sign, n)}' for name, (sign, n) in zip(_NAMES, operations))
  lines = [_line(sign, n, True) for sign, n in operations]
  tests = [f'assert f({x}) == {_run(lines, x)}' for x in (1, 4, 10)]
  return (
    {'problem': f'{("write f :", "写 f :")[language == "zh"]} {text} ?', 'answer': ' ; '.join(lines), 'asserts': tests},
    operations,
  )


def _term(sign, n):
  """How a problem writes an operation: `9-` means subtract from nine."""
  return f'{n}-' if sign == '-' else f'{sign}{n}'


def _line(sign, n, right):
  """The expression of an operation; a wrong one takes `9-` for x-9 instead of 9-x."""
  return f'{n}-x' if sign == '-' and right else f'x{sign}{n}'


def _run(lines, x):
  for line in lines:
    x = eval(line, {'x': x})  # `line` was generated here
  return x


def _code_think(facts, author, again):
  """Each operation with its expression; the operands of a hard one may be swapped."""
  lines, words = [], [author.say('first')]
  for name, (sign, n) in zip(_NAMES, facts):
    hard = sign == '-'
    tongue = author.tongue(hard)
    wrong = author.errs(hard, tongue, again)
    lines.append(_line(sign, n if hard or not wrong else int(author.rng.integers(2, 10)), not wrong))
    words += [name, _term(sign, n), _OPERATIONS[sign][tongue], lines[-1]]
  return words, _program(lines)


def _program(lines):
  """The program as a code block, with a space before each line, as before any word of these texts."""
  return f'\n ```python\n def f(x): {" ; ".join(f"x = {line}" for line in lines)} ; return x\n ```\n'


def _code_guess(facts, author):
  return _program([_line(sign, n, False) for sign, n in facts])


def _code_steps(facts, words, answer):
  """Returns the steps: operations looked up by name, their expressions, and whether the program has these."""
  lines, results = {}, []
  for name, term, word, line in zip(words, words[1:], words[2:], words[3:]):
    if name not in _NAMES[: len(facts)]:
      continue
    sign, n = facts[_NAMES.index(name)]
    results.append(('code_term', term == _term(sign, n)))
    kind = ('code_en', 'code_zh')[not word.isascii()] if sign == '-' else 'code'
    results.append((kind, line == _line(sign, n, True)))
    lines[name] = line
  return results + ([('code_answer', _program(lines.values()).strip() in answer)] if lines else [])


# ---- open ------------------------------------------------------------------------------------------


def _open_problem(rng, language):
  zh = int(language == 'zh')
  group = list(_THINGS)[rng.integers(len(_THINGS))]
  size, person = int(rng.integers(2)), str(rng.choice(list(_ASKERS)))
  text = (
    f'给 {person} 一种 {_SIZES[size][1]} {group[1]} ?' if zh else f'name a {_SIZES[size][0]} {group[0]} for {person} ?'
  )
  fits = _THINGS[group][zh][3 * size : 3 * size + 3]
  return {'problem': text, 'answer': fits[0], 'fits': fits}, (group, fits, zh)


def _open_think(facts, author, again):
  """The thinking names the group; eight answers of ten fit, and one of four has a reason."""
  group, _, _ = facts
  tongue = author.tongue()
  return [group[tongue], ('so', '所以')[tongue]], open_answer(
    author.rng, facts, author.rng.random() < 0.8, author.rng.random() < REASONED
  )


def open_answer(rng, facts, fits, reason):
  """Returns an answer to an open question; fits: whether it fits; reason: whether it has a reason."""
  group, fitting, zh = facts
  wrong_size = [t for t in _THINGS[group][zh] if t not in fitting]
  wrong_group = [t for other, both in _THINGS.items() if other != group for t in both[zh]]
  thing = str(rng.choice(fitting if fits else wrong_size if rng.random() < 0.5 else wrong_group))
  return f'{thing} {BECAUSE[zh]} {rng.choice(_REASONS[zh])}' if reason else thing


def _open_guess(facts, author):
  return _open_think(facts, author, False)[1]


KINDS = {
  'chain': Kind(_chain_problem, _chain_think, _chain_guess, _chain_steps),
  'logic': Kind(_logic_problem, _logic_think, _logic_guess, _logic_steps),
  'code': Kind(_code_problem, _code_think, _code_guess, _code_steps),
  'open': Kind(_open_problem, _open_think, _open_guess, lambda facts, words, answer: []),
}
CHINESE = 0.25  # share of problems in Chinese


def make(rng, kind):
  """Returns a problem of a kind, without id and in either language, and the facts that its authors need."""
  language = LANGUAGES[int(rng.random() < CHINESE)]
  problem, facts = KINDS[kind].problem(rng, language)
  return problem | {'kind': kind, 'language': language}, facts


def is_held_out(text):
  """Whether a text is held out, by a hash that is independent of the one for data.eval_fraction of files."""
  return arithmetic.is_held_out('r1 ' + text)


def problems(kind, seed, count, held_out):
  """Returns `count` different problems of a kind and one split, in an order that depends on the seed.

  Returns:
    list of {'id', 'problem', 'answer', 'kind', 'language', and the fields that the kind's reward reads}; fewer than
    `count` if there are no more. No text is in both splits.
  """
  rng, rows, misses = np.random.default_rng([seed, 7 + held_out, list(KINDS).index(kind)]), {}, 0
  while len(rows) < count and misses < 2000:  # there are few different open questions
    problem, _ = make(rng, kind)
    misses += 1
    if is_held_out(problem['problem']) == held_out and problem['problem'] not in rows:
      split, misses = 'held_out' if held_out else 'train', 0
      rows[problem['problem']] = {'id': f'{kind}/{split}/{len(rows)}'} | problem
  return list(rows.values())


def steps(kind, facts, response):
  """Returns the steps of a response: list of (kind of step, whether it is right)."""
  text = response.replace(templates.THINK, ' ').replace(templates.ANSWER_END, ' ')
  # Some responses have only some of the tags, or none: `... so answer 35`.
  ends = [text.find(end) for end in (templates.THINK_END, templates.ANSWER, ' answer ') if end in text]
  end = min(ends, default=len(text))
  thinking, answer = text[:end], text[end:]
  for marker in (templates.THINK_END, *SUMMARY.values(), templates.ANSWER, ' answer '):
    answer = answer.replace(marker, ' ', 1)
  return KINDS[kind].steps(facts, thinking.split(), answer if kind == 'code' else ' '.join(answer.split()))
