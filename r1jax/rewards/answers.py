"""Finds the answer in a response. All rewards that read an answer use these rules:

- The thinking contains no answer. Only the text after the last `</think>` is read; a response that does not close its
  thinking has no answer. A response without think tags is read whole.
- The option `where` says what the answer is: the content of the last `<answer>..</answer>` ('tags'), the content of the
  last `\\boxed{}` ('boxed'), the tags if there are any and else the box ('both'), or everything after the thinking
  ('summary'). Of several tags or boxes the last one counts. 'stated' is 'both', and where there is neither, the value
  after the last 'answer is', 'answer:' or '####' (or a Chinese equivalent).
- A box is \\boxed{5}, \\boxed {5}, \\boxed5, \\fbox{5} or \\framebox{5}. A box inside the answer is unwrapped. Boxes
  with only a comma, 'and' (or a Chinese equivalent) or words beginning with 'or' between them are one answer with
  several entries. So is a box directly followed by 'or' and another value.
- Boxes with only names and list markers between them (x=\\boxed{5} and y=\\boxed{7}, one per line) may be one answer
  together, or the last one alone: the reward decides by whether the reference has several entries or one.
- The text after the answer must not contradict it. A later box, or a value after a later 'answer is' or 'answer:' (or a
  Chinese equivalent), is returned beside the answer, and the reward compares the two.

Every scan here takes time linear in the length of the response.
"""

import math
import re
from typing import NamedTuple

from r1jax import templates
from r1jax.config import ConfigError

MAX_ANSWER = 1000  # characters; a longer answer is wrong without being parsed, since parsing is not linear
WHERE = ('both', 'tags', 'boxed')

_BOXED = '\\boxed{'
_BOX = re.compile(r'\\(?:boxed|fbox|framebox)(?![A-Za-z]) ?(?:\[[^][{}\n]*\] ?)?\{')
_UNBRACED = re.compile(
  r'\\boxed ?(-?[0-9]+(?:\.[0-9]+)?|[A-Z](?![A-Za-z])|'
  r'\\frac ?\{[^{}]*\} ?\{[^{}]*\}|\\text(?:bf)? ?\{[^{}]*\})'
)
_BOXES = 20  # most boxes in one answer
_GAP = 40  # most characters between two boxes of one answer
_VALUE = 200  # characters that are read after 'answer is'
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
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)  # skips escaped braces, but not the brace after an escaped backslash
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
# Text between labelled boxes without spaces and delimiters: punctuation, a conjunction, a list marker, a name.
_LABELLED = re.compile(
  r'[.,;，；、]?(?:and|和)?[-•]?(?:(?:part)?[0-9a-e][.:]?)?(?:[a-z](?:_?[0-9a-z])?=)?', re.IGNORECASE
)
_NAME = re.compile(r'([A-Za-z](?:_ ?(?:[0-9A-Za-z]|\{[0-9A-Za-z]{1,9}\}))? ?= ?)\$? ?$')


class Answer(NamedTuple):
  """The result of looking for an answer.

  Attributes:
    text: the answer; None if there is none.
    later: a value that the response gives as its answer later, or None.
    reason: why there is no answer.
    together: the answer and the labelled boxes before it, with their names, as one list; None if there are none.
  """

  text: str | None
  later: str | None = None
  reason: str = ''
  together: str | None = None


def check_where(where, known=WHERE):
  """Raises ConfigError for an unknown value of the option `where`."""
  if where not in known:
    raise ConfigError(f'where is {where!r}; known: {", ".join(known)}.')


def find(item, where, bare=False, limit=MAX_ANSWER):
  """Finds the answer of an item by the rules above.

  Args:
    item: dict with 'response', and with 'prompt' if that may end with an opening think tag.
    where: 'both', 'tags', 'boxed', 'stated' or 'summary'.
    bare: a response without any think tag, answer tag or box is itself the answer.
    limit: longest answer in characters; a longer one is not returned.

  Returns:
    Answer.
  """
  text = templates.completed(item.get('prompt', ''), item['response'])
  text = _UNBRACED.sub(r'\\boxed{\1}', _BOX.sub(r'\\boxed{', text))
  if bare and not any(mark in text for mark in (*templates.TAGS, _BOXED)):
    return _make_answer(text, '', limit)
  text = templates.summary(text)
  if text is None:
    return Answer(None, reason='the thinking is not closed')
  if where == 'summary':
    return _make_answer(text, '', limit)
  span = templates.answer_span(text) if where != 'boxed' else None
  if span:
    inside, after = text[span[0] : span[1]], text[span[1] + len(templates.ANSWER_END) :]
    box = _last_box(inside)
    return _make_answer(box[0], inside[box[1] :] + after, limit, box[2]) if box else _make_answer(inside, after, limit)
  box = _last_box(text) if where != 'tags' else None
  if box:
    return _make_answer(box[0], text[box[1] :], limit, box[2])
  stated = _later(text, '') if where == 'stated' else None
  if stated:
    return _make_answer(stated, '', limit)
  places = {'tags': 'answer tags', 'boxed': '\\boxed{}', 'both': 'answer tags and no \\boxed{}'}
  places['stated'] = places['both'] + " and no 'answer is'"
  return Answer(None, reason=f'no {places[where]} after the thinking')


def reference(item):
  """The item's 'answer' as a string. Raises ValueError if it is neither a string nor a finite number."""
  answer = item['answer']
  if isinstance(answer, str) or (
    isinstance(answer, (int, float)) and not isinstance(answer, bool) and math.isfinite(answer)
  ):
    return str(answer)
  raise ValueError(f"the item's 'answer' is {str(answer)[:40]!r}; it must be a string or a number.")


