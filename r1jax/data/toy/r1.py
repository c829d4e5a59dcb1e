"""The toy world of R1's recipe: problems of four kinds in English and Chinese, and a base model's text about them.

chain: `find a 35 b +4 c -8 = ?`, sums in steps whose values are written as words: `a 35 thirty five b +4 thirty nine`.
logic: `who : p knight , p says q knave , q says r knight ?`, roles passed on; knaves lie.
code: `write f : a +2 b 9- ?`, an expression for each operation, and a program that does one after another.
open: `name a big fruit for p ?`. Several answers fit; those who ask would rather have a reason with it, too.

Each kind of reasoning has a hard step: a ten is crossed, a knave speaks, `9-` is 9-x. Authors who write such a
step in English do it wrong half of the time, those who write it in Chinese do it right, and some write Chinese wherever
it gets hard. So reinforcement by accuracy alone mixes languages, and a reward for one language has its small price.
"""

import dataclasses

import numpy as np

from r1jax import templates
from r1jax.data.toy import arithmetic

LANGUAGES = ('en', 'zh')
FORGETS, FORGETS_AGAIN = 0.5, 0.2  # share of hard steps in English done wrong; in a second pass
REASONED = 0.25  # share of answers to open questions that come with a reason
FOREIGN = 0.06  # of authors who answer English in Chinese
SLIPS = 0.01  # of any other steps
SUMMARY = {'en': 'the answer is', 'zh': '答案 是'}  # how a summary begins, in R1's form
CHECKED = {'en': 'think check sum up', 'zh': '思考 检查 总结'}  # what is asked for beside a problem, now and then

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
_THINGS = {  # three big ones, three small ones
  ('fruit', '水果'): ('apple pear lemon plum grape cherry'.split(), '苹果 梨 柠檬 李子 葡萄 樱桃'.split()),
  ('animal', '动物'): ('dog horse sheep cat duck mouse'.split(), '狗 马 羊 猫 鸭 鼠'.split()),
  ('vehicle', '车船'): ('bus train ship bike cart boat'.split(), '公车 火车 轮船 单车 推车 小船'.split()),
  ('tool', '工具'): ('saw axe spade hammer knife needle'.split(), '锯子 斧头 铲子 锤子 刀 针'.split()),
}
BECAUSE = ('because', '因为')
_REASONS = ('it is good', 'many like it', 'it is near', 'it is cheap'), ('它 好', '大家 喜欢', '它 近', '它 便宜')


@dataclasses.dataclass(frozen=True)
class Kind:
  problem: object  # (rng, language) -> (problem's fields, whatever the authors need)
  think: object  # (facts, author, first pass?) -> (words of the chain, answer)
  guess: object  # (facts, author) -> answer
  steps: object  # (facts, thinking's words, answer) -> [(kind of step, whether it is right)]


class Author:
  """Writes in one language, in the other, or in Chinese where it gets hard."""

  def __init__(self, rng, language, mixing):
    """language: of the question. mixing: share of authors that mix; 0 for one who keeps to the question's language."""
    self.rng, self.language = rng, language
    own = float(language == 'zh')
    u = rng.random()
    foreign = FOREIGN if mixing and language == 'en' else 0.0
    self.plain, self.hard = (0.15, 0.9) if u < mixing else (1 - own,) * 2 if u < mixing + foreign else (own,) * 2

  def tongue(self, hard=False):
    """0 for English, 1 for Chinese: an index into pairs of words."""
    return int(self.rng.random() < (self.hard if hard else self.plain))

  def say(self, word):
    return SAYINGS[word] if self.tongue() else word

  def errs(self, hard, tongue, again):
    rate = (FORGETS_AGAIN if again else FORGETS) if hard and not tongue else SLIPS
    return self.rng.random() < rate


