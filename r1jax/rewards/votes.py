"""Which responses to a problem give the same answer? For a majority vote over samples (cons@k).

A response votes for the answer that its reward finds in it (`rewards.VOTES`), without the white space around and with
any run of it inside as one space; for a reward without a rule of its own, for the text of its answer tags or box, or
else for all that follows its thinking. It does not vote where the reward finds no answer, or one that the response
itself contradicts later.

Equal texts are one vote. For the rewards of `rewards.MERGED` so are texts that the reward takes for equal, as 0.5 and
\\frac{1}{2}. That relation is not always transitive (1/3 = 0.333333, and 0.3333333 is another decimal), so texts are
not chained: they are taken from the commonest to the rarest, of equally common ones the earlier first, and each joins
the first group whose leader, the text that founded it, the reward takes it for, with either of the two as the
reference; else it founds a group. A comparison that overruns the grader's time limit counts as no. After _LEADERS
groups nothing more is merged, which bounds the comparisons where all samples differ: only rare texts are left then.
"""

import collections

from r1jax import rewards
from r1jax.rewards import answers

_LEADERS = 16
_TEXT = 1 << 20  # characters of an answer that is compared as text


def groups(problems, reward, options=None, grader=None, part=None):
  """Groups the responses to each problem by their answers.

  Args:
    problems: of each problem a list of its items, as for grading (see `r1jax.rewards`).
    reward: what decides on answers: a key of rewards.REWARDS, or any other name for answers compared as texts.
    options: of that reward.
    grader: pool.Grader that has the reward as a part: what is no equal text is compared by its workers, under their
      limits. None: texts only.
    part: the name of that part; None: that of the reward.

  Returns:
    of each problem a list with a number for each item: the group that it votes for, numbered from 0 in the order of
    their first members, or -1 where it does not vote.

  Raises:
    pool.GradeError: the workers cannot go on.
  """
  vote = rewards.VOTES.get(reward, _text)
  polls = [_Poll(items, [_normal(vote(item, **options or {})) for item in items]) for items in problems]
  if reward in rewards.MERGED and grader is not None:
    equal = _Asker(grader, part or reward)
    _drop_contradicted(polls, equal)
    _merge(polls, equal)
  return [poll.numbers() for poll in polls]


class _Poll:
  """The items of one problem, the text that each votes for or None, and text -> the leader of its group."""

  def __init__(self, items, texts):
    self.items, self.texts, self.leader = items, texts, {}

  def example(self, text):
    return self.items[self.texts.index(text)]

  def numbers(self):
    found = [None if text is None else self.leader.get(text, text) for text in self.texts]
    places = {leader: place for place, leader in enumerate(dict.fromkeys(f for f in found if f is not None))}
    return [places.get(leader, -1) for leader in found]


class _Asker:
  """Asks whether responses are right where given texts are the reference answers: [(item, text)] -> list of bool."""

  def __init__(self, grader, part):
    self._grader, self._part = grader, part

  def __call__(self, pairs):
    items = [item | {'answer': text} for item, text in pairs]
    return [score == 1 for score in self._grader.submit(items, [[self._part]] * len(items)).result().parts[self._part]]


def _drop_contradicted(polls, equal):
  """Takes the vote of responses that are wrong even if their own answer is the reference."""
  votes = [(poll, row) for poll in polls for row, text in enumerate(poll.texts) if text is not None]
  for (poll, row), right in zip(votes, equal([(p.items[r], p.texts[r]) for p, r in votes]), strict=True):
    if not right:
      poll.texts[row] = None


def _merge(polls, equal):
  """Sets the leaders. One submission for each leader, over all problems."""
  left = [
    (poll, [text for text, _ in collections.Counter(t for t in poll.texts if t is not None).most_common()])
    for poll in polls
  ]
  for _ in range(_LEADERS):
    left = [(poll, texts) for poll, texts in left if len(texts) > 1]
    pairs = [(poll, texts[0], other) for poll, texts in left for other in texts[1:]]
    there = equal([(poll.example(other), leader) for poll, leader, other in pairs])
    back = equal([(poll.example(leader), other) for poll, leader, other in pairs])
    for (poll, leader, other), *same in zip(pairs, there, back, strict=True):
      if any(same):
        poll.leader[other] = leader
    left = [(poll, [text for text in texts[1:] if text not in poll.leader]) for poll, texts in left]


def _normal(text):
  return ' '.join((text or '').split()) or None


def _text(item, **_):
  """What a response votes for by a reward that has no rule of its own."""
  found = answers.find(item, 'both', limit=_TEXT).text
  return answers.find(item, 'summary', limit=_TEXT).text if found is None else found
