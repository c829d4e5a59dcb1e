"""Cold-start data (DeepSeek-R1, section 2.3.1): responses with a long, readable chain of thought and a summary.

The paper's ways, each a function of a policy and problems, that gives rows to learn from:

- few_shot: prompts with a long chain as an example;
- direct: asks for answers with reflection and verification;
- readable: takes what R1-Zero writes, keeps what can be read, mends it by rule and appends a summary;
- rewrite: has a model make a draft readable, such as the rows of another way.

A policy is a function from problems and a template to graded samples, `recipes.policy.Policy` for one. People's
post-processing is left to people.
"""

import collections
import dataclasses
import re

from r1jax import rewards, templates
from r1jax.config import require
from r1jax.recipes import wordings
from r1jax.recipes.policy import REFUSED
from r1jax.rewards.text import length
from r1jax.sampling.engine import LENGTH

# The fields of a sample that a row does not keep.
_OF_SAMPLES = (
  'prompt',
  'tokens',
  'control',
  'stop',
  'sample',
  'reward',
  'parts',
  'correct',
  'draft',
  'template',
  'reasoning',
)
_REPEATS = 20  # words of an n-gram that counts as repeated


@dataclasses.dataclass(frozen=True)
class Rules:
  """What a row must be like. Numbers are ours.

  Attributes:
    layout: of the response, with the places {thinking} and {summary}.
    wording: a key of wordings.WORDINGS.
    keep: rows of one problem at most.
    language: least share of the words, of the chain and of the summary, in the problem's language.
    shortest, longest: characters of the chain; 0 for no longest.
    repetition: largest share of the chain's 20-grams that have occurred in it before.
    paragraph: characters over which a paragraph of the chain is broken up at ends of sentences; 0: never.
  """

  layout: str = '<think>\n{thinking}\n</think>\n\n{summary}'
  wording: str = 'text'
  keep: int = 1
  language: float = 0.95
  shortest: int = 0
  longest: int = 0
  repetition: float = 0.2
  paragraph: int = 0


def prompt(way, wording, *, chat=True, shots=1, examples=(), template='r1_zero'):
  """What a way asks: a template, or what has its `format` and `chat`. Examples are shown outside any chat.

  Raises ConfigError for an unknown template, or more shots than there are examples.
  """
  if way == 'readable':
    require(template in templates.TEMPLATES, f'template is {template!r}; known: {", ".join(templates.TEMPLATES)}.')
    return templates.TEMPLATES[template]
  known = len(examples) or min(len(each.examples) for each in wordings.WORDINGS[wording].values())
  require(way != 'few_shot' or shots <= known, f'{shots} shots, but there are {known} examples; give more in a file.')
  return wordings.Prompt(way, wording, chat and way != 'few_shot', shots, examples)


def few_shot(policy, problems, rules, *, shots=1, examples=()):
  """Rows, and {reason: samples dropped}, of a policy shown examples. Its rollout should stop at `wordings`' ends."""
  asked = prompt('few_shot', rules.wording, shots=shots, examples=examples)
  return rows(policy(problems, asked), 'few_shot', rules)


def direct(policy, problems, rules, *, chat=True):
  """The same of a policy asked for reflection and verification."""
  return rows(policy(problems, prompt('direct', rules.wording, chat=chat)), 'direct', rules)


def readable(policy, problems, rules, *, template='r1_zero'):
  """The same of R1-Zero, asked as it was trained."""
  return rows(policy(problems, prompt('readable', rules.wording, template=template)), 'readable', rules)


def rewrite(policy, drafts, rules, *, chat=True):
  """The same of a policy that rewrites; drafts: problems with 'draft' (see `draft`)."""
  return rows(policy(drafts, prompt('rewrite', rules.wording, chat=chat)), 'rewrite', rules)


def rows(samples, way, rules):
  """Rows and {reason: how many samples were dropped for it}; samples: in the order of their problems."""
  dropped = collections.Counter()
  return list(each(samples, way, rules, dropped)), dict(dropped)


def each(samples, way, rules, dropped, source=''):
  """Yields the row of each sample that can be one; adds to the Counter `dropped` why the others cannot.

  Args:
    source: the rows' 'source'; '' is the way.

  A row has 'id', 'problem', 'response', 'source', 'language', and the other fields of the problem. Of one problem the
  first `rules.keep` are taken, none twice.
  """
  problem, seen = None, set()
  for sample in samples:
    if sample['id'] != problem:
      problem, seen = sample['id'], set()
    row, why = _row(sample, way, rules, source or way)
    if not why:
      why = 'duplicate' if row['response'] in seen else 'more' if len(seen) >= rules.keep else ''
    if why:
      dropped[why] += 1
      continue
    seen.add(row['response'])
    yield row


def draft(row, rules):
  """A row as a problem to `rewrite`: its chain stands in 'draft'."""
  before, between, _ = _pieces(rules.layout)
  thinking = row['response'][len(before) :].partition(between.strip() or between)[0].strip()
  return {k: v for k, v in row.items() if k not in ('response', 'source')} | {'draft': thinking}


