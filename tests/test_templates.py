"""Prompt templates, and parsing of responses."""

import sys

import pytest

from r1jax import templates

GOOD = '<think>a b</think><answer>7</answer>'


@pytest.mark.parametrize(
  'text',
  [
    GOOD,
    '\n <think>\na\n</think>\n\n<answer> 7 </answer>\t\n',
    '<think></think><answer></answer>',
    '<think>1 < 2, x > y, </ think> & <b></think><answer>7</answer>',
  ],
)
def test_well_formed(text):
  assert templates.parse(text).well_formed


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a',
    '<think>',
    'so ' + GOOD,
    GOOD + ' so',
    '<think>a</think> so <answer>7</answer>',
    GOOD + GOOD,
    '<think>' + GOOD,
    GOOD + '</answer>',
    '<think>a<think>b</think></think><answer>7</answer>',
    '<think>a</think><answer><answer>7</answer></answer>',
    '<think>a<answer>7</answer></think>',
    '<answer>7</answer><think>a</think>',
    '<think>a</think><answer>7',
    '<think>a<answer>7</answer>',
    'a</think><answer>7</answer>',
    '</think>a<think><answer>7</answer>',
    '<think>a</think></answer>7<answer>',
    '<think>a</think><answer>7</answer><answer>',
    '<Think>a</Think><answer>7</answer>',
    '<think >a</think><answer>7</answer>',
    '<think>a</think>\u200b<answer>7</answer>',
  ],
)
def test_not_well_formed(text):
  assert not templates.parse(text).well_formed


@pytest.mark.parametrize(
  ('text', 'thinking', 'answer'),
  [
    (GOOD, 'a b', '7'),
    ('<think>cut off', 'cut off', None),
    ('7', None, None),
    ('<answer>7', None, None),
    ('7</answer>', None, None),
    ('<answer>6</answer> no <answer>7</answer> end', None, '7'),
    ('<answer>6<answer>7</answer>', None, '7'),
    ('<think>a</think> so <answer>7</answer>.', 'a', '7'),
    ('<think>a</think><think>b</think>', 'a', None),
    ('</answer><answer>', None, None),
  ],
)
def test_parts_of_malformed_responses(text, thinking, answer):
  parsed = templates.parse(text)
  assert (parsed.thinking, parsed.answer) == (thinking, answer)


SPACES = ('', '\n', '\n\n', ' ', '\r\n', '\t\n ')


@pytest.mark.parametrize('space', SPACES)
def test_white_space_after_an_opening_think_tag_does_not_matter(space):
  prompt = 'Q? Assistant: <think>' + space
  assert templates.parse(templates.completed(prompt, 'a\n</think>\n<answer>5</answer>')).well_formed
  assert templates.summary(templates.completed(prompt, 'Try 4? No, let me')) is None
  assert not templates.parse(templates.completed(prompt, GOOD)).well_formed  # opened twice
  for closed in ('Q? <think></think>' + space, 'Q? <think>so' + space, 'Q?' + space, 'Q? <think' + space):
    assert templates.completed(closed, GOOD) == GOOD


@pytest.mark.parametrize(
  ('text', 'summary', 'span'),
  [
    (GOOD, '<answer>7</answer>', '7'),
    ('a', 'a', None),
    ('', '', None),
    ('<think>a', None, None),
    ('a</think>b', 'b', None),
    ('<think>a</think>b<think>c', None, None),
    ('<think>a</think>b</think>c', 'c', None),
    (
      '<think></think><answer>6<answer>7</answer> end</answer>',
      '<answer>6<answer>7</answer> end</answer>',
      '7</answer> end',
    ),
  ],
)
def test_summary_and_answer_span(text, summary, span):
  assert templates.summary(text) == summary
  position = templates.answer_span(text)
  assert (position and text[slice(*position)]) == span == templates.parse(text).answer


def test_every_broken_copy_of_a_good_response_is_malformed():
  """Dropping or doubling any one tag, or swapping any two, breaks the format."""
  pieces = ['<think>', 'a', '</think>', '<answer>', '7', '</answer>']
  tags = [0, 2, 3, 5]
  for i in tags:
    assert not templates.parse(''.join(pieces[:i] + pieces[i + 1 :])).well_formed
    assert not templates.parse(''.join(pieces[: i + 1] + pieces[i:])).well_formed
    for j in tags:
      if i != j:
        swapped = list(pieces)
        swapped[i], swapped[j] = pieces[j], pieces[i]
        assert not templates.parse(''.join(swapped)).well_formed


