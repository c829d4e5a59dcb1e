"""Language consistency: is the chain of thought in the language of the question?

Words are told apart by their script; those of languages that share the Latin script, and the characters that
Chinese and Japanese share, by the likeliest labels of the whole sequence, where a change of language has a price:
a foreign name or a loan word does not change it, a foreign sentence does. Evidence on Latin words comes from
py3langid, whose model lies in its wheel.
"""

import collections
import copy
import functools
import importlib.util
import itertools
import re

from r1jax import templates
from r1jax.config import ConfigError
from r1jax.rewards.coding import programs

COUNTED = ('words', 'characters')  # what is one word of Chinese
PLACES = ('thinking', 'response')

# A character class a script. Where a script stands for one language here, it has that language's code: every
# Cyrillic word counts as Russian.
_SCRIPTS = {
  'han': '\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff',
  'kana': '\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f',
  'th': '\u0e01-\u0e3a\u0e40-\u0e4e',
  'bn': '\u0980-\u09e3\u09f0\u09f1',
  'te': '\u0c00-\u0c63',
  'ru': '\u0400-\u052f',
  'ko': '\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3',
  'latin': (
    'A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a'
  ),
}
_LATIN = ('en', 'de', 'fr', 'es', 'sw', 'it', 'pt', 'nl', 'pl', 'vi', 'id', 'tr', 'ro', 'sv', 'fi', 'cs')
_EAST = ('zh', 'ja')
LANGUAGES = _EAST + tuple(s for s in _SCRIPTS if len(s) == 2) + _LATIN

# For `identify`: what IF-Eval asks for, and the languages that are taken for them.
IDENTIFIED = tuple(
  'af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro '
  'ru sk sl so sq sv sw ta te th tl tr uk ur vi zh'.split()
)

# Log-likelihoods. A change of language costs what two or three plain words are worth; what one word can say is
# bounded, for names.
_SWITCH, _MOST = 12.0, 8.0
# Half of the characters of Japanese are Chinese ones, so each of a row of them speaks for Chinese by log 2.
_EAST_SWITCH, _HAN, _KANA = 4.0, 0.7, 8.0
# Characters that make a word at most, where no spaces tell. MGSM has 4.6 Thai ones for an English word.
_PER_WORD = {'th': 5, 'kana': 4}
_LONGEST = 40  # letters of a word that are looked at
_READ = 10_000  # characters that `identify` looks at

# Each alternative is a run of one class of characters, so nothing is read twice.
_WORD = re.compile(
  '|'.join(
    [f'(?P<{s}>[{c}]+)' for s, c in _SCRIPTS.items() if s != 'latin']
    + [
      rf"(?P<latin>[{_SCRIPTS['latin']}\d_]+(?:['’][{_SCRIPTS['latin']}\d_]+)*)",
      rf'(?P<other>[^\W\d_{"".join(_SCRIPTS.values())}]+)',
    ]
  )
)
_NOT_IN_NAMES = re.compile(r'[\d_]')
# Units and functions, which every language writes so.
_SYMBOLS = frozenset(
  'mm cm dm km mg kg ml cl dl lb oz ft mph kwh sin cos tan cot sec csc arcsin arccos arctan '
  'log ln lg lim max min gcd lcm mod'.split()
)

_ENVIRONMENT = r'\{(?:align|array|cases|eqnarray|equation|gather|multline|split|tabular|[bpvBV]?matrix)[a-z]*\*?\}'
_MARK = re.compile(rf'`+|\$\$?|\\(?:[()\[\]]|(?:begin|end){_ENVIRONMENT}|.)|\n')
_COMMAND = re.compile(r'\\(?:(?:begin|end|math[a-z]+|operatorname)\*?\{[^{}\n]*+\}|[A-Za-z]+)')
_CLOSES = {'\\(': '\\)', '\\[': '\\]'}


def language(items, *, chinese='words', where='thinking', target=''):
  """(words in the target language) / (words) of the chain of thought (DeepSeek-R1, the reward of stage 2).

  No words are: mathematics, code, numbers, single letters, LaTeX commands, units, and names of variables (with digits,
  underscores, capitals inside, or of up to four capitals). In mathematics and code only Latin and Greek letters are
  passed over: a chain in another script cannot hide there.

  Args:
    items: list of dicts with 'prompt' and 'response'; the target is looked for in 'language', then 'problem'.
    chinese: 'words', which jieba finds; or 'characters', each a word, so that Chinese weighs more.
    where: 'thinking', the chain of thought, or where there is none the whole response; or 'response', always the whole.
    target: one of LANGUAGES; '' is the item's 'language', or else that of its problem, its prompt, the chain itself.

  Returns:
    List of floats in [0, 1]; 0.0 for an empty chain, which holds no letter or digit; 1.0 for one of mathematics, code
    and numbers alone, which is in every language.

  Raises:
    ConfigError: an option's value or an item's 'language' that is not known.
  """
  _check(chinese, where, target)
  return [verdict(item, chinese=chinese, where=where, target=target)['score'] for item in items]


