"""A model compares responses with reference responses, as in AlpacaEval and Arena-Hard.

Only summaries are compared, the texts after the thinking. The judge sees each pair in both orders and gives a verdict
without ties being forced: A, B or TIE. A response wins, or loses, if both orders say so; where they disagree it is a
tie, because a judge that prefers a position has no opinion. (AlpacaEval asks once, in random order; Arena-Hard asks in
both orders, on a scale of five.) The prompt is ours. `questions` says how the judged texts are kept from giving the
verdict.

`r1jax.rewards.scores.length_controlled` turns the verdicts into a length-controlled win rate.
"""

import dataclasses

from r1jax.config import require
from r1jax.rewards.neural import judge, questions

QUESTION = questions.Question(
  'Decide which of two responses to a request is better.',
  'The better response does what the request asks for, correctly, completely and clearly. Neither length nor style '
  'makes a response better by itself, nor does the order in which the two are shown. If neither is better, it is a '
  'tie.',
  {'a': 1.0, 'b': 0.0, 'tie': 0.5},
  'Compare the two briefly',
)
_OUTCOMES = {1.0: 'win', 0.5: 'tie', 0.0: 'loss'}


def pairwise(items, complete, *, limit=20_000):
  """Compares the response of each item with its reference.

  Args:
    items: list of dicts with 'prompt', 'response', 'problem', and 'reference', the other response; if that contains
      thinking, only its summary is compared, too.
    complete: the model, see `judge`.
    limit: characters; a longer response is not shown to the judge and loses.

  Returns:
    list of dicts, one per item, with
    - 'score': 1.0, 0.5 or 0.0;
    - 'grade': 'win', 'tie' or 'loss'. 'loss' without a question to the judge, if the response has no summary or is too
      long. 'unreadable' or 'refused' if the judge gave no verdict in one of the orders; the score is then 0;
    - 'reason': the grade, 'orders disagree', 'no summary' or 'too long';
    - 'length_difference': characters of the response's summary minus those of the reference's;
    - 'votes': the verdicts as the judge gave them, with the response as A and then as B; and 'raw', the ends of the
      judge's texts.

  Raises:
    ConfigError: a bad limit. ValueError: a reference that is no text, has no summary or is too long. Also whatever
    `complete` raises.
  """
  require(limit >= 1, f'limit {limit} must be positive.')
  references = [reference(item, limit) for item in items]
  shown = [questions.shown(item, 'summary', limit) for item in items]
  pairs = [(item['problem'], text, other) for item, (text, _), other in zip(items, shown, references) if text]
  chats = [
    QUESTION.chat({'Request': problem, 'Response A': a, 'Response B': b})
    for problem, text, other in pairs
    for a, b in ((text, other), (other, text))
  ]
  answers = QUESTION.ask(complete, chats)
  verdicts = iter([_outcome(*both) for both in zip(answers[::2], answers[1::2], strict=True)])
  results = [
    (judge.unasked(reason) | {'grade': 'loss'} if text is None else next(verdicts))
    | {'length_difference': len(text or '') - len(other)}
    for (text, reason), other in zip(shown, references)
  ]
  return judge.log_failures(results)


def reference(item, limit=20_000):
  """The text that the response of an item is compared with. Raises ValueError, also if it is longer than `limit`."""
  if not isinstance(item['reference'], str):
    raise ValueError(f"the item's 'reference' is {str(item['reference'])[:40]!r}; it must be a text.")
  text, reason = questions.shown({'prompt': '', 'response': item['reference']}, 'summary', limit)
  if text is None:
    raise ValueError(f"the item's 'reference' cannot be compared with: {reason}.")
  return text


def _outcome(first, second):
  """The verdict from the answers of the two orders, each ([verdict], [end of the judge's text])."""
  votes, raw = first[0] + second[0], first[1] + second[1]
  missing = [word for word in votes if word not in QUESTION.scores]
  if missing:
    return {'score': 0.0, 'reason': missing[0], 'grade': missing[0], 'votes': votes, 'raw': raw}
  score, swapped = QUESTION.scores[votes[0]], 1 - QUESTION.scores[votes[1]]
  agreed = score == swapped
  grade = _OUTCOMES[score] if agreed else 'tie'
  return {
    'score': score if agreed else 0.5,
    'reason': grade if agreed else 'orders disagree',
    'grade': grade,
    'votes': votes,
    'raw': raw,
  }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pairwise(judge.Asking):
  """The comparison as a reward: a function from items to 1.0 (win), 0.5 or 0.0. The options are those of any judge."""

  def _judge(self, items):
    return pairwise(items, self._complete, limit=self.limit)
