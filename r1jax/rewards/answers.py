"""Where in a response its answer stands. The rule, for each reward that reads an answer:

- The thinking holds no answer. Only what follows the last `</think>` is read; a response that does not close its
  thinking has none. A response without think tags is read whole.
- By the option `where` the answer is what the last `<answer>..</answer>` holds ('tags'), what the last `\\boxed{}`
  holds ('boxed'), the tags' where there are any and else the box's ('both'), or everything after the thinking
  ('summary'). Of several tags or boxes the last counts.
- A box is \\boxed{5}, \\boxed {5}, \\boxed5, \\fbox{5} or \\framebox{5}. A box inside the answer is unpacked. Boxes
  joined by nothing but a comma, 'and' or its Chinese forms, or by words that begin with 'or', are one answer of
  several entries, and so is a box followed at once by 'or' and another value.
- Boxes with nothing but names and marks of a list between them (x=\\boxed{5} and y=\\boxed{7}, one on each line) may be
  one answer together or each one for itself: the reward decides, as the reference has several entries or one.
- What comes after the answer must not contradict it: a later box, or a later 'answer is' or 'answer:' (or the Chinese
  for it) with a value behind it, is given back beside the answer, for the reward to compare.

Every scan here is linear in the length of the response.
"""

import math
import re
from typing import NamedTuple

from r1jax import templates
from r1jax.config import ConfigError

MAX_ANSWER = 1000  # characters; a longer answer is wrong, unread: parsing is not linear
WHERE = ('both', 'tags', 'boxed')

_BOXED = '\\boxed{'
_BOX = re.compile(r'\\(?:boxed|fbox|framebox)(?![A-Za-z]) ?(?:\[[^][{}\n]*\] ?)?\{')
_UNBRACED = re.compile(
  r'\\boxed ?(-?[0-9]+(?:\.[0-9]+)?|[A-Z](?![A-Za-z])|'
  r'\\frac ?\{[^{}]*\} ?\{[^{}]*\}|\\text(?:bf)? ?\{[^{}]*\})'
)
_BOXES = 20  # joined ones read at most
_GAP = 40  # characters between joined boxes at most
_VALUE = 200  # characters read of a value behind 'answer is'
_DELIMITERS = ' \t\r\n$*()[]{}\\'
_JOINTS = {',', ';', 'and', 'or', '&', '，', '、', '；', '和', '或', '或者', '与', '及', ',and', ',or', 'quad', 'qquad'}
_ANNOUNCED = re.compile(
  r'answer(?: is| equals| becomes| (?:should|must|would) be)'
  r'(?: (?:now|then|thus|therefore|actually))?:?|'
  r'(?:^ ?|[\n*#.,;:!)}$] ?|final |correct )(?:(?:so|thus|hence),? )?(?:the |my )?'
  r'answer(?:\*\*)? ?[:=]|'
  r'答案(?:应该|应)?(?:是|为|[：:])|(?:^|\n)答 ?[：:]|(?:^|\n)#{4} ',
  re.IGNORECASE,
)
_SPACED = re.compile(r'(?<!\\)\\ $')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)  # one that a backslash escapes is none; of `\\\\}`, a new line, it is
_OPERATORS = '+-−–*/×·÷=≈^±∪'
_RUN = re.compile(r'\S+')
_COMMAND = re.compile(r'\\[A-Za-z]+')
_SLASHED = re.compile('[0-9]+/[0-9]+')
_FORMULA = re.compile(r'[(-]?(?:[A-Za-z]|\\[A-Za-z]+)[^ ]{0,9} ?[-+*/^=×·]')
_PROSE = re.compile(
  r'(?<![A-Za-z\\])(?!(?:sqrt|sin|cos|tan|log|ln|pi|exp|text)(?![A-Za-z]))[A-Za-z]{2}|'
  '[\u4e00-\u9fff]'
)
_NAMED = re.compile('[A-Za-z] ?= ?')
# Between labelled boxes, without spaces and delimiters: an end, a joint, a mark of a list, a name.
_LABELLED = re.compile(
  r'[.,;，；、]?(?:and|和)?[-•]?(?:(?:part)?[0-9a-e][.:]?)?(?:[a-z](?:_?[0-9a-z])?=)?', re.IGNORECASE
)
_NAME = re.compile(r'([A-Za-z](?:_ ?(?:[0-9A-Za-z]|\{[0-9A-Za-z]{1,9}\}))? ?= ?)\$? ?$')


