"""Samples responses, and cuts those that reflect before their first reflection: into what the model answers there, and
into how it goes on without it. Token ids are kept as they were sampled.
"""

from typing import NamedTuple

import numpy as np

from r1jax import keys, templates
from r1jax.data import process
from r1jax.evaluation.runner import number_votes
from r1jax.rewards import mix
from r1jax.rollout.prompts import grading_item
from r1jax.sampling import SamplingParams

TOGETHER = 8  # parts of responses that are run at a time, and of which a multiple is sampled


def places(tokenizer, ids, characters):
  """For each character of a response's text, how many tokens lie wholly before it, and their characters.

  A token that ends a character begun by the one before it counts with it.

  Args:
    ids: of the response. characters: ascending list of int.

  Returns:
    list of (tokens, characters).
  """
  ends = np.cumsum([0, *(len(piece) for _, piece in zip(ids, tokenizer.pieces(ids)))])
  out = []
  for at in characters:
    length = ends[ends <= at].max()
    out.append((int(np.argmax(ends == length)), int(length)))
  return out


def reflects_at_once(text, start):
  """Whether a text reflects from a character on, before any letter or digit."""
  first = next((at for at in templates.find_reflections(text) if at >= start), None)
  return first is not None and not any(c.isalnum() for c in text[start:first])


class Cut(NamedTuple):
  """A response up to its first reflection.

  Attributes:
    row: its number among the rows. item: of the whole response. prompt: ids.
    ids, text: what is left of the response.
  """

  row: int
  item: dict
  prompt: list
  ids: list
  text: str


class Cuts:
  """Rows of `evaluation.reflection`, of one model.

  Args:
    cfg: config.Reflection.
    sampler: rollout.Sampler of whole responses.
    answering, continuing: sampling.Engine that ends a cut response with an answer, and one that goes on with it.
  """

  def __init__(self, cfg, sampler, answering, continuing):
    self.cfg, self.sampler, self.answering, self.continuing = cfg, sampler, answering, continuing
    self.tokenizer = sampler.tokenizer

  def rows(self, weights, problems, number, chosen, key):
    """The rows of rollout.samples responses to each problem.

    Args:
      weights: as the engines sample with. number: of the first problem in the study.
      chosen: SamplingParams. key: PRNG key of the study.
    """
    samples, limit = self.cfg.rollout.samples, self.cfg.rollout.max_response
    drawn, pending = self.sampler.start(weights, problems, samples, keys.fold_in(key, 0), chosen, number=number)
    rows, found = [], []
    for i, item in enumerate(drawn.items):
      p, g = divmod(i, samples)
      ids = drawn.batch.tokens[p, g, : drawn.batch.lengths[p, g]].tolist()
      at = places(self.tokenizer, ids, templates.find_reflections(item['response']))
      rows.append(self._row(item, g, ids, str(drawn.batch.stop[p, g]), at))
      if at:
        prompt = drawn.batch.prompts[p, : drawn.batch.prompt_lengths[p]].tolist()
        found.append(Cut(i, item, prompt, ids[: at[0][0]], item['response'][: at[0][1]]))
    for row, correct in zip(rows, mix.right(pending.result().parts, self.cfg.reward, drawn.items)):
      row['correct'] = bool(correct)
    if found:
      first = number * samples
      keys_of_all = keys.row_keys(keys.fold_in(key, 1), first + len(rows), self.cfg.tries)
      own = keys_of_all[np.array([first + cut.row for cut in found])]
      answers = self._answers(weights, found, own[:, :1])
      continued = self._continued(weights, found, own, chosen, limit)
      self._grade(rows, drawn.items, found, answers, continued)
    return rows

  def _row(self, item, sample, ids, stop, at):
    return {
      'id': item['id'],
      'sample': sample,
      'response': item['response'],
      'tokens': len(ids),
      'stop': stop,
      'steps': len(process.spans(item['response'], self.cfg.steps)),
      'at': [tokens for tokens, _ in at],
    }

  def _answers(self, weights, found, own_keys):
    """What the model answers where each Cut is: items to grade."""
    forced = [self.tokenizer.encode(self._opening(cut)) for cut in found]
    prompts = [[*cut.prompt, *cut.ids, *ids] for cut, ids in zip(found, forced)]
    answers = self._sample(self.answering, weights, prompts, own_keys, SamplingParams(0.0))
    return [self._item(cut, [*cut.ids, *ids, *answer[0][0]]) for cut, ids, answer in zip(found, forced, answers)]

  def _opening(self, cut):
    whole = templates.completed(cut.item['prompt'], cut.text)
    return ('' if templates.summary_start(whole) is not None else self.cfg.closing) + self.cfg.opening

  def _continued(self, weights, found, own_keys, chosen, limit):
    """For each Cut the first continuation that does not reflect at once, as an item to grade; or None."""
    prompts = [[*cut.prompt, *cut.ids] for cut in found]
    out = []
    for cut, tries in zip(found, self._sample(self.continuing, weights, prompts, own_keys, chosen)):
      items = (self._item(cut, [*cut.ids, *ids][:limit]) for ids, _ in tries)
      out.append(next((item for item in items if not reflects_at_once(item['response'], len(cut.text))), None))
    return out

  def _sample(self, engine, weights, prompts, own_keys, chosen):
    """For each prompt a list of (ids, why they end), one for each of its keys [P, G]."""
    fill = -len(prompts) % TOGETHER  # so that another number of them does not compile other programs
    rows = np.array([*range(len(prompts)), *[0] * fill])
    batch = engine.sample(weights, [prompts[i] for i in rows], own_keys[rows], chosen)
    return [
      [(ids[:n].tolist(), str(stop)) for ids, n, stop in zip(batch.tokens[i], batch.lengths[i], batch.stop[i])]
      for i in range(len(prompts))
    ]

  def _item(self, cut, ids):
    text, control = self.tokenizer.response(ids)
    problem = {name: x for name, x in cut.item.items() if name not in ('response', 'prompt', 'tokens', 'control')}
    return grading_item(problem, cut.item['prompt'], text, control, len(ids))

  def _right(self, items):
    if not items:
      return []
    scores = self.sampler.grader.submit(items, mix.weights(items, self.cfg.reward)).result()
    return [bool(x) for x in mix.right(scores.parts, self.cfg.reward, items)]

  def _grade(self, rows, whole, found, answers, continued):
    """Adds to the rows of the Cuts what became of them. whole: items of all rows."""
    right = self._right(answers)
    pairs = [item for cut, answer in zip(found, answers) for item in (answer, whole[cut.row])]
    voted = number_votes(pairs, 2, self.cfg.reward, self.sampler.grader)
    for n, (cut, item) in enumerate(zip(found, answers)):
      before, after = voted[2 * n : 2 * n + 2]
      same = None if before is None or after is None else before == after
      rows[cut.row]['answered'] = {'correct': right[n], 'same': same, 'text': item['response'][len(cut.text) :]}
      rows[cut.row]['continued'] = None
    kept = [(cut, item) for cut, item in zip(found, continued) if item is not None]
    for (cut, item), correct in zip(kept, self._right([item for _, item in kept])):
      text = item['response'][len(cut.text) :]
      rows[cut.row]['continued'] = {'correct': correct, 'tokens': item['tokens'], 'text': text}
