"""DROP's metric: the F1 of bags of words, with numbers compared as numbers and several spans aligned one to one.

The rules are those of the official script (Dua et al. 2019, arXiv 1903.00161; `drop_eval.py` of AllenNLP, the version
that divides by the larger number of spans):

- A span is lower-cased and split at spaces and hyphens. Punctuation, articles and repeated words are dropped; a number
  becomes a float. The articles are English, so no promises are made for other languages.
- The F1 of two spans is that of their sets of words. It is 0 if the gold span has numbers and shares none of them.
- Spans are paired so that the sum of their F1 is largest, and that sum is divided by the larger number of spans. The
  result is rounded to two digits. Of several gold answers the best one counts.

How spans are found in a response is a rule of ours: they are separated by semicolons or new lines. If there are neither
and the gold answer has several spans, commas before a space and 'and' separate them as well.
"""

import re
import string

from r1jax.rewards import answers

WHERE = (*answers.WHERE, 'stated', 'summary')

_ARTICLES = re.compile(r'\b(?:a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)
_LIST = re.compile(r',?\s+(?:and|&)\s+|,\s+')


def drop_f1(items, *, where='both'):
  """The F1 of `verdict`: a list of float in [0, 1]."""
  answers.check_where(where, WHERE)
  return [verdict(item, where=where)['score'] for item in items]


def verdict(item, *, where='both'):
  """Scores one item.

  Args:
    item: dict with 'response' and the gold answers. 'answers' is a list of alternatives, each a string, a number, a
      list of strings (the spans of one answer), or an object of DROP's own files ('number', 'spans', 'date'); or it is
      one such object. 'validated_answers' may hold more of them, as in DROP's files. Without 'answers', 'answer' is the
      only one.
    where: 'tags', 'boxed', 'both', 'stated' (see `answers`), or 'summary' (everything after the thinking).

  Returns:
    dict with 'score' (F1), 'exact' (exact match, 0.0 or 1.0), 'reason' and 'extracted', the answer found or None. If
    the response contradicts its answer later, the lower of the two scores counts.

  Raises:
    ConfigError: an unknown `where`. ValueError: the item has no gold answer, or one in none of these forms.
  """
  answers.check_where(where, WHERE)
  golds = _golds(item)
  answer = answers.find(item, where)
  if answer.text is None:
    return {'score': 0.0, 'exact': 0.0, 'reason': answer.reason, 'extracted': None}
  exact, score = min(_best(text, golds) for text in (answer.text, answer.later) if text is not None)
  reason = 'exact match' if exact else f'F1 {score:g}'
  return {'score': score, 'exact': exact, 'reason': reason, 'extracted': answer.text}


def vote(item, *, where='both'):
  """The normalized spans of the response's answer, sorted; None if there is none."""
  answer = answers.find(item, where)
  several = any(len(gold) > 1 for gold in _golds(item))
  return None if answer.text is None else '; '.join(sorted(map(normalize, _spans(answer.text, several))))


def metrics(predicted, gold):
  """DROP's metrics of a prediction and one gold answer.

  Args:
    predicted, gold: non-empty lists of str, the spans.

  Returns:
    (exact match, F1), floats in [0, 1].
  """
  predicted, gold = [[normalize(span) for span in spans] for spans in (predicted, gold)]
  exact = float(set(predicted) == set(gold) and len(predicted) == len(gold))
  bags = [[set(span.split()) for span in spans] for spans in (predicted, gold)]
  return exact, round(_aligned(*bags) / max(len(predicted), len(gold)), 2)


def normalize(span):
  """The words of a span, normalized, as one string."""
  return ' '.join(filter(None, map(_normalize_word, re.split('[ -]', span.lower()))))


def _normalize_word(word):
  word = word if _is_number(word) else word.translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', str(float(word)) if _is_number(word) else word).split())


def _is_number(word):
  try:
    float(word)
    return True
  except ValueError:
    return False


def _aligned(predicted, gold):
  """The largest sum of F1 over pairs of bags that have no bag in common."""
  scores = [[_f1(p, g) for p in predicted] for g in gold]
  if len(gold) == 1 or len(predicted) == 1:
    return max(map(max, scores))
  from scipy.optimize import linear_sum_assignment  # it takes long to import, and most answers have a single span

  rows, columns = linear_sum_assignment(scores, maximize=True)
  return float(sum(scores[row][column] for row, column in zip(rows, columns)))


def _f1(predicted, gold):
  numbers = {word for word in gold if _is_number(word)}
  if numbers and not numbers & predicted:
    return 0.0
  common = len(predicted & gold)
  precision, recall = common / len(predicted) if predicted else 1.0, common / len(gold) if gold else 1.0
  return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _best(text, golds):
  """The highest exact match and the highest F1 over the gold answers; each counts by itself."""
  pairs = [metrics(_spans(text, len(gold) > 1), gold) for gold in golds]
  return max(exact for exact, _ in pairs), max(score for _, score in pairs)


def _spans(text, several):
  spans = [span.strip() for span in re.split('[;\n]', text) if span.strip()]
  if len(spans) == 1 and several:
    spans = [span for span in _LIST.split(spans[0]) if span.strip()]
  return spans or [text]


def _golds(item):
  """The gold answers of an item: a list of non-empty lists of spans. Raises ValueError."""
  given = item['answers'] if item.get('answers') else [answers.reference(item)]
  given = [given] if isinstance(given, dict) else given
  more = item.get('validated_answers') or []
  if not isinstance(given, list) or not isinstance(more, list):
    raise ValueError("'answers' and 'validated_answers' of an item for drop_f1 must be lists of gold answers.")
  golds = [_gold(answer) for answer in given + more]
  golds = [gold for gold in golds if gold[0].strip()]  # as in the official script: annotators may leave one empty
  if not golds:
    raise ValueError('an item for drop_f1 has no gold answer that is not empty.')
  return golds


def _gold(answer):
  if isinstance(answer, dict):
    date = answer.get('date') or {}
    answer = (
      answer.get('number') or answer.get('spans') or ' '.join(str(date.get(k, '')) for k in ('day', 'month', 'year'))
    )
  if isinstance(answer, (str, int, float)) and not isinstance(answer, bool):
    return [str(answer)]
  if not isinstance(answer, list) or not answer or not all(isinstance(span, str) for span in answer):
    raise ValueError(
      f'a gold answer of an item for drop_f1 is {str(answer)[:40]!r}; it must be a string, a number, a list of '
      "strings, or an object with 'number', 'spans' or 'date'."
    )
  return answer
