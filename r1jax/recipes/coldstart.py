"""Cold-start data (DeepSeek-R1, section 2.3.1): responses with a long, readable chain of thought and a summary.

The paper collects them in several ways, each of which is a prompt (`make_prompt`) and a filter of the graded samples
(`select_rows`):

- few_shot: prompts with a long chain of thought as an example;
- direct: prompts that ask for reflection and verification;
- readable: responses of R1-Zero, of which the readable ones are kept, cleaned by rule and given a summary;
- rewrite: a model rewrites a draft, such as a row from another way, to be readable.

A further way, traces, takes existing responses of other models. The paper's post-processing by human annotators is not
reproduced.
"""

import dataclasses
import re

from r1jax import rewards, templates
from r1jax.batch import LENGTH
from r1jax.config import require
from r1jax.recipes import wordings
from r1jax.recipes.policy import REFUSED
from r1jax.rewards.text import length

# Fields of a sample that are not copied to its row.
_SAMPLE_FIELDS = (
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
_REPETITION_NGRAM = 20  # words


@dataclasses.dataclass(frozen=True)
class Rules:
  """Requirements on a row, and its format. The paper gives no numbers; these are our own.

  Attributes:
    layout: format of the response, with the placeholders {thinking} and {summary}.
    wording: a key of wordings.WORDINGS.
    keep: most rows per problem.
    language: least share of words in the problem's language, in the chain of thought and in the summary.
    shortest, longest: characters of the chain; longest 0 is no limit.
    repetition: largest share of the chain's 20-grams that have occurred in it before.
    paragraph: paragraphs of the chain of more characters are split at ends of sentences; 0 is never.
  """

  layout: str = '<think>\n{thinking}\n</think>\n\n{summary}'
  wording: str = 'text'
  keep: int = 1
  language: float = 0.95
  shortest: int = 0
  longest: int = 0
  repetition: float = 0.2
  paragraph: int = 0


def make_prompt(way, wording, *, chat=True, shots=1, examples=(), template='r1_zero'):
  """The prompt template of a way: a templates.Template, or a wordings.Prompt, which has the same `format` and `chat`.

  Args:
    way: 'few_shot', 'direct', 'readable' or 'rewrite'.
    wording: a key of wordings.WORDINGS.
    chat: whether to use the model's chat template; few_shot never does.
    shots: for few_shot, the number of examples in a prompt.
    examples: for few_shot, the examples to choose from; () takes those of the wording.
    template: for readable, a key of templates.TEMPLATES.

  Raises:
    ConfigError: the template is unknown, or there are fewer examples than shots.
  """
  if way == 'readable':
    require(template in templates.TEMPLATES, f'template is {template!r}; known: {", ".join(templates.TEMPLATES)}.')
    return templates.TEMPLATES[template]
  available = len(examples) or min(len(each.examples) for each in wordings.WORDINGS[wording].values())
  require(
    way != 'few_shot' or shots <= available,
    f'shots is {shots}, but there are only {available} examples; set examples to a file with more.',
  )
  return wordings.Prompt(way, wording, chat and way != 'few_shot', shots, examples)


def select_rows(samples, way, rules, dropped, source=''):
  """Yields a row to train on for each sample that satisfies the rules.

  A row has 'id', 'problem', 'response', 'source', 'language', and the other fields of the problem. Of each problem the
  first `rules.keep` different responses are taken.

  Args:
    samples: graded samples; those of a problem follow each other.
    way: how they were made; see the module's docstring.
    rules: Rules.
    dropped: Counter, to which the reason is added for each sample without a row.
    source: value of the rows' field 'source'; '' is the way.
  """
  problem, kept = None, set()
  for sample in samples:
    if sample['id'] != problem:
      problem, kept = sample['id'], set()
    row, reason = _make_row(sample, way, rules, source or way)
    if row is not None:
      reason = 'duplicate' if row['response'] in kept else 'more' if len(kept) >= rules.keep else ''
    if row is None or reason:
      dropped[reason] += 1
      continue
    kept.add(row['response'])
    yield row


def to_draft(row, rules):
  """Turns a row into a problem for the way rewrite, with the chain of thought in its field 'draft'."""
  before, _, rest = rules.layout.partition('{thinking}')
  between = rest.partition('{summary}')[0]
  thinking = row['response'][len(before) :].partition(between.strip() or between)[0].strip()
  return {k: v for k, v in row.items() if k not in ('response', 'source')} | {'draft': thinking}


def trace_to_sample(row):
  """Turns a row with the fields 'reasoning' and 'response' into a sample, with the reasoning in think tags."""
  text = f'{templates.THINK}{row["reasoning"]}{templates.THINK_END}\n\n{row["response"]}'
  return row | {'prompt': '', 'response': text, 'sample': 0, 'stop': 'eos', 'tokens': 0}


def _make_row(sample, way, rules, source):
  """Returns (row, ''), or (None, reason) if the sample is unusable."""
  if sample['stop'] in (LENGTH, REFUSED):
    return None, 'unfinished'
  if not sample['correct']:
    return None, 'wrong'
  wording = wordings.wording_of(rules.wording, sample)
  parsed = _parse(templates.completed(sample['prompt'], sample['response']), way, wording)
  if not parsed:
    return None, 'form'
  thinking, summary = clean(parsed[0], rules.paragraph), parsed[1].strip()
  target = wordings.language_of(sample)
  if reason := _reject_reason(thinking, summary, target, rules):
    return None, reason
  problem = {k: v for k, v in sample.items() if k not in _SAMPLE_FIELDS}
  response = wordings.fill(rules.layout, thinking=thinking, summary=summary)
  return problem | {
    'id': f'{sample["id"]}/{source}/{sample["sample"]}',
    'language': target,
    'source': source,
    'response': response,
  }, ''


def _parse(text, way, wording):
  """(thinking, summary) of a response, or None if it does not have the format that was asked for."""
  if way == 'few_shot':
    text = _truncate(text, wording.ends)
  parsed, summary = templates.parse(text), templates.summary(text)
  if way == 'readable' and parsed.well_formed:
    return (parsed.thinking, _summary(parsed.answer, wording)) if parsed.answer and parsed.answer.strip() else None
  if summary is None or not all(templates.r1_conditions(text).values()):
    return None
  return parsed.thinking, summary


def _truncate(text, ends):
  """Cuts the text off at the first of `ends` that occurs after its chain of thought."""
  think_end = text.find(templates.THINK_END)
  positions = [text.find(end, think_end) for end in ends if think_end >= 0]
  return text[: min((n for n in positions if n >= 0), default=len(text))]


def _summary(answer, wording):
  """The summary appended to a chain of thought of R1-Zero: a sentence that states its answer.

  Inside answer tags, as the toy world has them, spaces around the answer are kept.
  """
  if templates.ANSWER in wording.summary:
    return wordings.fill(wording.summary, answer=answer)
  answer = answer.strip()
  if '\\boxed' not in answer and '\n' not in answer:
    answer = f'\\boxed{{{answer}}}'
  return wordings.fill(wording.summary, answer=answer if '\n' not in answer else f'\n\n{answer}')


def _reject_reason(thinking, summary, target, rules):
  """Why a chain of thought and its summary are not fit to train on; '' if they are. target: language, such as 'en'."""
  if not thinking or not summary:
    return 'form'
  if len(thinking) < rules.shortest:
    return 'short'
  if rules.longest and len(thinking) > rules.longest:
    return 'long'
  if -length.repetition([{'response': thinking}], n=_REPETITION_NGRAM)[0] > rules.repetition:
    return 'repetition'
  known = target in rewards.language.LANGUAGES
  span = templates.answer_span(summary)  # the answer itself does not count: it may be a name, or a program
  prose = summary[: span[0]] + summary[span[1] :] if span else summary
  if known and min(rewards.language_consistency(text, target) for text in (thinking, prose)) < rules.language:
    return 'language'
  return ''


_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f]')
_SENTENCE = re.compile(r'(?<=[.!?])[ \t]+|(?<=[。！？])')