def trace(row):
  """A row with the fields 'reasoning' and 'response' as a sample of one: its response thinks in think tags."""
  text = f'{templates.THINK}{row["reasoning"]}{templates.THINK_END}\n\n{row["response"]}'
  return row | {'prompt': '', 'response': text, 'sample': 0, 'stop': 'eos', 'tokens': 0}


def _pieces(layout):
  before, _, rest = layout.partition('{thinking}')
  between, _, after = rest.partition('{summary}')
  return before, between, after


def _row(sample, way, rules, source):
  """(row, '') or (None, why there is none)."""
  if sample['stop'] in (LENGTH, REFUSED):
    return None, 'unfinished'
  if not sample['correct']:
    return None, 'wrong'
  wording = wordings.wording_of(rules.wording, sample)
  found = _read(templates.completed(sample['prompt'], sample['response']), way, wording)
  if not found:
    return None, 'form'
  thinking, summary = clean(found[0], rules.paragraph), found[1].strip()
  target = wordings.language_of(sample)
  why = _fault(thinking, summary, target, rules)
  if why:
    return None, why
  kept = {k: v for k, v in sample.items() if k not in _OF_SAMPLES}
  response = wordings.fill(rules.layout, thinking=thinking, summary=summary)
  return kept | {
    'id': f'{sample["id"]}/{source}/{sample["sample"]}',
    'language': target,
    'source': source,
    'response': response,
  }, ''


def _read(text, way, wording):
  """(thinking, summary) of a response, or None where it is not of the form that was asked for."""
  if way == 'few_shot':
    text = _cut(text, wording.ends)
  if way == 'readable' and templates.parse(text).well_formed:
    parsed = templates.parse(text)
    return (parsed.thinking, _summary(parsed.answer, wording)) if parsed.answer.strip() else None
  if not all(templates.r1_conditions(text).values()):
    return None
  return templates.parse(text).thinking, templates.summary(text)


def _cut(text, ends):
  """The text up to the first of `ends` in its summary."""
  at = text.find(templates.THINK_END)
  found = [text.find(end, at) for end in ends if at >= 0]
  return text[: min((n for n in found if n >= 0), default=len(text))]


def _summary(answer, wording):
  """What is appended to a chain of R1-Zero: its answer, said. The toy's tags keep an answer's spaces."""
  if templates.ANSWER in wording.summary:
    return wordings.fill(wording.summary, answer=answer)
  answer = answer.strip()
  if '\\boxed' not in answer and '\n' not in answer:
    answer = f'\\boxed{{{answer}}}'
  return wordings.fill(wording.summary, answer=answer if '\n' not in answer else f'\n\n{answer}')


def _fault(thinking, summary, target, rules):
  """Why a chain and its summary are not fit to learn from; '' where they are."""
  if not thinking or not summary:
    return 'form'
  if len(thinking) < rules.shortest:
    return 'short'
  if rules.longest and len(thinking) > rules.longest:
    return 'long'
  if -length.repetition([{'response': thinking}], n=_REPEATS)[0] > rules.repetition:
    return 'repetition'
  known = target in rewards.language.LANGUAGES
  span = templates.answer_span(summary)  # the answer itself may be a name, or a program
  said = summary[: span[0]] + summary[span[1] :] if span else summary
  if known and min(rewards.language_consistency(text, target) for text in (thinking, said)) < rules.language:
    return 'language'
  return ''


_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f]')
_SENTENCE = re.compile(r'(?<=[.!?])[ \t]+|(?<=[。！？])')


def clean(text, paragraph=0):
  """A chain made easier to read, by rule; none changes what it says.

  Ends of lines are one character, control characters go, spaces are single but for those that indent, blank lines
  too; of lines that repeat the one before, one stays; paragraphs of over `paragraph` characters are broken up at ends
  of sentences, but not within mathematics between dollar signs, nor a block of code.
  """
  text = _CONTROL.sub('', text.replace('\r\n', '\n').replace('\r', '\n'))
  lines = []
  for line in text.split('\n'):
    line = re.sub(r'(?<=\S)[ \t]{2,}', ' ', line.rstrip())
    said = next((one for one in reversed(lines) if one), None)
    if line and line == said and any(c.isalnum() for c in line) or not line and lines and not lines[-1]:
      continue
    lines.append(line)
  text = '\n'.join(lines).strip()
  if not paragraph or '```' in text:
    return text
  return '\n\n'.join(piece for one in text.split('\n\n') for piece in _broken(one, paragraph))


def _broken(text, size):
  """A paragraph in pieces of whole sentences, each of `size` characters or one sentence."""
  if len(text) <= size:
    return [text]
  sentences = ['']
  for part in _SENTENCE.split(text):  # mathematics is not broken: its dollars come in pairs
    if sentences[-1].count('$') % 2:
      sentences[-1] += _apart(sentences[-1]) + part
    else:
      sentences.append(part)
  pieces = ['']
  for sentence in sentences:
    longer = pieces[-1] + _apart(pieces[-1]) + sentence
    if pieces[-1] and len(longer) > size:
      pieces.append(sentence)
    else:
      pieces[-1] = longer
  return pieces


def _apart(text):
  """What stands behind the sentence that ends `text`."""
  return ' ' if text[-1:] in ('.', '!', '?') else ''
