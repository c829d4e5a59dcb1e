"""Groups the responses to a problem by their answers, for majority voting over samples (cons@k).

A response votes for the answer that its reward finds in it (`rewards.VOTES`), with white space stripped and runs of it
inside collapsed to one space. For a reward without such a rule it votes for the text of its answer tags or box, or else
for everything after the thinking. A response does not vote if the reward finds no answer, or if it contradicts its own
answer later.

Equal texts are one vote. For the rewards in `rewards.MERGED`, so are texts that the reward judges equal, such as 0.5
and \\frac{1}{2}. That relation is not always transitive (1/3 equals 0.333333 and 0.33333333, which differ from each
other), so texts are not chained. Instead they are taken from the most to the least common, ties in order of first
appearance. Each joins the first group whose leader (the text that founded the group) the reward judges equal to it,
with either of the two as the reference; otherwise it founds a group. A comparison that exceeds the grader's time limit
counts as not equal. After _LEADERS groups nothing more is merged, which bounds the number of comparisons when all
samples differ; by then only rare texts are left.
"""

import collections

from r1jax import rewards
from r1jax.rewards import answers

_LEADERS = 16
_TEXT = 1 << 20  # longest answer that is compared as text, in characters


def groups(problems, reward, options=None, grader=None, part=None):
  """Groups the responses to each problem by their answers.

  Args:
    problems: list with the list of items of each problem, as for grading (see `r1jax.rewards`).
    reward: the reward that decides what the answer is: a key of rewards.REWARDS; with any other name answers are
      compared as texts.
    options: options of that reward.
    grader: pool.Grader that has the reward as a part; its workers compare texts that are not identical, under their
      time limit. None: only identical texts are grouped.
    part: name of that part in the grader; None: the name of the reward.

  Returns:
    for each problem a list with one int per item: the group it votes for, numbered from 0 in the order of the groups'
    first members, or -1 if it does not vote.

  Raises:
    pool.GradeError: the workers cannot continue.
  """
  polls = [_Poll(items, [answer_text(item, reward, options) for item in items]) for items in problems]
  if reward in rewards.MERGED and grader is not None:
    equal = _Judge(grader, part or reward)
    _drop_contradicted(polls, equal)
    _merge(polls, equal)
  return [poll.numbers() for poll in polls]


def answer_text(item, reward, options=None):
  """The text that a response votes for, None if it has no answer. reward, options: as for `groups`."""
  return _collapse_spaces(rewards.VOTES.get(reward, _text)(item, **options or {}))


class _Poll:
  """The items of one problem, the text that each votes for (or None), and a dict from text to its group's leader."""

  def __init__(self, items, texts):
    self.items, self.texts, self.leader = items, texts, {}

  def example(self, text):
    return self.items[self.texts.index(text)]

  def numbers(self):
    leaders = [None if text is None else self.leader.get(text, text) for text in self.texts]
    indices = {leader: i for i, leader in enumerate(dict.fromkeys(x for x in leaders if x is not None))}
    return [indices.get(leader, -1) for leader in leaders]


class _Judge:
  """Decides whether responses are correct if other texts were the reference answers: [(item, text)] -> list of bool."""

  def __init__(self, grader, part):
    self._grader, self._part = grader, part

  def __call__(self, pairs):
    items = [item | {'answer': text} for item, text in pairs]
    return [score == 1 for score in self._grader.submit(items, [[self._part]] * len(items)).result().parts[self._part]]


def _drop_contradicted(polls, equal):
  """Removes the votes of responses that are graded wrong even with their own answer as the reference."""
  votes = [(poll, row) for poll in polls for row, text in enumerate(poll.texts) if text is not None]
  for (poll, row), correct in zip(votes, equal([(p.items[r], p.texts[r]) for p, r in votes]), strict=True):
    if not correct:
      poll.texts[row] = None


def _merge(polls, equal):
  """Sets the leaders. Each round compares one leader per problem, for all problems in the same submissions."""
  remaining = [
    (poll, [text for text, _ in collections.Counter(t for t in poll.texts if t is not None).most_common()])
    for poll in polls
  ]
  for _ in range(_LEADERS):
    remaining = [(poll, texts) for poll, texts in remaining if len(texts) > 1]
    pairs = [(poll, texts[0], other) for poll, texts in remaining for other in texts[1:]]
    forward = equal([(poll.example(other), leader) for poll, leader, other in pairs])
    backward = equal([(poll.example(leader), other) for poll, leader, other in pairs])
    for (poll, leader, other), *equal_either_way in zip(pairs, forward, backward, strict=True):
      if any(equal_either_way):
        poll.leader[other] = leader
    remaining = [(poll, [text for text in texts[1:] if text not in poll.leader]) for poll, texts in remaining]


def _collapse_spaces(text):
  return ' '.join((text or '').split()) or None


def _text(item, **_):
  """The text that a response votes for when the reward has no rule for what the answer is."""
  answer = answers.find(item, 'both', limit=_TEXT).text
  return answers.find(item, 'summary', limit=_TEXT).text if answer is None else answer