def steps(function, *args):
  """Counts the lines executed and the Python and C calls made in templates.py, which grow if the algorithm loops."""
  count = 0

  def trace(frame, event, arg):
    nonlocal count
    if frame.f_code.co_filename != templates.__file__:  # for example a callback of the garbage collector
      return None
    count += event in ('line', 'call')
    return trace

  def profile(frame, event, arg):
    nonlocal count
    count += event == 'c_call' and frame.f_code.co_filename == templates.__file__

  sys.settrace(trace)
  sys.setprofile(profile)
  try:
    function(*args)
  finally:
    sys.settrace(None)
    sys.setprofile(None)
  return count


@pytest.mark.parametrize(
  'unit',
  [
    '<think>',
    '<answer>',
    '</answer>',
    '<think>a</think><answer>',
    '<',
    ' ',
    '</think>\n',
    '<answer></answer>',
    '<thin',
    'wait ',
  ],
)
def test_a_megabyte_takes_no_more_steps_than_a_kilobyte(unit):
  """Each step is one scan (find, count, strip, slice), so a constant number of steps is linear time."""
  short, long = (GOOD[:19] + unit * (size // len(unit)) + GOOD[19:] for size in (1 << 10, 1 << 20))
  assert steps(templates.parse, long) == steps(templates.parse, short) > 10
  assert steps(templates.reflections, long) == steps(templates.reflections, short) > 0
  assert steps(templates.summary, long) == steps(templates.summary, short) > 0
  for form in (templates.r1_conditions, lambda text: templates.special_conditions(text, unit)):
    assert steps(form, long) <= steps(form, GOOD) + 10 and steps(form, short) > 0


def test_the_reflection_pattern_cannot_backtrack():
  assert not set('*+{') & set(templates.REFLECTION.replace('(?<!', '').replace('(?!', ''))


@pytest.mark.parametrize(
  ('text', 'count'),
  [
    ('', 0),
    ('Wait, no. WAIT', 2),
    ('the waiter was waiting, awaits', 0),
    ('-3 33 no, wait, +3', 1),
    ('Let me check: recheck and re-evaluate', 3),
    ('We wait. She must wait.', 0),
    ('不对，等等，我再看看', 1),
    ('We wait for the bus. They will wait here until 5, and must wait.', 0),
    ('The wait time is 5 minutes.', 0),
    ("He can't wait at the stop; to wait in line costs a long wait. Wait times vary.", 0),
    ('But wait, 5 * 3 is 15. No wait... Oh, wait! Hmm, wait a minute: so wait.', 5),
    ('WAIT: is the bus late? wait for the bus', 1),
    ('Players may try again. Let me try again.', 1),
    ('苹果、梨等等。1、2、3等等都是整数，性质等等的问题', 0),
    ('等等。不对等等，让我想想。33 等等 35，但等等', 4),
    ('将方程重新排列，重新分组', 0),
    ('请等一下再说', 0),
    ('质检员被检查，检查员', 0),
    ('让我重新计算，重新考虑', 2),
    ('等等，我重新检查一下', 2),
    ('再想想，重新算，检查', 3),
    ('wait等等wait', 3),
  ],
)
def test_reflections(text, count):
  assert templates.reflections(text) == count


def test_r1_zero_has_the_wording_of_table_1():
  text = templates.TEMPLATES['r1_zero'].format({'problem': 'What is {x} + <think>?'})
  assert text.startswith('A conversation between User and Assistant. The user asks a question, and the Assistant ')
  assert 'i.e., <think> reasoning process here </think> <answer> answer here </answer>. ' in text
  assert text.endswith(' User: What is {x} + <think>?. Assistant:')


def test_a_problem_cannot_rewrite_the_template():
  assert templates.TEMPLATES['plain'].format({'problem': 'a {problem} {0}'}) == 'a {problem} {0}\n'


def test_a_prompt_that_opens_the_thinking_completes_the_response():
  opened = templates.TEMPLATES['r1_zero_open']
  prompt = opened.format({'problem': '1+1'})
  assert prompt.endswith('<think>')
  rest = GOOD.removeprefix('<think>')
  assert templates.completed(prompt, rest) == GOOD
  assert not templates.parse(templates.completed(prompt, GOOD)).well_formed  # opened twice
  # A problem that ends in the tag does not open the thinking: the template continues after it.
  for name in ('r1_zero', 'plain'):
    prompt = templates.TEMPLATES[name].format({'problem': 'what is <think>'})
    assert templates.completed(prompt, GOOD) == GOOD
