"""Texts of the toy world of R1's recipe (see `toy.r1`): pretraining documents, answers and preference pairs."""

import numpy as np

from r1jax import templates
from r1jax.data.toy import r1

SHARES = {'chain': 0.46, 'logic': 0.2, 'code': 0.22, 'open': 0.12}  # of the documents with a problem
DRILLS = 0.15  # share of documents that are plain sums, or things recalled by name
GUESSES, CHECKS = 0.3, 0.06  # share of authors who guess; share of the others who think twice
SHOWN = 0.12  # share of documents with an example before the problem
ASKED = 0.05  # share of documents with a request for care after the problem
MIXING = {'en': 0.3, 'zh': 0.1}  # share of authors who mix languages


def documents(seed, count):
  """Returns `count` (prompt, response) of imperfect authors; the prompt of a drill is the word 'drill'."""
  rng, rows = np.random.default_rng([seed, 3]), []
  while len(rows) < count:
    u = rng.random()
    document = _drill(rng) if u < DRILLS else _one_shot(rng) if u < DRILLS + SHOWN else _zero_shot(rng)
    if document:
      rows.append(document)
  return rows


def _problem(rng, kind=None):
  """Draws a problem; returns it with its facts, or None if it is held out."""
  problem, facts = r1.make(rng, kind or str(rng.choice(list(SHARES), p=list(SHARES.values()))))
  return None if r1.is_held_out(problem['problem']) else (problem, facts)


def _zero_shot(rng):
  """Returns (prompt, response): a problem, sometimes with a request for care, and its answer."""
  drawn = _problem(rng)
  if drawn is None:
    return None
  problem, facts = drawn
  careful = rng.random() < ASKED
  author = r1.Author(rng, problem['language'], 0.0 if careful else MIXING[problem['language']])
  request = f' {r1.CHECKED[problem["language"]]}' if careful else ''
  return problem['problem'] + request, _response(problem, facts, author, careful, careful)


def _one_shot(rng):
  """Returns (prompt with an example, response): two problems of a kind, both answered by one author in one way.

  Half of the authors check and sum up.
  """
  kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
  one, two = _problem(rng, kind), _problem(rng, kind)
  if one is None or two is None or one[0]['language'] != two[0]['language']:
    return None
  careful = rng.random() < 0.5
  author = r1.Author(rng, one[0]['language'], 0.0 if careful else MIXING[one[0]['language']])
  form = careful or rng.random()
  first, second = (_response(problem, facts, author, careful, form) for problem, facts in (one, two))
  return few_shot(one[0]['problem'], first, two[0]['problem']), second


def few_shot(problem, response, other):
  """Returns a prompt with one example; each line after the first starts with a space, as every word here does."""
  return f'{problem}\n {response}\n {other}'


def _response(problem, facts, author, careful, form=None):
  """Returns a response.

  Args:
    problem, facts: as `r1.make` returns them.
    author: r1.Author.
    careful: whether the author checks and never guesses.
    form: True for R1's format with a summary; otherwise a number in [0, 1) that chooses which tags are used, None for a
      random one.
  """
  kind, rng = r1.KINDS[problem['kind']], author.rng
  if not careful and rng.random() < GUESSES:
    words, answer = [author.say('maybe')], kind.guess(facts, author)
  else:
    words, answer = kind.think(facts, author, False)
    if careful or rng.random() < CHECKS:
      again, answer = kind.think(facts, author, True)
      words = [*words, author.say('wait'), author.say('check'), *again]
    words = [*words, author.say('so')]
  thinking = ' '.join(words)
  if form is True:
    return in_r1_form(thinking, answer, problem['language'])
  return _tagged(rng, rng.random() if form is None else form, thinking, answer)


def in_r1_form(thinking, answer, language):
  """Returns a response in R1's format: thinking, and a summary with the answer."""
  think, end, answer_tag, answer_end = templates.TAGS
  return f'{think} {thinking} {end} {r1.SUMMARY[language]} {answer_tag} {answer} {answer_end}'


