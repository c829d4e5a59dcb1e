"""What keeps a text from being learned from: the paper's filters of stage 3, and those that any such set wants.

The paper drops chains of mixed languages, long paragraphs and code blocks; the thresholds are ours. A row without a
chain, as the paper has them for simple requests, is only looked at for repetition and evaluation problems.
"""

import dataclasses
import functools

import numpy as np

from r1jax import templates
from r1jax.data import reader
from r1jax.recipes import duplicates
from r1jax.rewards.text import form as forms
from r1jax.rewards.text import language, length

# What a sample has of its generation; the rest are the problem's fields. Its 'template' stays: a problem is learned as
# it was asked.
GENERATED = ('prompt', 'response', 'tokens', 'control', 'stop', 'sample', 'reward', 'parts', 'correct', 'part')
# Why a row is dropped, in the order of looking: the first counts. The last four are for `rejection` to see.
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
    paths: JSON Lines, in order.
    sampled: whether they are samples of `experiments.generate`, to be right and in the form.
    limit: rows kept, at most; 0: all.
    kind, language: of rows that name none.
  """

  name: str
  paths: tuple
  sampled: bool
  limit: int = 0
  kind: str = ''
  language: str = ''


@dataclasses.dataclass(frozen=True)
class Found:
  """What was found of one line.

  Attributes:
    reason: '' or one of REASONS.
    detail: what to show of it: an id, what is malformed, or the evaluation problem.
    row: to learn from; None if malformed. chain: whether it holds one.
    held: the evaluation set of the problem that it holds.
    item: for the judge; None where nothing is to be judged.
    problem, text: digests of the problem and of the whole. both: as for `duplicates.Seen`.
  """

  reason: str
  detail: str
  row: dict = None
  chain: bool = False
  held: str = ''
  item: dict = None
  problem: bytes = b''
  text: bytes = b''
  both: np.ndarray = None


class Examiner:
  """Looks at lines one by one.

  Args:
    rules: config.Filters. judged: kinds for a judge to decide. index: contamination.Index whose names are (set, id).
  """

  def __init__(self, rules, judged, index):
    self.rules, self.judged, self.index = rules, judged, index
    self._of_problem = functools.lru_cache(maxsize=16)(self._signature)  # its samples come one after the other

  def __call__(self, source, number, line):
    """Found of a line, bytes, with its number in the source."""
    try:
      item = reader.parse(line)
      _check(item, source, item.get('kind') in self.judged)
    except ValueError as e:
      return Found('malformed', f'line {number}: {e}')
    row, judged = _learned(item, source, number, self.rules.special), item.get('kind') in self.judged
    chain = _chain(row['response'], self.rules)
    reason = ''
    if source.sampled:
      reason = 'wrong' if not judged and not item['correct'] else 'truncated' if item['stop'] == 'length' else ''
    reason = reason or self._fault(row, chain, source.sampled)
    if not reason and (held := self._holds(row)):
      entry, name = held
      return Found('contaminated', f'{row["id"]} holds {name} of {entry}', row, held=entry)
    if reason:
      return Found(reason, row['id'], row)
    problem = problem_text(row)
    both = np.stack([self._signature(row['response']), self._of_problem(problem)]) if self.rules.near else None
    return Found(
      '',
      row['id'],
      row,
      chain is not None,
      '',
      item if source.sampled and judged else None,
      duplicates.digest(problem),
      duplicates.digest(problem, row['response']),
      both,
    )

  def _fault(self, row, chain, sampled):
    """Why the response is no good, or ''."""
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

  def _holds(self, row):
    """(set, id) of an evaluation problem in a text of the row, or None."""
    texts = [row['problem']] if 'problem' in row else [turn['content'] for turn in row['turns']]
    return next(filter(None, map(self.index.holds, [*texts, row['response']])), None)

  def _signature(self, text):
    return duplicates.signature(text, self.rules.near_ngram)


def problem_text(row):
  """What is asked: the problem, or the texts of all turns."""
  return row['problem'] if 'problem' in row else '\n'.join(turn['content'] for turn in row['turns'])


def _check(item, source, judged):
  """Raises ValueError unless the row has what it needs."""
  needs = {'response': str}
  if source.sampled:
    needs |= {'id': str, 'prompt': str, 'sample': int, 'stop': str}
    needs |= {'answer': str} if judged else {'correct': bool}
  for field, kind in needs.items():
    if not isinstance(item.get(field), kind):
      raise ValueError(f'no field {field!r}, or it is no {kind.__name__}')
  turns = item.get('turns')
  if (
    'problem' in item
    and not isinstance(item['problem'], str)
    or 'problem' not in item
    and not (
      isinstance(turns, list)
      and turns
      and all(isinstance(t, dict) and isinstance(t.get('content'), str) for t in turns)
      and turns[-1].get('role') == 'user'
    )
  ):
    raise ValueError("neither 'problem', a text, nor 'turns' that end with the user's")
  if not item['response'].strip() or not problem_text(item).strip():
    raise ValueError('problem or response is empty')
  for field in ('kind', 'language'):
    if not isinstance(item.get(field), str | None):
      raise ValueError(f'field {field!r} is no str')
  if language.declared(item) not in ('', *language.LANGUAGES):
    raise ValueError(f'language {item["language"]!r} is not known')


def _learned(item, source, number, special):
  """The row to learn from: the response whole, also what its prompt began."""
  row = {
    key: value
    for key, value in item.items()
    if key not in (*GENERATED, 'reasoning') and (value is not None or key not in ('kind', 'language'))
  }
  prompt, response = item.get('prompt', '') if source.sampled else '', item['response']
  if isinstance(item.get('reasoning'), str):  # public traces keep the chain apart
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
  """The chain of thought; None where there is none."""
  if rules.form == 'special':
    return response.split(rules.special)[1] if rules.special in response else None
  return templates.parse(response).thinking