def verdict(item, *, chinese='words', where='thinking', target=''):
  """How `language` scores one item: a dict with 'score', 'reason', 'target', 'words' (int) and 'in_target' (int)."""
  _check(chinese, where, target)
  text = templates.completed(item.get('prompt', ''), item['response'])
  if where == 'thinking':
    thinking = templates.parse(text).thinking
    text = text if thinking is None else thinking
  if not any(c.isalnum() for c in text):
    return {'score': 0.0, 'reason': 'empty', 'target': target or named(item), 'words': 0, 'in_target': 0}
  target = target or named(item) or own(item.get('problem', '')) or own(item.get('prompt', '')) or own(text)
  if not target:
    return {'score': 1.0, 'reason': 'nothing to count', 'target': '', 'words': 0, 'in_target': 0}
  count = _count(text, target, chinese)
  words, hits = count.total(), count[target]
  return {
    'score': hits / words if words else 1.0,
    'target': target,
    'words': words,
    'in_target': hits,
    'reason': f'{hits} of {words} words are in {target!r}' if words else 'nothing to count',
  }


def language_consistency(text, target):
  """The share of `text`'s words that are in `target`, one of LANGUAGES, as `language` counts them; 1.0 without any.

  Raises ConfigError for a language that is not known.
  """
  count = _count(text, target, 'words')
  words = count.total()
  return count[target] / words if words else 1.0


def named(item):
  """The item's 'language'; '' where it has none, or one of programs, which is the code reward's."""
  name = item.get('language') or ''
  return '' if isinstance(name, str) and name in programs.LANGUAGES else name


def own(text):
  """The language, of LANGUAGES, that most words of `text` are in; '' where there are none, or none that is known."""
  count = _count(text, None, 'words')
  for name, words in count.most_common():
    if words and name in LANGUAGES:
      return name
    if words and name == 'latin':
      latin = ' '.join(run for script, run in _runs(text) if script == 'latin')[:_READ]
      # A problem may be of one word: 'Simplify', which is Romanian as well.
      return max(_rank(latin, _LATIN), key=lambda pair: pair[1] + (_SWITCH if pair[0] == 'en' else 0))[0]
  return ''


def identify(text):
  """The ISO 639-1 code, of 54 languages, of the language of a whole text; '' where it holds no letter."""
  text = text[:_READ]
  return _rank(text, IDENTIFIED)[0][0] if any(c.isalpha() for c in text) else ''


def prepare_identifier():
  """Loads the identifier: about a second, and not to be charged to an item."""
  _identifier(_LATIN)


def prepare():
  """Loads the identifier, and the segmenter of Chinese: another second, and 70 MB."""
  prepare_identifier()
  _segmenter()


def _check(chinese, where, target):
  for name, value, known in (('chinese', chinese, COUNTED), ('where', where, PLACES), ('target', target, LANGUAGES)):
    if value not in known and (name, value) != ('target', ''):
      raise ConfigError(f'the language reward has no {name} {value!r}; known: {", ".join(known)}.')
  if chinese == 'words' and importlib.util.find_spec('jieba') is None:
    raise ConfigError("chinese 'words' needs jieba, which is not installed: pip install jieba, or count 'characters'.")


def _count(text, target, chinese):
  """Words of each language or script: a Counter. Latin words are told apart for a target among them alone."""
  if target is not None and target not in LANGUAGES:
    raise ConfigError(f'language {target!r} is not known; known: {", ".join(LANGUAGES)}.')
  latin, east, count = [], [], collections.Counter()
  for script, run in _runs(text):
    if script == 'latin' and target in _LATIN:
      latin.append(run)
    elif script in ('han', 'kana'):
      east.append((script, run))
    else:
      count[script] += _length(script, run)
  evidence = [_evidence(run.lower()[:_LONGEST]) for run in latin]
  for label in _labels(evidence, _LATIN, target, _SWITCH):
    count[label] += 1
  evidence = [(0.0, -_HAN * len(run)) if script == 'han' else (-_KANA, 0.0) for script, run in east]
  start = 'ja' if target == 'ja' else ''  # without kana it would be Chinese, but for a few characters
  for (script, run), label in zip(east, _labels(evidence, _EAST, start, _EAST_SWITCH), strict=True):
    if script == 'kana':
      count['ja'] += _length(script, run)
    else:
      count[label] += _chinese_words(run) if label == 'zh' and chinese == 'words' else len(run)
  return count


