"""Language consistency: is the chain of thought in the language of the question?

The language of a word follows from its script. Words of languages that share the Latin script, and the characters that
Chinese and Japanese share, get the most likely sequence of labels for the whole text, where each change of language
has a cost: a foreign name or a loan word does not change the language, a foreign sentence does. The likelihoods of
Latin words come from py3langid, whose wheel contains its model.
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

COUNTED = ('words', 'characters')  # the unit in which Chinese is counted
PLACES = ('thinking', 'response')

# The characters of each script. A script that stands for a single language has the code of that language: every
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

# For `identify`: the languages that IF-Eval asks for, and those that are easily confused with them.
IDENTIFIED = tuple(
  'af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro '
  'ru sk sl so sq sv sw ta te th tl tr uk ur vi zh'.split()
)

# Log-likelihoods. A change of language costs as much as the evidence of two or three ordinary words. The evidence of
# one word is bounded by _MOST, because of names.
_SWITCH, _MOST = 12.0, 8.0
# Half of the characters of Japanese text are Chinese ones, so each of them is evidence for Chinese of log 2 = 0.7.
_EAST_SWITCH, _HAN, _KANA = 4.0, 0.7, 8.0
# Characters per word in scripts without spaces. In MGSM, 4.6 Thai characters correspond to one English word.
_PER_WORD = {'th': 5, 'kana': 4}
_LONGEST = 40  # letters of a word that are read
_READ = 10_000  # characters that `identify` reads

# Each alternative is a run of one class of characters, so matching takes linear time.
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
# Units and functions, which are written the same in every language.
_SYMBOLS = frozenset(
  'mm cm dm km mg kg ml cl dl lb oz ft mph kwh sin cos tan cot sec csc arcsin arccos arctan '
  'log ln lg lim max min gcd lcm mod'.split()
)

_ENVIRONMENT = r'\{(?:align|array|cases|eqnarray|equation|gather|multline|split|tabular|[bpvBV]?matrix)[a-z]*\*?\}'
_MARK = re.compile(rf'`+|\$\$?|\\(?:[()\[\]]|(?:begin|end){_ENVIRONMENT}|.)|\n')
_COMMAND = re.compile(r'\\(?:(?:begin|end|math[a-z]+|operatorname)\*?\{[^{}\n]*+\}|[A-Za-z]+)')
_CLOSES = {'\\(': '\\)', '\\[': '\\]'}


def language(items, *, chinese='words', where='thinking', target=''):
  """(words in the target language) / (all words) of the chain of thought (the reward of stage 2 of DeepSeek-R1).

  Not counted as words: mathematics, code, numbers, single letters, LaTeX commands, units, and names of variables (with
  digits, underscores or capitals inside, or of up to four capitals). Inside mathematics and code only Latin and Greek
  letters are skipped, so a chain in another script cannot hide there.

  Args:
    items: list of dicts with 'prompt' and 'response', and optionally 'language' and 'problem'.
    chinese: 'words', as segmented by jieba, or 'characters', each counted as a word, which gives Chinese more weight.
    where: 'thinking': the chain of thought, or the whole response if there is none; 'response': the whole response.
    target: one of LANGUAGES; '' means the item's 'language', or else that of its problem, its prompt or the chain
      itself.

  Returns:
    list of float in [0, 1]; 0.0 for an empty chain, without any letter or digit; 1.0 for one that consists of
    mathematics, code and numbers only, which are the same in every language.

  Raises:
    ConfigError: an unknown value of an option or of an item's 'language'.
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
    return {'score': 0.0, 'reason': 'empty', 'target': target or declared(item), 'words': 0, 'in_target': 0}
  target = target or declared(item) or detect(item.get('problem', '')) or detect(item.get('prompt', '')) or detect(text)
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
  """The share of the text's words that are in `target`, counted as in `language`; 1.0 if there are none.

  target: one of LANGUAGES. Raises ConfigError for any other.
  """
  count = _count(text, target, 'words')
  words = count.total()
  return count[target] / words if words else 1.0


