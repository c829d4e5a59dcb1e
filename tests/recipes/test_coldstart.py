"""Cold-start rows, from fake policies with fixed responses."""

import collections
import dataclasses
import re

import pytest

from r1jax import templates
from r1jax.config import ConfigError
from r1jax.data.toy import r1 as toy_r1
from r1jax.data.toy import r1_text
from r1jax.recipes import coldstart, wordings
from r1jax.rewards.mathematics import math_answer

ENGLISH = {'id': 'p', 'problem': 'What is 20 + 22? A {draft} of $x$.', 'answer': '42', 'language': 'en'}
CHINESE = {'id': 'q', 'problem': '二十加二十二是多少？', 'answer': '42', 'language': 'zh'}
CHAIN = 'We add the tens first, twenty and twenty is forty. Wait, let me check that with the ones: forty two.'
SUMMARY = 'The sum of the two numbers is \\boxed{42}.'
SPECIAL = coldstart.Rules(layout='|special_token|{thinking}|special_token|{summary}')


class Policy:
  """Responds with the same texts to every problem, and records the prompts."""

  def __init__(self, *texts, correct=True, stop='eos'):
    self.texts, self.outcome, self.prompts = texts, {'correct': correct, 'stop': stop}, []

  def __call__(self, problems, template):
    prompts = [template.format(problem) for problem in problems]
    self.prompts += prompts
    grading = {'tokens': 9, 'reward': 1.0, 'parts': {}} | self.outcome
    return [
      problem | grading | {'prompt': prompt, 'response': text, 'sample': n}
      for problem, prompt in zip(problems, prompts)
      for n, text in enumerate(self.texts)
    ]


def collect(way, policy, problems, rules=None, **options):
  """Samples a way from a policy. Returns (rows, {reason: dropped samples}); options: for make_prompt."""
  rules, dropped = rules or coldstart.Rules(), collections.Counter()
  samples = policy(problems, coldstart.make_prompt(way, rules.wording, **options))
  return list(coldstart.select_rows(samples, way, rules, dropped)), dict(dropped)


def r1(thinking=CHAIN, summary=SUMMARY):
  return f'<think>{thinking}</think>\n\n{summary}'


def zero(thinking=CHAIN, answer='42'):
  return f'<think>{thinking}</think> <answer>{answer}</answer>'


def only_row(collected):
  (row,), dropped = collected
  assert dropped == {}
  return row


def test_impossible_prompts_are_refused():
  with pytest.raises(ConfigError, match='shots is 4.* 1 examples'):
    coldstart.make_prompt('few_shot', 'text', shots=4)
  with pytest.raises(ConfigError, match="template is 'nope'; known: r1_zero"):
    coldstart.make_prompt('readable', 'text', template='nope')
  prompt = coldstart.make_prompt('few_shot', 'text', shots=1, chat=True)
  assert prompt == wordings.Prompt('few_shot', 'text', False, 1)


def test_few_shot_shows_a_long_chain_and_truncates_at_the_next_problem():
  another = '---\n\nProblem: another?\n\nSolution: <think>x</think> \\boxed{7}'
  policy = Policy(f' {CHAIN}\n</think>\n\n{SUMMARY}\n\n{another}')
  row = only_row(collect('few_shot', policy, [ENGLISH]))
  (prompt,) = policy.prompts
  example = templates.parse(prompt[prompt.index('<think>\n') :])
  assert len(example.thinking) > 300 and templates.reflections(example.thinking) >= 2
  assert prompt.endswith('<think>') and prompt.count(ENGLISH['problem']) == 1
  assert row['response'] == f'<think>\n{CHAIN}\n</think>\n\n{SUMMARY}'
  assert row['source'] == 'few_shot' and row['problem'] == ENGLISH['problem'] and row['answer'] == '42'
  assert not {'prompt', 'reward', 'correct', 'stop'} & row.keys()


@pytest.mark.parametrize(('way', 'chat'), [('direct', True), ('direct', False), ('rewrite', True), ('rewrite', False)])
def test_prompts_are_in_the_language_of_the_problem(way, chat):
  for problem, word, foreign in ((ENGLISH, 'verif|check', '[\u4e00-\u9fff]'), (CHINESE, '检验', '[A-Za-z]{8}')):
    prompt = wordings.Prompt(way, chat=chat).format(problem | {'draft': 'abc'})
    assert re.search(word, prompt) and not re.search(foreign, prompt)
    assert problem['problem'] in prompt and '\\boxed{}' in prompt  # braces in the problem are not placeholders
    assert ('abc' in prompt) == (way == 'rewrite')
    assert prompt.endswith('<think>') != chat
  unknown = CHINESE | {'problem': '二十加二十二是多少？', 'language': ''}
  assert '检验' in wordings.Prompt('direct').format(unknown)  # detected from its text