class Found(NamedTuple):
  """What was found.

  text: the answer, None where there is none; later: a value given after it, or None; reason: why there is none;
  together: the answer with the labelled boxes before it, with their names, as a list; None where there are none.
  """

  text: str | None
  later: str | None = None
  reason: str = ''
  together: str | None = None


def check_where(where, known=WHERE):
  """Raises ConfigError for a place that is not known."""
  if where not in known:
    raise ConfigError(f'where is {where!r}; an answer is looked for in one of: {", ".join(known)}.')


def find(item, where, bare=False, limit=MAX_ANSWER):
  """The answer of an item by the rule above, as Found.

  Args:
    item: dict with 'response' and, where it matters that it opens the thinking, 'prompt'.
    where: 'both', 'tags', 'boxed' or 'summary'.
    bare: a response with no think tag, answer tag or box at all is itself an answer.
    limit: characters; a longer answer is not given.
  """
  text = templates.completed(item.get('prompt', ''), item['response'])
  text = _UNBRACED.sub(r'\\boxed{\1}', _BOX.sub(r'\\boxed{', text))
  if bare and not any(mark in text for mark in (*templates.TAGS, _BOXED)):
    return _found(text, '', limit)
  text = templates.summary(text)
  if text is None:
    return Found(None, reason='the thinking is not closed')
  if where == 'summary':
    return _found(text, '', limit)
  span = templates.answer_span(text) if where != 'boxed' else None
  if span:
    inside, after = text[span[0] : span[1]], text[span[1] + len(templates.ANSWER_END) :]
    box = _last_box(inside)
    return _found(box[0], inside[box[1] :] + after, limit, box[2]) if box else _found(inside, after, limit)
  box = _last_box(text) if where != 'tags' else None
  if box:
    return _found(box[0], text[box[1] :], limit, box[2])
  places = {'tags': 'answer tags', 'boxed': '\\boxed{}', 'both': 'answer tags and no \\boxed{}'}
  return Found(None, reason=f'no {places[where]} after the thinking')


def reference(item):
  """The item's 'answer' as a text. Raises ValueError where it is neither a text nor a number."""
  answer = item['answer']
  if (
    isinstance(answer, str)
    or isinstance(answer, (int, float))
    and not isinstance(answer, bool)
    and math.isfinite(answer)
  ):
    return str(answer)
  raise ValueError(f"the item's 'answer' is {str(answer)[:40]!r}; it must be a text or a number.")


def closing(text):
  """Where the brace opened just before `text` is closed; None where it is not."""
  depth = 1
  for brace in _BRACE.finditer(text):
    depth += {'{': 1, '}': -1}.get(brace[0], 0)
    if not depth:
      return brace.start()
  return None


def _found(text, after, limit, together=None):
  text = text.strip()
  if not text:
    return Found(None, reason='the answer is empty')
  if len(text) > limit:
    return Found(None, reason=f'the answer has {len(text)} characters; more than {limit} are not read')
  return Found(text, _later(after, text), together=together)


def _box(text, start):
  """(what the box at `start` holds, where it ends), or None where it does not end."""
  start += len(_BOXED)
  inside = text[start : start + MAX_ANSWER + 1]
  end = closing(inside)
  return None if end is None else (_SPACED.sub('', inside[:end]).strip(), start + end + 1)


def _last_box(text):
  """What the last box holds, with those joined to it; where it ends; and `Found.together`. None: no complete box."""
  start = text.rfind(_BOXED)
  box = _box(text, start) if start >= 0 else None
  if box is None:
    return None
  entries, joined, named = [box[0]], 1, [_name(text, start) + box[0]]
  while len(entries) < _BOXES:
    before = text.rfind(_BOXED, max(0, start - MAX_ANSWER), start)
    other = _box(text, before) if before >= 0 else None
    if other is None or not 0 <= start - other[1] <= _GAP:
      break
    between = text[other[1] : start]
    if joined == len(entries) and _joins(between):
      joined += 1
    elif not _labelled(between):
      break
    entries, start = [other[0], *entries], before
    named = [_name(text, start) + other[0], *named]
  alternative = _alternative(text[box[1] : box[1] + _VALUE])
  entries, together = entries[-joined:], '; '.join(named) if len(entries) > joined and not alternative else None
  entries += [alternative] if alternative else []
  return '; '.join(entries), box[1], together


