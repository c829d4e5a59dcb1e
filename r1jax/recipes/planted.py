"""Samples with a known number of planted faults, for measuring and testing curation.

  python -m r1jax.recipes.planted --samples 20000 --output D

writes D/samples like experiments.generate, D/general.jsonl to merge, D/evaluation.jsonl to decontaminate with, and
D/planted.json: how many lines each reason must drop if two samples per problem are kept.
"""

import argparse
import collections
import json
import pathlib
import random

from r1jax.data import shards

EVALUATION = 100  # number of evaluation problems
_PERIOD = 10  # in every 10 problems, those at positions 3 and 6 are evaluation problems in disguise
_PER_FILE = 2000
_WORDS = {
  'en': {
    'name': 'Anna Boris Clara David Elena Felix Greta Henry Irene Jacob Karin Lukas'.split(),
    'thing': 'apples pencils marbles stamps postcards candles ribbons cookies'.split(),
    'place': 'market harbour library station school museum bakery garden'.split(),
  },
  'zh': {
    'name': '小明 小红 小刚 小丽 小华 小芳 小军 小燕 小强 小兰 小东 小梅'.split(),
    'thing': '苹果 铅笔 弹珠 邮票 明信片 蜡烛 丝带 饼干'.split(),
    'place': '市场 港口 图书馆 车站 学校 博物馆 面包店 花园'.split(),
  },
}
_PROBLEM = {
  'en': (
    '{name} has {a} {thing} and buys {b} more at the {place}, then gives {c} of them to {friend}. '
    'How many {thing} does {name} have now?'
  ),
  'zh': '{name}有{a}个{thing}，又在{place}买了{b}个，后来送给{friend}{c}个。{name}现在有多少个{thing}？',
}
_THOUGHTS = {
  'en': """First I read the question again and write down what is known before I begin to calculate anything.
At the beginning there are {a} {thing}, and nothing else happens before the visit to the {place}.
Buying makes the number larger, so I have to add {b} to {a} and not take it away.
The sum of {a} and {b} is {ab}, which is how many there are after the visit.
Now some of them are given away, and giving makes the number smaller than it was before.
Since {friend} receives {c} of them, I take {c} away from {ab} in the next step.
The difference of {ab} and {c} is {d}, and that should be what the question asks for.
Let me check this by going backwards, because a mistake is found more easily that way.
Adding {c} to {d} gives {ab} again, and without the {b} that were bought it is {a}.
It does not matter where the {thing} were bought, so the {place} plays no part in this.
One could also take {c} away from {a} first, if that is possible, and add {b} afterwards.
The order of the two steps does not change the result, because both only add and subtract.
I wonder whether {friend} had some before, but the question does not ask for that at all.
A rough estimate says that the answer must be smaller than {ab} and not below zero.
Both ways lead to the same number, so I am sure of the answer and write it down.""".split('\n'),
  'zh': """先把题目再读一遍，在计算之前写下所有已知的条件。
一开始有{a}个{thing}，在去{place}之前没有发生别的事情。
买东西会让数量变多，所以要把{b}加到{a}上，而不是减去它。
{a}加上{b}等于{ab}，这就是买完以后一共有的数量。
接下来送出去了一些，送出去会让数量比原来变少。
因为{friend}得到了{c}个，所以下一步要从{ab}里减去{c}。
{ab}减去{c}等于{d}，这应该就是题目所问的结果。
让我倒过来检查一遍，因为这样更容易发现错误。
{d}加上{c}又等于{ab}，再去掉买来的{b}个就是{a}。
这些{thing}是在哪里买的并不重要，所以{place}在这里没有作用。
也可以先从{a}里减去{c}，如果够减的话，然后再加上{b}。
两个步骤的先后顺序不影响结果，因为它们只是加法和减法。
我在想{friend}以前有没有一些，不过题目完全没有问这个。
粗略估计一下，答案一定比{ab}小，而且不会小于零。
两种方法得到的数字相同，所以我对答案有把握，把它写下来。""".split('\n'),
}
_LINES = 5  # lines of a chain; the three chains of a problem share none
_END = {'en': 'The answer is {d}.', 'zh': '答案是{d}。'}
_SUFFIX = {'en': ' Done', 'zh': ' 完'}  # of a near duplicate
# Functions that change everything about a problem's text except its letters.
_DISGUISES = (
  lambda text: text,
  lambda text: '\n' + '  \t'.join(text.split(' ')) + '\u3000',
  lambda text: ' '.join(text.replace(' ', '')),
  lambda text: text.upper(),
  lambda text: ''.join(c if c.isalnum() or c == ' ' else '' for c in text),
  lambda text: '**' + text.replace(',', ' --').replace('，', '；').replace(' ', ' _ ') + '** (!)',
  lambda text: ''.join(chr(ord(c) + 0xFEE0) if '!' <= c <= '~' else c for c in text),
  lambda text: f'Solve this (请回答): "{text}" Thank you!',
)
# The kinds of samples of a problem, in order, with the reason that drops each if two are kept.
_KINDS = {
  'first': '',
  'wrong': 'wrong',
  'truncated': 'truncated',
  'no_end': 'form',
  'mixed': 'language',
  'second': '',
  'paragraph': 'paragraph',
  'code': 'code',
  'loop': 'repetition',
  'same': 'duplicate',
  'torn': 'malformed',
  'nearly': 'near duplicate',
  'empty': 'empty chain',
  'third': 'enough',
}