def _tagged(rng, u, thinking, answer):
  """Adds tags: for u < 0.6 all of them properly, for u < 0.8 none, otherwise only some."""
  parts = ['<think>', thinking, '</think>', '<answer>', answer, '</answer>']
  if 0.6 <= u < 0.8:
    parts = [thinking, 'answer', answer]
  elif u >= 0.8:
    for tag in rng.choice(templates.TAGS, size=rng.integers(1, 3), replace=False):
      parts.remove(tag)
  return ' '.join(parts)


def example(kind, language):
  """Returns (text of a problem, right and careful response in R1's format) for few-shot prompts."""
  rng = np.random.default_rng([5, list(r1.KINDS).index(kind)])
  while True:
    problem, facts = r1.make(rng, kind)
    response = _response(problem, facts, r1.Author(rng, language, 0.0), True, True)
    steps = r1.steps(kind, facts, response)
    if problem['language'] == language and not r1.is_held_out(problem['problem']) and all(ok for _, ok in steps):
      return problem['problem'], response


def _drill(rng):
  """Returns running sums in the words of one language, or things recalled by name in different orders."""
  if rng.random() < 0.35:
    names = rng.permutation(list('abcdef'))[: rng.integers(3, 6)]
    term = lambda: f'{rng.integers(1, 10) * rng.choice([-1, 1]):+d}'
    thing = {name: str(rng.integers(30, 90)) if rng.random() < 0.3 else term() for name in names}
    return 'drill', ' '.join(f'{name} {thing[name]}' for _ in range(3) for name in rng.permutation(names))
  author = r1.Author(rng, 'zh' if rng.random() < 0.6 else 'en', 0.0)
  value, words = int(rng.integers(30, 90)), []
  words += [str(value), *r1.number(value, author.tongue())]
  for _ in range(8):
    term = int(rng.integers(1, 10)) * (1 if value < 40 or (value < 80 and rng.random() < 0.5) else -1)
    exact = value + term
    hard, tongue = exact // 10 != value // 10, author.tongue()
    if author.errs(hard, tongue, False):
      exact += (10 if term < 0 else -10) if hard else int(rng.choice([-1, 1]))
    value = min(max(exact, 20), 99)
    words += [f'{term:+d}', *r1.number(value, tongue)]
  return 'drill', ' '.join([*words, str(value)])


def open_answers(seed, count):
  """Returns `count` training rows with answers to open questions, in R1's format and one language.

  All answers fit, and most give no reason.

  Returns:
    list of {'id', 'problem', 'response', 'kind', 'language', 'source', 'fits', 'answer'}.
  """
  rng, rows = np.random.default_rng([seed, 19]), []
  while len(rows) < count:
    drawn = _problem(rng, 'open')
    if drawn is None:
      continue
    problem, facts = drawn
    thinking, _ = r1.KINDS['open'].think(facts, r1.Author(rng, problem['language'], 0.0), False)
    answer = r1.open_answer(rng, facts, True, rng.random() < r1.REASONED)
    rows.append(
      {
        'id': f'open/answer/{len(rows)}',
        **problem,
        'source': 'people',
        'response': in_r1_form(' '.join(thinking), answer, problem['language']),
      }
    )
  return rows


def pairs(seed, count, held_out):
  """Returns `count` preference pairs of answers to open questions: {'id', 'prompt', 'chosen', 'rejected'}.

  The chosen answer fits and has a reason; the rejected one does not fit, or has no reason, or both. Both are in R1's
  format.
  """
  rng, rows = np.random.default_rng([seed, 17, held_out]), []
  while len(rows) < count:
    problem, facts = r1.make(rng, 'open')
    if r1.is_held_out(problem['problem']) != held_out:
      continue
    author = r1.Author(rng, problem['language'], 0.3)
    rejected_merits = [(True, False), (False, True), (False, False)][rng.choice(3, p=[0.5, 0.4, 0.1])]
    chains = [' '.join(r1.KINDS['open'].think(facts, author, False)[0]) for _ in range(2)]
    chosen, rejected = (
      in_r1_form(chain, r1.open_answer(rng, facts, *merits), problem['language'])
      for chain, merits in zip(chains, ((True, True), rejected_merits))
    )
    rows.append({'id': f'open/pair/{len(rows)}', 'prompt': problem['problem'], 'chosen': chosen, 'rejected': rejected})
  return rows