def test_responses_to_direct_prompts_get_the_configured_layout():
  row = only_row(collect('direct', Policy(r1()), [ENGLISH]))
  assert all(templates.r1_conditions(row['response']).values())
  row = only_row(collect('direct', Policy(r1()), [ENGLISH], SPECIAL))
  assert all(templates.special_conditions(row['response'], '|special_token|').values())
  assert row['response'] == f'|special_token|{CHAIN}|special_token|{SUMMARY}'


@pytest.mark.parametrize(
  ('problem', 'chain', 'word'),
  [(ENGLISH, CHAIN, 'answer'), (CHINESE, '先加十位，二十加二十是四十，再加二，等等，检查一下，得四十二。', '答案')],
)
def test_responses_of_r1_zero_get_a_summary_with_a_gradable_answer(problem, chain, word):
  row = only_row(collect('readable', Policy(zero(chain)), [problem]))
  summary = templates.summary(row['response'])
  assert word in summary and templates.parse(row['response']).thinking.strip() == chain
  item = {'prompt': '', 'response': row['response'], 'problem': problem['problem'], 'answer': '42'}
  assert math_answer.math_answer([item], where='boxed') == [1.0]
  assert math_answer.math_answer([item | {'answer': '41'}]) == [0.0]


def test_a_summary_keeps_programs_and_boxes_unchanged():
  program = '```python\ndef f(x):\n  return x\n```'
  row = only_row(collect('readable', Policy(zero(answer=program)), [ENGLISH]))
  assert row['response'].endswith(f'\n\n{program}')
  row = only_row(collect('readable', Policy(zero(answer='$\\boxed{42}$')), [ENGLISH]))
  assert row['response'].endswith(' $\\boxed{42}$') and row['response'].count('boxed') == 1


MIXED = 'We add the tens 然后 we add 所有 the ones 得到 四十二 and so on, which is 四十二 again.'


@pytest.mark.parametrize(
  ('reason', 'way', 'text', 'rules', 'outcome'),
  [
    ('wrong', 'direct', r1(), {}, {'correct': False}),
    ('unfinished', 'direct', r1(), {}, {'stop': 'length'}),
    ('unfinished', 'direct', '', {}, {'stop': 'refused'}),
    ('form', 'direct', CHAIN, {}, {}),
    ('form', 'direct', r1(summary=''), {}, {}),
    ('form', 'direct', r1(summary='<think>'), {}, {}),
    ('form', 'direct', 'Before. ' + r1(), {}, {}),
    ('form', 'readable', f'<think>{CHAIN} <answer>42</answer>', {}, {}),
    ('form', 'readable', zero(answer=' '), {}, {}),
    ('form', 'direct', r1(thinking=' \n'), {}, {}),
    ('language', 'direct', r1(MIXED), {}, {}),
    ('language', 'readable', zero(MIXED), {}, {}),
    ('language', 'direct', r1(summary='所以最后的结果是 \\boxed{42}。'), {}, {}),
    ('repetition', 'direct', r1(CHAIN * 4), {}, {}),
    ('short', 'direct', r1(), {'shortest': 500}, {}),
    ('long', 'direct', r1(), {'longest': 50}, {}),
  ],
)
def test_each_reason_to_drop_a_sample(reason, way, text, rules, outcome):
  rows, dropped = collect(way, Policy(text, **outcome), [ENGLISH], coldstart.Rules(**rules))
  assert rows == [] and dropped == {reason: 1}


def test_looser_rules_keep_the_same_sample():
  rules = coldstart.Rules(language=0.3, repetition=1.0)
  assert only_row(collect('direct', Policy(r1(MIXED * 4)), [ENGLISH], rules))


def test_the_first_different_responses_to_a_problem_are_kept():
  policy = Policy(r1(), r1(), r1('Another chain, with other words for it.'), r1('And a third one, of some words.'))
  rows, dropped = collect('direct', policy, [ENGLISH, CHINESE | {'language': 'en'}], coldstart.Rules(keep=2))
  assert dropped == {'duplicate': 2, 'more': 2}
  assert [row['id'] for row in rows] == ['p/direct/0', 'p/direct/2', 'q/direct/0', 'q/direct/2']