def declared(item):
  """The item's 'language'; '' if it has none, or a programming language (which is for the code reward)."""
  name = item.get('language') or ''
  return '' if isinstance(name, str) and name in programs.LANGUAGES else name


def detect(text):
  """The language, of LANGUAGES, that most words of `text` are in; '' if there are no words or no known language."""
  count = _count(text, None, 'words')
  for name, words in count.most_common():
    if words and name in LANGUAGES:
      return name
    if words and name == 'latin':
      latin = ' '.join(run for script, run in _runs(text) if script == 'latin')[:_READ]
      # Prefer English: a problem may consist of one word, such as 'Simplify', which is also Romanian.
      return max(_rank(latin, _LATIN), key=lambda pair: pair[1] + (_SWITCH if pair[0] == 'en' else 0))[0]
  return ''


def identify(text):
  """The language of a whole text as an ISO 639-1 code, one of the 54 of IDENTIFIED; '' if it has no letter."""
  text = text[:_READ]
  return _rank(text, IDENTIFIED)[0][0] if any(c.isalpha() for c in text) else ''


def prepare_identifier():
  """Loads the language identifier, which takes about a second that should not count against an item."""
  _identifier(_LATIN)


def prepare():
  """Loads the language identifier and the Chinese segmenter, which takes another second and 70 MB."""
  prepare_identifier()
  _segmenter()


def _check(chinese, where, target):
  for name, value, known in (('chinese', chinese, COUNTED), ('where', where, PLACES), ('target', target, LANGUAGES)):
    if value not in known and (name, value) != ('target', ''):
      raise ConfigError(f'the language reward has no {name} {value!r}; known: {", ".join(known)}.')
  if chinese == 'words' and importlib.util.find_spec('jieba') is None:
    raise ConfigError("chinese 'words' needs jieba, which is not installed: pip install jieba, or count 'characters'.")


def _count(text, target, chinese):
  """Counts the words of each language or script: a Counter.

  Words in Latin script are counted by language only if the target is one of _LATIN, else as 'latin'.
  """
  if target is not None and target not in LANGUAGES:
    raise ConfigError(f'language {target!r} is not known; known: {", ".join(LANGUAGES)}.')
  latin, east_asian, count = [], [], collections.Counter()
  for script, run in _runs(text):
    if script == 'latin' and target in _LATIN:
      latin.append(run)
    elif script in ('han', 'kana'):
      east_asian.append((script, run))
    else:
      count[script] += _length(script, run)
  evidence = [_evidence(run.lower()[:_LONGEST]) for run in latin]
  for label in _labels(evidence, _LATIN, target, _SWITCH):
    count[label] += 1
  evidence = [(0.0, -_HAN * len(run)) if script == 'han' else (-_KANA, 0.0) for script, run in east_asian]
  start = 'ja' if target == 'ja' else ''  # else a text without kana would mostly count as Chinese
  for (script, run), label in zip(east_asian, _labels(evidence, _EAST, start, _EAST_SWITCH), strict=True):
    if script == 'kana':
      count['ja'] += _length(script, run)
    else:
      count[label] += _chinese_words(run) if label == 'zh' and chinese == 'words' else len(run)
  return count