def _length(script, run):
  """Words of a run of characters of one script."""
  return -(-len(run) // _PER_WORD[script]) if script in _PER_WORD else 1


def _labels(evidence, labels, start, price):
  """The likeliest sequence of labels, where each change costs `price` (Viterbi's algorithm).

  Args:
    evidence: for each run, the log-likelihood of each label.
    labels: names.
    start: the label that a sequence begins with at no cost, and a short one keeps; any, if it is none of `labels`.
    price: of a change, in the same unit.

  Returns:
    A list of labels, one a run.
  """
  best = [-price if start in labels and name != start else 0.0 for name in labels]
  came = []
  for row in evidence:
    top = max(best)
    source, floor = best.index(top), top - price
    came.append([i if b >= floor else source for i, b in enumerate(best)])
    best = [max(b, floor) + r for b, r in zip(best, row, strict=True)]
  at, out = best.index(max(best)), []
  for row in reversed(came):
    out.append(labels[at])
    at = row[at]
  return out[::-1]


@functools.lru_cache(maxsize=1 << 15)
def _evidence(word):
  """Log-likelihoods of a word in each of _LATIN, against the best."""
  ranks = _rank(f' {word} ', _LATIN)
  by_name = dict(ranks)
  return tuple(max(by_name[name] - ranks[0][1], -_MOST) for name in _LATIN)


def _rank(text, languages):
  """(code, log-likelihood) of each language, the best first."""
  return _identifier(languages).rank(text)


@functools.cache
def _identifier(languages):
  if languages:
    restricted = copy.copy(_identifier(()))  # shares the model
    restricted.set_languages(languages)
    return restricted
  from py3langid import langid  # its model takes a second and 100 MB

  return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


def _chinese_words(run):
  # By the dictionary alone: jieba's guesses at unknown words take time that grows with the square of a run's length.
  return len(_segmenter().lcut(run, HMM=False))


@functools.cache
def _segmenter():
  import jieba

  segmenter = jieba.Tokenizer()
  # What its initialize() does, without the cache that it would read from and leave in the shared temporary folder.
  segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
  segmenter.initialized = True
  return segmenter


def _runs(text):
  """(script, text) of each word of Latin script, and each run of characters of another, in order."""
  for tag in templates.TAGS:
    text = text.replace(tag, ' ')
  out = []
  for part, hidden in _parts(text):
    for match in _WORD.finditer(part if hidden else _COMMAND.sub(' ', part)):
      script, run = match.lastgroup, match[0]
      if hidden and script in ('latin', 'other') or len(run) < 2 and script in ('latin', 'ru', 'other'):
        continue
      if not (_symbol(run) if script == 'latin' else script == 'other' and not run.isalpha()):
        out.append((script, run))
  return out


def _symbol(word):
  """Is it the name of a variable, a function or a unit, or a number?"""
  return (
    bool(_NOT_IN_NAMES.search(word))
    or word.lower() in _SYMBOLS
    or (len(word) <= 4 if word.isupper() else word[1:].lower() != word[1:])
  )


def _parts(text):
  """(part, whether it is mathematics or code) of the text, in order. What is opened and not closed hides nothing."""
  spans, kind, start = [], None, 0
  for mark in _MARK.finditer(text):
    token, at = mark[0], mark.start()
    if kind is not None and _closes(kind, token, text, at):
      spans.append((start, mark.end()))
      kind = None
    elif token == '\n':
      blank = at and text[at - 1] == '\n'
      if kind == '`' or blank and kind in ('$', '$$', '\\(', '\\['):
        kind = None
    elif (kind is None or kind == token == '$') and _opens(token, text, mark.end()):
      kind, start = token, at
  edges = [0, *itertools.chain.from_iterable(spans), len(text)]
  return [(text[a:b], i % 2 == 1) for i, (a, b) in enumerate(itertools.pairwise(edges))]


def _opens(token, text, end):
  if token == '$':  # a price has a space before the next one
    return not text[end : end + 1].isspace()
  return token[0] in '`$' or token in _CLOSES or token.startswith('\\begin')


def _closes(kind, token, text, at):
  if kind == '$':
    return token == '$' and not text[at - 1].isspace() and not text[at + 1 : at + 2].isdigit()
  if kind.startswith('\\begin'):
    return token == '\\end' + kind.removeprefix('\\begin')
  return token == _CLOSES.get(kind, kind)