def _name(text, start):
  """The name with its equals sign right before a box, as `x=`, or nothing."""
  found = _NAME.search(text[max(0, start - _GAP) : start])
  return found[1] if found else ''


def _labelled(text):
  """Is what stands between two boxes, markup aside, at most a joint, a mark of a list and a name?"""
  if '-' in text and '\n' not in text:
    return False  # a difference
  return _LABELLED.fullmatch(_stripped(text)) is not None


def _stripped(text):
  """Without white space, delimiters and the commands for words and spaces."""
  for word in ('text', 'mbox', 'quad'):
    text = text.replace('\\' + word, '')
  for character in _DELIMITERS:
    text = text.replace(character, '')
  return text


def _joins(text):
  """Does what stands between two boxes, markup aside, make one list of them?"""
  text = _stripped(text)
  return text in _JOINTS or text.lstrip(',').startswith(('or', '或', 'and/or'))


def _alternative(tail):
  """The value in `or VALUE`, where the tail of a box begins so; else None."""
  tail = tail.lstrip(' ,;$)\\*\n')
  for word in ('or rather ', 'or** ', 'or ', '或者', '或'):
    if tail.casefold().startswith(word):
      return _value(tail[len(word) :])
  return None


def _later(text, answer):
  """The last value that the text gives as an answer, in a box or by saying so; None where it gives none.

  answer: what was found before; where it is a list, so may the value be.
  """
  listed = any(mark in answer for mark in (',', ';', ' and '))
  start = text.rfind(_BOXED)
  for end in reversed([said.end() for said in _ANNOUNCED.finditer(text, max(start, 0))]):
    tail = text[end : end + _VALUE]
    value = _value(tail, listed)
    if value:
      other = _alternative(tail[tail.index(value) + len(value) :])
      return f'{value}; {other}' if other else value if ' not ' not in tail[: tail.index(value)] else f'not {value}'
  if start < 0:
    return None
  box = _last_box(text)
  return box[0] if box else 'a box that is not closed'


def _value(text, listed=False):
  """The value that the text begins with: up to the closing dollar, or as far as it is mathematics. None for no value.

  listed: commas and 'and' do not end it.
  """
  text = text.lstrip(' *:\t\n')
  for opening in ('either ', 'not ', '\\text{'):
    text = text.removeprefix(opening)
  named = _NAMED.match(text)
  text = text[named.end() :] if named else text
  for opening, end in (('$$', '$$'), ('$', '$'), ('\\(', '\\)'), ('\\[', '\\]')):
    if text.startswith(opening) and end in text[len(opening) :]:
      return text[len(opening) : text.index(end, len(opening))]
  text = text.split('\n')[0].partition('。')[0]
  word = text[: _reach(text, listed)]
  value = word.strip('*.,;:!?$').rstrip(' ' + _OPERATORS)
  number = value.lstrip('(+-−\\[{')[:1].isdecimal() or value.startswith(('\\frac', '\\sqrt', '\\pi'))
  formula = _FORMULA.match(value) and not _PROSE.search(value)
  letter = value.strip('()') in tuple('ABCDEFGHIJ') and (value != word or '(' in value or not text[len(word) :])
  return value if number or formula or letter else None


def _reach(text, listed):
  """Where the mathematics that the text begins with ends: its first word, and what operators or brackets join to it."""
  end, depth, before = 0, 0, ''
  for match in _RUN.finditer(text):
    word = match[0]
    if end and depth <= 0 and not _continues(before, word, listed):
      break
    depth += sum(map(word.count, '([{')) - sum(map(word.count, ')]}'))
    end, before = match.end(), word
    if depth <= 0 and word not in _OPERATORS and word[-1] in '.,;:!?*' and not (listed and word[-1] in ',;'):
      break
  return end


def _continues(before, word, listed):
  """Does a word go on with the mathematics of the one before it?"""
  bare = word.strip('*.,;:!?$')
  if listed and bare == 'and':
    return True
  if _PROSE.search(bare):
    return False
  if before[-1] in _OPERATORS or word[0] in _OPERATORS or word[0] == '\\' or _COMMAND.fullmatch(before):
    return True
  mixed = before.isdecimal() and _SLASHED.fullmatch(bare)
  unit = len(bare) == 1 and bare.islower() and bare != 'a'
  return bool(mixed or unit or listed and (before == 'and' or before[-1] in ',;'))