def _length(script, run):
  """The number of words in a run of characters of one script."""
  return -(-len(run) // _PER_WORD[script]) if script in _PER_WORD else 1


def _labels(evidence, labels, start, price):
  """The most likely sequence of labels, where each change of label costs `price` (the Viterbi algorithm).

  Args:
    evidence: for each run, the log-likelihood of each label.
    labels: names of the labels.
    start: the only label with which the sequence can begin at no cost; if it is not one of `labels`, all can.
    price: cost of a change, as a log-likelihood.

  Returns:
    list of labels, one per run.
  """
  best = [-price if start in labels and name != start else 0.0 for name in labels]
  back_pointers = []
  for row in evidence:
    top = max(best)
    source, floor = best.index(top), top - price
    back_pointers.append([i if b >= floor else source for i, b in enumerate(best)])
    best = [max(b, floor) + r for b, r in zip(best, row, strict=True)]
  label_index, out = best.index(max(best)), []
  for row in reversed(back_pointers):
    out.append(labels[label_index])
    label_index = row[label_index]
  return out[::-1]


@functools.lru_cache(maxsize=1 << 15)
def _evidence(word):
  """Log-likelihood of a word in each of _LATIN, relative to the best."""
  ranks = _rank(f' {word} ', _LATIN)
  by_name = dict(ranks)
  return tuple(max(by_name[name] - ranks[0][1], -_MOST) for name in _LATIN)


def _rank(text, languages):
  """List of (code, log-likelihood) of each language, best first."""
  return _identifier(languages).rank(text)


@functools.cache
def _identifier(languages):
  if languages:
    restricted = copy.copy(_identifier(()))  # a shallow copy shares the model
    restricted.set_languages(languages)
    return restricted
  from py3langid import langid  # loading the model takes a second and 100 MB

  return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


def _chinese_words(run):
  # Dictionary only: jieba's model for unknown words takes time quadratic in the length of the run.
  return len(_segmenter().lcut(run, HMM=False))


@functools.cache
def _segmenter():
  import jieba

  segmenter = jieba.Tokenizer()
  # Does what initialize() does, but without reading or writing a cache in the shared temporary folder.
  segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
  segmenter.initialized = True
  return segmenter


def _runs(text):
  """List of (script, text) of each word in Latin script and each run of characters of another script, in order."""
  for tag in templates.TAGS:
    text = text.replace(tag, ' ')
  out = []
  for part, hidden in _parts(text):
    for match in _WORD.finditer(part if hidden else _COMMAND.sub(' ', part)):
      script, run = match.lastgroup, match[0]
      if (hidden and script in ('latin', 'other')) or (len(run) < 2 and script in ('latin', 'ru', 'other')):
        continue
      if not (_symbol(run) if script == 'latin' else script == 'other' and not run.isalpha()):
        out.append((script, run))
  return out


def _symbol(word):
  """Whether the word is a number, or the name of a variable, a function or a unit."""
  return (
    bool(_NOT_IN_NAMES.search(word))
    or word.lower() in _SYMBOLS
    or (len(word) <= 4 if word.isupper() else word[1:].lower() != word[1:])
  )


def _parts(text):
  """Splits a text into a list of (part, whether it is mathematics or code); unclosed delimiters are plain text."""
  spans, kind, start = [], None, 0
  for mark in _MARK.finditer(text):
    token, position = mark[0], mark.start()
    if kind is not None and _closes(kind, token, text, position):
      spans.append((start, mark.end()))
      kind = None
    elif token == '\n':
      blank = position and text[position - 1] == '\n'
      if kind == '`' or (blank and kind in ('$', '$$', '\\(', '\\[')):
        kind = None
    elif (kind is None or kind == token == '$') and _opens(token, text, mark.end()):
      kind, start = token, position
  edges = [0, *itertools.chain.from_iterable(spans), len(text)]
  return [(text[a:b], i % 2 == 1) for i, (a, b) in enumerate(itertools.pairwise(edges))]


def _opens(token, text, end):
  if token == '$':
    return not text[end : end + 1].isspace()
  return token[0] in '`$' or token in _CLOSES or token.startswith('\\begin')


def _closes(kind, token, text, at):
  if kind == '$':
    return token == '$' and not text[at - 1].isspace() and not text[at + 1 : at + 2].isdigit()
  if kind.startswith('\\begin'):
    return token == '\\end' + kind.removeprefix('\\begin')
  return token == _CLOSES.get(kind, kind)
