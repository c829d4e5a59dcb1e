"""The 25 checkable instructions of IF-Eval (Zhou et al. 2023, "Instruction-Following Evaluation").

Each is a function from a text and the instruction's arguments to a bool: whether the text follows the instruction, as
judged by the authors' checker, which is lenient in places ("must have 3 sections" means at least 3). Differences from
that checker, none of which needs downloaded data:
- keywords, section markers and postscript markers are matched literally, not as regular expressions;
- sentences and capital words are counted by the rules of `sentences` and `capital_words`, not by NLTK's models;
- languages are identified by `language.identify`, and a text without a letter has no language;
- JSON that is nested too deeply to be parsed counts as invalid.

The texts are responses of a model, so everything here runs in time linear in their length.
"""

import json
import re

from r1jax.config import ConfigError
from r1jax.rewards.text.language import IDENTIFIED, identify

# The look-behind and the possessive quantifiers prevent backtracking over long runs of marks.
_SENTENCE_END = re.compile(r'(?<![.!?…])[.!?…]++["\'”’)\]*_]*+(?=\s|$)|[。！？।]')
_WORD = re.compile(r'\w+')
_CAPITAL = re.compile(r'\w+(?:[-./&]\w+)*')
_HIGHLIGHT = re.compile(r'\*[^\n*]*+\*')
_DOUBLE_HIGHLIGHT = re.compile(r'\*\*[^\n*]*+\*\*')
_POSTSCRIPTS = {'P.S.': re.compile(r'p\.\s?s\.'), 'P.P.S': re.compile(r'p\.\s?p\.\s?s')}
# Words whose full stop never ends a sentence, and those whose full stop does not end one before a lower-case letter.
_NEVER_LAST = frozenset('mr mrs ms dr prof rev gen col capt lt sgt st vs vol fig dept approx cf e.g i.e'.split())
_SELDOM_LAST = frozenset('etc inc ltd co corp jr sr al'.split())
_OPTIONS = ('My answer is yes.', 'My answer is no.', 'My answer is maybe.')


def sentences(text):
  """The number of sentences.

  A sentence contains a letter and ends in . ! or ? (or a Chinese or Indic equivalent) before white space. A full stop
  does not end one after a title or an initial, nor between an abbreviation and a lower-case letter; dots do not before
  a lower-case letter. Numbers of a list are not sentences, and the end of a line does not end one.
  """
  count = start = 0
  for match in _SENTENCE_END.finditer(text):
    if not _inside(text, match):
      count += _has_letter(text[start : match.end()])
      start = match.end()
  return count + _has_letter(text[start:])


def _inside(text, match):
  """Whether a match of _SENTENCE_END does not end its sentence."""
  lower_case_follows = text[match.end() : match.end() + 2].lstrip()[:1].islower()
  if match[0] != '.':
    return lower_case_follows and match[0].startswith(('..', '…'))
  word = (text[max(0, match.start() - 12) : match.start()].split() or [''])[-1].strip('("\'*')
  if word.lower() in _NEVER_LAST or (len(word) == 1 and word.isalpha() and word != 'I'):
    return True
  return lower_case_follows and (word.lower() in _SELDOM_LAST or '.' in word)


def _has_letter(text):
  return any(c.isalpha() for c in text)


def capital_words(text):
  """The number of words in all capitals. CO-OP and U.S. count as one, DON'T as two (NLTK's DO and N'T), I'm as one."""
  return sum(word.isupper() for word in _CAPITAL.findall(text))


def _compare(count, relation, number):
  if relation not in ('at least', 'less than'):
    raise ConfigError(f"an instruction's relation is {relation!r}; known: 'at least', 'less than'.")
  return count >= number if relation == 'at least' else count < number


def _keywords(text, *, keywords):
  text = text.lower()
  return all(k.lower() in text for k in keywords)


def _keyword_frequency(text, *, keyword, frequency, relation):
  return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def _forbidden_words(text, *, forbidden_words):
  return not any(re.search(rf'\b{re.escape(w)}\b', text, re.IGNORECASE) for w in forbidden_words)


def _letter_frequency(text, *, letter, let_frequency, let_relation):
  return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _response_language(text, *, language):
  if language not in IDENTIFIED:
    raise ConfigError(
      f'an instruction asks for the language {language!r}, which cannot be identified; known: {", ".join(IDENTIFIED)}.'
    )
  return identify(text) == language


def _number_sentences(text, *, num_sentences, relation):
  return _compare(sentences(text), relation, num_sentences)


def _number_words(text, *, num_words, relation):
  return _compare(len(_WORD.findall(text)), relation, num_words)