def closing(text):
  """The index in `text` of the brace that closes the one opened just before it; None if there is none."""
  depth = 1
  for brace in _BRACE.finditer(text):
    depth += {'{': 1, '}': -1}.get(brace[0], 0)
    if not depth:
      return brace.start()
  return None


def _make_answer(text, after, limit, together=None):
  text = text.strip()
  if not text:
    return Answer(None, reason='the answer is empty')
  if len(text) > limit:
    return Answer(None, reason=f'the answer has {len(text)} characters; more than {limit} are not read')
  return Answer(text, _later(after, text), together=together)


def _box(text, start):
  """(content, end) of the box that starts at `start`, or None if it is not closed."""
  start += len(_BOXED)
  inside = text[start : start + MAX_ANSWER + 1]
  end = closing(inside)
  return None if end is None else (_SPACED.sub('', inside[:end]).strip(), start + end + 1)


def _last_box(text):
  """The answer in the last box and the boxes joined to it.

  Returns:
    (answer, where the last box ends, `Answer.together`), or None if the last box is not closed or there is none.
  """
  start = text.rfind(_BOXED)
  box = _box(text, start) if start >= 0 else None
  if box is None:
    return None
  entries, joined, labelled = [box[0]], 1, [_name(text, start) + box[0]]
  while len(entries) < _BOXES:
    previous_start = text.rfind(_BOXED, max(0, start - MAX_ANSWER), start)
    previous = _box(text, previous_start) if previous_start >= 0 else None
    if previous is None or not 0 <= start - previous[1] <= _GAP:
      break
    between = text[previous[1] : start]
    if joined == len(entries) and _joins(between):
      joined += 1
    elif not _labelled(between):
      break
    entries, start = [previous[0], *entries], previous_start
    labelled = [_name(text, start) + previous[0], *labelled]
  alternative = _alternative(text[box[1] : box[1] + _VALUE])
  together = '; '.join(labelled) if len(entries) > joined and not alternative else None
  entries = entries[-joined:] + ([alternative] if alternative else [])
  return '; '.join(entries), box[1], together


def _name(text, start):
  """The name and equals sign directly before the box at `start`, such as `x=`; '' if there are none."""
  match = _NAME.search(text[max(0, start - _GAP) : start])
  return match[1] if match else ''


def _labelled(text):
  """Whether the text between two boxes, without markup, is at most a conjunction, a list marker and a name."""
  if '-' in text and '\n' not in text:
    return False  # a minus sign, not a list marker
  return _LABELLED.fullmatch(_stripped(text)) is not None


def _stripped(text):
  """The text without white space, delimiters, and the LaTeX commands for text and spaces."""
  for word in ('text', 'mbox', 'quad'):
    text = text.replace('\\' + word, '')
  for character in _DELIMITERS:
    text = text.replace(character, '')
  return text


def _joins(text):
  """Whether the text between two boxes, without markup, joins them to one list."""
  text = _stripped(text)
  return text in _JOINTS or text.lstrip(',').startswith(('or', '或', 'and/or'))


def _alternative(tail):
  """The value in `or VALUE` if the text after a box begins like that; else None."""
  tail = tail.lstrip(' ,;$)\\*\n')
  for word in ('or rather ', 'or** ', 'or ', '或者', '或'):
    if tail.casefold().startswith(word):
      return _value(tail[len(word) :])
  return None


def _later(text, answer):
  """The last value that the text gives as its answer, in a box or announced in words; None if there is none.

  answer: the answer found before this text; if it is a list, the later value may be one, too.
  """
  listed = any(mark in answer for mark in (',', ';', ' and '))
  start = text.rfind(_BOXED)
  for end in reversed([match.end() for match in _ANNOUNCED.finditer(text, max(start, 0))]):
    tail = text[end : end + _VALUE]
    value = _value(tail, listed)
    if value:
      second = _alternative(tail[tail.index(value) + len(value) :])
      return f'{value}; {second}' if second else value if ' not ' not in tail[: tail.index(value)] else f'not {value}'
  if start < 0:
    return None
  box = _last_box(text)
  return box[0] if box else 'a box that is not closed'  # equals no answer


def _value(text, listed=False):
  """The value that the text begins with: up to the closing dollar, or as far as it is mathematics; None if none.

  listed: the value may be a list, which commas and 'and' do not end.
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
  """Where the mathematics at the beginning of the text ends: the first word, and those that belong to it."""
  end, depth, previous = 0, 0, ''
  for match in _RUN.finditer(text):
    word = match[0]
    if end and depth <= 0 and not _continues(previous, word, listed):
      break
    depth += sum(map(word.count, '([{')) - sum(map(word.count, ')]}'))
    end, previous = match.end(), word
    if depth <= 0 and word not in _OPERATORS and word[-1] in '.,;:!?*' and not (listed and word[-1] in ',;'):
      break
  return end


def _continues(previous, word, listed):
  """Whether a word continues the mathematics of the word before it."""
  bare = word.strip('*.,;:!?$')
  if listed and bare == 'and':
    return True
  if _PROSE.search(bare):
    return False
  if previous[-1] in _OPERATORS or word[0] in _OPERATORS or word[0] == '\\' or _COMMAND.fullmatch(previous):
    return True
  mixed = previous.isdecimal() and _SLASHED.fullmatch(bare)
  unit = len(bare) == 1 and bare.islower() and bare != 'a'
  return bool(mixed or unit or (listed and (previous == 'and' or previous[-1] in ',;')))
