"""Prompts for cold-start data: in English, in Chinese, and in the language of the recipe's toy world.

The paper describes the kinds of prompts but does not give them; the wording is our own. Every prompt asks for reasoning
between think tags, whatever the layout of the resulting data.
"""

import dataclasses
import json
import re

from r1jax import templates
from r1jax.data.reader import read_rows
from r1jax.data.toy import r1, r1_text
from r1jax.rewards.text import language


@dataclasses.dataclass(frozen=True)
class Wording:
  """Texts with the placeholders {problem}, {answer} (the required form of the answer), and those named below.

  Attributes:
    shots: few-shot instruction, before the examples.
    example: an example, with {response}.
    last: the problem, after the examples.
    direct: prompt that asks for reflection and verification.
    rewrite: prompt that asks to make {draft} readable.
    opening: appended to these two prompts if the model has no chat template.
    response: the response of an example, from {thinking} and {summary}.
    summary: the summary of a response of R1-Zero, which states its {answer}.
    ends: texts that begin another problem; a response is cut off before them.
    answers: {kind of problem: required form of its answer}; '' is for all other kinds.
    examples: dicts with 'problem', 'thinking', 'summary' and, if the problem has one, 'kind'.
  """

  shots: str
  example: str
  last: str
  direct: str
  rewrite: str
  opening: str
  response: str
  summary: str
  ends: tuple
  answers: dict
  examples: tuple


_RESPONSE = '<think>\n{thinking}\n</think>\n\n{summary}'

_ENGLISH = Wording(
  shots='Below are problems with their solutions. Each solution first reasons at length between <think> and '
  '</think>: it takes small steps, doubts, checks its results in a second way, and goes back where something '
  'is off. Then it sums up for the reader in a few sentences, and ends with {answer}.\n\n',
  example='Problem: {problem}\n\nSolution: {response}\n\n---\n\n',
  last='Problem: {problem}\n\nSolution: <think>',
  direct='Solve the problem below, in English. First reason between <think> and </think>: take small steps; after '
  'each result ask whether it can be right; verify the final result in a second way; and where something is '
  'off, say so, go back and mend it. After </think> sum up for the reader: the main steps in a few sentences, '
  'and at the end {answer}.\n\nProblem: {problem}',
  rewrite='Below are a problem and a draft of its solution. Rewrite the draft so that it is easy to follow: in '
  'English throughout, in short paragraphs, without repetition. Keep every step, doubt and check, in their '
  'order, and change no result. Write the rewritten reasoning between <think> and </think>. After </think> '
  'sum up the solution for the reader in a few sentences, with {answer} at the end.\n\nProblem: {problem}'
  '\n\nDraft: {draft}',
  opening='\n\nSolution: <think>',
  response=_RESPONSE,
  summary='The final answer is {answer}',
  ends=('\n---', '\nProblem:'),
  answers={
    '': 'the final answer in \\boxed{}',
    'code': 'the whole program in a code block',
    'choice': 'the letter of the right option in \\boxed{}',
    'logic': 'the answer, in the form that the problem asks for',
    'open': 'your answer',
  },
  examples=(
    {
      'problem': 'Tom has 3 boxes with 12 pencils each. He gives away 8 pencils, and then loses a quarter of those '
      'that are left. How many pencils does he have now?',
      'thinking': 'First, how many pencils are there at the start? Three boxes with 12 pencils each: 3 * 12 = 36.\n\n'
      'He gives away 8, so 36 - 8 = 28 are left.\n\n'
      'Then he loses a quarter. A quarter of what? Let me read it again: "a quarter of those that are '
      'left". So of 28, not of 36. 28 / 4 = 7, and 28 - 7 = 21.\n\n'
      'Wait, let me check this in another way. Three quarters of 28 stay with him: 3 * 7 = 21. And going '
      'backwards: 21 + 7 = 28, 28 + 8 = 36, which is 3 * 12. It all agrees.',
      'summary': 'Tom begins with 3 * 12 = 36 pencils and has 28 after giving away 8. A quarter of these is 7, so '
      '28 - 7 = 21 remain. The final answer is \\boxed{21}.',
    },
  ),
)

_CHINESE = Wording(
  shots='下面是一些题目及其解答。每个解答先在 <think> 和 </think> 之间详细推理：一步一步地进行，随时质疑，'
  '用另一种方法检验结果，发现不对就回头改正。然后用几句话向读者总结，最后给出{answer}。\n\n',
  example='题目：{problem}\n\n解答：{response}\n\n---\n\n',
  last='题目：{problem}\n\n解答：<think>',
  direct='请用中文解答下面的题目。先在 <think> 和 </think> 之间推理：一步一步地进行；'
  '每得到一个结果，都想一想它是否可能正确；用另一种方法检验最后的结果；'
  '发现不对就说明，并回头改正。在 </think> 之后向读者总结：用几句话说明主要步骤，'
  '最后给出{answer}。\n\n题目：{problem}',
  rewrite='下面是一道题目和一份解答草稿。请把草稿改写得容易读懂：全部用中文，分成短的段落，不要重复。'
  '按原来的顺序保留每一步推理、质疑和检验，不要改变任何结果。改写后的推理写在 <think> 和 </think> 之间。'
  '在 </think> 之后用几句话向读者总结解答，最后给出{answer}。\n\n题目：{problem}\n\n草稿：{draft}',
  opening='\n\n解答：<think>',
  response=_RESPONSE,
  summary='最终答案是 {answer}',
  ends=('\n---', '\n题目：'),
  answers={
    '': '写在 \\boxed{} 中的最终答案',
    'code': '写在代码块中的完整程序',
    'choice': '写在 \\boxed{} 中的正确选项的字母',
    'logic': '题目所要求形式的答案',
    'open': '你的回答',
  },
  examples=(
    {
      'problem': '小明有 3 盒铅笔，每盒 12 支。他送出 8 支，然后又丢了剩下的四分之一。他现在有多少支铅笔？',
      'thinking': '先算一开始有多少支。3 盒，每盒 12 支：3 * 12 = 36。\n\n送出 8 支，剩下 36 - 8 = 28 支。\n\n'
      '然后丢了四分之一。是谁的四分之一？再读一遍题目：“剩下的四分之一”。'
      '所以是 28 的四分之一，不是 36 的。28 / 4 = 7，28 - 7 = 21。\n\n'
      '等等，换一种方法检查一下。28 的四分之三还在：3 * 7 = 21。倒过来算：21 + 7 = 28，28 + 8 = 36，'
      '正好是 3 * 12。都对得上。',
      'summary': '小明一开始有 3 * 12 = 36 支铅笔，送出 8 支后剩 28 支。其中四分之一是 7 支，'
      '所以还有 28 - 7 = 21 支。最终答案是 \\boxed{21}。',
    },
  ),
)