def _number_paragraphs(text, *, num_paragraphs):
  """Paragraphs are separated by ***; only the first and the last may be empty, and then do not count."""
  parts = [bool(part.strip()) for part in text.split('***')]
  return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _nth_paragraph_first_word(text, *, num_paragraphs, nth_paragraph, first_word):
  """Paragraphs are separated by an empty line. An empty one is not counted, but does take up an index."""
  parts = [part.strip() for part in text.split('\n\n')]
  if sum(map(bool, parts)) != num_paragraphs or nth_paragraph > num_paragraphs or not parts[nth_paragraph - 1]:
    return False
  word = parts[nth_paragraph - 1].split(maxsplit=1)[0].lstrip("'").lstrip('"')
  return re.split('[.,?!\'"]', word, maxsplit=1)[0].lower() == first_word.lower()


def _number_placeholders(text, *, num_placeholders):
  return sum(_brackets(line) for line in text.split('\n')) >= num_placeholders


def _brackets(line):
  """The number of pairs of square brackets that are not nested."""
  count = end = 0
  while (start := line.find('[', end)) >= 0 and (end := line.find(']', start) + 1):
    count += 1
  return count


def _postscript(text, *, postscript_marker):
  text, marker = text.lower(), postscript_marker.strip()
  return bool(_POSTSCRIPTS[marker].search(text)) if marker in _POSTSCRIPTS else marker.lower() in text


def _number_bullet_lists(text, *, num_bullets):
  lines = [line.lstrip() for line in text.split('\n')]
  return sum(line.startswith('-') or (line.startswith('*') and line[1:2] != '*') for line in lines) == num_bullets


def _constrained_response(text):
  return any(option in text for option in _OPTIONS)


def _number_highlighted_sections(text, *, num_highlights):
  matches = _HIGHLIGHT.findall(text) + _DOUBLE_HIGHLIGHT.findall(text)
  return sum(bool(match.strip('*').strip()) for match in matches) >= num_highlights


def _multiple_sections(text, *, section_spliter, num_sections):
  return len(re.findall(re.escape(section_spliter.strip()) + r'\s?\d', text)) >= num_sections


def _json_format(text):
  text = text.strip()
  for fence in ('```json', '```Json', '```JSON', '```'):
    text = text.removeprefix(fence)
  try:
    json.loads(text.removesuffix('```').strip(), parse_int=str)  # converting a long integer is not linear
  except (ValueError, RecursionError):
    return False
  return True


def _title(text):
  """There is a <<title>> within one line."""
  spans = [(line.find('<<'), line.rfind('>>') + 2, line) for line in text.split('\n')]
  return any(
    start >= 0 and end - start > 4 and line[start:end].lstrip('<').rstrip('>').strip() for start, end, line in spans
  )


def _two_responses(text):
  """Two different responses separated by ******; only the first and the last part may be empty."""
  parts = [part.strip() for part in text.split('******')]
  responses = [part for part in parts if part]
  return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _repeat_prompt(text, *, prompt_to_repeat):
  return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text, *, end_phrase):
  return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_word_frequency(text, *, capital_frequency, capital_relation):
  return _compare(capital_words(text), capital_relation, capital_frequency)


def _english_capital(text):
  return text.isupper() and identify(text) == 'en'


def _english_lowercase(text):
  return text.islower() and identify(text) == 'en'


def _no_comma(text):
  return ',' not in text


def _quotation(text):
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS = {
  'keywords:existence': _keywords,
  'keywords:frequency': _keyword_frequency,
  'keywords:forbidden_words': _forbidden_words,
  'keywords:letter_frequency': _letter_frequency,
  'language:response_language': _response_language,
  'length_constraints:number_sentences': _number_sentences,
  'length_constraints:number_paragraphs': _number_paragraphs,
  'length_constraints:number_words': _number_words,
  'length_constraints:nth_paragraph_first_word': _nth_paragraph_first_word,
  'detectable_content:number_placeholders': _number_placeholders,
  'detectable_content:postscript': _postscript,
  'detectable_format:number_bullet_lists': _number_bullet_lists,
  'detectable_format:constrained_response': _constrained_response,
  'detectable_format:number_highlighted_sections': _number_highlighted_sections,
  'detectable_format:multiple_sections': _multiple_sections,
  'detectable_format:json_format': _json_format,
  'detectable_format:title': _title,
  'combination:two_responses': _two_responses,
  'combination:repeat_prompt': _repeat_prompt,
  'startend:end_checker': _end_checker,
  'startend:quotation': _quotation,
  'change_case:capital_word_frequency': _capital_word_frequency,
  'change_case:english_capital': _english_capital,
  'change_case:english_lowercase': _english_lowercase,
  'punctuation:no_comma': _no_comma,
}
