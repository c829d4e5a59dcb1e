"""Filters of rows to train on: those of the paper's stage 3, and the usual ones for any such dataset.

The paper drops chains of thought with mixed languages, long paragraphs or code blocks; the thresholds are our own. A
row without a chain, as the paper has for simple requests, is only checked for repetition and contamination.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from r1jax import templates
from r1jax.data import reader
from r1jax.recipes import duplicates
from r1jax.rewards.text import form as forms
from r1jax.rewards.text import language, length

# Fields of a sample that come from its generation; the others belong to the problem. 'template' stays, so that a
# problem is learned with the prompt that it was sampled with.
GENERATED = ('prompt', 'response', 'tokens', 'control', 'stop', 'sample', 'reward', 'parts', 'correct', 'part')
# Why a row is dropped, in the order of checking; the first reason counts. The last four are decided by `rejection`.
REASONS = (
  'malformed',
  'wrong',
  'truncated',
  'form',
  'empty chain',
  'code',
  'paragraph',
  'repetition',
  'language',
  'contaminated',
  'judge',
  'duplicate',
  'near duplicate',
  'enough',
)


@dataclasses.dataclass(frozen=True)
class Source:
  """A stream of rows.

  Attributes:
    name: of the source.
    paths: JSON Lines files, in order.
    sampled: whether the rows are samples of `experiments.generate`, which must be right and well-formed.
    limit: most rows to keep; 0 is all.
    kind, language: defaults for rows that name none.
  """

  name: str
  paths: tuple
  sampled: bool
  limit: int = 0
  kind: str = ''
  language: str = ''


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of examining one line.

  Attributes:
    reason: one of REASONS; '' if nothing speaks against the row.
    detail: text for the summary: an id, what is malformed, or the evaluation problem.
    row: the row to train on; None if the line is malformed.
    has_chain: whether the response has a chain of thought.
    contaminated_by: the evaluation entry whose problem the row contains.
    item: the sample for the judge; None if it is not to be judged.
    problem_digest, text_digest: digests of the problem, and of problem and response.
    signatures: u32[2, 120], MinHash of response and problem; None without near-duplicate detection.
  """

  reason: str
  detail: str
  row: dict | None = None
  has_chain: bool = False
  contaminated_by: str = ''
  item: dict | None = None
  problem_digest: bytes = b''
  text_digest: bytes = b''
  signatures: np.ndarray | None = None


class Examiner:
  """Examines lines one by one.

  Args:
    rules: config.Filters.
    judged: kinds of problems that a judge decides on.
    index: contamination.Index with names (evaluation entry, problem id).
  """

  def __init__(self, rules, judged, index):
    self.rules, self.judged, self.index = rules, judged, index
    # The samples of a problem follow each other, so a small cache suffices.
    self._problem_signature = functools.lru_cache(maxsize=16)(self._signature)

  def __call__(self, source, number, line):
    """The Finding of a line (bytes) with its number in the source."""
    try:
      item = reader.parse(line)
      _check(item, source, item.get('kind') in self.judged)
    except ValueError as e:
      return Finding('malformed', f'line {number}: {e}')
    row, judged = _make_row(item, source, number, self.rules.special), item.get('kind') in self.judged
    chain = _chain(row['response'], self.rules)
    reason = ''
    if source.sampled:
      reason = 'wrong' if not judged and not item['correct'] else 'truncated' if item['stop'] == 'length' else ''
    reason = reason or self._reject_reason(row, chain, source.sampled)
    if not reason and (match := self._contained_problem(row)):
      entry, name = match
      return Finding('contaminated', f'{row["id"]} contains {name} of {entry}', row, contaminated_by=entry)
    if reason:
      return Finding(reason, row['id'], row)
    problem, signatures = problem_text(row), None
    if self.rules.near:
      signatures = np.stack([self._signature(row['response']), self._problem_signature(problem)])
    return Finding(
      '',
      row['id'],
      row,
      has_chain=chain is not None,
      item=item if source.sampled and judged else None,
      problem_digest=duplicates.digest(problem),
      text_digest=duplicates.digest(problem, row['response']),
      signatures=signatures,
    )

  def _reject_reason(self, row, chain, sampled):
    """Why the response is rejected, one of REASONS; '' if it is not."""
    rules, response = self.rules, row['response']
    if (
      (sampled or chain is not None)
      and rules.form
      and not forms.form([{'prompt': '', 'response': response}], form=rules.form, special=rules.special)[0]
    ):
      return 'form'
    if chain is not None:
      if not length.words(chain):
        return 'empty chain'
      if not rules.code and '```' in chain:
        return 'code'
      if rules.paragraph and max(len(length.words(line)) for line in chain.split('\n')) > rules.paragraph:
        return 'paragraph'
    if rules.repetition and -length.repetition([row], n=rules.repetition_ngram)[0] > rules.repetition:
      return 'repetition'
    if chain is not None and rules.language:
      item = {
        'response': templates.THINK + chain + templates.THINK_END,
        'problem': problem_text(row),
        'language': row.get('language', ''),
      }
      if language.language([item])[0] < rules.language:
        return 'language'
    return ''

  def _contained_problem(self, row):
    """(entry, id) of an evaluation problem that one of the row's texts contains, or None."""
    texts = [row['problem']] if 'problem' in row else [turn['content'] for turn in row['turns']]
    return next(filter(None, map(self.index.find, [*texts, row['response']])), None)

  def _signature(self, text):
    return duplicates.signature(text, self.rules.near_ngram)