def problem(dice, language):
  """Draws a problem. Returns (text, {placeholder: value})."""
  words = _WORDS[language]
  a, b = dice.randrange(20, 500), dice.randrange(20, 500)
  c = dice.randrange(5, a + b)
  values = {
    'a': a,
    'b': b,
    'c': c,
    'ab': a + b,
    'd': a + b - c,
    'thing': dice.choice(words['thing']),
    'place': dice.choice(words['place']),
  } | dict(zip(('name', 'friend'), dice.sample(words['name'], 2)))
  return _PROBLEM[language].format(**values), values


def responses(dice, language, values):
  """{kind: response} for all kinds of _KINDS. values: of `problem`."""
  other = 'en' if language == 'zh' else 'zh'
  lines = [line.format(**values) for line in dice.sample(_THOUGHTS[language], 3 * _LINES)]
  first, second, third = (lines[i * _LINES : (i + 1) * _LINES] for i in range(3))
  end, foreign = _END[language].format(**values), [line.format(**values) for line in _THOUGHTS[other][: _LINES - 2]]
  write = lambda chain: '<think>\n' + '\n'.join(chain) + f'\n</think>\n{end}'
  return {
    'first': write(first),
    'second': write(second),
    'third': write(third),
    'wrong': write(third),
    'truncated': write(first)[:-3],
    'no_end': write(first).replace('</think>', ''),
    'mixed': write(first[:2] + foreign),
    'paragraph': write([' '.join(f'{lines[i % len(lines)]} {i}' for i in range(60))]),
    'code': write([*first, '```python', 'print({a} + {b} - {c})'.format(**values), '```']),
    'loop': write(first + 12 * second),
    'same': write(first),
    'nearly': write(second) + _SUFFIX[language],
    'empty': f'<think>\n</think>\n{end}',
    'torn': write(first),
  }


def samples(count, evaluation, seed=0):
  """Yields (line, reason that must drop it or '') for `count` samples. evaluation: the return value of `held_out`."""
  dice, number = random.Random(f'samples {seed}'), 0
  while True:
    language, disguised = ('en', 'zh')[number % 2], number % _PERIOD in (3, 6)
    text, values = problem(dice, language)
    if disguised:
      row, values = evaluation[dice.randrange(len(evaluation) // 2) * 2 + number % 2]
      text = _DISGUISES[number // _PERIOD % len(_DISGUISES)](row['problem'])
    response_of = responses(dice, language, values)
    for n, (kind, reason) in enumerate(_KINDS.items()):
      if count == 0:
        return
      row = {
        'id': f'planted/{number}',
        'problem': text,
        'answer': str(values['d']),
        'kind': 'math',
        'language': language,
        'prompt': text + '\n',
        'response': response_of[kind],
        'tokens': len(response_of[kind]),
        'stop': 'length' if kind == 'truncated' else 'eos',
        'sample': n,
        'reward': float(kind != 'wrong'),
        'parts': {'math': float(kind != 'wrong')},
        'correct': kind != 'wrong',
      }
      line = json.dumps(row, ensure_ascii=False)
      # Contamination is checked before the reasons in this list.
      is_contaminated = reason in ('', 'duplicate', 'near duplicate', 'enough') and disguised
      yield line[:-40] if kind == 'torn' else line, 'contaminated' if is_contaminated else reason
      count -= 1
    number += 1


def held_out(seed=0):
  """List of EVALUATION pairs (problem, values), alternately in English and Chinese."""
  dice = random.Random(f'held out {seed}')
  problems = [problem(dice, ('en', 'zh')[n % 2]) for n in range(EVALUATION)]
  return [
    ({'id': f'held_out/{n}', 'problem': text, 'answer': str(values['d'])}, values)
    for n, (text, values) in enumerate(problems)
  ]


def general(count, evaluation):
  """Yields (row, reason that must drop it or '') for rows without a chain; one in ten has an evaluation problem."""
  for n in range(count):
    if n % 10 == 7:
      question, reason = evaluation[n % EVALUATION][0]['problem'].lower(), 'contaminated'
    else:
      question, reason = f'What is your name, asked for the {n}th time?', ''
    turns = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': question}]
    yield (
      {
        'id': f'general/{n}',
        **({'turns': turns} if n % 2 else {'problem': question}),
        'response': 'I am a language model that was made to show its reasoning.',
      },
      reason,
    )


def write(folder, count, seed=0):
  """Writes all files. Returns {source: {reason: number of lines it must drop}}; '' counts the kept ones."""
  folder, evaluation = pathlib.Path(folder), held_out(seed)
  out = shards.Shards(folder / 'samples', -(-count // _PER_FILE))
  lines = samples(count, evaluation, seed)
  expected = {'samples': collections.Counter(), 'general': collections.Counter()}
  for number in range(out.count):
    with open(out.path(number), 'w', encoding='utf-8', newline='\n') as f:
      for line, reason in (next(lines) for _ in range(min(_PER_FILE, count - number * _PER_FILE))):
        f.write(line + '\n')
        expected['samples'][reason] += 1
  with open(folder / 'general.jsonl', 'w', encoding='utf-8', newline='\n') as f:
    for row, reason in general(count // 20, evaluation):
      f.write(json.dumps(row, ensure_ascii=False) + '\n')
      expected['general'][reason] += 1
  with open(folder / 'evaluation.jsonl', 'w', encoding='utf-8', newline='\n') as f:
    f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row, _ in evaluation)
  (folder / 'planted.json').write_text(json.dumps(expected, indent=2) + '\n')
  return expected


def main():
  parser = argparse.ArgumentParser(prog='python -m r1jax.recipes.planted', description=(__doc__ or '').split('\n')[0])
  parser.add_argument('--samples', type=int, default=20_000)
  parser.add_argument('--output', required=True)
  args = parser.parse_args()
  print(json.dumps(write(args.output, args.samples)))


if __name__ == '__main__':
  main()