def _toy(language):
  """The wording of the toy world, as in its pretraining text. No spaces are added in answer tags, for code blocks."""
  examples = []
  for kind in r1.KINDS:
    problem, response = r1_text.example(kind, language)
    thinking, summary = templates.parse(response).thinking, templates.summary(response)
    assert thinking and summary  # the response is in R1's format
    examples.append({'kind': kind, 'problem': problem, 'thinking': thinking.strip(), 'summary': summary.strip()})
  request = r1.CHECKED[language]
  return Wording(
    shots='',
    example='{problem}\n {response}\n ',
    last='{problem}\n',
    direct=f'{{problem}} {request}\n',
    rewrite=f'{{problem}}\n {{draft}}\n {{problem}} {request}\n',
    opening='',
    response='<think> {thinking} </think> {summary}',
    summary=f'{r1.SUMMARY[language]} <answer>{{answer}}</answer>',
    ends=(),
    answers={'': ''},
    examples=tuple(examples),
  )


# {name: {language: Wording}}; languages without one use English.
WORDINGS = {'text': {'en': _ENGLISH, 'zh': _CHINESE}, 'toy': {name: _toy(name) for name in ('en', 'zh')}}


def language_of(problem):
  """The language that a problem names, or else the one it is written in."""
  named = problem.get('language')
  return named if isinstance(named, str) and named else language.detect(problem['problem'])


def wording_of(name, problem):
  """The Wording of this name in a problem's language."""
  return WORDINGS[name].get(language_of(problem), WORDINGS[name]['en'])


def fill(text, **values):
  """Fills placeholders in a text; unlike str.format, it leaves unknown braces and those inside values unchanged."""
  return re.sub(r'\{(\w+)\}', lambda m: values.get(m[1], m[0]), text)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A template like `templates.Template` whose wording depends on each problem's language and kind.

  Attributes:
    way: 'few_shot', 'direct' or 'rewrite'; for the last, problems need a 'draft'.
    name: a key of WORDINGS.
    chat: whether to use the model's chat template; for 'direct' and 'rewrite'.
    shots: number of examples before the problem.
    examples: to choose from; () takes those of the wording.
  """

  way: str
  name: str = 'text'
  chat: bool = False
  shots: int = 1
  examples: tuple = ()

  def format(self, problem):
    wording, kind = wording_of(self.name, problem), problem.get('kind')
    answer = wording.answers.get(kind if isinstance(kind, str) else '', wording.answers[''])
    values = {'problem': problem['problem'], 'draft': problem.get('draft', ''), 'answer': answer}
    if self.way != 'few_shot':
      text = wording.direct if self.way == 'direct' else wording.rewrite
      return fill(text + ('' if self.chat else wording.opening), **values)
    shown = [
      fill(
        wording.example,
        problem=example['problem'],
        response=fill(wording.response, thinking=example['thinking'], summary=example['summary']),
      )
      for example in self._choose_examples(problem, wording)
    ]
    return fill(wording.shots, **values) + ''.join(shown) + fill(wording.last, **values)

  def _choose_examples(self, problem, wording):
    """The best examples, without the problem itself: first those of its language, among these those of its kind."""
    target, kind = language_of(problem), problem.get('kind')
    candidates = [example for example in self.examples or wording.examples if example['problem'] != problem['problem']]
    mismatch = lambda example: (language_of(example) != target, example.get('kind') != kind)
    return sorted(candidates, key=mismatch)[: self.shots]


def read_examples(path):
  """Reads examples from JSON Lines: 'problem', 'thinking' (or 'reasoning') and 'summary' (or 'response').

  Raises DataError.
  """

  def check(row):
    example = _to_example(row)
    for name in ('problem', 'thinking', 'summary'):
      if not isinstance(example[name], str) or not example[name].strip():
        raise ValueError(f'no text for {name}: {json.dumps(example[name])[:40]}')
    if any(tag in example['thinking'] + example['summary'] for tag in (templates.THINK, templates.THINK_END)):
      raise ValueError('thinking or summary contains think tags; remove them')

  return tuple(_to_example(row) for row in read_rows(path, check))


def _to_example(row):
  thinking, summary = row.get('thinking', row.get('reasoning')), row.get('summary', row.get('response'))
  return row | {'problem': row.get('problem'), 'thinking': thinking, 'summary': summary}