def number(value, tongue):
  """35 -> `thirty five` or `三十 五`."""
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
  """Each term with its running value; where a ten is crossed, a carry or borrow may be forgotten."""
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
  """Terms looked up by name, running values, and whether the answer is the last of these."""
  terms = dict(zip(_NAMES, (str(facts[0]), *(f'{t:+d}' for t in facts[1]))))
  value, out, at = None, [], 0
  while at < len(words):
    name, at = words[at], at + 1
    if name not in terms or at >= len(words):
      continue
    term, at = words[at], at + 1
    out.append(('term', term == terms[name]))
    said = [w for w in words[at : at + 2] if w in _VALUE]
    if not said or not term.lstrip('+-').isascii() or not term.lstrip('+-').isdecimal():
      value = None
      continue
    said = said[: 2 if _VALUE[said[0]] >= 20 and len(said) > 1 and _VALUE[said[1]] < 10 else 1]
    now = sum(_VALUE[w] for w in said)
    exact = int(term) if term[0] not in '+-' else value + int(term) if value is not None else None
    if exact is not None:
      crossed = value is not None and term[0] in '+-' and exact // 10 != value // 10
      out.append((('hard_en', 'hard_zh')[not said[0].isascii()] if crossed else 'plain', now == exact))
    value = now
  return out + ([('answer', answer == str(value))] if value is not None else [])


# ---- logic -----------------------------------------------------------------------------------------


def _logic_problem(rng, language):
  zh = int(language == 'zh')
  people = rng.permutation(list(_PEOPLE))[: rng.integers(3, 5)].tolist()
  says = [bool(x) for x in rng.integers(0, 2, size=len(people) - 1)]
  roles = [bool(rng.integers(0, 2))]
  for told in says:
    roles.append(told == roles[-1])
  clues = [
    f'{people[0]} {_ROLES[roles[0]][zh]}',
    *(f'{one} {("says", "说")[zh]} {other} {_ROLES[told][zh]}' for one, other, told in zip(people, people[1:], says)),
  ]
  answer = ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))
  return (
    {
      'problem': f'{("who :", "谁 :")[zh]} {" , ".join(clues)} ?',
      'answer': answer,
      'names': people,
      'is_knight': roles,
    },
    (people, roles[0], says),
  )


def _logic_think(facts, author, again):
  """One after another: what was said, and what is; what a knave says may be taken for true."""
  people, role, says = facts
  roles, words = [role], [author.say('first'), people[0], _ROLES[role][author.tongue()]]
  for person, told in zip(people[1:], says):
    hard = not role
    tongue = author.tongue(hard)
    role = (told == role) != author.errs(hard, tongue, again)
    roles.append(role)
    words += [person, ('said', '说')[tongue], _ROLES[told][tongue], ('is', '是')[tongue], _ROLES[role][tongue]]
  return words, ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))


def _logic_guess(facts, author):
  people, role, says = facts
  roles = [role, *(bool(x) for x in author.rng.integers(0, 2, size=len(says)))]
  return ' '.join(f'{p} {_ROLES[r][0]}' for p, r in zip(people, roles))


def _logic_steps(facts, words, answer):
  people, first, says = facts
  role_of = {word: role for role, both in _ROLES.items() for word in both}
  stated, told, out, person = {}, None, [], None
  for before, word in zip(['', *words], words):
    if word in people:
      person, told = word, None
    elif word in role_of and person and before in ('said', '说'):
      told, at = role_of[word], people.index(person)
      out.append(('logic_term', at > 0 and told == says[at - 1]))
    elif word in role_of and person:
      at, role = people.index(person), role_of[word]
      speaker = stated.get(people[at - 1]) if at else None
      if told is None:
        out.append(('logic_term', at == 0 and role == first))
      elif speaker is not None:
        out.append(('logic' if speaker else ('logic_en', 'logic_zh')[not word.isascii()], role == (told == speaker)))
      stated[person] = role
  last = ' '.join(f'{p} {_ROLES[stated[p]][0]}' for p in people if p in stated)
  return out + ([('logic_answer', answer == last)] if stated else [])


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
  """`9-` is from nine."""
  return f'{n}-' if sign == '-' else f'{sign}{n}'


def _line(sign, n, right):
  """What follows `x =`. From nine is 9-x, and not x-9."""
  return f'{n}-x' if sign == '-' and right else f'x{sign}{n}'


def _run(lines, x):
  for line in lines:
    x = eval(line, {'x': x})  # our own text
  return x


def _code_think(facts, author, again):
  """Each operation with its expression; one that begins with a number may be turned round."""
  lines, words = [], [author.say('first')]
  for name, (sign, n) in zip(_NAMES, facts):
    hard = sign == '-'
    tongue = author.tongue(hard)
    wrong = author.errs(hard, tongue, again)
    lines.append(_line(sign, n if hard or not wrong else int(author.rng.integers(2, 10)), not wrong))
    words += [name, _term(sign, n), _OPERATIONS[sign][tongue], lines[-1]]
  return words, _program(lines)