def problem_text(row):
  """The problem of a row, or the texts of all its turns."""
  return row['problem'] if 'problem' in row else '\n'.join(turn['content'] for turn in row['turns'])


def _check(item, source, judged):
  """Raises ValueError if the row lacks a field or has one of the wrong type."""
  fields = {'response': str}
  if source.sampled:
    fields |= {'id': str, 'prompt': str, 'sample': int, 'stop': str}
    fields |= {'answer': str} if judged else {'correct': bool}
  for field, required_type in fields.items():
    if not isinstance(item.get(field), required_type):
      raise ValueError(f'field {field!r} is missing or not of type {required_type.__name__}')
  turns = item.get('turns')
  if ('problem' in item and not isinstance(item['problem'], str)) or (
    'problem' not in item
    and not (
      isinstance(turns, list)
      and turns
      and all(isinstance(t, dict) and isinstance(t.get('content'), str) for t in turns)
      and turns[-1].get('role') == 'user'
    )
  ):
    raise ValueError("has neither a text 'problem' nor 'turns' that end with a user turn")
  if not item['response'].strip() or not problem_text(item).strip():
    raise ValueError('problem or response is empty')
  for field in ('kind', 'language'):
    if not isinstance(item.get(field), str | None):
      raise ValueError(f'field {field!r} is not of type str')
  if language.declared(item) not in ('', *language.LANGUAGES):
    raise ValueError(f'language {item["language"]!r} is unknown')


def _make_row(item, source, number, special) -> dict[str, Any]:
  """The row to train on; its response includes the part that the prompt began, such as an opening think tag."""
  row = {
    key: value
    for key, value in item.items()
    if key not in (*GENERATED, 'reasoning') and (value is not None or key not in ('kind', 'language'))
  }
  prompt, response = item.get('prompt', '') if source.sampled else '', item['response']
  if isinstance(item.get('reasoning'), str):  # public traces have the chain in a separate field
    response = f'{templates.THINK}\n{item["reasoning"].strip()}\n{templates.THINK_END}\n\n{response.strip()}'
  opened = special if templates.opens_thinking(prompt, special) else ''
  row |= {
    'id': f'{item["id"]}/{item["sample"]}' if source.sampled else str(item.get('id', f'{source.name}/{number}')),
    'response': opened + templates.completed(prompt, response),
    'source': source.name,
  }
  return row | {
    key: row.get(key) or getattr(source, key) for key in ('kind', 'language') if row.get(key) or getattr(source, key)
  }


def _chain(response, rules):
  """The chain of thought of a response; None if it has none."""
  if rules.form == 'special':
    return response.split(rules.special)[1] if rules.special in response else None
  return templates.parse(response).thinking
