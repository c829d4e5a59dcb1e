"""Answers made to hang, exhaust or mislead the math reward: each ends within its time limit, and none scores."""

import time

import pytest

from r1jax.rewards.workers import pool

LIMIT = 2.0
NEST = 60
HOSTILE = {
  'powers': [
    '9**9**9',
    '9^{9^{9}}',
    '9^{9^{9^{9}}}',
    '10^{10^{10}}',
    '2^{10^{9}}',
    '(10^{10^{10}})^{10^{10}}',
    '7^{' + '9' * 900 + '}',
    '(1+10^{-9})^{10^{10}}',
    '1.0000001^{9999999999}',
    '2^{2^{2^{2^{2^{2^{2}}}}}}',
    r'10^{10^{10}} - 10^{10^{10}} + \frac{1}{3}',
    r'\sqrt[10^{9}]{10^{10^{9}}}',
    '(-1)^{10^{10^{10}}}',
  ],
  'factorials': [
    '(10^{8})!',
    '((9!)!)!',
    '9!!!!!!',
    '99999999!',
    r'\binom{10^{9}}{5\cdot10^{8}}',
    r'\frac{(10^9)!}{(10^9-1)!}',
    r'\gamma(10^{9})',
  ],
  'digits': [
    '7' * 10_000,
    '0.' + '3' * 10_000,
    '1e999999999',
    '1e9999',
    '1' + ',000' * 240,
    '9' * 999,
    '1/' + '9' * 990,
    r'\frac{' + '1' * 480 + '}{' + '7' * 480 + '}',
    '1.' + '0' * 990 + '1',
    r'3 \times 10^{9999}',
  ],
  'fractions': [
    r'\frac{1}{1+' * NEST + '1' + '}' * NEST,
    r'\frac{' * NEST + '1' + '}{2}' * NEST,
    r'\frac' * 200,
    r'\frac{1}{2' * 80,
    '1/' * 400 + '2',
    r'\cfrac{1}{2+\cfrac{1}{2+\cfrac{1}{2+\ddots}}}',
  ],
  'roots': [
    r'\sqrt{' * NEST + '2' + '}' * NEST,
    r'\sqrt{2+' * NEST + '2' + '}' * NEST,
    r'\sqrt' * 150,
    r'\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}}+\sqrt[7]{3+\sqrt[5]{11}}-\sqrt[9]{8+\sqrt{17}}',
  ],
  'matrices': [
    r'\begin{pmatrix}' + r'\\'.join(['&'.join(['9^{9}'] * 9)] * 9) + r'\end{pmatrix}',
    r'\begin{pmatrix}' * 30 + '1' + r'\end{pmatrix}' * 30,
    r'\begin{pmatrix}1&2\\3&4\end{pmatrix}^{10^{9}}',
    r'\begin{vmatrix}' + r'\\'.join(['&'.join('abcdefghi')] * 9) + r'\end{vmatrix}',
  ],
  'braces': [
    '{' * 900,
    '}' * 900,
    '{{}' * 300,
    '(' * 900,
    ')' * 900,
    '([' * 400,
    '[(' * 300 + ')]' * 300,
    r'\{' * 400,
    r'\left(' * 150,
    '{' * 450 + '7' + '}' * 450,
    '(' * 300 + '6' + ')' * 300,
    '|' * 900,
    r'7}\boxed{7',
  ],
  'bait': [
    'a' * 900 + '!',
    ' ' * 900 + '8',
    '1,' * 450,
    '1 ' * 450,
    'x=' * 450,
    '=' * 900,
    ',' * 900,
    ';' * 900,
    '-' * 900,
    '\\' * 900,
    '$' * 900,
    r'\text{' * 150,
    r'\text{ and }' * 80,
    ' and ' * 180,
    r'\pm 1' * 170,
    '7 or ' * 180,
    '"' * 900,
    '.' * 900,
    '1.' * 450,
    '0' * 999 + 'x',
    '\u3000' * 900,
    '百' * 900,
    '一万' * 450,
    '分之' * 450,
    '又' * 900,
    '7 ' + 'very ' * 180,
    '1' + '^1' * 400,
    '_1' * 400,
    '%' * 900,
    '^\\circ' * 150,
    '\ud800' * 90,
    '\0' * 900,
  ],
  'algebra': [
    '(x+1)^{1000}',
    '(a+b+c+d+e+f+g)^{40}',
    r'\sin(' * 60 + 'x' + ')' * 60,
    '+'.join(f'x^{{{n}}}' for n in range(99)),
    r'\sum_{i=1}^{10^{9}} \frac{1}{i}',
    r'\prod_{i=1}^{10^{9}} i',
    r'\int_0^1 x^{x^{x}} dx',
    r'\lim_{x \to 0} \frac{\sin(\tan x)-\tan(\sin x)}{\arcsin(\arctan x)-\arctan(\arcsin x)}',
    'x^{1000}+y^{1000}=z^{1000}',
    r'\sin(x)^{20}+\cos(x)^{20}+\tan(x)^{20}=\cot(y)^{20}',
    r'\log_{10^{9}}(9^{9^{9}})',
    r'x^{5}-x+1 < y^{7}+\sin(xy)',
    r'\gcd(10^{999}+1, 10^{998}+1)',
    '(' + '+1)(x'.join('x' * 60) + '+1)',
  ],
  'code': [
    "__import__('os').getpid()",
    'lambda: 7',
    "exec('7')",
    '[7 for _ in iter(int, 1)]',
    '7 if True else 8',
    '{0: 7}',
  ],
}
# A megabyte of text around the answer, or instead of it.
LONG = [
  '<answer>' * 130_000,
  '</answer>' * 110_000,
  '<think>' * 150_000,
  '</think>' * 130_000,
  '\\boxed{' * 150_000,
  '\\boxed{7}' * 110_000 + '\\boxed{8}',
  '\\boxed{7}, \\boxed{8}, ' * 45_000,
  'answer is 7. ' * 80_000,
  '答案是' * 300_000,
  '<answer>' + '7' * 1_000_000 + '</answer>',
  '<answer>' + ' ' * 1_000_000 + '</answer>',
  '(' * 1_000_000,
  '\n' * 1_000_000,
  '<answer>7</answer>' + 'Answer: 8 ' * 100_000,
  '\\boxed{' + '{' * 1_000_000,
  '\\boxed{7}' + '$' * 1_000_000 + ' or 8 \\boxed{9}',
]