@pytest.mark.parametrize('rules', [coldstart.Rules(), SPECIAL])
def test_a_row_can_be_rewritten_as_a_draft(rules):
  original = only_row(collect('readable', Policy(zero()), [ENGLISH], rules))
  draft = coldstart.to_draft(original, rules)
  assert draft['draft'] == CHAIN and draft['problem'] == ENGLISH['problem'] and 'response' not in draft
  policy = Policy(r1('Twenty and twenty is forty, and two more is forty two.'))
  row = only_row(collect('rewrite', policy, [draft], rules))
  assert CHAIN in policy.prompts[0] and CHAIN not in row['response'] and 'draft' not in row
  assert 'Twenty and twenty' in row['response']


def test_prompts_of_the_toy_world_match_its_pretraining_text():
  rules = coldstart.Rules(layout='<think> {thinking} </think> {summary}', wording='toy', repetition=1.0)
  for kind in toy_r1.KINDS:
    for language, beginning in toy_r1.SUMMARY.items():
      problem = next(p for p in toy_r1.problems(kind, 0, 40, held_out=False) if p['language'] == language)
      example = r1_text.example(kind, language)
      prompt = wordings.Prompt('few_shot', 'toy').format(problem)
      assert prompt == r1_text.few_shot(*example, problem['problem']) + '\n'
      parsed = templates.parse(example[1])  # a response of R1-Zero becomes the example's response
      policy = Policy(f'<think>{parsed.thinking}</think> <answer>{parsed.answer}</answer>')
      row = only_row(collect('readable', policy, [problem], rules, template='plain'))
      assert row['response'] == example[1] and beginning in row['response']


def test_the_best_matching_example_is_shown_and_never_the_problem_itself():
  other = {'problem': 'Name a dog.', 'thinking': 'Rex?', 'summary': 'Rex.'}
  code = {'problem': 'Write a program.', 'thinking': 'x', 'summary': 'y', 'kind': 'code'}
  chinese = {'problem': '写一个程序。', 'thinking': '程序', 'summary': '总结', 'kind': 'code'}
  prompt = wordings.Prompt('few_shot', examples=(other, chinese, code))
  assert code['problem'] in prompt.format(ENGLISH | {'kind': 'code'})
  assert chinese['problem'] in prompt.format(CHINESE)
  assert other['problem'] in prompt.format(ENGLISH) and code['problem'] not in prompt.format(ENGLISH)
  assert other['problem'] in prompt.format(code | {'language': 'en'})
  both = dataclasses.replace(prompt, shots=2).format(ENGLISH)
  assert both.index(other['problem']) < both.index(code['problem'])
  assert dataclasses.replace(prompt, shots=0).format(ENGLISH).count('Problem:') == 1


def test_clean_normalises_lines_and_splits_long_paragraphs():
  text = 'One  two.\r\n\r\n\r\n\r\nOne  two.\nOne two.\n  x\x07 = 1\n\n'
  assert coldstart.clean(text) == 'One two.\n\n  x = 1'
  sentences = [f'Sentence {n} holds $a. b$ and more.' for n in range(12)]
  split = coldstart.clean(' '.join(sentences), paragraph=100)
  assert split.replace('\n\n', ' ') == ' '.join(sentences)
  assert all(len(p) <= 100 and p.count('$') % 2 == 0 for p in split.split('\n\n'))
  assert coldstart.clean(split, 100) == split
  chinese = '先加十位。再加个位！' * 5
  assert coldstart.clean(chinese, 20).replace('\n\n', '') == chinese
  assert '\n\n' in coldstart.clean(chinese, 20)
  code = '```\na.  b. c\n```'
  assert coldstart.clean(code, 3) == '```\na. b. c\n```'


def test_traces_become_rows():
  trace = {'id': 'a', 'problem': 'Why?', 'reasoning': CHAIN, 'response': SUMMARY}
  sample = coldstart.trace_to_sample(trace) | {'correct': True}
  (row,) = coldstart.select_rows([sample], 'traces', coldstart.Rules(), collections.Counter())
  assert row['response'] == f'<think>\n{CHAIN}\n</think>\n\n{SUMMARY}' and 'reasoning' not in row