def clean(text, paragraph=0):
  """Makes a chain of thought easier to read by rules that do not change what it says.

  Line ends become one character, control characters are removed, repeated spaces (other than indentation) and repeated
  blank lines become one, and a line equal to the one before it is dropped. Paragraphs of more than `paragraph`
  characters are split at ends of sentences (0: never), but not within mathematics between dollar signs; a text with a
  code block is not split.
  """
  text = _CONTROL.sub('', text.replace('\r\n', '\n').replace('\r', '\n'))
  lines = []
  for line in text.split('\n'):
    line = re.sub(r'(?<=\S)[ \t]{2,}', ' ', line.rstrip())
    previous = next((earlier for earlier in reversed(lines) if earlier), None)
    if (line and line == previous and any(c.isalnum() for c in line)) or (not line and lines and not lines[-1]):
      continue
    lines.append(line)
  text = '\n'.join(lines).strip()
  if not paragraph or '```' in text:
    return text
  return '\n\n'.join(piece for block in text.split('\n\n') for piece in _split_paragraph(block, paragraph))


def _split_paragraph(text, size):
  """Splits a paragraph into pieces of whole sentences, each of at most `size` characters or a single sentence."""
  if len(text) <= size:
    return [text]
  sentences = ['']
  for sentence in _SENTENCE.split(text):
    if sentences[-1].count('$') % 2:  # an odd number of dollar signs: the split was inside mathematics
      sentences[-1] += _separator(sentences[-1]) + sentence
    else:
      sentences.append(sentence)
  pieces = ['']
  for sentence in sentences:
    longer = pieces[-1] + _separator(pieces[-1]) + sentence
    if pieces[-1] and len(longer) > size:
      pieces.append(sentence)
    else:
      pieces[-1] = longer
  return pieces


def _separator(text):
  """The separator after the sentence that ends `text`: Chinese sentences have none."""
  return ' ' if text[-1:] in ('.', '!', '?') else ''