@pytest.mark.slow
def test_hostile_answers_are_over_in_time_and_score_nothing():
  fine = {'prompt': '', 'response': r'<answer>\frac{14}{2}</answer>', 'answer': '7'}
  items = [
    (kind, {'prompt': '', 'response': f'<think>t</think><answer>{text}</answer>', 'answer': gold})
    for kind, texts in HOSTILE.items()
    for text in texts
    for gold in ('7', r'\sqrt{2}', 'x^2+1')
  ]
  items += [('long', {'prompt': '', 'response': text, 'answer': gold}) for text in LONG for gold in ('7', 'x^2+1')]
  slowest, timeouts, scored = ('', 0.0), {}, []
  with pool.Grader({'math': {}}, timeout=LIMIT) as grader:
    for kind, item in items:
      began = time.monotonic()
      scores = grader.submit([item]).result()
      took = time.monotonic() - began
      slowest = max(slowest, (item['response'][:60], took), key=lambda s: s[1])
      if scores.parts['math'][0]:
        scored.append((item['response'][:90], item['answer']))
      if scores.timeouts:
        timeouts[kind] = timeouts.get(kind, 0) + 1
        assert grader.submit([fine]).result().parts['math'].tolist() == [1.0]  # the next item is not affected
  print(f'{len(items)} hostile items: {timeouts} given up, the slowest took {slowest[1]:.2f} s: {slowest[0]!r}')
  assert scored == []