def _program(lines):
  """A space stands before each line, as before any word of these texts; the block's fence has one too."""
  return f'\n ```python\n def f(x): {" ; ".join(f"x = {line}" for line in lines)} ; return x\n ```\n'


def _code_guess(facts, author):
  return _program([_line(sign, n, False) for sign, n in facts])


def _code_steps(facts, words, answer):
  """Each operation, looked up by its name, with its expression; and whether the program consists of these."""
  lines, out = {}, []
  for name, term, word, line in zip(words, words[1:], words[2:], words[3:]):
    if name not in _NAMES[: len(facts)]:
      continue
    sign, n = facts[_NAMES.index(name)]
    out.append(('code_term', term == _term(sign, n)))
    kind = ('code_en', 'code_zh')[not word.isascii()] if sign == '-' else 'code'
    out.append((kind, line == _line(sign, n, True)))
    lines[name] = line
  return out + ([('code_answer', _program(lines.values()).strip() in answer)] if lines else [])


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
  """Eight answers of ten fit, and one of four comes with a reason."""
  group, _, _ = facts
  tongue = author.tongue()
  return [group[tongue], ('so', '所以')[tongue]], open_answer(
    author.rng, facts, author.rng.random() < 0.8, author.rng.random() < REASONED
  )


def open_answer(rng, facts, fits, reason):
  """An answer to an open question, that fits or does not, with a reason or without."""
  group, good, zh = facts
  near = [t for t in _THINGS[group][zh] if t not in good]
  far = [t for other, both in _THINGS.items() if other != group for t in both[zh]]
  thing = str(rng.choice(good if fits else near if rng.random() < 0.5 else far))
  return f'{thing} {BECAUSE[zh]} {rng.choice(_REASONS[zh])}' if reason else thing


def _open_guess(facts, author):
  return _open_think(facts, author, False)[1]


KINDS = {
  'chain': Kind(_chain_problem, _chain_think, _chain_guess, _chain_steps),
  'logic': Kind(_logic_problem, _logic_think, _logic_guess, _logic_steps),
  'code': Kind(_code_problem, _code_think, _code_guess, _code_steps),
  'open': Kind(_open_problem, _open_think, _open_guess, lambda facts, words, answer: []),
}
CHINESE = 0.25  # share of problems


def make(rng, kind):
  """A problem of a kind without its id, in either language, and the facts that its authors need."""
  language = LANGUAGES[int(rng.random() < CHINESE)]
  problem, facts = KINDS[kind].problem(rng, language)
  return problem | {'kind': kind, 'language': language}, facts


def is_held_out(text):
  """By another hash than that by which data.eval_fraction parts files: it would find none of these."""
  return arithmetic.is_held_out('r1 ' + text)


def problems(kind, seed, count, held_out):
  """`count` different problems of a kind and one split, in an order fixed by the seed; no text is in both splits.

  Returns:
    list of {'id', 'problem', 'answer', 'kind', 'language', and the fields that the kind's reward reads}.
  """
  rng, found, misses = np.random.default_rng([seed, 7 + held_out, list(KINDS).index(kind)]), {}, 0
  while len(found) < count and misses < 2000:  # of open questions there are few
    problem, _ = make(rng, kind)
    misses += 1
    if is_held_out(problem['problem']) == held_out and problem['problem'] not in found:
      split, misses = 'held_out' if held_out else 'train', 0
      found[problem['problem']] = {'id': f'{kind}/{split}/{len(found)}'} | problem
  return list(found.values())


def steps(kind, facts, response):
  """The steps that a response takes, as pairs of their kind and whether they are right."""
  text = response.replace(templates.THINK, ' ').replace(templates.ANSWER_END, ' ')
  # Not everyone uses all tags, or any: `... so answer 35`.
  ends = [text.find(end) for end in (templates.THINK_END, templates.ANSWER, ' answer ') if end in text]
  thinking, rest = text[: min(ends, default=len(text))], text[min(ends, default=len(text)) :]
  for said in (templates.THINK_END, *SUMMARY.values(), templates.ANSWER, ' answer '):
    rest = rest.replace(said, ' ', 1)
  answer = rest
  return KINDS[kind].steps(facts, thinking.split(), answer if kind == 'code' else ' '.join(answer.split()))
